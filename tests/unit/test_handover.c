#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fakes/sweep.h"

static void a_call_that_fails_is_undone(void **state)
{
    (void)state;
    sweep_all(&(struct sweep){.injection = FAIL_BEFORE});
}

static void a_call_that_fails_after_its_effect_is_undone(void **state)
{
    (void)state;
    sweep_all(&(struct sweep){.injection = FAIL_AFTER});
}

static void crash_before(void **state)
{
    (void)state;
    sweep_all(&(struct sweep){.injection = CRASH_BEFORE});
}
static void crash_after(void **state)
{
    (void)state;
    sweep_all(&(struct sweep){.injection = CRASH_AFTER, .linger = true});
}
static void crash_other(void **state)
{
    (void)state;
    sweep_all(&(struct sweep){.injection = CRASH_OTHER, .linger = true});
}
static void crash_both(void **state)
{
    (void)state;
    sweep_all(&(struct sweep){.injection = CRASH_BOTH, .linger = true});
}
static void cancel(void **state)
{
    (void)state;
    sweep_all(&(struct sweep){.injection = CANCEL});
}

static void sick(void **state)
{
    (void)state;
    for (enum injection i = FAIL_BEFORE; i < INJECTIONS; i++) {
        print_message("%s\n", injection_text(i));
        sweep_all(&(struct sweep){.injection = i, .unhealthy = true, .linger = true});
    }
}

static void dead(void **state)
{
    (void)state;
    for (enum injection i = FAIL_BEFORE; i < INJECTIONS; i++) {
        print_message("%s\n", injection_text(i));
        sweep_all(&(struct sweep){.injection = i, .unhealthy = true, .dies = true});
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_that_fails_is_undone),
        cmocka_unit_test(a_call_that_fails_after_its_effect_is_undone),
        cmocka_unit_test(crash_before),
        cmocka_unit_test(crash_after),
        cmocka_unit_test(crash_other),
        cmocka_unit_test(crash_both),
        cmocka_unit_test(cancel),
        cmocka_unit_test(sick),
        cmocka_unit_test(dead),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
