/* The pager while its tasks change their address spaces. */
#include "pager_world.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pager_fuzz.h"
#include "state/pager_state.h"

/* One task with this body, to the end. */
static struct fm_pager_status live(uint64_t pages, task_body body, uintptr_t argument)
{
    struct world w;
    struct fm_pager_status status;

    world_make(&w);
    world_store(&w, 1, pages, 0);
    world_start(&w);
    world_connect(&w);
    world_task(&w, 1, pages, body, argument);
    world_resume(&w);
    world_results(&w);
    status = world_wait_done(&w);
    world_remove(&w);
    return status;
}

/* ---- One by one ---- */

static int fork_first(int32_t inner_pid, unsigned char *memory, uint64_t pages, uintptr_t argument)
{
    int status;
    pid_t pid = fork();

    (void)argument;
    if (pid == 0)
        _exit(world_check_all(inner_pid, memory, pages));
    if (world_check_all(inner_pid, memory, pages) || waitpid(pid, &status, 0) != pid)
        return 1;
    return status != 0;
}

static void test_fork(void **state)
{
    (void)state;
    assert_int_equal(live(6000, fork_first, 0).processes, 0);
}

/* Children of children, which all end at once without touching a thing. */
static int fork_storm(int32_t inner_pid, unsigned char *memory, uint64_t pages, uintptr_t argument)
{
    int status, bad = 0;

    for (uintptr_t i = 0; i < argument; i++) {
        pid_t pid = fork();

        if (pid == 0 && i % 10 == 0)
            _exit(world_check_all(inner_pid, memory, pages));
        if (pid == 0)
            _exit(fork() < 0);
        if (pid < 0)
            return 1;
    }
    while (wait(&status) > 0)
        bad |= status != 0;
    return bad | world_check_all(inner_pid, memory, pages);
}

static void test_fork_storm(void **state)
{
    (void)state;
    live(3000, fork_storm, 100);
}

/* A page that was moved before it came, and moved on. */
static int move_first(int32_t inner_pid, unsigned char *memory, uint64_t pages, uintptr_t argument)
{
    unsigned char *at = memory;
    const size_t bytes = pages * fm_pager_page();

    (void)argument;
    for (int i = 0; i < 5; i++) {
        at = mremap(at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
                    memory + (size_t)(1 + i % 2) * 2 * bytes);
        if (at == MAP_FAILED)
            return 1;
    }
    return world_check_all(inner_pid, at, pages);
}

static void test_move(void **state)
{
    (void)state;
    live(6000, move_first, 0);
}

static int discard_half(int32_t inner_pid, unsigned char *memory, uint64_t pages,
                        uintptr_t argument)
{
    const uint64_t half = pages / 2;

    (void)argument;
    if (madvise(memory, half * fm_pager_page(), MADV_DONTNEED) < 0)
        return 1;
    usleep(20000); /* whoever would fill it wrongly has time to */
    for (uint64_t i = 0; i < half; i++) {
        if (!world_page_is_zero(memory + i * fm_pager_page()))
            return 1;
    }
    for (uint64_t i = half; i < pages; i++) {
        if (!world_page_is(memory + i * fm_pager_page(), inner_pid, i))
            return 1;
    }
    return 0;
}

static void test_discard(void **state)
{
    (void)state;
    live(6000, discard_half, 0);
}

/* A child that does not inherit a part: there is nothing to fill. */
static int fork_without(int32_t inner_pid, unsigned char *memory, uint64_t pages,
                        uintptr_t argument)
{
    const uint64_t half = pages / 2;
    int status;
    pid_t pid;

    (void)argument;
    if (madvise(memory, half * fm_pager_page(), MADV_DONTFORK) < 0)
        return 1;
    pid = fork();
    if (pid == 0) {
        for (uint64_t i = half; i < pages; i++) {
            if (!world_page_is(memory + i * fm_pager_page(), inner_pid, i))
                _exit(1);
        }
        usleep(50000);
        _exit(0);
    }
    if (world_check_all(inner_pid, memory, pages) || waitpid(pid, &status, 0) != pid)
        return 1;
    return status != 0;
}

static void test_fork_without(void **state)
{
    (void)state;
    live(6000, fork_without, 0);
}

/* Mappings that differ in the middle of a piece. */
static int protect_some(int32_t inner_pid, unsigned char *memory, uint64_t pages,
                        uintptr_t argument)
{
    (void)argument;
    for (uint64_t i = 3; i < pages; i += 7) {
        if (mprotect(memory + i * fm_pager_page(), fm_pager_page(), PROT_READ) < 0)
            return 1;
    }
    return world_check_all(inner_pid, memory, pages);
}

static void test_protect(void **state)
{
    (void)state;
    live(6000, protect_some, 0);
}

static int run_program(int32_t inner_pid, unsigned char *memory, uint64_t pages, uintptr_t argument)
{
    int status;
    pid_t pid = fork();

    (void)argument;
    if (pid == 0) {
        execl("/bin/true", "true", NULL);
        _exit(127);
    }
    if (waitpid(pid, &status, 0) != pid || status != 0)
        return 1;
    return world_check_all(inner_pid, memory, pages);
}

static void test_exec(void **state)
{
    (void)state;
    live(6000, run_program, 0);
}

/* ---- At random ---- */

static uintptr_t first_seed(void)
{
    return getenv("FM_SEED") ? strtoull(getenv("FM_SEED"), NULL, 10) : 1;
}

/* Half of the pages come only when they are wanted, so that the pager has work to the end. */
static void test_fuzz(void **state)
{
    uintptr_t seed = first_seed();
    uintptr_t count = getenv("FM_SEEDS") ? strtoull(getenv("FM_SEEDS"), NULL, 10) : 3;

    (void)state;
    for (uintptr_t i = 0; i < count; i++) {
        struct world_source s = {.inner_pid = 1, .pages = 2000, .every = 2};
        struct world w;

        world_make(&w);
        s.world = &w;
        world_store(&w, 1, s.pages, s.every);
        world_start(&w);
        fm_pager_set_want(w.pager, world_on_want, &s);
        world_connect(&w);
        world_task(&w, 1, s.pages, fuzz_memory, seed + i);
        world_resume(&w);
        world_results_wanting(&w);
        world_send_all(&s);
        world_wait_done(&w);
        world_remove(&w);
    }
}

/* Several at once, whose changes come in between each other's. */
static void test_fuzz_together(void **state)
{
    uintptr_t seed = first_seed();
    struct world w;

    (void)state;
    world_make(&w);
    world_start(&w);
    world_connect(&w);
    for (int32_t pid = 1; pid <= 5; pid++) {
        world_store(&w, pid, 3000, 0);
        world_task(&w, pid, 3000, fuzz_memory, seed + 1000 + (uintptr_t)pid);
    }
    world_resume(&w);
    world_results(&w);
    world_wait_done(&w);
    world_remove(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fork),          cmocka_unit_test(test_fork_storm),
        cmocka_unit_test(test_move),          cmocka_unit_test(test_discard),
        cmocka_unit_test(test_fork_without),  cmocka_unit_test(test_protect),
        cmocka_unit_test(test_exec),          cmocka_unit_test(test_fuzz),
        cmocka_unit_test(test_fuzz_together),
    };

    cmocka_set_test_filter(getenv("FM_PAGER_TEST"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
