/* Walks over random memory: several threads find what one finds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "state/page_walk.h"

#define PAGE fm_page_size()
#define MIB (UINT64_C(1) << 20)
#define LAYOUTS 25
#define MAPPINGS 24
#define WP_ASYNC (1 << 15) /* UFFD_FEATURE_*, Linux 6.7 */

/* Mappings with holes between them, few pages in much space. */
struct world {
    int uffd; /* -1: no write protection here */
    unsigned seed;
    char *memory;
    size_t len;
    struct fm_ranges mapped;
};

static size_t draw(struct world *w, size_t below)
{
    return below ? (size_t)rand_r(&w->seed) % below : 0;
}

/* For write protection. */
static void enrol(const struct world *w, uint64_t start, uint64_t len)
{
    struct uffdio_register request = {{start, len}, UFFDIO_REGISTER_MODE_WP, 0};

    if (w->uffd >= 0)
        assert_int_equal(ioctl(w->uffd, UFFDIO_REGISTER, &request), 0);
}

/* Runs of pages around random places, among them the ends, where pieces may be cut. */
static void write_some(struct world *w, char *at, size_t len)
{
    size_t pages = len / PAGE;
    volatile char seen = 0;

    for (size_t runs = draw(w, 60); runs > 0; runs--) {
        size_t first = draw(w, 4) ? draw(w, pages) : draw(w, pages / 16384 + 1) * 16384;
        bool reads = draw(w, 8) == 0; /* the zero page */

        for (size_t n = 1 + draw(w, 40), i = first > 3 ? first - 3 : 0; n > 0 && i < pages;
             n--, i++) {
            if (reads)
                seen += at[i * PAGE];
            else
                at[i * PAGE] = (char)n;
        }
    }
    (void)seen;
}

static void add_mapping(struct world *w, size_t start, size_t len)
{
    char *at = w->memory + start;

    assert_int_equal(mprotect(at, len, PROT_READ | PROT_WRITE), 0);
    if (draw(w, 4))
        enrol(w, (uintptr_t)at, len);
    write_some(w, at, len);
    fm_ranges_append(&w->mapped, (uintptr_t)at, (uintptr_t)at + len);
}

static void fill(struct world *w, unsigned seed)
{
    size_t at = 0;

    w->seed = seed;
    w->len = (128 + draw(w, 3000)) * MIB;
    w->memory = mmap(NULL, w->len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(w->memory != MAP_FAILED);
    madvise(w->memory, w->len, MADV_NOHUGEPAGE);
    while (at < w->len) {
        size_t len = (1 + draw(w, 2 * w->len / PAGE / MAPPINGS)) * PAGE;

        if (len > w->len - at)
            len = w->len - at;
        if (draw(w, 5))
            add_mapping(w, at, len);
        at += len + draw(w, 3) * PAGE;
    }
}

static void empty(struct world *w)
{
    munmap(w->memory, w->len);
    fm_ranges_clear(&w->mapped);
}

/* What was written before is known; some of it is written again. */
static void begin_round(struct world *w)
{
    for (size_t i = 0; i < w->mapped.count; i++) {
        struct fm_range r = w->mapped.items[i];
        struct uffdio_writeprotect request = {{r.start, r.end - r.start},
                                              UFFDIO_WRITEPROTECT_MODE_WP};

        if (w->uffd >= 0) /* not where it is not registered */
            (void)!ioctl(w->uffd, UFFDIO_WRITEPROTECT, &request);
        write_some(w, (char *)(uintptr_t)r.start, r.end - r.start);
    }
}

static void expect_equal(const struct fm_ranges *a, const struct fm_ranges *b)
{
    assert_int_equal(a->count, b->count);
    if (a->count > 0)
        assert_memory_equal(a->items, b->items, a->count * sizeof(*a->items));
}

static uint64_t walk_both_ways(struct world *w, enum fm_pagemap_mode mode)
{
    struct fm_ranges present[2] = {0}, dirty[2] = {0};
    fm_autoclose int fd = fm_pagemap_open(getpid());
    struct fm_pagemap_reader r;
    uint64_t bytes;

    fm_pagemap_reader_open(&r);
    assert_int_equal(fm_page_walk(&r, fd, mode, &w->mapped, &present[0], &dirty[0]), 0);
    for (size_t i = 0; i < w->mapped.count; i++)
        assert_int_equal(fm_pagemap_walk(&r, fd, mode, w->mapped.items[i].start,
                                         w->mapped.items[i].end, &present[1], &dirty[1]),
                         0);
    fm_pagemap_reader_close(&r);
    expect_equal(&present[0], &present[1]);
    expect_equal(&dirty[0], &dirty[1]);
    bytes = fm_ranges_bytes(&present[0]) - fm_ranges_bytes(&dirty[0]);
    for (int i = 0; i < 2; i++) {
        fm_ranges_clear(&present[i]);
        fm_ranges_clear(&dirty[i]);
    }
    return bytes;
}

static int open_uffd(void)
{
    struct uffdio_api api = {.api = UFFD_API,
                             .features = WP_ASYNC | UFFD_FEATURE_PAGEFAULT_FLAG_WP};
    fm_autoclose int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

    return fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 ? FM_MOVE_FD(fd) : -1;
}

static void threads_find_what_one_finds(void **state)
{
    struct world w = {.uffd = open_uffd()};
    uint64_t clean = 0;

    (void)state;
    if (w.uffd < 0)
        print_message("without write protection: needs Linux 6.7\n");
    for (unsigned seed = 1; seed <= LAYOUTS; seed++) {
        fill(&w, seed);
        assert_int_equal(walk_both_ways(&w, FM_PAGEMAP_EVERYTHING), 0);
        begin_round(&w);
        if (w.uffd >= 0)
            clean += walk_both_ways(&w, FM_PAGEMAP_WRITTEN);
        empty(&w);
    }
    if (w.uffd >= 0)
        assert_true(clean > MIB);
    close(w.uffd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(threads_find_what_one_finds)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
