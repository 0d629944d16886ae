/* Named networks: what they refuse, survive and leave behind, that they are apart, and that their
 * containers move in each mode with both IP families. Needs root. */
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
#include "base/text.h"
#include "net_actors.h"
#include "net_named.h"
#include "net_tcp.h"
#include "network/address.h"

#define PORT 7004
#define AFTER_MS 20.0

/* ---- define and undefine ---- */

static char *snapshot(const struct lab_host *host)
{
    return lab_sh(host->netns,
                  "ip -o link | sed 's/^[0-9]*: //; s/[@:].*mtu/ mtu/; s/ state.*//' | "
                  "sort; ip -o addr | sed 's/^[0-9]*: //; s/scope.*//' | grep -v "
                  "fe80 | sort; bridge fdb | grep 'dst ' | sort");
}

static struct lab_reply try_define(const struct fm_network_spec *spec)
{
    struct lab_request q = {.op = LAB_DEFINE, .spec = *spec};
    return lab_try(&host_a, q);
}

static void test_life_of_a_network(void **state)
{
    (void)state;
    lab_host_start(&host_a, 1);
    open_fabric(&host_a);
    CALL(host_a, LAB_PEER, .host = "192.0.2.2", .flag = true);
    fm_autofree char *before = snapshot(&host_a);
    CALL(host_a, LAB_UNDEFINE, .network = NAMED); /* missing is fine */

    struct fm_network_spec spec = named_overlay();
    struct lab_reply r = try_define(&spec);
    printf("  define: %.1f ms\n", (double)r.us / 1000.0);
    assert_int_equal(r.rc, 0);
    fm_autofree char *defined = snapshot(&host_a);
    assert_non_null(strstr(defined, "10.89.0.1/24"));
    assert_non_null(strstr(defined, "fd00:89::1/64"));
    assert_non_null(strstr(defined, "mtu 1450"));
    CALL(host_a, LAB_PEER, .host = "192.0.2.3", .flag = true);
    fm_autofree char *flood =
        lab_sh(host_a.netns, "bridge fdb | grep -c '00:00:00:00:00:00.*dst 192.0.2.[23] '");
    assert_int_equal(atoi(flood), 4); /* two peers, one of them from before, in two networks */
    CALL(host_a, LAB_PEER, .host = "192.0.2.3", .flag = false);
    assert_int_equal(try_define(&spec).rc, 0);
    fm_autofree char *again = snapshot(&host_a);
    assert_string_equal(again, defined);

    CALL(host_a, LAB_STAGE, NAMED_SERVER, .flag = true);
    CALL(host_a, LAB_HOLD_PREPARE, NAMED_SERVER);
    assert_int_equal(try_define(&spec).rc, 0); /* and leaves the hold alone */
    CALL(host_a, LAB_HOLD_ENGAGE);
    CALL(host_a, LAB_HOLD_RELEASE);
    assert_int_equal(CALL(host_a, LAB_HOLD_END).counters.dropped, 0);
    r = TRY(host_a, LAB_UNDEFINE, .network = NAMED);
    printf("  %s\n", r.text);
    assert_int_equal(r.rc, -FM_E_REFUSED);
    assert_non_null(strstr(r.text, "'server'"));

    lab_host_kill(&host_a); /* the next daemon takes over what is there */
    lab_host_restart(&host_a);
    open_fabric(&host_a);
    r = TRY(host_a, LAB_STAGE, NAMED_SERVER, .flag = true);
    assert_int_equal(r.rc, -FM_E_NOT_FOUND);
    assert_non_null(strstr(r.text, "no network 'blue'"));
    r = TRY(host_a, LAB_UNDEFINE, .network = NAMED);
    assert_int_equal(r.rc, -FM_E_REFUSED); /* though nobody has defined it yet */
    assert_int_equal(try_define(&spec).rc, 0);
    CALL(host_a, LAB_STAGE, NAMED_SERVER, .flag = true);
    CALL(host_a, LAB_UNSTAGE, NAMED_SERVER);
    fm_autofree char *taken = snapshot(&host_a);
    assert_string_equal(taken, defined);
    CALL(host_a, LAB_UNDEFINE, .network = NAMED);
    CALL(host_a, LAB_UNDEFINE, .network = NAMED);
    fm_autofree char *after = snapshot(&host_a);
    assert_string_equal(after, before);

    assert_int_equal(try_define(&spec).rc, 0);
    lab_host_kill(&host_a);
    lab_host_restart(&host_a);
    open_fabric(&host_a);
    CALL(host_a, LAB_UNDEFINE, .network = NAMED); /* removes what an earlier daemon made */
    fm_autofree char *forgotten = snapshot(&host_a);
    assert_string_equal(forgotten, before);
    lab_host_stop(&host_a);
}

static void test_refused_networks(void **state)
{
    (void)state;
    lab_host_start(&host_a, 1);
    open_fabric(&host_a);
    free(lab_sh(host_a.netns,
                "ip link add plain type veth peer name plain2; ip link set plain up; "
                "ip link add tree type bridge stp_state 1; ip link add mine type bridge; "
                "ip link set plain2 master mine; "
                "ip link add other type vxlan id 99 dstport 4789 local 192.0.2.1"));
    struct fm_network_spec blue = named_overlay();
    assert_int_equal(try_define(&blue).rc, 0);
    fm_autofree char *before = snapshot(&host_a);
    char blue_bridge[16];
    fm_network_if_name("fmb", NAMED, blue_bridge);
    const struct fm_network_spec good = {.name = "red", .subnet = "10.90.0.0/24", .vni = 8};
#define BUT(...)                                                                                   \
    {                                                                                              \
        .name = "red", .subnet = "10.90.0.0/24", __VA_ARGS__                                       \
    }
    struct {
        struct fm_network_spec spec;
        int code;
        const char *says;
    } bad[] = {
        {{.name = NAMED, .subnet = "10.90.0.0/24", .vni = 8}, FM_E_EXISTS, "with other settings"},
        {{.name = "default", .subnet = "10.90.0.0/24", .vni = 8}, FM_E_EXISTS, "other settings"},
        {{.name = "red", .subnet = "10.89.0.128/25", .vni = 8},
         FM_E_EXISTS,
         "overlaps 10.89.0.0/24 of network 'blue'"},
        {{.name = "red", .subnet = "10.0.0.0/8", .vni = 8}, FM_E_EXISTS, "overlaps"},
        {{.name = "red", .subnet = "fd00:89::/80", .vni = 8}, FM_E_EXISTS, "overlaps"},
        {{.name = "red", .subnet = "192.0.2.0/24", .vni = 8}, FM_E_INVALID, "own address"},
        {BUT(.vni = 77), FM_E_EXISTS, "VNI 77 of network 'red' is that of network 'blue'"},
        {BUT(.vni = 42), FM_E_EXISTS, "network 'default'"},
        {BUT(.vni = 99), FM_E_EXISTS, "is used by interface other"},
        {BUT(.vni = 8, .mtu = 1500), FM_E_INVALID, "1450 is the most"},
        {BUT(.vni = 8, .mtu = 1200, .subnet6 = "fd00:90::/64"), FM_E_INVALID, "IPv6"},
        {BUT(.mode = FM_NETWORK_BRIDGE, .parent = "nowhere"), FM_E_INVALID, "missing"},
        {BUT(.mode = FM_NETWORK_BRIDGE, .parent = "plain"), FM_E_INVALID, "is not a bridge"},
        {BUT(.mode = FM_NETWORK_BRIDGE, .parent = "tree"), FM_E_REFUSED, "stp_state 0"},
        {BUT(.mode = FM_NETWORK_MACVLAN, .parent = "lo"), FM_E_INVALID, "Ethernet"},
        {BUT(.mode = FM_NETWORK_MACVLAN, .parent = "plain2"), FM_E_REFUSED, "is a port"},
        {BUT(.mode = FM_NETWORK_MACVLAN, .parent = "plain", .mtu = 9000), FM_E_INVALID, "above"},
        {BUT(.mode = FM_NETWORK_BRIDGE), FM_E_INVALID, "of network 'blue'"},
    };
    snprintf(bad[FM_COUNT(bad) - 1].spec.parent, 16, "%s", blue_bridge);
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct lab_reply r = try_define(&bad[i].spec);
        printf("  %s\n", r.text);
        assert_int_equal(r.rc, -bad[i].code);
        assert_non_null(strstr(r.text, bad[i].says));
        fm_autofree char *after = snapshot(&host_a);
        assert_string_equal(after, before);
    }

    /* What has our names and is not ours. */
    char bridge[16];
    char vxlan[16];
    fm_network_if_name("fmb", "red", bridge);
    fm_network_if_name("fmx", "red", vxlan);
    static const struct {
        const char *make, *says;
    } foreign[] = {
        {"ip link add $name type veth", "is not a bridge"},
        {"ip link add $name type bridge; ip link set $name alias uplink", "is not ours"},
        {"ip link add $name type bridge; ip link set $name alias 'fleximigrate network green'",
         "belongs to network 'green'"},
    };
    for (size_t i = 0; i < FM_COUNT(foreign); i++) {
        free(lab_sh(host_a.netns, "name=%s; %s", bridge, foreign[i].make));
        struct lab_reply r = try_define(&good);
        printf("  %s\n", r.text);
        assert_int_equal(r.rc, -FM_E_EXISTS);
        assert_non_null(strstr(r.text, foreign[i].says));
        free(lab_sh(host_a.netns, "ip link del %s", bridge));
    }
    free(lab_sh(host_a.netns, "ip link add %s type bridge", vxlan));
    assert_int_equal(try_define(&good).rc, -FM_E_EXISTS);
    free(lab_sh(host_a.netns, "! ip link show %s 2>/dev/null; ip link del %s", bridge, vxlan));
    assert_int_equal(try_define(&good).rc, 0);
    assert_int_equal(TRY(host_a, LAB_UNDEFINE, .network = "default").rc, -FM_E_REFUSED);
    lab_host_stop(&host_a);
}

static void test_refused_endpoints(void **state)
{
    (void)state;
    lab_host_start(&host_a, 1);
    open_fabric(&host_a);
    struct fm_network_spec blue = named_overlay();
    assert_int_equal(try_define(&blue).rc, 0);
    static const struct {
        const char *network, *ip, *ip6, *says;
        int code;
    } bad[] = {
        {"green", "10.89.0.5", "", "no network 'green'", FM_E_NOT_FOUND},
        {NAMED, "10.88.0.5", "", "outside of the subnet 10.89.0.0/24", FM_E_INVALID},
        {NAMED, "10.89.0.5", "fd00:99::5", "outside of the subnet fd00:89::/64", FM_E_INVALID},
        {NAMED, "10.89.0.5", "fd00:89::1", "gateway", FM_E_INVALID},
        {NAMED, "10.89.0.5", "fd00:89::", "reserved", FM_E_INVALID},
        {NAMED, "10.89.0.5", "10.89.0.6", "has to be of IPv4", FM_E_INVALID},
        {NAMED, "fd00:89::5", "fd00:89::6", "has to be of IPv4", FM_E_INVALID},
        {"", "10.88.0.5", "fd00:88::5", "outside of the subnet 10.88.0.0/16", FM_E_INVALID},
        {NAMED, "", "", "has no address", FM_E_INVALID},
    };
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct lab_request q = {.op = LAB_ENDPOINT, .name = "server"};
        snprintf(q.network, sizeof(q.network), "%s", bad[i].network);
        snprintf(q.ip, sizeof(q.ip), "%s", bad[i].ip);
        snprintf(q.ip6, sizeof(q.ip6), "%s", bad[i].ip6);
        struct lab_reply r = lab_try(&host_a, q);
        assert_int_equal(r.rc, -bad[i].code);
        assert_non_null(strstr(r.text, bad[i].says));
    }
    struct lab_reply six =
        CALL(host_a, LAB_ENDPOINT, .network = NAMED, .name = "server", .ip = NAMED_IP6);
    assert_string_equal(six.ep.ip, "fd00:89::5/64");
    assert_string_equal(six.ep.gateway, "fd00:89::1");
    assert_string_equal(six.ep.ip6, "");

    CALL(host_a, LAB_STAGE, NAMED_SERVER, .flag = true);
    struct lab_reply r = TRY(host_a, LAB_STAGE, .network = NAMED, .name = "other",
                             .ip = "10.89.0.6", .ip6 = NAMED_IP6);
    printf("  %s\n", r.text);
    assert_int_equal(r.rc, -FM_E_EXISTS);
    r = TRY(host_a, LAB_STAGE, .name = "server", .ip = "10.88.0.5");
    printf("  %s\n", r.text);
    assert_int_equal(r.rc, -FM_E_EXISTS);
    lab_host_stop(&host_a);
}

/* ---- apart, and together ---- */

static bool answered(const char *netns, const char *ip, unsigned patience_ms)
{
    struct sockaddr_storage address;
    socklen_t len = net_address(ip, PORT, &address);
    fm_autoclose int fd = lab_socket(netns, address.ss_family, SOCK_DGRAM);
    struct timeval patience = {.tv_sec = patience_ms / 1000,
                               .tv_usec = (long)(patience_ms % 1000) * 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    char byte = 'x';
    assert_int_equal(connect(fd, (struct sockaddr *)&address, len), 0);
    return send(fd, &byte, 1, 0) == 1 && recv(fd, &byte, 1, 0) == 1;
}

static void test_networks_are_apart(void **state)
{
    (void)state;
    struct scene s = named_scene(FM_NETWORK_OVERLAY);
    const struct fm_network_spec red = {.name = "red", .subnet = "10.90.0.0/24", .vni = 8};
    lab_call(&host_a, (struct lab_request){.op = LAB_DEFINE, .spec = red});
    lab_call(&host_c, (struct lab_request){.op = LAB_DEFINE, .spec = red});
    struct lab_reply here =
        CALL(host_a, LAB_STAGE, .network = "red", .name = "red-a", .ip = "10.90.0.5", .flag = true);
    struct lab_reply there =
        CALL(host_c, LAB_STAGE, .network = "red", .name = "red-c", .ip = "10.90.0.9", .flag = true);
    struct echo blue4, blue6, red4;
    echo_start(&blue4, s.a, NAMED_IP, PORT);
    echo_start(&blue6, s.a, NAMED_IP6, PORT);
    echo_start(&red4, here.ep.netns, "10.90.0.5", PORT);
    assert_true(answered(s.client, NAMED_IP, 1000));
    assert_true(answered(s.client, NAMED_IP6, 1000));
    assert_true(answered(there.ep.netns, "10.90.0.5", 1000)); /* flooded: nobody has told it */
    /* With an address of the other network they still do not hear each other: here, and between
     * hosts. */
    free(lab_sh(here.ep.netns, "ip addr add 10.89.0.77/24 dev eth0"));
    free(lab_sh(there.ep.netns, "ip addr add 10.89.0.78/24 dev eth0; "
                                "ip addr add fd00:89::78/64 dev eth0 nodad"));
    assert_false(answered(here.ep.netns, NAMED_IP, 200));
    assert_false(answered(there.ep.netns, NAMED_IP, 200));
    assert_false(answered(there.ep.netns, NAMED_IP6, 200));
    assert_true(answered(s.client, NAMED_IP, 1000));
    echo_stop(&blue4);
    echo_stop(&blue6);
    echo_stop(&red4);
    named_scene_stop(FM_NETWORK_OVERLAY);
}

static json_t *described(struct lab_host *host, const char *network)
{
    struct lab_reply r = lab_call(host, (struct lab_request){.op = LAB_DESCRIBE});
    json_auto_t *all = json_loads(r.json, 0, NULL);
    assert_non_null(all);
    size_t i;
    json_t *net;
    json_array_foreach(json_object_get(all, "networks"), i, net)
    {
        if (fm_streq(json_string_value(json_object_get(net, "name")), network))
            return json_incref(net);
    }
    return NULL;
}

static void assert_port(struct lab_host *host, bool there, bool open)
{
    json_auto_t *net = described(host, NAMED);
    json_t *port = json_array_get(json_object_get(net, "ports"), 0);
    assert_int_equal(port != NULL, there);
    if (!port)
        return;
    assert_string_equal(json_string_value(json_object_get(port, "container")), "server");
    assert_string_equal(json_string_value(json_object_get(port, "ip")), NAMED_IP);
    assert_string_equal(json_string_value(json_object_get(port, "ip6")), NAMED_IP6);
    assert_string_equal(json_string_value(json_object_get(port, "mac")), "02:fd:0a:59:00:05");
    assert_int_equal(json_is_true(json_object_get(port, "open")), open);
}

static void describe_in(enum fm_network_mode mode)
{
    named_scene(mode);
    assert_port(&host_a, true, true);
    assert_port(&host_b, true, false);
    json_auto_t *net = described(&host_b, NAMED);
    assert_string_equal(json_string_value(json_object_get(net, "mode")), named_mode(mode));
    json_t *remotes = json_object_get(net, "remotes");
    json_t *peers = json_object_get(net, "peers");
    json_t *devices = json_object_get(net, "devices");
    assert_int_equal(json_array_size(devices), mode == FM_NETWORK_OVERLAY ? 2 : 1);
    assert_int_equal(json_array_size(remotes), mode == FM_NETWORK_OVERLAY ? 2 : 0);
    assert_int_equal(json_array_size(peers), mode == FM_NETWORK_OVERLAY ? 2 : 0);
    if (mode == FM_NETWORK_OVERLAY) {
        fm_autofree char *text = json_dumps(remotes, JSON_COMPACT | JSON_SORT_KEYS);
        assert_non_null(strstr(text, "{\"host\":\"192.0.2.1\",\"mac\":\"02:fd:0a:59:00:05\"}"));
        assert_non_null(strstr(text, "{\"host\":\"192.0.2.3\",\"mac\":\"02:fd:0a:59:00:09\"}"));
        json_auto_t *other = described(&host_b, "default");
        assert_int_equal(json_array_size(json_object_get(other, "remotes")), 0);
        CALL(host_b, LAB_SET_REMOTE, NAMED_SERVER);
        json_auto_t *less = described(&host_b, NAMED);
        assert_int_equal(json_array_size(json_object_get(less, "remotes")), 1);
    }
    CALL(host_a, LAB_DEACTIVATE, NAMED_SERVER);
    assert_port(&host_a, true, false);
    CALL(host_a, LAB_ACTIVATE, NAMED_SERVER);
    assert_port(&host_a, true, true);
    CALL(host_a, LAB_UNSTAGE, NAMED_SERVER);
    CALL(host_a, LAB_UNSTAGE, NAMED_SERVER);
    assert_port(&host_a, false, false);
    assert_int_equal(TRY(host_b, LAB_UNDEFINE, .network = NAMED).rc, -FM_E_REFUSED);
    CALL(host_a, LAB_UNDEFINE, .network = NAMED);
    assert_null(described(&host_a, NAMED));
    named_scene_stop(mode);
}

static void test_description(void **state)
{
    (void)state;
    describe_in(FM_NETWORK_OVERLAY);
    describe_in(FM_NETWORK_BRIDGE);
    describe_in(FM_NETWORK_MACVLAN);
}

/* ---- moves ---- */

static struct prober probes[2];

struct move {
    enum fm_network_mode mode;
    unsigned hold_ms; /* 0: at once */
    bool commit;
    unsigned may_double; /* frames around a switch that macvlan cannot tell apart */
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
        assert_true(answered(s.client, ips[i], 2500)); /* a question that comes too early is
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
    assert_true(doubled <= m->may_double);
    assert_int_equal(c.dropped, 0);
    if (m->hold_ms)
        assert_true(c.held >= 2 * (m->hold_ms - 30));
    return in_time;
}

static void move_in(enum fm_network_mode mode, unsigned may_double)
{
    ASSERT_IN_TIME(move_both_families(&(struct move){mode, 0, true, may_double}));
    ASSERT_IN_TIME(move_both_families(&(struct move){mode, 100, true, may_double}));
    ASSERT_IN_TIME(move_both_families(&(struct move){mode, 100, false, may_double}));
}

static void test_move_in_overlay(void **state)
{
    (void)state;
    move_in(FM_NETWORK_OVERLAY, 0);
}

static void test_move_in_bridge(void **state)
{
    (void)state;
    move_in(FM_NETWORK_BRIDGE, 0);
}

static void test_move_in_macvlan(void **state)
{
    (void)state;
    move_in(FM_NETWORK_MACVLAN, 4);
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
        cmocka_unit_test(test_life_of_a_network), cmocka_unit_test(test_refused_networks),
        cmocka_unit_test(test_refused_endpoints), cmocka_unit_test(test_networks_are_apart),
        cmocka_unit_test(test_description),       cmocka_unit_test(test_move_in_overlay),
        cmocka_unit_test(test_move_in_bridge),    cmocka_unit_test(test_move_in_macvlan),
        cmocka_unit_test(test_connections),
    };
    return cmocka_run_group_tests_name("fabric-networks", tests, NULL, NULL);
}
