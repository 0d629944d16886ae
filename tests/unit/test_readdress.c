/* The handover of a container that gets another address, or moves to another network: every call
 * fails once, and every daemon dies once at every call. Afterwards there is one lease, it is that
 * of the host that runs the container, and everybody outside says the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "fakes/sweep.h"

static const struct sweep kinds[] = {
    {.new_address = "auto", .publish = true},
    {.new_address = "10.99.0.77", .new_network = "blue", .strategy = "post-copy"},
};

static void sweep_kind(const struct sweep *kind, struct sweep sweep)
{
    sweep.new_address = kind->new_address;
    sweep.new_network = kind->new_network;
    sweep.publish = kind->publish;
    sweep.strategy = kind->strategy;
    sweep_all(&sweep);
}

/* Of each kind the same sweep. */
static void sweep_kinds(struct sweep sweep)
{
    for (size_t i = 0; i < FM_COUNT(kinds); i++)
        sweep_kind(&kinds[i], sweep);
}

/* Every call once, each kind in its turn. */
static void share_among_kinds(struct sweep sweep)
{
    for (size_t i = 0; i < FM_COUNT(kinds); i++) {
        sweep.offset = (unsigned int)i;
        sweep.stride = FM_COUNT(kinds) - 1;
        sweep_kind(&kinds[i], sweep);
    }
}

static void failures_are_undone(void **state)
{
    (void)state;
    sweep_kinds((struct sweep){.injection = FAIL_BEFORE});
    sweep_kinds((struct sweep){.injection = FAIL_AFTER});
}

static void a_cancel_is_undone_or_comes_too_late(void **state)
{
    (void)state;
    share_among_kinds((struct sweep){.injection = CANCEL});
}

static void daemons_may_die(void **state)
{
    (void)state;
    for (enum injection i = CRASH_BEFORE; i <= CRASH_BOTH; i++)
        share_among_kinds((struct sweep){.injection = i, .linger = true});
}

static void the_way_back_leads_to_the_old_address(void **state)
{
    (void)state;
    for (enum injection i = FAIL_BEFORE; i <= CRASH_BOTH; i++)
        share_among_kinds((struct sweep){.injection = i, .unhealthy = true, .from = "VERIFY"});
}

static void a_dead_container_comes_back_to_its_old_address(void **state)
{
    (void)state;
    for (enum injection i = FAIL_BEFORE; i <= CRASH_BOTH; i++)
        share_among_kinds(
            (struct sweep){.injection = i, .unhealthy = true, .dies = true, .from = "VERIFY"});
}

static void a_daemon_may_die_again_in_its_recovery(void **state)
{
    (void)state;
    for (unsigned int after = 1; after <= 40; after += 8)
        sweep_kinds((struct sweep){.injection = CRASH_BOTH,
                                   .linger = after % 2,
                                   .from = "lease",
                                   .offset = after % 7,
                                   .stride = 6,
                                   .again_after = after,
                                   .again = CRASH_BEFORE});
}

static void a_call_may_fail_in_a_recovery(void **state)
{
    (void)state;
    for (unsigned int after = 2; after <= 40; after += 8)
        sweep_kinds((struct sweep){.injection = CRASH_BEFORE,
                                   .from = "lease",
                                   .offset = after % 7,
                                   .stride = 6,
                                   .again_after = after,
                                   .again = FAIL_BEFORE});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failures_are_undone),
        cmocka_unit_test(a_cancel_is_undone_or_comes_too_late),
        cmocka_unit_test(daemons_may_die),
        cmocka_unit_test(the_way_back_leads_to_the_old_address),
        cmocka_unit_test(a_dead_container_comes_back_to_its_old_address),
        cmocka_unit_test(a_daemon_may_die_again_in_its_recovery),
        cmocka_unit_test(a_call_may_fail_in_a_recovery),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
