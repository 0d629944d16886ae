/* The fabric between three hosts: an address moves, and nothing that was on its way is lost. Needs
 * root. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "net_actors.h"
#include "net_scene.h"

#define PORT 7000
#define HOLD_MS 150
#define AFTER_MS 20.0

static struct prober probe;

static void report(const char *what, const struct prober_result *r)
{
    printf("  %s: %u probes, %u lost, %u late (%u outside of the hold), %u twice, %u overtaken; "
           "worst %.1f ms, last held one answered %.1f ms after the resumption\n",
           what, probe.count, r->lost, r->late, r->late_outside, probe.duplicates, probe.overtaken,
           r->worst_ms, r->after_ms);
}

static bool judged_in_time(const struct prober_result *r)
{
    assert_int_equal(r->lost, 0);
    assert_int_equal(probe.duplicates, 0);
    return r->late_outside == 0 && r->after_ms < AFTER_MS && r->worst_ms < HOLD_MS + 2 * AFTER_MS;
}

static bool move_under_load(bool learning, const char *what)
{
    struct scene s = stage_all(learning);
    struct echo here, there;
    echo_start(&here, s.a, SERVER_IP, PORT);
    echo_start(&there, s.b, SERVER_IP, PORT);
    CALL(host_a, LAB_HOLD_PREPARE, SERVER);
    prober_start(&probe, s.client, SERVER_IP, PORT, PROBES_MAX);
    lab_sleep_ms(1000);

    echo_freeze(&here);
    echo_freeze(&there);
    uint64_t frozen = fm_now_us();
    uint64_t engage = CALL(host_a, LAB_HOLD_ENGAGE).us;
    lab_sleep_ms(HOLD_MS);
    uint64_t resumed = fm_now_us();
    uint64_t activate = CALL(host_b, LAB_ACTIVATE, SERVER).us;
    echo_hand_over(&here, &there);
    echo_thaw(&there);
    uint64_t relay = forward_to_b().us;
    lab_sleep_ms(50); /* C hears of it late: A relays meanwhile */
    if (!learning)
        set_remote(&host_c, SERVER_IP, host_b.address);
    set_remote(&host_a, SERVER_IP, host_b.address);
    lab_sleep_ms(200);
    struct fm_hold_counters counters = CALL(host_a, LAB_HOLD_END).counters;
    CALL(host_a, LAB_UNSTAGE, SERVER);

    prober_finish(&probe, 1000);
    struct prober_result r = prober_judge(&probe, frozen, resumed);
    report(what, &r);
    printf(
        "  engage %lu us, activate %lu us, forward %lu us; held %lu, forwarded %lu, dropped %lu\n",
        engage, activate, relay, counters.held, counters.forwarded, counters.dropped);
    echo_thaw(&here);
    echo_stop(&here);
    echo_stop(&there);
    stop_hosts();
    assert_true(counters.held >= HOLD_MS - 50 && counters.forwarded >= counters.held);
    assert_int_equal(counters.dropped, 0);
    return judged_in_time(&r);
}

static void test_commit_with_told_peers(void **state)
{
    (void)state;
    ASSERT_IN_TIME(move_under_load(false, "commit, peer is told 50 ms later"));
}

static void test_commit_with_learning_peer(void **state)
{
    (void)state;
    ASSERT_IN_TIME(move_under_load(true, "commit, peer learns from the gratuitous ARP alone"));
}

static bool roll_back_under_load(void)
{
    struct scene s = stage_all(false);
    struct echo here;
    echo_start(&here, s.a, SERVER_IP, PORT);
    CALL(host_a, LAB_HOLD_PREPARE, SERVER);
    prober_start(&probe, s.client, SERVER_IP, PORT, 2000);
    lab_sleep_ms(500);
    echo_freeze(&here);
    uint64_t frozen = fm_now_us();
    uint64_t engage = CALL(host_a, LAB_HOLD_ENGAGE).us;
    lab_sleep_ms(HOLD_MS);
    uint64_t resumed = fm_now_us();
    uint64_t release = CALL(host_a, LAB_HOLD_RELEASE).us;
    echo_thaw(&here);
    struct fm_hold_counters counters = CALL(host_a, LAB_HOLD_END).counters;
    prober_finish(&probe, 1000);
    struct prober_result r = prober_judge(&probe, frozen, resumed);
    report("rollback", &r);
    printf("  engage %lu us, release_local %lu us; held %lu, released %lu\n", engage, release,
           counters.held, counters.released);
    echo_stop(&here);
    stop_hosts();
    assert_true(counters.released >= counters.held && counters.held >= HOLD_MS - 50);
    return judged_in_time(&r);
}

static void test_rollback(void **state)
{
    (void)state;
    ASSERT_IN_TIME(roll_back_under_load());
}

int main(void)
{
    if (geteuid() != 0) {
        printf("skipped: needs root for network namespaces\n");
        return 77;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    lab_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commit_with_told_peers),
        cmocka_unit_test(test_commit_with_learning_peer),
        cmocka_unit_test(test_rollback),
    };
    return cmocka_run_group_tests_name("fabric", tests, NULL, NULL);
}
