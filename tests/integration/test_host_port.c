/* A host's own address in a network: made, taken over, answered for, removed. Needs root. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/ethernet.h>
#include <netinet/if_ether.h>
#include <netpacket/packet.h>
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
#include "net_isolated.h"

static void assert_port(const char *network, const char *address, const char *address6)
{
    struct job job = {.network = network};
    isolated_run(job_read_port, &job);
    assert_int_equal(job.state.found, address || address6);
    struct fm_ip none = {0}, ip = address ? parse_ip(address) : none;
    struct fm_ip ip6 = address6 ? parse_ip(address6) : none;
    assert_true(fm_ip_equal(&job.state.address, &ip));
    assert_true(fm_ip_equal(&job.state.address6, &ip6));
}

static void test_host_port(void **state)
{
    (void)state;
    struct job job = {.network = "one", .bridge = "fmbr1", .address = "10.91.255.1"};
    assert_port("one", "10.91.255.1", "fd00:91::ff:1");
    isolated_run(job_make_port, &job); /* only IPv4 now */
    assert_string_equal(job.mac, "02:fd:0a:5b:ff:01");
    assert_port("one", "10.91.255.1", NULL);
    fm_autofree char *once = lab_sh(host.netns, "ip addr; ip route; ip -6 route; bridge fdb");
    isolated_run(job_make_port, &job);
    fm_autofree char *twice = lab_sh(host.netns, "ip addr; ip route; ip -6 route; bridge fdb");
    assert_string_equal(once, twice);
    job.address = "10.91.255.2"; /* another lease */
    isolated_run(job_make_port, &job);
    assert_string_equal(job.mac, "02:fd:0a:5b:ff:02");
    assert_port("one", "10.91.255.2", NULL);
    job.address = NULL;
    job.address6 = "fd00:91::ff:3";
    isolated_run(job_make_port, &job);
    assert_port("one", NULL, "fd00:91::ff:3");
    char name[16];
    fm_host_port_name("one", name);
    free(lab_sh(host.netns, "ip link set fmp%s nomaster", name + 3));
    isolated_run(job_read_port, &job);
    assert_false(job.state.found);
    isolated_run(job_remove_port, &job);
    assert_port("one", NULL, NULL);
    isolated_run(job_remove_port, &job);
    assert_port("two", "10.92.255.1", "fd00:92::ff:1");
}

/* An ARP request of the container is answered, and by this MAC alone. */
static void assert_answers(const char *ip, const char *mac)
{
    fm_autoclose int fd = lab_socket(web, AF_PACKET, SOCK_RAW | SOCK_NONBLOCK);
    fm_autofree char *index = lab_sh(web, "ip -o link show eth0 | cut -d: -f1");
    struct sockaddr_ll all = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ARP), .sll_ifindex = atoi(index)};
    assert_int_equal(bind(fd, (struct sockaddr *)&all, sizeof(all)), 0);
    free(lab_sh(web, "ip neigh flush all"));
    assert_int_equal(reach(web, ip, 9), -ECONNREFUSED);
    lab_sleep_ms(20);
    struct fm_ip wanted = parse_ip(ip);
    unsigned answers = 0;
    struct {
        struct ether_header ether;
        struct ether_arp arp;
    } __attribute__((packed)) frame;
    while (recv(fd, &frame, sizeof(frame), 0) >= (ssize_t)sizeof(frame)) {
        char seen[FM_MAC_TEXT];
        if (frame.arp.ea_hdr.ar_op != htons(ARPOP_REPLY) ||
            memcmp(frame.arp.arp_spa, wanted.bytes, 4) != 0)
            continue;
        answers++;
        assert_string_equal(fm_mac_format(frame.arp.arp_sha, seen), mac);
    }
    assert_int_equal(answers, 1);
}

static void assert_neighbour(const char *ip, const char *mac)
{
    free(lab_sh(web, "ip neigh flush all"));
    assert_int_equal(reach(web, ip, 9), -ECONNREFUSED);
    fm_autofree char *entry = lab_sh(web, "ip neigh show %s", ip);
    assert_non_null(strstr(entry, mac));
}

/* Each address is answered for by the one interface that has it. */
static void test_neighbours(void **state)
{
    (void)state;
    assert_answers("10.91.0.1", "02:fb:0a:5b:00:01");
    assert_answers("10.91.255.1", "02:fd:0a:5b:ff:01");
    assert_neighbour("fd00:91::1", "02:fb:0a:5b:00:01");
    assert_neighbour("fd00:91::ff:1", "02:fd:0a:5b:ff:01");
    /* What the host sends from the gateway's address must not tie that to another MAC. */
    sh("ip neigh flush all");
    struct sockaddr_storage from, to;
    socklen_t len = net_address("10.91.0.1", 0, &from);
    fm_autoclose int fd = lab_socket(host.netns, AF_INET, SOCK_DGRAM);
    assert_int_equal(bind(fd, (struct sockaddr *)&from, len), 0);
    len = net_address(WEB, 9, &to);
    assert_int_equal(sendto(fd, "?", 1, 0, (struct sockaddr *)&to, len), 1);
    lab_sleep_ms(20);
    fm_autofree char *tied = lab_sh(web, "ip neigh show 10.91.0.1");
    assert_null(strstr(tied, "02:fd:"));
}

static void test_host_port_refuses(void **state)
{
    (void)state;
    struct fm_error err;
    struct job job = {.network = "one", .bridge = "fmbr1", .address = "10.99.0.1"};
    assert_int_equal(isolated_try(job_make_port, &job, &err), -FM_E_INVALID);
    job.address = "10.91.0.0";
    assert_int_equal(isolated_try(job_make_port, &job, &err), -FM_E_INVALID);
    job.address = NULL;
    assert_int_equal(isolated_try(job_make_port, &job, &err), -FM_E_INVALID);
    job.address = "10.91.255.1";
    job.bridge = "fmbr9";
    assert_int_equal(isolated_try(job_make_port, &job, &err), -FM_E_INVALID);
    assert_port("one", "10.91.255.1", "fd00:91::ff:1"); /* untouched */

    char name[16];
    fm_host_port_name("three", name);
    free(lab_sh(host.netns, "ip link add %s type bridge", name));
    job = (struct job){.network = "three", .bridge = "fmbr1", .address = "10.91.255.9"};
    assert_int_equal(isolated_try(job_make_port, &job, &err), -FM_E_EXISTS);
    assert_non_null(strstr(err.text, name));
    isolated_run(job_remove_port, &job); /* not ours: it stays */
    free(lab_sh(host.netns, "ip link show %s && ip link del %s", name, name));
}

/* A daemon that died in mid-making left a pair without a name of its owner. */
static void test_host_port_half_made(void **state)
{
    (void)state;
    char name[16];
    fm_host_port_name("three", name);
    free(lab_sh(host.netns, "ip link add %s type veth peer name fmp%s", name, name + 3));
    struct job job = {.network = "three", .bridge = "fmbr1", .address = "10.91.255.9"};
    isolated_run(job_make_port, &job);
    assert_port("three", "10.91.255.9", NULL);
    isolated_run(job_remove_port, &job);
    assert_port("three", NULL, NULL);
}

static const struct fm_publication udp4 = {"web", "one", "udp", 8080, 80, WEB, ""};
static const struct fm_publication both_families = {"web", "one", "tcp", 8080, 80, WEB, WEB6};

/* Routers' advertisements are heard as before, though the host forwards now. */
static void test_forwarding(void **state)
{
    (void)state;
    sh("echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding; "
       "echo 1 >/proc/sys/net/ipv6/conf/u/accept_ra; "
       "echo 0 >/proc/sys/net/ipv6/conf/fmbr1/accept_ra");
    publish(NULL, 0);
    const char *const show = "cat /proc/sys/net/ipv4/ip_forward "
                             "/proc/sys/net/ipv6/conf/all/forwarding "
                             "/proc/sys/net/ipv6/conf/u/accept_ra "
                             "/proc/sys/net/ipv6/conf/fmbr1/accept_ra | tr -d '\\n'";
    fm_autofree char *without = lab_sh(host.netns, "%s", show);
    assert_string_equal(without, "0010"); /* only when there is something published */
    publish(&udp4, 1);
    fm_autofree char *ipv4 = lab_sh(host.netns, "%s", show);
    assert_string_equal(ipv4, "1010"); /* and only the family that needs it */
    publish(&both_families, 1);
    fm_autofree char *both = lab_sh(host.netns, "%s", show);
    assert_string_equal(both, "1120");
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
        cmocka_unit_test_setup_teardown(test_host_port, isolated_start, isolated_stop),
        cmocka_unit_test_setup_teardown(test_neighbours, isolated_start, isolated_stop),
        cmocka_unit_test_setup_teardown(test_host_port_refuses, isolated_start, isolated_stop),
        cmocka_unit_test_setup_teardown(test_host_port_half_made, isolated_start, isolated_stop),
        cmocka_unit_test_setup_teardown(test_forwarding, isolated_start, isolated_stop),
    };
    return cmocka_run_group_tests_name("host-port", tests, NULL, NULL);
}
