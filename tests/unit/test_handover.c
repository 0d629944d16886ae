#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fakes/sweep.h"

static void a_failed_call_is_undone(void **state)
{
    (void)state;
    sweep_all(&(struct sweep){.injection = FAIL_BEFORE});
}

static void a_call_that_failed_after_its_effect_is_undone(void **state)
{
    (void)state;
    sweep_all(&(struct sweep){.injection = FAIL_AFTER});
}

static void a_cancelled_migration_is_undone_or_goes_to_its_end(void **state)
{
    (void)state;
    sweep_all(&(struct sweep){.injection = CANCEL});
}

static void the_way_back_of_a_sick_container_survives_failures(void **state)
{
    (void)state;
    sweep_all(&(struct sweep){.injection = FAIL_BEFORE, .unhealthy = true, .from = "VERIFY"});
    sweep_all(&(struct sweep){.injection = FAIL_AFTER, .unhealthy = true, .from = "VERIFY"});
}

static void the_restore_of_a_dead_container_survives_failures(void **state)
{
    (void)state;
    sweep_all(&(struct sweep){
        .injection = FAIL_BEFORE, .unhealthy = true, .dies = true, .from = "VERIFY"});
    sweep_all(&(struct sweep){
        .injection = FAIL_AFTER, .unhealthy = true, .dies = true, .from = "VERIFY"});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_call_is_undone),
        cmocka_unit_test(a_call_that_failed_after_its_effect_is_undone),
        cmocka_unit_test(a_cancelled_migration_is_undone_or_goes_to_its_end),
        cmocka_unit_test(the_way_back_of_a_sick_container_survives_failures),
        cmocka_unit_test(the_restore_of_a_dead_container_survives_failures),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
