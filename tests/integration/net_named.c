#include "net_named.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "base/cleanup.h"
#include "net_actors.h"

#define SWITCH "/proc/self/ns/net"

struct fm_network_spec named_overlay(void)
{
    return (struct fm_network_spec){
        .name = NAMED,
        .subnet = "10.89.0.0/24",
        .gateway = "10.89.0.1",
        .subnet6 = "fd00:89::/64",
        .gateway6 = "fd00:89::1",
        .vni = 77,
    };
}

struct fm_network_spec named_spec(enum fm_network_mode mode)
{
    struct fm_network_spec spec = named_overlay();
    spec.mode = mode;
    if (mode == FM_NETWORK_OVERLAY)
        return spec;
    spec.vni = 0;
    snprintf(spec.parent, sizeof(spec.parent), "%s", mode == FM_NETWORK_BRIDGE ? "ubr0" : "v");
    return spec;
}

const char *named_mode(enum fm_network_mode mode)
{
    static const char *const names[] = {"overlay", "bridge", "macvlan"};
    return names[mode];
}

static void plug(const struct lab_host *host, enum fm_network_mode mode)
{
    free(lab_sh(SWITCH,
                "ip link add v%d type veth peer name v netns %d; ip link set v%d master ul1 up",
                host->number, (int)host->pid, host->number));
    const char *own = mode == FM_NETWORK_BRIDGE
                          ? "ip link add ubr0 type bridge forward_delay 0; ip link set ubr0 up; "
                            "ip link set v master ubr0"
                          : "true";
    free(lab_sh(host->netns, "%s; ip link set v up", own));
}

static void plug_client(enum fm_network_mode mode)
{
    const char *interface = mode == FM_NETWORK_BRIDGE ? "ubr0" : "v";
    free(lab_sh(host_c.netns,
                "ip addr add 10.89.0.9/24 dev %s; ip addr add fd00:89::9/64 dev %s nodad",
                interface, interface));
}

static void tell(struct lab_host *host, const char *name, const char *ip, const char *ip6,
                 const struct lab_host *where)
{
    struct lab_request q = {.op = LAB_SET_REMOTE, .network = NAMED};
    snprintf(q.name, sizeof(q.name), "%s", name);
    snprintf(q.ip, sizeof(q.ip), "%s", ip);
    snprintf(q.ip6, sizeof(q.ip6), "%s", ip6);
    snprintf(q.host, sizeof(q.host), "%s", where->address);
    lab_call(host, q);
}

struct scene named_scene(enum fm_network_mode mode)
{
    struct scene s = {0};
    struct lab_host *const hosts[] = {&host_a, &host_b, &host_c};
    bool overlay = mode == FM_NETWORK_OVERLAY;
    start_hosts(false);
    if (!overlay)
        free(lab_sh(SWITCH, "ip link add ul1 type bridge forward_delay 0; ip link set ul1 up"));
    struct lab_request define = {.op = LAB_DEFINE, .spec = named_spec(mode)};
    for (int i = 0; i < 3; i++) {
        if (!overlay)
            plug(hosts[i], mode);
        if (overlay || i < 2)
            lab_call(hosts[i], define);
    }
    struct lab_reply a = CALL(host_a, LAB_STAGE, NAMED_SERVER, .flag = true);
    struct lab_reply b = CALL(host_b, LAB_STAGE, NAMED_SERVER);
    snprintf(s.a, sizeof(s.a), "%.120s", a.ep.netns);
    snprintf(s.b, sizeof(s.b), "%.120s", b.ep.netns);
    if (!overlay) {
        plug_client(mode);
        snprintf(s.client, sizeof(s.client), "%s", host_c.netns);
        return s;
    }
    struct lab_reply c = CALL(host_c, LAB_STAGE, .network = NAMED, .name = "client",
                              .ip = "10.89.0.9", .ip6 = "fd00:89::9", .flag = true);
    snprintf(s.client, sizeof(s.client), "%.120s", c.ep.netns);
    tell(&host_b, "server", NAMED_IP, NAMED_IP6, &host_a);
    tell(&host_c, "server", NAMED_IP, NAMED_IP6, &host_a);
    tell(&host_a, "client", "10.89.0.9", "fd00:89::9", &host_c);
    tell(&host_b, "client", "10.89.0.9", "fd00:89::9", &host_c);
    return s;
}

void named_forward(enum fm_network_mode mode)
{
    forward_to_b();
    if (mode == FM_NETWORK_OVERLAY)
        tell(&host_c, "server", NAMED_IP, NAMED_IP6, &host_b);
    tell(&host_a, "server", NAMED_IP, NAMED_IP6, &host_b); /* changes nothing in the other modes */
}

void named_scene_stop(enum fm_network_mode mode)
{
    stop_hosts();
    if (mode != FM_NETWORK_OVERLAY)
        free(lab_sh(SWITCH, "for i in 1 2 3; do ip link del v$i 2>/dev/null || true; done; "
                            "ip link del ul1"));
}

bool named_answered(const char *netns, const char *ip, unsigned patience_ms)
{
    struct sockaddr_storage address;
    socklen_t len = net_address(ip, NAMED_PORT, &address);
    fm_autoclose int fd = lab_socket(netns, address.ss_family, SOCK_DGRAM);
    struct timeval patience = {.tv_sec = patience_ms / 1000,
                               .tv_usec = (long)(patience_ms % 1000) * 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    char byte = 'x';
    return connect(fd, (struct sockaddr *)&address, len) == 0 && send(fd, &byte, 1, 0) == 1 &&
           recv(fd, &byte, 1, 0) == 1;
}
