#include "state/pager_protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"

/* ---- Messages ---- */

int fm_pager_send(int socket, const struct fm_pager_message *message, const int *fds, size_t count,
                  int flags)
{
    struct fm_pager_message stamped = *message;
    union {
        char space[CMSG_SPACE(sizeof(int) * FM_PAGER_FDS_MAX)];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov = {.iov_base = &stamped, .iov_len = sizeof(stamped)};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    stamped.version = FM_PAGER_PROTOCOL;
    if (count > 0) {
        header.msg_control = control.space;
        header.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        control.align.cmsg_level = SOL_SOCKET;
        control.align.cmsg_type = SCM_RIGHTS;
        control.align.cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(&control.align), fds, sizeof(int) * count);
    }
    do
        n = sendmsg(socket, &header, MSG_NOSIGNAL | flags);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

static void take_fds(struct msghdr *header, int fds[FM_PAGER_FDS_MAX])
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    }
}

int fm_pager_receive(int socket, struct fm_pager_message *message, int fds[FM_PAGER_FDS_MAX],
                     int flags)
{
    union {
        char space[CMSG_SPACE(sizeof(int) * FM_PAGER_FDS_MAX)];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov = {.iov_base = message, .iov_len = sizeof(*message)};
    struct msghdr header = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.space,
        .msg_controllen = sizeof(control.space),
    };
    ssize_t n;

    for (int i = 0; i < FM_PAGER_FDS_MAX; i++)
        fds[i] = -1;
    do
        n = recvmsg(socket, &header, MSG_CMSG_CLOEXEC | flags);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ECONNRESET ? 0 : -errno;
    if (n == 0)
        return 0;
    take_fds(&header, fds);
    if (n == sizeof(*message) && message->version == FM_PAGER_PROTOCOL)
        return 1;
    for (int i = 0; i < FM_PAGER_FDS_MAX; i++)
        fm_cleanup_close(&fds[i]);
    return -EPROTO;
}

/* ---- Sockets ---- */

/* The path through its directory's descriptor: sun_path holds 107 characters. */
static int short_address(const char *path, struct sockaddr_un *address, int *dir)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    char parent[4096];
    int n;

    snprintf(parent, sizeof(parent), "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    *dir = open(slash == path ? "/" : parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*dir < 0)
        return -errno;
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    n = snprintf(address->sun_path, sizeof(address->sun_path), "/proc/self/fd/%d/%s", *dir, name);
    return n < (int)sizeof(address->sun_path) ? 0 : -ENAMETOOLONG;
}

int fm_pager_listen(const char *path, int type)
{
    fm_autoclose int dir = -1;
    fm_autoclose int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address;
    int ret = short_address(path, &address, &dir);

    if (fd < 0)
        return -errno;
    if (ret < 0)
        return ret;
    /* The mode of the socket file is that of the descriptor: nobody gets in before chmod. */
    if (fchmod(fd, 0600) < 0 || (unlink(path) < 0 && errno != ENOENT) ||
        bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 16) < 0)
        return -errno;
    return FM_MOVE_FD(fd);
}

int fm_pager_connect(const char *path, int type)
{
    fm_autoclose int dir = -1;
    fm_autoclose int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    struct sockaddr_un address;
    int ret = short_address(path, &address, &dir);

    if (fd < 0)
        return -errno;
    if (ret < 0)
        return ret;
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        return -errno;
    return FM_MOVE_FD(fd);
}
