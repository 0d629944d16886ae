/*
 * The client of the benchmark: writes at a steady pace over one connection, and tells how long
 * nothing came back. Commands on stdin, one JSON object on stdout for each.
 */
#include "bench_client.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define GAP_US 10000        /* shorter silences are no stall */
#define GIVE_UP_US 60000000 /* a connection that is silent for so long is made anew */
#define CHECK_WAIT_US 300000000
#define IN_SIZE (256 * 1024)
/* Half of it holds all that may be queued. */
#define OUT_SIZE (2 * BENCH_DEPTH * BENCH_REQUEST_MAX)

static const char usage[] =
    "usage: bench_client ADDR PORT redis|ping [options]\n"
    "  --mib N          redis: fill it with so many MiB of values first (default 64)\n"
    "  --rate N         requests per second; 0: as many as it can (default 5000)\n"
    "  --outstanding K  requests in flight at most (default 64)\n"
    "commands on stdin:\n"
    "  mark             what happened since the last mark\n"
    "  pause, resume    stop sending, when all is answered; go on\n"
    "  rate N           change the pace\n"
    "  keys N           redis: write only to the first N keys from now on\n"
    "  verify           read back every key that was written since the filling, or let "
    "bench_memory\n"
    "                   check its pages; then the load goes on\n"
    "  quit             the same as end of file\n";

/* Since the last mark. */
struct window {
    uint64_t start_us;
    uint64_t acknowledged, errors, reconnects;
    uint64_t latency_us;    /* summed up */
    uint64_t before_gap;    /* acknowledged when the longest silence began */
    uint64_t before_gap_us; /* its beginning, from the start of the window */
    struct wl_gaps gaps;
};

enum phase { FILL, LOAD, PAUSED, READ_BACK };

struct client {
    const struct bench_protocol *protocol;
    struct sockaddr_storage server;
    uint64_t rate, depth, keys, hot_keys;
    int fd;
    enum phase phase;
    uint32_t *sent_version, *acked_version;
    struct bench_request ring[BENCH_DEPTH];
    uint64_t issued, answered, next_item;
    uint64_t next_send_us, last_reply_us;
    uint64_t random;
    uint64_t lost, read_back;
    unsigned char *out;
    size_t out_start, out_length;
    unsigned char in[IN_SIZE];
    size_t in_length;
    struct window window;
};

static uint64_t outstanding(const struct client *client)
{
    return client->issued - client->answered;
}

static struct bench_request *oldest(struct client *client)
{
    return &client->ring[client->answered % BENCH_DEPTH];
}

/* ---- requests ------------------------------------------------------------------------------- */

static bool is_redis(const struct client *client)
{
    return client->protocol == &bench_redis;
}

/* Each is as likely as any other to be written next. */
static uint64_t any_key(struct client *client)
{
    client->random = client->random * 6364136223846793005u + 1442695040888963407u;
    return (uint64_t)((unsigned __int128)client->random * client->hot_keys >> 64);
}

static bool next_request(struct client *client, struct bench_request *request)
{
    uint64_t *item = &client->next_item;

    switch (client->phase) {
    case FILL:
        if (*item >= client->keys)
            return false;
        *request = (struct bench_request){.kind = BENCH_WRITE, .key = (*item)++};
        break;
    case LOAD:
        *request = (struct bench_request){.kind = BENCH_WRITE};
        request->key = is_redis(client) ? any_key(client) : client->issued;
        if (is_redis(client))
            request->version = ++client->sent_version[request->key];
        break;
    case PAUSED:
        return false;
    case READ_BACK:
        if (!is_redis(client)) {
            *request = (struct bench_request){.kind = BENCH_CHECK};
            return (*item)++ == 0;
        }
        while (*item < client->keys && !client->acked_version[*item])
            ++*item;
        if (*item >= client->keys)
            return false;
        *request = (struct bench_request){
            .kind = BENCH_READ_BACK, .key = *item, .version = client->acked_version[*item]};
        ++*item;
        break;
    }
    return true;
}

static uint64_t depth(const struct client *client)
{
    return client->phase == LOAD ? client->depth : BENCH_DEPTH;
}

/* Issues what the depth and the pace allow. False when the phase has no more requests. */
static bool issue(struct client *client)
{
    bool paced = client->phase == LOAD && client->rate;
    uint64_t now = wl_now_us();
    struct bench_request request;

    while (outstanding(client) < depth(client)) {
        if (paced && now < client->next_send_us)
            return true;
        if (!next_request(client, &request))
            return false;
        request.sent_us = now;
        client->ring[client->issued++ % BENCH_DEPTH] = request;
        client->out_length += client->protocol->encode(&request, client->out + client->out_start +
                                                                     client->out_length);
        /* No burst after a silence: the pace starts anew. */
        if (paced) {
            client->next_send_us += 1000000 / client->rate;
            if (client->next_send_us + 5000 < now)
                client->next_send_us = now;
        }
    }
    return true;
}

/* ---- replies -------------------------------------------------------------------------------- */

static void note_silence(struct client *client, uint64_t now)
{
    struct window *window = &client->window;
    uint64_t from = client->last_reply_us;

    if (oldest(client)->sent_us > from)
        from = oldest(client)->sent_us;
    if (client->phase != LOAD)
        return;
    if (from < now && now - from > window->gaps.max_us) {
        window->before_gap = window->acknowledged;
        window->before_gap_us = from > window->start_us ? from - window->start_us : 0;
    }
    wl_gaps_note(&window->gaps, from, now);
}

static void account(struct client *client, const struct bench_request *request,
                    enum bench_verdict verdict, uint64_t now)
{
    if (verdict == BENCH_LOST)
        client->lost++;
    else if (verdict == BENCH_ERROR)
        client->window.errors++;
    else if (request->kind != BENCH_WRITE)
        client->read_back++;
    else {
        if (is_redis(client))
            client->acked_version[request->key] = request->version;
        client->window.acknowledged++;
        client->window.latency_us += now - request->sent_us;
    }
}

static uint32_t newest_version(const struct client *client, const struct bench_request *request)
{
    return is_redis(client) ? client->sent_version[request->key] : 0;
}

static void judge_replies(struct client *client)
{
    uint64_t now = wl_now_us();
    size_t done = 0;

    while (outstanding(client) > 0) {
        const struct bench_request *request = oldest(client);
        enum bench_verdict verdict;
        size_t length =
            client->protocol->judge(request, newest_version(client, request), client->in + done,
                                    client->in_length - done, &verdict);

        if (length == 0)
            break;
        note_silence(client, now);
        account(client, request, verdict, now);
        client->answered++;
        client->last_reply_us = now;
        done += length;
    }
    memmove(client->in, client->in + done, client->in_length - done);
    client->in_length -= done;
    if (client->in_length == IN_SIZE)
        wl_die("a reply longer than any value that was sent");
}

/* ---- the connection ------------------------------------------------------------------------- */

/* What was in flight has no reply, and counts neither as written nor as lost. The silence goes on
 * until a reply comes on the new connection. */
static void reconnect(struct client *client)
{
    uint64_t silent_since = client->last_reply_us;

    if (client->phase == FILL)
        wl_die("the connection broke while filling: %s", strerror(errno));
    client->window.reconnects++;
    close(client->fd);
    client->fd = wl_tcp_connect(&client->server, 300000);
    if (client->fd < 0)
        wl_die("cannot connect again: %s", strerror(errno));
    if (client->phase == LOAD)
        wl_gaps_note(&client->window.gaps, silent_since, wl_now_us());
    client->answered = client->issued;
    client->in_length = client->out_length = client->out_start = 0;
    client->last_reply_us = client->next_send_us = wl_now_us();
}

static void transmit(struct client *client)
{
    while (client->out_length > 0) {
        ssize_t sent =
            send(client->fd, client->out + client->out_start, client->out_length, MSG_NOSIGNAL);

        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR)
                reconnect(client);
            break;
        }
        client->out_start += (size_t)sent;
        client->out_length -= (size_t)sent;
    }
    if (client->out_length == 0)
        client->out_start = 0;
    if (client->out_start > OUT_SIZE / 2) {
        memmove(client->out, client->out + client->out_start, client->out_length);
        client->out_start = 0;
    }
}

static void receive(struct client *client)
{
    ssize_t got = recv(client->fd, client->in + client->in_length, IN_SIZE - client->in_length, 0);

    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
        reconnect(client);
        return;
    }
    client->in_length += got > 0 ? (size_t)got : 0;
    judge_replies(client);
}

static void check_patience(struct client *client)
{
    uint64_t limit = client->phase == READ_BACK ? CHECK_WAIT_US : GIVE_UP_US;

    if (outstanding(client) > 0 && wl_now_us() > client->last_reply_us + limit &&
        wl_now_us() > oldest(client)->sent_us + limit)
        reconnect(client);
}

/* Waits for the server or for a command; true when there is a command. */
static bool wait_for_events(struct client *client, bool commands)
{
    struct pollfd fds[] = {
        {.fd = client->fd, .events = (short)(POLLIN | (client->out_length ? POLLOUT : 0))},
        {.fd = commands ? STDIN_FILENO : -1, .events = POLLIN},
    };
    uint64_t now = wl_now_us();
    uint64_t wait_us = 1000000;
    struct timespec timeout;

    if (client->phase == LOAD && client->rate && outstanding(client) < client->depth)
        wait_us = client->next_send_us > now ? client->next_send_us - now : 0;
    timeout = (struct timespec){.tv_sec = (time_t)(wait_us / 1000000),
                                .tv_nsec = (long)(wait_us % 1000000) * 1000};
    if (ppoll(fds, 2, &timeout, NULL) < 0 && errno != EINTR)
        wl_die("poll: %s", strerror(errno));
    if (fds[0].revents & POLLOUT)
        transmit(client);
    if (fds[0].revents & (POLLIN | POLLHUP | POLLERR))
        receive(client);
    check_patience(client);
    return fds[1].revents != 0;
}

/* Runs a phase other than the load to its end: all is sent and answered. */
static void run_out(struct client *client, enum phase phase)
{
    client->phase = phase;
    client->next_item = 0;
    while (issue(client) || outstanding(client) > 0) {
        transmit(client);
        wait_for_events(client, false);
    }
}

/* ---- commands ------------------------------------------------------------------------------- */

static void new_window(struct client *client)
{
    free(client->window.gaps.list);
    client->window = (struct window){.start_us = wl_now_us(), .gaps.threshold_us = GAP_US};
}

/* A silence that lasts is one already. */
static void mark(struct client *client)
{
    struct window *window = &client->window;
    uint64_t now = wl_now_us();

    if (client->phase == LOAD && outstanding(client) > 0 && now > client->last_reply_us + GAP_US)
        note_silence(client, now);
    printf("{\"elapsed_ms\":%.3f,\"acknowledged\":%" PRIu64 ",\"errors\":%" PRIu64
           ",\"reconnects\":%" PRIu64 ",\"latency_us\":%.1f,\"before_gap\":%" PRIu64
           ",\"before_gap_ms\":%.3f,",
           (double)(now - window->start_us) / 1000, window->acknowledged, window->errors,
           window->reconnects,
           window->acknowledged ? (double)window->latency_us / (double)window->acknowledged : 0.0,
           window->before_gap, (double)window->before_gap_us / 1000);
    wl_gaps_print(stdout, &window->gaps);
    printf("}\n");
    new_window(client);
}

static void go_on(struct client *client)
{
    client->phase = LOAD;
    client->last_reply_us = client->next_send_us = wl_now_us();
}

static void verify(struct client *client)
{
    uint64_t lost = client->lost;
    uint64_t before = client->read_back;

    run_out(client, PAUSED);
    run_out(client, READ_BACK);
    printf("{\"read_back\":%" PRIu64 ",\"lost\":%" PRIu64 "}\n", client->read_back - before,
           client->lost - lost);
    go_on(client);
}

static void obey(struct client *client, const char *command)
{
    if (strcmp(command, "mark") == 0) {
        mark(client);
    } else if (strcmp(command, "verify") == 0) {
        verify(client);
    } else if (strcmp(command, "pause") == 0) {
        run_out(client, PAUSED);
        puts("{}");
    } else if (strcmp(command, "resume") == 0) {
        go_on(client);
        puts("{}");
    } else if (strncmp(command, "rate ", 5) == 0) {
        client->rate = wl_number("rate", command + 5);
        client->next_send_us = wl_now_us();
        puts("{}");
    } else if (strncmp(command, "keys ", 5) == 0) {
        uint64_t keys = wl_number("keys", command + 5);

        client->hot_keys = keys < client->keys ? keys : client->keys;
        puts("{}");
    } else {
        wl_die("unknown command '%s'", command);
    }
    fflush(stdout);
}

/* False at the end of the commands. */
static bool read_command(struct client *client)
{
    static char line[64];
    static size_t length;
    ssize_t got = read(STDIN_FILENO, line + length, sizeof(line) - 1 - length);
    char *end;

    if (got <= 0)
        return false;
    length += (size_t)got;
    line[length] = '\0';
    while ((end = strchr(line, '\n'))) {
        *end = '\0';
        if (strcmp(line, "quit") == 0)
            return false;
        obey(client, line);
        length -= (size_t)(end + 1 - line);
        memmove(line, end + 1, length + 1);
    }
    return length < sizeof(line) - 1;
}

static void run_load(struct client *client)
{
    go_on(client);
    new_window(client);
    do {
        issue(client);
        transmit(client);
    } while (!wait_for_events(client, true) || read_command(client));
}

static uint64_t parse_options(struct client *client, int argc, char **argv)
{
    static const struct option known[] = {
        {"mib", required_argument, NULL, 'm'},
        {"rate", required_argument, NULL, 'r'},
        {"outstanding", required_argument, NULL, 'o'},
        {NULL, 0, NULL, 0},
    };
    uint64_t mib = 64;
    int c;

    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (c) {
        case 'm':
            mib = wl_number("--mib", optarg);
            break;
        case 'r':
            client->rate = wl_number("--rate", optarg);
            break;
        case 'o':
            client->depth = wl_number("--outstanding", optarg);
            break;
        default:
            fputs(usage, stderr);
            exit(WL_EXIT_USAGE);
        }
    }
    if (argc - optind != 3 || !client->depth || client->depth > BENCH_DEPTH || !mib ||
        client->rate > 1000000) {
        fputs(usage, stderr);
        exit(WL_EXIT_USAGE);
    }
    client->server = wl_address(argv[optind], argv[optind + 1]);
    if (strcmp(argv[optind + 2], "ping") == 0)
        client->protocol = &bench_ping;
    else if (strcmp(argv[optind + 2], "redis") != 0)
        wl_die("the protocol is redis or ping, not '%s'", argv[optind + 2]);
    return mib;
}

int main(int argc, char **argv)
{
    static struct client client = {
        .protocol = &bench_redis, .rate = 5000, .depth = 64, .random = 88172645463325252u};
    uint64_t mib = parse_options(&client, argc, argv);

    /* Who measures should not wait for the processor; where that is not allowed, it has to. */
    (void)setpriority(PRIO_PROCESS, 0, -10);
    client.keys = is_redis(&client) ? (mib << 20) / BENCH_VALUE : 0;
    client.hot_keys = client.keys;
    client.sent_version = wl_alloc(client.keys + 1, sizeof(*client.sent_version));
    client.acked_version = wl_alloc(client.keys + 1, sizeof(*client.acked_version));
    client.out = wl_alloc(1, OUT_SIZE);
    client.fd = wl_tcp_connect(&client.server, 300000);
    if (client.fd < 0)
        wl_die("cannot connect: %s", strerror(errno));
    client.last_reply_us = wl_now_us();
    run_out(&client, FILL);
    printf("{\"filled_keys\":%" PRIu64 "}\n", client.keys);
    fflush(stdout);
    run_load(&client);
    return WL_EXIT_OK;
}
