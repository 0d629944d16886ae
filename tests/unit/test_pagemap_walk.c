/* Walks over random memory: several threads find what one finds, and what the table says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
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
#ifndef MADV_GUARD_INSTALL /* Linux 6.13 */
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#define TABLE (PAGE / sizeof(uint64_t) * PAGE)

/* Bits of an entry of the table. */
#define ENTRY_PFN ((UINT64_C(1) << 55) - 1)
#define ENTRY_PROTECTED (UINT64_C(1) << 57)
#define ENTRY_GUARD (UINT64_C(1) << 58)
#define ENTRY_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_PRESENT (UINT64_C(1) << 63)

/* Mappings with holes between them, few pages in much space. */
struct world {
    int uffd; /* -1: no write protection here */
    unsigned seed;
    char *memory;
    size_t len;
    uint64_t zero_pfn;
    struct fm_ranges mapped, enrolled, huge;
};

static size_t draw(struct world *w, size_t below)
{
    return below ? (size_t)rand_r(&w->seed) % below : 0;
}

/* For write protection. */
static void enrol(struct world *w, uint64_t start, uint64_t len)
{
    struct uffdio_register request = {{start, len}, UFFDIO_REGISTER_MODE_WP, 0};

    if (w->uffd < 0)
        return;
    assert_int_equal(ioctl(w->uffd, UFFDIO_REGISTER, &request), 0);
    fm_ranges_append(&w->enrolled, start, start + len);
}

/* Runs of pages around random places, among them the ends, where pieces may be cut. */
static void write_some(struct world *w, char *at, size_t len)
{
    size_t pages = len / PAGE, guarded = len < 9 * PAGE ? len : 9 * PAGE;
    bool huge = fm_ranges_contain(&w->huge, (uintptr_t)at); /* the huge zero page is another */
    volatile char seen = 0;

    madvise(at, guarded, MADV_GUARD_REMOVE);
    for (size_t runs = draw(w, 60); runs > 0; runs--) {
        size_t first = draw(w, 4) ? draw(w, pages) : draw(w, pages / 16384 + 1) * 16384;
        bool reads = !huge && draw(w, 8) == 0; /* the zero page */

        for (size_t n = 1 + draw(w, 40), i = first > 3 ? first - 3 : 0; n > 0 && i < pages;
             n--, i++) {
            if (reads)
                seen += at[i * PAGE];
            else
                at[i * PAGE] = (char)n;
        }
    }
    (void)seen;
    if (draw(w, 4) == 0)
        madvise(at, guarded, MADV_GUARD_INSTALL);
}

static void add_mapping(struct world *w, size_t start, size_t len)
{
    char *at = w->memory + start;
    bool huge = len < 128 * MIB && draw(w, 8) == 0;

    assert_int_equal(mprotect(at, len, PROT_READ | PROT_WRITE), 0);
    madvise(at, len, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    if (huge)
        fm_ranges_append(&w->huge, (uintptr_t)at, (uintptr_t)at + len);
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
    fm_ranges_clear(&w->enrolled);
    fm_ranges_clear(&w->huge);
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

/* Page by page, from the table itself. */
static void read_entries(const struct world *w, int fd, struct fm_range range,
                         enum fm_pagemap_mode mode, struct fm_ranges *present,
                         struct fm_ranges *dirty)
{
    static uint64_t entries[8192];

    while (range.start < range.end) {
        uint64_t wanted = (range.end - range.start) / PAGE;
        size_t n = wanted < FM_COUNT(entries) ? wanted : FM_COUNT(entries);

        assert_int_equal(pread(fd, entries, n * sizeof(*entries),
                               (off_t)(range.start / PAGE * sizeof(*entries))),
                         n * sizeof(*entries));
        for (size_t i = 0; i < n; i++, range.start += PAGE) {
            uint64_t e = entries[i];

            if (!(e & (ENTRY_PRESENT | ENTRY_SWAPPED)) || (e & ENTRY_GUARD) ||
                ((e & ENTRY_PRESENT) && (e & ENTRY_PFN) == w->zero_pfn))
                continue;
            fm_ranges_append(present, range.start, range.start + PAGE);
            if (mode != FM_PAGEMAP_WRITTEN || !(e & ENTRY_PROTECTED) ||
                !fm_ranges_contain(&w->enrolled, range.start))
                fm_ranges_append(dirty, range.start, range.start + PAGE);
        }
    }
}

enum way { CREW, ALONE, TABLE_ITSELF, WAYS };

static uint64_t walk_all_ways(struct world *w, enum fm_pagemap_mode mode)
{
    struct fm_ranges present[WAYS] = {0}, dirty[WAYS] = {0};
    fm_autoclose int fd = fm_pagemap_open(getpid());
    struct fm_page_walkers walkers;
    uint64_t bytes;

    fm_page_walkers_open(&walkers);
    assert_int_equal(fm_page_walk(&walkers, fd, mode, &w->mapped, &present[CREW], &dirty[CREW]), 0);
    for (size_t i = 0; i < w->mapped.count; i++) {
        struct fm_range r = w->mapped.items[i];

        assert_int_equal(fm_pagemap_walk(&walkers.readers[0], fd, mode, r.start, r.end,
                                         &present[ALONE], &dirty[ALONE]),
                         0);
        read_entries(w, fd, r, mode, &present[TABLE_ITSELF], &dirty[TABLE_ITSELF]);
    }
    fm_page_walkers_close(&walkers);
    bytes = fm_ranges_bytes(&present[0]) - fm_ranges_bytes(&dirty[0]);
    for (int i = WAYS - 1; i >= 0; i--) {
        expect_equal(&present[i], &present[0]);
        expect_equal(&dirty[i], &dirty[0]);
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

static void threads_find_what_one_finds_and_the_table_says(void **state)
{
    struct world w = {.uffd = open_uffd(), .zero_pfn = fm_pagemap_zero_pfn()};
    uint64_t clean = 0;

    (void)state;
    if (w.uffd < 0)
        print_message("without write protection: needs Linux 6.7\n");
    for (unsigned seed = 1; seed <= LAYOUTS; seed++) {
        fill(&w, seed);
        assert_int_equal(walk_all_ways(&w, FM_PAGEMAP_EVERYTHING), 0);
        assert_int_equal(walk_all_ways(&w, FM_PAGEMAP_STILL), 0);
        if (w.uffd >= 0)
            assert_int_equal(walk_all_ways(&w, FM_PAGEMAP_WRITTEN), 0);
        begin_round(&w);
        assert_int_equal(walk_all_ways(&w, FM_PAGEMAP_STILL), 0);
        if (w.uffd >= 0)
            clean += walk_all_ways(&w, FM_PAGEMAP_WRITTEN);
        empty(&w);
    }
    if (w.uffd >= 0)
        assert_true(clean > MIB);
    close(w.uffd);
}

static void pieces_end_where_tables_end(void **state)
{
    static const uint64_t lens[] = {1, 3, 511, 512, 513, 16384, 16385, 100000};
    unsigned seed = 7;

    (void)state;
    for (size_t i = 0; i < 4000; i++) {
        uint64_t first = (uint64_t)rand_r(&seed) % 5000 * PAGE + TABLE;
        uint64_t end = first + (1 + (uint64_t)rand_r(&seed) % 200000) * PAGE, at = first;
        uint64_t len = lens[i % FM_COUNT(lens)] * PAGE;

        while (at < end) {
            uint64_t next = fm_page_walk_cut(at, end, len);

            assert_true(next > at && next <= end);
            assert_true(next == end || next % TABLE == 0);
            assert_true(next - at <= len || next - at <= TABLE);
            at = next;
        }
    }
    assert_int_equal(fm_page_walk_cut(3 * PAGE, 5 * TABLE, 2 * TABLE), 2 * TABLE);
    assert_int_equal(fm_page_walk_cut(2 * TABLE, 5 * TABLE, 2 * TABLE), 4 * TABLE);
    assert_int_equal(fm_page_walk_cut(4 * TABLE, 5 * TABLE, 2 * TABLE), 5 * TABLE);
}

/* Enough address space for several members, but fewer pages than there are. */
static void few_pages_are_found_once(void **state)
{
    size_t len = 512 * MIB;
    char *p =
        mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct fm_ranges mapped = {0}, present = {0}, dirty = {0};
    fm_autoclose int fd = fm_pagemap_open(getpid());
    struct fm_page_walkers walkers;

    (void)state;
    fm_page_walkers_open(&walkers);
    madvise(p, len, MADV_NOHUGEPAGE);
    fm_ranges_append(&mapped, (uintptr_t)p, (uintptr_t)p + len);
    assert_int_equal(fm_page_walk(&walkers, fd, FM_PAGEMAP_STILL, &mapped, &present, &dirty), 0);
    assert_int_equal(present.count + dirty.count, 0);
    p[len / 2] = 1;
    assert_int_equal(fm_page_walk(&walkers, fd, FM_PAGEMAP_STILL, &mapped, &present, &dirty), 0);
    assert_int_equal(present.count, 1);
    assert_int_equal(present.items[0].start, (uintptr_t)p + len / 2);
    assert_int_equal(fm_ranges_bytes(&dirty), PAGE);
    fm_page_walkers_close(&walkers);
    fm_ranges_clear(&mapped);
    fm_ranges_clear(&present);
    fm_ranges_clear(&dirty);
    munmap(p, len);
}

/* The range that cannot be read is one of many, whoever gets it. */
static void an_error_of_one_is_the_error_of_all(void **state)
{
    struct fm_ranges mapped = {0}, present = {0}, dirty = {0};
    fm_autoclose int fd = fm_pagemap_open(getpid());
    struct fm_page_walkers walkers;

    (void)state;
    fm_page_walkers_open(&walkers);
    fm_ranges_append(&mapped, TABLE, 4096 * MIB);
    fm_ranges_append(&mapped, UINT64_C(1) << 62, (UINT64_C(1) << 62) + PAGE); /* the kernel's */
    for (int i = 0; i < 50; i++) {
        assert_int_equal(fm_page_walk(&walkers, fd, FM_PAGEMAP_STILL, &mapped, &present, &dirty),
                         walkers.readers[0].scans ? -EFAULT : -ESRCH);
        fm_ranges_clear(&present);
        fm_ranges_clear(&dirty);
    }
    fm_page_walkers_close(&walkers);
    fm_ranges_clear(&mapped);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_find_what_one_finds_and_the_table_says),
        cmocka_unit_test(pieces_end_where_tables_end),
        cmocka_unit_test(few_pages_are_found_once),
        cmocka_unit_test(an_error_of_one_is_the_error_of_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
