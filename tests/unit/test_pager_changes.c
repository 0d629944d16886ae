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

/* ---- Threads: faults while the address space is changing ---- */

struct reader {
    pthread_t thread;
    int32_t inner_pid;
    const unsigned char *memory;
    uint64_t pages, random;
    int bad;
};

static void *read_at_random(void *arg)
{
    struct reader *r = arg;

    for (uint64_t i = 0; i < r->pages && !r->bad; i++) {
        uint64_t number;

        r->random = r->random * 6364136223846793005ull + 1442695040888963407ull;
        number = (r->random >> 20) % r->pages;
        r->bad = !world_page_is(r->memory + number * fm_pager_page(), r->inner_pid, number);
    }
    return NULL;
}

/* Moves the last quarter about and discards it, until the readers of the rest have seen it all. */
static int change_beside_readers(int32_t inner_pid, unsigned char *memory, uint64_t pages,
                                 uintptr_t argument)
{
    const uint64_t rest = pages - pages / 4;
    const size_t bytes = pages / 4 * fm_pager_page();
    unsigned char *part = memory + rest * fm_pager_page();
    struct reader readers[3];
    int bad = 0;

    for (size_t i = 0; i < 3; i++) {
        readers[i] = (struct reader){
            .inner_pid = inner_pid, .memory = memory, .pages = rest, .random = argument + i};
        pthread_create(&readers[i].thread, NULL, read_at_random, &readers[i]);
    }
    for (size_t i = 0; i < 400 && !bad; i++) {
        if (i % 4 == 0)
            bad = madvise(part, bytes / 2, MADV_DONTNEED) < 0 || !world_page_is_zero(part);
        else
            part = mremap(part, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
                          memory + (2 + i % 4) * pages * fm_pager_page());
        bad |= part == MAP_FAILED;
        if (i % 50 == 10 && fork() == 0)
            _exit(0);
    }
    for (size_t i = 0; i < 3; i++) {
        pthread_join(readers[i].thread, NULL);
        bad |= readers[i].bad;
    }
    while (wait(NULL) > 0)
        ;
    for (uint64_t i = pages / 8 + 1; i < pages / 4 && !bad; i++)
        bad = !world_page_is(part + i * fm_pager_page(), inner_pid, rest + i);
    return bad;
}

/* ---- Areas, against what each page says ---- */

#define AREA_PAGES 512

static void assert_areas(const struct fm_pager_slot *slot, const uint64_t *sources)
{
    for (uint64_t i = 0; i < AREA_PAGES; i++) {
        const uint64_t page = fm_pager_page();
        const struct fm_pager_area *area = fm_pager_area_find(slot, WORLD_BASE + i * page);
        uint64_t at = area ? WORLD_BASE + i * page - area->start : 0;

        if (!sources[i]) {
            assert_null(area);
            continue;
        }
        assert_non_null(area);
        if (!area)
            return; /* for those who do not know that an assertion ends the test */
        assert_int_equal(area->source + at, sources[i]);
        /* The first area's pages are numbered from 0, the second's follow. */
        assert_int_equal(area->first + at / page,
                         (sources[i] - WORLD_BASE) / page -
                             (sources[i] >= WORLD_BASE + 300 * page ? 100 : 0));
    }
}

static void test_areas(void **state)
{
    const uint64_t page = fm_pager_page();
    struct fm_pager_maps maps;
    struct fm_pager_slot *slot;
    uint64_t sources[AREA_PAGES] = {0}, random = 1;
    struct world w;

    (void)state;
    world_make(&w);
    assert_return_code(fm_pager_state_create(&maps, w.store, NULL), 0);
    slot = fm_pager_slot(&maps, fm_pager_slot_allocate(&maps));
    assert_non_null(slot);
    fm_pager_area_add(slot, WORLD_BASE, WORLD_BASE + 200 * page);
    fm_pager_area_add(slot, WORLD_BASE + 300 * page, WORLD_BASE + 400 * page);
    for (uint64_t i = 0; i < 400; i++)
        sources[i] = i < 200 || i >= 300 ? WORLD_BASE + i * page : 0;
    for (uint64_t event = 1; event <= 500; event++) {
        uint64_t moved[AREA_PAGES], from, to, len;

        random = random * 6364136223846793005ull + 1442695040888963407ull;
        len = 1 + (random >> 20) % 60;
        from = (random >> 30) % (AREA_PAGES - len);
        to = (random >> 45) % (AREA_PAGES - len);
        if (from < to + len && to < from + len)
            continue;
        for (int again = 0; again < 2; again++) /* the second time for a worker that took over */
            assert_return_code(fm_pager_areas_move(slot, WORLD_BASE + from * page,
                                                   WORLD_BASE + to * page, len * page, event),
                               0);
        memcpy(moved, sources + from, len * sizeof(*moved));
        memset(sources + from, 0, len * sizeof(*moved));
        memcpy(sources + to, moved, len * sizeof(*moved));
        assert_areas(slot, sources);
    }
    fm_pager_state_close(&maps);
    world_remove(&w);
}

/* ---- At random ---- */

static uintptr_t first_seed(void)
{
    return getenv("FM_SEED") ? strtoull(getenv("FM_SEED"), NULL, 10) : 1;
}

/* Half of the pages come only when they are wanted, so that the pager has work to the end. */
static void live_wanting(uint64_t pages, task_body body, uintptr_t argument)
{
    struct world_source s = {.inner_pid = 1, .pages = pages, .every = 2};
    struct world w;

    world_make(&w);
    s.world = &w;
    world_store(&w, 1, s.pages, s.every);
    world_start(&w);
    fm_pager_set_want(w.pager, world_on_want, &s);
    world_connect(&w);
    world_task(&w, 1, s.pages, body, argument);
    world_resume(&w);
    world_results_wanting(&w);
    world_send_all(&s);
    world_wait_done(&w);
    world_remove(&w);
}

static void test_threads(void **state)
{
    (void)state;
    /* Many pages, many of them zeroes: the pager is busy while faults and changes come. */
    live_wanting(16000, change_beside_readers, first_seed());
}

static void test_fuzz(void **state)
{
    uintptr_t count = getenv("FM_SEEDS") ? strtoull(getenv("FM_SEEDS"), NULL, 10) : 3;

    (void)state;
    for (uintptr_t i = 0; i < count; i++)
        live_wanting(2000, fuzz_memory, first_seed() + i);
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
        cmocka_unit_test(test_exec),          cmocka_unit_test(test_areas),
        cmocka_unit_test(test_threads),       cmocka_unit_test(test_fuzz),
        cmocka_unit_test(test_fuzz_together),
    };

    cmocka_set_test_filter(getenv("FM_PAGER_TEST"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
