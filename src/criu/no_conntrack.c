/* Preloaded into a CRIU that dumps a container whose network namespace is ours, not the
 * container's.
 *
 * CRIU dumps the connection tracking tables of such a namespace too, although it will not restore
 * the namespace: the kernel walks its whole hash table for that (262,144 buckets, 6 ms a time,
 * twice, while the container is frozen). Here these two requests become no-ops that the kernel just
 * acknowledges. */
#include <dlfcn.h>
#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

typedef ssize_t (*sendmsg_fn)(int, const struct msghdr *, int);

ssize_t sendmsg(int fd, const struct msghdr *message, int flags);

/* The request that CRIU sends: one header, one nfgenmsg, to be answered with everything there is.
 */
static bool is_conntrack_dump(const struct msghdr *message)
{
    struct nlmsghdr header;
    if (message->msg_iovlen != 1 || message->msg_namelen != sizeof(struct sockaddr_nl) ||
        message->msg_iov[0].iov_len != sizeof(header) + sizeof(struct nfgenmsg))
        return false;
    memcpy(&header, message->msg_iov[0].iov_base, sizeof(header));
    int subsystem = NFNL_SUBSYS_ID(header.nlmsg_type);
    return (header.nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP &&
           (subsystem == NFNL_SUBSYS_CTNETLINK || subsystem == NFNL_SUBSYS_CTNETLINK_EXP);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    sendmsg_fn next = (sendmsg_fn)dlsym(RTLD_NEXT, "sendmsg");
    if (!is_conntrack_dump(message))
        return next(fd, message, flags);
    struct nlmsghdr noop;
    memcpy(&noop, message->msg_iov[0].iov_base, sizeof(noop));
    noop.nlmsg_len = sizeof(noop);
    noop.nlmsg_type = NLMSG_NOOP;
    noop.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    struct iovec iov = {.iov_base = &noop, .iov_len = sizeof(noop)};
    struct msghdr instead = *message;
    instead.msg_iov = &iov;
    ssize_t sent = next(fd, &instead, flags);
    return sent < 0 ? sent : (ssize_t)message->msg_iov[0].iov_len;
}
