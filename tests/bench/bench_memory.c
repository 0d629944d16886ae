/*
 * A memory load of known size and dirtying behaviour, which answers frames meanwhile. Half of each
 * page is random and half text, as in the values that the benchmark's client gives to redis.
 */
#include "bench_memory.h"

#include "../workloads/workload.h"

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
#define HEAD 2 /* words: the counter, and what follows from it */
#define TICK_US 1000
#define SLICE 1024 /* pages at most between two looks at the sockets */
#define MAX_PEERS 8

static const char usage[] =
    "usage: bench_memory [options]\n"
    "  --mib N             (default 64)\n"
    "  --rate PAGES/S      pages of 4 KiB dirtied, anywhere (default 0)\n"
    "  --hot PERCENT       of the memory is dirtied (default 100)\n"
    "  --replay FILE       CSV with a head: milliseconds since the start, pages dirtied by then "
    "since\n"
    "                      the line before; over and over. Instead of --rate\n"
    "  --ready-file PATH   made when the memory is filled\n";

struct step {
    uint64_t at_us;
    uint64_t pages;
};

struct load {
    uint64_t pages, hot;
    uint64_t rate;
    struct step *steps;
    size_t step_count;
    uint64_t *base;
    uint64_t start_us, dirtied;
    uint64_t random;
    int listener;
    struct wl_stream peers[MAX_PEERS];
};

/* ---- the memory ----------------------------------------------------------------------------- */

static uint64_t body_word(uint64_t page, size_t i)
{
    if (i < WORDS / 2)
        return wl_mix(page) * (2 * i + 1);
    return UINT64_C(0x2068736572662061); /* the same text everywhere */
}

static void write_head(uint64_t *page, uint64_t number, uint64_t count)
{
    page[0] = count;
    page[1] = wl_mix(number ^ count << 32);
}

static void fill(struct load *load)
{
    size_t size = load->pages * PAGE;

    load->base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (load->base == MAP_FAILED)
        wl_die("cannot map %zu bytes: %s", size, strerror(errno));
    for (uint64_t number = 0; number < load->pages; number++) {
        uint64_t *page = load->base + number * WORDS;
        uint64_t seed = wl_mix(number);

        write_head(page, number, 0);
        for (size_t i = HEAD; i < WORDS / 2; i++)
            page[i] = seed * (2 * i + 1);
        for (size_t i = WORDS / 2; i < WORDS; i++)
            page[i] = body_word(number, i);
    }
}

static void dirty(struct load *load, uint64_t count)
{
    for (; count > 0; count--) {
        uint64_t number;
        uint64_t *page;

        load->random = load->random * 6364136223846793005u + 1442695040888963407u;
        number = (uint64_t)((unsigned __int128)load->random * load->hot >> 64);
        page = load->base + number * WORDS;
        write_head(page, number, page[0] + 1);
        load->dirtied++;
    }
}

/* Pages that are wrong; also one when a write is missing or there twice. */
static uint64_t count_wrong(const struct load *load)
{
    uint64_t wrong = 0;
    uint64_t writes = 0;

    for (uint64_t number = 0; number < load->pages; number++) {
        const uint64_t *page = load->base + number * WORDS;
        bool right = page[1] == wl_mix(number ^ page[0] << 32);

        for (size_t i = HEAD; right && i < WORDS; i++)
            right = page[i] == body_word(number, i);
        wrong += right ? 0 : 1;
        writes += page[0];
    }
    return wrong + (writes == load->dirtied ? 0 : 1);
}

/* ---- the pace ------------------------------------------------------------------------------- */

static void read_replay(struct load *load, const char *path)
{
    FILE *file = fopen(path, "re");
    char line[128];
    uint64_t sum = 0;
    double at_ms;
    uint64_t pages;

    if (!file)
        wl_die("%s: %s", path, strerror(errno));
    load->steps = wl_alloc(1, sizeof(*load->steps));
    while (fgets(line, sizeof(line), file)) {
        if (sscanf(line, "%lf,%" SCNu64, &at_ms, &pages) != 2)
            continue;
        load->steps = realloc(load->steps, (load->step_count + 1) * sizeof(*load->steps));
        if (!load->steps)
            wl_die("out of memory");
        sum += pages;
        load->steps[load->step_count++] =
            (struct step){.at_us = (uint64_t)(at_ms * 1000), .pages = sum};
    }
    fclose(file);
    if (load->step_count < 2)
        wl_die("%s: no lines of the form milliseconds,pages", path);
}

/* Pages that the trace has written so long after the start. */
static uint64_t replayed(const struct load *load, uint64_t elapsed_us)
{
    const struct step *last = &load->steps[load->step_count - 1];
    uint64_t laps = elapsed_us / (last->at_us + 1);
    uint64_t within = elapsed_us % (last->at_us + 1);
    size_t low = 0;
    size_t high = load->step_count;

    while (low < high) {
        size_t middle = (low + high) / 2;

        if (load->steps[middle].at_us <= within)
            low = middle + 1;
        else
            high = middle;
    }
    return laps * last->pages + (low > 0 ? load->steps[low - 1].pages : 0);
}

/* Pages that should have been dirtied by now. Who cannot keep up is late, and does not hurry
 * afterwards. */
static void keep_pace(struct load *load)
{
    uint64_t elapsed = wl_now_us() - load->start_us;
    uint64_t due = load->steps ? replayed(load, elapsed)
                               : (uint64_t)((double)load->rate * (double)elapsed / 1e6);
    uint64_t count = due > load->dirtied ? due - load->dirtied : 0;

    if (count > SLICE && !load->steps) {
        load->start_us += (uint64_t)((double)(count - SLICE) * 1e6 / (double)load->rate);
        count = SLICE;
    }
    dirty(load, count > SLICE ? SLICE : count);
}

/* ---- answers -------------------------------------------------------------------------------- */

static void hang_up(struct wl_stream *peer)
{
    close(peer->fd);
    peer->fd = -1;
}

static void answer(const struct load *load, struct wl_stream *peer)
{
    struct wl_frame frame;
    int rc;

    while ((rc = wl_stream_next(peer, &frame)) == WL_STREAM_FRAME) {
        if (frame.id == BENCH_MEMORY_CHECK)
            frame = wl_frame_make(WL_ECHO, frame.id, count_wrong(load));
        if (!wl_frame_intact(&frame) || wl_stream_send(peer, &frame) < 0) {
            hang_up(peer);
            return;
        }
    }
    if (rc != WL_STREAM_EMPTY || wl_stream_flush(peer) < 0)
        hang_up(peer);
}

static void accept_peer(struct load *load)
{
    int fd = wl_tcp_accept(load->listener);

    for (int i = 0; fd >= 0 && i < MAX_PEERS; i++) {
        if (load->peers[i].fd < 0) {
            memset(&load->peers[i], 0, sizeof(load->peers[i]));
            load->peers[i].fd = fd;
            return;
        }
    }
    if (fd >= 0)
        close(fd);
}

static void serve(struct load *load, int stop)
{
    enum { STOP, LISTENER, PEERS };
    struct pollfd fds[PEERS + MAX_PEERS];
    struct timespec tick = {.tv_nsec = TICK_US * 1000};
    bool active = load->rate || load->steps;

    for (;;) {
        fds[STOP] = (struct pollfd){.fd = stop, .events = POLLIN};
        fds[LISTENER] = (struct pollfd){.fd = load->listener, .events = POLLIN};
        for (int i = 0; i < MAX_PEERS; i++)
            fds[PEERS + i] = (struct pollfd){.fd = load->peers[i].fd, .events = POLLIN};
        if (ppoll(fds, PEERS + MAX_PEERS, active ? &tick : NULL, NULL) < 0 && errno != EINTR)
            wl_die("poll: %s", strerror(errno));
        if (fds[STOP].revents)
            return;
        for (int i = 0; i < MAX_PEERS; i++) {
            if (fds[PEERS + i].revents)
                answer(load, &load->peers[i]);
        }
        if (fds[LISTENER].revents)
            accept_peer(load);
        if (active)
            keep_pace(load);
    }
}

int main(int argc, char **argv)
{
    static const struct option known[] = {
        {"mib", required_argument, NULL, 'm'},        {"rate", required_argument, NULL, 'r'},
        {"hot", required_argument, NULL, 'h'},        {"replay", required_argument, NULL, 'f'},
        {"ready-file", required_argument, NULL, 'y'}, {NULL, 0, NULL, 0},
    };
    static struct load load = {.random = 88172645463325252u};
    const struct sockaddr_storage any = wl_address("0.0.0.0", BENCH_MEMORY_PORT);
    const char *ready_file = NULL;
    uint64_t mib = 64;
    uint64_t hot = 100;
    int stop, c;

    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        if (c == 'm')
            mib = wl_number("--mib", optarg);
        else if (c == 'r')
            load.rate = wl_number("--rate", optarg);
        else if (c == 'h')
            hot = wl_number("--hot", optarg);
        else if (c == 'f')
            read_replay(&load, optarg);
        else if (c == 'y')
            ready_file = optarg;
        else
            break;
    }
    if (c != -1 || optind != argc || mib == 0 || hot == 0 || hot > 100) {
        fputs(usage, stderr);
        return WL_EXIT_USAGE;
    }
    stop = wl_stop_signals();
    load.pages = (mib << 20) / PAGE;
    load.hot = (load.pages * hot + 99) / 100;
    for (int i = 0; i < MAX_PEERS; i++)
        load.peers[i].fd = -1;
    fill(&load);
    load.listener = wl_tcp_listen(&any);
    wl_ready(ready_file);
    load.start_us = wl_now_us();
    serve(&load, stop);
    return WL_EXIT_OK;
}
