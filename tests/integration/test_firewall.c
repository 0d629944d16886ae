/* One host with two networks: who reaches whom, and the table of rules that makes it so. Needs
 * root. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
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
#include "net_lab.h"
#include "network/firewall.h"
#include "network/host_port.h"
#include "network/netns.h"

#define MTU 1450
#define PATIENCE_MS 300
#define DIR "/mnt" /* of the laboratory, and only seen there */

/* Two networks with both families, of which `one` has two containers; and a neighbour outside. */
static struct lab_host host, outside;
static const char *const web = DIR "/web", *const other = DIR "/other", *const far = DIR "/far";
#define WEB "10.91.0.5"
#define WEB6 "fd00:91::5"
#define OTHER "10.91.0.6"
#define FAR "10.92.0.5"
#define FAR6 "fd00:92::5"
#define HOST "192.0.2.1"
#define HOST6 "2001:db8::1"
#define OUTSIDE "192.0.2.2"
#define OUTSIDE6 "2001:db8::2"

static const struct fm_publication published[] = {
    {"web", "one", "tcp", 8080, 80, WEB, WEB6},
    {"far", "two", "tcp", 8082, 80, FAR, FAR6},
    {"far", "two", "udp", 8082, 80, FAR, ""},
};

/* ---- the scene ---- */

static struct fm_ip parse(const char *text)
{
    struct fm_ip ip;
    struct fm_error err = {0};
    if (fm_ip_parse("address", text, &ip, &err) < 0)
        fail_msg("%s", err.text);
    return ip;
}

struct job {
    const struct fm_publication *list;
    size_t count;
    json_t *described;
    bool whole;
    const char *network, *bridge, *address, *address6; /* of a host port */
    struct fm_host_port_state state;
    char mac[FM_MAC_TEXT];
};

static int try_on_host(fm_netns_fn run, struct job *job, struct fm_error *err)
{
    *err = (struct fm_error){0};
    return fm_netns_run(host.netns, run, job, err);
}

static void on_host(fm_netns_fn run, struct job *job)
{
    struct fm_error err;
    if (try_on_host(run, job, &err) < 0)
        fail_msg("%s", err.text);
}

static int apply(void *ctx, struct fm_error *err)
{
    const struct job *job = ctx;
    const struct fm_firewall_network networks[] = {
        {"one", "fmbr1", parse("10.91.255.1"), parse("fd00:91::ff:1")},
        {"two", "fmbr2", parse("10.92.255.1"), parse("fd00:92::ff:1")},
    };
    struct fm_firewall firewall = {.networks = networks,
                                   .network_count = FM_COUNT(networks),
                                   .publications = job->list,
                                   .publication_count = job->count};
    return fm_firewall_apply(&firewall, err);
}

static int describe(void *ctx, struct fm_error *err)
{
    struct job *job = ctx;
    return fm_firewall_describe(&job->described, &job->whole, err);
}

static int take_away(void *ctx, struct fm_error *err)
{
    (void)ctx;
    return fm_firewall_remove(err);
}

static int make_port(void *ctx, struct fm_error *err)
{
    struct job *job = ctx;
    struct fm_host_port port = {.network = job->network, .bridge = job->bridge, .mtu = MTU};
    bool one = fm_streq(job->bridge, "fmbr1");
    port.subnet = parse(one ? "10.91.0.0/16" : "10.92.0.0/16");
    port.subnet6 = parse(one ? "fd00:91::/64" : "fd00:92::/64");
    if (job->address)
        port.address = parse(job->address);
    if (job->address6)
        port.address6 = parse(job->address6);
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

static int read_port(void *ctx, struct fm_error *err)
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

static int remove_port(void *ctx, struct fm_error *err)
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

static void sh(const char *command)
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

static int start(void **state)
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
    on_host(make_port, &(struct job){.network = "one",
                                     .bridge = "fmbr1",
                                     .address = "10.91.255.1",
                                     .address6 = "fd00:91::ff:1"});
    on_host(make_port, &(struct job){.network = "two",
                                     .bridge = "fmbr2",
                                     .address = "10.92.255.1",
                                     .address6 = "fd00:92::ff:1"});
    return 0;
}

static int stop(void **state)
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

static void publish(const struct fm_publication *list, size_t count)
{
    on_host(apply, &(struct job){.list = list, .count = count});
}

static int listen_at(const char *netns, const char *ip, uint16_t port)
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

/* A connection, or negative errno; -ETIMEDOUT when nobody answers. */
static int reach(const char *netns, const char *ip, uint16_t port)
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

static bool reaches(const char *netns, const char *ip, uint16_t port)
{
    fm_autoclose int fd = reach(netns, ip, port);
    return fd >= 0;
}

/* Who the server believes its latest client to be. */
static void accept_from(int listener, const char *ip)
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

/* ---- who reaches whom ---- */

static void test_isolation(void **state)
{
    (void)state;
    int servers[] = {listen_at(web, WEB, 80),
                     listen_at(web, WEB6, 80),
                     listen_at(far, FAR, 80),
                     listen_at(far, FAR6, 80),
                     listen_at(outside.netns, OUTSIDE, 90),
                     listen_at(web, "0.0.0.0", 91)};
    assert_true(reaches(web, FAR, 80)); /* as long as nobody forbids it */
    assert_true(reaches(web, FAR6, 80));
    publish(NULL, 0);
    assert_int_equal(reach(web, FAR, 80), -ETIMEDOUT);
    assert_int_equal(reach(web, FAR6, 80), -ETIMEDOUT);
    assert_int_equal(reach(far, WEB, 80), -ETIMEDOUT);
    assert_int_equal(reach(far, WEB6, 80), -ETIMEDOUT);
    assert_int_equal(reach(far, WEB, 91), -ETIMEDOUT);
    assert_true(reaches(other, WEB, 80)); /* within a network */
    assert_true(reaches(other, WEB6, 80));
    assert_true(reaches(web, OUTSIDE, 90)); /* what is the user's */
    assert_true(reaches(outside.netns, WEB, 80));
    assert_true(reaches(outside.netns, FAR6, 80));
    assert_true(reaches(host.netns, WEB, 80));
    assert_true(reaches(host.netns, FAR6, 80));
    for (size_t i = 0; i < FM_COUNT(servers); i++)
        close(servers[i]);
}

static void test_published(void **state)
{
    (void)state;
    fm_autoclose int web4 = listen_at(web, WEB, 80), web6 = listen_at(web, WEB6, 80);
    fm_autoclose int far4 = listen_at(far, FAR, 80);
    assert_int_equal(reach(outside.netns, HOST, 8080), -ECONNREFUSED);
    publish(published, FM_COUNT(published));

    assert_true(reaches(outside.netns, HOST, 8080));
    accept_from(web4, "10.91.255.1");
    assert_true(reaches(outside.netns, "192.0.2.77", 8080)); /* all addresses of the host */
    accept_from(web4, "10.91.255.1");
    assert_true(reaches(outside.netns, HOST6, 8080));
    accept_from(web6, "fd00:91::ff:1");
    assert_true(reaches(outside.netns, HOST, 8082));
    accept_from(far4, "10.92.255.1");
    assert_int_equal(reach(outside.netns, HOST, 8081), -ECONNREFUSED);

    /* From the host itself, from the container itself, from its neighbour, from another network. */
    assert_true(reaches(host.netns, HOST, 8080));
    accept_from(web4, "10.91.255.1");
    assert_true(reaches(host.netns, HOST6, 8080));
    accept_from(web6, "fd00:91::ff:1");
    assert_true(reaches(web, HOST, 8080));
    accept_from(web4, "10.91.255.1");
    assert_true(reaches(web, "10.91.0.1", 8080));
    accept_from(web4, "10.91.255.1");
    assert_true(reaches(other, HOST6, 8080));
    accept_from(web6, "fd00:91::ff:1");
    assert_true(reaches(far, "10.92.0.1", 8080));
    accept_from(web4, "10.91.255.1");
    assert_int_equal(reach(far, WEB, 80), -ETIMEDOUT); /* but not past it */

    /* Loopback stays the host's own. */
    assert_int_equal(reach(host.netns, "127.0.0.1", 8080), -ECONNREFUSED);
    assert_int_equal(reach(host.netns, "::1", 8080), -ECONNREFUSED);
}

/* A redirection of the user's to a container keeps the client's address, and masquerading works. */
static void test_users_own_rules(void **state)
{
    (void)state;
    fm_autoclose int unpublished = listen_at(web, WEB, 81);
    fm_autoclose int elsewhere = listen_at(outside.netns, OUTSIDE, 90);
    sh("nft 'add table ip mine; "
       "add chain ip mine in { type nat hook prerouting priority -110; }; "
       "add rule ip mine in tcp dport 9000 dnat to " WEB ":81; "
       "add chain ip mine out { type nat hook postrouting priority srcnat; }; "
       "add rule ip mine out oifname u ip saddr 10.91.0.0/16 masquerade'");
    fm_autofree char *before = lab_sh(host.netns, "nft list table ip mine");
    publish(published, FM_COUNT(published));
    assert_true(reaches(outside.netns, HOST, 9000));
    accept_from(unpublished, OUTSIDE);
    assert_true(reaches(web, OUTSIDE, 90));
    accept_from(elsewhere, HOST);
    publish(NULL, 0);
    on_host(take_away, NULL);
    fm_autofree char *after = lab_sh(host.netns, "nft list ruleset");
    assert_string_equal(before, after);
    sh("nft delete table ip mine");
}

/* ---- the table ---- */

static void assert_described(bool whole, size_t count)
{
    struct job job = {0};
    on_host(describe, &job);
    assert_int_equal(job.whole, whole);
    assert_int_equal(json_array_size(job.described), count);
    size_t i;
    json_t *entry;
    json_array_foreach(job.described, i, entry)
    {
        const struct fm_publication *p = &published[i];
        json_t *wanted = json_pack("{s:s,s:s,s:s,s:i,s:i,s:s,s:s}", "container", p->container,
                                   "network", p->network, "protocol", p->protocol, "host_port",
                                   p->host_port, "port", p->port, "ip", p->ip, "ip6", p->ip6);
        if (!json_equal(entry, wanted))
            fail_msg("publication %zu is read back as %s", i, json_dumps(entry, 0));
        json_decref(wanted);
    }
    json_decref(job.described);
}

static void test_describe(void **state)
{
    (void)state;
    assert_described(false, 0); /* no table */
    publish(NULL, 0);
    assert_described(true, 0);
    publish(published, FM_COUNT(published));
    assert_described(true, FM_COUNT(published));
    publish(published, 1);
    assert_described(true, 1);
    on_host(take_away, NULL);
    on_host(take_away, NULL);
    assert_described(false, 0);
}

static void test_same_twice(void **state)
{
    (void)state;
    publish(published, FM_COUNT(published));
    fm_autofree char *once = lab_sh(host.netns, "nft list ruleset");
    publish(published, FM_COUNT(published));
    fm_autofree char *twice = lab_sh(host.netns, "nft list ruleset");
    assert_string_equal(once, twice);
}

/* Whatever somebody does to the table is seen, and mended by applying again. */
static void test_mends(void **state)
{
    (void)state;
    const struct {
        const char *command;
        size_t left; /* publications */
    } harm[] = {
        {"flush chain inet fleximigrate published", 3},
        {"flush chain inet fleximigrate outgoing", 3},
        {"flush chain inet fleximigrate isolation", 3},
        {"insert rule inet fleximigrate incoming accept", 3},
        {"delete chain inet fleximigrate isolation", 3},
        {"add element inet fleximigrate tcp4 { 9999 : 10.91.0.5 . 80 }", 3},
        {"flush map inet fleximigrate udp4", 2},
        {"delete table inet fleximigrate", 0},
        {"flush ruleset", 0},
    };
    fm_autoclose int server = listen_at(web, WEB, 80);
    for (size_t i = 0; i < FM_COUNT(harm); i++) {
        publish(published, FM_COUNT(published));
        free(lab_sh(host.netns, "nft '%s'", harm[i].command));
        assert_described(harm[i].left == 2, harm[i].left);
        publish(published, FM_COUNT(published));
        assert_described(true, FM_COUNT(published));
        assert_true(reaches(outside.netns, HOST, 8080));
        assert_int_equal(reach(far, WEB, 80), -ETIMEDOUT);
    }
}

static void test_refuses(void **state)
{
    (void)state;
    publish(published, 1);
    struct fm_publication list[] = {published[0], published[0]};
    struct fm_error err;
    snprintf(list[1].container, sizeof(list[1].container), "rival");
    struct job job = {.list = list, .count = 2};
    assert_int_equal(try_on_host(apply, &job, &err), -FM_E_EXISTS);
    snprintf(list[1].container, sizeof(list[1].container), "x\" drop; #");
    assert_int_equal(try_on_host(apply, &job, &err), -FM_E_INVALID);
    assert_described(true, 1); /* what was there stays */

    /* A network without an address here, or unknown here: the others are published. */
    struct fm_publication lost[] = {published[0], published[1]};
    snprintf(lost[1].network, sizeof(lost[1].network), "three");
    publish(lost, 2);
    assert_described(true, 1);
}

/* Somebody else's rules change all the time. */
static void *change_rules(void *arg)
{
    atomic_bool *done = arg;
    while (!atomic_load(done))
        sh("for i in 1 2 3 4 5; do nft 'add table ip busy'; nft 'delete table ip busy'; done");
    return NULL;
}

static void test_beside_others(void **state)
{
    (void)state;
    atomic_bool done = false;
    pthread_t changer;
    assert_int_equal(pthread_create(&changer, NULL, change_rules, &done), 0);
    struct fm_error err = {0};
    int rc = 0;
    for (int i = 0; rc == 0 && i < 40; i++) {
        struct job job = {.list = published, .count = (size_t)i % 2 + 1};
        rc = try_on_host(apply, &job, &err);
        if (rc == 0 && (rc = try_on_host(describe, &job, &err)) == 0)
            json_decref(job.described);
    }
    atomic_store(&done, true);
    pthread_join(changer, NULL);
    if (rc < 0)
        fail_msg("%s", err.text);
}

/* Hundreds of ports, in one transaction. */
static void test_many(void **state)
{
    (void)state;
    enum { MANY = 1000 };
    struct fm_publication *many = fm_xcalloc(MANY, sizeof(*many));
    for (int i = 0; i < MANY; i++) {
        many[i] = published[0];
        many[i].host_port = (uint16_t)(20000 + i);
        snprintf(many[i].container, sizeof(many[i].container), "c%d", i);
        snprintf(many[i].ip, sizeof(many[i].ip), "10.91.%d.%d", 1 + i / 250, 2 + i % 250);
        snprintf(many[i].ip6, sizeof(many[i].ip6), "fd00:91::%x", 0x100 + i);
    }
    publish(many, MANY);
    struct job job = {0};
    on_host(describe, &job);
    assert_int_equal(json_array_size(job.described), MANY);
    assert_true(job.whole);
    json_decref(job.described);
    free(many);
}

/* ---- the host's own address ---- */

static void assert_port(const char *network, const char *address, const char *address6)
{
    struct job job = {.network = network};
    on_host(read_port, &job);
    assert_int_equal(job.state.found, address || address6);
    struct fm_ip none = {0}, ip = address ? parse(address) : none;
    struct fm_ip ip6 = address6 ? parse(address6) : none;
    assert_true(fm_ip_equal(&job.state.address, &ip));
    assert_true(fm_ip_equal(&job.state.address6, &ip6));
}

static void test_host_port(void **state)
{
    (void)state;
    struct job job = {.network = "one", .bridge = "fmbr1", .address = "10.91.255.1"};
    assert_port("one", "10.91.255.1", "fd00:91::ff:1");
    on_host(make_port, &job); /* only IPv4 now */
    assert_string_equal(job.mac, "02:fd:0a:5b:ff:01");
    assert_port("one", "10.91.255.1", NULL);
    fm_autofree char *once = lab_sh(host.netns, "ip addr; ip route; ip -6 route; bridge fdb");
    on_host(make_port, &job);
    fm_autofree char *twice = lab_sh(host.netns, "ip addr; ip route; ip -6 route; bridge fdb");
    assert_string_equal(once, twice);
    job.address = "10.91.255.2"; /* another lease */
    on_host(make_port, &job);
    assert_string_equal(job.mac, "02:fd:0a:5b:ff:02");
    assert_port("one", "10.91.255.2", NULL);
    job.address = NULL;
    job.address6 = "fd00:91::ff:3";
    on_host(make_port, &job);
    assert_port("one", NULL, "fd00:91::ff:3");
    char name[16];
    fm_host_port_name("one", name);
    free(lab_sh(host.netns, "ip link set fmp%s nomaster", name + 3));
    on_host(read_port, &job);
    assert_false(job.state.found);
    on_host(remove_port, &job);
    assert_port("one", NULL, NULL);
    on_host(remove_port, &job);
    assert_port("two", "10.92.255.1", "fd00:92::ff:1");
}

static void assert_neighbour(const char *ip, const char *mac)
{
    free(lab_sh(web, "ip neigh flush all"));
    assert_int_equal(reach(web, ip, 9), -ECONNREFUSED);
    lab_sleep_ms(20); /* for a second answer */
    fm_autofree char *seen = lab_sh(web,
                                    "ip neigh show %s | tr ' ' '\\n' | grep :.*:.*:.*:.*: | "
                                    "grep -v '^fd'",
                                    ip);
    assert_string_equal(fm_trim(seen), mac);
}

/* Each address is answered for by the one interface that has it. */
static void test_neighbours(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_neighbour("10.91.0.1", "02:fb:0a:5b:00:01");
        assert_neighbour("10.91.255.1", "02:fd:0a:5b:ff:01");
        assert_neighbour("fd00:91::1", "02:fb:0a:5b:00:01");
        assert_neighbour("fd00:91::ff:1", "02:fd:0a:5b:ff:01");
    }
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
    assert_int_equal(try_on_host(make_port, &job, &err), -FM_E_INVALID);
    job.address = "10.91.0.0";
    assert_int_equal(try_on_host(make_port, &job, &err), -FM_E_INVALID);
    job.address = NULL;
    assert_int_equal(try_on_host(make_port, &job, &err), -FM_E_INVALID);
    job.address = "10.91.255.1";
    job.bridge = "fmbr9";
    assert_int_equal(try_on_host(make_port, &job, &err), -FM_E_INVALID);
    assert_port("one", "10.91.255.1", "fd00:91::ff:1"); /* untouched */

    char name[16];
    fm_host_port_name("three", name);
    free(lab_sh(host.netns, "ip link add %s type bridge", name));
    job = (struct job){.network = "three", .bridge = "fmbr1", .address = "10.91.255.9"};
    assert_int_equal(try_on_host(make_port, &job, &err), -FM_E_EXISTS);
    assert_non_null(strstr(err.text, name));
    on_host(remove_port, &job); /* not ours: it stays */
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
    on_host(make_port, &job);
    assert_port("three", "10.91.255.9", NULL);
    on_host(remove_port, &job);
    assert_port("three", NULL, NULL);
}

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
    publish(&published[2], 1);
    fm_autofree char *ipv4 = lab_sh(host.netns, "%s", show);
    assert_string_equal(ipv4, "1010"); /* and only the family that needs it */
    publish(published, 1);
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
        cmocka_unit_test_setup_teardown(test_isolation, start, stop),
        cmocka_unit_test_setup_teardown(test_published, start, stop),
        cmocka_unit_test_setup_teardown(test_users_own_rules, start, stop),
        cmocka_unit_test_setup_teardown(test_describe, start, stop),
        cmocka_unit_test_setup_teardown(test_same_twice, start, stop),
        cmocka_unit_test_setup_teardown(test_mends, start, stop),
        cmocka_unit_test_setup_teardown(test_refuses, start, stop),
        cmocka_unit_test_setup_teardown(test_beside_others, start, stop),
        cmocka_unit_test_setup_teardown(test_many, start, stop),
        cmocka_unit_test_setup_teardown(test_host_port, start, stop),
        cmocka_unit_test_setup_teardown(test_neighbours, start, stop),
        cmocka_unit_test_setup_teardown(test_host_port_refuses, start, stop),
        cmocka_unit_test_setup_teardown(test_host_port_half_made, start, stop),
        cmocka_unit_test_setup_teardown(test_forwarding, start, stop),
    };
    return cmocka_run_group_tests_name("firewall", tests, NULL, NULL);
}
