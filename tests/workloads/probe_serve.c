/* The servers of probe: one that echoes and serves downloads, one that only counts. */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_SERVED 1024
#define RECEIVE_BUFFER (4 << 20)
#define MAX_DOWNLOAD ((uint64_t)1 << 40)

/* The first bytes tell: a frame begins otherwise than a GET. */
enum kind { UNKNOWN, ECHO_FRAMES, DOWNLOAD };

struct served {
    struct wl_stream stream;
    enum kind kind;
    size_t head_length;
    char head[1024];
    uint64_t body_size, body_at;
};

/* ---- downloads ------------------------------------------------------------------------------ */

static void generate_body(struct served *served)
{
    struct wl_stream *stream = &served->stream;

    while (served->body_at < served->body_size && stream->out_length + 8 <= sizeof(stream->out)) {
        uint64_t left = served->body_size - served->body_at;
        uint64_t word = wl_body_word(served->body_at / 8);
        size_t part = left < 8 ? (size_t)left : 8;

        memcpy(stream->out + stream->out_length, &word, part);
        stream->out_length += part;
        served->body_at += part;
    }
}

/* False when the connection is to end: all is sent, or it is no request. */
static bool begin_body(struct served *served)
{
    uint64_t size = strtoull(served->head + strlen("GET /"), NULL, 10);

    if (size == 0 || size > MAX_DOWNLOAD)
        return false;
    served->body_size = size;
    served->stream.out_length = (size_t)snprintf(
        (char *)served->stream.out, sizeof(served->stream.out),
        "HTTP/1.1 200 OK\r\nContent-Length: %" PRIu64 "\r\nConnection: close\r\n\r\n", size);
    return true;
}

static bool read_request(struct served *served)
{
    ssize_t got = recv(served->stream.fd, served->head + served->head_length,
                       sizeof(served->head) - 1 - served->head_length, 0);

    if (got <= 0)
        return got < 0 && errno == EAGAIN;
    served->head_length += (size_t)got;
    served->head[served->head_length] = '\0';
    if (!strstr(served->head, "\r\n\r\n"))
        return served->head_length < sizeof(served->head) - 1;
    return begin_body(served);
}

/* A part at a time, so that others get their turn. */
static bool serve_download(struct served *served)
{
    if (!served->body_size)
        return read_request(served);
    generate_body(served);
    return wl_stream_flush(&served->stream) == 0 &&
           (served->stream.out_length || served->body_at < served->body_size);
}

/* ---- the echo server ------------------------------------------------------------------------ */

static void echo_datagrams(int fd)
{
    struct sockaddr_storage from;
    socklen_t length = sizeof(from);
    char buffer[2048];
    ssize_t got;

    while ((got = recvfrom(fd, buffer, sizeof(buffer), 0, (struct sockaddr *)&from, &length)) >=
           0) {
        sendto(fd, buffer, (size_t)got, MSG_NOSIGNAL, (struct sockaddr *)&from, length);
        length = sizeof(from);
    }
}

/* False when the connection has ended. */
static bool echo_stream(struct wl_stream *stream)
{
    while (stream->out_length < sizeof(stream->out)) {
        ssize_t got = recv(stream->fd, stream->out + stream->out_length,
                           sizeof(stream->out) - stream->out_length, 0);

        if (got == 0 || (got < 0 && errno != EAGAIN))
            return false;
        if (got < 0)
            break;
        stream->out_length += (size_t)got;
    }
    return wl_stream_flush(stream) == 0;
}

static bool serve_one(struct served *served)
{
    char start[4];

    if (served->kind == UNKNOWN &&
        recv(served->stream.fd, start, sizeof(start), MSG_PEEK) == sizeof(start))
        served->kind = memcmp(start, "GET ", sizeof(start)) == 0 ? DOWNLOAD : ECHO_FRAMES;
    return served->kind == DOWNLOAD ? serve_download(served) : echo_stream(&served->stream);
}

static short events_of(const struct served *served)
{
    bool writes = served->stream.out_length || served->body_at < served->body_size;

    return (short)((served->body_size ? 0 : POLLIN) | (writes ? POLLOUT : 0));
}

int probe_serve(const struct sockaddr_storage *at)
{
    static struct served *all[MAX_SERVED];
    static struct pollfd fds[MAX_SERVED + 3];
    size_t count = 0;

    fds[0] = (struct pollfd){.fd = wl_stop_signals(), .events = POLLIN};
    fds[1] = (struct pollfd){.fd = wl_tcp_listen(at), .events = POLLIN};
    fds[2] = (struct pollfd){.fd = wl_udp_bind(at), .events = POLLIN};
    for (;;) {
        int fd;

        if (poll(fds, count + 3, -1) < 0 && errno != EINTR)
            wl_die("poll: %s", strerror(errno));
        if (fds[0].revents)
            return WL_EXIT_OK;
        if (fds[2].revents)
            echo_datagrams(fds[2].fd);
        for (size_t i = 0; i < count;) {
            if (!fds[i + 3].revents || serve_one(all[i])) {
                fds[i + 3].events = events_of(all[i]);
                i++;
                continue;
            }
            close(all[i]->stream.fd);
            free(all[i]);
            all[i] = all[--count];
            fds[i + 3] = fds[count + 3];
        }
        if (fds[1].revents && count < MAX_SERVED && (fd = wl_tcp_accept(fds[1].fd)) >= 0) {
            all[count] = wl_alloc(1, sizeof(**all));
            all[count]->stream.fd = fd;
            fds[count++ + 3] = (struct pollfd){.fd = fd, .events = POLLIN};
        }
    }
}

/* ---- the sink ------------------------------------------------------------------------------- */

static void count_datagrams(int fd, struct probe_count *count, uint64_t *came_us)
{
    struct wl_frame frame;
    ssize_t got;

    while ((got = recv(fd, &frame, sizeof(frame), MSG_TRUNC)) >= 0) {
        if (got != (ssize_t)sizeof(frame) || !wl_frame_intact(&frame) ||
            frame.seq >= PROBE_MAX_COUNTED) {
            count->corrupt++;
        } else if (came_us[frame.seq]) {
            count->duplicates++;
        } else {
            came_us[frame.seq] = wl_wall_us();
            if (frame.seq >= count->numbers)
                count->numbers = frame.seq + 1;
        }
    }
}

static bool send_all(int fd, const void *data, size_t size)
{
    const char *at = data;

    while (size > 0) {
        ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);

        if (sent < 0)
            return false;
        at += sent;
        size -= (size_t)sent;
    }
    return true;
}

static void tell_count(int fd, const struct probe_count *count, const uint64_t *came_us)
{
    struct timeval patience = {.tv_sec = 10};

    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (send_all(fd, count, sizeof(*count)))
        send_all(fd, came_us, count->numbers * sizeof(*came_us));
    close(fd);
}

int probe_sink(const struct sockaddr_storage *at)
{
    struct probe_count count = {0};
    uint64_t *came_us = wl_alloc(PROBE_MAX_COUNTED, sizeof(*came_us));
    struct pollfd fds[3] = {{.fd = wl_stop_signals(), .events = POLLIN},
                            {.fd = wl_tcp_listen(at), .events = POLLIN},
                            {.fd = wl_udp_bind(at), .events = POLLIN}};
    int size = RECEIVE_BUFFER;

    setsockopt(fds[2].fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    for (;;) {
        int fd;

        if (poll(fds, 3, -1) < 0 && errno != EINTR)
            wl_die("poll: %s", strerror(errno));
        if (fds[0].revents) {
            free(came_us);
            return WL_EXIT_OK;
        }
        count_datagrams(fds[2].fd, &count, came_us);
        if (fds[1].revents && (fd = wl_tcp_accept(fds[1].fd)) >= 0)
            tell_count(fd, &count, came_us);
    }
}
