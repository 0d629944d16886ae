#include "api/listener.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/text.h"

#define BACKLOG 64

static int bind_tcp(const struct addrinfo *to)
{
    fm_autoclose int fd = socket(to->ai_family, to->ai_socktype | SOCK_CLOEXEC, to->ai_protocol);
    int on = 1, off = 0;

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (to->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (bind(fd, to->ai_addr, to->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
        return -1;
    return FM_MOVE_FD(fd);
}

static int listen_on(const char *address, int port, struct fm_error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_PASSIVE};
    struct addrinfo *found;
    char service[16];
    int ret, fd;

    snprintf(service, sizeof(service), "%d", port);
    ret = getaddrinfo(address, service, &hints, &found);
    if (ret != 0)
        return fm_error_set(err, FM_E_INVALID, "cannot listen on '%s': %s", address,
                            gai_strerror(ret));
    fd = bind_tcp(found);
    ret = errno;
    freeaddrinfo(found);
    if (fd < 0)
        return fm_error_errno(err, ret, "cannot listen on %s port %d", address, port);
    return fd;
}

int fm_listen_tcp(const char *address, int port, struct fm_error *err)
{
    int fd;

    if (address[0] != '\0')
        return listen_on(address, port, err);
    fd = listen_on("::", port, NULL);
    return fd >= 0 ? fd : listen_on("0.0.0.0", port, err);
}

int fm_listen_port(int fd)
{
    struct sockaddr_storage storage = {0};
    socklen_t len = sizeof(storage);

    if (getsockname(fd, (struct sockaddr *)&storage, &len) < 0)
        return 0;
    if (storage.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&storage)->sin6_port);
    return ntohs(((struct sockaddr_in *)&storage)->sin_port);
}

/* True when a process accepts connections there. */
static bool served(const struct sockaddr_un *address)
{
    fm_autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    return fd >= 0 && (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ||
                       errno == EAGAIN);
}

int fm_listen_unix(const char *path, unsigned mode, struct fm_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    fm_autoclose int fd = -1;
    struct stat st;

    if (strlen(path) >= sizeof(address.sun_path))
        return fm_error_set(
            err, FM_E_INVALID,
            "socket path %s is longer than %zu characters; choose a shorter run_dir", path,
            sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, strlen(path));

    if (lstat(path, &st) == 0) {
        if (!S_ISSOCK(st.st_mode))
            return fm_error_set(err, FM_E_EXISTS, "%s exists and is not a socket", path);
        if (served(&address))
            return fm_error_set(err, FM_E_EXISTS, "another fleximigrated serves %s", path);
        unlink(path);
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fm_error_errno(err, errno, "cannot make a unix socket");
    /* Nobody can connect before listen(), so the mode is set in time. */
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || chmod(path, mode) < 0 ||
        listen(fd, BACKLOG) < 0)
        return fm_error_errno(err, errno, "cannot listen on %s", path);
    return FM_MOVE_FD(fd);
}
