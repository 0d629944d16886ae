#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "migration/convergence.h"

#define MIB (1024.0 * 1024.0)

/* A container that writes `rate` bytes per second into `hot` bytes of its memory, and a link. */
struct subject {
    double memory, hot, rate, link;
    double since_s; /* since the last scan; < 0: there was none */
};

static struct fm_memory_round next_round(struct subject *s)
{
    struct fm_memory_round round = {.present_bytes = (uint64_t)s->memory, .scan_us = 1000};
    double dirty = s->memory;

    if (s->since_s >= 0) {
        dirty = s->rate * s->since_s;
        dirty = dirty > s->hot ? s->hot : dirty;
        round.interval_us = (uint64_t)(s->since_s * 1e6);
    }
    round.dirty_bytes = (uint64_t)dirty;
    s->since_s = dirty / s->link + 0.002; /* a round trip */
    round.send_us = (uint64_t)(s->since_s * 1e6);
    return round;
}

/* Runs it to the first verdict that ends it. */
static enum fm_verdict run(struct fm_convergence *c, struct subject *s)
{
    enum fm_verdict verdict;

    do {
        struct fm_memory_round round = next_round(s);
        verdict = fm_convergence_judge(c, &round);
    } while (verdict == FM_VERDICT_AGAIN);
    return verdict;
}

static struct fm_convergence usual(void)
{
    return (struct fm_convergence){.max_downtime_ms = 50, .fixed_ms = 30, .max_rounds = 30};
}

static void a_calm_container_freezes_after_its_second_round(void **state)
{
    struct fm_convergence c = usual();
    struct subject s = {
        .memory = 64 * MIB, .hot = MIB, .rate = MIB, .link = 1000 * MIB, .since_s = -1};

    (void)state;
    assert_int_equal(run(&c, &s), FM_VERDICT_FREEZE);
    assert_int_equal(c.rounds, 2);
    assert_true(c.expected_ms >= 30 && c.expected_ms < 35);
}

static void the_first_round_never_freezes(void **state)
{
    struct fm_convergence c = usual();
    struct fm_memory_round idle = {.present_bytes = 1, .send_us = 100};

    (void)state;
    assert_int_equal(fm_convergence_judge(&c, &idle), FM_VERDICT_AGAIN);
}

static void a_busy_container_needs_more_rounds_than_a_calm_one(void **state)
{
    struct fm_convergence c = usual();
    struct subject s = {.memory = 2048 * MIB,
                        .hot = 2048 * MIB,
                        .rate = 200 * MIB,
                        .link = 1000 * MIB,
                        .since_s = -1};

    (void)state;
    assert_int_equal(run(&c, &s), FM_VERDICT_FREEZE);
    assert_true(c.rounds > 2 && c.rounds < 8);
    assert_true(c.dirty_rate > 150 * MIB && c.dirty_rate < 250 * MIB);
}

static void a_fixed_cost_above_the_limit_does_not_ask_for_rounds(void **state)
{
    struct fm_convergence c = usual();
    struct subject s = {
        .memory = 64 * MIB, .hot = MIB, .rate = MIB, .link = 1000 * MIB, .since_s = -1};

    (void)state;
    c.fixed_ms = 60;
    assert_int_equal(run(&c, &s), FM_VERDICT_SHORTEST);
    assert_int_equal(c.rounds, 2);
}

static void one_that_writes_faster_than_the_link_is_stuck(void **state)
{
    struct fm_convergence c = usual();
    struct subject s = {.memory = 1024 * MIB,
                        .hot = 512 * MIB,
                        .rate = 400 * MIB,
                        .link = 100 * MIB,
                        .since_s = -1};

    (void)state;
    assert_int_equal(run(&c, &s), FM_VERDICT_STUCK);
    assert_true(c.rounds <= 2 + FM_CONVERGENCE_PATIENCE);
    assert_true(c.expected_ms > 1000);
}

static void a_throttled_one_gets_a_new_chance(void **state)
{
    struct fm_convergence c = usual();
    struct subject s = {.memory = 1024 * MIB,
                        .hot = 512 * MIB,
                        .rate = 400 * MIB,
                        .link = 100 * MIB,
                        .since_s = -1};

    (void)state;
    assert_int_equal(run(&c, &s), FM_VERDICT_STUCK);
    s.rate = 5 * MIB;
    fm_convergence_retry(&c);
    assert_int_equal(run(&c, &s), FM_VERDICT_FREEZE);
}

static void the_number_of_rounds_is_limited(void **state)
{
    struct fm_convergence c = usual();
    struct subject s = {
        .memory = 1024 * MIB, .hot = 512 * MIB, .rate = 50 * MIB, .link = 100 * MIB, .since_s = -1};

    (void)state;
    c.max_rounds = 3;
    assert_int_equal(run(&c, &s), FM_VERDICT_STUCK);
    assert_int_equal(c.rounds, 3);
}

static void a_small_round_does_not_make_the_link_look_slow(void **state)
{
    struct fm_convergence c = usual();
    struct fm_memory_round first = {
        .present_bytes = 1 << 30, .dirty_bytes = 1 << 30, .send_us = 1000000};
    struct fm_memory_round small = {
        .present_bytes = 1 << 30, .dirty_bytes = 4096, .send_us = 2000, .interval_us = 1000000};

    (void)state;
    fm_convergence_judge(&c, &first);
    fm_convergence_judge(&c, &small);
    assert_true(c.throughput > 1e9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_calm_container_freezes_after_its_second_round),
        cmocka_unit_test(the_first_round_never_freezes),
        cmocka_unit_test(a_busy_container_needs_more_rounds_than_a_calm_one),
        cmocka_unit_test(a_fixed_cost_above_the_limit_does_not_ask_for_rounds),
        cmocka_unit_test(one_that_writes_faster_than_the_link_is_stuck),
        cmocka_unit_test(a_throttled_one_gets_a_new_chance),
        cmocka_unit_test(the_number_of_rounds_is_limited),
        cmocka_unit_test(a_small_round_does_not_make_the_link_look_slow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
