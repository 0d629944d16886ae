/*
 * A request/response probe: numbered 64-byte messages at a fixed pace whether or not replies come
 * (open loop), with the send and reply time of each, so that a message sent in mid-freeze can be
 * found in the CSV and its answer compared with the moment of resumption.
 */
#include "workload.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define GAP_THRESHOLD_US 10000
#define MAX_SERVED 1024

struct sample {
    uint64_t sent_us; /* epoch */
    uint64_t reply_us;
    struct wl_stream *stream; /* of its own, in mode connect */
};

enum mode { TCP, UDP, CONNECT };

struct probe {
    enum mode mode;
    struct sockaddr_in server;
    uint64_t interval_us, count, wait_ms;
    const char *csv;
    const char *ready_file;

    int epoll_fd, stop_fd;
    bool stopping, broken;
    struct wl_stream stream; /* modes tcp and udp */
    struct sample *samples;
    uint64_t sent, answered, resets, disorder, corrupt, unsent;
    uint64_t last_reply_us;
    struct wl_gaps gaps;
};

static const char usage[] =
    "usage: probe tcp|udp|connect ADDR PORT [options]   open-loop probe of an echo server\n"
    "       probe serve ADDR PORT                       TCP and UDP echo server\n"
    "       probe report CSV FROZEN_US RESUMED_US       answers to what was sent in between\n"
    "  --interval-us N  (default 1000)    --count N (default: until SIGTERM)\n"
    "  --wait-ms N      for outstanding replies at the end (default 2000)\n"
    "  --csv FILE       seq,sent_us,reply_us,rtt_us (epoch microseconds; 0: no reply)\n"
    "  --ready-file F   made when the first reply is there\n"
    "  tcp: one connection, never renewed; udp: one socket; connect: one connection per message\n";

#define NO_COUNT 4000000u

static void watch(const struct probe *probe, int fd, uint32_t events, uint64_t data, int operation)
{
    struct epoll_event event = {.events = events, .data.u64 = data};

    if (epoll_ctl(probe->epoll_fd, operation, fd, &event))
        wl_die("epoll_ctl: %s", strerror(errno));
}

/* ---- replies -------------------------------------------------------------------------------- */

static void take_reply(struct probe *probe, const struct wl_frame *frame)
{
    uint64_t number = probe->mode == CONNECT ? frame->id : frame->seq;
    uint64_t now = wl_now_us();
    struct sample *sample;

    if (!wl_frame_intact(frame) || number >= probe->sent) {
        probe->corrupt++;
        return;
    }
    sample = &probe->samples[number];
    if (sample->reply_us)
        return; /* a duplicate datagram */
    if (probe->answered == 0)
        wl_ready(probe->ready_file);
    wl_gaps_note(&probe->gaps, probe->last_reply_us, now);
    probe->last_reply_us = now;
    sample->reply_us = wl_wall_us();
    probe->answered++;
}

static void read_tcp(struct probe *probe, struct wl_stream *stream, struct sample *own)
{
    static uint64_t expected;
    struct wl_frame frame;
    int result;

    while ((result = wl_stream_next(stream, &frame)) == WL_STREAM_FRAME) {
        if (!own && frame.seq != expected++)
            probe->disorder++;
        take_reply(probe, &frame);
        if (own)
            break;
    }
    if (result == WL_STREAM_EMPTY)
        return;
    if (result != WL_STREAM_FRAME) {
        probe->resets++;
        probe->broken = !own;
    }
    if (own) {
        close(stream->fd);
        free(stream);
        own->stream = NULL;
    }
}

static void read_udp(struct probe *probe)
{
    struct wl_frame frame;

    for (;;) {
        ssize_t got = recv(probe->stream.fd, &frame, sizeof(frame), 0);

        if (got == (ssize_t)sizeof(frame)) {
            take_reply(probe, &frame);
        } else if (got >= 0) {
            probe->corrupt++;
        } else if (errno == EAGAIN) {
            return;
        } else if (errno == ECONNREFUSED) {
            probe->resets++;
        }
    }
}

/* ---- requests ------------------------------------------------------------------------------- */

static void send_over_own_connection(struct probe *probe, uint64_t seq, struct sample *sample)
{
    /* A server wants each connection's numbers from 0: here the connection carries the number. */
    struct wl_frame frame = wl_frame_make(WL_ECHO, seq, 0);

    sample->stream = wl_alloc(1, sizeof(*sample->stream));
    sample->stream->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (sample->stream->fd < 0)
        wl_die("socket: %s", strerror(errno));
    memcpy(sample->stream->out, &frame, sizeof(frame));
    sample->stream->out_length = sizeof(frame);
    if (connect(sample->stream->fd, (struct sockaddr *)&probe->server, sizeof(probe->server)) &&
        errno != EINPROGRESS)
        wl_die("connect: %s", strerror(errno));
    watch(probe, sample->stream->fd, EPOLLOUT, seq, EPOLL_CTL_ADD);
}

static void send_message(struct probe *probe)
{
    uint64_t seq = probe->sent;
    struct sample *sample = &probe->samples[seq];
    struct wl_frame frame = wl_frame_make(WL_ECHO, 0, seq);
    int error = 0;

    sample->sent_us = frame.sent_us;
    probe->sent++;
    if (probe->mode == CONNECT)
        send_over_own_connection(probe, seq, sample);
    else if (probe->mode == UDP)
        error = send(probe->stream.fd, &frame, sizeof(frame), MSG_NOSIGNAL) < 0 ? -errno : 0;
    else
        error = wl_stream_send(&probe->stream, &frame);
    if (error == -ENOBUFS || error == -EAGAIN || error == -ECONNREFUSED) {
        probe->unsent++;
    } else if (error) {
        probe->resets++;
        probe->broken = true;
    }
}

static void handle(struct probe *probe, const struct epoll_event *event)
{
    struct sample *own;

    if (event->data.u64 == UINT64_MAX) {
        probe->stopping = true;
    } else if (probe->mode == UDP) {
        read_udp(probe);
    } else if (probe->mode == TCP) {
        if (wl_stream_flush(&probe->stream) == 0)
            read_tcp(probe, &probe->stream, NULL);
        else
            probe->broken = true, probe->resets++;
    } else if ((own = &probe->samples[event->data.u64])->stream) {
        if (own->stream->out_length && wl_stream_flush(own->stream) == 0) {
            watch(probe, own->stream->fd, EPOLLIN, event->data.u64, EPOLL_CTL_MOD);
            return;
        }
        read_tcp(probe, own->stream, own);
    }
}

static void wait_and_handle(struct probe *probe, uint64_t until_us)
{
    struct epoll_event events[64];
    uint64_t now = wl_now_us();
    uint64_t wait = until_us > now ? until_us - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(wait / 1000000),
                               .tv_nsec = (long)(wait % 1000000) * 1000};
    int count = epoll_pwait2(probe->epoll_fd, events, 64, &timeout, NULL);

    for (int i = 0; i < count && !probe->broken; i++)
        handle(probe, &events[i]);
}

static void run(struct probe *probe)
{
    uint64_t next_us = wl_now_us();
    uint64_t deadline;

    probe->last_reply_us = next_us;
    while (!probe->stopping && !probe->broken && probe->sent < probe->count) {
        if (wl_now_us() >= next_us) {
            send_message(probe);
            next_us += probe->interval_us;
            if (next_us < wl_now_us())
                next_us = wl_now_us();
        }
        wait_and_handle(probe, next_us);
    }
    deadline = wl_now_us() + probe->wait_ms * 1000;
    while (!probe->broken && probe->answered < probe->sent && wl_now_us() < deadline)
        wait_and_handle(probe, deadline);
    if (probe->answered < probe->sent && probe->mode == TCP)
        wl_gaps_note(&probe->gaps, probe->last_reply_us, wl_now_us());
}

/* ---- reports -------------------------------------------------------------------------------- */

static uint64_t round_trip(const struct sample *sample)
{
    return sample->reply_us > sample->sent_us ? sample->reply_us - sample->sent_us : 0;
}

static void write_csv(const struct probe *probe)
{
    FILE *out = fopen(probe->csv, "we");

    if (!out)
        wl_die("%s: %s", probe->csv, strerror(errno));
    fprintf(out, "seq,sent_us,reply_us,rtt_us\n");
    for (uint64_t i = 0; i < probe->sent; i++) {
        const struct sample *sample = &probe->samples[i];

        fprintf(out, "%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 "\n", i, sample->sent_us,
                sample->reply_us, round_trip(sample));
    }
    if (fclose(out))
        wl_die("%s: %s", probe->csv, strerror(errno));
}

static void report(const struct probe *probe)
{
    uint64_t max_rtt = 0, total = 0;

    for (uint64_t i = 0; i < probe->sent; i++) {
        uint64_t rtt = round_trip(&probe->samples[i]);

        max_rtt = rtt > max_rtt ? rtt : max_rtt;
        total += rtt;
    }
    printf("{\"sent\":%" PRIu64 ",\"answered\":%" PRIu64 ",\"lost\":%" PRIu64 ",\"unsent\":%" PRIu64
           ",\"disorder\":%" PRIu64 ",\"corrupt\":%" PRIu64 ",\"connection_resets\":%" PRIu64
           ",\"max_rtt_ms\":%.3f,\"mean_rtt_ms\":%.3f,",
           probe->sent, probe->answered, probe->sent - probe->answered - probe->unsent,
           probe->unsent, probe->disorder, probe->corrupt, probe->resets, (double)max_rtt / 1e3,
           probe->answered ? (double)total / 1e3 / (double)probe->answered : 0.0);
    wl_gaps_print(stdout, &probe->gaps);
    printf("}\n");
}

static int report_freeze(const char *csv, uint64_t frozen_us, uint64_t resumed_us)
{
    FILE *in = fopen(csv, "re");
    uint64_t seq, sent, reply, rtt, count = 0, lost = 0, first = UINT64_MAX, last = 0;
    char line[128];

    if (!in)
        wl_die("%s: %s", csv, strerror(errno));
    while (fgets(line, sizeof(line), in)) {
        if (sscanf(line, "%" SCNu64 ",%" SCNu64 ",%" SCNu64 ",%" SCNu64, &seq, &sent, &reply,
                   &rtt) != 4 ||
            sent < frozen_us || sent > resumed_us)
            continue;
        count++;
        if (!reply) {
            lost++;
            continue;
        }
        first = reply < first ? reply : first;
        last = reply > last ? reply : last;
    }
    fclose(in);
    printf("{\"sent_in_freeze\":%" PRIu64 ",\"lost\":%" PRIu64, count, lost);
    if (count > lost)
        printf(",\"first_answer_after_resume_ms\":%.3f,\"last_answer_after_resume_ms\":%.3f",
               ((double)first - (double)resumed_us) / 1e3,
               ((double)last - (double)resumed_us) / 1e3);
    printf("}\n");
    return count && !lost ? WL_EXIT_OK : WL_EXIT_BAD;
}

/* ---- the echo server ------------------------------------------------------------------------ */

static void echo_datagrams(int fd)
{
    struct sockaddr_in from;
    socklen_t length = sizeof(from);
    char buffer[2048];
    ssize_t got;

    while ((got = recvfrom(fd, buffer, sizeof(buffer), 0, (struct sockaddr *)&from, &length)) >= 0)
        sendto(fd, buffer, (size_t)got, MSG_NOSIGNAL, (struct sockaddr *)&from, length);
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

static int serve(const struct sockaddr_in *at)
{
    static struct wl_stream *streams[MAX_SERVED];
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
            if (!fds[i + 3].revents || echo_stream(streams[i])) {
                fds[i + 3].events = POLLIN | (streams[i]->out_length ? POLLOUT : 0);
                i++;
                continue;
            }
            close(streams[i]->fd);
            free(streams[i]);
            streams[i] = streams[--count];
            fds[i + 3] = fds[count + 3];
        }
        if (fds[1].revents && count < MAX_SERVED && (fd = wl_tcp_accept(fds[1].fd)) >= 0) {
            streams[count] = wl_alloc(1, sizeof(**streams));
            streams[count]->fd = fd;
            fds[count++ + 3] = (struct pollfd){.fd = fd, .events = POLLIN};
        }
    }
}

/* ---- the command line ----------------------------------------------------------------------- */

static void parse_options(struct probe *probe, int argc, char **argv)
{
    static const struct option known[] = {
        {"interval-us", required_argument, NULL, 'i'}, {"count", required_argument, NULL, 'n'},
        {"wait-ms", required_argument, NULL, 'w'},     {"csv", required_argument, NULL, 'c'},
        {"ready-file", required_argument, NULL, 'f'},  {NULL, 0, NULL, 0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        if (c == 'i')
            probe->interval_us = wl_number("--interval-us", optarg);
        else if (c == 'n')
            probe->count = wl_number("--count", optarg);
        else if (c == 'w')
            probe->wait_ms = wl_number("--wait-ms", optarg);
        else if (c == 'c')
            probe->csv = optarg;
        else if (c == 'f')
            probe->ready_file = optarg;
        else
            wl_die("%s", usage);
    }
    if (!probe->count || probe->count > NO_COUNT)
        probe->count = NO_COUNT;
}

static void open_sockets(struct probe *probe)
{
    probe->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    probe->stop_fd = wl_stop_signals();
    watch(probe, probe->stop_fd, EPOLLIN, UINT64_MAX, EPOLL_CTL_ADD);
    if (probe->mode == CONNECT)
        return;
    probe->stream.fd =
        probe->mode == UDP ? wl_udp_connect(&probe->server) : wl_tcp_connect(&probe->server, 5000);
    if (probe->stream.fd < 0)
        wl_die("cannot connect: %s", strerror(errno));
    watch(probe, probe->stream.fd, EPOLLIN, 0, EPOLL_CTL_ADD);
}

int main(int argc, char **argv)
{
    static struct probe probe = {.interval_us = 1000, .wait_ms = 2000};

    if (argc == 5 && strcmp(argv[1], "report") == 0)
        return report_freeze(argv[2], wl_number("FROZEN_US", argv[3]),
                             wl_number("RESUMED_US", argv[4]));
    parse_options(&probe, argc, argv);
    if (argc - optind != 3)
        wl_die("%s", usage);
    probe.server = wl_address(argv[optind + 1], argv[optind + 2]);
    if (strcmp(argv[optind], "serve") == 0)
        return serve(&probe.server);
    probe.mode = strcmp(argv[optind], "udp") == 0       ? UDP
                 : strcmp(argv[optind], "connect") == 0 ? CONNECT
                                                        : TCP;
    if (probe.mode == TCP && strcmp(argv[optind], "tcp") != 0)
        wl_die("%s", usage);
    probe.gaps.threshold_us = GAP_THRESHOLD_US + probe.interval_us;
    probe.samples = wl_alloc(probe.count, sizeof(*probe.samples));
    open_sockets(&probe);
    run(&probe);
    if (probe.csv)
        write_csv(&probe);
    report(&probe);
    return probe.answered == probe.sent && !probe.resets && !probe.disorder && !probe.corrupt
               ? WL_EXIT_OK
               : WL_EXIT_BAD;
}
