/*
 * A memory load of known size and dirtying rate. Every page carries its number and a counter in
 * all of its words, so that a page that is lost, old or torn is found.
 */
#include "workload.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define WORDS (PAGE / sizeof(uint64_t))
#define MAX_CONTROLS 16
#define TICK_US 1000
#define VERIFY_PER_TICK 16

struct control {
    size_t length;
    char line[64];
};

struct hog {
    uint64_t pages;
    uint64_t hot; /* pages that are dirtied: the first ones */
    uint64_t rate;
    uint64_t touch; /* words of a page that change when it is dirtied */
    bool sequential;
    bool sparse;
    uint64_t *base;
    uint32_t *version;
    uint64_t dirtied, next, verify_next, start_us;
    bool failed;
    char failure[128];
};

static const char usage[] =
    "usage: memhog [options]\n"
    "  --mib N              (default 64)\n"
    "  --rate PAGES/S       dirtied (default 1000)\n"
    "  --hot PERCENT        of the pages are dirtied, the first ones (default 100)\n"
    "  --order random|seq   (default random)\n"
    "  --touch BYTES        that change in a dirtied page (default 4096)\n"
    "  --fill full|sparse   incompressible pages, or zeroes after the touched part\n"
    "  --address A --port P line protocol: check, status, rate N, corrupt, quit\n"
    "                       (default 0.0.0.0 7002)\n";

static uint64_t word(const struct hog *hog, uint64_t page, uint64_t version, uint64_t i)
{
    if (i == 0)
        return page << 32 | version;
    if (i < hog->touch)
        return wl_mix(page << 32 ^ version) * (2 * i + 1);
    return hog->sparse ? 0 : wl_mix(page) * (2 * i + 1);
}

static void page_fill(struct hog *hog, uint64_t page, uint64_t words)
{
    uint64_t *at = hog->base + page * WORDS;

    for (uint64_t i = 0; i < words; i++) {
        uint64_t value = word(hog, page, hog->version[page], i);

        /* A zero is not written to a fresh page: it stays unmapped or shared. */
        if (value || i < hog->touch)
            at[i] = value;
    }
}

static void fail(struct hog *hog, uint64_t page, uint64_t i, uint64_t found)
{
    if (hog->failed)
        return;
    hog->failed = true;
    snprintf(hog->failure, sizeof(hog->failure),
             "page %" PRIu64 " word %" PRIu64 " is %016" PRIx64 ", not %016" PRIx64, page, i, found,
             word(hog, page, hog->version[page], i));
    fprintf(stderr, "FAIL %s\n", hog->failure);
}

static void page_verify(struct hog *hog, uint64_t page)
{
    const uint64_t *at = hog->base + page * WORDS;

    for (uint64_t i = 0; i < WORDS; i++) {
        if (at[i] != word(hog, page, hog->version[page], i)) {
            fail(hog, page, i, at[i]);
            return;
        }
    }
}

static void dirty_one(struct hog *hog)
{
    uint64_t page = hog->sequential ? hog->next % hog->hot : wl_mix(hog->next) % hog->hot;

    hog->next++;
    page_verify(hog, page);
    hog->version[page]++;
    page_fill(hog, page, hog->touch);
    hog->dirtied++;
}

static void verify_all(struct hog *hog)
{
    uint64_t sum = 0;

    for (uint64_t page = 0; page < hog->pages; page++) {
        page_verify(hog, page);
        sum += hog->base[page * WORDS] & UINT32_MAX;
    }
    if (sum != hog->dirtied && !hog->failed) {
        hog->failed = true;
        snprintf(hog->failure, sizeof(hog->failure),
                 "the counters' sum is %" PRIu64 ", not %" PRIu64, sum, hog->dirtied);
    }
}

static void hog_prepare(struct hog *hog)
{
    hog->base =
        mmap(NULL, hog->pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (hog->base == MAP_FAILED)
        wl_die("cannot map %" PRIu64 " pages: %s", hog->pages, strerror(errno));
    hog->version = wl_alloc(hog->pages, sizeof(*hog->version));
    for (uint64_t page = 0; page < hog->pages; page++)
        page_fill(hog, page, WORDS);
}

/* ---- the control port ----------------------------------------------------------------------- */

static void reply_state(const struct hog *hog, int fd)
{
    if (hog->failed)
        dprintf(fd, "FAIL %s\n", hog->failure);
    else
        dprintf(fd, "ok pages=%" PRIu64 " dirtied=%" PRIu64 " seconds=%.1f\n", hog->pages,
                hog->dirtied, (double)(wl_now_us() - hog->start_us) / 1e6);
}

/* False when the program shall end. */
static bool command(struct hog *hog, int fd, const char *line)
{
    if (strcmp(line, "check") == 0) {
        verify_all(hog);
        reply_state(hog, fd);
    } else if (strcmp(line, "status") == 0) {
        reply_state(hog, fd);
    } else if (strncmp(line, "rate ", 5) == 0) {
        hog->rate = strtoull(line + 5, NULL, 10);
        dprintf(fd, "ok\n");
    } else if (strcmp(line, "corrupt") == 0) {
        hog->base[hog->pages / 2 * WORDS + 99] ^= 1;
        dprintf(fd, "ok\n");
    } else if (strcmp(line, "quit") == 0) {
        dprintf(fd, "ok\n");
        return false;
    } else {
        dprintf(fd, "error commands: check status rate corrupt quit\n");
    }
    return true;
}

/* -1: the connection has ended; 0: the program shall end; 1: go on. */
static int control_read(struct hog *hog, int fd, struct control *control)
{
    ssize_t got =
        read(fd, control->line + control->length, sizeof(control->line) - 1 - control->length);
    char *end;

    if (got < 0 && errno == EAGAIN)
        return 1;
    if (got <= 0)
        return -1;
    control->length += (size_t)got;
    control->line[control->length] = '\0';
    while ((end = strchr(control->line, '\n'))) {
        *end = '\0';
        if (!command(hog, fd, control->line))
            return 0;
        control->length -= (size_t)(end + 1 - control->line);
        memmove(control->line, end + 1, control->length + 1);
    }
    return 1;
}

/* ---- the loop ------------------------------------------------------------------------------- */

/* Dirties what is due; a silence such as a freeze is not made up for. */
static void dirty_due(struct hog *hog)
{
    static uint64_t credit_us; /* microseconds times pages per second */
    static uint64_t last_us;
    uint64_t now = wl_now_us();
    uint64_t elapsed = last_us ? now - last_us : 0;

    last_us = now;
    if (elapsed > 20 * TICK_US)
        elapsed = 20 * TICK_US;
    credit_us += elapsed * hog->rate;
    for (uint64_t due = credit_us / 1000000; due > 0; due--)
        dirty_one(hog);
    credit_us %= 1000000;
    for (int i = 0; i < VERIFY_PER_TICK; i++)
        page_verify(hog, hog->verify_next++ % hog->pages);
}

static int run(struct hog *hog, int stop_fd, int listener)
{
    const struct timespec tick = {.tv_nsec = TICK_US * 1000};
    static struct control controls[MAX_CONTROLS];
    struct pollfd fds[MAX_CONTROLS + 2] = {{.fd = stop_fd, .events = POLLIN},
                                           {.fd = listener, .events = POLLIN}};

    for (int i = 0; i < MAX_CONTROLS; i++)
        fds[i + 2] = (struct pollfd){.fd = -1, .events = POLLIN};
    while (!fds[0].revents) {
        dirty_due(hog);
        if (ppoll(fds, MAX_CONTROLS + 2, &tick, NULL) <= 0)
            continue;
        for (int i = 0; i < MAX_CONTROLS; i++) {
            int result = fds[i + 2].revents ? control_read(hog, fds[i + 2].fd, &controls[i]) : 1;

            if (result == 0)
                return hog->failed ? WL_EXIT_BAD : WL_EXIT_OK;
            if (result < 0) {
                close(fds[i + 2].fd);
                fds[i + 2].fd = -1;
                controls[i].length = 0;
            } else if (fds[i + 2].fd < 0 && fds[1].revents) {
                fds[i + 2].fd = wl_tcp_accept(listener);
                fds[1].revents = 0;
            }
        }
    }
    return hog->failed ? WL_EXIT_BAD : WL_EXIT_OK;
}

int main(int argc, char **argv)
{
    static const struct option known[] = {
        {"mib", required_argument, NULL, 'm'},
        {"rate", required_argument, NULL, 'r'},
        {"hot", required_argument, NULL, 'h'},
        {"order", required_argument, NULL, 'o'},
        {"touch", required_argument, NULL, 't'},
        {"fill", required_argument, NULL, 'f'},
        {"address", required_argument, NULL, 'a'},
        {"port", required_argument, NULL, 'p'},
        {NULL, 0, NULL, 0},
    };
    static struct hog hog = {.rate = 1000, .touch = WORDS};
    const char *address = "0.0.0.0", *port = "7002";
    uint64_t mib = 64, percent = 100;
    struct sockaddr_storage at;
    int c, listener, stop_fd;

    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        if (c == 'm')
            mib = wl_number("--mib", optarg);
        else if (c == 'r')
            hog.rate = wl_number("--rate", optarg);
        else if (c == 'h')
            percent = wl_number("--hot", optarg);
        else if (c == 'o')
            hog.sequential = strcmp(optarg, "seq") == 0;
        else if (c == 't')
            hog.touch = (wl_number("--touch", optarg) + 7) / 8;
        else if (c == 'f')
            hog.sparse = strcmp(optarg, "sparse") == 0;
        else if (c == 'a')
            address = optarg;
        else if (c == 'p')
            port = optarg;
        else
            wl_die("%s", usage);
    }
    hog.pages = (mib << 20) / PAGE;
    hog.hot = hog.pages * percent / 100;
    if (optind != argc || !hog.hot || percent > 100 || !hog.touch || hog.touch > WORDS)
        wl_die("%s", usage);
    at = wl_address(address, port);
    stop_fd = wl_stop_signals();
    listener = wl_tcp_listen(&at);
    hog_prepare(&hog);
    hog.start_us = wl_now_us();
    fprintf(stderr, "ready\n");
    return run(&hog, stop_fd, listener);
}
