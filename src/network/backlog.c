#include "network/backlog.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>

#include "base/clock.h"
#include "network/sock_diag.h"

#define TCP_NEW_SYN_RECV 12 /* the kernel's, of a request that has no socket yet */
#define PAUSE_MS 1
#define HALF_OPEN_MS 20

static void count(const struct inet_diag_msg *m, void *ctx)
{
    struct fm_backlog *backlog = ctx;
    if (m->idiag_state != TCP_LISTEN) {
        backlog->half_open++;
        return;
    }
    backlog->listening++;
    backlog->waiting += m->idiag_rqueue;
    if (m->idiag_rqueue)
        backlog->port = ntohs(m->id.idiag_sport);
}

int fm_backlog_look(int fd, struct fm_backlog *backlog, struct fm_error *err)
{
    const uint32_t states =
        FM_SOCK_STATE(TCP_LISTEN) | FM_SOCK_STATE(TCP_SYN_RECV) | FM_SOCK_STATE(TCP_NEW_SYN_RECV);
    *backlog = (struct fm_backlog){0};
    return fm_sock_diag_each(fd, IPPROTO_TCP, states, count, backlog, err);
}

int fm_backlog_await(int fd, uint64_t patience_ms, struct fm_error *err)
{
    uint64_t since = fm_now_ms();
    for (;;) {
        struct fm_backlog b;
        int rc = fm_backlog_look(fd, &b, err);
        uint64_t waited = fm_now_ms() - since;
        if (rc < 0 || (!b.waiting && (!b.half_open || waited >= HALF_OPEN_MS)))
            return rc;
        if (waited >= patience_ms)
            return fm_error_set(err, FM_E_TIMEOUT,
                                "connections to port %u wait to be accepted by the container (%u "
                                "after %" PRIu64
                                " ms), and cannot move along: try again when it does",
                                b.port, b.waiting, patience_ms);
        poll(NULL, 0, PAUSE_MS);
    }
}
