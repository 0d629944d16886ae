/* Who talks in the laboratory: an echo server that can be frozen, and a client that counts what it
 * misses. */
#ifndef FM_TESTS_NET_ACTORS_H
#define FM_TESTS_NET_ACTORS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/* UDP echo. Freezing stops the thread, not the kernel, like a cgroup freezer does. */
struct echo {
    int fd;
    pthread_t thread;
    pthread_mutex_t frozen; /* who holds it, freezes */
    atomic_bool stop;
};
void echo_start(struct echo *echo, const char *netns, const char *ip, uint16_t port);
void echo_freeze(struct echo *echo);
void echo_thaw(struct echo *echo);
void echo_stop(struct echo *echo);
/* What lies unread in `from`'s socket is answered by `to`: a checkpoint's part. Both are frozen. */
void echo_hand_over(struct echo *from, struct echo *to);

#define PROBES_MAX 4000

/* Sends a numbered packet each millisecond and notes when its echo came. */
struct prober {
    int fd;
    unsigned count;
    pthread_t sender, receiver;
    atomic_uint sent_count;
    uint64_t sent_us[PROBES_MAX];
    uint64_t got_us[PROBES_MAX]; /* 0: not yet */
    unsigned duplicates;
    unsigned overtaken; /* came after a later one */
};
void prober_start(struct prober *p, const char *netns, const char *server, uint16_t port,
                  unsigned count);
/* Blocks until all have been sent and answered, or `patience_ms` after the last was sent. */
void prober_finish(struct prober *p, unsigned patience_ms);

struct prober_result {
    unsigned lost;
    unsigned late;         /* round trip over 20 ms */
    unsigned late_outside; /* late, though sent outside of the hold */
    double worst_ms;
    double after_ms; /* the last answer to a held probe, after the resumption */
};
struct prober_result prober_judge(const struct prober *p, uint64_t frozen_us, uint64_t resumed_us);

/* An address as the socket calls want it. */
socklen_t net_address(const char *ip, uint16_t port, struct sockaddr_storage *address);

#endif
