/*
 * The outside peer of kitchen_sink: connections in both directions, half-closed ones in both
 * directions, and UDP. Every frame is numbered and verified; nothing is ever reconnected.
 */
#include "workload.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define GAP_THRESHOLD_US 10000
#define HALF_FRAMES 4
#define READY_US 10000000
#define DRAIN_US 3000000

enum kind { ECHO, ACCEPTED, PEER_HALF, SELF_HALF, UDP, CONTROL, LISTENER, TIMER, STOP };

struct peer_socket {
    enum kind kind;
    struct wl_stream stream;
    uint64_t id;
    uint64_t sent, received;
    uint64_t mark;    /* received when the final check began */
    uint64_t last_us; /* when something came last */
    bool ended;
    struct peer_socket *next;
};

struct group {
    const char *name;
    uint64_t wanted;
    uint64_t sent, received;
    struct wl_gaps gaps;
};

static struct group groups[] = {
    [ECHO] = {.name = "echo", .wanted = 4},
    [ACCEPTED] = {.name = "outgoing", .wanted = 4},
    [PEER_HALF] = {.name = "half_closed_by_peer", .wanted = 2},
    [SELF_HALF] = {.name = "half_closed_by_sink", .wanted = 2},
    [UDP] = {.name = "udp", .wanted = 1},
};
#define GROUPS (UDP + 1)

static struct sockaddr_storage server, control_address;
static const char *ready_file, *control_port = "7001", *listen_port = "0";
static uint64_t interval_ms = 10, duration_ms;
static int epoll_fd;
static struct peer_socket *sockets, *control;
static bool stopping;
static uint64_t resets, wrong, disorder, accepted, stalled;
static char answer[1024];
static size_t answer_length;

static struct peer_socket *add(enum kind kind, int fd)
{
    static uint64_t next_id = 1000;
    struct peer_socket *s = wl_alloc(1, sizeof(*s));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};

    s->kind = kind;
    s->stream.fd = fd;
    s->id = next_id++;
    s->last_us = wl_now_us();
    s->next = sockets;
    sockets = s;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event))
        wl_die("epoll_ctl: %s", strerror(errno));
    return s;
}

static struct peer_socket *add_connection(enum kind kind, const struct sockaddr_storage *to)
{
    int fd = wl_tcp_connect(to, 5000);

    if (fd < 0)
        wl_die("cannot connect: %s", strerror(errno));
    return add(kind, fd);
}

static void lose(struct peer_socket *s, const char *how)
{
    fprintf(stderr, "sockpeer: %s connection %" PRIu64 " lost: %s\n",
            s->kind < GROUPS ? groups[s->kind].name : "control", s->id, how);
    resets++;
    s->ended = true;
    close(s->stream.fd);
}

/* ---- sending -------------------------------------------------------------------------------- */

static void send_frame(struct peer_socket *s, enum wl_mode mode)
{
    struct wl_frame frame = wl_frame_make(mode, s->id, s->sent);
    int result;

    if (s->ended)
        return;
    if (s->kind == UDP)
        result = send(s->stream.fd, &frame, sizeof(frame), MSG_NOSIGNAL) < 0 ? -errno : 0;
    else
        result = wl_stream_send(&s->stream, &frame);
    if (result == 0) {
        s->sent++;
        groups[s->kind].sent++;
    } else if (s->kind != UDP && result != -ENOBUFS) {
        lose(s, strerror(-result));
    }
}

static void pulse(void)
{
    for (struct peer_socket *s = sockets; s; s = s->next) {
        if (s->kind == ECHO || s->kind == UDP)
            send_frame(s, WL_ECHO);
        else if (s->kind == SELF_HALF)
            send_frame(s, WL_SELF_HALF);
        else if (s->kind == ACCEPTED && !s->ended)
            wl_stream_flush(&s->stream);
    }
}

/* ---- receiving ------------------------------------------------------------------------------ */

static void note(struct peer_socket *s)
{
    uint64_t now = wl_now_us();

    if (s->received++)
        wl_gaps_note(&groups[s->kind].gaps, s->last_us, now);
    s->last_us = now;
    groups[s->kind].received++;
}

static void frame_arrived(struct peer_socket *s, const struct wl_frame *frame)
{
    if (s->kind == ACCEPTED && s->received == 0)
        s->id = frame->id;
    if (!wl_frame_intact(frame) || frame->id != s->id || frame->seq != s->received) {
        fprintf(stderr,
                "sockpeer: %s connection %" PRIu64 ": frame %" PRIu64 " came as %" PRIu64 "\n",
                groups[s->kind].name, s->id, frame->seq, s->received);
        wrong++;
    }
    note(s);
    if (s->kind == ACCEPTED && wl_stream_send(&s->stream, frame) == 0) {
        s->sent++;
        groups[ACCEPTED].sent++;
    }
}

static void read_stream(struct peer_socket *s)
{
    struct epoll_event silent = {.data.ptr = s};
    struct wl_frame frame;
    int result;

    while ((result = wl_stream_next(&s->stream, &frame)) == WL_STREAM_FRAME)
        frame_arrived(s, &frame);
    if (result == WL_STREAM_EOF && s->kind == SELF_HALF) {
        s->received = 1; /* the half close has come: nothing more to read */
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, s->stream.fd, &silent);
    } else if (result != WL_STREAM_EMPTY && !(stopping && s->kind == ACCEPTED)) {
        lose(s, result < 0 ? strerror(-result) : "end of file");
    } else if (result != WL_STREAM_EMPTY) {
        s->ended = true;
        close(s->stream.fd);
    }
}

static void read_udp(struct peer_socket *s)
{
    static uint64_t highest;
    struct wl_frame frame;

    while (recv(s->stream.fd, &frame, sizeof(frame), 0) == (ssize_t)sizeof(frame)) {
        if (!wl_frame_intact(&frame) || frame.seq >= s->sent)
            wrong++;
        disorder += frame.seq < highest;
        highest = frame.seq > highest ? frame.seq : highest;
        note(s);
    }
}

/* A datagram socket of the sink's sends here: echoed, not counted. */
static void echo_udp(int fd)
{
    struct sockaddr_in from;
    socklen_t length = sizeof(from);
    char buffer[2048];
    ssize_t got;

    while ((got = recvfrom(fd, buffer, sizeof(buffer), 0, (struct sockaddr *)&from, &length)) >= 0)
        sendto(fd, buffer, (size_t)got, 0, (struct sockaddr *)&from, length);
}

static void read_control(struct peer_socket *s)
{
    ssize_t got = recv(s->stream.fd, answer + answer_length, sizeof(answer) - 1 - answer_length, 0);

    if (got > 0)
        answer_length += (size_t)got;
    else if (got == 0 || errno != EAGAIN)
        lose(s, got ? strerror(errno) : "end of file");
}

static void handle(struct peer_socket *s)
{
    uint64_t expirations;
    int fd;

    if (s->ended)
        return;
    switch (s->kind) {
    case ECHO:
    case ACCEPTED:
    case PEER_HALF:
    case SELF_HALF:
        read_stream(s);
        break;
    case UDP:
        read_udp(s);
        break;
    case CONTROL:
        read_control(s);
        break;
    case LISTENER:
        if (s->id == 0) {
            echo_udp(s->stream.fd);
        } else if ((fd = wl_tcp_accept(s->stream.fd)) >= 0) {
            add(ACCEPTED, fd);
            accepted++;
        }
        break;
    case TIMER:
        if (read(s->stream.fd, &expirations, sizeof(expirations)) > 0)
            pulse();
        break;
    case STOP:
        stopping = true;
        break;
    }
}

static void turn(uint64_t until_us)
{
    struct epoll_event events[64];
    uint64_t now = wl_now_us();
    uint64_t wait_ms = until_us > now ? (until_us - now) / 1000 + 1 : 0;
    int count = epoll_wait(epoll_fd, events, 64, wait_ms > 100 ? 100 : (int)wait_ms);

    for (int i = 0; i < count; i++)
        handle(events[i].data.ptr);
}

/* ---- the control connection ----------------------------------------------------------------- */

/* Asks the sink while the traffic goes on; NULL when no answer came in time. */
static const char *ask(const char *question, uint64_t wait_us)
{
    uint64_t deadline = wl_now_us() + wait_us;
    char *end;

    answer_length = 0;
    memset(answer, 0, sizeof(answer));
    if (control->ended || dprintf(control->stream.fd, "%s\n", question) < 0)
        return NULL;
    while (!(end = strchr(answer, '\n')) && !control->ended && wl_now_us() < deadline)
        turn(deadline);
    if (!end)
        return NULL;
    *end = '\0';
    return answer;
}

static void open_everything(void)
{
    struct sockaddr_storage here = wl_address("0.0.0.0", listen_port);
    struct itimerspec period = {
        .it_interval = {(time_t)(interval_ms / 1000), (long)(interval_ms % 1000) * 1000000}};
    socklen_t length = sizeof(here);
    struct peer_socket *listener, *s;
    char question[128];
    const char *reply;
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

    control = add_connection(CONTROL, &control_address);
    listener = add(LISTENER, wl_tcp_listen(&here));
    getsockname(listener->stream.fd, (struct sockaddr *)&here, &length);
    add(LISTENER, wl_udp_bind(&here))->id = 0;
    for (uint64_t i = 0; i < groups[ECHO].wanted; i++)
        add_connection(ECHO, &server);
    for (uint64_t i = 0; i < groups[SELF_HALF].wanted; i++)
        add_connection(SELF_HALF, &server);
    for (uint64_t i = 0; i < groups[PEER_HALF].wanted; i++) {
        s = add_connection(PEER_HALF, &server);
        for (int frame = 0; frame < HALF_FRAMES; frame++)
            send_frame(s, WL_PEER_HALF);
        shutdown(s->stream.fd, SHUT_WR);
    }
    if (groups[UDP].wanted)
        add(UDP, wl_udp_connect(&server));

    period.it_value = period.it_interval;
    if (timer < 0 || timerfd_settime(timer, 0, &period, NULL))
        wl_die("timerfd: %s", strerror(errno));
    add(TIMER, timer);
    if (groups[ACCEPTED].wanted == 0)
        return;
    /* The sink connects back to the address from which we reach it. */
    struct sockaddr_in own;
    length = sizeof(own);
    getsockname(control->stream.fd, (struct sockaddr *)&own, &length);
    snprintf(question, sizeof(question), "connect %s %d %" PRIu64, inet_ntoa(own.sin_addr),
             ntohs(((const struct sockaddr_in *)&here)->sin_port), groups[ACCEPTED].wanted);
    reply = ask(question, 5000000);
    if (!reply || strcmp(reply, "ok") != 0)
        wl_die("the sink did not connect: %s", reply ? reply : "no answer");
}

static bool all_flow(void)
{
    for (const struct peer_socket *s = sockets; s; s = s->next) {
        if (s->kind < GROUPS && s->received == 0)
            return false;
    }
    return accepted == groups[ACCEPTED].wanted;
}

static void mark_all(void)
{
    for (struct peer_socket *s = sockets; s; s = s->next)
        s->mark = s->received;
}

/* Connections on which nothing moves any more, though none has been reset. */
static uint64_t count_stalled(void)
{
    uint64_t count = 0;

    for (const struct peer_socket *s = sockets; s; s = s->next) {
        int unacknowledged = 0;

        if (s->ended || s->kind >= GROUPS)
            continue;
        if (s->kind != SELF_HALF)
            count += s->received == s->mark;
        else if (ioctl(s->stream.fd, SIOCOUTQ, &unacknowledged) == 0)
            count += (size_t)unacknowledged > sizeof(struct wl_frame) || s->stream.out_length;
    }
    return count;
}

static bool all_echoed(void)
{
    for (const struct peer_socket *s = sockets; s; s = s->next) {
        if (s->kind == ECHO && !s->ended && s->received < s->sent)
            return false;
    }
    return true;
}

/* ---- the report ----------------------------------------------------------------------------- */

static bool report(const char *check)
{
    uint64_t lost = groups[ECHO].sent - groups[ECHO].received;
    uint64_t udp_lost =
        groups[UDP].sent > groups[UDP].received ? groups[UDP].sent - groups[UDP].received : 0;
    bool ok = !resets && !wrong && !lost && !stalled && check && strncmp(check, "ok", 2) == 0;

    printf("{\"ok\":%s,\"connection_resets\":%" PRIu64 ",\"wrong_frames\":%" PRIu64
           ",\"lost_frames\":%" PRIu64 ",\"stalled\":%" PRIu64 ",\"udp_lost\":%" PRIu64
           ",\"udp_disorder\":%" PRIu64,
           ok ? "true" : "false", resets, wrong, lost, stalled, udp_lost, disorder);
    for (size_t i = 0; i < GROUPS; i++) {
        printf(",\"%s\":{\"connections\":%" PRIu64 ",\"sent\":%" PRIu64 ",\"received\":%" PRIu64,
               groups[i].name, groups[i].wanted, groups[i].sent, groups[i].received);
        if (i != SELF_HALF) {
            printf(",");
            wl_gaps_print(stdout, &groups[i].gaps);
        }
        printf("}");
    }
    printf(",\"sink\":\"%s\"}\n", check ? check : "no answer");
    return ok;
}

static const char usage[] =
    "usage: sockpeer ADDR PORT [options]     the address and port of a kitchen_sink\n"
    "  --control PORT     the sink's control port (default 7001)\n"
    "  --listen PORT      for the sink's connections to us (default: any)\n"
    "  --in N --out N     established connections to and from the sink (default 4 each)\n"
    "  --half N           half-closed ones of either kind (default 2)\n"
    "  --udp 0|1          (default 1)\n"
    "  --interval-ms N    between frames (default 10)\n"
    "  --duration S       default: until SIGTERM or SIGINT\n"
    "  --ready-file F     made when traffic flows on all of them\n";

static void parse_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"control", required_argument, NULL, 'c'},    {"listen", required_argument, NULL, 'l'},
        {"in", required_argument, NULL, 'i'},         {"out", required_argument, NULL, 'o'},
        {"half", required_argument, NULL, 'h'},       {"udp", required_argument, NULL, 'u'},
        {"duration", required_argument, NULL, 'd'},   {"interval-ms", required_argument, NULL, 'n'},
        {"ready-file", required_argument, NULL, 'f'}, {NULL, 0, NULL, 0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        if (c == 'c')
            control_port = optarg;
        else if (c == 'l')
            listen_port = optarg;
        else if (c == 'i')
            groups[ECHO].wanted = wl_number("--in", optarg);
        else if (c == 'o')
            groups[ACCEPTED].wanted = wl_number("--out", optarg);
        else if (c == 'h')
            groups[PEER_HALF].wanted = groups[SELF_HALF].wanted = wl_number("--half", optarg);
        else if (c == 'u')
            groups[UDP].wanted = wl_number("--udp", optarg);
        else if (c == 'd')
            duration_ms = (uint64_t)(strtod(optarg, NULL) * 1000);
        else if (c == 'n')
            interval_ms = wl_number("--interval-ms", optarg);
        else if (c == 'f')
            ready_file = optarg;
        else
            wl_die("%s", usage);
    }
    if (argc - optind != 2 || interval_ms == 0)
        wl_die("%s", usage);
    server = wl_address(argv[optind], argv[optind + 1]);
    control_address = wl_address(argv[optind], control_port);
}

int main(int argc, char **argv)
{
    uint64_t deadline;
    const char *check;
    char *result;
    bool good;

    parse_options(argc, argv);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    add(STOP, wl_stop_signals());
    for (size_t i = 0; i < GROUPS; i++)
        groups[i].gaps.threshold_us = GAP_THRESHOLD_US + 2000 * interval_ms +
                                      (i == PEER_HALF ? 50000 : 0); /* the sink's own pace */
    open_everything();

    deadline = wl_now_us() + READY_US;
    while (!all_flow() && !stopping) {
        if (wl_now_us() > deadline)
            wl_die("no traffic on every connection within 10 s");
        turn(deadline);
    }
    wl_ready(ready_file);
    deadline = duration_ms ? wl_now_us() + duration_ms * 1000 : UINT64_MAX;
    while (!stopping && wl_now_us() < deadline)
        turn(deadline);

    mark_all();
    check = ask("check", 10000000);
    result = check ? strdup(check) : NULL;
    deadline = wl_now_us() + DRAIN_US;
    while ((stalled = count_stalled()) > 0 && wl_now_us() < deadline)
        turn(deadline);
    stopping = true;
    for (struct peer_socket *s = sockets; s; s = s->next) {
        if (s->kind == TIMER)
            s->ended = true; /* no new frames */
    }
    ask("disconnect", 1000000);
    deadline = wl_now_us() + DRAIN_US;
    while (!all_echoed() && wl_now_us() < deadline)
        turn(deadline);
    good = report(result);
    free(result);
    return good ? WL_EXIT_OK : WL_EXIT_BAD;
}
