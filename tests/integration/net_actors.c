#include "net_actors.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "net_lab.h"
#include "network/address.h"

#define LATE_US 20000

static void die(const char *what)
{
    fprintf(stderr, "net_actors: %s: %s\n", what, strerror(errno));
    exit(1);
}

socklen_t net_address(const char *ip, uint16_t port, struct sockaddr_storage *address)
{
    struct fm_ip parsed;
    struct fm_error err = {0};
    if (fm_ip_parse("address", ip, &parsed, &err) < 0)
        die(err.text);
    return fm_ip_sockaddr(&parsed, port, address);
}

static void *echo_body(void *arg)
{
    struct echo *echo = arg;
    struct pollfd wait = {.fd = echo->fd, .events = POLLIN};
    while (!atomic_load(&echo->stop)) {
        if (poll(&wait, 1, 50) <= 0)
            continue;
        pthread_mutex_lock(&echo->frozen);
        uint8_t data[2048];
        struct sockaddr_storage from;
        socklen_t len = sizeof(from);
        ssize_t got =
            recvfrom(echo->fd, data, sizeof(data), MSG_DONTWAIT, (struct sockaddr *)&from, &len);
        if (got >= 0)
            sendto(echo->fd, data, (size_t)got, 0, (struct sockaddr *)&from, len);
        pthread_mutex_unlock(&echo->frozen);
    }
    return NULL;
}

void echo_start(struct echo *echo, const char *netns, const char *ip, uint16_t port)
{
    *echo = (struct echo){.frozen = PTHREAD_MUTEX_INITIALIZER};
    struct sockaddr_storage address;
    socklen_t len = net_address(ip, port, &address);
    echo->fd = lab_socket(netns, address.ss_family, SOCK_DGRAM);
    int size = 8 << 20;
    setsockopt(echo->fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    if (bind(echo->fd, (struct sockaddr *)&address, len) < 0 ||
        pthread_create(&echo->thread, NULL, echo_body, echo) != 0)
        die("cannot start the echo server");
}

void echo_freeze(struct echo *echo)
{
    pthread_mutex_lock(&echo->frozen);
}

void echo_thaw(struct echo *echo)
{
    pthread_mutex_unlock(&echo->frozen);
}

void echo_hand_over(struct echo *from, struct echo *to)
{
    uint8_t data[2048];
    struct sockaddr_storage peer;
    socklen_t len = sizeof(peer);
    ssize_t got;
    while ((got = recvfrom(from->fd, data, sizeof(data), MSG_DONTWAIT, (struct sockaddr *)&peer,
                           &len)) >= 0)
        sendto(to->fd, data, (size_t)got, 0, (struct sockaddr *)&peer, len);
}

void echo_stop(struct echo *echo)
{
    atomic_store(&echo->stop, true);
    pthread_join(echo->thread, NULL);
    close(echo->fd);
}

static void *send_body(void *arg)
{
    struct prober *p = arg;
    uint64_t next = fm_now_us();
    for (unsigned i = 0; i < p->count; i++) {
        uint64_t now = fm_now_us();
        if (now < next) {
            struct timespec t = {.tv_nsec = (long)(next - now) * 1000};
            nanosleep(&t, NULL);
        }
        next += 1000;
        p->sent_us[i] = fm_now_us();
        send(p->fd, &i, sizeof(i), 0);
        atomic_store(&p->sent_count, i + 1);
    }
    return NULL;
}

static void *receive_body(void *arg)
{
    struct prober *p = arg;
    unsigned highest = 0;
    for (;;) {
        unsigned i;
        if (recv(p->fd, &i, sizeof(i), 0) != (ssize_t)sizeof(i))
            return NULL; /* shut down */
        if (i >= p->count)
            continue;
        p->duplicates += p->got_us[i] != 0;
        p->overtaken += i < highest;
        highest = i > highest ? i : highest;
        p->got_us[i] = fm_now_us();
    }
}

void prober_start(struct prober *p, const char *netns, const char *server, uint16_t port,
                  unsigned count)
{
    memset(p, 0, sizeof(*p));
    p->count = count;
    struct sockaddr_storage address;
    socklen_t len = net_address(server, port, &address);
    p->fd = lab_socket(netns, address.ss_family, SOCK_DGRAM);
    int size = 8 << 20;
    setsockopt(p->fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    if (connect(p->fd, (struct sockaddr *)&address, len) < 0 ||
        pthread_create(&p->receiver, NULL, receive_body, p) != 0 ||
        pthread_create(&p->sender, NULL, send_body, p) != 0)
        die("cannot start the prober");
}

static unsigned unanswered(const struct prober *p)
{
    unsigned lost = 0;
    for (unsigned i = 0; i < p->count; i++)
        lost += p->got_us[i] == 0;
    return lost;
}

void prober_finish(struct prober *p, unsigned patience_ms)
{
    pthread_join(p->sender, NULL);
    uint64_t deadline = fm_now_ms() + patience_ms;
    while (unanswered(p) && fm_now_ms() < deadline)
        lab_sleep_ms(5);
    shutdown(p->fd, SHUT_RDWR);
    pthread_join(p->receiver, NULL);
    close(p->fd);
}

struct prober_result prober_judge(const struct prober *p, uint64_t frozen_us, uint64_t resumed_us)
{
    struct prober_result r = {.lost = unanswered(p)};
    for (unsigned i = 0; i < p->count; i++) {
        if (!p->got_us[i])
            continue;
        uint64_t took = p->got_us[i] - p->sent_us[i];
        if ((double)took / 1000.0 > r.worst_ms)
            r.worst_ms = (double)took / 1000.0;
        bool held = p->sent_us[i] + 1000 >= frozen_us && p->sent_us[i] <= resumed_us;
        r.late += took > LATE_US;
        r.late_outside += took > LATE_US && !held;
        if (!held || p->got_us[i] < resumed_us)
            continue;
        double after = (double)(p->got_us[i] - resumed_us) / 1000.0;
        if (after > r.after_ms)
            r.after_ms = after;
    }
    return r;
}
