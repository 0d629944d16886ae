/* How fast pages go from one process into a store, over TLS through loopback, and what that costs.
 *
 * Usage: page_stream_bench [--mib N] [--connections N] [--content random|half|text|zero]
 *        [--store DIR] [--compress auto|none|zstd] [--rate BYTES] [--cache MIB] [--rounds N]
 *        [--dirty PERCENT]
 * The source is a child process; the store is on tmpfs. Memory is touched and freed first, since
 * the first touch of a virtual machine's memory is slow. Round 1 sends everything, the others what
 * was written: one word in each of PERCENT of the pages. */
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../unit/wire_pair.h"
#include "base/clock.h"
#include "base/cleanup.h"
#include "state/page_stream.h"

#define LANES_MAX 16

struct settings {
    uint64_t bytes, rate, cache;
    int connections, rounds, dirty;
    const char *content, *store;
    enum fm_compression compression;
};

struct receiver {
    pthread_t thread;
    struct fm_connection *connection;
    struct fm_page_receiver *receiver;
    double cpu_s;
};

static double seconds(const struct timeval *t)
{
    return (double)t->tv_sec + (double)t->tv_usec / 1e6;
}

static double cpu_seconds(int who)
{
    struct rusage usage;

    getrusage(who, &usage);
    return seconds(&usage.ru_utime) + seconds(&usage.ru_stime);
}

static void *receive(void *arg)
{
    struct receiver *r = arg;
    struct fm_error err = {0};
    struct fm_frame frame;

    pthread_setname_np(pthread_self(), "receive");
    while (fm_connection_recv(r->connection, &frame, &err) == 0 &&
           fm_page_receive(r->receiver, r->connection, &frame, &err) == 0)
        continue;
    if (err.code != FM_E_CLOSED)
        fprintf(stderr, "receiver: %s\n", err.text);
    r->cpu_s = cpu_seconds(RUSAGE_THREAD);
    return NULL;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void fill(uint64_t *memory, uint64_t bytes, char kind)
{
    uint64_t state = 88172645463325252u;

    for (uint64_t i = 0; i < bytes / 8; i++) {
        if (kind == 'z')
            memory[i] = 0;
        else if (kind == 't')
            memory[i] = UINT64_C(0x2064726f77206120) + (next_random(&state) & 0x0303);
        else if (kind == 'h' && i % 128 >= 64) /* as redis: 1 KiB, half random */
            memory[i] = UINT64_C(0x7878787878787878);
        else
            memory[i] = next_random(&state);
    }
}

/* The guest's first touch of a page costs many times what a copy does. */
static void warm_up(uint64_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return;
    memset(memory, 1, bytes);
    munmap(memory, bytes);
}

/* A process with that memory; writes into it whenever it is told to. */
static pid_t start_source(const struct settings *s, uint64_t *memory, int tell[2], int told[2])
{
    pid_t pid = fork();
    char byte;

    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    fill(memory, s->bytes, s->content[0]);
    for (uint64_t round = 1; write(told[1], "x", 1) == 1 && read(tell[0], &byte, 1) == 1; round++)
        for (uint64_t page = 0; page < s->bytes / 4096; page++)
            if (page % 100 < (uint64_t)s->dirty)
                memory[page * 512 + page % 512] += round;
    _exit(0);
}

static int connect_all(struct wire_pair *pair, struct settings *s, struct fm_connection **senders,
                       struct receiver *receivers, struct fm_page_receiver *receiver)
{
    if (wire_pair_open(pair) < 0)
        return -1;
    for (int i = 0; i < s->connections; i++) {
        if (i > 0 && wire_pair_connect(pair) < 0)
            return -1;
        senders[i] = FM_MOVE(pair->a);
        receivers[i] = (struct receiver){.connection = FM_MOVE(pair->b), .receiver = receiver};
        if (pthread_create(&receivers[i].thread, NULL, receive, &receivers[i]) != 0)
            return -1;
    }
    return 0;
}

static int send_round(struct fm_page_sender *sender, const struct settings *s, pid_t pid,
                      const uint64_t *memory, int round, struct fm_error *err)
{
    struct fm_ranges ranges = {0};
    uint64_t start = (uint64_t)(uintptr_t)memory;
    int ret;

    if (round == 1)
        fm_ranges_append(&ranges, start, start + s->bytes);
    for (uint64_t page = 0; round > 1 && page < s->bytes / 4096; page++)
        if (page % 100 < (uint64_t)s->dirty)
            fm_ranges_append(&ranges, start + page * 4096, start + page * 4096 + 4096);
    ret = fm_page_sender_add(sender, pid, 1, &ranges, false, err);
    fm_ranges_clear(&ranges);
    return ret < 0 ? ret : fm_page_sender_sync(sender, 600000, err);
}

static void print_round(int round, double s, double cpu, const struct fm_page_stats *b,
                        const struct fm_page_stats *a)
{
    double content = (double)(a->pages - b->pages) * (double)fm_page_size() / (1 << 30);

    printf("round %d: %.3f GiB in %.3f s = %.2f GiB/s, %.2f GiB/s of CPU second pair (%.2f cpu s)\n"
           "  wire %.3f GiB; pages zero %" PRIu64 " delta %" PRIu64 " raw %" PRIu64
           " compressed %" PRIu64 "; ms read %.0f encode %.0f send %.0f; lately %.0f MiB/s\n",
           round, content, s, content / s, 2 * content / cpu, cpu,
           (double)(a->wire_bytes - b->wire_bytes) / (1 << 30), a->zero_pages - b->zero_pages,
           a->delta_pages - b->delta_pages, a->normal_pages - b->normal_pages,
           a->compressed_pages - b->compressed_pages, (double)(a->read_us - b->read_us) / 1000,
           (double)(a->encode_us - b->encode_us) / 1000, (double)(a->send_us - b->send_us) / 1000,
           a->bytes_per_second / (1 << 20));
    fflush(stdout);
}

static int run_rounds(struct fm_page_sender *sender, const struct settings *s, pid_t pid,
                      const uint64_t *memory, int tell, int told, struct fm_error *err)
{
    struct fm_page_stats before = {0}, after;
    char byte;

    for (int round = 1; round <= s->rounds; round++) {
        double cpu = cpu_seconds(RUSAGE_SELF);
        uint64_t begin = fm_now_us();

        if (send_round(sender, s, pid, memory, round, err) < 0)
            return -1;
        fm_page_sender_stats(sender, &after);
        print_round(round, (double)(fm_now_us() - begin) / 1e6, cpu_seconds(RUSAGE_SELF) - cpu,
                    &before, &after);
        before = after;
        if (write(tell, "x", 1) != 1 || read(told, &byte, 1) != 1)
            return -1;
    }
    return 0;
}

static int parse(int argc, char **argv, struct settings *s)
{
    static const struct option options[] = {
        {"mib", 1, NULL, 'm'},   {"connections", 1, NULL, 'c'}, {"content", 1, NULL, 'k'},
        {"store", 1, NULL, 's'}, {"compress", 1, NULL, 'z'},    {"rate", 1, NULL, 'r'},
        {"cache", 1, NULL, 'x'}, {"rounds", 1, NULL, 'n'},      {"dirty", 1, NULL, 'd'},
        {NULL, 0, NULL, 0},
    };

    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'm':
            s->bytes = strtoull(optarg, NULL, 10) << 20;
            break;
        case 'c':
            s->connections = atoi(optarg);
            break;
        case 'k':
            s->content = optarg;
            break;
        case 's':
            s->store = optarg;
            break;
        case 'z':
            s->compression = strcmp(optarg, "zstd") == 0   ? FM_COMPRESS_ZSTD
                             : strcmp(optarg, "auto") == 0 ? FM_COMPRESS_AUTO
                                                           : FM_COMPRESS_NONE;
            break;
        case 'r':
            s->rate = strtoull(optarg, NULL, 10);
            break;
        case 'x':
            s->cache = strtoull(optarg, NULL, 10) << 20;
            break;
        case 'n':
            s->rounds = atoi(optarg);
            break;
        case 'd':
            s->dirty = atoi(optarg);
            break;
        default:
            return -1;
        }
    }
    return s->connections > 0 && s->connections <= LANES_MAX ? 0 : -1;
}

int main(int argc, char **argv)
{
    struct settings s = {.bytes = UINT64_C(2) << 30,
                         .connections = 2,
                         .rounds = 3,
                         .dirty = 20,
                         .content = "random",
                         .store = "/dev/shm/fm-page-bench",
                         .compression = FM_COMPRESS_AUTO,
                         .cache = 32u << 20};
    struct fm_connection *connections[LANES_MAX];
    struct receiver receivers[LANES_MAX];
    struct wire_pair pair = {0};
    struct fm_error err = {0};
    int tell[2], told[2], ret = 1;
    uint64_t *memory;
    char byte;
    pid_t pid;

    if (parse(argc, argv, &s) < 0 || pipe(tell) < 0 || pipe(told) < 0)
        return 2;
    warm_up(2 * s.bytes + (256u << 20));
    memory = mmap(NULL, s.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || (pid = start_source(&s, memory, tell, told)) < 0 ||
        read(told[0], &byte, 1) != 1)
        return 1;
    const struct fm_page_sender_options options = {
        .compression = s.compression, .delta_cache_bytes = s.cache, .bytes_per_second = s.rate};
    const struct fm_page_room room = {.max_bytes = 2 * s.bytes};
    struct fm_page_store *store = fm_page_store_open(s.store, &room, &err);
    struct fm_page_receiver *receiver = fm_page_receiver_open(store, NULL, NULL);
    struct fm_page_sender *sender = NULL;
    if (store && connect_all(&pair, &s, connections, receivers, receiver) == 0)
        sender = fm_page_sender_open(connections, (size_t)s.connections, &options, &err);
    if (sender && run_rounds(sender, &s, pid, memory, tell[1], told[0], &err) == 0)
        ret = 0;
    if (err.code)
        fprintf(stderr, "%s\n", err.text);
    fm_page_sender_close(sender);
    for (int i = 0; sender && i < s.connections; i++) {
        pthread_join(receivers[i].thread, NULL);
        printf("receiver %d: %.2f cpu s\n", i, receivers[i].cpu_s);
        fm_connection_close(receivers[i].connection);
    }
    fm_page_receiver_close(receiver);
    fm_page_store_close(store);
    fm_page_store_remove(s.store, NULL);
    wire_pair_close(&pair);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return ret;
}
