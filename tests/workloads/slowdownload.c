/*
 * Fetches a large file over HTTP at a limited rate, so that a migration happens in the midst of
 * it, and verifies every byte against a generator.
 */
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RECEIVE_BUFFER (64 * 1024)
#define MAX_HEAD 8192
#define GAP_THRESHOLD_US 10000

struct download {
    struct sockaddr_storage server;
    const char *path;
    const char *ready_file;
    uint64_t rate;
    uint64_t timeout_ms;
    uint64_t expected; /* bytes; 0: as the server says */

    int fd, stop_fd;
    int status;
    uint64_t received;
    uint64_t wrong_at; /* UINT64_MAX: nothing is wrong */
    uint64_t resets;
    bool stopped, timed_out;
    uint64_t start_us, end_us;
    struct wl_gaps gaps;
};

static const char usage[] =
    "usage: slowdownload ADDR PORT PATH [options]\n"
    "       slowdownload --gen FILE SIZE    write the file to serve (suffixes k, m, g)\n"
    "  --rate BYTES/S     (default 1m; until SIGUSR1, then as fast as it can)\n"
    "  --size BYTES       what must arrive (default: the Content-Length)\n"
    "  --timeout-ms N     of silence (default 30000)\n"
    "  --ready-file F     made when the body begins\n";

static volatile sig_atomic_t hurry;

static void on_hurry(int number)
{
    hurry = number;
}

static int generate(const char *path, uint64_t size)
{
    FILE *out = fopen(path, "we");
    uint64_t words[4096];

    if (!out)
        wl_die("%s: %s", path, strerror(errno));
    for (uint64_t at = 0; at < size; at += sizeof(words)) {
        size_t part = size - at < sizeof(words) ? (size_t)(size - at) : sizeof(words);

        for (uint64_t i = 0; i < sizeof(words) / 8; i++)
            words[i] = wl_body_word(at / 8 + i);
        if (fwrite(words, 1, part, out) != part)
            wl_die("%s: %s", path, strerror(errno));
    }
    if (fclose(out))
        wl_die("%s: %s", path, strerror(errno));
    return WL_EXIT_OK;
}

/* Waits for data or the stop signal; false when there will be none. */
static bool wait_for_data(struct download *download)
{
    struct pollfd fds[2] = {{.fd = download->fd, .events = POLLIN},
                            {.fd = download->stop_fd, .events = POLLIN}};
    uint64_t from = wl_now_us();
    int count;

    do
        count = poll(fds, 2, (int)download->timeout_ms);
    while (count < 0 && errno == EINTR);
    wl_gaps_note(&download->gaps, from, wl_now_us());
    download->timed_out = count == 0;
    download->stopped = fds[1].revents != 0;
    return count > 0 && !download->stopped;
}

/* The head, byte by byte: it is short, and the body stays in the socket. */
static uint64_t read_head(struct download *download)
{
    char head[MAX_HEAD];
    size_t length = 0;
    const char *field;

    while (length < sizeof(head) - 1) {
        ssize_t got;

        if (!wait_for_data(download))
            wl_die("no answer from the server");
        got = recv(download->fd, head + length, 1, 0);
        if (got == 0 || (got < 0 && errno != EAGAIN))
            wl_die("the connection ended before the body");
        length += got > 0 ? 1 : 0;
        head[length] = '\0';
        if (length >= 4 && strcmp(head + length - 4, "\r\n\r\n") == 0)
            break;
    }
    if (sscanf(head, "HTTP/1.%*d %d", &download->status) != 1)
        wl_die("this is not HTTP: %.40s", head);
    field = strcasestr(head, "\r\nContent-Length:");
    return field ? strtoull(field + strlen("\r\nContent-Length:"), NULL, 10) : 0;
}

static void verify(struct download *download, const unsigned char *data, size_t size)
{
    uint64_t word = wl_body_word(download->received / 8);

    for (size_t i = 0; i < size && download->wrong_at == UINT64_MAX; i++) {
        uint64_t at = download->received + i;

        if (at % 8 == 0)
            word = wl_body_word(at / 8);
        if (data[i] != (unsigned char)(word >> (at % 8 * 8)))
            download->wrong_at = at;
    }
    download->received += size;
}

/* How much may be read now; waits, within what a stop signal allows, until it is something. */
static size_t allowance(struct download *download, size_t most)
{
    struct pollfd stop = {.fd = download->stop_fd, .events = POLLIN};

    for (;;) {
        uint64_t elapsed = wl_now_us() - download->start_us;
        uint64_t due = (uint64_t)((double)elapsed * (double)download->rate / 1e6);
        uint64_t step = download->rate / 200 + 1;

        if (hurry)
            return most;
        if (due >= download->received + step)
            return due - download->received < most ? (size_t)(due - download->received) : most;
        if (poll(&stop, 1, 5) > 0) {
            download->stopped = true;
            return 0;
        }
    }
}

static void read_body(struct download *download)
{
    static unsigned char buffer[RECEIVE_BUFFER];

    download->start_us = wl_now_us();
    while (download->received < download->expected && !download->stopped) {
        size_t most = allowance(download, sizeof(buffer));
        uint64_t left = download->expected - download->received;
        ssize_t got;

        if (!most || !wait_for_data(download))
            break;
        got = recv(download->fd, buffer, most < left ? most : (size_t)left, 0);
        if (got > 0) {
            if (download->received == 0)
                wl_ready(download->ready_file);
            verify(download, buffer, (size_t)got);
        } else if (got == 0 || errno != EAGAIN) {
            download->resets++;
            break;
        }
    }
    download->end_us = wl_now_us();
}

static void fetch(struct download *download)
{
    int size = RECEIVE_BUFFER;
    uint64_t length;

    download->fd = wl_tcp_connect(&download->server, 5000);
    if (download->fd < 0)
        wl_die("cannot connect: %s", strerror(errno));
    /* Small, so that the server is held back and has to send during the migration. */
    setsockopt(download->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    dprintf(download->fd, "GET %s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
            download->path);
    length = read_head(download);
    if (!download->expected)
        download->expected = length;
    if (!download->expected || download->status != 200)
        wl_die("status %d, %" PRIu64 " bytes: nothing to verify", download->status, length);
    read_body(download);
}

static bool report(const struct download *download)
{
    bool whole = download->received == download->expected;
    bool intact = download->wrong_at == UINT64_MAX;

    printf("{\"ok\":%s,\"status\":%d,\"bytes\":%" PRIu64 ",\"expected_bytes\":%" PRIu64
           ",\"intact\":%s,\"connection_resets\":%" PRIu64
           ",\"timed_out\":%s,\"stopped\":%s,\"elapsed_s\":%.3f,",
           whole && intact ? "true" : "false", download->status, download->received,
           download->expected, intact ? "true" : "false", download->resets,
           download->timed_out ? "true" : "false", download->stopped ? "true" : "false",
           (double)(download->end_us - download->start_us) / 1e6);
    if (!intact)
        printf("\"wrong_at\":%" PRIu64 ",", download->wrong_at);
    wl_gaps_print(stdout, &download->gaps);
    printf("}\n");
    return whole && intact;
}

int main(int argc, char **argv)
{
    static const struct option known[] = {
        {"gen", no_argument, NULL, 'g'},
        {"rate", required_argument, NULL, 'r'},
        {"size", required_argument, NULL, 's'},
        {"timeout-ms", required_argument, NULL, 't'},
        {"ready-file", required_argument, NULL, 'f'},
        {NULL, 0, NULL, 0},
    };
    static struct download download = {.rate = 1 << 20,
                                       .timeout_ms = 30000,
                                       .wrong_at = UINT64_MAX,
                                       .gaps.threshold_us = GAP_THRESHOLD_US};
    bool gen = false;
    int c;

    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        if (c == 'g')
            gen = true;
        else if (c == 'r')
            download.rate = wl_number("--rate", optarg);
        else if (c == 's')
            download.expected = wl_number("--size", optarg);
        else if (c == 't')
            download.timeout_ms = wl_number("--timeout-ms", optarg);
        else if (c == 'f')
            download.ready_file = optarg;
        else
            wl_die("%s", usage);
    }
    if (gen && argc - optind == 2)
        return generate(argv[optind], wl_number("SIZE", argv[optind + 1]));
    if (argc - optind != 3 || gen || !download.rate)
        wl_die("%s", usage);
    download.server = wl_address(argv[optind], argv[optind + 1]);
    download.path = argv[optind + 2];
    download.stop_fd = wl_stop_signals();
    signal(SIGUSR1, on_hurry);
    fetch(&download);
    return report(&download) ? WL_EXIT_OK : WL_EXIT_BAD;
}
