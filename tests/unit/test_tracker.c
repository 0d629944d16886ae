/* Tracker: what it tells of a process that writes and maps memory. */
#include "tracked_child.h"

#include <sys/resource.h>

#include "base/fault.h"

/* ---- what works here ---- */

static void pagemap_scan_works_and_is_the_best(void **state)
{
    struct fm_error err = {0};
    char why[512] = "unset";

    (void)state;
    if (fm_tracker_probe(FM_TRACKER_PAGEMAP_SCAN, &err) < 0) {
        print_message("SKIPPED: %s\n", err.text);
        skip();
    }
    assert_int_equal(fm_tracker_best(why, sizeof(why)), FM_TRACKER_PAGEMAP_SCAN);
    assert_string_equal(why, "");
    assert_string_equal(fm_tracker_text(FM_TRACKER_PAGEMAP_SCAN), "pagemap-scan");
}

static void none_always_works(void **state)
{
    (void)state;
    assert_int_equal(fm_tracker_probe(FM_TRACKER_NONE, NULL), 0);
}

/* ---- single pages ---- */

#define PAGES 64

static void write_what_is_ordered(struct board *b)
{
    char *memory =
        mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memset(memory, 1, PAGES / 2 * PAGE);
    b->value[0] = (uintptr_t)memory;
    reach(b, 1);
    memory[3 * PAGE]++;
    reach(b, 2);
    b->value[1] = (uint64_t)memory[4 * PAGE]; /* reads */
    reach(b, 3);
    madvise(memory + 5 * PAGE, PAGE, MADV_DONTNEED);
    b->value[1] += (uint64_t)memory[40 * PAGE]; /* maps the zero page */
    memory[50 * PAGE] = 1;
    reach(b, 4);
    pause();
}

static bool dirty_at(struct fm_memory_scan *scan, const struct child *c, size_t page)
{
    return fm_ranges_contain(&scan->items[0].dirty, c->board->value[0] + page * PAGE);
}

static bool present_at(struct fm_memory_scan *scan, const struct child *c, size_t page)
{
    return fm_ranges_contain(&scan->items[0].present, c->board->value[0] + page * PAGE);
}

static size_t dirty_pages(struct fm_memory_scan *scan, const struct child *c)
{
    size_t n = 0;

    for (size_t i = 0; i < PAGES; i++)
        n += dirty_at(scan, c, i);
    return n;
}

static void a_round_tells_exactly_the_written_pages(void **state)
{
    struct fm_tracker *t = open_tracker(FM_TRACKER_PAGEMAP_SCAN);
    struct fm_memory_scan scan = {0};
    struct child c;

    (void)state;
    child_start(&c, write_what_is_ordered);
    await(&c, 1);
    round_on(t, c.pid, &scan);
    assert_true(scan.items[0].tracked);
    assert_int_equal(dirty_pages(&scan, &c), PAGES / 2);
    proceed(&c, 1);
    round_on(t, c.pid, &scan);
    assert_int_equal(dirty_pages(&scan, &c), 1);
    assert_true(dirty_at(&scan, &c, 3));
    proceed(&c, 2);
    round_on(t, c.pid, &scan);
    assert_int_equal(dirty_pages(&scan, &c), 0);
    proceed(&c, 3);
    round_on(t, c.pid, &scan);
    assert_int_equal(dirty_pages(&scan, &c), 1);
    assert_true(dirty_at(&scan, &c, 50));
    assert_true(present_at(&scan, &c, 4));
    assert_false(present_at(&scan, &c, 5));
    assert_false(present_at(&scan, &c, 40));
    fm_memory_scan_clear(&scan);
    fm_tracker_close(t);
    child_end(&c);
}

static void without_a_tracker_everything_is_dirty(void **state)
{
    struct fm_tracker *t = open_tracker(FM_TRACKER_NONE);
    struct fm_memory_scan scan = {0};
    struct child c;

    (void)state;
    child_start(&c, write_what_is_ordered);
    await(&c, 1);
    for (int i = 0; i < 2; i++) {
        round_on(t, c.pid, &scan);
        assert_false(scan.items[0].tracked);
        assert_int_equal(dirty_pages(&scan, &c), PAGES / 2);
    }
    fm_memory_scan_clear(&scan);
    fm_tracker_close(t);
    child_end(&c);
}

/* What was protected in a scan whose answer got lost is told again. */
static void a_failed_round_is_followed_by_everything(void **state)
{
    struct fm_tracker *t = open_tracker(FM_TRACKER_PAGEMAP_SCAN);
    struct fm_memory_scan scan = {0};
    struct fm_error err = {0};
    struct child c, other;

    (void)state;
    child_start(&c, write_what_is_ordered);
    child_start(&other, write_what_is_ordered);
    await(&c, 1);
    await(&other, 1);
    struct tree both = {.pids = {c.pid, other.pid}, .count = 2};
    scan_tree(t, &both, false, &scan);
    proceed(&c, 1);
    fm_memory_scan_clear(&scan);
    fm_fault_arm("tracker.round=fail:2");
    assert_int_equal(fm_tracker_round(t, both.pids, 2, &scan, &err), -FM_E_IO);
    fm_fault_arm(NULL);
    assert_string_equal(err.text, "cannot tell what the container has written: fault injected");
    assert_int_equal(scan.count, 0);

    round_on(t, c.pid, &scan);
    assert_int_equal(dirty_pages(&scan, &c), PAGES / 2);
    fm_memory_scan_clear(&scan);
    fm_tracker_close(t);
    child_end(&c);
    child_end(&other);
}

/* Out of descriptors is not "has ended". */
static void a_process_that_cannot_be_looked_at_is_an_error(void **state)
{
    struct fm_tracker *t = open_tracker(FM_TRACKER_PAGEMAP_SCAN);
    struct fm_memory_scan scan = {0};
    struct rlimit before, none;
    struct fm_error err = {0};
    struct child c;

    (void)state;
    child_start(&c, write_what_is_ordered);
    await(&c, 1);
    for (rlim_t more = 0; more < 3; more++) {
        int lowest = dup(0), rc[2];

        close(lowest);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
        none = before;
        none.rlim_cur = (rlim_t)lowest + more;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
        rc[0] = fm_tracker_round(t, &c.pid, 1, &scan, &err);
        fm_memory_scan_clear(&scan);
        rc[1] = fm_tracker_final(t, &c.pid, 1, &scan, &err);
        fm_memory_scan_clear(&scan);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        for (int i = 0; i < 2; i++)
            assert_true(more == 2 || rc[i] < 0);
    }
    fm_tracker_close(t);
    child_end(&c);
}

/* ---- which mappings ---- */

static void map_of_every_kind(struct board *b)
{
    size_t len = 4 * PAGE;
    int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
    int file = memfd_create("file", 0), zero = open("/dev/zero", O_RDWR);
    void *maps[8];

    ftruncate(file, (off_t)len) < 0 ? _exit(1) : (void)0;
    maps[0] = mmap(NULL, len, prot, flags, -1, 0);
    maps[1] = mmap(NULL, len, prot, flags, -1, 0);
    lock_pages(maps[1], len, true);
    maps[2] = mmap(NULL, len, prot, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    maps[3] = mmap(NULL, len, prot, MAP_PRIVATE, file, 0);
    maps[4] = mmap(NULL, len, prot, MAP_PRIVATE, zero, 0);
    maps[5] = mmap(NULL, len, prot, flags | MAP_NORESERVE | MAP_STACK, -1, 0);
    maps[6] = mmap(NULL, len, prot, flags, -1, 0);
    maps[7] = mmap(NULL, len, prot, 0x08 /* MAP_DROPPABLE */ | MAP_ANONYMOUS, -1, 0);
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, maps[5], len, "a name");
    for (int i = 0; i < 8; i++) {
        b->value[i] = (uintptr_t)maps[i];
        if (maps[i] != MAP_FAILED)
            memset(maps[i], 1, len);
    }
    mprotect(maps[6], len, PROT_NONE);
    reach(b, 1);
    pause();
}

static void only_private_anonymous_memory_is_moved(void **state)
{
    static const bool expected[] = {true, false, false, false, false, true, true, false};
    fm_cleanup(fm_memory_scan_clear) struct fm_memory_scan scan = {0};
    struct fm_tracker *t = open_tracker(FM_TRACKER_PAGEMAP_SCAN);
    struct mirror m = {0};
    struct child c;

    (void)state;
    child_start(&c, map_of_every_kind);
    await(&c, 1);
    round_of(t, c.pid, &m);
    struct tree tree = freeze(c.pid);
    scan_tree(t, &tree, true, &scan);
    for (size_t i = 0; i < FM_COUNT(expected); i++) {
        uint64_t at = c.board->value[i];

        if (at == (uintptr_t)MAP_FAILED)
            continue;
        if (fm_ranges_contain(&scan.items[0].mapped, at) != expected[i])
            fail_msg("mapping %zu", i);
        assert_int_equal(fm_ranges_contain(&scan.items[0].present, at), expected[i]);
    }
    mirror_check(&m, &scan);
    mirror_clear(&m);
    fm_tracker_close(t);
    child_end(&c);
}

/* ---- the life of memory, step by step ---- */

static int grow_stack(int depth)
{
    volatile char frame[16384];

    memset((char *)frame, depth, sizeof(frame));
    return depth > 0 ? grow_stack(depth - 1) + frame[100] : frame[0];
}

static void live(struct board *b)
{
    char *a = map_filled(64, 'a'), *z = map_filled(64, 'b'), *target = map_filled(128, 'c');
    int ends[2];

    reach(b, 1);
    munmap(a + 16 * PAGE, 16 * PAGE);
    memset(a, 'A', 8 * PAGE);
    reach(b, 2);
    z = mremap(z, 64 * PAGE, 100 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target); /* moved, grown */
    z[3 * PAGE] = 'B';
    reach(b, 3);
    z[5 * PAGE] = 'C';
    madvise(z + 10 * PAGE, 10 * PAGE, MADV_DONTNEED);
    reach(b, 4);
    b->value[0] = (uint64_t)grow_stack(50);
    free(malloc(64 * PAGE));
    sbrk((intptr_t)(32 * PAGE));
    memset((char *)sbrk(0) - 16 * PAGE, 'h', 8 * PAGE);
    reach(b, 5);
    if (pipe(ends) == 0 && write(ends[1], "kernel", 6) == 6) /* the kernel writes */
        b->value[0] += (uint64_t)read(ends[0], z + 30 * PAGE, 6);
    mprotect(z + 40 * PAGE, 10 * PAGE, PROT_READ);
    mprotect(z + 50 * PAGE, 10 * PAGE, PROT_NONE);
    reach(b, 6);
    /* Another mapping in the place of one that was known. */
    a = mmap(a, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    a[2 * PAGE] = 'n';
    lock_pages(a + 32 * PAGE, 4 * PAGE, true);
    memset(a + 32 * PAGE, 'l', 4 * PAGE);
    reach(b, 7);
    lock_pages(a + 32 * PAGE, 4 * PAGE, false);
    reach(b, 8);
    for (;;)
        pause();
}

static void mappings_come_move_and_go(void **state)
{
    (void)state;
    for (int end = 1; end <= 8; end++)
        follow(FM_TRACKER_PAGEMAP_SCAN, live, end);
    follow(FM_TRACKER_NONE, live, 8);
    if (fm_tracker_probe(FM_TRACKER_SOFT_DIRTY, NULL) == 0) {
        for (int end = 1; end <= 8; end++)
            follow(FM_TRACKER_SOFT_DIRTY, live, end);
    }
}

/* ---- soft-dirty ---- */

static void the_probe_of_soft_dirty_is_a_round_trip(void **state)
{
    struct fm_error err = {0};

    (void)state;
    if (fm_tracker_probe(FM_TRACKER_SOFT_DIRTY, &err) == 0)
        skip();
    assert_int_equal(err.code, FM_E_REFUSED);
    assert_non_null(strstr(err.text, "the kernel does not tell written pages"));
}

static void map_between(struct board *b)
{
    char *wide = mmap(NULL, 96 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    b->value[0] = (uintptr_t)wide;
    lock_pages(wide + 64 * PAGE, 8 * PAGE, true);
    mprotect(wide + 64 * PAGE, 8 * PAGE, PROT_READ | PROT_WRITE);
    memset(wide + 64 * PAGE, 'l', 8 * PAGE);
    mprotect(wide + 32 * PAGE, 8 * PAGE, PROT_READ | PROT_WRITE);
    memset(wide + 32 * PAGE, 'a', 8 * PAGE);
    reach(b, 1);
    reach(b, 2);
    lock_pages(wide + 64 * PAGE, 8 * PAGE, false);
    reach(b, 3);
    pause();
}

/* On a kernel without the marks, too: clearing reaches what is not told, such as locked memory. */
static void marks_count_only_where_they_were_told(void **state)
{
    struct fm_tracker *t = open_tracker(FM_TRACKER_SOFT_DIRTY);
    struct fm_memory_scan scan = {0};
    struct child c;

    (void)state;
    child_start(&c, map_between);
    await(&c, 1);
    round_on(t, c.pid, &scan);
    assert_true(dirty_at(&scan, &c, 33));
    assert_false(dirty_at(&scan, &c, 65)); /* locked: CRIU's */
    proceed(&c, 1);
    round_on(t, c.pid, &scan);
    assert_false(dirty_at(&scan, &c, 33));
    proceed(&c, 2);
    round_on(t, c.pid, &scan);
    assert_false(dirty_at(&scan, &c, 33));
    assert_true(dirty_at(&scan, &c, 65));
    round_on(t, c.pid, &scan);
    assert_false(dirty_at(&scan, &c, 65));
    fm_memory_scan_clear(&scan);
    fm_tracker_close(t);
    child_end(&c);
}

/* ---- direct reads ---- */

static void open_directly(struct board *b)
{
    char *a = map_filled(16, 'a');
    int fd = memfd_create("direct", 0);
    fm_autofree char *path = fm_strf("/proc/self/fd/%d", fd);

    b->value[0] = open(path, O_RDWR | O_DIRECT) >= 0;
    reach(b, 1);
    if (b->flag && vfork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        b->reached = 2;
        while (b->step < 2)
            ((volatile char *)a)[PAGE]++;
        _exit(0);
    }
    for (;;)
        pause_us(100);
}

/* The last round's answer holds only when all threads have stopped since. */
static void direct_reads_are_waited_for(void **state)
{
    struct fm_tracker *t = open_tracker(FM_TRACKER_PAGEMAP_SCAN);
    struct fm_memory_scan scan = {0};
    struct child c;

    (void)state;
    child_start(&c, open_directly);
    await(&c, 1);
    if (c.board->value[0]) {
        round_on(t, c.pid, &scan);
        assert_true(scan.items[0].tracked);
        c.board->flag = 1;
        proceed(&c, 1);
        round_on(t, c.pid, &scan); /* one of them does not stop now */
        assert_false(scan.items[0].tracked);
        assert_int_equal(scan.dirty_bytes, scan.present_bytes);
        c.board->step = 2;
        round_on(t, c.pid, &scan);
        assert_true(scan.items[0].tracked);
        round_on(t, c.pid, &scan);
        assert_true(scan.dirty_bytes < scan.present_bytes);
    } else {
        print_message("SKIPPED: no O_DIRECT on memory files here\n");
    }
    fm_memory_scan_clear(&scan);
    fm_tracker_close(t);
    child_end(&c);
}

static void read_asynchronously(struct board *b)
{
    unsigned long context = 0;

    map_filled(16, 'a');
    b->value[0] = syscall(SYS_io_setup, 8, &context) == 0;
    reach(b, 1);
    syscall(SYS_io_destroy, context);
    reach(b, 2);
    pause();
}

static void asynchronous_reads_are_not_tracked(void **state)
{
    struct fm_tracker *t = open_tracker(FM_TRACKER_PAGEMAP_SCAN);
    struct fm_memory_scan scan = {0};
    struct child c;

    (void)state;
    child_start(&c, read_asynchronously);
    await(&c, 1);
    for (int i = 0; i < 2 && c.board->value[0]; i++) {
        round_on(t, c.pid, &scan);
        assert_false(scan.items[0].tracked);
        assert_int_equal(scan.dirty_bytes, scan.present_bytes);
    }
    proceed(&c, 1);
    round_on(t, c.pid, &scan);
    assert_true(scan.items[0].tracked);
    fm_memory_scan_clear(&scan);
    fm_tracker_close(t);
    child_end(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pagemap_scan_works_and_is_the_best),
        cmocka_unit_test(none_always_works),
        cmocka_unit_test(a_round_tells_exactly_the_written_pages),
        cmocka_unit_test(without_a_tracker_everything_is_dirty),
        cmocka_unit_test(a_failed_round_is_followed_by_everything),
        cmocka_unit_test(a_process_that_cannot_be_looked_at_is_an_error),
        cmocka_unit_test(only_private_anonymous_memory_is_moved),
        cmocka_unit_test(mappings_come_move_and_go),
        cmocka_unit_test(the_probe_of_soft_dirty_is_a_round_trip),
        cmocka_unit_test(marks_count_only_where_they_were_told),
        cmocka_unit_test(direct_reads_are_waited_for),
        cmocka_unit_test(asynchronous_reads_are_not_tracked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
