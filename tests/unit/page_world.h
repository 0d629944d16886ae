/* A stream of pages in a test: a child whose memory goes, both ends of the connections, a store. */
#ifndef FM_TESTS_PAGE_WORLD_H
#define FM_TESTS_PAGE_WORLD_H

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "state/page_stream.h"
#include "wire_pair.h"

#define LANES 2
#define INNER_PID 7
#define WAIT_MS 20000u

/* A tmpfs: offsets in its files are addresses. */
#define STORE "/dev/shm/fm-test-stream.XXXXXX"

static const struct fm_page_room plenty = {.max_bytes = UINT64_C(1) << 30};

static char store_dir[sizeof(STORE)];
static struct wire_pair pair; /* its identities serve all tests */

/* One receiving thread of the destination. */
struct hearer {
    pthread_t thread;
    struct fm_connection *connection;
    struct fm_page_receiver *receiver;
    struct fm_error err;
};

/* Both ends of a stream, and the process whose pages go. */
struct world {
    struct fm_page_sender *sender;
    struct fm_page_receiver *receiver;
    struct fm_page_store *store;
    struct hearer hearers[LANES];
    uint8_t *memory; /* the same in the child: it was forked after */
    size_t size;
    pid_t pid;
    int to_child[2], to_parent[2];
};

static inline void *hear(void *arg)
{
    struct hearer *h = arg;
    struct fm_frame frame;

    while (fm_connection_recv(h->connection, &frame, &h->err) == 0 &&
           fm_page_receive(h->receiver, h->connection, &frame, &h->err) == 0)
        continue;
    if (h->err.code != FM_E_CLOSED) {
        fm_connection_send_error(h->connection, FM_FRAME_ERROR, &h->err, NULL);
        fm_connection_drain(h->connection, 1000);
    }
    return NULL;
}

/* What the child does with its memory: first at once, second whenever it is told to. */
typedef void (*deed)(uint8_t *memory, size_t size);

static inline void start_child(struct world *w, deed first, deed second)
{
    char byte;

    assert_int_equal(pipe(w->to_child), 0);
    assert_int_equal(pipe(w->to_parent), 0);
    w->pid = fork();
    assert_true(w->pid >= 0);
    if (w->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        first(w->memory, w->size);
        while (write(w->to_parent[1], "x", 1) == 1 && read(w->to_child[0], &byte, 1) == 1)
            if (second)
                second(w->memory, w->size);
        _exit(0);
    }
    assert_int_equal(read(w->to_parent[0], &byte, 1), 1);
}

static inline void go_on(struct world *w)
{
    char byte;

    assert_int_equal(write(w->to_child[1], "x", 1), 1);
    assert_int_equal(read(w->to_parent[0], &byte, 1), 1);
}

static inline void open_stream(struct world *w, const struct fm_page_room *room,
                               const struct fm_page_sender_options *options,
                               fm_pages_arrived arrived, void *ctx)
{
    struct fm_connection *connections[LANES];
    struct fm_error err = {0};

    snprintf(store_dir, sizeof(store_dir), "%s", STORE);
    assert_non_null(mkdtemp(store_dir));
    w->store = fm_page_store_open(store_dir, room, &err);
    assert_non_null(w->store);
    w->receiver = fm_page_receiver_open(w->store, arrived, ctx);
    for (int i = 0; i < LANES; i++) {
        assert_int_equal(wire_pair_connect(&pair), 0);
        connections[i] = FM_MOVE(pair.a);
        w->hearers[i] = (struct hearer){.connection = FM_MOVE(pair.b), .receiver = w->receiver};
        assert_int_equal(pthread_create(&w->hearers[i].thread, NULL, hear, &w->hearers[i]), 0);
    }
    w->sender = fm_page_sender_open(connections, LANES, options, &err);
    assert_non_null(w->sender);
}

static inline void open_world(struct world *w, size_t pages, deed first, deed second,
                              const struct fm_page_sender_options *options)
{
    *w = (struct world){.size = pages * fm_page_size()};
    w->memory = mmap(NULL, w->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(w->memory != MAP_FAILED);
    start_child(w, first, second);
    open_stream(w, &plenty, options, NULL, NULL);
}

static inline void close_stream(struct world *w)
{
    fm_page_sender_close(w->sender);
    for (int i = 0; i < LANES; i++) {
        pthread_join(w->hearers[i].thread, NULL);
        fm_connection_close(w->hearers[i].connection);
    }
    fm_page_receiver_close(w->receiver);
    fm_page_store_close(w->store);
    fm_page_store_remove(store_dir, NULL);
}

static inline void end_child(struct world *w)
{
    kill(w->pid, SIGKILL);
    waitpid(w->pid, NULL, 0);
    for (int i = 0; i < 2; i++) {
        close(w->to_child[i]);
        close(w->to_parent[i]);
    }
    munmap(w->memory, w->size);
}

static inline void close_world(struct world *w)
{
    close_stream(w);
    end_child(w);
}

static inline void add_all(struct world *w, bool frozen)
{
    uint64_t start = (uint64_t)(uintptr_t)w->memory;
    struct fm_ranges ranges = {0};
    struct fm_error err = {0};

    fm_ranges_append(&ranges, start, start + w->size);
    if (fm_page_sender_add(w->sender, w->pid, INNER_PID, &ranges, frozen, &err) < 0)
        fail_msg("%s", err.text);
    fm_ranges_clear(&ranges);
}

static inline void sync_all(struct world *w)
{
    struct fm_error err = {0};

    if (fm_page_sender_sync(w->sender, WAIT_MS, &err) < 0)
        fail_msg("%s", err.text);
}

static inline int open_pair(void **state)
{
    (void)state;
    if (wire_pair_open(&pair) < 0)
        return -1;
    wire_pair_disconnect(&pair);
    return 0;
}

static inline int close_pair(void **state)
{
    (void)state;
    wire_pair_close(&pair);
    return 0;
}

#endif
