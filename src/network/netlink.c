#include "network/netlink.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

#define RECEIVE_BYTES 32768

int fm_nl_open(struct fm_nl *nl, struct fm_error *err)
{
    *nl = (struct fm_nl){.lock = PTHREAD_MUTEX_INITIALIZER};
    nl->socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    if (!nl->socket)
        return fm_error_errno(err, errno, "cannot open a netlink socket");
    if (mnl_socket_bind(nl->socket, 0, MNL_SOCKET_AUTOPID) < 0) {
        fm_error_errno(err, errno, "cannot bind a netlink socket");
        fm_nl_close(nl);
        return err ? -(int)err->code : -FM_E_IO;
    }
    int on = 1; /* short answers with the kernel's own explanation; old kernels do without */
    mnl_socket_setsockopt(nl->socket, NETLINK_CAP_ACK, &on, sizeof(on));
    mnl_socket_setsockopt(nl->socket, NETLINK_EXT_ACK, &on, sizeof(on));
    return 0;
}

void fm_nl_close(struct fm_nl *nl)
{
    if (nl->socket)
        mnl_socket_close(nl->socket);
    nl->socket = NULL;
}

struct nlmsghdr *fm_nl_add(struct fm_nl_batch *batch, const char *what, uint16_t type,
                           uint16_t flags)
{
    char *at = batch->last ? (char *)batch->last + MNL_ALIGN(batch->last->nlmsg_len) : batch->data;
    /* Batches are written by this folder with known contents; overflowing one is a programming
     * error. */
    if (batch->count == FM_NL_BATCH_COUNT || at - batch->data > FM_NL_BATCH_BYTES - 1024)
        abort();
    struct nlmsghdr *nlh = mnl_nlmsg_put_header(at);
    nlh->nlmsg_type = type;
    nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    batch->entries[batch->count].what = what;
    memset(batch->entries[batch->count].ignore, 0, sizeof(batch->entries[0].ignore));
    batch->count++;
    batch->last = nlh;
    return nlh;
}

void fm_nl_ignore(struct fm_nl_batch *batch, int errno_value)
{
    int *ignore = batch->entries[batch->count - 1].ignore;
    for (size_t i = 0; i < FM_COUNT(batch->entries[0].ignore); i++) {
        if (ignore[i])
            continue;
        ignore[i] = errno_value;
        return;
    }
}

/* The kernel's explanation in an extended acknowledgement, or NULL. */
static const char *explanation(const struct nlmsghdr *nlh)
{
    if (!(nlh->nlmsg_flags & NLM_F_ACK_TLVS))
        return NULL;
    const struct nlmsgerr *answer = mnl_nlmsg_get_payload(nlh);
    size_t offset = sizeof(*answer);
    if (!(nlh->nlmsg_flags & NLM_F_CAPPED))
        offset += answer->msg.nlmsg_len - sizeof(struct nlmsghdr);
    const struct nlattr *attr;
    mnl_attr_for_each(attr, nlh, offset)
    {
        if (mnl_attr_get_type(attr) == NLMSGERR_ATTR_MSG &&
            mnl_attr_validate(attr, MNL_TYPE_NUL_STRING) >= 0)
            return mnl_attr_get_str(attr);
    }
    return NULL;
}

static bool ignored(const int ignore[3], int errno_value)
{
    return errno_value == ignore[0] || errno_value == ignore[1] || errno_value == ignore[2];
}

static int judge_ack(const struct nlmsghdr *nlh, const char *what, const int ignore[3],
                     struct fm_error *err)
{
    const struct nlmsgerr *answer = mnl_nlmsg_get_payload(nlh);
    if (answer->error == 0 || ignored(ignore, -answer->error))
        return 0;
    const char *why = explanation(nlh);
    return fm_error_errno(err, -answer->error, "%s%s%s%s", what, why ? " (" : "", why ? why : "",
                          why ? ")" : "");
}

/* Answers of an earlier, broken off request must not be taken for ours. */
static bool is_answer(const struct nlmsghdr *nlh, uint32_t first, unsigned count)
{
    return nlh->nlmsg_type == NLMSG_ERROR && nlh->nlmsg_seq - first < count &&
           nlh->nlmsg_len >= mnl_nlmsg_size(sizeof(struct nlmsgerr));
}

static int collect_acks(struct fm_nl *nl, const struct fm_nl_batch *batch, uint32_t first,
                        struct fm_error *err)
{
    char buffer[8192] __attribute__((aligned(8)));
    int result = 0;
    for (unsigned open = batch->count; open > 0;) {
        ssize_t got = mnl_socket_recvfrom(nl->socket, buffer, sizeof(buffer));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fm_error_errno(err, errno, "cannot read from netlink");
        int len = (int)got;
        const struct nlmsghdr *nlh = (const struct nlmsghdr *)buffer;
        for (; mnl_nlmsg_ok(nlh, len); nlh = mnl_nlmsg_next(nlh, &len)) {
            if (!is_answer(nlh, first, batch->count))
                continue;
            unsigned index = nlh->nlmsg_seq - first;
            struct fm_error here = {0};
            int rc =
                judge_ack(nlh, batch->entries[index].what, batch->entries[index].ignore, &here);
            if (rc < 0 && result == 0) {
                result = rc;
                if (err)
                    *err = here;
            }
            open--;
        }
    }
    return result;
}

int fm_nl_run(struct fm_nl *nl, struct fm_nl_batch *batch, struct fm_error *err)
{
    if (!batch->last)
        return 0;
    size_t len = (size_t)((char *)batch->last - batch->data) + batch->last->nlmsg_len;

    pthread_mutex_lock(&nl->lock);
    uint32_t first = nl->seq + 1;
    nl->seq += batch->count;
    char *at = batch->data;
    for (unsigned i = 0; i < batch->count; i++) {
        struct nlmsghdr *nlh = (struct nlmsghdr *)at;
        nlh->nlmsg_seq = first + i;
        at += MNL_ALIGN(nlh->nlmsg_len);
    }
    int rc = mnl_socket_sendto(nl->socket, batch->data, len) < 0
                 ? fm_error_errno(err, errno, "cannot write to netlink")
                 : collect_acks(nl, batch, first, err);
    pthread_mutex_unlock(&nl->lock);

    batch->last = NULL;
    batch->count = 0;
    return rc;
}

/* Reads one answer buffer: 1 go on, 0 finished, negative error. */
static int take_answers(const char *buffer, int len, uint32_t seq, bool dump, fm_nl_each_fn each,
                        void *ctx, int *verdict, struct fm_error *err)
{
    const struct nlmsghdr *nlh = (const struct nlmsghdr *)buffer;
    for (; mnl_nlmsg_ok(nlh, len); nlh = mnl_nlmsg_next(nlh, &len)) {
        if (nlh->nlmsg_seq != seq)
            continue;
        if (nlh->nlmsg_type == NLMSG_DONE)
            return 0;
        if (nlh->nlmsg_type == NLMSG_ERROR) {
            const struct nlmsgerr *answer = mnl_nlmsg_get_payload(nlh);
            return answer->error ? fm_error_errno(err, -answer->error, "netlink") : 0;
        }
        if (*verdict >= 0) /* else only read to the end, so that the socket stays usable */
            *verdict = each(nlh, ctx);
        if (!dump)
            return 0;
    }
    return 1;
}

int fm_nl_query(struct fm_nl *nl, struct nlmsghdr *request, fm_nl_each_fn each, void *ctx,
                struct fm_error *err)
{
    fm_autofree char *buffer = fm_xmalloc(RECEIVE_BYTES);
    bool dump = (request->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
    int verdict = 0;

    pthread_mutex_lock(&nl->lock);
    request->nlmsg_seq = ++nl->seq;
    int rc = 1;
    if (mnl_socket_sendto(nl->socket, request, request->nlmsg_len) < 0)
        rc = fm_error_errno(err, errno, "cannot write to netlink");
    while (rc > 0) {
        ssize_t got = mnl_socket_recvfrom(nl->socket, buffer, RECEIVE_BYTES);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            rc = fm_error_errno(err, errno, "cannot read from netlink");
        else
            rc = take_answers(buffer, (int)got, request->nlmsg_seq, dump, each, ctx, &verdict, err);
    }
    pthread_mutex_unlock(&nl->lock);
    return rc < 0 ? rc : verdict;
}
