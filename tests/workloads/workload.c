#include "workload.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FRAME_MAGIC 0x464d574cu
#define MAX_LISTED_GAPS 65536

void wl_die(const char *format, ...)
{
    va_list args;

    fprintf(stderr, "%s: ", program_invocation_short_name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(WL_EXIT_USAGE);
}

static uint64_t clock_us(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t wl_now_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}

uint64_t wl_wall_us(void)
{
    return clock_us(CLOCK_REALTIME);
}

uint64_t wl_mix(uint64_t value)
{
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

uint64_t wl_number(const char *what, const char *text)
{
    char *end;
    uint64_t value;
    int shift = 0;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (*end == 'k' || *end == 'm' || *end == 'g') {
        shift = *end == 'k' ? 10 : *end == 'm' ? 20 : 30;
        end++;
    }
    if (errno || end == text || *end || *text == '-')
        wl_die("%s: '%s' is not a number", what, text);
    return value << shift;
}

void *wl_alloc(size_t count, size_t size)
{
    void *memory = calloc(count, size);

    if (!memory)
        wl_die("out of memory");
    return memory;
}

int wl_stop_signals(void)
{
    sigset_t set;
    int fd;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        wl_die("signalfd: %s", strerror(errno));
    return fd;
}

void wl_ready(const char *path)
{
    int fd;

    if (!path)
        return;
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        wl_die("%s: %s", path, strerror(errno));
    close(fd);
}

struct sockaddr_storage wl_address(const char *address, const char *port)
{
    struct sockaddr_storage result = {0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)&result;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&result;
    uint64_t number = wl_number("port", port);

    if (number > 65535)
        wl_die("port: %s is above 65535", port);
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)number);
    } else if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)number);
    } else {
        wl_die("'%s' is not an IP address", address);
    }
    return result;
}

static int port_of(const struct sockaddr_storage *at)
{
    return ntohs(at->ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)at)->sin6_port
                                           : ((const struct sockaddr_in *)at)->sin_port);
}

static void set_option(int fd, int level, int option)
{
    int on = 1;

    setsockopt(fd, level, option, &on, sizeof(on));
}

static int socket_or_die(sa_family_t family, int type)
{
    int fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        wl_die("socket: %s", strerror(errno));
    return fd;
}

static int connect_once(const struct sockaddr_storage *to, int wait_ms)
{
    int fd = socket_or_die(to->ss_family, SOCK_STREAM);
    struct pollfd writable = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t length = sizeof(error);

    set_option(fd, IPPROTO_TCP, TCP_NODELAY);
    if (connect(fd, (const struct sockaddr *)to, sizeof(*to)) == 0)
        return fd;
    error = errno;
    if (error == EINPROGRESS) {
        error = ETIMEDOUT;
        if (poll(&writable, 1, wait_ms) > 0)
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    }
    if (error == 0)
        return fd;
    close(fd);
    errno = error;
    return -1;
}

int wl_tcp_connect(const struct sockaddr_storage *to, uint64_t wait_ms)
{
    uint64_t deadline = wl_now_us() + wait_ms * 1000;
    int fd;

    for (;;) {
        uint64_t now = wl_now_us();
        int left_ms = now < deadline ? (int)((deadline - now) / 1000) : 0;

        fd = connect_once(to, left_ms > 0 ? left_ms : 1);
        if (fd >= 0 || left_ms <= 0)
            return fd;
        poll(NULL, 0, 10);
    }
}

int wl_tcp_listen(const struct sockaddr_storage *at)
{
    int fd = socket_or_die(at->ss_family, SOCK_STREAM);

    set_option(fd, SOL_SOCKET, SO_REUSEADDR);
    if (bind(fd, (const struct sockaddr *)at, sizeof(*at)) || listen(fd, 1024))
        wl_die("cannot listen on port %d: %s", port_of(at), strerror(errno));
    return fd;
}

int wl_tcp_accept(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0)
        set_option(fd, IPPROTO_TCP, TCP_NODELAY);
    return fd;
}

int wl_udp_bind(const struct sockaddr_storage *at)
{
    int fd = socket_or_die(at->ss_family, SOCK_DGRAM);

    if (bind(fd, (const struct sockaddr *)at, sizeof(*at)))
        wl_die("cannot bind UDP port %d: %s", port_of(at), strerror(errno));
    return fd;
}

int wl_udp_connect(const struct sockaddr_storage *to)
{
    int fd = socket_or_die(to->ss_family, SOCK_DGRAM);

    if (connect(fd, (const struct sockaddr *)to, sizeof(*to)))
        wl_die("cannot connect UDP: %s", strerror(errno));
    return fd;
}

struct wl_frame wl_frame_make(enum wl_mode mode, uint64_t id, uint64_t seq)
{
    struct wl_frame frame = {
        .magic = FRAME_MAGIC, .mode = mode, .id = id, .seq = seq, .sent_us = wl_wall_us()};

    for (int i = 0; i < 4; i++)
        frame.body[i] = wl_mix(id ^ wl_mix(seq * 4 + (uint64_t)i));
    return frame;
}

bool wl_frame_intact(const struct wl_frame *frame)
{
    if (frame->magic != FRAME_MAGIC)
        return false;
    for (int i = 0; i < 4; i++) {
        if (frame->body[i] != wl_mix(frame->id ^ wl_mix(frame->seq * 4 + (uint64_t)i)))
            return false;
    }
    return true;
}

int wl_stream_next(struct wl_stream *stream, struct wl_frame *frame)
{
    while (stream->in_length < sizeof(*frame)) {
        ssize_t got =
            recv(stream->fd, stream->in + stream->in_length, sizeof(*frame) - stream->in_length, 0);

        if (got == 0)
            return WL_STREAM_EOF;
        if (got < 0)
            return errno == EAGAIN || errno == EINTR ? WL_STREAM_EMPTY : -errno;
        stream->in_length += (size_t)got;
    }
    memcpy(frame, stream->in, sizeof(*frame));
    stream->in_length = 0;
    return WL_STREAM_FRAME;
}

bool wl_stream_has_room(const struct wl_stream *stream)
{
    return stream->out_length + sizeof(struct wl_frame) <= sizeof(stream->out);
}

int wl_stream_send(struct wl_stream *stream, const struct wl_frame *frame)
{
    if (!wl_stream_has_room(stream))
        return -ENOBUFS;
    memcpy(stream->out + stream->out_length, frame, sizeof(*frame));
    stream->out_length += sizeof(*frame);
    return wl_stream_flush(stream);
}

int wl_stream_flush(struct wl_stream *stream)
{
    size_t done = 0;
    int result = 0;

    while (done < stream->out_length) {
        ssize_t sent =
            send(stream->fd, stream->out + done, stream->out_length - done, MSG_NOSIGNAL);

        if (sent < 0) {
            result = errno == EAGAIN || errno == EINTR ? 0 : -errno;
            break;
        }
        done += (size_t)sent;
    }
    memmove(stream->out, stream->out + done, stream->out_length - done);
    stream->out_length -= done;
    return result;
}

uint64_t wl_body_word(uint64_t word)
{
    return wl_mix(word);
}

void wl_gaps_note(struct wl_gaps *gaps, uint64_t from_us, uint64_t until_us)
{
    uint64_t length = until_us > from_us ? until_us - from_us : 0;
    uint64_t at_us;

    if (length <= gaps->max_us && length <= gaps->threshold_us)
        return;
    at_us = wl_wall_us() - (wl_now_us() - from_us);
    if (length > gaps->max_us) {
        gaps->max_us = length;
        gaps->max_at_us = at_us;
    }
    if (length <= gaps->threshold_us)
        return;
    gaps->stall_us += length;
    if (!gaps->list)
        gaps->list = wl_alloc(MAX_LISTED_GAPS, sizeof(*gaps->list));
    if (gaps->count < MAX_LISTED_GAPS)
        gaps->list[gaps->count++] = (struct wl_gap){.at_us = at_us, .length_us = length};
}

void wl_gaps_print(FILE *out, const struct wl_gaps *gaps)
{
    fprintf(out, "\"max_gap_ms\":%.3f,\"max_gap_at_ms\":%.3f,\"stall_ms\":%.3f,\"gaps\":[",
            (double)gaps->max_us / 1e3, (double)gaps->max_at_us / 1e3,
            (double)gaps->stall_us / 1e3);
    for (size_t i = 0; i < gaps->count; i++)
        fprintf(out, "%s{\"at_ms\":%.3f,\"gap_ms\":%.3f}", i ? "," : "",
                (double)gaps->list[i].at_us / 1e3, (double)gaps->list[i].length_us / 1e3);
    fputc(']', out);
}
