/* Published ports: a client of any host's port keeps its connections while the container moves from
 * host to host. Needs root. */
#include <errno.h>
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
#include "base/clock.h"
#include "base/text.h"
#include "net_actors.h"
#include "net_publish.h"
#include "net_tcp.h"

#define PORT 80
#define HOST_PORT 8080
#define CLIENTS 3
#define PROBES 1500
#define GAP_MS 20.0

/* ---- UDP: the silence of a move ---- */

static struct prober probe;

struct echoes {
    struct echo one, other;
    const char *ip;
};

static void freeze_echo(void *ctx)
{
    struct echoes *e = ctx;
    echo_freeze(&e->one);
}

static void take_echo(void *ctx, const char *netns)
{
    struct echoes *e = ctx;
    echo_start(&e->other, netns, e->ip, PORT);
    echo_freeze(&e->other);
    echo_hand_over(&e->one, &e->other);
}

static void thaw_echo(void *ctx)
{
    struct echoes *e = ctx;
    echo_thaw(&e->other);
}

/* The longest silence of a client in `netns`, in ms, while the server moves from A to B. */
static double gap_of(const struct publish_scene *s, const char *netns, const char *target,
                     uint16_t port, const char *what)
{
    struct echoes e = {.ip = s->family->server};
    echo_start(&e.one, s->a, e.ip, PORT);
    prober_start(&probe, netns, target, port, PROBES);
    lab_sleep_ms(500);
    struct publish_actor actor = {freeze_echo, take_echo, thaw_echo, &e};
    uint64_t frozen = fm_now_us();
    uint64_t stood = publish_move(s, &host_a, &host_b, &actor);
    prober_finish(&probe, 1000);
    struct prober_result r = prober_judge(&probe, frozen, frozen + stood);
    printf("  %s, %s: server stood %.1f ms, worst answer %.1f ms (gap beyond it %.1f), %u of %u "
           "lost, %u twice\n",
           s->family->name, what, (double)stood / 1000.0, r.worst_ms,
           r.worst_ms - (double)stood / 1000.0, r.lost, probe.count, probe.duplicates);
    echo_thaw(&e.one);
    echo_stop(&e.one);
    echo_stop(&e.other);
    assert_int_equal(r.lost, 0);
    return r.worst_ms - (double)stood / 1000.0;
}

static double published_gap(const struct publish_family *family, int host)
{
    struct publish_scene s;
    publish_scene_start(&s, family);
    struct fm_publication p = publish_server(&s, "8080:80/udp");
    publish_everywhere(&s, &p, 1);
    fm_autofree char *what = fm_strf("UDP through the published port of %c", 'a' - 1 + host);
    double gap = gap_of(&s, s.client.netns, s.outside[host], HOST_PORT, what);
    publish_scene_stop(&s);
    return gap;
}

static double direct_gap(const struct publish_family *family)
{
    struct publish_scene s;
    publish_scene_start(&s, family);
    struct lab_request q = {.op = LAB_STAGE, .name = "neighbour", .flag = true};
    snprintf(q.ip, sizeof(q.ip), "%s", family->neighbour);
    struct lab_reply neighbour = lab_call(&host_c, q);
    set_remote(&host_a, family->neighbour, host_c.address);
    set_remote(&host_b, family->neighbour, host_c.address);
    double gap = gap_of(&s, neighbour.ep.netns, family->server, PORT, "UDP, a container on c");
    publish_scene_stop(&s);
    return gap;
}

static void judge_gaps(const struct publish_family *family)
{
    direct_gap(family);
    for (int host = 1; host <= 3; host++)
        ASSERT_IN_TIME(published_gap(family, host) < GAP_MS);
}

static void test_gap_ipv4(void **state)
{
    (void)state;
    judge_gaps(&publish_ipv4);
}

static void test_gap_ipv6(void **state)
{
    (void)state;
    judge_gaps(&publish_ipv6);
}

/* ---- TCP: connections through all three hosts ---- */

struct servers {
    struct tcp_server each[CLIENTS];
    size_t count;
};

static void freeze_servers(void *ctx)
{
    struct servers *servers = ctx;
    for (size_t i = 0; i < servers->count; i++)
        tcp_server_freeze(&servers->each[i]);
}

static void take_servers(void *ctx, const char *netns)
{
    struct servers *servers = ctx;
    for (size_t i = 0; i < servers->count; i++)
        tcp_server_move(&servers->each[i], netns);
}

static void thaw_servers(void *ctx)
{
    struct servers *servers = ctx;
    for (size_t i = 0; i < servers->count; i++)
        tcp_server_thaw(&servers->each[i]);
}

/* One listener, a connection through each host's published port. */
static void connect_all(const struct publish_scene *s, struct servers *servers, int clients[])
{
    *servers = (struct servers){.count = CLIENTS};
    tcp_server_listen(&servers->each[0], s->a, s->family->server, PORT, TCP_ECHO);
    for (int i = 0; i < CLIENTS; i++) {
        struct tcp_server *server = &servers->each[i];
        if (i > 0)
            *server = (struct tcp_server){.role = TCP_ECHO,
                                          .listener = dup(servers->each[0].listener),
                                          .frozen = PTHREAD_MUTEX_INITIALIZER};
        clients[i] = tcp_client(s->client.netns, s->outside[i + 1], HOST_PORT);
        tcp_server_accept(server);
    }
}

static double ask(int fd)
{
    char question[64] = "question", answer[64];
    uint64_t started = fm_now_us();
    assert_int_equal(send(fd, question, sizeof(question), MSG_NOSIGNAL), sizeof(question));
    assert_int_equal(recv(fd, answer, sizeof(answer), MSG_WAITALL), sizeof(answer));
    assert_memory_equal(question, answer, sizeof(answer));
    return (double)(fm_now_us() - started) / 1000.0;
}

static void ask_all(const int clients[], int times)
{
    for (int n = 0; n < times; n++)
        for (int i = 0; i < CLIENTS; i++)
            ask(clients[i]);
}

/* Also a request in flight while the server moves. */
static double ask_across(const struct publish_scene *s, struct servers *servers,
                         const int clients[], struct lab_host *from, struct lab_host *to)
{
    struct publish_actor actor = {freeze_servers, take_servers, thaw_servers, servers};
    char question[64] = "in flight", answer[64];
    double worst = 0;
    tcp_server_freeze(&servers->each[0]); /* nobody reads: all three are under way */
    tcp_server_freeze(&servers->each[1]);
    tcp_server_freeze(&servers->each[2]);
    for (int i = 0; i < CLIENTS; i++)
        assert_int_equal(send(clients[i], question, sizeof(question), 0), sizeof(question));
    thaw_servers(servers);
    uint64_t started = fm_now_us();
    publish_move(s, from, to, &actor);
    for (int i = 0; i < CLIENTS; i++) {
        assert_int_equal(recv(clients[i], answer, sizeof(answer), MSG_WAITALL), sizeof(answer));
        assert_memory_equal(question, answer, sizeof(answer));
    }
    (void)started;
    for (int i = 0; i < CLIENTS; i++) {
        double took = ask(clients[i]);
        worst = took > worst ? took : worst;
    }
    return worst;
}

static void move_there_and_back(const struct publish_family *family)
{
    struct publish_scene s;
    struct servers servers;
    int clients[CLIENTS];
    publish_scene_start(&s, family);
    struct fm_publication p = publish_server(&s, "8080:80");
    publish_everywhere(&s, &p, 1);
    connect_all(&s, &servers, clients);
    ask_all(clients, 20);
    struct lab_host *const path[] = {&host_a, &host_b, &host_c, &host_a};
    for (size_t i = 1; i < FM_COUNT(path); i++) {
        double worst = ask_across(&s, &servers, clients, path[i - 1], path[i]);
        ask_all(clients, 20);
        printf("  %s, TCP through all hosts: move %zu done, worst request after it %.1f ms\n",
               family->name, i, worst);
    }
    publish_everywhere(&s, NULL, 0); /* the end of the publication is not that of its connections */
    ask_all(clients, 5);
    for (int i = 0; i < CLIENTS; i++) {
        close(clients[i]);
        tcp_server_stop(&servers.each[i]);
    }
    publish_scene_stop(&s);
}

static void test_connections_ipv4(void **state)
{
    (void)state;
    move_there_and_back(&publish_ipv4);
}

static void test_connections_ipv6(void **state)
{
    (void)state;
    move_there_and_back(&publish_ipv6);
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
        cmocka_unit_test(test_gap_ipv4),
        cmocka_unit_test(test_gap_ipv6),
        cmocka_unit_test(test_connections_ipv4),
        cmocka_unit_test(test_connections_ipv6),
    };
    return cmocka_run_group_tests_name("publish", tests, NULL, NULL);
}
