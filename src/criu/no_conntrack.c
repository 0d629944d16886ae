/* Preloaded into a CRIU that dumps a container whose network namespace is ours, not the
 * container's.
 *
 * CRIU dumps the connection tracking tables of such a namespace too, although it will not restore
 * the namespace: the kernel walks its whole hash table for that (262,144 buckets, 6 ms a time,
 * twice, while the container is frozen). Here these two requests become no-ops that the kernel just
 * acknowledges.
 *
 * And it mounts a sysfs of that namespace, which it only needs to read the settings of network
 * devices that it will not restore either: making and ending one costs a millisecond or more. CRIU
 * does without one. FLEXIMIGRATE_EXTERNAL_NET is the inode number of the namespace; one that the
 * container has made itself is dumped as ever.
 *
 * Source of the latter: CRIU 4.1 to 4.2, which goes on without a sysfs when the namespace is
 * external. */
#include <dlfcn.h>
#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "criu/preload.h"

typedef long (*syscall_fn)(long, ...);
typedef ssize_t (*sendmsg_fn)(int, const struct msghdr *, int);

ssize_t sendmsg(int fd, const struct msghdr *message, int flags);
long syscall(long number, ...);

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

static bool is_in_external_namespace(void)
{
    const char *number = getenv(FM_EXTERNAL_NET_ENVIRONMENT);
    struct stat st;
    return number && stat("/proc/self/ns/net", &st) == 0 &&
           (unsigned long)st.st_ino == strtoul(number, NULL, 10);
}

/* As the C library does: all six are passed on, whatever the call takes. */
/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name) */
long syscall(long number, ...)
{
    syscall_fn next = (syscall_fn)dlsym(RTLD_NEXT, "syscall");
    long a[6];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(arguments, long);
    va_end(arguments);
    if (number == SYS_fsopen && strcmp((const char *)a[0], "sysfs") == 0 &&
        is_in_external_namespace()) {
        errno = ECANCELED;
        return -1;
    }
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
