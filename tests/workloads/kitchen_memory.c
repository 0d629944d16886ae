/* Memory of every kind, changed by a thread and verified page by page; threads and their locks. */
#include "kitchen_sink.h"
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define WORDS (PAGE / sizeof(uint64_t))

enum { PRIVATE, SHARED, MEMFD, FILE_SHARED, FILE_COW, REGIONS };

struct region {
    const char *name;
    uint64_t *base;
    int fd;            /* -1: anonymous */
    uint64_t stride;   /* only pages whose number is stride-1 modulo stride change */
    uint64_t *version; /* per page */
    uint64_t sum;      /* of the versions */
};

static struct region regions[REGIONS] = {
    [PRIVATE] = {.name = "private", .fd = -1, .stride = 1},
    [SHARED] = {.name = "shared", .fd = -1, .stride = 1},
    [MEMFD] = {.name = "memfd", .fd = -1, .stride = 1},
    [FILE_SHARED] = {.name = "shared file", .fd = -1, .stride = 1},
    [FILE_COW] = {.name = "private file", .fd = -1, .stride = 2},
};

static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t rounds;

/* ---- pages ---------------------------------------------------------------------------------- */

static uint64_t word(size_t region, uint64_t page, uint64_t version, uint64_t i)
{
    return i == 0 ? version : wl_mix(page << 20 ^ version) + i + region;
}

static void page_fill(size_t region, uint64_t page, uint64_t version)
{
    uint64_t *words = regions[region].base + page * WORDS;

    for (uint64_t i = 0; i < WORDS; i++)
        words[i] = word(region, page, version, i);
}

static bool words_match(size_t region, uint64_t page, const uint64_t *words, uint64_t version)
{
    for (uint64_t i = 0; i < WORDS; i++) {
        if (words[i] != word(region, page, version, i))
            return false;
    }
    return true;
}

static void page_verify(size_t region, uint64_t page)
{
    const struct region *r = &regions[region];

    if (!words_match(region, page, r->base + page * WORDS, r->version[page]))
        sink_fail("memory: %s page %" PRIu64 " differs", r->name, page);
}

/* The file behind a shared mapping shows what the mapping holds; behind a private one it stays. */
static void page_verify_file(size_t region, uint64_t page)
{
    const struct region *r = &regions[region];
    uint64_t version = region == FILE_COW ? 0 : r->version[page];
    uint64_t words[WORDS];

    if (pread(r->fd, words, PAGE, (off_t)(page * PAGE)) != PAGE ||
        !words_match(region, page, words, version))
        sink_fail("memory: %s page %" PRIu64 " differs when read", r->name, page);
}

void memory_round(uint64_t round)
{
    pthread_mutex_lock(&memory_lock);
    for (size_t region = 0; region < REGIONS; region++) {
        struct region *r = &regions[region];
        uint64_t page = wl_mix(round * REGIONS + region) % sink_options.pages;

        if (!r->base)
            continue;
        page_verify(region, page);
        if (page % r->stride == r->stride - 1) {
            r->version[page]++;
            r->sum++;
            page_fill(region, page, r->version[page]);
        }
        if (r->fd >= 0)
            page_verify_file(region, page);
    }
    pthread_mutex_unlock(&memory_lock);
}

/* ---- the regions ---------------------------------------------------------------------------- */

static int memory_file(const char *name)
{
    char *path = sink_path(name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0)
        wl_die("%s: %s", path, strerror(errno));
    free(path);
    return fd;
}

static void region_map(size_t region, int fd, int flags)
{
    struct region *r = &regions[region];
    size_t size = sink_options.pages * PAGE;

    if (fd >= 0 && ftruncate(fd, (off_t)size))
        wl_die("ftruncate: %s", strerror(errno));
    r->fd = fd;
    r->version = wl_alloc(sink_options.pages, sizeof(*r->version));
    if (region == FILE_COW) {
        /* The file gets its content through another mapping, the private one changes its copy. */
        r->base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        for (uint64_t page = 0; r->base != MAP_FAILED && page < sink_options.pages; page++)
            page_fill(region, page, 0);
        munmap(r->base, size);
    }
    r->base = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (r->base == MAP_FAILED)
        wl_die("mmap %s: %s", r->name, strerror(errno));
    for (uint64_t page = 0; region != FILE_COW && page < sink_options.pages; page++)
        page_fill(region, page, 0);
}

static void *read_only, *guard;

static void memory_start(void)
{
    region_map(PRIVATE, -1, MAP_PRIVATE | MAP_ANONYMOUS);
    region_map(SHARED, -1, MAP_SHARED | MAP_ANONYMOUS);
    region_map(MEMFD, memfd_create("kitchen", MFD_CLOEXEC), MAP_SHARED);
    region_map(FILE_SHARED, memory_file("mapped"), MAP_SHARED);
    region_map(FILE_COW, memory_file("cow"), MAP_PRIVATE);
    guard = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    read_only = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (guard == MAP_FAILED || read_only == MAP_FAILED)
        wl_die("mmap: %s", strerror(errno));
    memset(read_only, 0x5a, PAGE);
    mprotect(read_only, PAGE, PROT_READ);
}

static bool can_write_to(void *page)
{
    int ends[2];
    bool result;

    if (pipe2(ends, O_CLOEXEC) || write(ends[1], "x", 1) != 1)
        wl_die("pipe: %s", strerror(errno));
    result = read(ends[0], page, 1) == 1; /* EFAULT instead of a signal */
    close(ends[0]);
    close(ends[1]);
    return result;
}

static void memory_verify(void)
{
    pthread_mutex_lock(&memory_lock);
    for (size_t region = 0; region < REGIONS; region++) {
        const struct region *r = &regions[region];
        uint64_t sum = 0;

        for (uint64_t page = 0; r->base && page < sink_options.pages; page++) {
            page_verify(region, page);
            if (r->fd >= 0)
                page_verify_file(region, page);
            sum += r->base[page * WORDS];
        }
        if (sum != r->sum)
            sink_fail("memory: the sum of %s differs", r->name);
    }
    pthread_mutex_unlock(&memory_lock);
    if (can_write_to(guard) || can_write_to(read_only) || *(unsigned char *)read_only != 0x5a)
        sink_fail("memory: protections or the read-only page changed");
}

static void memory_corrupt(void)
{
    pthread_mutex_lock(&memory_lock);
    regions[PRIVATE].base[WORDS + 17] ^= 1;
    pthread_mutex_unlock(&memory_lock);
}

static uint64_t memory_progress(void)
{
    uint64_t sum = 0;

    pthread_mutex_lock(&memory_lock);
    for (size_t region = 0; region < REGIONS; region++)
        sum += regions[region].sum;
    pthread_mutex_unlock(&memory_lock);
    return rounds ? sum : SINK_IDLE;
}

const struct subject subject_memory = {.name = "memory",
                                       .start = memory_start,
                                       .verify = memory_verify,
                                       .progress = memory_progress,
                                       .corrupt = memory_corrupt};

/* ---- memory shared with another process, under a process-shared mutex ----------------------- */

struct memory_shared {
    pthread_mutex_t lock;
    uint64_t steps;
    uint64_t proof;
};

struct memory_shared *memory_shared(void)
{
    static struct memory_shared *shared;
    pthread_mutexattr_t attributes;

    if (shared)
        return shared;
    shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        wl_die("mmap: %s", strerror(errno));
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&shared->lock, &attributes);
    shared->proof = wl_mix(0);
    return shared;
}

bool memory_shared_step(struct memory_shared *shared)
{
    bool good;

    pthread_mutex_lock(&shared->lock);
    good = shared->proof == wl_mix(shared->steps);
    shared->proof = wl_mix(++shared->steps);
    pthread_mutex_unlock(&shared->lock);
    return good;
}

/* ---- threads: two that hand a baton to each other by a condition variable ------------------- */

static pthread_mutex_t baton_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t baton_moved = PTHREAD_COND_INITIALIZER;
static uint64_t baton;
static _Atomic bool halted;
static __thread uint64_t own_number;
static int event_fd = -1;
static _Atomic uint64_t events_sent, events_seen;

static void pass_baton(uint64_t number)
{
    pthread_mutex_lock(&baton_lock);
    while (baton % 2 != number)
        pthread_cond_wait(&baton_moved, &baton_lock);
    baton++;
    pthread_cond_broadcast(&baton_moved);
    pthread_mutex_unlock(&baton_lock);
}

static void *thread_main(void *argument)
{
    const uint64_t number = (uint64_t)(uintptr_t)argument;
    const struct timespec interval = {.tv_nsec = 5000000};
    const uint64_t one = 1;

    own_number = wl_mix(number);
    for (;;) {
        while (halted)
            pause();
        pass_baton(number);
        if (own_number != wl_mix(number))
            sink_fail("threads: thread-local data of thread %" PRIu64 " changed", number);
        if (number == 0) {
            memory_round(++rounds);
            if (event_fd >= 0 && write(event_fd, &one, sizeof(one)) == (ssize_t)sizeof(one))
                events_sent++;
            nanosleep(&interval, NULL);
        }
    }
    return NULL;
}

static void threads_start(void)
{
    pthread_t thread;
    sigset_t all, before;

    /* The signals are the main thread's. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (uintptr_t i = 0; i < 2; i++) {
        if (pthread_create(&thread, NULL, thread_main, (void *)i))
            wl_die("pthread_create failed");
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static uint64_t threads_progress(void)
{
    uint64_t value;

    pthread_mutex_lock(&baton_lock);
    value = baton;
    pthread_mutex_unlock(&baton_lock);
    return value;
}

static void threads_corrupt(void)
{
    halted = true;
}

const struct subject subject_threads = {.name = "threads",
                                        .start = threads_start,
                                        .progress = threads_progress,
                                        .corrupt = threads_corrupt};

/* ---- eventfd: the thread counts up, the loop counts what arrives ---------------------------- */

static void events_arrived(struct watch *watch, uint32_t events)
{
    uint64_t value;

    (void)events;
    if (read(watch->fd, &value, sizeof(value)) == (ssize_t)sizeof(value))
        events_seen += value;
}

static void eventfd_start(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0)
        wl_die("eventfd: %s", strerror(errno));
    sink_watch(fd, EPOLLIN, events_arrived, NULL);
    event_fd = fd;
}

static void eventfd_verify(void)
{
    uint64_t seen = events_seen;
    uint64_t sent = events_sent;

    /* One may be written and not yet counted. */
    if (seen > sent + 1)
        sink_fail("eventfd: %" PRIu64 " seen of %" PRIu64, seen, sent);
}

static uint64_t eventfd_progress(void)
{
    return events_seen;
}

static void eventfd_corrupt(void)
{
    events_seen += 1000000;
}

const struct subject subject_eventfd = {.name = "eventfd",
                                        .start = eventfd_start,
                                        .verify = eventfd_verify,
                                        .progress = eventfd_progress,
                                        .corrupt = eventfd_corrupt};
