#include <poll.h>
/* What the fabric makes, refuses, survives and leaves behind; and how long the switches take. Needs
 * root. */
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
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
#include "base/clock.h"
#include "base/text.h"
#include "net_actors.h"
#include "net_scene.h"
#include "net_tcp.h"
#include "network/netns.h"
#include "network/verifier.h"

#define PORT 7002
#define ROUNDS 40

static bool answered(const struct scene *s, const char *ip, unsigned patience_ms)
{
    struct sockaddr_storage address;
    socklen_t len = net_address(ip, PORT, &address);
    fm_autoclose int fd = lab_socket(s->client, address.ss_family, SOCK_DGRAM);
    struct timeval patience = {.tv_sec = patience_ms / 1000,
                               .tv_usec = (long)(patience_ms % 1000) * 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    char byte = 'x';
    assert_int_equal(connect(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(send(fd, &byte, 1, 0), 1);
    return recv(fd, &byte, 1, 0) == 1;
}

/* Everything a user could see of us on a host. */
static char *snapshot(const struct lab_host *host)
{
    return lab_sh(host->netns,
                  "ip -o link | sed 's/^[0-9]*: //; s/@.*mtu/ mtu/; s/ state.*//' | sort; "
                  "bridge fdb | grep -v permanent | sort; bridge fdb | grep 'dst ' | sort; "
                  "ls %s/netns 2>/dev/null || true",
                  lab_run_dir(host));
}

static void test_nothing_is_left(void **state)
{
    (void)state;
    lab_host_start(&host_a, 1);
    fm_autofree char *bare = snapshot(&host_a);
    open_fabric(&host_a);
    fm_autofree char *empty = snapshot(&host_a);
    for (int i = 0; i < 3; i++) {
        CALL(host_a, LAB_STAGE, SERVER, .flag = i != 1);
        CALL(host_a, LAB_HOLD_PREPARE, SERVER);
        if (i > 0)
            CALL(host_a, LAB_HOLD_ENGAGE);
        if (i > 1)
            CALL(host_a, LAB_HOLD_RELEASE);
        CALL(host_a, LAB_HOLD_END);
        CALL(host_a, LAB_UNSTAGE, SERVER);
        CALL(host_a, LAB_UNSTAGE, SERVER); /* missing is fine */
        fm_autofree char *after = snapshot(&host_a);
        assert_string_equal(after, empty);
    }
    set_remote(&host_a, SERVER_IP, "192.0.2.2");
    set_remote(&host_a, SERVER_IP, "");
    set_remote(&host_a, SERVER_IP, "");
    CALL(host_a, LAB_PEER, .host = "192.0.2.2", .flag = true);
    CALL(host_a, LAB_PEER, .host = "192.0.2.2", .flag = true);
    CALL(host_a, LAB_PEER, .host = "192.0.2.2", .flag = false);
    CALL(host_a, LAB_PEER, .host = "192.0.2.2", .flag = false);
    fm_autofree char *after = snapshot(&host_a);
    assert_string_equal(after, empty);
    CALL(host_a, LAB_CLOSE, .flag = true);
    fm_autofree char *closed = snapshot(&host_a);
    assert_string_equal(closed, bare);
    lab_host_stop(&host_a);
}

static void test_refusals(void **state)
{
    (void)state;
    lab_host_start(&host_a, 1);
    open_fabric(&host_a);
    static const struct {
        const char *name, *ip, *says;
    } bad[] = {
        {"server", "10.99.0.5",
         "address 10.99.0.5 of 'server' is outside of the subnet 10.88.0.0/16"},
        {"server", "10.88.0.1", "is the gateway's"},
        {"server", "10.88.255.255", "is reserved"},
        {"server", "10.88.0.0", "is reserved"},
        {"server", "somewhere", "is not an IP address"},
        {"server", "10.88.0.5/99", "bad prefix length"},
        {"../server", "10.88.0.5", "container"},
    };
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct lab_request q = {.op = LAB_ENDPOINT};
        snprintf(q.name, sizeof(q.name), "%s", bad[i].name);
        snprintf(q.ip, sizeof(q.ip), "%s", bad[i].ip);
        struct lab_reply r = lab_try(&host_a, q);
        assert_int_equal(r.rc, -FM_E_INVALID);
        assert_non_null(strstr(r.text, bad[i].says));
    }

    CALL(host_a, LAB_STAGE, SERVER, .flag = true);
    struct lab_reply r = TRY(host_a, LAB_STAGE, .name = "other", .ip = SERVER_IP);
    printf("  %s\n", r.text);
    assert_int_equal(r.rc, -FM_E_EXISTS);
    r = TRY(host_a, LAB_STAGE, .name = "server", .ip = "10.88.0.6");
    printf("  %s\n", r.text);
    assert_int_equal(r.rc, -FM_E_EXISTS);
    free(lab_sh(host_a.netns, "test ! -e %s/netns/other", lab_run_dir(&host_a)));
    CALL(host_a, LAB_UNSTAGE, SERVER);

    struct lab_reply ep = CALL(host_a, LAB_ENDPOINT, SERVER);
    free(lab_sh(host_a.netns, "ip link add %s type bridge", ep.ep.host_if));
    r = TRY(host_a, LAB_STAGE, SERVER);
    printf("  %s\n", r.text);
    assert_int_equal(r.rc, -FM_E_EXISTS);
    CALL(host_a, LAB_UNSTAGE, SERVER); /* and does not remove what is not ours */
    free(lab_sh(host_a.netns, "ip link del %s", ep.ep.host_if));

    r = TRY(host_a, LAB_HOLD_PREPARE, SERVER);
    printf("  %s\n", r.text);
    assert_int_equal(r.rc, -FM_E_NOT_FOUND);
    free(lab_sh(host_a.netns, "ip link del fmbr0"));
    r = TRY(host_a, LAB_STAGE, SERVER);
    printf("  %s\n", r.text);
    assert_true(r.rc < 0);
    assert_non_null(strstr(r.text, "bridge fmbr0 is gone"));
    lab_host_stop(&host_a);
}

/* A frozen container's kernel must not speak: neither by itself nor when the link twitches. */
static void test_no_leak_during_hold(void **state)
{
    (void)state;
    struct scene s = stage_all(false);
    struct lab_reply ep = CALL(host_a, LAB_ENDPOINT, SERVER);
    struct sockaddr_storage to;
    socklen_t len = net_address(CLIENT_IP, PORT, &to);
    fm_autoclose int listener = lab_socket(s.client, AF_INET, SOCK_DGRAM);
    fm_autoclose int speaker = lab_socket(s.a, AF_INET, SOCK_DGRAM);
    struct timeval patience = {.tv_usec = 300000};
    setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    assert_int_equal(bind(listener, (struct sockaddr *)&to, len), 0);
    char byte = 0;
    sendto(speaker, &byte, 1, 0, (struct sockaddr *)&to, len);
    assert_int_equal(recv(listener, &byte, 1, 0), 1);

    CALL(host_a, LAB_HOLD_PREPARE, SERVER);
    CALL(host_a, LAB_HOLD_ENGAGE);
    poll(NULL, 0, 40); /* the last words of a frozen kernel still go out for 10 ms */
    static const char *const twitches[] = {
        "ip link set $port txqueuelen 777",
        "ip link set $port mode dormant",
        "ip link set $port mode default",
        /* another port joins the bridge */
        ("ip link add noise type veth peer name noise2; ip link set noise2 up; "
         "ip link set noise master fmbr0 up; sleep 0.05; ip link del noise"),
    };
    for (size_t i = 0; i < FM_COUNT(twitches); i++) {
        free(lab_sh(host_a.netns, "port=%s; %s", ep.ep.host_if, twitches[i]));
        sendto(speaker, &byte, 1, 0, (struct sockaddr *)&to, len);
    }
    assert_true(recv(listener, &byte, 1, 0) < 0);
    CALL(host_a, LAB_HOLD_RELEASE); /* then it was true, and comes late */
    CALL(host_a, LAB_HOLD_END);
    sendto(speaker, &byte, 1, 0, (struct sockaddr *)&to, len);
    for (size_t i = 0; i < FM_COUNT(twitches) + 1; i++)
        assert_int_equal(recv(listener, &byte, 1, 0), 1);
    assert_true(recv(listener, &byte, 1, 0) < 0);

    /* And the place on B stays silent until it is activated. */
    fm_autoclose int early = lab_socket(s.b, AF_INET, SOCK_DGRAM);
    sendto(early, &byte, 1, 0, (struct sockaddr *)&to, len);
    assert_true(recv(listener, &byte, 1, 0) < 0);
    stop_hosts();
}

/* What it had to say just before counts as said, however short the hold is. */
static void last_words_arrive(bool commit)
{
    struct scene s = stage_all(false);
    struct sockaddr_storage to;
    socklen_t len = net_address(CLIENT_IP, PORT, &to);
    fm_autoclose int listener = lab_socket(s.client, AF_INET, SOCK_DGRAM);
    fm_autoclose int speaker = lab_socket(s.a, AF_INET, SOCK_DGRAM);
    struct timeval patience = {.tv_usec = 300000};
    setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    assert_int_equal(bind(listener, (struct sockaddr *)&to, len), 0);
    char byte = 0;
    sendto(speaker, &byte, 1, 0, (struct sockaddr *)&to, len);
    assert_int_equal(recv(listener, &byte, 1, 0), 1);

    CALL(host_a, LAB_HOLD_PREPARE, SERVER);
    CALL(host_a, LAB_HOLD_ENGAGE);
    sendto(speaker, &byte, 1, 0, (struct sockaddr *)&to, len);
    if (commit) {
        CALL(host_b, LAB_ACTIVATE, SERVER);
        forward_to_b();
    } else {
        CALL(host_a, LAB_HOLD_RELEASE);
    }
    assert_int_equal(recv(listener, &byte, 1, 0), 1);
    if (commit) { /* from then on it is silent */
        sendto(speaker, &byte, 1, 0, (struct sockaddr *)&to, len);
        assert_true(recv(listener, &byte, 1, 0) < 0);
    }
    CALL(host_a, LAB_HOLD_END);
    assert_true(recv(listener, &byte, 1, 0) < 0); /* once */
    stop_hosts();
}

static void test_last_words(void **state)
{
    (void)state;
    last_words_arrive(true);
    last_words_arrive(false);
}

static void test_daemon_dies_in_hold(void **state)
{
    (void)state;
    struct scene s = stage_all(false);
    struct echo echo;
    echo_start(&echo, s.a, SERVER_IP, PORT);
    assert_true(answered(&s, SERVER_IP, 1000));
    CALL(host_a, LAB_HOLD_PREPARE, SERVER);
    CALL(host_a, LAB_HOLD_ENGAGE);
    assert_false(answered(&s, SERVER_IP, 100));
    free(lab_sh(host_a.netns, "ip link show fmhold0"));
    lab_host_kill(&host_a);
    free(lab_sh(host_a.netns, "! ip link show fmhold0 2>/dev/null"));
    assert_false(answered(&s, SERVER_IP, 100)); /* the port stays shut */
    lab_host_restart(&host_a);
    open_fabric(&host_a);
    assert_false(answered(&s, SERVER_IP, 100));
    CALL(host_a, LAB_ACTIVATE, SERVER);
    assert_true(answered(&s, SERVER_IP, 1000));
    CALL(host_a, LAB_STAGE, SERVER, .flag = true); /* takes over what is there */
    assert_true(answered(&s, SERVER_IP, 1000));
    CALL(host_a, LAB_DEACTIVATE, SERVER);
    assert_false(answered(&s, SERVER_IP, 100));
    CALL(host_a, LAB_UNSTAGE, SERVER);
    fm_autofree char *links = lab_sh(host_a.netns, "ip -o link; bridge fdb");
    struct lab_reply ep = CALL(host_a, LAB_ENDPOINT, SERVER);
    assert_null(strstr(links, ep.ep.host_if));
    assert_null(strstr(links, ep.ep.mac));
    echo_stop(&echo);
    stop_hosts();
}

/* There and back, while A's hold of the first departure has not even ended. */
static void test_back_at_once(void **state)
{
    (void)state;
    struct scene s = stage_all(false);
    struct echo here, there;
    echo_start(&here, s.a, SERVER_IP, PORT);
    echo_start(&there, s.b, SERVER_IP, PORT);
    CALL(host_a, LAB_HOLD_PREPARE, SERVER);
    CALL(host_a, LAB_HOLD_ENGAGE);
    CALL(host_b, LAB_ACTIVATE, SERVER);
    forward_to_b();
    assert_true(answered(&s, SERVER_IP, 500)); /* C does not know yet: through the relay */
    CALL(host_b, LAB_DEACTIVATE, SERVER);
    CALL(host_a, LAB_ACTIVATE, SERVER);
    assert_true(answered(&s, SERVER_IP, 500));
    CALL(host_a, LAB_HOLD_END);
    assert_true(answered(&s, SERVER_IP, 500));
    echo_stop(&here);
    echo_stop(&there);
    stop_hosts();
}

static void test_limits(void **state)
{
    (void)state;
    struct scene s = stage_all(false);
    struct echo echo;
    echo_start(&echo, s.a, SERVER_IP, PORT);
    assert_true(answered(&s, SERVER_IP, 500));
    CALL(host_a, LAB_HOLD_PREPARE, SERVER, .number = 10);
    CALL(host_a, LAB_HOLD_ENGAGE);
    for (int i = 0; i < 30; i++)
        answered(&s, SERVER_IP, 1);
    CALL(host_a, LAB_HOLD_RELEASE);
    struct fm_hold_counters c = CALL(host_a, LAB_HOLD_END).counters;
    printf("  limit 10: held %lu, released %lu, dropped %lu\n", c.held, c.released, c.dropped);
    assert_int_equal(c.held, 10);
    assert_int_equal(c.dropped, 20);
    assert_true(c.released >= 10); /* and what came while it was released */
    assert_true(answered(&s, SERVER_IP, 500));
    echo_stop(&echo);
    stop_hosts();
}

/* Somebody who does not know the container's MAC yet asks in mid-hold; a lost question would be
 * repeated after 1 s. */
static bool newcomer(bool commit)
{
    struct scene s = stage_all(false);
    struct echo here, there;
    echo_start(&here, s.a, SERVER_IP, PORT);
    echo_start(&there, s.b, SERVER_IP, PORT);
    CALL(host_a, LAB_HOLD_PREPARE, SERVER);
    CALL(host_a, LAB_HOLD_ENGAGE);
    static struct prober probe;
    prober_start(&probe, s.client, SERVER_IP, PORT, 1);
    lab_sleep_ms(100);
    uint64_t resumed = fm_now_us();
    if (commit) {
        CALL(host_b, LAB_ACTIVATE, SERVER);
        forward_to_b();
    } else {
        CALL(host_a, LAB_HOLD_RELEASE);
    }
    prober_finish(&probe, 2000);
    double after = ((double)probe.got_us[0] - (double)resumed) / 1000.0;
    printf("  a newcomer in mid-hold is answered %.2f ms after the %s\n", after,
           commit ? "commit" : "rollback");
    CALL(host_a, LAB_HOLD_END);
    echo_stop(&here);
    echo_stop(&there);
    stop_hosts();
    assert_true(probe.got_us[0] != 0);
    return after < 20.0;
}

static void test_newcomer_in_hold(void **state)
{
    (void)state;
    ASSERT_IN_TIME(newcomer(false));
    ASSERT_IN_TIME(newcomer(true));
}

/* IPv6, beside the IPv4 fabric of the same hosts. */
static bool move_ipv6(void)
{
    struct lab_host *hosts[] = {&host_a, &host_b, &host_c};
    start_hosts(false);
    struct scene s = {0};
    for (size_t i = 0; i < FM_COUNT(hosts); i++) {
        CALL(*hosts[i], LAB_CLOSE);
        CALL(*hosts[i], LAB_OPEN, .name = "6", .ip = "fd00:88::/64", .host = "fd00:88::1",
             .number = 43);
        for (size_t k = 0; k < FM_COUNT(hosts); k++) {
            struct lab_request q = {.op = LAB_PEER, .flag = true};
            snprintf(q.host, sizeof(q.host), "%s", hosts[k]->address);
            lab_call(hosts[i], q); /* itself too: ignored */
        }
    }
#define SERVER6 .name = "six", .ip = "fd00:88::5"
    snprintf(s.a, sizeof(s.a), "%.120s", CALL(host_a, LAB_STAGE, SERVER6, .flag = true).ep.netns);
    snprintf(s.b, sizeof(s.b), "%.120s", CALL(host_b, LAB_STAGE, SERVER6).ep.netns);
    snprintf(s.client, sizeof(s.client), "%.120s",
             CALL(host_c, LAB_STAGE, .name = "asker", .ip = "fd00:88::9", .flag = true).ep.netns);
    struct echo here, there;
    echo_start(&here, s.a, "fd00:88::5", PORT);
    echo_start(&there, s.b, "fd00:88::5", PORT);
    static struct prober probe;
    CALL(host_a, LAB_HOLD_PREPARE, SERVER6);
    prober_start(&probe, s.client, "fd00:88::5", PORT, 600);
    lab_sleep_ms(200);
    echo_freeze(&here);
    echo_freeze(&there);
    uint64_t frozen = fm_now_us();
    CALL(host_a, LAB_HOLD_ENGAGE);
    lab_sleep_ms(100);
    uint64_t resumed = fm_now_us();
    CALL(host_b, LAB_ACTIVATE, SERVER6);
    echo_hand_over(&here, &there);
    echo_thaw(&there);
    forward_to_b();
    prober_finish(&probe, 1000);
    struct prober_result r = prober_judge(&probe, frozen, resumed);
    printf("  IPv6: %u lost, last held one answered %.1f ms after the resumption\n", r.lost,
           r.after_ms);
    CALL(host_a, LAB_HOLD_END);
    echo_thaw(&here);
    echo_stop(&here);
    echo_stop(&there);
    stop_hosts();
    assert_int_equal(r.lost, 0);
    return r.after_ms < 20.0;
}

static void test_ipv6_and_two_fabrics(void **state)
{
    (void)state;
    ASSERT_IN_TIME(move_ipv6());
}

static int compare_us(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t median(const char *what, uint64_t us[ROUNDS])
{
    qsort(us, ROUNDS, sizeof(us[0]), compare_us);
    printf("  %-14s %4lu us median, %4lu best, %5lu worst of %d\n", what, us[ROUNDS / 2], us[0],
           us[ROUNDS - 1], ROUNDS);
    return us[ROUNDS / 2];
}

static void test_hot_path(void **state)
{
    (void)state;
    struct scene s = stage_all(false);
    (void)s;
    uint64_t engage[ROUNDS], release[ROUNDS], forward[ROUNDS], activate[ROUNDS], deactivate[ROUNDS],
        remote[ROUNDS], prepare[ROUNDS], end[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        prepare[i] = CALL(host_a, LAB_HOLD_PREPARE, SERVER).us;
        engage[i] = CALL(host_a, LAB_HOLD_ENGAGE).us;
        release[i] = CALL(host_a, LAB_HOLD_RELEASE).us;
        CALL(host_a, LAB_HOLD_ENGAGE);
        forward[i] = forward_to_b().us;
        activate[i] = CALL(host_b, LAB_ACTIVATE, SERVER).us;
        deactivate[i] = CALL(host_b, LAB_DEACTIVATE, SERVER).us;
        CALL(host_a, LAB_ACTIVATE, SERVER);
        end[i] = CALL(host_a, LAB_HOLD_END).us;
        uint64_t started = fm_now_us();
        set_remote(&host_c, SERVER_IP, i % 2 ? host_a.address : host_b.address);
        remote[i] = fm_now_us() - started;
    }
    median("hold_prepare", prepare);
    median("hold_end", end);
    median("deactivate", deactivate);
    assert_true(median("set_remote", remote) < 1000);
    assert_true(median("hold_engage", engage) < 1000);
    assert_true(median("release_local", release) < 1000);
    assert_true(median("hold_forward", forward) < 1000);
    assert_true(median("activate", activate) < 1000);
    stop_hosts();
}

static void test_inspect(void **state)
{
    (void)state;
    struct scene s = stage_all(false);
    struct lab_reply staged = CALL(host_a, LAB_ENDPOINT, SERVER);
    fm_autofree char *enter = fm_strf("--net=%s", s.a);
    pid_t pid = fork();
    if (pid == 0) {
        execlp("nsenter", "nsenter", enter, "sleep", "60", NULL);
        _exit(127);
    }
    fm_autofree char *mine = fm_strf("/proc/%d/ns/net", (int)pid);
    struct stat want, have = {0};
    struct fm_error err = {0};
    assert_int_equal(fm_netns_identity(s.a, &want, &err), 0);
    for (int i = 0; i < 1000 && have.st_ino != want.st_ino; i++) {
        lab_sleep_ms(1);
        fm_netns_identity(mine, &have, &err);
    }
    struct lab_reply r = CALL(host_a, LAB_INSPECT, .number = (uint32_t)pid);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_true(r.found);
    assert_false(r.host);
    assert_string_equal(r.ep.name, "server");
    assert_string_equal(r.ep.ip, staged.ep.ip);
    assert_string_equal(r.ep.mac, staged.ep.mac);
    assert_string_equal(r.ep.gateway, "10.88.0.1");
    assert_string_equal(r.ep.ifname, "eth0");
    assert_string_equal(r.ep.host_if, staged.ep.host_if);
    assert_string_equal(r.ep.netns, staged.ep.netns);
    r = CALL(host_a, LAB_INSPECT, .number = (uint32_t)host_a.pid);
    assert_true(r.host && !r.found);
    stop_hosts();
}

static bool unrepair_once(void)
{
    struct scene s = stage_all(false);
    struct tcp_server server;
    tcp_server_listen(&server, s.a, SERVER_IP, PORT, TCP_ECHO);
    int client = tcp_client(s.client, SERVER_IP, PORT);
    tcp_server_accept(&server);
    tcp_server_freeze(&server);
    CALL(host_a, LAB_HOLD_PREPARE, SERVER);
    CALL(host_a, LAB_HOLD_ENGAGE);
    int on = TCP_REPAIR_ON;
    assert_int_equal(setsockopt(server.fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)), 0);
    char text[64] = "are you there?";
    assert_int_equal(send(client, text, sizeof(text), 0), sizeof(text));
    char byte;
    assert_true(recv(server.fd, &byte, 1, MSG_DONTWAIT) < 0 &&
                errno == EPERM); /* that is the harm */
    lab_sleep_ms(100);

    struct fm_network network = {0};
    struct fm_fabric_config config = {
        .run_dir = "/mnt/self", .bridge = "selfbr", .vxlan = "selfvx", .subnet = "10.89.0.0/16"};
    struct fm_error err = {0};
    assert_int_equal(fm_fabric_open(&config, &network, &err), 0); /* single host: no VXLAN */
    pid_t pids[] = {getpid(), 999999};
    uint64_t started = fm_now_us();
    assert_int_equal(network.ops->unrepair(network.ctx, pids, 2, &err), 0);
    printf("  unrepair: %lu us\n", fm_now_us() - started);
    fm_fabric_close(&network, true);
    int reuse = -1;
    socklen_t len = sizeof(reuse);
    getsockopt(server.fd, SOL_SOCKET, SO_REUSEADDR, &reuse, &len);
    assert_int_equal(reuse, 1); /* as its listener */

    started = fm_now_us();
    CALL(host_a, LAB_HOLD_RELEASE);
    tcp_server_thaw(&server);
    assert_int_equal(recv(client, text, sizeof(text), MSG_WAITALL), sizeof(text));
    double after = (double)(fm_now_us() - started) / 1000.0;
    printf("  a connection that was left in repair mode answers %.2f ms after the release\n",
           after);
    CALL(host_a, LAB_HOLD_END);
    close(client);
    tcp_server_stop(&server);
    stop_hosts();
    return after < 20.0;
}

static void test_unrepair(void **state)
{
    (void)state;
    ASSERT_IN_TIME(unrepair_once());
}

static void test_verifier(void **state)
{
    (void)state;
    struct scene s = stage_all(false);
    struct tcp_server server;
    tcp_server_listen(&server, s.a, SERVER_IP, PORT, TCP_ECHO);
    char report[256] = "";
    struct fm_error err = {0};
    struct fm_health_check check = {.kind = "tcp",
                                    .target = ":7002",
                                    .address = SERVER_IP,
                                    .netns = s.client,
                                    .attempts = 2,
                                    .interval_ms = 10,
                                    .timeout_ms = 1000};
    assert_int_equal(fm_verify_health(&check, report, &err), 0);
    printf("  %s\n", report);
    check.target = "tcp://:7003";
    assert_int_equal(fm_verify_health(&check, report, &err), -FM_E_FAILED);
    printf("  %s\n", err.text);
    assert_non_null(strstr(err.text, "Connection refused"));
    close(server.listener);

    fm_autofree char *html = fm_strf("%s/www", lab_run_dir(&host_a));
    fm_autofree char *enter = fm_strf("--net=%s", s.a);
    free(lab_sh(s.a, "mkdir -p %s; echo fine > %s/healthz", html, html));
    pid_t pid = fork();
    if (pid == 0) {
        execlp("nsenter", "nsenter", enter, "busybox", "httpd", "-f", "-p", "8080", "-h", html,
               NULL);
        _exit(127);
    }
    check.kind = "http";
    check.target = "http://:8080/healthz";
    check.attempts = 100;
    assert_int_equal(fm_verify_health(&check, report, &err), 0);
    printf("  %s\n", report);
    assert_non_null(strstr(report, "answered 200"));
    check.target = "http://:8080/missing";
    check.attempts = 3;
    assert_int_equal(fm_verify_health(&check, report, &err), -FM_E_FAILED);
    printf("  %s\n", err.text);
    assert_non_null(strstr(err.text, "answered 404"));
    assert_non_null(strstr(err.text, "(3 attempts)"));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    stop_hosts();
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
        cmocka_unit_test(test_nothing_is_left),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_no_leak_during_hold),
        cmocka_unit_test(test_last_words),
        cmocka_unit_test(test_daemon_dies_in_hold),
        cmocka_unit_test(test_back_at_once),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_newcomer_in_hold),
        cmocka_unit_test(test_ipv6_and_two_fabrics),
        cmocka_unit_test(test_hot_path),
        cmocka_unit_test(test_inspect),
        cmocka_unit_test(test_unrepair),
        cmocka_unit_test(test_verifier),
    };
    return cmocka_run_group_tests_name("fabric-admin", tests, NULL, NULL);
}
