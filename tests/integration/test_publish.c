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
#define INSTANT_MS 10 /* what is on its way to the old host has arrived by then */
#define STAND_MS 30   /* no checkpoint is faster */

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
    prober_start(&probe, netns, target, port, 50); /* everybody gets to know each other */
    prober_finish(&probe, 2000);
    prober_start(&probe, netns, target, port, PROBES);
    lab_sleep_ms(500);
    struct publish_actor actor = {
        .freeze = freeze_echo, .take_along = take_echo, .thaw = thaw_echo, .ctx = &e};
    uint64_t frozen = fm_now_us();
    uint64_t stood = publish_move(s, &host_a, &host_b, &actor, INSTANT_MS);
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

/* A container on C; the caller frees the path of its namespace. */
static char *stage_neighbour(const struct publish_scene *s)
{
    struct lab_request q = {.op = LAB_STAGE, .name = "neighbour", .flag = true};
    snprintf(q.ip, sizeof(q.ip), "%s", s->family->neighbour);
    struct lab_reply neighbour = lab_call(&host_c, q);
    set_remote(&host_a, s->family->neighbour, host_c.address);
    set_remote(&host_b, s->family->neighbour, host_c.address);
    return fm_xstrdup(neighbour.ep.netns);
}

static double direct_gap(const struct publish_family *family)
{
    struct publish_scene s;
    publish_scene_start(&s, family);
    fm_autofree char *neighbour = stage_neighbour(&s);
    double gap = gap_of(&s, neighbour, family->server, PORT, "UDP, a container on c");
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

struct crowd {
    struct tcp_server servers[CLIENTS];
    int clients[CLIENTS];
};

static const char question[64] = "question";

static void send_question(int fd)
{
    assert_int_equal(send(fd, question, sizeof(question), MSG_NOSIGNAL), sizeof(question));
}

static void await_answer(int fd)
{
    char answer[sizeof(question)] = "";
    assert_int_equal(recv(fd, answer, sizeof(answer), MSG_WAITALL), sizeof(answer));
    assert_memory_equal(question, answer, sizeof(answer));
}

static double ask(int fd)
{
    uint64_t started = fm_now_us();
    send_question(fd);
    await_answer(fd);
    return (double)(fm_now_us() - started) / 1000.0;
}

static void ask_all(const struct crowd *c, int times)
{
    for (int n = 0; n < times; n++)
        for (int i = 0; i < CLIENTS; i++)
            ask(c->clients[i]);
}

/* Each client has a request in flight. */
static void freeze_crowd(void *ctx)
{
    struct crowd *c = ctx;
    for (int i = 0; i < CLIENTS; i++)
        tcp_server_freeze(&c->servers[i]);
    for (int i = 0; i < CLIENTS; i++)
        send_question(c->clients[i]);
}

static void save_crowd(void *ctx)
{
    struct crowd *c = ctx;
    for (int i = 0; i < CLIENTS; i++)
        tcp_server_save(&c->servers[i]);
}

static void take_crowd(void *ctx, const char *netns)
{
    struct crowd *c = ctx;
    for (int i = 0; i < CLIENTS; i++)
        tcp_server_move(&c->servers[i], netns);
}

static void thaw_crowd(void *ctx)
{
    struct crowd *c = ctx;
    for (int i = 0; i < CLIENTS; i++)
        tcp_server_thaw(&c->servers[i]);
}

/* One listener, a connection through each host's published port. */
static void connect_crowd(const struct publish_scene *s, struct crowd *c)
{
    tcp_server_listen(&c->servers[0], s->a, s->family->server, PORT, TCP_ECHO);
    for (int i = 1; i < CLIENTS; i++)
        c->servers[i] = (struct tcp_server){.role = TCP_ECHO,
                                            .listener = dup(c->servers[0].listener),
                                            .frozen = PTHREAD_MUTEX_INITIALIZER};
    for (int i = 0; i < CLIENTS; i++) {
        c->clients[i] = tcp_client(s->client.netns, s->outside[i + 1], HOST_PORT);
        tcp_server_accept(&c->servers[i]);
    }
}

/* From a to b, on to c, and home again. */
static void move_around(const struct publish_family *family, bool bridge_netfilter)
{
    struct publish_scene s;
    struct crowd c;
    struct publish_actor actor = {freeze_crowd, save_crowd, take_crowd, thaw_crowd, &c};
    publish_scene_start(&s, family);
    publish_bridge_netfilter(bridge_netfilter);
    struct fm_publication p = publish_server(&s, "8080:80");
    publish_everywhere(&s, &p, 1);
    connect_crowd(&s, &c);
    ask_all(&c, 20);
    struct lab_host *const path[] = {&host_a, &host_b, &host_c, &host_a};
    for (size_t i = 1; i < FM_COUNT(path); i++) {
        publish_move(&s, path[i - 1], path[i], &actor, STAND_MS);
        for (int n = 0; n < CLIENTS; n++)
            await_answer(c.clients[n]);
        ask_all(&c, 20);
        publish_everywhere(&s, &p, 1); /* a daemon that starts again */
        ask_all(&c, 5);
    }
    publish_everywhere(&s, NULL, 0); /* the end of the publication is not that of its connections */
    ask_all(&c, 5);
    for (int i = 0; i < CLIENTS; i++) {
        close(c.clients[i]);
        tcp_server_stop(&c.servers[i]);
    }
    publish_scene_stop(&s);
}

static void test_connections_ipv4(void **state)
{
    (void)state;
    move_around(&publish_ipv4, true);
    move_around(&publish_ipv4, false);
}

static void test_connections_ipv6(void **state)
{
    (void)state;
    move_around(&publish_ipv6, true);
    move_around(&publish_ipv6, false);
}

/* ---- a download ---- */

#define PACE (25u << 20) /* bytes a second: 200 Mbit/s */
#define LATE_MS 60       /* a checkpoint that gets to the sockets that late */

struct download {
    struct tcp_server server;
    int fd;
    pthread_t thread;
    uint64_t received, wrong;
    uint64_t last_us, silence_us; /* the longest */
};

static void pace(int fd)
{
    unsigned rate = PACE;
    setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate));
}

static void note_silence(struct download *d)
{
    uint64_t now = fm_now_us();
    if (d->last_us && now - d->last_us > d->silence_us)
        d->silence_us = now - d->last_us;
    d->last_us = now;
}

static void *receive_download(void *arg)
{
    struct download *d = arg;
    static uint8_t data[65536];
    for (;;) {
        ssize_t got = recv(d->fd, data, sizeof(data), 0);
        note_silence(d); /* also the one that lasts to the end */
        if (got <= 0)
            return NULL;
        for (ssize_t i = 0; i < got; i++)
            d->wrong += data[i] != tcp_pattern(d->received + (uint64_t)i);
        d->received += (uint64_t)got;
    }
}

static void freeze_download(void *ctx)
{
    struct download *d = ctx;
    tcp_server_freeze(&d->server);
}

static void save_download(void *ctx)
{
    struct download *d = ctx;
    tcp_server_save(&d->server);
}

static void take_download(void *ctx, const char *netns)
{
    struct download *d = ctx;
    tcp_server_move(&d->server, netns);
    pace(d->server.fd);
}

static void thaw_download(void *ctx)
{
    struct download *d = ctx;
    tcp_server_thaw(&d->server);
}

struct pull {
    bool direct;       /* by a container on C, else through C's published port */
    unsigned stand_ms; /* the checkpoint comes early in that time, or with `late` at its end */
    bool late;
};

static bool download(const struct publish_family *family, const struct pull *pull)
{
    struct publish_scene s;
    struct download d = {0};
    struct publish_actor actor = {freeze_download, save_download, take_download, thaw_download, &d};
    publish_scene_start(&s, family);
    struct fm_publication p = publish_server(&s, "8080:80");
    publish_everywhere(&s, &p, 1);
    tcp_server_listen(&d.server, s.a, family->server, PORT, TCP_SOURCE);
    fm_autofree char *neighbour = stage_neighbour(&s);
    d.fd = pull->direct ? tcp_client(neighbour, family->server, PORT)
                        : tcp_client(s.client.netns, s.outside[3], HOST_PORT);
    tcp_server_accept(&d.server);
    pace(d.server.fd);
    uint64_t started = fm_now_us();
    pthread_create(&d.thread, NULL, receive_download, &d);
    lab_sleep_ms(500);
    uint64_t stood = publish_move(&s, &host_a, &host_b, &actor, pull->stand_ms);
    lab_sleep_ms(500);
    double seconds = (double)(fm_now_us() - started) / 1e6;
    shutdown(d.fd, SHUT_RDWR);
    pthread_join(d.thread, NULL);
    tcp_server_stop(&d.server);
    close(d.fd);
    publish_scene_stop(&s);
    double silence = ((double)d.silence_us - (double)stood) / 1000.0;
    printf("  %s, download %s%s: %.0f Mbit/s, server stood %.1f ms, gap beyond it %.1f ms\n",
           family->name, pull->direct ? "by a container on c" : "through c",
           pull->late ? ", late checkpoint" : "", (double)d.received * 8 / 1e6 / seconds,
           (double)stood / 1000.0, silence);
    assert_int_equal(d.wrong, 0);
    return silence < GAP_MS; /* a tail-loss probe of the new host takes 60 ms and more */
}

static void judge_downloads(const struct publish_family *family)
{
    static const struct pull pulls[] = {
        {.direct = true, .stand_ms = STAND_MS},
        {.direct = false, .stand_ms = STAND_MS},
        {.direct = true, .stand_ms = LATE_MS, .late = true},
        {.direct = false, .stand_ms = 0}, /* what it has just said is still on its way */
    };
    for (size_t i = 0; i < FM_COUNT(pulls); i++)
        ASSERT_IN_TIME(download(family, &pulls[i]));
}

static void test_download(void **state)
{
    (void)state;
    judge_downloads(&publish_ipv4);
    judge_downloads(&publish_ipv6);
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
        cmocka_unit_test(test_gap_ipv4),         cmocka_unit_test(test_gap_ipv6),
        cmocka_unit_test(test_connections_ipv4), cmocka_unit_test(test_connections_ipv6),
        cmocka_unit_test(test_download),
    };
    return cmocka_run_group_tests_name("publish", tests, NULL, NULL);
}
