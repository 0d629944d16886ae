#include "network/sock_diag.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <libmnl/libmnl.h>

#include "network/netns.h"

#define ANSWER_MS 200

static int open_here(void *ctx, struct fm_error *err)
{
    int *fd = ctx;
    const struct timeval patience = {.tv_usec = ANSWER_MS * 1000};
    *fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (*fd < 0 || setsockopt(*fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
        return fm_error_errno(err, errno, "cannot ask the kernel for sockets");
    return 0;
}

int fm_sock_diag_open(const char *path, struct fm_error *err)
{
    int fd = -1;
    int rc = path ? fm_netns_run(path, open_here, &fd, err) : open_here(&fd, err);
    if (rc == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return rc;
}

struct listing {
    fm_sock_diag_fn each;
    void *ctx;
};

static int pass_on(const struct nlmsghdr *nlh, void *ctx)
{
    const struct listing *l = ctx;
    const struct inet_diag_msg *m = mnl_nlmsg_get_payload(nlh);
    if (mnl_nlmsg_get_payload_len(nlh) >= sizeof(*m))
        l->each(m, l->ctx);
    return MNL_CB_OK;
}

static int ask(int fd, int family, int protocol, uint32_t states)
{
    struct {
        struct nlmsghdr head;
        struct inet_diag_req_v2 body;
    } request = {
        .head = {.nlmsg_len = sizeof(request),
                 .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .body = {.sdiag_family = (uint8_t)family,
                 .sdiag_protocol = (uint8_t)protocol,
                 .idiag_states = states},
    };
    return send(fd, &request, sizeof(request), 0) == (ssize_t)sizeof(request) ? 0 : -1;
}

static int take_answer(int fd, struct listing *l)
{
    char buffer[16384] __attribute__((aligned(8)));
    int more = MNL_CB_OK;
    while (more == MNL_CB_OK) {
        ssize_t len = recv(fd, buffer, sizeof(buffer), 0);
        if (len < 0 && errno == EINTR)
            continue;
        if (len <= 0)
            return -1;
        more = mnl_cb_run(buffer, (size_t)len, 0, 0, pass_on, l);
    }
    return more == MNL_CB_STOP ? 0 : -1;
}

int fm_sock_diag_each(int fd, int protocol, uint32_t states, fm_sock_diag_fn each, void *ctx,
                      struct fm_error *err)
{
    static const int families[] = {AF_INET, AF_INET6};
    struct listing l = {each, ctx};
    for (int i = 0; i < 2; i++)
        if (ask(fd, families[i], protocol, states) < 0 || take_answer(fd, &l) < 0)
            return fm_error_errno(err, errno, "cannot read the kernel's list of sockets");
    return 0;
}
