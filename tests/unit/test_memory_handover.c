/* The handover with memory that travels on its own: every call fails once, and every daemon dies
 * once at every call. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fakes/sweep.h"

static const char *const strategies[] = {"pre-copy", "post-copy"};

static void sweep_both(struct sweep sweep)
{
    for (size_t i = 0; i < 2; i++) {
        sweep.strategy = strategies[i];
        sweep_all(&sweep);
    }
}

static void failures_are_undone(void **state)
{
    (void)state;
    sweep_both((struct sweep){.injection = FAIL_BEFORE});
    sweep_both((struct sweep){.injection = FAIL_AFTER});
    sweep_both((struct sweep){.injection = CANCEL});
}

static void the_way_back_survives_failures(void **state)
{
    (void)state;
    for (int dies = 0; dies < 2; dies++) {
        sweep_both((struct sweep){
            .injection = FAIL_BEFORE, .unhealthy = true, .dies = dies, .from = "VERIFY"});
        sweep_both((struct sweep){
            .injection = FAIL_AFTER, .unhealthy = true, .dies = dies, .from = "VERIFY"});
    }
}

static void daemons_may_die(void **state)
{
    (void)state;
    for (enum injection i = CRASH_BEFORE; i <= CRASH_BOTH; i++)
        sweep_both((struct sweep){.injection = i, .linger = true});
    sweep_both((struct sweep){.injection = CRASH_BEFORE});
}

static void daemons_may_die_on_the_way_back(void **state)
{
    (void)state;
    for (enum injection i = CRASH_BEFORE; i <= CRASH_BOTH; i++)
        for (int dies = 0; dies < 2; dies++)
            sweep_both(
                (struct sweep){.injection = i, .unhealthy = true, .dies = dies, .from = "VERIFY"});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failures_are_undone),
        cmocka_unit_test(the_way_back_survives_failures),
        cmocka_unit_test(daemons_may_die),
        cmocka_unit_test(daemons_may_die_on_the_way_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
