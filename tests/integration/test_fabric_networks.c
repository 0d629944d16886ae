/* Named networks: what they refuse, survive and leave behind, and that they are apart. Needs root.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "net_actors.h"
#include "net_named.h"
#include "network/address.h"

#define PORT NAMED_PORT

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
    CALL(host_a, LAB_PEER, .host = "192.0.2.2", .flag = true);
    fm_autofree char *taken = snapshot(&host_a);
    assert_string_equal(taken, defined);
    CALL(host_a, LAB_UNDEFINE, .network = NAMED);
    CALL(host_a, LAB_UNDEFINE, .network = NAMED);
    fm_autofree char *after = snapshot(&host_a);
    assert_string_equal(after, before);

    char bridge[16];
    fm_network_if_name("fmb", NAMED, bridge); /* a daemon that died after its first request */
    free(lab_sh(host_a.netns, "ip link add %s type bridge", bridge));
    assert_int_equal(try_define(&spec).rc, 0);
    fm_autofree char *completed = snapshot(&host_a);
    assert_string_equal(completed, defined);
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
    assert_true(named_answered(s.client, NAMED_IP, 1000));
    assert_true(named_answered(s.client, NAMED_IP6, 1000));
    assert_true(
        named_answered(there.ep.netns, "10.90.0.5", 1000)); /* flooded: nobody has told it */
    /* With an address of the other network they still do not hear each other: here, and between
     * hosts. */
    free(lab_sh(here.ep.netns, "ip addr add 10.89.0.77/24 dev eth0"));
    free(lab_sh(there.ep.netns, "ip addr add 10.89.0.78/24 dev eth0; "
                                "ip addr add fd00:89::78/64 dev eth0 nodad"));
    assert_false(named_answered(here.ep.netns, NAMED_IP, 200));
    assert_false(named_answered(there.ep.netns, NAMED_IP, 200));
    assert_false(named_answered(there.ep.netns, NAMED_IP6, 200));
    assert_true(named_answered(s.client, NAMED_IP, 1000));
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

/* ---- what a daemon finds again ---- */

static void inspect_in(enum fm_network_mode mode)
{
    struct scene s = named_scene(mode);
    struct lab_reply staged = CALL(host_a, LAB_ENDPOINT, NAMED_SERVER);
    fm_autofree char *enter = fm_strf("--net=%s", s.a);
    pid_t pid = fork();
    if (pid == 0) {
        execlp("nsenter", "nsenter", enter, "sleep", "60", NULL);
        _exit(127);
    }
    struct lab_reply r = {0};
    while (!fm_streq(r.ep.netns, s.a)) { /* until it is in there */
        r = CALL(host_a, LAB_INSPECT, .number = (uint32_t)pid);
        lab_sleep_ms(1);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_true(r.found && !r.host);
    assert_string_equal(r.ep.name, "server");
    assert_string_equal(r.ep.network, NAMED);
    assert_string_equal(r.ep.ip, staged.ep.ip);
    assert_string_equal(r.ep.ip6, staged.ep.ip6);
    assert_string_equal(r.ep.mac, staged.ep.mac);
    assert_string_equal(r.ep.gateway, "10.89.0.1");
    assert_string_equal(r.ep.gateway6, "fd00:89::1");
    assert_string_equal(r.ep.host_if, staged.ep.host_if);
    assert_string_equal(r.ep.netns, staged.ep.netns);
    named_scene_stop(mode);
}

static void test_inspect(void **state)
{
    (void)state;
    inspect_in(FM_NETWORK_OVERLAY);
    inspect_in(FM_NETWORK_BRIDGE);
    inspect_in(FM_NETWORK_MACVLAN);
}

/* The container stays held by a daemon that died, and nothing of the hold stays. */
static void die_in_hold(enum fm_network_mode mode)
{
    struct scene s = named_scene(mode);
    struct echo echo[2];
    static const char *const ips[] = {NAMED_IP, NAMED_IP6};
    for (int i = 0; i < 2; i++) {
        echo_start(&echo[i], s.a, ips[i], PORT);
        assert_true(named_answered(s.client, ips[i], 2500));
    }
    CALL(host_a, LAB_HOLD_PREPARE, NAMED_SERVER);
    CALL(host_a, LAB_HOLD_ENGAGE);
    lab_host_kill(&host_a);
    for (int i = 0; i < 2; i++)
        assert_false(named_answered(s.client, ips[i], 100));
    lab_host_restart(&host_a);
    open_fabric(&host_a);
    struct lab_request define = {.op = LAB_DEFINE, .spec = named_spec(mode)};
    lab_call(&host_a, define);
    free(lab_sh(host_a.netns, "! ip -o link | grep fmhold"));
    CALL(host_a, LAB_STAGE, NAMED_SERVER); /* as at the beginning of a migration: stays held */
    for (int i = 0; i < 2; i++)
        assert_false(named_answered(s.client, ips[i], 100));
    CALL(host_a, LAB_STAGE, NAMED_SERVER, .flag = true);
    for (int i = 0; i < 2; i++)
        assert_true(named_answered(s.client, ips[i], 2500));
    for (int i = 0; i < 2; i++)
        echo_stop(&echo[i]);
    CALL(host_a, LAB_UNSTAGE, NAMED_SERVER);
    CALL(host_a, LAB_UNDEFINE, .network = NAMED);
    named_scene_stop(mode);
}

static void test_daemon_dies_in_hold(void **state)
{
    (void)state;
    die_in_hold(FM_NETWORK_OVERLAY);
    die_in_hold(FM_NETWORK_BRIDGE);
    die_in_hold(FM_NETWORK_MACVLAN);
}

/* A daemon starts anew, and the containers notice nothing. */
static void restart_in(enum fm_network_mode mode)
{
    struct scene s = named_scene(mode);
    struct echo echo;
    static struct prober probe;
    echo_start(&echo, s.a, NAMED_IP6, PORT);
    assert_true(named_answered(s.client, NAMED_IP6, 2500));
    prober_start(&probe, s.client, NAMED_IP6, PORT, 300);
    lab_sleep_ms(50);
    lab_host_kill(&host_a);
    lab_host_restart(&host_a);
    open_fabric(&host_a);
    struct lab_request define = {.op = LAB_DEFINE, .spec = named_spec(mode)};
    lab_call(&host_a, define);
    CALL(host_a, LAB_STAGE, NAMED_SERVER, .flag = true);
    assert_true(atomic_load(&probe.sent_count) < 300);
    prober_finish(&probe, 1000);
    assert_int_equal(prober_judge(&probe, 0, 0).lost, 0);
    echo_stop(&echo);
    named_scene_stop(mode);
}

static void test_restart(void **state)
{
    (void)state;
    restart_in(FM_NETWORK_OVERLAY);
    restart_in(FM_NETWORK_BRIDGE);
    restart_in(FM_NETWORK_MACVLAN);
}

/* A daemon of an earlier version made the container's veth. */
static void test_old_alias(void **state)
{
    (void)state;
    lab_host_start(&host_a, 1);
    open_fabric(&host_a);
    struct lab_reply r = CALL(host_a, LAB_STAGE, SERVER, .flag = true);
    free(lab_sh(host_a.netns, "ip link set %s alias 'fleximigrate server %s %s'", r.ep.host_if,
                r.ep.ip, r.ep.mac));
    lab_host_kill(&host_a);
    lab_host_restart(&host_a);
    open_fabric(&host_a);
    json_auto_t *net = described(&host_a, "default");
    json_t *port = json_array_get(json_object_get(net, "ports"), 0);
    assert_string_equal(json_string_value(json_object_get(port, "container")), "server");
    assert_true(json_is_true(json_object_get(port, "open")));
    r = TRY(host_a, LAB_STAGE, .name = "other", .ip = SERVER_IP);
    assert_int_equal(r.rc, -FM_E_EXISTS);
    CALL(host_a, LAB_STAGE, SERVER, .flag = true);
    fm_autofree char *alias = lab_sh(host_a.netns, "ip link | grep alias");
    assert_non_null(strstr(alias, " - default"));
    CALL(host_a, LAB_UNSTAGE, SERVER);
    lab_host_stop(&host_a);
}

/* Two containers on one parent hear each other, and clash as on a bridge. */
static void test_macvlan_neighbours(void **state)
{
    (void)state;
    struct scene s = named_scene(FM_NETWORK_MACVLAN);
    struct echo echo;
    echo_start(&echo, s.a, NAMED_IP6, PORT);
    struct lab_reply other = CALL(host_a, LAB_STAGE, .network = NAMED, .name = "other",
                                  .ip = "10.89.0.6", .ip6 = "fd00:89::6", .flag = true);
    assert_true(named_answered(other.ep.netns, NAMED_IP6, 2500));
    struct lab_reply r =
        TRY(host_a, LAB_STAGE, .network = NAMED, .name = "third", .ip = "10.89.0.6");
    printf("  %s\n", r.text);
    assert_int_equal(r.rc, -FM_E_EXISTS);
    r = TRY(host_a, LAB_STAGE, .name = "other", .ip = "10.88.0.6", .flag = true);
    printf("  %s\n", r.text);
    assert_int_equal(r.rc, -FM_E_EXISTS);
    assert_true(named_answered(other.ep.netns, NAMED_IP6, 2500)); /* and was left alone */
    /* What one sends the other in its hold waits, too. */
    static struct prober probe;
    CALL(host_a, LAB_HOLD_PREPARE, NAMED_SERVER);
    prober_start(&probe, other.ep.netns, NAMED_IP6, PORT, 300);
    lab_sleep_ms(100);
    echo_freeze(&echo); /* or it would answer into a port that is shut */
    CALL(host_a, LAB_HOLD_ENGAGE);
    lab_sleep_ms(100);
    CALL(host_a, LAB_HOLD_RELEASE);
    echo_thaw(&echo);
    struct fm_hold_counters c = CALL(host_a, LAB_HOLD_END).counters;
    prober_finish(&probe, 1000);
    unsigned lost = prober_judge(&probe, 0, 0).lost;
    printf("  beside it: held %lu, released %lu, %u lost, %u twice\n", c.held, c.released, lost,
           probe.duplicates);
    assert_true(c.held > 70);
    assert_int_equal(lost, 0);
    CALL(host_a, LAB_DEACTIVATE, NAMED_SERVER);
    assert_false(named_answered(other.ep.netns, NAMED_IP6, 100));
    CALL(host_a, LAB_ACTIVATE, NAMED_SERVER);
    assert_true(named_answered(other.ep.netns, NAMED_IP6, 2500));
    echo_stop(&echo);
    named_scene_stop(FM_NETWORK_MACVLAN);
}

static void test_ipv6_underlay(void **state)
{
    (void)state;
    free(lab_sh("/proc/self/ns/net", "ip link add six type veth peer name six2; ip link set six "
                                     "up; ip addr add fd00:aa::1/64 dev six nodad"));
    struct fm_network network = {0};
    struct fm_fabric_config config = {.run_dir = "/mnt/six",
                                      .bridge = "sixbr",
                                      .vxlan = "sixvx",
                                      .vni = 5,
                                      .underlay = "fd00:aa::1",
                                      .subnet = "fd00:88::/64",
                                      .gateway = "fd00:88::1"};
    struct fm_error err = {0};
    assert_int_equal(fm_fabric_open(&config, &network, &err), 0);
    struct fm_network_spec spec = named_overlay();
    assert_int_equal(network.ops->define(network.ctx, &spec, &err), 0);
    assert_int_equal(network.ops->peer(network.ctx, "fd00:aa::2", true, &err), 0);
    assert_int_equal(
        network.ops->set_remote(network.ctx, NAMED, "02:fd:0a:59:00:05", "fd00:aa::2", &err), 0);
    assert_int_equal(network.ops->peer(network.ctx, "192.0.2.2", true, &err), -FM_E_INVALID);
    json_auto_t *all = network.ops->describe(network.ctx, &err);
    fm_autofree char *text = json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS);
    assert_non_null(strstr(text, "\"mtu\":1430"));
    assert_null(strstr(text, "\"mtu\":1450"));
    assert_non_null(strstr(text, "{\"host\":\"fd00:aa::2\",\"mac\":\"02:fd:0a:59:00:05\"}"));
    assert_int_equal(network.ops->undefine(network.ctx, NAMED, &err), 0);
    fm_fabric_close(&network, true);
    free(lab_sh("/proc/self/ns/net", "! ip -o link | grep -E 'sixbr|sixvx|fmb|fmx'; ip link del "
                                     "six"));
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
        cmocka_unit_test(test_life_of_a_network),   cmocka_unit_test(test_refused_networks),
        cmocka_unit_test(test_refused_endpoints),   cmocka_unit_test(test_networks_are_apart),
        cmocka_unit_test(test_description),         cmocka_unit_test(test_inspect),
        cmocka_unit_test(test_daemon_dies_in_hold), cmocka_unit_test(test_restart),
        cmocka_unit_test(test_old_alias),           cmocka_unit_test(test_macvlan_neighbours),
        cmocka_unit_test(test_ipv6_underlay),
    };
    return cmocka_run_group_tests_name("fabric-networks", tests, NULL, NULL);
}
