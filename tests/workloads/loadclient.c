/*
 * A redis client that notices everything: it writes and reads back numbered keys over one TCP
 * connection that it never renews, and reports lost writes, resets and silences as JSON.
 */
#include "loadclient.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PRELOAD_DEPTH 64
#define DRAIN_US 5000000
#define REPLY_SLACK 64

static const char usage[] =
    "usage: loadclient ADDR PORT [options]\n"
    "       loadclient --ask PATH ready|mark|status|stop\n"
    "  --rate N             requests per second (default: as fast as it can)\n"
    "  --outstanding K      requests in flight (default 1)\n"
    "  --keys N             distinct keys (default 10000), written in turn\n"
    "  --value-size BYTES   (default 1k)\n"
    "  --preload-mib N      write N MiB of other keys first\n"
    "  --duration SECONDS   stop by itself; else SIGTERM, SIGINT or `stop` end it\n"
    "  --until-stdin-eof    stop when stdin ends\n"
    "  --verify             at the end read back every acknowledged key\n"
    "  --control PATH       answer `ready`, `mark`, `status`, `stop` on this unix socket\n"
    "  --ready-file PATH    made when the load begins\n"
    "  --connect-timeout MS keep trying to connect at the start (default 5000)\n";

/* ---- the loop ------------------------------------------------------------------------------- */

enum { POLL_SERVER, POLL_STOP, POLL_STDIN, POLL_LISTENER, POLL_CONTROLS };

static void wait_for_events(struct client *client, struct pollfd *fds, size_t count,
                            uint64_t until_us)
{
    uint64_t now = wl_now_us();
    uint64_t wait = until_us > now ? until_us - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(wait / 1000000),
                               .tv_nsec = (long)(wait % 1000000) * 1000};

    fds[POLL_SERVER] = (struct pollfd){.fd = client->broken ? -1 : client->fd, .events = POLLIN};
    if (client->out_length)
        fds[POLL_SERVER].events |= POLLOUT;
    fds[POLL_STOP] = (struct pollfd){.fd = client->stop_fd, .events = POLLIN};
    fds[POLL_STDIN] = (struct pollfd){
        .fd = client->options.until_stdin_eof && !client->stopping ? STDIN_FILENO : -1,
        .events = POLLIN};
    fds[POLL_LISTENER] = (struct pollfd){.fd = client->control_listener, .events = POLLIN};
    for (int i = 0; i < MAX_CONTROLS; i++)
        fds[POLL_CONTROLS + i] = (struct pollfd){.fd = client->controls[i].fd, .events = POLLIN};
    if (ppoll(fds, count, until_us == UINT64_MAX ? NULL : &timeout, NULL) < 0 && errno != EINTR)
        wl_die("poll: %s", strerror(errno));
}

static void handle_events(struct client *client, const struct pollfd *fds)
{
    char scratch[256];

    if (fds[POLL_SERVER].revents & POLLOUT)
        client_transmit(client);
    if (fds[POLL_SERVER].revents & (POLLIN | POLLHUP | POLLERR))
        client_receive(client);
    if (fds[POLL_STOP].revents && read(client->stop_fd, scratch, sizeof(scratch)) > 0)
        client->stopping = true;
    if (fds[POLL_STDIN].revents && read(STDIN_FILENO, scratch, sizeof(scratch)) <= 0)
        client->stopping = true;
    for (int i = 0; i < MAX_CONTROLS; i++) {
        if (fds[POLL_CONTROLS + i].revents)
            control_read(client, &client->controls[i]);
    }
    if (fds[POLL_LISTENER].revents)
        control_accept(client);
}

static uint64_t next_wakeup(const struct client *client, uint64_t drain_until)
{
    uint64_t wakeup = client->phase == VERIFY ? client->last_reply_us + DRAIN_US : drain_until;

    if (client->phase == LOAD && client->options.interval_us &&
        client_outstanding(client) < client->options.outstanding && client->next_send_us < wakeup)
        wakeup = client->next_send_us;
    return client->phase_end_us < wakeup ? client->phase_end_us : wakeup;
}

/* Runs until the phase has no more requests and all are answered, or the connection is gone. */
static void run_phase(struct client *client, enum phase phase)
{
    struct pollfd fds[POLL_CONTROLS + MAX_CONTROLS];
    uint64_t drain_until = UINT64_MAX;

    client->phase = phase;
    client->next_item = 0;
    client->phase_end_us = UINT64_MAX;
    client->last_reply_us = client->next_send_us = wl_now_us();
    if (phase == LOAD && client->options.duration_ms)
        client->phase_end_us = client->last_reply_us + client->options.duration_ms * 1000;

    while (!client->broken) {
        bool more;

        if (wl_now_us() >= client->phase_end_us) {
            client->stopping = true;
            client->phase_end_us = UINT64_MAX;
        }
        more = client_issue(client) && (phase == VERIFY || !client->stopping);
        if (!more && client_outstanding(client) == 0)
            break;
        if (!more && drain_until == UINT64_MAX)
            drain_until = wl_now_us() + DRAIN_US;
        if (phase != VERIFY && wl_now_us() > drain_until)
            break;
        if (phase == VERIFY && wl_now_us() > client->last_reply_us + DRAIN_US) {
            client->broken = true;
            break;
        }
        client_transmit(client);
        if (client->broken)
            break;
        wait_for_events(client, fds, POLL_CONTROLS + MAX_CONTROLS,
                        next_wakeup(client, drain_until));
        handle_events(client, fds);
    }
    if (phase == LOAD && client_outstanding(client) > 0)
        client_note_silence(client, wl_now_us());
}

/* Counting what is lost matters more than the old connection: a broken one is replaced here. */
static void verify(struct client *client)
{
    if (client->broken || client_outstanding(client) > 0) {
        close(client->fd);
        client->fd = wl_tcp_connect(&client->options.server, 1000);
        client->broken = client->fd < 0;
        client->answered = client->issued;
        client->in_length = client->out_length = 0;
    }
    run_phase(client, VERIFY);
    client->verified = !client->broken;
    if (client->broken)
        client_give_up(client);
}

static void report(struct client *client)
{
    double seconds = (double)(client->load_end_us - client->load_start_us) / 1e6;

    printf("{");
    client_print_totals(client, stdout);
    printf(",\"lost_writes\":%" PRIu64 ",\"verified\":%s,\"read_back\":%" PRIu64
           ",\"wrong_reads\":%" PRIu64 ",\"errors\":%" PRIu64 ",\"unanswered\":%" PRIu64
           ",\"preloaded_keys\":%" PRIu64 ",\"elapsed_s\":%.3f,\"writes_per_s\":%.0f,",
           client->lost + client->wrong_reads, client->verified ? "true" : "false",
           client->read_back, client->wrong_reads, client->errors, client->unanswered,
           client->filled, seconds, seconds > 0 ? (double)client->acknowledged / seconds : 0.0);
    wl_gaps_print(stdout, &client->gaps);
    printf("}\n");
}

static void parse_options(struct options *options, int argc, char **argv)
{
    static const struct option known[] = {
        {"rate", required_argument, NULL, 'r'},
        {"outstanding", required_argument, NULL, 'o'},
        {"preload-mib", required_argument, NULL, 'p'},
        {"duration", required_argument, NULL, 'd'},
        {"keys", required_argument, NULL, 'k'},
        {"value-size", required_argument, NULL, 's'},
        {"verify", no_argument, NULL, 'v'},
        {"until-stdin-eof", no_argument, NULL, 'e'},
        {"control", required_argument, NULL, 'c'},
        {"ready-file", required_argument, NULL, 'f'},
        {"connect-timeout", required_argument, NULL, 't'},
        {"ask", required_argument, NULL, 'a'},
        {NULL, 0, NULL, 0},
    };
    const char *ask_path = NULL;
    int c;

    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (c) {
        case 'r':
            options->rate = wl_number("--rate", optarg);
            break;
        case 'o':
            options->outstanding = wl_number("--outstanding", optarg);
            break;
        case 'p':
            options->preload_mib = wl_number("--preload-mib", optarg);
            break;
        case 'd':
            options->duration_ms = (uint64_t)(strtod(optarg, NULL) * 1000);
            break;
        case 'k':
            options->keys = wl_number("--keys", optarg);
            break;
        case 's':
            options->value_size = wl_number("--value-size", optarg);
            break;
        case 'v':
            options->verify = true;
            break;
        case 'e':
            options->until_stdin_eof = true;
            break;
        case 'c':
            options->control = optarg;
            break;
        case 'f':
            options->ready_file = optarg;
            break;
        case 't':
            options->connect_timeout_ms = wl_number("--connect-timeout", optarg);
            break;
        case 'a':
            ask_path = optarg;
            break;
        default:
            fputs(usage, stderr);
            exit(WL_EXIT_USAGE);
        }
    }
    if (ask_path && argc - optind == 1)
        exit(control_ask(ask_path, argv[optind]));
    if (argc - optind != 2 || ask_path || !options->keys || !options->outstanding ||
        !options->value_size || options->rate > 1000000 || options->outstanding > 100000) {
        fputs(usage, stderr);
        exit(WL_EXIT_USAGE);
    }
    options->server = wl_address(argv[optind], argv[optind + 1]);
    if (options->rate)
        options->interval_us = 1000000 / options->rate;
}

static void client_prepare(struct client *client)
{
    const struct options *options = &client->options;
    uint64_t keys;

    client->fill_count = (options->preload_mib << 20) / options->value_size;
    keys = options->keys + client->fill_count;
    client->ring_size = options->outstanding > PRELOAD_DEPTH ? options->outstanding : PRELOAD_DEPTH;
    client->ring = wl_alloc(client->ring_size, sizeof(*client->ring));
    client->sent_version = wl_alloc(keys, sizeof(*client->sent_version));
    client->acked_version = wl_alloc(keys, sizeof(*client->acked_version));
    client->expected = wl_alloc(1, options->value_size);
    client->out = wl_alloc(client->ring_size, options->value_size + 128);
    client->in_size = 64 * (options->value_size + REPLY_SLACK);
    client->in = wl_alloc(1, client->in_size);
    client->gaps.threshold_us = client->since_mark.threshold_us = GAP_THRESHOLD_US;
    for (int i = 0; i < MAX_CONTROLS; i++)
        client->controls[i].fd = -1;
    client->control_listener = options->control ? control_listen(options->control) : -1;
}

int main(int argc, char **argv)
{
    static struct client client = {
        .options = {
            .outstanding = 1, .keys = 10000, .value_size = 1024, .connect_timeout_ms = 5000}};

    parse_options(&client.options, argc, argv);
    client.stop_fd = wl_stop_signals();
    client_prepare(&client);
    client.fd = wl_tcp_connect(&client.options.server, client.options.connect_timeout_ms);
    if (client.fd < 0)
        wl_die("cannot connect: %s", strerror(errno));

    run_phase(&client, PRELOAD);
    client.phase = LOAD;
    if (!client.broken)
        control_tell_ready(&client);
    client.load_start_us = wl_now_us();
    run_phase(&client, LOAD);
    client.load_end_us = wl_now_us();
    client.unanswered = client_outstanding(&client);
    if (client.options.verify)
        verify(&client);
    client.phase = DONE;
    report(&client);
    if (client.options.control)
        unlink(client.options.control);
    return client.resets || client.lost || client.wrong_reads || client.errors || client.unanswered
               ? WL_EXIT_BAD
               : WL_EXIT_OK;
}
