/*
 * A redis client that notices everything: it writes and reads back numbered keys over one TCP
 * connection that it never renews, and reports lost writes, resets and silences as JSON.
 */
#include "workload.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PRELOAD_DEPTH 64
#define MAX_CONTROLS 8
#define DRAIN_US 5000000
#define REPLY_SLACK 64
#define GAP_THRESHOLD_US 10000

enum kind { FILL, SET, GET, READ_BACK };
enum phase { PRELOAD, LOAD, VERIFY, DONE };

struct request {
    enum kind kind;
    uint64_t key; /* keys from `keys` upwards are the preloaded ones */
    uint32_t version;
    uint64_t sent_us;
};

struct control {
    int fd;
    bool wants_ready;
    size_t length;
    char line[64];
};

struct options {
    struct sockaddr_in server;
    uint64_t rate;
    uint64_t outstanding;
    uint64_t preload_mib;
    uint64_t duration_ms;
    uint64_t keys;
    uint64_t value_size;
    uint64_t connect_timeout_ms;
    uint64_t interval_us;
    bool verify;
    bool until_stdin_eof;
    const char *control;
    const char *ready_file;
};

struct client {
    struct options options;
    enum phase phase;
    int fd;
    int stop_fd;
    int control_listener;
    struct control controls[MAX_CONTROLS];
    bool stopping;
    bool broken; /* the one connection is gone */

    struct request *ring;
    uint64_t ring_size;
    uint64_t issued;
    uint64_t answered;

    uint64_t fill_count;
    uint64_t next_item; /* of the phase */
    uint64_t next_send_us;
    uint64_t phase_end_us;
    uint32_t *sent_version;
    uint32_t *acked_version;

    unsigned char *out;
    size_t out_length;
    unsigned char *in;
    size_t in_size, in_length;
    unsigned char *expected;

    uint64_t load_start_us, load_end_us;
    uint64_t last_reply_us;
    struct wl_gaps gaps;
    struct wl_gaps since_mark;
    uint64_t acknowledged, read_back, wrong_reads, errors, resets, lost, filled;
    uint64_t unanswered;
    uint64_t verified_until; /* every key below is judged */
    bool verified;
};

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

static uint64_t outstanding(const struct client *client)
{
    return client->issued - client->answered;
}

static struct request *oldest(struct client *client)
{
    return &client->ring[client->answered % client->ring_size];
}

static void make_value(const struct client *client, unsigned char *value, uint64_t key,
                       uint32_t version)
{
    size_t size = client->options.value_size;
    uint64_t word = wl_mix(key << 32 | version);

    for (size_t at = 0; at < size; at += sizeof(word)) {
        size_t left = size - at;

        memcpy(value + at, &word, left < sizeof(word) ? left : sizeof(word));
        word = word * 6364136223846793005u + 1442695040888963407u;
    }
}

static int key_name(const struct client *client, char *text, size_t size, uint64_t key)
{
    if (key >= client->options.keys)
        return snprintf(text, size, "fill:%" PRIu64, key - client->options.keys);
    return snprintf(text, size, "key:%" PRIu64, key);
}

/* ---- making requests ------------------------------------------------------------------------ */

static void encode(struct client *client, const struct request *request)
{
    char name[40];
    int name_length = key_name(client, name, sizeof(name), request->key);
    char *out = (char *)client->out + client->out_length;
    size_t size = client->options.value_size;

    if (request->kind == SET || request->kind == FILL) {
        out += sprintf(out, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%zu\r\n", name_length, name, size);
        make_value(client, (unsigned char *)out, request->key, request->version);
        out += size;
        out += sprintf(out, "\r\n");
    } else {
        out += sprintf(out, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", name_length, name);
    }
    client->out_length = (size_t)(out - (char *)client->out);
}

/* The next request of the phase; false when it has no more. */
static bool next_request(struct client *client, struct request *request)
{
    uint64_t item = client->next_item;
    uint64_t keys = client->options.keys;

    switch (client->phase) {
    case PRELOAD:
        if (item >= client->fill_count || client->stopping)
            return false;
        *request = (struct request){.kind = FILL, .key = keys + item, .version = 1};
        client->sent_version[request->key] = 1;
        break;
    case LOAD:
        if (client->stopping)
            return false;
        *request = (struct request){.kind = item % 2 ? GET : SET, .key = item / 2 % keys};
        if (request->kind == SET)
            client->sent_version[request->key]++;
        request->version = client->sent_version[request->key];
        break;
    case VERIFY:
        while (item < keys + client->fill_count && !client->acked_version[item])
            item++;
        if (item >= keys + client->fill_count)
            return false;
        *request = (struct request){.kind = READ_BACK, .key = item};
        request->version = client->acked_version[item];
        break;
    case DONE:
        return false;
    }
    client->next_item = item + 1;
    return true;
}

static uint64_t depth(const struct client *client)
{
    return client->phase == LOAD ? client->options.outstanding : client->ring_size;
}

/* Issues what the depth and the rate allow. False when the phase has no more requests. */
static bool issue(struct client *client)
{
    uint64_t now = wl_now_us();
    bool paced = client->phase == LOAD && client->options.interval_us;
    struct request request;

    while (outstanding(client) < depth(client)) {
        if (paced && now < client->next_send_us)
            return true;
        if (!next_request(client, &request))
            return false;
        request.sent_us = now;
        client->ring[client->issued++ % client->ring_size] = request;
        encode(client, &request);
        /* No burst after a silence: the pace starts anew. */
        if (paced) {
            client->next_send_us += client->options.interval_us;
            if (client->next_send_us < now)
                client->next_send_us = now;
        }
    }
    return true;
}

/* ---- judging replies ------------------------------------------------------------------------ */

static bool holds_version(struct client *client, const unsigned char *value, ssize_t size,
                          uint64_t key, uint32_t version)
{
    if (size != (ssize_t)client->options.value_size)
        return false;
    make_value(client, client->expected, key, version);
    return memcmp(value, client->expected, (size_t)size) == 0;
}

static void judge_read_back(struct client *client, const struct request *request,
                            const unsigned char *value, ssize_t size)
{
    /* A write sent but not acknowledged may have happened: any version from the acknowledged on. */
    for (uint32_t v = request->version; v <= client->sent_version[request->key]; v++) {
        if (holds_version(client, value, size, request->key, v))
            return;
    }
    client->lost++;
}

static void judge(struct client *client, const struct request *request, char type,
                  const unsigned char *value, ssize_t size)
{
    if (type == '-') {
        client->errors++;
        if (request->kind == READ_BACK)
            client->lost++;
        return;
    }
    switch (request->kind) {
    case FILL:
    case SET:
        client->acked_version[request->key] = request->version;
        if (request->kind == SET)
            client->acknowledged++;
        else
            client->filled++;
        break;
    case GET:
        if (holds_version(client, value, size, request->key, request->version))
            client->read_back++;
        else
            client->wrong_reads++;
        break;
    case READ_BACK:
        judge_read_back(client, request, value, size);
        break;
    }
}

/* Length of the first whole reply in the buffer, 0 when it is not whole yet. */
static size_t parse_reply(const unsigned char *in, size_t length, char *type,
                          const unsigned char **value, ssize_t *value_size)
{
    const unsigned char *end = memchr(in, '\n', length);
    size_t head;
    long size;

    if (!end)
        return 0;
    head = (size_t)(end - in) + 1;
    *type = (char)in[0];
    *value = NULL;
    *value_size = -1;
    if (*type != '$')
        return head;
    size = strtol((const char *)in + 1, NULL, 10);
    if (size < 0)
        return head;
    if (length < head + (size_t)size + 2)
        return 0;
    *value = in + head;
    *value_size = size;
    return head + (size_t)size + 2;
}

static void note_silence(struct client *client, uint64_t now)
{
    uint64_t sent = oldest(client)->sent_us;
    uint64_t from = sent > client->last_reply_us ? sent : client->last_reply_us;

    if (client->phase != LOAD)
        return;
    wl_gaps_note(&client->gaps, from, now);
    wl_gaps_note(&client->since_mark, from, now);
}

static void break_off(struct client *client)
{
    client->broken = true;
    if (client->phase == LOAD || client->phase == PRELOAD)
        client->resets++;
}

static void receive(struct client *client)
{
    ssize_t got =
        recv(client->fd, client->in + client->in_length, client->in_size - client->in_length, 0);
    uint64_t now = wl_now_us();
    size_t done = 0;

    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
        break_off(client);
        return;
    }
    client->in_length += got > 0 ? (size_t)got : 0;
    while (outstanding(client) > 0) {
        const unsigned char *value;
        ssize_t value_size;
        char type;
        size_t length =
            parse_reply(client->in + done, client->in_length - done, &type, &value, &value_size);

        if (length == 0)
            break;
        note_silence(client, now);
        judge(client, oldest(client), type, value, value_size);
        if (client->phase == VERIFY)
            client->verified_until = oldest(client)->key + 1;
        client->answered++;
        client->last_reply_us = now;
        done += length;
    }
    memmove(client->in, client->in + done, client->in_length - done);
    client->in_length -= done;
    if (client->in_length == client->in_size)
        wl_die("a reply longer than any value was sent: is this redis?");
}

static void transmit(struct client *client)
{
    size_t done = 0;

    while (done < client->out_length) {
        ssize_t sent =
            send(client->fd, client->out + done, client->out_length - done, MSG_NOSIGNAL);

        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR)
                break_off(client);
            break;
        }
        done += (size_t)sent;
    }
    memmove(client->out, client->out + done, client->out_length - done);
    client->out_length -= done;
}

/* ---- the control socket --------------------------------------------------------------------- */

static void print_totals(const struct client *client, FILE *out)
{
    fprintf(out, "\"acknowledged_writes\":%" PRIu64 ",\"connection_resets\":%" PRIu64,
            client->acknowledged, client->resets);
}

/* The silence that has not ended yet belongs to every answer. */
static void print_gaps(struct client *client, FILE *out, const struct wl_gaps *finished)
{
    struct wl_gaps gaps = *finished;

    if (client->phase == LOAD && outstanding(client) > 0) {
        uint64_t sent = oldest(client)->sent_us;
        uint64_t from = sent > client->last_reply_us ? sent : client->last_reply_us;
        uint64_t length = wl_now_us() - from;

        if (length > gaps.max_us) {
            gaps.max_us = length;
            gaps.max_at_us = wl_wall_us() - length;
        }
    }
    wl_gaps_print(out, &gaps);
}

static void answer(struct client *client, struct control *control, const char *command)
{
    FILE *out;
    char *text = NULL;
    size_t size = 0;

    if (strcmp(command, "ready") == 0 && client->phase == PRELOAD) {
        control->wants_ready = true;
        return;
    }
    out = open_memstream(&text, &size);
    if (!out)
        wl_die("out of memory");
    fputc('{', out);
    if (strcmp(command, "mark") == 0) {
        print_totals(client, out);
        fputc(',', out);
        print_gaps(client, out, &client->since_mark);
        free(client->since_mark.list);
        client->since_mark = (struct wl_gaps){.threshold_us = GAP_THRESHOLD_US};
    } else if (strcmp(command, "status") == 0) {
        print_totals(client, out);
        fputc(',', out);
        print_gaps(client, out, &client->gaps);
    } else if (strcmp(command, "ready") == 0) {
        fprintf(out, "\"ready\":true,\"preloaded_keys\":%" PRIu64, client->filled);
    } else if (strcmp(command, "stop") == 0) {
        client->stopping = true;
        fprintf(out, "\"stopping\":true");
    } else {
        fprintf(out, "\"error\":\"unknown command\"");
    }
    fprintf(out, "}\n");
    fclose(out);
    if (send(control->fd, text, size, MSG_NOSIGNAL) < 0)
        perror("control");
    free(text);
}

static void control_close(struct control *control)
{
    close(control->fd);
    *control = (struct control){.fd = -1};
}

static void control_read(struct client *client, struct control *control)
{
    ssize_t got = recv(control->fd, control->line + control->length,
                       sizeof(control->line) - 1 - control->length, 0);
    char *end;

    if (got <= 0) {
        control_close(control);
        return;
    }
    control->length += (size_t)got;
    control->line[control->length] = '\0';
    while ((end = strchr(control->line, '\n'))) {
        *end = '\0';
        answer(client, control, control->line);
        control->length -= (size_t)(end + 1 - control->line);
        memmove(control->line, end + 1, control->length + 1);
    }
    if (control->length == sizeof(control->line) - 1)
        control_close(control);
}

static void control_accept(struct client *client)
{
    int fd = accept4(client->control_listener, NULL, NULL, SOCK_CLOEXEC);

    for (int i = 0; fd >= 0 && i < MAX_CONTROLS; i++) {
        if (client->controls[i].fd < 0) {
            client->controls[i].fd = fd;
            return;
        }
    }
    if (fd >= 0)
        close(fd);
}

static void tell_ready(struct client *client)
{
    wl_ready(client->options.ready_file);
    for (int i = 0; i < MAX_CONTROLS; i++) {
        if (client->controls[i].fd >= 0 && client->controls[i].wants_ready)
            answer(client, &client->controls[i], "ready");
    }
}

static struct sockaddr_un unix_address(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(address.sun_path))
        wl_die("%s: path too long", path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    return address;
}

static int control_listen(const char *path)
{
    struct sockaddr_un address = unix_address(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    unlink(path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 8))
        wl_die("%s: %s", path, strerror(errno));
    return fd;
}

static int ask(const char *path, const char *command)
{
    struct sockaddr_un address = unix_address(path);
    uint64_t deadline = wl_now_us() + 5000000;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char buffer[4096];
    FILE *stream;
    int c;

    while (connect(fd, (struct sockaddr *)&address, sizeof(address))) {
        if (wl_now_us() > deadline)
            wl_die("%s: %s", path, strerror(errno));
        poll(NULL, 0, 10);
    }
    snprintf(buffer, sizeof(buffer), "%s\n", command);
    if (send(fd, buffer, strlen(buffer), MSG_NOSIGNAL) < 0 || !(stream = fdopen(fd, "r")))
        wl_die("%s: %s", path, strerror(errno));
    while ((c = getc(stream)) != EOF) {
        putchar(c);
        if (c == '\n')
            return WL_EXIT_OK;
    }
    wl_die("%s: closed without an answer", path);
}

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
        transmit(client);
    if (fds[POLL_SERVER].revents & (POLLIN | POLLHUP | POLLERR))
        receive(client);
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
        outstanding(client) < client->options.outstanding && client->next_send_us < wakeup)
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
        more = issue(client);
        if (!more && outstanding(client) == 0)
            break;
        if (!more && drain_until == UINT64_MAX)
            drain_until = wl_now_us() + DRAIN_US;
        if (phase != VERIFY && wl_now_us() > drain_until)
            break;
        if (phase == VERIFY && wl_now_us() > client->last_reply_us + DRAIN_US) {
            client->broken = true;
            break;
        }
        transmit(client);
        if (client->broken)
            break;
        wait_for_events(client, fds, POLL_CONTROLS + MAX_CONTROLS,
                        next_wakeup(client, drain_until));
        handle_events(client, fds);
    }
    if (phase == LOAD && outstanding(client) > 0)
        note_silence(client, wl_now_us());
}

/* Counting what is lost matters more than the old connection: a broken one is replaced here. */
static void verify(struct client *client)
{
    uint64_t total = client->options.keys + client->fill_count;

    if (client->broken || outstanding(client) > 0) {
        close(client->fd);
        client->fd = wl_tcp_connect(&client->options.server, 1000);
        client->broken = client->fd < 0;
        client->answered = client->issued;
        client->in_length = client->out_length = 0;
    }
    run_phase(client, VERIFY);
    client->verified = !client->broken;
    for (uint64_t key = client->verified_until; client->broken && key < total; key++)
        client->lost += client->acked_version[key] ? 1 : 0;
}

static void report(struct client *client)
{
    double seconds = (double)(client->load_end_us - client->load_start_us) / 1e6;

    printf("{");
    print_totals(client, stdout);
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
        exit(ask(ask_path, argv[optind]));
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
        tell_ready(&client);
    client.load_start_us = wl_now_us();
    run_phase(&client, LOAD);
    client.load_end_us = wl_now_us();
    client.unanswered = outstanding(&client);
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
