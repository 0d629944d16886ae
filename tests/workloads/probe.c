/*
 * A request/response probe: numbered 64-byte messages at a fixed pace whether or not replies come
 * (open loop), with the send and reply time of each, so that a message sent in mid-freeze can be
 * found in the CSV and its answer compared with the moment of resumption.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define GAP_THRESHOLD_US 10000
#define MAX_CONNECTIONS 1000

struct sample {
    uint64_t sent_us; /* epoch */
    uint64_t reply_us;
    struct wl_stream *stream; /* of its own, in mode connect */
};

/* Of its own, in mode tcp; the only one in modes udp and oneway. */
struct connection {
    struct wl_stream stream;
    uint64_t expected; /* number of the next reply */
    uint64_t last_reply_us;
};

enum mode { TCP, UDP, CONNECT, ONEWAY };

struct probe {
    enum mode mode;
    struct sockaddr_storage server;
    uint64_t interval_us, count, wait_ms, connection_count;
    const char *csv;
    const char *ready_file;

    int epoll_fd, stop_fd;
    bool stopping, broken;
    struct connection *connections;
    struct sample *samples;
    uint64_t sent, answered, resets, disorder, corrupt, unsent;
    uint64_t duplicates;
    uint64_t last_reply_us;
    struct wl_gaps gaps;
};

static const char usage[] =
    "usage: probe tcp|udp|connect ADDR PORT [options]   open-loop probe of an echo server\n"
    "       probe oneway ADDR PORT [options]            datagrams that nobody answers, for a sink\n"
    "       probe serve ADDR PORT                       echo server; GET /BYTES for slowdownload\n"
    "       probe sink ADDR PORT                        receives datagrams and is silent\n"
    "       probe report CSV FROZEN_US RESUMED_US       answers to what was sent in between\n"
    "  --interval-us N  (default 1000)    --count N (default: until SIGTERM)\n"
    "  --connections N  tcp: the messages go over them in turn (default 1)\n"
    "  --wait-ms N      for outstanding replies at the end (default 2000)\n"
    "  --csv FILE       seq,sent_us,reply_us,rtt_us (epoch microseconds; 0: no reply)\n"
    "  --ready-file F   made when the first reply is there\n"
    "  tcp: never renewed; udp: one socket; connect: one connection per message; oneway: asks the\n"
    "  sink at the end, over TCP, what came; reply_us is when\n";

#define NO_COUNT 4000000u

static void watch(const struct probe *probe, int fd, uint32_t events, uint64_t data, int operation)
{
    struct epoll_event event = {.events = events, .data.u64 = data};

    if (epoll_ctl(probe->epoll_fd, operation, fd, &event))
        wl_die("epoll_ctl: %s", strerror(errno));
}

/* ---- replies -------------------------------------------------------------------------------- */

/* One of many connections is silent only while it waits: its pace is slow. */
static void note_silence(struct probe *probe, const struct sample *sample, uint64_t *last_reply_us)
{
    uint64_t now = wl_now_us(), from = *last_reply_us;

    if (probe->connection_count > 1) {
        uint64_t waiting_since = now - (wl_wall_us() - sample->sent_us);

        from = waiting_since > from ? waiting_since : from;
    }
    wl_gaps_note(&probe->gaps, from, now);
    *last_reply_us = now;
}

static void take_reply(struct probe *probe, const struct wl_frame *frame, uint64_t number,
                       uint64_t *last_reply_us)
{
    struct sample *sample;

    if (!wl_frame_intact(frame) || number >= probe->sent) {
        probe->corrupt++;
        return;
    }
    sample = &probe->samples[number];
    if (sample->reply_us) {
        probe->duplicates++;
        return;
    }
    if (probe->answered == 0)
        wl_ready(probe->ready_file);
    note_silence(probe, sample, last_reply_us);
    sample->reply_us = wl_wall_us();
    probe->answered++;
}

static void read_tcp(struct probe *probe, struct connection *connection)
{
    struct wl_frame frame;
    int result;

    while ((result = wl_stream_next(&connection->stream, &frame)) == WL_STREAM_FRAME) {
        if (frame.id != (uint64_t)(connection - probe->connections))
            probe->corrupt++;
        if (frame.seq != connection->expected++)
            probe->disorder++;
        take_reply(probe, &frame, frame.seq * probe->connection_count + frame.id,
                   &connection->last_reply_us);
    }
    if (result != WL_STREAM_EMPTY) {
        probe->resets++;
        probe->broken = true;
    }
}

static void read_own(struct probe *probe, struct sample *own)
{
    struct wl_frame frame;
    int result = wl_stream_next(own->stream, &frame);

    if (result == WL_STREAM_EMPTY)
        return;
    if (result == WL_STREAM_FRAME)
        take_reply(probe, &frame, frame.id, &probe->last_reply_us);
    else
        probe->resets++;
    close(own->stream->fd);
    free(own->stream);
    own->stream = NULL;
}

static void read_udp(struct probe *probe)
{
    struct wl_frame frame;

    for (;;) {
        ssize_t got = recv(probe->connections->stream.fd, &frame, sizeof(frame), 0);

        if (got == (ssize_t)sizeof(frame)) {
            take_reply(probe, &frame, frame.seq, &probe->last_reply_us);
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
    sample->stream->fd =
        socket(probe->server.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
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
    uint64_t seq = probe->sent, connection = seq % probe->connection_count;
    struct wl_stream *stream = &probe->connections[connection].stream;
    struct sample *sample = &probe->samples[seq];
    struct wl_frame frame = wl_frame_make(WL_ECHO, connection, seq / probe->connection_count);
    int error = 0;

    sample->sent_us = frame.sent_us;
    probe->sent++;
    if (probe->mode == CONNECT)
        send_over_own_connection(probe, seq, sample);
    else if (probe->mode != TCP)
        error = send(stream->fd, &frame, sizeof(frame), MSG_NOSIGNAL) < 0 ? -errno : 0;
    else
        error = wl_stream_send(stream, &frame);
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
        struct connection *connection = &probe->connections[event->data.u64];

        if (wl_stream_flush(&connection->stream) == 0)
            read_tcp(probe, connection);
        else
            probe->broken = true, probe->resets++;
    } else if ((own = &probe->samples[event->data.u64])->stream) {
        if (own->stream->out_length && wl_stream_flush(own->stream) == 0) {
            watch(probe, own->stream->fd, EPOLLIN, event->data.u64, EPOLL_CTL_MOD);
            return;
        }
        read_own(probe, own);
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

static void send_in_pace(struct probe *probe)
{
    uint64_t next_us = wl_now_us();

    while (!probe->stopping && !probe->broken && probe->sent < probe->count) {
        if (wl_now_us() >= next_us) {
            send_message(probe);
            next_us += probe->interval_us;
            if (next_us < wl_now_us())
                next_us = wl_now_us();
        }
        wait_and_handle(probe, next_us);
    }
}

static void await_replies(struct probe *probe)
{
    uint64_t deadline = wl_now_us() + probe->wait_ms * 1000;

    while (!probe->broken && probe->answered < probe->sent && wl_now_us() < deadline)
        wait_and_handle(probe, deadline);
    if (probe->answered == probe->sent || probe->mode != TCP)
        return;
    for (uint64_t i = 0; i < probe->connection_count; i++) {
        const struct connection *connection = &probe->connections[i];

        if (connection->expected * probe->connection_count + i < probe->sent)
            wl_gaps_note(&probe->gaps, connection->last_reply_us, wl_now_us());
    }
}

static void receive_all(int fd, void *data, size_t size)
{
    char *at = data;

    while (size > 0) {
        ssize_t got = recv(fd, at, size, 0);

        if (got <= 0)
            wl_die("the sink does not say what came: %s", got ? strerror(errno) : "it has closed");
        at += got;
        size -= (size_t)got;
    }
}

/* What is under way gets its time first. */
static void ask_sink(struct probe *probe)
{
    struct timeval patience = {.tv_sec = 10};
    struct probe_count count;
    uint64_t *came_us;
    int fd;

    await_replies(probe);
    fd = wl_tcp_connect(&probe->server, 5000);
    if (fd < 0)
        wl_die("cannot connect to the sink: %s", strerror(errno));
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    receive_all(fd, &count, sizeof(count));
    if (count.numbers > probe->sent)
        wl_die("the sink has datagrams of somebody else");
    came_us = wl_alloc(count.numbers + 1, sizeof(*came_us));
    receive_all(fd, came_us, count.numbers * sizeof(*came_us));
    for (uint64_t i = 0; i < count.numbers; i++) {
        probe->samples[i].reply_us = came_us[i];
        probe->answered += came_us[i] != 0;
    }
    probe->duplicates = count.duplicates;
    probe->corrupt += count.corrupt;
    free(came_us);
    close(fd);
}

static void run(struct probe *probe)
{
    probe->last_reply_us = wl_now_us();
    if (probe->mode == ONEWAY)
        wl_ready(probe->ready_file);
    send_in_pace(probe);
    if (probe->mode == ONEWAY)
        ask_sink(probe);
    else
        await_replies(probe);
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
           ",\"disorder\":%" PRIu64 ",\"corrupt\":%" PRIu64 ",\"duplicates\":%" PRIu64
           ",\"connections\":%" PRIu64 ",\"connection_resets\":%" PRIu64
           ",\"max_rtt_ms\":%.3f,\"mean_rtt_ms\":%.3f,",
           probe->sent, probe->answered, probe->sent - probe->answered - probe->unsent,
           probe->unsent, probe->disorder, probe->corrupt, probe->duplicates,
           probe->connection_count, probe->resets, (double)max_rtt / 1e3,
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

/* ---- the command line ----------------------------------------------------------------------- */

static void parse_options(struct probe *probe, int argc, char **argv)
{
    static const struct option known[] = {
        {"interval-us", required_argument, NULL, 'i'},
        {"count", required_argument, NULL, 'n'},
        {"wait-ms", required_argument, NULL, 'w'},
        {"csv", required_argument, NULL, 'c'},
        {"ready-file", required_argument, NULL, 'f'},
        {"connections", required_argument, NULL, 'k'},
        {NULL, 0, NULL, 0},
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
        else if (c == 'k')
            probe->connection_count = wl_number("--connections", optarg);
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
    probe->connections = wl_alloc(probe->connection_count, sizeof(*probe->connections));
    for (uint64_t i = 0; probe->mode != CONNECT && i < probe->connection_count; i++) {
        int fd = probe->mode == TCP ? wl_tcp_connect(&probe->server, 5000)
                                    : wl_udp_connect(&probe->server);

        if (fd < 0)
            wl_die("cannot connect: %s", strerror(errno));
        probe->connections[i].stream.fd = fd;
        probe->connections[i].last_reply_us = wl_now_us();
        if (probe->mode != ONEWAY)
            watch(probe, fd, EPOLLIN, i, EPOLL_CTL_ADD);
    }
}

static enum mode mode_of(const char *name)
{
    static const char *const names[] = {
        [TCP] = "tcp", [UDP] = "udp", [CONNECT] = "connect", [ONEWAY] = "oneway"};

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (strcmp(name, names[i]) == 0)
            return (enum mode)i;
    }
    wl_die("%s", usage);
}

static void check_options(struct probe *probe)
{
    if (!probe->connection_count || probe->connection_count > MAX_CONNECTIONS ||
        (probe->connection_count > 1 && probe->mode != TCP))
        wl_die("%s", usage);
    if (probe->mode == ONEWAY && probe->count > PROBE_MAX_COUNTED)
        probe->count = PROBE_MAX_COUNTED;
}

int main(int argc, char **argv)
{
    static struct probe probe = {.interval_us = 1000, .wait_ms = 2000, .connection_count = 1};

    if (argc == 5 && strcmp(argv[1], "report") == 0)
        return report_freeze(argv[2], wl_number("FROZEN_US", argv[3]),
                             wl_number("RESUMED_US", argv[4]));
    parse_options(&probe, argc, argv);
    if (argc - optind != 3)
        wl_die("%s", usage);
    probe.server = wl_address(argv[optind + 1], argv[optind + 2]);
    if (strcmp(argv[optind], "serve") == 0)
        return probe_serve(&probe.server);
    if (strcmp(argv[optind], "sink") == 0)
        return probe_sink(&probe.server);
    probe.mode = mode_of(argv[optind]);
    check_options(&probe);
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
