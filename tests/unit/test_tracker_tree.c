/* Tracker: processes that fork, share memory, execute others, have threads, and end. */
#include "tracked_child.h"

#include <pthread.h>

/* ---- processes ---- */

static void fork_and_share(struct board *b)
{
    char *a = map_filled(64, 'a');

    reach(b, 1);
    a[PAGE] = 'p';
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        memset(a + 10 * PAGE, 'k', 5 * PAGE);
        for (;;) {
            a[20 * PAGE]++;
            pause_us(500);
        }
    }
    memset(a + 30 * PAGE, 'p', 5 * PAGE);
    reach(b, 2);
    memset(a + 10 * PAGE, 'q', 3 * PAGE);
    reach(b, 3);
    for (;;)
        pause();
}

static void a_forked_child_is_found_and_tracked(void **state)
{
    (void)state;
    for (int end = 2; end <= 3; end++)
        follow(FM_TRACKER_PAGEMAP_SCAN, fork_and_share, end);
}

static int borrow(void *arg)
{
    struct board *b = arg;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    b->flag = 1;
    while (b->step < 3) { /* shares its parent's memory until then */
        ((volatile char *)b->value[0])[7 * PAGE]++;
        pause_us(200);
    }
    execl("/bin/sleep", "sleep", "1000", NULL);
    return 1;
}

static void spawn(struct board *b)
{
    static char stack[65536];
    char *a = map_filled(64, 'a');

    b->value[0] = (uintptr_t)a;
    reach(b, 1);
    if (clone(borrow, stack + sizeof(stack), CLONE_VM | SIGCHLD, b) < 0)
        _exit(1);
    while (!b->flag)
        pause_us(100);
    reach(b, 2);
    a[9 * PAGE]++;
    reach(b, 3);
    pause_us(20000); /* exec */
    reach(b, 4);
    for (;;)
        a[11 * PAGE]++;
}

static void processes_that_share_memory_are_told_the_same(void **state)
{
    (void)state;
    for (int end = 2; end <= 4; end++)
        follow(FM_TRACKER_PAGEMAP_SCAN, spawn, end);
}

static void those_that_share_are_both_tracked(void **state)
{
    struct fm_tracker *t = open_tracker(FM_TRACKER_PAGEMAP_SCAN);
    fm_cleanup(fm_memory_scan_clear) struct fm_memory_scan scan = {0};
    struct child c;

    (void)state;
    child_start(&c, spawn);
    proceed(&c, 1);
    struct tree tree = tree_of(c.pid);
    assert_int_equal(tree.count, 2);
    for (int i = 0; i < 3; i++) {
        fm_memory_scan_clear(&scan);
        scan_tree(t, &tree, false, &scan);
        assert_int_equal(scan.count, 2);
        for (size_t p = 0; p < 2; p++) {
            assert_true(scan.items[p].tracked);
            assert_true(i == 0 || fm_ranges_bytes(&scan.items[p].dirty) <
                                      fm_ranges_bytes(&scan.items[p].present) / 2);
        }
    }
    fm_tracker_close(t);
    child_end(&c);
}

static void vfork_and_wait(struct board *b)
{
    static char *const argv[] = {"sleep", "1000", NULL};
    char *a = map_filled(64, 'a');

    if (vfork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        b->reached = 1;
        while (b->step < 1)
            ((volatile char *)a)[PAGE]++;
        execv("/bin/sleep", argv);
        _exit(1);
    }
    reach(b, 2);
    a[3 * PAGE]++;
    reach(b, 3);
    for (;;)
        a[5 * PAGE]++;
}

/* Its parent cannot be stopped in this time, and is a new one afterwards. */
static void a_vfork_is_waited_out(void **state)
{
    (void)state;
    follow(FM_TRACKER_PAGEMAP_SCAN, vfork_and_wait, 3);
}

static void become_another(struct board *b)
{
    map_filled(64, 'a');
    reach(b, 1);
    execl("/bin/sh", "sh", "-c", "x=1; while :; do x=$((x+1)); done", NULL);
}

static void a_program_that_executes_another_begins_anew(void **state)
{
    struct fm_tracker *t = open_tracker(FM_TRACKER_PAGEMAP_SCAN);
    fm_cleanup(fm_memory_scan_clear) struct fm_memory_scan scan = {0};
    struct mirror m = {0};
    struct child c;

    (void)state;
    child_start(&c, become_another);
    await(&c, 1);
    round_of(t, c.pid, &m);
    c.board->step = 1;
    for (fm_autofree char *comm = NULL; !fm_streq(comm, "sh");) {
        fm_autofree char *path = fm_strf("/proc/%d/comm", (int)c.pid);

        free(comm);
        comm = fm_file_line(path);
    }
    round_on(t, c.pid, &scan);
    assert_int_equal(scan.dirty_bytes, scan.present_bytes);
    mirror_copy(&m, &scan, false);
    for (uint64_t deadline = fm_now_ms() + DEADLINE_MS;
         scan.dirty_bytes >= scan.present_bytes / 2;) {
        round_on(t, c.pid, &scan);
        mirror_copy(&m, &scan, false);
        assert_true(fm_now_ms() < deadline); /* it is tracked again by and by */
    }
    final_of(t, c.pid, &m);
    mirror_clear(&m);
    fm_tracker_close(t);
    child_end(&c);
}

/* ---- threads ---- */

static void *write_on(void *arg)
{
    char *mine = arg;

    for (size_t i = 0;; i++)
        mine[i * 7 % 64 * PAGE]++;
    return NULL;
}

static void write_from_threads(struct board *b)
{
    char *a = map_filled(8 * 64, 'a');
    pthread_t thread;

    for (size_t i = 0; i < 8; i++)
        pthread_create(&thread, NULL, write_on, a + i * 64 * PAGE);
    reach(b, 1);
    pause();
}

static void a_thread_is_not_a_process(void **state)
{
    struct fm_tracker *t = open_tracker(FM_TRACKER_PAGEMAP_SCAN);
    fm_cleanup(fm_memory_scan_clear) struct fm_memory_scan scan = {0};
    struct tree all = {0};
    struct child c;

    (void)state;
    child_start(&c, write_from_threads);
    await(&c, 1);
    fm_autofree char *path = fm_strf("/proc/%d/task", (int)c.pid);
    fm_autoclosedir DIR *dir = opendir(path);
    for (struct dirent *e; (e = readdir(dir));) {
        if (e->d_name[0] != '.')
            all.pids[all.count++] = (pid_t)atoi(e->d_name);
    }
    assert_true(all.count > 1);
    scan_tree(t, &all, false, &scan);
    assert_int_equal(scan.count, 1);
    assert_int_equal(scan.items[0].pid, c.pid);
    fm_tracker_close(t);
    child_end(&c);
}

static void threads_write_during_rounds(void **state)
{
    struct fm_tracker *t = open_tracker(FM_TRACKER_PAGEMAP_SCAN);
    struct mirror m = {0};
    struct child c;

    (void)state;
    child_start(&c, write_from_threads);
    await(&c, 1);
    for (int i = 0; i < 10; i++)
        round_of(t, c.pid, &m);
    final_of(t, c.pid, &m);
    mirror_clear(&m);
    fm_tracker_close(t);
    child_end(&c);
}

/* ---- a container's names ---- */

static void be_a_container(struct board *b)
{
    map_filled(16, 'a');
    reach(b, 1);
    for (;;)
        pause();
}

static void a_process_is_named_as_in_its_pid_namespace(void **state)
{
    struct fm_tracker *t = open_tracker(FM_TRACKER_PAGEMAP_SCAN);
    struct fm_memory_scan scan = {0};
    struct child c;

    (void)state;
    child_start_on(&c, new_board(), be_a_container, CLONE_NEWPID);
    await(&c, 1);
    round_on(t, c.pid, &scan);
    assert_int_equal(scan.items[0].pid, c.pid);
    assert_int_equal(scan.items[0].inner_pid, 1);
    assert_true(scan.items[0].tracked);
    fm_memory_scan_clear(&scan);
    fm_tracker_close(t);
    child_end(&c);
}

static void processes_that_ended_are_left_out(void **state)
{
    struct fm_tracker *t = open_tracker(FM_TRACKER_PAGEMAP_SCAN);
    struct fm_memory_scan scan = {0};
    struct child c, zombie;

    (void)state;
    child_start(&c, be_a_container);
    child_start(&zombie, be_a_container);
    await(&c, 1);
    await(&zombie, 1);
    struct tree tree = {.pids = {zombie.pid, c.pid, 4000000}, .count = 3};
    scan_tree(t, &tree, false, &scan);
    assert_int_equal(scan.count, 2);
    kill(zombie.pid, SIGKILL);
    while (thread_state(zombie.pid, zombie.pid) != 'Z')
        pause_us(100);
    fm_memory_scan_clear(&scan);
    scan_tree(t, &tree, false, &scan);
    assert_int_equal(scan.count, 1);
    assert_int_equal(scan.items[0].pid, c.pid);
    fm_memory_scan_clear(&scan);
    scan_tree(t, &tree, true, &scan);
    assert_int_equal(scan.count, 1);
    fm_memory_scan_clear(&scan);
    fm_tracker_close(t);
    child_end(&zombie);
    child_end(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_forked_child_is_found_and_tracked),
        cmocka_unit_test(processes_that_share_memory_are_told_the_same),
        cmocka_unit_test(those_that_share_are_both_tracked),
        cmocka_unit_test(a_vfork_is_waited_out),
        cmocka_unit_test(a_program_that_executes_another_begins_anew),
        cmocka_unit_test(a_thread_is_not_a_process),
        cmocka_unit_test(threads_write_during_rounds),
        cmocka_unit_test(a_process_is_named_as_in_its_pid_namespace),
        cmocka_unit_test(processes_that_ended_are_left_out),
    };

    if (fm_tracker_probe(FM_TRACKER_PAGEMAP_SCAN, NULL) < 0) {
        print_message("SKIPPED: no PAGEMAP_SCAN here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
