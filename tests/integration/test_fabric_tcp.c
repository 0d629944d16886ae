/* Established TCP connections across a hold: no retransmission time-out, no wrong byte. Needs root.
 */
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
#include "net_scene.h"
#include "net_tcp.h"

#define PORT 7001
#define AFTER_MS 20.0
#define BULK_BYTES (96ull << 20)

static double ms_since(uint64_t us)
{
    return (double)(fm_now_us() - us) / 1000.0;
}

static double ask(int fd)
{
    uint64_t started = fm_now_us();
    char question[64] = "question";
    char answer[64];
    assert_int_equal(send(fd, question, sizeof(question), 0), sizeof(question));
    assert_int_equal(recv(fd, answer, sizeof(answer), MSG_WAITALL), sizeof(answer));
    return ms_since(started);
}

/* Freezes the server, sends a request in the middle of the hold, and lets the server go on here or
 * on B. Returns how long after the resumption the answer came, in ms. */
static double request_in_mid_hold(const struct scene *s, struct tcp_server *server, int client,
                                  unsigned hold_ms, bool commit)
{
    CALL(host_a, LAB_HOLD_PREPARE, SERVER);
    tcp_server_freeze(server);
    CALL(host_a, LAB_HOLD_ENGAGE);
    lab_sleep_ms(hold_ms / 2);
    char question[64] = "question";
    char answer[64];
    assert_int_equal(send(client, question, sizeof(question), 0), sizeof(question));
    lab_sleep_ms(hold_ms / 2);
    if (commit)
        tcp_server_move(server, s->b);
    uint64_t resumed = fm_now_us();
    if (commit) {
        CALL(host_b, LAB_ACTIVATE, SERVER);
        forward_to_b();
    } else {
        CALL(host_a, LAB_HOLD_RELEASE);
    }
    tcp_server_thaw(server);
    assert_int_equal(recv(client, answer, sizeof(answer), MSG_WAITALL), sizeof(answer));
    double after = ms_since(resumed);
    if (commit)
        set_remote(&host_c, SERVER_IP, host_b.address);
    CALL(host_a, LAB_HOLD_END);
    return after;
}

static bool mid_hold_requests(bool commit, unsigned hold_ms)
{
    struct scene s = stage_all(false);
    struct tcp_server server;
    tcp_server_listen(&server, s.a, SERVER_IP, PORT, TCP_ECHO);
    int client = tcp_client(s.client, SERVER_IP, PORT);
    tcp_server_accept(&server);
    for (int i = 0; i < 20; i++)
        ask(client);
    double after = request_in_mid_hold(&s, &server, client, hold_ms, commit);
    printf("  %s after %u ms: answered %.2f ms after the resumption, %u retransmissions (tail-loss "
           "probes)\n",
           commit ? "commit" : "rollback", hold_ms, after, tcp_retransmissions(client));
    for (int i = 0; i < 20; i++)
        ask(client);
    close(client);
    tcp_server_stop(&server);
    stop_hosts();
    return after < AFTER_MS;
}

static void test_rollback(void **state)
{
    (void)state;
    ASSERT_IN_TIME(mid_hold_requests(false, 100));
    ASSERT_IN_TIME(mid_hold_requests(false, 300));
}

static void test_commit(void **state)
{
    (void)state;
    ASSERT_IN_TIME(mid_hold_requests(true, 100));
    ASSERT_IN_TIME(mid_hold_requests(true, 300));
}

static void *send_bulk(void *arg)
{
    int fd = *(int *)arg;
    uint8_t *data = fm_xmalloc(1 << 18);
    for (uint64_t done = 0; done < BULK_BYTES;) {
        for (size_t i = 0; i < 1 << 18; i++)
            data[i] = tcp_pattern(done + i);
        for (size_t put = 0; put < 1 << 18;) {
            ssize_t n = send(fd, data + put, (1 << 18) - put, MSG_NOSIGNAL);
            if (n <= 0)
                goto out;
            put += (size_t)n;
        }
        done += 1 << 18;
    }
out:
    shutdown(fd, SHUT_WR);
    free(data);
    return NULL;
}

static bool wait_for_bytes(struct tcp_server *server, uint64_t bytes, unsigned patience_ms)
{
    uint64_t deadline = fm_now_ms() + patience_ms;
    while (atomic_load(&server->received) < bytes && fm_now_ms() < deadline)
        lab_sleep_ms(1);
    return atomic_load(&server->received) >= bytes;
}

/* Segments larger than the MTU with unfinished checksums are what veth carries: none may arrive
 * broken. */
static uint64_t bulk(bool commit)
{
    struct scene s = stage_all(false);
    struct tcp_server server;
    tcp_server_listen(&server, s.a, SERVER_IP, PORT, TCP_SINK);
    int client = tcp_client(s.client, SERVER_IP, PORT);
    tcp_server_accept(&server);
    pthread_t sender;
    pthread_create(&sender, NULL, send_bulk, &client);
    assert_true(wait_for_bytes(&server, BULK_BYTES / 8, 20000));

    CALL(host_a, LAB_HOLD_PREPARE, SERVER);
    CALL(host_a, LAB_HOLD_ENGAGE); /* first, else the window may be full and nothing is in flight */
    tcp_server_freeze(&server);
    lab_sleep_ms(120);
    if (commit)
        tcp_server_move(&server, s.b);
    uint64_t before = atomic_load(&server.received);
    uint64_t resumed = fm_now_us();
    uint64_t switched;
    if (commit) {
        CALL(host_b, LAB_ACTIVATE, SERVER);
        switched = forward_to_b().us;
        set_remote(&host_c, SERVER_IP, host_b.address);
    } else {
        switched = CALL(host_a, LAB_HOLD_RELEASE).us;
    }
    tcp_server_thaw(&server);
    bool went_on = wait_for_bytes(&server, before + (1 << 20), 2000);
    double after = ms_since(resumed);
    bool all = wait_for_bytes(&server, BULK_BYTES, 30000);
    struct fm_hold_counters counters = CALL(host_a, LAB_HOLD_END).counters;
    printf(
        "  bulk %s: held %lu frames (%lu KiB), dropped %lu, given on in %.1f ms; first further MiB "
        "read %.1f ms after the resumption, %u retransmissions, %lu wrong bytes\n",
        commit ? "commit" : "rollback", counters.held, counters.held_bytes >> 10, counters.dropped,
        (double)switched / 1000.0, after, tcp_retransmissions(client), server.wrong);
    assert_true(went_on && all);
    assert_int_equal(server.wrong, 0);
    assert_int_equal(counters.dropped, 0);
    pthread_join(sender, NULL);
    close(client);
    tcp_server_stop(&server);
    stop_hosts();
    return counters.held;
}

/* The server's window may happen to be full at the hold: then nothing is in flight, and nothing is
 * shown. */
static void bulk_in_flight(bool commit)
{
    for (int i = 0; i < 5; i++)
        if (bulk(commit) > 0)
            return;
    fail_msg("nothing was in flight at any of five holds");
}

static void test_bulk_rollback(void **state)
{
    (void)state;
    bulk_in_flight(false);
}

static void test_bulk_commit(void **state)
{
    (void)state;
    bulk_in_flight(true);
}

/* The client of a download: notes the longest silence. */
struct download {
    int fd;
    pthread_t thread;
    unsigned pause_us; /* after each read: a slow client, so that the server's queue is full */
    atomic_ullong received;
    atomic_ullong last_us;
    uint64_t wrong;
};

static void *receive_bulk(void *arg)
{
    struct download *d = arg;
    static uint8_t data[65536];
    for (;;) {
        ssize_t got = recv(d->fd, data, sizeof(data), 0);
        if (got <= 0)
            return NULL;
        uint64_t position = atomic_load(&d->received);
        for (ssize_t i = 0; i < got; i++)
            d->wrong += data[i] != tcp_pattern(position + (uint64_t)i);
        atomic_store(&d->received, position + (uint64_t)got);
        atomic_store(&d->last_us, fm_now_us());
        if (d->pause_us)
            usleep(d->pause_us);
    }
}

static bool download(bool commit, unsigned pause_us)
{
    struct scene s = stage_all(false);
    struct tcp_server server;
    struct download d = {.pause_us = pause_us};
    tcp_server_listen(&server, s.a, SERVER_IP, PORT, TCP_SOURCE);
    d.fd = tcp_client(s.client, SERVER_IP, PORT);
    tcp_server_accept(&server);
    pthread_create(&d.thread, NULL, receive_bulk, &d);
    lab_sleep_ms(300);
    CALL(host_a, LAB_HOLD_PREPARE, SERVER);
    tcp_server_freeze(&server);
    CALL(host_a, LAB_HOLD_ENGAGE);
    lab_sleep_ms(100);
    if (commit)
        tcp_server_move(&server, s.b);
    uint64_t before = atomic_load(&d.received);
    uint64_t resumed = fm_now_us();
    if (commit) {
        CALL(host_b, LAB_ACTIVATE, SERVER);
        forward_to_b();
        set_remote(&host_c, SERVER_IP, host_b.address);
    } else {
        CALL(host_a, LAB_HOLD_RELEASE);
    }
    tcp_server_thaw(&server);
    while (atomic_load(&d.received) < before + (128 << 10) && ms_since(resumed) < 4000)
        usleep(200);
    double after = ms_since(resumed);
    lab_sleep_ms(200);
    struct fm_hold_counters counters = CALL(host_a, LAB_HOLD_END).counters;
    printf("  %s download, %s: held %lu frames; 128 KiB more %.1f ms after the resumption, %u "
           "retransmissions, %lu wrong bytes, %lu KiB in all\n",
           pause_us ? "slow" : "fast", commit ? "commit" : "rollback", counters.held, after,
           tcp_retransmissions(server.fd), d.wrong, (unsigned long)atomic_load(&d.received) >> 10);
    tcp_server_stop(&server);
    shutdown(d.fd, SHUT_RDWR);
    pthread_join(d.thread, NULL);
    close(d.fd);
    stop_hosts();
    assert_int_equal(d.wrong, 0);
    return after < 50.0; /* a retransmission time-out is 200 ms and more */
}

static void test_download_rollback(void **state)
{
    (void)state;
    ASSERT_IN_TIME(download(false, 0));
    ASSERT_IN_TIME(download(false, 2000));
}

static void test_download_commit(void **state)
{
    (void)state;
    ASSERT_IN_TIME(download(true, 0));
    ASSERT_IN_TIME(download(true, 2000));
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
        cmocka_unit_test(test_rollback),          cmocka_unit_test(test_commit),
        cmocka_unit_test(test_bulk_rollback),     cmocka_unit_test(test_bulk_commit),
        cmocka_unit_test(test_download_rollback), cmocka_unit_test(test_download_commit),
    };
    return cmocka_run_group_tests_name("fabric-tcp", tests, NULL, NULL);
}
