/* Containers of named networks move in each mode, with both IP families at once: nothing is lost
 * and no connection is reset. Needs root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "net_actors.h"
#include "net_named.h"
#include "net_tcp.h"

#define PORT NAMED_PORT
#define AFTER_MS 20.0

#define ROUNDS 10
#define FIRST_MS 500 /* a solicitation that nobody hears is repeated after 1 s */

/* ---- a new container ---- */

static void test_first_question(void **state)
{
    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        struct scene s = named_scene(FM_NETWORK_OVERLAY);
        struct echo echo;
        echo_start(&echo, s.a, NAMED_IP6, PORT);
        assert_true(named_answered(s.client, NAMED_IP6, FIRST_MS));
        echo_stop(&echo);
        named_scene_stop(FM_NETWORK_OVERLAY);
    }
}

/* ---- UDP ---- */

static struct prober probes[2];

struct move {
    enum fm_network_mode mode;
    unsigned hold_ms; /* 0: at once */
    bool commit;
};

/* The longest time in which no answer came. */
static double silence_ms(const struct prober *p)
{
    uint64_t longest = 0;
    uint64_t last = 0;
    for (unsigned i = 0; i < p->count; i++) {
        if (last && p->got_us[i] > last && p->got_us[i] - last > longest)
            longest = p->got_us[i] - last;
        last = p->got_us[i] > last ? p->got_us[i] : last;
    }
    return (double)longest / 1000.0;
}

static bool move_both_families(const struct move *m)
{
    static const char *const ips[] = {NAMED_IP, NAMED_IP6};
    struct scene s = named_scene(m->mode);
    struct echo here[2], there[2];
    for (int i = 0; i < 2; i++) {
        echo_start(&here[i], s.a, ips[i], PORT);
        echo_start(&there[i], s.b, ips[i], PORT);
        assert_true(named_answered(s.client, ips[i], 2500)); /* a question that comes too early is
                                                          asked again */
        echo_freeze(&there[i]);
    }
    uint64_t prepare = CALL(host_a, LAB_HOLD_PREPARE, NAMED_SERVER).us;
    for (int i = 0; i < 2; i++)
        prober_start(&probes[i], s.client, ips[i], PORT, 1200);
    lab_sleep_ms(400);
    for (int i = 0; i < 2; i++)
        echo_freeze(&here[i]);
    uint64_t frozen = fm_now_us();
    uint64_t engage = CALL(host_a, LAB_HOLD_ENGAGE).us;
    if (m->hold_ms)
        lab_sleep_ms(m->hold_ms);
    uint64_t resumed = fm_now_us();
    uint64_t switched;
    if (m->commit) {
        switched = CALL(host_b, LAB_ACTIVATE, NAMED_SERVER).us;
        for (int i = 0; i < 2; i++) {
            echo_hand_over(&here[i], &there[i]);
            echo_thaw(&there[i]);
        }
        named_forward(m->mode);
    } else {
        switched = CALL(host_a, LAB_HOLD_RELEASE).us;
        for (int i = 0; i < 2; i++)
            echo_thaw(&here[i]);
    }
    lab_sleep_ms(100);
    struct fm_hold_counters c = CALL(host_a, LAB_HOLD_END).counters;
    for (int i = 0; i < 2; i++)
        prober_finish(&probes[i], 1000);
    bool in_time = true;
    unsigned lost = 0;
    unsigned doubled = 0;
    for (int i = 0; i < 2; i++) {
        struct prober_result r = prober_judge(&probes[i], frozen, resumed);
        printf("  %s, %s after %u ms, IPv%d: silence %.1f ms, %u lost, %u twice, %u overtaken; "
               "last held one %.1f ms after\n",
               named_mode(m->mode), m->commit ? "commit" : "rollback", m->hold_ms, i ? 6 : 4,
               silence_ms(&probes[i]), r.lost, probes[i].duplicates, probes[i].overtaken,
               r.after_ms);
        lost += r.lost;
        doubled += probes[i].duplicates;
        in_time &= r.after_ms < AFTER_MS && silence_ms(&probes[i]) < m->hold_ms + AFTER_MS;
    }
    printf("    prepare %lu us, engage %lu us, %s %lu us; held %lu, forwarded %lu, released %lu, "
           "dropped %lu\n",
           prepare, engage, m->commit ? "activate" : "release", switched, c.held, c.forwarded,
           c.released, c.dropped);
    for (int i = 0; i < 2; i++) {
        if (m->commit)
            echo_thaw(&here[i]);
        else
            echo_thaw(&there[i]);
        echo_stop(&here[i]);
        echo_stop(&there[i]);
    }
    named_scene_stop(m->mode);
    assert_int_equal(lost, 0);
    if (m->mode == FM_NETWORK_MACVLAN) /* its switch and its capture are two things */
        in_time &= doubled <= 4;
    else
        assert_int_equal(doubled, 0);
    assert_int_equal(c.dropped, 0);
    if (m->hold_ms)
        assert_true(c.held >= 2 * (m->hold_ms - 30));
    return in_time;
}

static void move_in(enum fm_network_mode mode)
{
    ASSERT_IN_TIME(move_both_families(&(struct move){mode, 0, true}));
    ASSERT_IN_TIME(move_both_families(&(struct move){mode, 100, true}));
    ASSERT_IN_TIME(move_both_families(&(struct move){mode, 100, false}));
}

static void test_move_in_overlay(void **state)
{
    (void)state;
    move_in(FM_NETWORK_OVERLAY);
}

static void test_move_in_bridge(void **state)
{
    (void)state;
    move_in(FM_NETWORK_BRIDGE);
}

static void test_move_in_macvlan(void **state)
{
    (void)state;
    move_in(FM_NETWORK_MACVLAN);
}

/* ---- TCP ---- */

static void ask(int fd)
{
    char text[64] = "question";
    assert_int_equal(send(fd, text, sizeof(text), 0), sizeof(text));
    assert_int_equal(recv(fd, text, sizeof(text), MSG_WAITALL), sizeof(text));
}

/* As the handover does: the server's kernel on B asks nobody for the client's MAC. */
static void carry_neighbours(void)
{
    struct lab_request q = {.op = LAB_SET_NEIGHBOURS, NAMED_SERVER};
    struct lab_reply known = CALL(host_a, LAB_NEIGHBOURS, NAMED_SERVER);
    assert_non_null(strstr(known.json, "\"10.89.0.9\""));
    assert_non_null(strstr(known.json, "\"fd00:89::9\""));
    snprintf(q.json, sizeof(q.json), "%.4000s", known.json);
    lab_call(&host_b, q);
}

/* A request in mid-hold on a connection of each family; both go on where the server goes on. */
static bool move_connections(enum fm_network_mode mode, bool commit)
{
    static const char *const ips[] = {NAMED_IP, NAMED_IP6};
    struct scene s = named_scene(mode);
    struct tcp_server servers[2];
    int clients[2];
    char text[64] = "question";
    for (int i = 0; i < 2; i++) {
        tcp_server_listen(&servers[i], s.a, ips[i], PORT, TCP_ECHO);
        clients[i] = tcp_client(s.client, ips[i], PORT);
        tcp_server_accept(&servers[i]);
        for (int k = 0; k < 20; k++)
            ask(clients[i]);
    }
    CALL(host_a, LAB_HOLD_PREPARE, NAMED_SERVER);
    for (int i = 0; i < 2; i++)
        tcp_server_freeze(&servers[i]);
    CALL(host_a, LAB_HOLD_ENGAGE);
    lab_sleep_ms(50);
    for (int i = 0; i < 2; i++)
        assert_int_equal(send(clients[i], text, sizeof(text), 0), sizeof(text));
    lab_sleep_ms(50);
    if (commit)
        carry_neighbours();
    for (int i = 0; commit && i < 2; i++)
        tcp_server_move(&servers[i], s.b);
    uint64_t resumed = fm_now_us();
    if (commit) {
        CALL(host_b, LAB_ACTIVATE, NAMED_SERVER);
        named_forward(mode);
    } else {
        CALL(host_a, LAB_HOLD_RELEASE);
    }
    double after[2];
    for (int i = 0; i < 2; i++)
        tcp_server_thaw(&servers[i]);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(recv(clients[i], text, sizeof(text), MSG_WAITALL), sizeof(text));
        after[i] = (double)(fm_now_us() - resumed) / 1000.0;
    }
    CALL(host_a, LAB_HOLD_END);
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 20; k++)
            ask(clients[i]); /* no reset, and the place stays known */
    printf("  TCP, %s, %s: answered %.2f ms (IPv4), %.2f ms (IPv6) after the resumption, %u and %u "
           "retransmissions\n",
           named_mode(mode), commit ? "commit" : "rollback", after[0], after[1],
           tcp_retransmissions(clients[0]), tcp_retransmissions(clients[1]));
    for (int i = 0; i < 2; i++) {
        close(clients[i]);
        tcp_server_stop(&servers[i]);
    }
    named_scene_stop(mode);
    return after[0] < AFTER_MS && after[1] < AFTER_MS;
}

static void test_connections(void **state)
{
    (void)state;
    for (int mode = FM_NETWORK_OVERLAY; mode <= FM_NETWORK_MACVLAN; mode++) {
        ASSERT_IN_TIME(move_connections((enum fm_network_mode)mode, true));
        ASSERT_IN_TIME(move_connections((enum fm_network_mode)mode, false));
    }
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
        cmocka_unit_test(test_first_question), cmocka_unit_test(test_move_in_overlay),
        cmocka_unit_test(test_move_in_bridge), cmocka_unit_test(test_move_in_macvlan),
        cmocka_unit_test(test_connections),
    };
    return cmocka_run_group_tests_name("fabric-moves", tests, NULL, NULL);
}
