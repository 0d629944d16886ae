/* TCP sockets that a killed CRIU left in repair mode: they neither send nor can be read from. */
#include "network/fabric.h"

#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"

struct listener {
    in_port_t port;
    int reuse;
};

struct repairs {
    int *fds; /* sockets in repair mode */
    size_t count;
    struct listener *listeners;
    size_t listener_count;
};

static void repairs_free(struct repairs *r)
{
    for (size_t i = 0; i < r->count; i++)
        close(r->fds[i]);
    free(r->fds);
    free(r->listeners);
}

static int get_int(int fd, int level, int name)
{
    int value = 0;
    socklen_t len = sizeof(value);
    return getsockopt(fd, level, name, &value, &len) < 0 ? -1 : value;
}

static in_port_t local_port(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof(address);
    if (getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        return 0;
    return address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                         : ((struct sockaddr_in *)&address)->sin_port;
}

/* Keeps the descriptor if it needs repair, closes it otherwise. */
static void look_at_socket(struct repairs *r, int fd)
{
    if (get_int(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP) {
        if (get_int(fd, SOL_SOCKET, SO_ACCEPTCONN) == 1) {
            r->listeners =
                fm_xrealloc(r->listeners, (r->listener_count + 1) * sizeof(*r->listeners));
            r->listeners[r->listener_count++] = (struct listener){
                .port = local_port(fd), .reuse = get_int(fd, SOL_SOCKET, SO_REUSEADDR)};
        } else if (get_int(fd, IPPROTO_TCP, TCP_REPAIR) == 1) {
            r->fds = fm_xrealloc(r->fds, (r->count + 1) * sizeof(*r->fds));
            r->fds[r->count++] = fd;
            return;
        }
    }
    close(fd);
}

static int look_at_process(struct repairs *r, pid_t pid, struct fm_error *err)
{
    fm_autoclose int process = (int)syscall(SYS_pidfd_open, pid, 0);
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    fm_autoclosedir DIR *dir = opendir(path);
    if (process < 0 || !dir)
        return errno == ESRCH || errno == ENOENT
                   ? 0
                   : fm_error_errno(err, errno, "cannot look at the sockets of process %d",
                                    (int)pid);
    const struct dirent *entry;
    while ((entry = readdir(dir))) {
        char target[32] = "";
        if (entry->d_name[0] == '.' ||
            readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1) < 0 ||
            !fm_starts_with(target, "socket:"))
            continue;
        int fd = (int)syscall(SYS_pidfd_getfd, process, atoi(entry->d_name), 0);
        if (fd >= 0)
            look_at_socket(r, fd);
        else if (errno != EBADF && errno != ESRCH)
            return fm_error_errno(err, errno, "cannot get socket %s of process %d", entry->d_name,
                                  (int)pid);
    }
    return 0;
}

/* Repair mode forces SO_REUSEADDR and leaving it clears it; CRIU had the value. An accepted socket
 * had its listener's. */
static void restore_reuse(const struct repairs *r, int fd)
{
    in_port_t port = local_port(fd);
    for (size_t i = 0; i < r->listener_count; i++) {
        if (r->listeners[i].port != port)
            continue;
        int reuse = r->listeners[i].reuse == 1;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
        return;
    }
}

/* Without the window probe of plain "off": the connection did not miss anything, for what its peer
 * sent meanwhile is in the hold and comes with its acknowledgements; the probe would only be an old
 * sequence number for the peer to answer. */
static int leave_repair(const struct repairs *r, int fd, struct fm_error *err)
{
    int mode = TCP_REPAIR_OFF_NO_WP;
    int rc = setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &mode, sizeof(mode));
    if (rc < 0 && errno == EINVAL) { /* before Linux 4.19 */
        mode = TCP_REPAIR_OFF;
        rc = setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &mode, sizeof(mode));
    }
    if (rc < 0)
        return fm_error_errno(err, errno, "cannot take a TCP socket out of repair mode");
    restore_reuse(r, fd);
    return 0;
}

int fm_unrepair(const pid_t *pids, size_t count, struct fm_error *err)
{
    struct repairs r = {0};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = look_at_process(&r, pids[i], err);
    /* The same socket under several descriptors is put right several times, which is harmless. */
    for (size_t i = 0; i < r.count; i++) {
        struct fm_error here = {0};
        int one = leave_repair(&r, r.fds[i], &here);
        if (one < 0 && rc == 0) {
            rc = one;
            if (err)
                *err = here;
        }
    }
    if (r.count)
        fm_info(FM_NETWORK_MANAGER, "Took %zu TCP sockets out of repair mode.", r.count);
    repairs_free(&r);
    return rc;
}
