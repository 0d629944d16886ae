/* rtnetlink: a socket, batches of requests that cost one system call, and dumps. */
#ifndef FM_NETWORK_NETLINK_H
#define FM_NETWORK_NETLINK_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libmnl/libmnl.h>

#include "base/error.h"

/* A socket in the network namespace of the thread that opened it; may be shared by threads. */
struct fm_nl {
    struct mnl_socket *socket;
    uint32_t seq;
    pthread_mutex_t lock;
};

int fm_nl_open(struct fm_nl *nl, struct fm_error *err);
void fm_nl_close(struct fm_nl *nl);

#define FM_NL_BATCH_BYTES 4096
#define FM_NL_BATCH_COUNT 12

/* Requests that are sent together and executed in order. {0} is empty. An error does not stop the
 * later ones: the kernel works through the whole batch, the first error is what is reported. */
struct fm_nl_batch {
    char data[FM_NL_BATCH_BYTES] __attribute__((aligned(8)));
    struct nlmsghdr *last;
    unsigned count;
    struct {
        const char *what;
        int ignore[3]; /* these errnos count as success */
    } entries[FM_NL_BATCH_COUNT];
};

/* Begins a request; attributes are then put with mnl_attr_put_*. `what` (a literal: "cannot …") is
 * for the error. */
struct nlmsghdr *fm_nl_add(struct fm_nl_batch *batch, const char *what, uint16_t type,
                           uint16_t flags);
/* One more errno (at most three) which the request begun last may answer. */
void fm_nl_ignore(struct fm_nl_batch *batch, int errno_value);
/* Sends the batch, waits for all answers and empties it. */
int fm_nl_run(struct fm_nl *nl, struct fm_nl_batch *batch, struct fm_error *err);

/* Called for each answer of a dump; a negative return ends it and is returned. */
typedef int (*fm_nl_each_fn)(const struct nlmsghdr *nlh, void *ctx);
/* Sends one request that answers with messages (a dump with NLM_F_DUMP, or a single get). */
int fm_nl_query(struct fm_nl *nl, struct nlmsghdr *request, fm_nl_each_fn each, void *ctx,
                struct fm_error *err);

#endif
