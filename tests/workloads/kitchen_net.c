/*
 * Sockets: a listener with its echo connections, half-closed ones in both directions, UDP, and
 * connections that we opened ourselves. Frames carry numbers, so every byte is accounted for.
 */
#include "kitchen_sink.h"
#include "workload.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_OUTGOING 64

struct link {
    struct wl_stream stream;
    struct watch *watch;
    enum wl_mode mode;
    bool known;      /* its first frame has come */
    bool streaming;  /* the peer has closed its direction: we send */
    uint64_t id;     /* of the frames */
    uint64_t expect; /* next number to receive */
    uint64_t sent;   /* next number to send */
    struct link *next;
};

static struct link *incoming, *outgoing;
static uint64_t outgoing_count;
static struct watch *listener;
static struct {
    uint64_t accepted, ended, resets, echoed, half_received, half_sent, datagrams;
} totals;

/* ---- links ---------------------------------------------------------------------------------- */

static struct link *link_add(struct link **list, int fd, watch_handler *handler)
{
    struct link *link = wl_alloc(1, sizeof(*link));

    link->stream.fd = fd;
    link->watch = sink_watch(fd, EPOLLIN, handler, link);
    link->next = *list;
    *list = link;
    return link;
}

static void link_remove(struct link **list, struct link *link)
{
    for (struct link **at = list; *at; at = &(*at)->next) {
        if (*at == link) {
            *at = link->next;
            break;
        }
    }
    sink_unwatch(link->watch);
    free(link);
}

static void link_end(struct link *link, int result)
{
    if (result < 0)
        totals.resets++;
    else
        totals.ended++;
    link_remove(&incoming, link);
}

/* Reading stops while the echo has no room, so that a slow reader holds back its own writes. */
static void link_events(struct link *link)
{
    uint32_t events = 0;

    if (!link->streaming && wl_stream_has_room(&link->stream))
        events |= EPOLLIN;
    if (link->stream.out_length)
        events |= EPOLLOUT;
    sink_watch_events(link->watch, events);
}

static bool in_order(struct link *link, const struct wl_frame *frame)
{
    return wl_frame_intact(frame) && frame->id == link->id && frame->seq == link->expect++;
}

/* ---- connections from outside --------------------------------------------------------------- */

static int incoming_frame(struct link *link, const struct wl_frame *frame)
{
    if (!link->known) {
        link->known = true;
        link->id = frame->id;
        link->mode = frame->mode;
        if (link->mode == WL_SELF_HALF)
            shutdown(link->stream.fd, SHUT_WR);
    }
    if (!in_order(link, frame))
        sink_fail("net: connection %" PRIu64 ": frame %" PRIu64 " is wrong, %" PRIu64
                  " was expected",
                  link->id, frame->seq, link->expect - 1);
    if (link->mode != WL_ECHO) {
        totals.half_received++;
        return 0;
    }
    totals.echoed++;
    return wl_stream_send(&link->stream, frame);
}

static void incoming_ready(struct watch *watch, uint32_t events)
{
    struct link *link = watch->context;
    struct wl_frame frame;
    int result = wl_stream_flush(&link->stream);

    if (result == 0 && link->streaming && (events & (EPOLLERR | EPOLLHUP)))
        result = -ECONNRESET;
    while (result == 0 && !link->streaming && wl_stream_has_room(&link->stream)) {
        int got = wl_stream_next(&link->stream, &frame);

        if (got == WL_STREAM_EMPTY)
            break;
        if (got == WL_STREAM_EOF && link->mode == WL_PEER_HALF)
            link->streaming = true;
        else if (got != WL_STREAM_FRAME) {
            link_end(link, got);
            return;
        } else
            result = incoming_frame(link, &frame);
    }
    if (result)
        link_end(link, result);
    else
        link_events(link);
}

static void incoming_accept(struct watch *watch, uint32_t events)
{
    int fd = wl_tcp_accept(watch->fd);

    (void)events;
    if (fd < 0)
        return;
    totals.accepted++;
    link_add(&incoming, fd, incoming_ready);
}

static void stream_to_half_closed(void)
{
    for (struct link *link = incoming, *next; link; link = next) {
        struct wl_frame frame = wl_frame_make(WL_PEER_HALF, link->id, link->sent);
        int result;

        next = link->next;
        if (!link->streaming || !wl_stream_has_room(&link->stream))
            continue;
        result = wl_stream_send(&link->stream, &frame);
        link->sent++;
        totals.half_sent++;
        if (result)
            link_end(link, result);
    }
}

/* ---- connections to outside ----------------------------------------------------------------- */

static void outgoing_lost(struct link *link, const char *how)
{
    sink_fail("outgoing: connection %" PRIu64 " lost after %" PRIu64 " echoes: %s", link->id,
              link->expect, how);
    link_remove(&outgoing, link);
}

static void outgoing_ready(struct watch *watch, uint32_t events)
{
    struct link *link = watch->context;
    struct wl_frame frame;
    int result;

    (void)events;
    while ((result = wl_stream_next(&link->stream, &frame)) == WL_STREAM_FRAME) {
        if (!in_order(link, &frame))
            sink_fail("outgoing: connection %" PRIu64 ": echo %" PRIu64 " is wrong", link->id,
                      frame.seq);
    }
    if (result != WL_STREAM_EMPTY)
        outgoing_lost(link, result < 0 ? strerror(-result) : "end of file");
}

/* One frame in flight per connection: the pulse starts the next when the echo has come. */
static void send_outgoing(void)
{
    for (struct link *link = outgoing, *next; link; link = next) {
        struct wl_frame frame = wl_frame_make(WL_ECHO, link->id, link->sent);
        int result = 0;

        next = link->next;
        if (link->expect == link->sent) {
            result = wl_stream_send(&link->stream, &frame);
            link->sent++;
        } else {
            result = wl_stream_flush(&link->stream);
        }
        if (result)
            outgoing_lost(link, strerror(-result));
    }
}

static uint64_t outgoing_progress(void)
{
    uint64_t least = SINK_IDLE;

    for (const struct link *link = outgoing; link; link = link->next)
        least = link->expect < least ? link->expect : least;
    return least;
}

static void outgoing_start(void)
{
    outgoing = NULL;
}

static void outgoing_verify(void)
{
    for (const struct link *link = outgoing; link; link = link->next) {
        int on = 0;
        socklen_t length = sizeof(on);

        if (getsockopt(link->stream.fd, IPPROTO_TCP, TCP_NODELAY, &on, &length) || !on)
            sink_fail("outgoing: TCP_NODELAY is gone");
    }
}

static void outgoing_corrupt(void)
{
    if (outgoing)
        shutdown(outgoing->stream.fd, SHUT_RDWR);
}

const struct subject subject_outgoing = {.name = "outgoing",
                                         .start = outgoing_start,
                                         .verify = outgoing_verify,
                                         .progress = outgoing_progress,
                                         .corrupt = outgoing_corrupt};

/* ---- UDP ------------------------------------------------------------------------------------ */

static struct watch *udp_out;
static uint64_t udp_sent, udp_received;

static void udp_echo(struct watch *watch, uint32_t events)
{
    struct sockaddr_in from;
    socklen_t length = sizeof(from);
    struct wl_frame frame;
    ssize_t got = recvfrom(watch->fd, &frame, sizeof(frame), 0, (struct sockaddr *)&from, &length);

    (void)events;
    if (got < 0)
        return;
    if (got != (ssize_t)sizeof(frame) || !wl_frame_intact(&frame))
        sink_fail("net: a damaged datagram");
    totals.datagrams++;
    sendto(watch->fd, &frame, sizeof(frame), 0, (struct sockaddr *)&from, length);
}

static void udp_out_ready(struct watch *watch, uint32_t events)
{
    struct wl_frame frame;

    (void)events;
    while (recv(watch->fd, &frame, sizeof(frame), 0) == (ssize_t)sizeof(frame)) {
        if (!wl_frame_intact(&frame) || frame.seq >= udp_sent)
            sink_fail("udp_out: a damaged echo");
        udp_received++;
    }
}

static void udp_out_tick(void)
{
    struct wl_frame frame = wl_frame_make(WL_ECHO, 0, udp_sent);

    if (udp_out && send(udp_out->fd, &frame, sizeof(frame), 0) == (ssize_t)sizeof(frame))
        udp_sent++;
}

static void udp_out_start(void)
{
    udp_out = NULL;
}

static uint64_t udp_out_progress(void)
{
    return udp_out ? udp_received : SINK_IDLE;
}

static void udp_out_corrupt(void)
{
    if (udp_out)
        shutdown(udp_out->fd, SHUT_RDWR);
}

const struct subject subject_udp_out = {.name = "udp_out",
                                        .start = udp_out_start,
                                        .tick = udp_out_tick,
                                        .progress = udp_out_progress,
                                        .corrupt = udp_out_corrupt};

const char *net_connect(const char *address, const char *port, uint64_t count)
{
    struct sockaddr_storage to;

    if (!address[0] || !port[0] || count == 0 || outgoing_count + count > MAX_OUTGOING)
        return "usage: connect ADDR PORT N (at most 64 in all)";
    to = wl_address(address, port);
    for (uint64_t i = 0; i < count; i++) {
        int fd = wl_tcp_connect(&to, 1000);

        if (fd < 0)
            return strerror(errno);
        link_add(&outgoing, fd, outgoing_ready)->id = ++outgoing_count;
    }
    if (!udp_out)
        udp_out = sink_watch(wl_udp_connect(&to), EPOLLIN, udp_out_ready, NULL);
    return NULL;
}

void net_disconnect(void)
{
    while (outgoing)
        link_remove(&outgoing, outgoing);
    if (udp_out)
        sink_unwatch(udp_out);
    udp_out = NULL;
    outgoing_count = udp_sent = udp_received = 0;
}

/* ---- the subject ---------------------------------------------------------------------------- */

static void net_pulse(void)
{
    static unsigned int count;

    send_outgoing();
    if (++count % 5 == 0)
        stream_to_half_closed();
}

static void net_start(void)
{
    struct sockaddr_storage at = wl_address(sink_options.address, sink_options.port);

    listener = sink_watch(wl_tcp_listen(&at), EPOLLIN, incoming_accept, NULL);
    sink_watch(wl_udp_bind(&at), EPOLLIN, udp_echo, NULL);
}

static void net_verify(void)
{
    int on = 0;
    socklen_t length = sizeof(on);

    if (getsockopt(listener->fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &length) || !on)
        sink_fail("net: the listening socket no longer listens");
    if (getsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &on, &length) || !on)
        sink_fail("net: the listening socket has lost SO_REUSEADDR");
}

static void net_corrupt(void)
{
    shutdown(listener->fd, SHUT_RDWR);
}

static void net_describe(FILE *out)
{
    uint64_t open = 0, half = 0;

    for (const struct link *link = incoming; link; link = link->next) {
        open++;
        half += link->known && link->mode != WL_ECHO;
    }
    fprintf(out,
            " accepted=%" PRIu64 " open=%" PRIu64 " half_closed=%" PRIu64 " echoed=%" PRIu64
            " half_received=%" PRIu64 " half_sent=%" PRIu64 " datagrams=%" PRIu64
            " resets=%" PRIu64,
            totals.accepted, open, half, totals.echoed, totals.half_received, totals.half_sent,
            totals.datagrams, totals.resets);
}

const struct subject subject_net = {.name = "net",
                                    .start = net_start,
                                    .pulse = net_pulse,
                                    .verify = net_verify,
                                    .corrupt = net_corrupt,
                                    .describe = net_describe};
