#include "wire/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define BACKLOG 64

uint64_t fm_deadline_after(uint64_t timeout_ms)
{
    return timeout_ms ? fm_now_ms() + timeout_ms : 0;
}

static int time_left(uint64_t deadline)
{
    uint64_t now = fm_now_ms();

    if (!deadline)
        return -1;
    if (deadline <= now)
        return 0;
    return deadline - now > 3600000u ? 3600000 : (int)(deadline - now);
}

int fm_socket_wait(int fd, short events, uint64_t deadline)
{
    struct pollfd p = {.fd = fd, .events = events};

    for (;;) {
        int n = poll(&p, 1, time_left(deadline));

        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -EIO;
        if (deadline && fm_now_ms() >= deadline)
            return -ETIMEDOUT;
    }
}

static void set_option(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof(value));
}

void fm_socket_tune(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags >= 0)
        (void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 5);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 3);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 15000);
}

static void free_addresses(struct addrinfo **list)
{
    if (*list)
        freeaddrinfo(*list);
}

static int resolve(const char *host, int port, int flags, struct addrinfo **list,
                   struct fm_error *err)
{
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC,
        .ai_socktype = SOCK_STREAM,
        .ai_flags = flags | AI_NUMERICSERV,
    };
    char service[16];
    int ret;

    snprintf(service, sizeof(service), "%d", port);
    ret = getaddrinfo(host && *host ? host : NULL, service, &hints, list); /* NULL: all */
    if (ret != 0)
        return fm_error_set(err, FM_E_UNREACHABLE, "cannot find the address of '%s': %s",
                            host ? host : "*", gai_strerror(ret));
    return 0;
}

/* 0 or negative errno. */
static int finish_connect(int fd, uint64_t deadline)
{
    int result = 0;
    socklen_t len = sizeof(result);
    int ret = fm_socket_wait(fd, POLLOUT, deadline);

    if (ret < 0)
        return ret;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &result, &len) < 0)
        return -errno;
    return -result;
}

/* A descriptor or negative errno. */
static int connect_one(const struct addrinfo *address, uint64_t deadline)
{
    fm_autoclose int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int ret = 0;

    if (fd < 0)
        return -errno;
    if (connect(fd, address->ai_addr, address->ai_addrlen) < 0)
        ret = errno == EINPROGRESS ? finish_connect(fd, deadline) : -errno;
    return ret < 0 ? ret : FM_MOVE_FD(fd);
}

int fm_socket_connect(const char *host, int port, uint64_t deadline, struct fm_error *err)
{
    fm_cleanup(free_addresses) struct addrinfo *list = NULL;
    int fd = -EHOSTUNREACH;

    if (resolve(host, port, 0, &list, err) < 0)
        return -FM_E_UNREACHABLE;
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
        fd = connect_one(a, deadline);
    if (fd >= 0)
        return fd;
    fm_error_errno(err, -fd, "cannot reach %s port %d", host, port);
    if (fd == -ETIMEDOUT)
        return -FM_E_TIMEOUT;
    if (fd == -ECONNREFUSED)
        fm_error_set(err, FM_E_UNREACHABLE,
                     "cannot reach %s port %d: connection refused; is fleximigrated running there?",
                     host, port);
    return fm_error_recode(err, FM_E_UNREACHABLE);
}

int fm_socket_listen(const char *address, int port, struct fm_error *err)
{
    fm_cleanup(free_addresses) struct addrinfo *list = NULL;
    fm_autoclose int fd = -1;

    if (resolve(address, port, AI_PASSIVE, &list, err) < 0)
        return -FM_E_UNREACHABLE;
    fd = socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fm_error_errno(err, errno, "cannot make a socket");
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (bind(fd, list->ai_addr, list->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
        return fm_error_errno(err, errno, "cannot listen on %s port %d", address ? address : "*",
                              port);
    return FM_MOVE_FD(fd);
}
