#include "network/backlog.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <libmnl/libmnl.h>

#include "base/clock.h"
#include "network/netns.h"

#define TCP_NEW_SYN_RECV 12 /* the kernel's, of a request that has no socket yet */
#define ANSWER_MS 200
#define PAUSE_MS 1
#define HALF_OPEN_MS 20

static int open_here(void *ctx, struct fm_error *err)
{
    int *fd = ctx;
    const struct timeval patience = {.tv_usec = ANSWER_MS * 1000};
    *fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (*fd < 0 || setsockopt(*fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
        return fm_error_errno(err, errno, "cannot ask for the sockets of a container");
    return 0;
}

int fm_backlog_open(const char *path, struct fm_error *err)
{
    int fd = -1;
    int rc = fm_netns_run(path, open_here, &fd, err);
    if (rc == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return rc;
}

static int count(const struct nlmsghdr *nlh, void *ctx)
{
    struct fm_backlog *backlog = ctx;
    const struct inet_diag_msg *m = mnl_nlmsg_get_payload(nlh);
    if (mnl_nlmsg_get_payload_len(nlh) < sizeof(*m))
        return MNL_CB_ERROR;
    if (m->idiag_state != TCP_LISTEN) {
        backlog->half_open++;
        return MNL_CB_OK;
    }
    backlog->listening++;
    backlog->waiting += m->idiag_rqueue;
    if (m->idiag_rqueue)
        backlog->port = ntohs(m->id.idiag_sport);
    return MNL_CB_OK;
}

static int ask(int fd, int family)
{
    struct {
        struct nlmsghdr head;
        struct inet_diag_req_v2 body;
    } request = {
        .head = {.nlmsg_len = sizeof(request),
                 .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .body = {.sdiag_family = (uint8_t)family,
                 .sdiag_protocol = IPPROTO_TCP,
                 .idiag_states = 1u << TCP_LISTEN | 1u << TCP_SYN_RECV | 1u << TCP_NEW_SYN_RECV},
    };
    return send(fd, &request, sizeof(request), 0) == (ssize_t)sizeof(request) ? 0 : -1;
}

static int look(int fd, int family, struct fm_backlog *backlog)
{
    char buffer[16384] __attribute__((aligned(8)));
    int more = MNL_CB_OK;
    if (ask(fd, family) < 0)
        return -1;
    while (more == MNL_CB_OK) {
        ssize_t len = recv(fd, buffer, sizeof(buffer), 0);
        if (len < 0 && errno == EINTR)
            continue;
        if (len <= 0)
            return -1;
        more = mnl_cb_run(buffer, (size_t)len, 0, 0, count, backlog);
    }
    return more == MNL_CB_STOP ? 0 : -1;
}

int fm_backlog_look(int fd, struct fm_backlog *backlog, struct fm_error *err)
{
    *backlog = (struct fm_backlog){0};
    if (look(fd, AF_INET, backlog) < 0 || look(fd, AF_INET6, backlog) < 0)
        return fm_error_errno(err, errno, "cannot read the sockets of a container");
    return 0;
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
            return fm_error_set(
                err, FM_E_TIMEOUT,
                "connections to port %u wait to be accepted by the container (%u after "
                "%" PRIu64 " ms), and cannot move along: try again when it does",
                b.port, b.waiting, patience_ms);
        poll(NULL, 0, PAUSE_MS);
    }
}
