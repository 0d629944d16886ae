/* The page filter, linked in: this program's own scans go through it as CRIU's do. */
#include <endian.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/page_scan.h"
#include "criu/page_filter.h"
#include "scratch.h"

#define PAGES 512
#define ROUNDS 300

static uint64_t page, base;
static bool hidden[PAGES], touched[PAGES];
static int pagemap;

/* Each round is a process of its own: the filter reads a process's file once. */
static void write_hidden(void)
{
    char path[300];
    snprintf(path, sizeof(path), "%s/%d.hide", scratch, (int)getpid());
    FILE *f = fopen(path, "we");
    for (size_t i = 0, end; i < PAGES; i = end) {
        for (end = i + 1; end < PAGES && hidden[end] == hidden[i]; end++)
            continue;
        uint64_t range[] = {htole64(base + i * page), htole64(base + end * page)};
        if (hidden[i])
            assert_int_equal(fwrite(range, sizeof(range), 1, f), 1);
    }
    fclose(f);
}

static struct fm_page_scan ask(size_t from, size_t to, struct fm_page_region *regions, size_t count)
{
    return (struct fm_page_scan){.size = sizeof(struct fm_page_scan),
                                 .start = base + from * page,
                                 .end = base + to * page,
                                 .vec = (uint64_t)(uintptr_t)regions,
                                 .vec_len = count,
                                 .category_inverted = FM_PAGE_IS_PFNZERO,
                                 .category_mask = FM_PAGE_IS_PFNZERO,
                                 .category_anyof_mask = FM_PAGE_IS_PRESENT | FM_PAGE_IS_SWAPPED,
                                 .return_mask = FM_PAGE_IS_PRESENT | FM_PAGE_IS_SWAPPED};
}

/* Scans in pieces, as the vector and the page limit force it to, and notes what it sees. */
static void scan_all(size_t from, size_t to, size_t room, uint64_t max_pages, bool *seen)
{
    struct fm_page_region regions[PAGES];
    struct fm_page_scan arg = ask(from, to, regions, room);
    uint64_t end = arg.end;
    for (int steps = 0; arg.start < end; steps++) {
        uint64_t pages = 0;
        arg.max_pages = max_pages;
        arg.walk_end = 0;
        int n = ioctl(pagemap, FM_PAGE_SCAN, &arg);
        assert_in_range(n, 0, room);
        for (int i = 0; i < n; i++) {
            assert_true(regions[i].start >= arg.start && regions[i].end <= arg.walk_end);
            assert_true(i == 0 || regions[i].start >= regions[i - 1].end);
            for (uint64_t at = regions[i].start; at < regions[i].end; at += page, pages++)
                seen[(at - base) / page] = true;
        }
        assert_true(max_pages == 0 || pages <= max_pages);
        assert_true(arg.walk_end > arg.start && arg.walk_end <= end);
        assert_true(steps <= PAGES);
        arg.start = arg.walk_end;
    }
}

static void one_round(unsigned seed)
{
    bool seen[PAGES] = {0};
    srand(seed);
    pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    for (size_t i = 0; i < PAGES; i++)
        hidden[i] = i > 0 && rand() % 5 ? hidden[i - 1] : rand() % 2;
    write_hidden();
    size_t from = (size_t)rand() % PAGES, to = from + 1 + (size_t)rand() % (PAGES - from);
    scan_all(from, to, 1 + (size_t)rand() % 8, rand() % 2 ? 0 : 1 + (uint64_t)rand() % 7, seen);
    for (size_t i = 0; i < PAGES; i++)
        assert_int_equal(seen[i], i >= from && i < to && touched[i] && !hidden[i]);
}

/* Returns in the child's stead what became of it. */
static void in_child(void (*work)(unsigned), unsigned seed)
{
    pid_t pid = fork();
    if (pid == 0) {
        work(seed);
        _exit(0); /* a failed assertion ends the child otherwise */
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (status != 0)
        fail_msg("seed %u: status %d", seed, status);
}

static bool can_scan(void)
{
    struct fm_page_region r[1];
    pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    struct fm_page_scan arg = ask(0, 1, r, 1);
    return ioctl(pagemap, FM_PAGE_SCAN, &arg) >= 0;
}

static void scans_are_what_the_kernel_says_without_the_hidden_pages(void **state)
{
    (void)state;
    if (!can_scan()) {
        print_message("PAGEMAP_SCAN needs Linux 6.7\n");
        skip();
    }
    for (unsigned seed = 1; seed <= ROUNDS; seed++)
        in_child(one_round, seed);
}

static void all_hidden(unsigned seed)
{
    struct fm_page_region r[4];
    (void)seed;
    pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    memset(hidden, true, sizeof(hidden));
    write_hidden();
    struct fm_page_scan arg = ask(3, PAGES, r, 4);
    assert_int_equal(ioctl(pagemap, FM_PAGE_SCAN, &arg), 0);
    assert_int_equal(arg.walk_end, arg.end);
}

/* Of three guarded pages, which does a scan for guard regions see? */
static unsigned guards_seen(void)
{
    struct fm_page_region r[8];
    unsigned seen = 0;
    struct fm_page_scan arg = ask(0, PAGES, r, 8);
    arg.category_inverted = arg.category_anyof_mask = 0;
    arg.category_mask = arg.return_mask = FM_PAGE_IS_GUARD;
    int n = ioctl(pagemap, FM_PAGE_SCAN, &arg);
    assert_in_range(n, 0, 8);
    assert_int_equal(arg.walk_end, arg.end);
    for (int i = 0; i < n; i++)
        for (uint64_t at = r[i].start; at < r[i].end; at += page)
            seen |= 1u << ((at - base) / page / 100);
    return seen;
}

static void scan_guards(unsigned unguarded)
{
    pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    memset(hidden, true, sizeof(hidden)); /* of pages, which has nothing to do with guards */
    write_hidden();
    for (size_t i = 1; i <= 3; i++)
        if (madvise((void *)(base + i * 100 * page), page, 102) < 0) /* MADV_GUARD_INSTALL */
            _exit(0);
    if (unguarded) {
        char path[300];
        uint64_t ranges[] = {0, base + 150 * page, base + 250 * page, UINT64_MAX};
        for (size_t i = 0; i < 4; i++)
            ranges[i] = htole64(ranges[i]);
        snprintf(path, sizeof(path), "%s/%d.unguarded", scratch, (int)getpid());
        FILE *f = fopen(path, "we");
        assert_int_equal(fwrite(ranges, sizeof(ranges), 1, f), 1);
        fclose(f);
    }
    assert_int_equal(guards_seen(), unguarded ? 1u << 2 : 1u << 1 | 1u << 2 | 1u << 3);
}

static void guards_are_scanned_for_where_there_may_be_some(void **state)
{
    (void)state;
    in_child(scan_guards, false);
    in_child(scan_guards, true);
}

static void what_is_all_hidden_is_not_asked_for(void **state)
{
    (void)state;
    in_child(all_hidden, 0);
}

static void read_entries(unsigned seed)
{
    uint64_t entries[PAGES];
    srand(seed);
    pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    for (size_t i = 0; i < PAGES; i++)
        hidden[i] = i > 0 && rand() % 5 ? hidden[i - 1] : rand() % 2;
    write_hidden();
    size_t from = (size_t)rand() % PAGES, count = 1 + (size_t)rand() % (PAGES - from);
    ssize_t n = pread(pagemap, entries, count * 8, (off_t)((base / page + from) * 8));
    assert_int_equal(n, (ssize_t)(count * 8));
    for (size_t i = 0; i < count; i++)
        assert_int_equal(entries[i] >> 63, touched[from + i] && !hidden[from + i]);
}

static void entries_of_hidden_pages_are_empty(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= ROUNDS / 10; seed++)
        in_child(read_entries, seed);
}

static void serve_smaps(unsigned seed)
{
    char path[300], text[16] = "";
    (void)seed;
    int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(path, sizeof(path), "%d", (int)getpid());
    int dir = openat(proc, path, O_PATH | O_CLOEXEC);
    int fd = openat(dir, "smaps", O_RDONLY | O_CLOEXEC);
    assert_true(read(fd, text, 4) == 4 && strcmp(text, "copy") != 0); /* none is there yet */

    snprintf(path, sizeof(path), "%s/%d.smaps", scratch, (int)getpid());
    FILE *f = fopen(path, "we");
    fputs("copy", f);
    fclose(f);
    fd = openat(dir, "smaps", O_RDONLY | O_CLOEXEC);
    assert_true(read(fd, text, sizeof(text)) == 4 && strcmp(text, "copy") == 0);
    snprintf(path, sizeof(path), "/proc/%d/smaps", (int)getpid());
    fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(read(fd, text, sizeof(text)) == 4 && strcmp(text, "copy") == 0);
    fd = openat(dir, "maps", O_RDONLY | O_CLOEXEC);
    assert_true(read(fd, text, 4) == 4 && memcmp(text, "copy", 4) != 0);
}

static void smaps_come_from_the_copy(void **state)
{
    (void)state;
    in_child(serve_smaps, 0);
}

static int make_memory(void **state)
{
    page = (uint64_t)sysconf(_SC_PAGESIZE);
    char *memory =
        mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || madvise(memory, PAGES * page, MADV_NOHUGEPAGE) < 0)
        return -1;
    base = (uint64_t)(uintptr_t)memory;
    for (size_t i = 0; i < PAGES; i++) {
        touched[i] = i % 7 != 3;
        if (touched[i])
            memory[i * page] = 1;
    }
    int rc = make_scratch(state);
    setenv(FM_FILTER_ENVIRONMENT, scratch, 1);
    return rc;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scans_are_what_the_kernel_says_without_the_hidden_pages),
        cmocka_unit_test(what_is_all_hidden_is_not_asked_for),
        cmocka_unit_test(guards_are_scanned_for_where_there_may_be_some),
        cmocka_unit_test(entries_of_hidden_pages_are_empty),
        cmocka_unit_test(smaps_come_from_the_copy),
    };
    return cmocka_run_group_tests(tests, make_memory, remove_scratch);
}
