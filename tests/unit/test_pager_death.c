/* The pager when it, its keeper or its daemon are killed, and while pages are still on the source.
 */
#include "pager_world.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/deposit.h"
#include "pager_fuzz.h"
#include "state/pager_state.h"

/* ---- Killing ---- */

struct killer {
    pthread_t thread;
    struct world *world;
    const char *name; /* of what it kills; NULL: both at once */
    useconds_t pause_us;
    unsigned int most;
    atomic_bool stop;
    unsigned int kills;
};

static void *kill_on(void *arg)
{
    struct killer *k = arg;

    while (!k->stop && k->kills < k->most) {
        pid_t pid = world_pager_pid(k->world, k->name ? k->name : "fm-pager-keeper");

        if (pid > 0) {
            kill(k->name ? pid : -pid, SIGKILL); /* the keeper leads a session of its own */
            k->kills++;
        }
        usleep(k->pause_us);
    }
    return NULL;
}

static unsigned int stop_killing(struct killer *k)
{
    k->stop = true;
    pthread_join(k->thread, NULL);
    return k->kills;
}

/* Reads at random, moves all of it now and then, and discards some of it. */
static int read_and_move(int32_t inner_pid, unsigned char *memory, uint64_t pages,
                         uintptr_t argument)
{
    const size_t bytes = pages * fm_pager_page();
    unsigned char *at = memory;
    uint64_t random = argument;

    for (uint64_t i = 0; i < pages; i++) {
        uint64_t number;

        random = random * 6364136223846793005ull + 1442695040888963407ull;
        number = (random >> 20) % pages;
        if (!world_page_is(at + number * fm_pager_page(), inner_pid, number)) {
            fprintf(stderr, "task %d, read %" PRIu64 ": page %" PRIu64 " is %s\n", inner_pid, i,
                    number, world_page_is_zero(at + number * fm_pager_page()) ? "zero" : "another");
            return 1;
        }
        if (i % 500 == 499) {
            at = mremap(at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
                        memory + (1 + i / 500 % 3) * 2 * bytes);
            if (at == MAP_FAILED)
                return 1;
        }
    }
    return world_check_all(inner_pid, at, pages);
}

/* Until then the restore fails when both are killed, as it should. */
static void wait_resumed(struct world *w)
{
    struct fm_pager_status status = {0};
    struct fm_error err = {0};

    while (!status.resumed)
        assert_return_code(fm_pager_wait(w->pager, 100, &status, &err), 0);
}

static void begin_killing(struct killer *k, struct world *w)
{
    k->world = w;
    if (!k->name)
        wait_resumed(w);
    pthread_create(&k->thread, NULL, kill_on, k);
}

/* Three tasks with one body, while somebody kills. */
static unsigned int live_under_fire(const char *name, task_body body, useconds_t pause_us)
{
    struct world w;
    struct killer k = {.name = name, .pause_us = pause_us, .most = 15};

    world_make(&w);
    world_start(&w);
    world_connect(&w);
    for (int32_t pid = 1; pid <= 3; pid++) {
        world_store(&w, pid, name ? 8000 : 20000, 0);
        world_task(&w, pid, name ? 8000 : 20000, body, 4000 + (uintptr_t)pid);
    }
    world_resume(&w);
    begin_killing(&k, &w);
    world_wait_done(&w);
    world_results(&w);
    stop_killing(&k);
    world_remove(&w);
    return k.kills;
}

static void test_worker_killed(void **state)
{
    (void)state;
    assert_true(live_under_fire("fm-pager", read_and_move, 3000) > 0);
    assert_true(live_under_fire("fm-pager", fuzz_memory, 2000) > 0);
}

static void test_keeper_killed(void **state)
{
    (void)state;
    assert_true(live_under_fire("fm-pager-keeper", read_and_move, 3000) > 0);
    assert_true(live_under_fire("fm-pager-keeper", fuzz_memory, 2000) > 0);
}

/* The daemon has duplicates of everything and starts another one. */
static void test_both_killed(void **state)
{
    (void)state;
    assert_true(live_under_fire(NULL, read_and_move, 10000) > 0);
}

/* ---- Post-copy ---- */

/* The rest comes only once the task has seen all that it wants. */
static void want_all(struct world *w, struct world_source *s)
{
    world_results_wanting(w);
    assert_true(s->wanted > 0);
    world_send_all(s);
    assert_int_equal(world_wait_done(w).missing_bytes, 0);
}

/* The rest comes meanwhile, and somebody kills. */
static void survive_all(struct world *w, struct world_source *s, struct killer *k)
{
    begin_killing(k, w);
    pthread_create(&s->thread, NULL, world_send_all, s);
    assert_int_equal(world_wait_done(w).missing_bytes, 0);
    pthread_join(s->thread, NULL);
    world_results(w);
    assert_true(stop_killing(k) > 0);
}

static void post_copy(task_body body, struct killer *k)
{
    struct world w;
    struct world_source s = {
        .world = &w, .inner_pid = 1, .pages = 5000, .every = 3, .pause_us = k ? 1000 : 0};

    world_make(&w);
    world_store(&w, 1, s.pages, s.every);
    world_start(&w);
    fm_pager_set_want(w.pager, world_on_want, &s);
    world_connect(&w);
    world_task(&w, 1, s.pages, body, 77);
    world_resume(&w);
    if (k)
        survive_all(&w, &s, k);
    else
        want_all(&w, &s);
    world_remove(&w);
}

static void test_post_copy(void **state)
{
    (void)state;
    post_copy(read_and_move, NULL);
    post_copy(fuzz_memory, NULL);
}

static void test_post_copy_under_fire(void **state)
{
    struct killer worker = {.name = "fm-pager", .pause_us = 3000, .most = 15};
    struct killer both = {.name = NULL, .pause_us = 5000, .most = 10};

    (void)state;
    post_copy(read_and_move, &worker);
    post_copy(read_and_move, &both);
}

static int touch_missing(int32_t inner_pid, unsigned char *memory, uint64_t pages,
                         uintptr_t argument)
{
    (void)argument;
    return world_check_all(inner_pid, memory, pages);
}

/* What arrives before CRIU has sent the task counts as well. */
static void test_early_arrivals(void **state)
{
    struct world w;

    (void)state;
    world_make(&w);
    world_store(&w, 1, 2000, 2);
    world_start(&w);
    for (uint64_t i = 0; i < 2000; i += 2) {
        if (world_kind(i) != PAGE_DATA)
            continue;
        world_store_page(&w, 1, i);
        fm_pager_arrived(w.pager, 1, WORLD_BASE + i * fm_pager_page(),
                         WORLD_BASE + (i + 1) * fm_pager_page());
    }
    world_connect(&w);
    world_task(&w, 1, 2000, touch_missing, 0);
    world_resume(&w);
    world_wait_done(&w);
    world_results(&w);
    world_remove(&w);
}

/* ---- A daemon that is gone ---- */

static bool task_ends(struct world *w, uint64_t within_ms)
{
    uint64_t deadline = world_now_us() + within_ms * 1000;
    int status;

    while (world_now_us() < deadline) {
        if (waitpid(w->tasks[0].pid, &status, WNOHANG) == w->tasks[0].pid)
            return true;
        usleep(1000);
    }
    return false;
}

/* The source is lost, then the daemon: the task waits. A later daemon brings the rest. */
static void test_daemon_lost_in_post_copy(void **state)
{
    struct world_source s = {.inner_pid = 1, .pages = 3000, .every = 5};
    struct fm_pager_status status = {0};
    struct fm_error err = {0};
    struct world w;

    (void)state;
    world_make(&w);
    s.world = &w;
    world_store(&w, 1, s.pages, s.every);
    world_start(&w);
    world_connect(&w);
    world_task(&w, 1, s.pages, touch_missing, 0);
    world_resume(&w);
    wait_resumed(&w);
    fm_pager_leave(w.pager);
    kill(world_pager_pid(&w, "fm-pager"), SIGKILL); /* with no daemon there */
    w.pager = fm_pager_find(&w.spec, &err);
    if (!w.pager)
        fail_msg("%s", err.text);
    do
        assert_return_code(fm_pager_wait(w.pager, 100, &status, &err), 0);
    while (status.filled_bytes + status.missing_bytes < status.total_bytes || !status.resumed);
    assert_true(status.missing_bytes > 0);
    fm_pager_set_want(w.pager, world_on_want, &s);
    while (s.wanted == 0) /* it was wanted before this daemon came */
        assert_return_code(fm_pager_wait(w.pager, 100, &status, &err), 0);
    world_send_all(&s);
    world_wait_done(&w);
    world_results(&w);
    world_remove(&w);
}

/* Nobody is left who could want the pages that are missing. */
static void test_container_killed(void **state)
{
    struct world w;

    (void)state;
    world_make(&w);
    world_store(&w, 1, 1000, 2);
    world_start(&w);
    world_connect(&w);
    world_task(&w, 1, 1000, touch_missing, 0);
    world_resume(&w);
    usleep(50000);
    kill(w.tasks[0].pid, SIGKILL);
    world_wait_done(&w);
    world_remove(&w);
}

/* Ending a pager that is not done must not leave a task that reads zeroes. */
static void test_end_kills(void **state)
{
    struct world w;

    (void)state;
    world_make(&w);
    world_store(&w, 1, 1000, 2);
    world_start(&w);
    world_connect(&w);
    world_task(&w, 1, 1000, touch_missing, 0);
    world_resume(&w);
    wait_resumed(&w);
    fm_pager_end(w.pager);
    w.pager = NULL;
    assert_true(task_ends(&w, 5000));
    world_remove(&w);
}

/* ---- Daemon, pager and keeper at once ---- */

/* All that hold anything are dead afterwards, while the tasks run. */
static void kill_everybody(struct world *w)
{
    pid_t keeper = world_pager_pid(w, "fm-pager-keeper");

    assert_true(keeper > 0);
    fm_pager_leave(w->pager);
    w->pager = NULL;
    kill(-keeper, SIGKILL);
    while (world_pager_pid(w, "fm-pager-keeper") || world_pager_pid(w, "fm-pager"))
        usleep(100);
}

/* Again and again, until all is filled. How often another one went on; a fork that was on its way
 * to the pager makes that impossible, and then it must be known. */
static unsigned int live_without_anybody(struct world *w, bool forks)
{
    struct fm_pager_status status = {0};
    struct fm_error err = {0};
    unsigned int revived = 0;

    for (; revived < 15; revived++) {
        for (int i = 0; i < 4 && !status.done; i++)
            assert_return_code(fm_pager_wait(w->pager, 1, &status, &err), 0);
        if (status.done)
            break;
        kill_everybody(w);
        usleep(3000);
        w->pager = fm_pager_find(&w->spec, &err);
        if (!w->pager && forks && err.code == FM_E_FAILED)
            return revived;
        if (!w->pager)
            fail_msg("%s", err.text);
    }
    world_wait_done(w);
    world_results(w);
    for (int i = 0; i < w->task_count; i++)
        assert_int_equal(world_deposit_of(&w->tasks[i]), -1);
    return revived;
}

static unsigned int everybody_killed(task_body body, uint64_t pages, bool forks)
{
    struct world w;
    unsigned int revived;

    world_make(&w);
    world_start(&w);
    world_connect(&w);
    for (int32_t pid = 1; pid <= 3; pid++) {
        world_store(&w, pid, pages, 0);
        world_task(&w, pid, pages, body, 9000 + (uintptr_t)pid);
    }
    assert_true(world_deposit_of(&w.tasks[0]) > 0);
    world_resume(&w);
    wait_resumed(&w);
    revived = live_without_anybody(&w, forks);
    world_remove(&w);
    return revived;
}

static void test_everybody_killed(void **state)
{
    (void)state;
    assert_true(everybody_killed(read_and_move, 20000, false) > 0);
}

static void test_everybody_killed_while_it_forks(void **state)
{
    unsigned int revived = 0;

    (void)state;
    for (int i = 0; i < 2; i++)
        revived += everybody_killed(fuzz_memory, 8000, true);
    assert_true(revived > 0);
}

/* Which pages are still to come is known again, too. */
static void test_everybody_killed_in_post_copy(void **state)
{
    struct world_source s = {.inner_pid = 1, .pages = 3000, .every = 5};
    struct fm_error err = {0};
    struct world w;

    (void)state;
    world_make(&w);
    s.world = &w;
    world_store(&w, 1, s.pages, s.every);
    world_start(&w);
    world_connect(&w);
    world_task(&w, 1, s.pages, touch_missing, 0);
    world_resume(&w);
    wait_resumed(&w);
    kill_everybody(&w);
    usleep(20000); /* the task waits for its first missing page by now */
    w.pager = fm_pager_find(&w.spec, &err);
    if (!w.pager)
        fail_msg("%s", err.text);
    fm_pager_set_want(w.pager, world_on_want, &s);
    while (s.wanted == 0)
        assert_return_code(fm_pager_wait(w.pager, 100, NULL, &err), 0);
    world_send_all(&s);
    assert_int_equal(world_wait_done(&w).missing_bytes, 0);
    world_results(&w);
    world_remove(&w);
}

/* What a container could put in besides: for slots that there are and that there are not, no
 * userfaultfds, and no items at all. */
static void spoil_deposit(const struct world_task *t)
{
    fm_autoclose int pidfd = pidfd_open(t->pid, 0);
    fm_autoclose int deposit = pidfd_getfd(pidfd, world_deposit_of(t), 0);
    int ends[2];

    assert_true(deposit >= 0);
    assert_return_code(pipe(ends), errno);
    for (uint32_t i = 0; i < 200; i++) {
        const struct fm_deposit_item item = {.slot = i < 100 ? i : UINT32_MAX - i, .serial = i % 4};

        assert_return_code(fm_deposit_put(deposit, &item, ends, i % 3), errno);
        assert_true(send(deposit, "nonsense, longer than an item", i % 30, 0) >= 0);
    }
    close(ends[0]);
    close(ends[1]);
}

static void test_spoilt_deposit(void **state)
{
    struct world_source s = {.inner_pid = 1, .pages = 3000, .every = 5};
    struct fm_error err = {0};
    struct world w;

    (void)state;
    world_make(&w);
    s.world = &w;
    world_store(&w, 1, s.pages, s.every);
    world_start(&w);
    world_connect(&w);
    world_task(&w, 1, s.pages, touch_missing, 0);
    spoil_deposit(&w.tasks[0]);
    world_resume(&w);
    wait_resumed(&w);
    spoil_deposit(&w.tasks[0]);
    kill_everybody(&w);
    w.pager = fm_pager_find(&w.spec, &err);
    if (!w.pager)
        fail_msg("%s", err.text);
    spoil_deposit(&w.tasks[0]);
    fm_pager_set_want(w.pager, world_on_want, &s);
    while (s.wanted == 0)
        assert_return_code(fm_pager_wait(w.pager, 100, NULL, &err), 0);
    world_send_all(&s);
    world_wait_done(&w);
    world_results(&w);
    assert_int_equal(world_deposit_of(&w.tasks[0]), -1);
    world_remove(&w);
}

/* Without a deposit it is known that zeroes may have been seen. */
static void test_nothing_kept(void **state)
{
    struct fm_error err = {0};
    struct world w;

    (void)state;
    world_make(&w);
    w.keeps_nothing = true;
    world_store(&w, 1, 1000, 2);
    world_start(&w);
    world_connect(&w);
    world_task(&w, 1, 1000, touch_missing, 0);
    world_resume(&w);
    wait_resumed(&w);
    kill_everybody(&w);
    w.pager = fm_pager_find(&w.spec, &err);
    assert_null(w.pager);
    assert_int_equal(err.code, FM_E_FAILED);
    world_remove(&w);
}

/* A daemon that takes the living for dead must not make a second one of them. */
static void test_pager_that_lives(void **state)
{
    struct fm_error err = {0};
    struct world w;

    (void)state;
    world_make(&w);
    world_store(&w, 1, 1000, 2);
    world_start(&w);
    world_connect(&w);
    world_task(&w, 1, 1000, touch_missing, 0);
    world_resume(&w);
    wait_resumed(&w);
    fm_pager_leave(w.pager);
    assert_return_code(unlink(w.control), errno);
    assert_int_equal(symlink("nowhere", w.control), 0);
    w.pager = fm_pager_find(&w.spec, &err);
    assert_null(w.pager);
    kill(-world_pager_pid(&w, "fm-pager-keeper"), SIGKILL);
    world_remove(&w);
}

/* A pager that cannot be replaced says so, instead of trying for ever. */
static void test_store_lost(void **state)
{
    struct fm_pager_status status = {0};
    struct fm_error err = {0};
    struct world w;
    char path[160];
    int ret = 0;

    (void)state;
    world_make(&w);
    world_store(&w, 1, 1000, 2);
    world_start(&w);
    world_connect(&w);
    world_task(&w, 1, 1000, touch_missing, 0);
    world_resume(&w);
    wait_resumed(&w);
    snprintf(path, sizeof(path), "%s/1.pages", w.store);
    assert_return_code(unlink(path), errno);
    kill(world_pager_pid(&w, "fm-pager"), SIGKILL);
    for (int i = 0; i < 50 && ret == 0; i++)
        ret = fm_pager_wait(w.pager, 200, &status, &err);
    assert_true(ret < 0);
    assert_int_equal(err.code, FM_E_FAILED);
    assert_true(task_ends(&w, 5000));
    world_remove(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_worker_killed),
        cmocka_unit_test(test_keeper_killed),
        cmocka_unit_test(test_both_killed),
        cmocka_unit_test(test_post_copy),
        cmocka_unit_test(test_post_copy_under_fire),
        cmocka_unit_test(test_early_arrivals),
        cmocka_unit_test(test_daemon_lost_in_post_copy),
        cmocka_unit_test(test_container_killed),
        cmocka_unit_test(test_end_kills),
        cmocka_unit_test(test_store_lost),
        cmocka_unit_test(test_everybody_killed),
        cmocka_unit_test(test_everybody_killed_while_it_forks),
        cmocka_unit_test(test_everybody_killed_in_post_copy),
        cmocka_unit_test(test_spoilt_deposit),
        cmocka_unit_test(test_nothing_kept),
        cmocka_unit_test(test_pager_that_lives),
    };

    cmocka_set_test_filter(getenv("FM_PAGER_TEST"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
