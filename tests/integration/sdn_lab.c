#include "sdn_lab.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "net_lab.h"
#include "network/netns.h"

#define DIR "/mnt"
#define HERE "/proc/self/ns/net"
#define READY_MS 15000

static const char *const switches[] = {"swa", "swb"};

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "sdn_lab: %s\n", what);
    exit(1);
}

static void sh(const char *netns, const char *command)
{
    free(lab_sh(netns, "%s", command));
}

const char *sdn_lab_netns(const char *name)
{
    static char paths[5][32];
    static const char *const names[] = {"swa", "swb", "ca", "cb", "client"};
    for (size_t i = 0; i < FM_COUNT(names); i++) {
        if (!fm_streq(name, names[i]))
            continue;
        snprintf(paths[i], sizeof(paths[i]), DIR "/ns-%s", name);
        return paths[i];
    }
    die(name);
}

/* ---- daemons ---- */

static pid_t start(const char *netns, const char *const *command, const char *const *env)
{
    struct fm_strv argv = {0};
    struct fm_error err = {0};
    pid_t pid = 0;
    fm_strv_add(&argv, "nsenter");
    fm_strv_addf(&argv, "--net=%s", netns);
    fm_strv_add_all(&argv, command);
    struct fm_subprocess_options options = {.argv = (const char *const *)argv.items,
                                            .env = env,
                                            .stdin_fd = -1,
                                            .stdout_fd = -1,
                                            .stderr_fd = -1,
                                            .die_with_parent = true};
    if (fm_subprocess_start(&options, false, &pid, NULL, &err) < 0)
        die(err.text);
    fm_strv_free(&argv);
    return pid;
}

static pid_t start_controller(const char *app, const char *openflow_port, const char *listen)
{
    fm_autofree char *env_listen = fm_strf("FM_OFCTL_LISTEN=%s", listen);
    const char *command[] = {"/usr/bin/osken-manager",
                             "--ofp-listen-host",
                             "10.66.0.1",
                             "--ofp-tcp-listen-port",
                             openflow_port,
                             app,
                             NULL};
    const char *env[] = {env_listen, "PYTHONDONTWRITEBYTECODE=1",
                         "PYTHONPATH=" FM_TEST_SOURCE "/contrib/osken", NULL};
    return start(HERE, command, env);
}

static pid_t start_database(const char *name)
{
    fm_autofree char *netns = fm_strf("%s", sdn_lab_netns(name));
    fm_autofree char *db = fm_strf(DIR "/%s/conf.db", name);
    fm_autofree char *remote = fm_strf("--remote=punix:" DIR "/%s/db.sock", name);
    fm_autofree char *pidfile = fm_strf("--pidfile=" DIR "/%s/db.pid", name);
    fm_autofree char *control = fm_strf("--unixctl=" DIR "/%s/db.ctl", name);
    free(lab_sh(HERE,
                "mkdir " DIR "/%s; ovsdb-tool create %s /usr/share/openvswitch/vswitch.ovsschema",
                name, db));
    const char *command[] = {"ovsdb-server", db, remote, pidfile, control, NULL};
    return start(netns, command, NULL);
}

void sdn_lab_start_vswitchd(struct sdn_lab *lab, int which)
{
    const char *name = switches[which];
    fm_autofree char *remote = fm_strf("unix:" DIR "/%s/db.sock", name);
    fm_autofree char *pidfile = fm_strf("--pidfile=" DIR "/%s/sw.pid", name);
    fm_autofree char *control = fm_strf("--unixctl=" DIR "/%s/sw.ctl", name);
    fm_autofree char *run_dir = fm_strf("OVS_RUNDIR=" DIR "/%s", name);
    const char *command[] = {"ovs-vswitchd", remote, pidfile, control, NULL};
    const char *env[] = {run_dir, NULL};
    lab->vswitchd[which] = start(sdn_lab_netns(name), command, env);
}

static bool has_switch(const char *controller, unsigned dpid)
{
    fm_autofree char *out = lab_sh(
        HERE, "curl -s -m 2 %s/stats/switches | grep -qw %u && echo yes || true", controller, dpid);
    return fm_starts_with(out, "yes");
}

void sdn_lab_await(const char *controller, unsigned dpid, bool connected)
{
    uint64_t deadline = fm_now_ms() + READY_MS;
    while (has_switch(controller, dpid) != connected) {
        if (fm_now_ms() > deadline)
            die("the switches and the controller do not come together");
        lab_sleep_ms(20);
    }
}

static void await_file(const char *path)
{
    uint64_t deadline = fm_now_ms() + READY_MS;
    struct stat st;
    while (stat(path, &st) < 0) {
        if (fm_now_ms() > deadline)
            die(path);
        lab_sleep_ms(5);
    }
}

static void await_controller(const char *url)
{
    free(lab_sh(HERE,
                "for i in $(seq 300); do curl -sf -m 2 %s/stats/switches >&2 && exit; sleep 0.05; "
                "done; exit 1",
                url));
}

/* ---- wires ---- */

static void place(const char *end, const char *ns, const char *name)
{
    free(lab_sh(HERE, "ip link set %s netns %s", end, sdn_lab_netns(ns)));
    free(lab_sh(sdn_lab_netns(ns), "ip link set %s name %s up", end, name));
}

static void join(const char *ns_a, const char *if_a, const char *ns_b, const char *if_b)
{
    sh(HERE, "ip link add end-a type veth peer name end-b");
    place("end-a", ns_a, if_a);
    place("end-b", ns_b, if_b);
}

static void wire(void)
{
    static const char *const names[] = {"swa", "swb", "ca", "cb", "client"};
    struct fm_error err = {0};
    for (size_t i = 0; i < FM_COUNT(names); i++)
        if (fm_netns_create(sdn_lab_netns(names[i]), &err) < 0)
            die(err.text);
    sh(HERE, "ip link add mg type bridge; ip link set mg up; ip address add 10.66.0.1/24 dev mg");
    for (int i = 0; i < 2; i++)
        free(lab_sh(HERE,
                    "ip link add mg%d type veth peer name mgmt; ip link set mg%d master mg up; "
                    "ip link set mgmt netns " DIR "/ns-%s; nsenter --net=" DIR
                    "/ns-%s sh -ec 'ip link set mgmt up; ip address add 10.66.0.1%d/24 dev mgmt'",
                    i, i, switches[i], switches[i], i + 1));
    join("swa", "p1", "ca", "eth0");
    join("swb", "p1", "cb", "eth0");
    join("swa", "p2", "swb", "p2");
    join("swa", "p3", "client", "eth0");
    static const char member[] =
        "echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6; ethtool -K eth0 tx off >&2; "
        "ip link set eth0 address %s; ip address add %s/24 dev eth0; "
        "ip neighbour add %s lladdr %s dev eth0";
    free(lab_sh(sdn_lab_netns("ca"), member, CONTAINER_MAC, CONTAINER_IP, "10.67.0.9", CLIENT_MAC));
    free(lab_sh(sdn_lab_netns("cb"), member, CONTAINER_MAC, CONTAINER_IP, "10.67.0.9", CLIENT_MAC));
    free(lab_sh(sdn_lab_netns("client"), member, CLIENT_MAC, "10.67.0.9", CONTAINER_IP,
                CONTAINER_MAC));
}

static void make_bridge(const char *name, const char *dpid, const char *more)
{
    free(lab_sh(HERE,
                "ovs-vsctl --db=unix:" DIR "/%s/db.sock --timeout=10 add-br br0 "
                "-- set bridge br0 datapath_type=netdev fail-mode=secure "
                "other-config:datapath-id=%s other-config:disable-in-band=true "
                "-- add-port br0 p1 -- set interface p1 ofport_request=1 "
                "-- add-port br0 p2 -- set interface p2 ofport_request=2 %s "
                "-- set-controller br0 tcp:10.66.0.1:6653 tcp:10.66.0.1:6654",
                name, dpid, more));
}

void sdn_lab_start(struct sdn_lab *lab)
{
    lab_init();
    wire();
    lab->controller =
        start_controller(FM_TEST_SOURCE "/contrib/osken/ofctl_rest.py", "6653", "127.0.0.1:8080");
    lab->controller2 = start_controller(
        FM_TEST_SOURCE "/tests/integration/ofctl_without_barriers.py", "6654", "127.0.0.1:8081");
    for (int i = 0; i < 2; i++) {
        lab->database[i] = start_database(switches[i]);
        fm_autofree char *socket = fm_strf(DIR "/%s/db.sock", switches[i]);
        await_file(socket);
        sdn_lab_start_vswitchd(lab, i);
    }
    await_controller(CONTROLLER);
    await_controller(CONTROLLER_WITHOUT_BARRIERS);
    make_bridge("swa", "00000000000000a1",
                "-- add-port br0 p3 -- set interface p3 ofport_request=3");
    make_bridge("swb", "00000000000000b1", "");
    sdn_lab_await(CONTROLLER, SWA_DPID, true);
    sdn_lab_await(CONTROLLER, SWB_DPID, true);
    sdn_lab_await(CONTROLLER_WITHOUT_BARRIERS, SWA_DPID, true);
    sdn_lab_await(CONTROLLER_WITHOUT_BARRIERS, SWB_DPID, true);
}

static void stop(pid_t pid)
{
    if (pid <= 0)
        return;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

void sdn_lab_stop(struct sdn_lab *lab)
{
    stop(lab->controller);
    stop(lab->controller2);
    for (int i = 0; i < 2; i++) {
        stop(lab->vswitchd[i]);
        stop(lab->database[i]);
    }
}

/* ---- flows ---- */

void sdn_lab_flow(const char *sw, const char *command, const char *flow)
{
    free(lab_sh(HERE, "ovs-ofctl -O OpenFlow13 %s unix:" DIR "/%s/br0.mgmt '%s'", command, sw,
                flow));
}

void sdn_lab_reset(void)
{
    for (int i = 0; i < 2; i++) {
        const char *sw = switches[i];
        sdn_lab_flow(sw, "del-flows", "");
        sdn_lab_flow(sw, "add-flow", "cookie=0x77,priority=0,actions=NORMAL");
        /* What JSON parsers take for an integer ends below this cookie. */
        sdn_lab_flow(sw, "add-flow",
                     "cookie=0xfffffffffffffff0,priority=30000,dl_dst=" CONTAINER_MAC
                     ",tcp,tp_dst=23,actions=drop");
    }
    sdn_lab_flow("swa", "add-flow",
                 "cookie=0x77,priority=100,dl_dst=" CONTAINER_MAC ",actions=output:1");
    sdn_lab_flow("swb", "add-flow",
                 "cookie=0x77,priority=100,dl_dst=" CONTAINER_MAC ",actions=output:2");
    sdn_lab_flow("swa", "add-flow",
                 "cookie=0x77,priority=100,dl_dst=" CLIENT_MAC ",actions=output:3");
    sdn_lab_flow("swb", "add-flow",
                 "cookie=0x77,priority=100,dl_dst=" CLIENT_MAC ",actions=output:2");
}

char *sdn_lab_dump(const char *sw)
{
    if (!fm_streq(sw, "*"))
        return lab_sh(
            HERE, "ovs-ofctl -O OpenFlow13 --no-stats --sort dump-flows unix:" DIR "/%s/br0.mgmt",
            sw);
    fm_autofree char *a = sdn_lab_dump("swa");
    fm_autofree char *b = sdn_lab_dump("swb");
    return fm_strf("swa:\n%s\nswb:\n%s", a, b);
}

/* ---- the follower ---- */

struct fm_sdn_config sdn_lab_config(const char *const *controllers)
{
    static const char *const real[] = {CONTROLLER, NULL};
    static const struct fm_topology_switch list[] = {{"swa", SWA_DPID}, {"swb", SWB_DPID}};
    static const struct fm_topology_link links[] = {
        {"swa", "swb", 2, 2, {.latency_ms = 0.1, .capacity_bps = 1000000000}},
    };
    static const struct fm_topology_host hosts[] = {
        {.name = "host-a", .at = "swa", .port = 1},
        {.name = "host-b", .at = "swb", .port = 1},
    };
    return (struct fm_sdn_config){
        .controllers = controllers ? controllers : real,
        .timeout_ms = 2500,
        .topology = {list, FM_COUNT(list), links, FM_COUNT(links), hosts, FM_COUNT(hosts)},
        .queue = -1,
        .meter = -1,
    };
}

struct fm_move sdn_lab_move(const char *from, const char *to)
{
    bool there = fm_streq(to, "host-b");
    return (struct fm_move){
        .migration = "m1",
        .container = "web",
        .network = "lan",
        .mac = CONTAINER_MAC,
        .old_ip = CONTAINER_IP,
        .new_ip = CONTAINER_IP,
        .old_ip6 = "",
        .new_ip6 = "",
        .source = from,
        .destination = to,
        .source_address = there ? "10.67.0.101" : "10.67.0.102",
        .destination_address = there ? "10.67.0.102" : "10.67.0.101",
    };
}
