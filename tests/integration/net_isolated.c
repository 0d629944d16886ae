#include "net_isolated.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
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
#include "base/text.h"
#include "net_actors.h"

#define MTU 1450
#define DIR "/mnt" /* of the laboratory, and only seen there */

struct lab_host host, outside;
const char *const web = DIR "/web", *const other = DIR "/other", *const far = DIR "/far";

struct fm_ip parse_ip(const char *text)
{
    struct fm_ip ip;
    struct fm_error err = {0};
    if (fm_ip_parse("address", text, &ip, &err) < 0)
        fail_msg("%s", err.text);
    return ip;
}

int isolated_try(fm_netns_fn run, struct job *job, struct fm_error *err)
{
    *err = (struct fm_error){0};
    return fm_netns_run(host.netns, run, job, err);
}

void isolated_run(fm_netns_fn run, struct job *job)
{
    struct fm_error err;
    if (isolated_try(run, job, &err) < 0)
        fail_msg("%s", err.text);
}

int job_apply(void *ctx, struct fm_error *err)
{
    const struct job *job = ctx;
    const struct fm_firewall_network networks[] = {
        {"one", "fmbr1", parse_ip("10.91.255.1"), parse_ip("fd00:91::ff:1")},
        {"two", "fmbr2", parse_ip("10.92.255.1"), parse_ip("fd00:92::ff:1")},
    };
    struct fm_firewall firewall = {.networks = networks,
                                   .network_count = FM_COUNT(networks),
                                   .publications = job->list,
                                   .publication_count = job->count};
    return fm_firewall_apply(&firewall, err);
}

int job_describe(void *ctx, struct fm_error *err)
{
    struct job *job = ctx;
    return fm_firewall_describe(&job->described, &job->whole, err);
}

int job_remove(void *ctx, struct fm_error *err)
{
    (void)ctx;
    return fm_firewall_remove(err);
}

int job_make_port(void *ctx, struct fm_error *err)
{
    struct job *job = ctx;
    struct fm_host_port port = {.network = job->network, .bridge = job->bridge, .mtu = MTU};
    bool one = fm_streq(job->bridge, "fmbr1");
    port.subnet = parse_ip(one ? "10.91.0.0/16" : "10.92.0.0/16");
    port.subnet6 = parse_ip(one ? "fd00:91::/64" : "fd00:92::/64");
    if (job->address)
        port.address = parse_ip(job->address);
    if (job->address6)
        port.address6 = parse_ip(job->address6);
    struct fm_nl nl;
    uint8_t mac[6];
    int rc = fm_nl_open(&nl, err);
    if (rc < 0)
        return rc;
    rc = fm_host_port_make(&nl, &port, mac, err);
    if (rc == 0)
        fm_mac_format(mac, job->mac);
    fm_nl_close(&nl);
    return rc;
}

int job_read_port(void *ctx, struct fm_error *err)
{
    struct job *job = ctx;
    struct fm_nl nl;
    int rc = fm_nl_open(&nl, err);
    if (rc < 0)
        return rc;
    rc = fm_host_port_read(&nl, job->network, &job->state, err);
    fm_nl_close(&nl);
    return rc;
}

int job_remove_port(void *ctx, struct fm_error *err)
{
    struct job *job = ctx;
    struct fm_nl nl;
    int rc = fm_nl_open(&nl, err);
    if (rc < 0)
        return rc;
    rc = fm_host_port_remove(&nl, job->network, err);
    fm_nl_close(&nl);
    return rc;
}

void sh(const char *command)
{
    free(lab_sh(host.netns, "%s", command));
}

static void make_container(const char *netns, const char *port, const char *bridge, const char *ip,
                           const char *ip6)
{
    struct fm_error err = {0};
    if (fm_netns_create(netns, &err) < 0)
        fail_msg("%s", err.text);
    int net = ip[4] - '0'; /* 10.9N.… */
    free(lab_sh(host.netns,
                "ip link add %s mtu %d type veth peer name eth0 mtu %d netns %s; "
                "ip link set %s master %s up",
                port, MTU, MTU, netns, port, bridge));
    free(
        lab_sh(netns,
               "ip link set eth0 up; ip addr add %s/16 dev eth0; ip addr add %s/64 dev eth0 nodad; "
               "ip route add default via 10.9%d.0.1; ip -6 route add default via fd00:9%d::1",
               ip, ip6, net, net));
}

int isolated_start(void **state)
{
    (void)state;
    lab_host_start(&host, 1);
    lab_host_start(&outside, 2);
    sh("ip addr add " HOST6 "/64 dev u nodad; ip addr add 192.0.2.77/24 dev u; "
       "ip link add fmbr1 address 02:fb:0a:5b:00:01 mtu 1450 type bridge forward_delay 0; "
       "ip link add fmbr2 address 02:fb:0a:5c:00:01 mtu 1450 type bridge forward_delay 0; "
       "ip link set fmbr1 up; ip link set fmbr2 up; "
       "ip addr add 10.91.0.1/16 dev fmbr1; ip addr add fd00:91::1/64 dev fmbr1 nodad; "
       "ip addr add 10.92.0.1/16 dev fmbr2; ip addr add fd00:92::1/64 dev fmbr2 nodad; "
       "echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter; "
       "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
    make_container(web, "web", "fmbr1", WEB, WEB6);
    make_container(other, "other", "fmbr1", OTHER, "fd00:91::6");
    make_container(far, "far", "fmbr2", FAR, FAR6);
    free(lab_sh(outside.netns, "ip addr add " OUTSIDE6 "/64 dev u nodad; "
                               "ip route add default via " HOST "; "
                               "ip -6 route add default via " HOST6));
    isolated_run(job_make_port, &(struct job){.network = "one",
                                              .bridge = "fmbr1",
                                              .address = "10.91.255.1",
                                              .address6 = "fd00:91::ff:1"});
    isolated_run(job_make_port, &(struct job){.network = "two",
                                              .bridge = "fmbr2",
                                              .address = "10.92.255.1",
                                              .address6 = "fd00:92::ff:1"});
    return 0;
}

int isolated_stop(void **state)
{
    (void)state;
    struct fm_error ignored = {0};
    fm_netns_remove(web, &ignored);
    fm_netns_remove(other, &ignored);
    fm_netns_remove(far, &ignored);
    lab_host_stop(&outside);
    lab_host_stop(&host);
    return 0;
}

void publish(const struct fm_publication *list, size_t count)
{
    isolated_run(job_apply, &(struct job){.list = list, .count = count});
}

int listen_at(const char *netns, const char *ip, uint16_t port)
{
    struct sockaddr_storage address;
    socklen_t len = net_address(ip, port, &address);
    int fd = lab_socket(netns, address.ss_family, SOCK_STREAM);
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

int reach(const char *netns, const char *ip, uint16_t port)
{
    struct sockaddr_storage address;
    socklen_t len = net_address(ip, port, &address);
    fm_autoclose int fd = lab_socket(netns, address.ss_family, SOCK_STREAM | SOCK_NONBLOCK);
    if (connect(fd, (struct sockaddr *)&address, len) < 0 && errno != EINPROGRESS)
        return -errno;
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    if (poll(&wait, 1, PATIENCE_MS) == 0)
        return -ETIMEDOUT;
    int verdict = 0;
    socklen_t size = sizeof(verdict);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &verdict, &size);
    return verdict ? -verdict : FM_MOVE_FD(fd);
}

bool reaches(const char *netns, const char *ip, uint16_t port)
{
    fm_autoclose int fd = reach(netns, ip, port);
    return fd >= 0;
}

void accept_from(int listener, const char *ip)
{
    struct pollfd wait = {.fd = listener, .events = POLLIN};
    struct sockaddr_storage peer, wanted;
    socklen_t len = sizeof(peer);
    assert_int_equal(poll(&wait, 1, PATIENCE_MS), 1);
    fm_autoclose int fd = accept(listener, (struct sockaddr *)&peer, &len);
    assert_true(fd >= 0);
    net_address(ip, 0, &wanted);
    if (wanted.ss_family == AF_INET)
        assert_memory_equal(&((struct sockaddr_in *)&peer)->sin_addr,
                            &((struct sockaddr_in *)&wanted)->sin_addr, 4);
    else
        assert_memory_equal(&((struct sockaddr_in6 *)&peer)->sin6_addr,
                            &((struct sockaddr_in6 *)&wanted)->sin6_addr, 16);
}
