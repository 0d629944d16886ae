#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fakes/sweep.h"

static void a_daemon_may_die_before_any_call(void **state)
{
    (void)state;
    /* What CRIU had begun is still there at the restart, or it has ended by itself. */
    sweep_all(&(struct sweep){.injection = CRASH_BEFORE, .linger = true});
    sweep_all(&(struct sweep){.injection = CRASH_BEFORE, .linger = false});
}

static void a_daemon_may_die_after_any_call(void **state)
{
    (void)state;
    sweep_all(&(struct sweep){.injection = CRASH_AFTER, .linger = true});
}

static void the_other_daemon_may_die_at_any_call(void **state)
{
    (void)state;
    sweep_all(&(struct sweep){.injection = CRASH_OTHER, .linger = true});
}

static void both_daemons_may_die_at_any_call(void **state)
{
    (void)state;
    sweep_all(&(struct sweep){.injection = CRASH_BOTH, .linger = true});
}

static void daemons_may_die_on_the_way_back(void **state)
{
    (void)state;
    for (enum injection i = CRASH_BEFORE; i <= CRASH_BOTH; i++)
        sweep_all(&(struct sweep){.injection = i, .unhealthy = true, .from = "VERIFY"});
}

static void daemons_may_die_while_a_dead_container_is_restored(void **state)
{
    (void)state;
    for (enum injection i = CRASH_BEFORE; i <= CRASH_BOTH; i++)
        sweep_all(
            &(struct sweep){.injection = i, .unhealthy = true, .dies = true, .from = "VERIFY"});
}

static void a_daemon_may_die_again_in_its_recovery(void **state)
{
    (void)state;
    for (unsigned int after = 1; after <= 40; after += 4)
        sweep_all(&(struct sweep){.injection = CRASH_BOTH,
                                  .linger = after % 2,
                                  .from = "prepare",
                                  .offset = after % 7,
                                  .stride = 6,
                                  .again_after = after,
                                  .again = CRASH_BEFORE});
}

static void a_call_may_fail_in_a_recovery(void **state)
{
    (void)state;
    for (unsigned int after = 1; after <= 40; after++)
        sweep_all(&(struct sweep){.injection = CRASH_BEFORE,
                                  .from = "prepare",
                                  .offset = after % 2,
                                  .stride = 1,
                                  .again_after = after,
                                  .again = FAIL_BEFORE});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_daemon_may_die_before_any_call),
        cmocka_unit_test(a_daemon_may_die_after_any_call),
        cmocka_unit_test(the_other_daemon_may_die_at_any_call),
        cmocka_unit_test(both_daemons_may_die_at_any_call),
        cmocka_unit_test(daemons_may_die_on_the_way_back),
        cmocka_unit_test(daemons_may_die_while_a_dead_container_is_restored),
        cmocka_unit_test(a_daemon_may_die_again_in_its_recovery),
        cmocka_unit_test(a_call_may_fail_in_a_recovery),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
