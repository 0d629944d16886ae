#include "base/deposit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"

#define MAGIC 0x466d4431u
/* Above what programs with a usual limit get, or close in a loop. */
#define FLOOR 1024
#define QUEUE_BYTES (64 << 20) /* a kernel buffer of 1 KiB for each item */

/* ---- Making and finding ---- */

/* To itself, under a name that the kernel chooses: only it can send there then. */
static int connect_to_itself(int fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t len = sizeof(address);

    if (bind(fd, (const struct sockaddr *)&address, sizeof(sa_family_t)) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        return -1;
    return connect(fd, (const struct sockaddr *)&address, len);
}

int fm_deposit_make(void)
{
    fm_autoclose int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const int size = QUEUE_BYTES;
    int high;

    if (fd < 0 || connect_to_itself(fd) < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
    high = fcntl(fd, F_DUPFD_CLOEXEC, FLOOR);
    return high >= 0 ? high : FM_MOVE_FD(fd); /* not so many may be open */
}

uint64_t fm_deposit_inode(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) ? st.st_ino : 0;
}

int fm_deposit_number(pid_t pid, uint64_t inode)
{
    char path[64], wanted[48], target[48];
    const struct dirent *entry;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    snprintf(wanted, sizeof(wanted), "socket:[%" PRIu64 "]", inode);
    fm_autoclosedir DIR *dir = opendir(path);
    while (dir && (entry = readdir(dir))) {
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

        target[n > 0 ? n : 0] = '\0';
        if (strcmp(target, wanted) == 0)
            return atoi(entry->d_name);
    }
    return -1;
}

int fm_deposit_open(pid_t pid, uint64_t inode)
{
    int number = fm_deposit_number(pid, inode);
    fm_autoclose int pidfd = number < 0 ? -1 : pidfd_open(pid, 0);
    int fd = pidfd < 0 ? -1 : pidfd_getfd(pidfd, number, 0);

    if (fd >= 0 && fm_deposit_inode(fd) != inode) { /* it was closed just now */
        close(fd);
        return -1;
    }
    return fd;
}

/* ---- What is in it ---- */

int fm_deposit_put(int fd, const struct fm_deposit_item *item, const int *fds, size_t count)
{
    struct fm_deposit_item stamped = *item;
    union {
        char space[CMSG_SPACE(sizeof(int) * FM_DEPOSIT_FDS_MAX)];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov = {.iov_base = &stamped, .iov_len = sizeof(stamped)};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    stamped.magic = MAGIC;
    if (count > 0) {
        header.msg_control = control.space;
        header.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        control.align.cmsg_level = SOL_SOCKET;
        control.align.cmsg_type = SCM_RIGHTS;
        control.align.cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(&control.align), fds, sizeof(int) * count);
    }
    do
        n = sendmsg(fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

int fm_deposit_drop(int fd, struct fm_deposit_item *item)
{
    ssize_t n;

    do /* without room for descriptors these are closed */
        n = recv(fd, item, sizeof(*item), MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return 0;
    if (n != sizeof(*item) || item->magic != MAGIC)
        item->magic = 0;
    return 1;
}

static void look_from(int fd, int offset)
{
    setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset));
}

void fm_deposit_look_begin(int fd)
{
    look_from(fd, 0);
}

void fm_deposit_look_end(int fd)
{
    look_from(fd, -1);
}

static void take_fds(struct msghdr *header, int fds[FM_DEPOSIT_FDS_MAX])
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    }
}

int fm_deposit_look_next(int fd, struct fm_deposit_item *item, int fds[FM_DEPOSIT_FDS_MAX])
{
    union {
        char space[CMSG_SPACE(sizeof(int) * FM_DEPOSIT_FDS_MAX)];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov = {.iov_base = item, .iov_len = sizeof(*item)};
    struct msghdr header = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.space,
        .msg_controllen = sizeof(control.space),
    };
    ssize_t n;

    for (int i = 0; i < FM_DEPOSIT_FDS_MAX; i++)
        fds[i] = -1;
    do
        n = recvmsg(fd, &header, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return 0;
    take_fds(&header, fds);
    if (n != sizeof(*item) || item->magic != MAGIC)
        item->magic = 0;
    return 1;
}
