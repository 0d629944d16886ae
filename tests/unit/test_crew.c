/* Crew: every piece of work is done once, by whoever is there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "state/crew.h"

#define JOBS 500

struct ledger {
    atomic_int done[JOBS];
    atomic_int by[FM_CREW_MAX];
    atomic_bool disordered;
    size_t last[FM_CREW_MAX]; /* index + 1 of each member's last */
    unsigned pause_us;
};

static void enter(void *ctx, size_t index, unsigned member)
{
    struct ledger *l = ctx;

    atomic_fetch_add(&l->done[index], 1);
    atomic_fetch_add(&l->by[member], 1);
    if (index + 1 <= l->last[member])
        atomic_store(&l->disordered, true);
    l->last[member] = index + 1;
    if (l->pause_us)
        usleep(l->pause_us);
}

static void expect_done(struct ledger *l, size_t count)
{
    for (size_t i = 0; i < JOBS; i++)
        assert_int_equal(atomic_load(&l->done[i]), i < count);
    assert_false(atomic_load(&l->disordered));
}

static void each_is_done_once_and_in_order(void **state)
{
    static const size_t counts[] = {0, 1, 2, 3, 4, 5, 64, JOBS};
    struct fm_crew *c = fm_crew_open(FM_CREW_MAX);

    (void)state;
    for (unsigned i = 0; i < 4000; i++) {
        struct ledger l = {0};

        fm_crew_run(c, enter, &l, counts[i % FM_COUNT(counts)]);
        expect_done(&l, counts[i % FM_COUNT(counts)]);
    }
    fm_crew_close(c);
}

static void members_share_the_work(void **state)
{
    struct fm_crew *c = fm_crew_open(FM_CREW_MAX);
    struct ledger l = {.pause_us = 1000};

    (void)state;
    if (fm_crew_size(c) == 1) {
        fm_crew_close(c);
        print_message("SKIPPED: one processor\n");
        skip();
    }
    fm_crew_run(c, enter, &l, 100);
    expect_done(&l, 100);
    for (unsigned i = 0; i < fm_crew_size(c); i++)
        assert_true(atomic_load(&l.by[i]) > 0);
    fm_crew_close(c);
}

static void a_crew_of_one_is_its_caller(void **state)
{
    struct fm_crew *c = fm_crew_open(1);
    struct ledger l = {0};

    (void)state;
    assert_int_equal(fm_crew_size(c), 1);
    fm_crew_run(c, enter, &l, 20);
    expect_done(&l, 20);
    assert_int_equal(atomic_load(&l.by[0]), 20);
    fm_crew_close(c);
    fm_crew_close(NULL);
}

static void no_more_members_than_processors(void **state)
{
    cpu_set_t before, one;
    struct fm_crew *c;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
        if (CPU_ISSET(i, &before))
            CPU_SET(i, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    c = fm_crew_open(FM_CREW_MAX);
    assert_int_equal(fm_crew_size(c), 1);
    fm_crew_close(c);
    assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
    c = fm_crew_open(FM_CREW_MAX);
    assert_int_equal(fm_crew_size(c),
                     CPU_COUNT(&before) < (int)FM_CREW_MAX ? CPU_COUNT(&before) : (int)FM_CREW_MAX);
    fm_crew_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_done_once_and_in_order),
        cmocka_unit_test(members_share_the_work),
        cmocka_unit_test(a_crew_of_one_is_its_caller),
        cmocka_unit_test(no_more_members_than_processors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
