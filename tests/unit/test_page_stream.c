/* Pages of a real process through real connections into a store. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "page_world.h"

/* The store holds what the deeds make of a memory of zeroes. */
static void check_store(struct world *w, deed first, deed second)
{
    uint8_t *expected = fm_xcalloc(1, w->size);
    uint8_t *stored = fm_xmalloc(w->size);
    struct fm_error err = {0};

    first(expected, w->size);
    if (second)
        second(expected, w->size);
    if (fm_page_store_read(w->store, INNER_PID, (uint64_t)(uintptr_t)w->memory, stored, w->size,
                           &err) < 0)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < w->size; i += fm_page_size())
        if (memcmp(stored + i, expected + i, fm_page_size()) != 0)
            fail_msg("page %zu differs", i / fm_page_size());
    free(expected);
    free(stored);
}

/* ---- What children do with their memory ---- */

/* Random bytes; every third page stays zero. */
static void fill(uint8_t *memory, size_t size)
{
    uint64_t state = 12345;

    for (size_t i = 0; i < size; i += sizeof(state)) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
        if (i / fm_page_size() % 3 != 0)
            memcpy(memory + i, &state, sizeof(state));
    }
}

/* Some words in some pages, some pages to zero, some zero pages filled. */
static void scribble(uint8_t *memory, size_t size)
{
    size_t page = fm_page_size();

    for (size_t i = 0; i < size / page; i++) {
        if (i % 5 == 0)
            memory[i * page + i % page] ^= 0x5a;
        if (i % 7 == 1)
            memset(memory + i * page, 0, page);
        if (i % 11 == 2)
            memset(memory + i * page, (int)i | 1, page);
    }
}

static void test_round_trip(void **state)
{
    const struct fm_page_sender_options options = {.compression = FM_COMPRESS_NONE};
    struct fm_page_stats stats;
    struct world w;

    (void)state;
    open_world(&w, 3000, fill, scribble, &options);
    add_all(&w, false);
    sync_all(&w);
    check_store(&w, fill, NULL);
    fm_page_sender_stats(w.sender, &stats);
    assert_int_equal(stats.pages, 3000);
    assert_int_equal(stats.zero_pages, 1000);
    assert_int_equal(stats.normal_pages, 2000);
    assert_int_equal(fm_page_store_bytes(w.store), 2000 * fm_page_size());
    go_on(&w);
    add_all(&w, true);
    sync_all(&w);
    check_store(&w, fill, scribble);
    close_world(&w);
}

/* Rounds with deltas and zstd: the store always ends as the memory is. */
static void check_rounds(const struct fm_page_sender_options *options, struct fm_page_stats *stats)
{
    struct world w;

    open_world(&w, 2000, fill, scribble, options);
    add_all(&w, false);
    sync_all(&w);
    check_store(&w, fill, NULL);
    go_on(&w);
    add_all(&w, false);
    sync_all(&w);
    check_store(&w, fill, scribble);
    add_all(&w, true);
    sync_all(&w);
    check_store(&w, fill, scribble);
    fm_page_sender_stats(w.sender, stats);
    close_world(&w);
}

static void test_deltas(void **state)
{
    const struct fm_page_sender_options options = {.compression = FM_COMPRESS_NONE,
                                                   .delta_cache_bytes = 32u << 20};
    struct fm_page_stats stats;

    (void)state;
    check_rounds(&options, &stats);
    assert_int_equal(stats.pages, 6000);
    assert_true(stats.delta_pages > 2000); /* the cache holds all of them */
    assert_int_equal(stats.zero_pages + stats.delta_pages + stats.normal_pages, 6000);
    assert_true(stats.wire_bytes < 2000 * fm_page_size());
    assert_true(stats.bytes_per_second > 0);
}

static void test_small_cache(void **state)
{
    const struct fm_page_sender_options options = {.compression = FM_COMPRESS_NONE,
                                                   .delta_cache_bytes = 1u << 20};
    struct fm_page_stats stats;

    (void)state;
    check_rounds(&options, &stats);
    assert_in_range(stats.delta_pages, 50, 600);
}

static void fill_text(uint8_t *memory, size_t size)
{
    for (size_t i = 0; i < size; i++)
        memory[i] = (uint8_t) "the quick brown fox "[(i + i / 1000) % 20];
}

static void test_zstd(void **state)
{
    const struct fm_page_sender_options options = {.compression = FM_COMPRESS_ZSTD,
                                                   .delta_cache_bytes = 1u << 20};
    struct fm_page_stats stats;
    struct world w;

    (void)state;
    check_rounds(&options, &stats); /* random content: left alone after some attempts */
    open_world(&w, 2000, fill_text, scribble, &options);
    add_all(&w, false);
    sync_all(&w);
    check_store(&w, fill_text, NULL);
    fm_page_sender_stats(w.sender, &stats);
    assert_int_equal(stats.compressed_pages, 2000);
    assert_true(stats.wire_bytes < 200 * fm_page_size());
    close_world(&w);
}

/* Below a rate limit it is the link that limits, and compression must begin by itself. */
static void test_auto_compresses_on_slow_link(void **state)
{
    const struct fm_page_sender_options options = {.compression = FM_COMPRESS_AUTO,
                                                   .bytes_per_second = 20u << 20};
    struct fm_page_stats stats;
    struct world w;

    (void)state;
    open_world(&w, (64u << 20) / fm_page_size(), fill_text, NULL, &options);
    add_all(&w, false);
    sync_all(&w);
    check_store(&w, fill_text, NULL);
    fm_page_sender_stats(w.sender, &stats);
    assert_true(stats.compressed_pages > stats.pages / 2);
    assert_true(stats.wire_bytes < w.size / 2);
    close_world(&w);
}

static void test_rate_limit(void **state)
{
    const struct fm_page_sender_options options = {.compression = FM_COMPRESS_NONE,
                                                   .bytes_per_second = 16u << 20};
    uint64_t begin, ms;
    struct world w;

    (void)state;
    open_world(&w, 2048, fill, NULL, &options); /* 5.3 MiB that are not zero */
    begin = fm_now_ms();
    add_all(&w, false);
    sync_all(&w);
    ms = fm_now_ms() - begin;
    assert_in_range(ms, 250, 5000);
    close_world(&w);
}

/* ---- Many rounds ---- */

/* Each time that it is told to: some words, some pages, some zeroes, some gone, anywhere. */
static void churn(uint8_t *memory, size_t size)
{
    static uint64_t state = 99;
    size_t page = fm_page_size();

    for (int i = 0; i < 600; i++) {
        uint8_t *at;

        state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
        at = memory + (state >> 20) % size / page * page;
        switch (state >> 60 & 7) {
        case 0:
            memset(at, 0, page);
            break;
        case 1:
            madvise(at, page, MADV_DONTNEED);
            break;
        case 2:
            memset(at, (int)(state >> 40), page);
            break;
        default:
            memcpy(at + (state >> 24) % (page - sizeof(state)), &state, sizeof(state));
        }
    }
}

/* The store holds what the child's memory is now. */
static void compare_with_child(struct world *w)
{
    uint8_t *expected = fm_xmalloc(w->size), *stored = fm_xmalloc(w->size);
    struct iovec local = {expected, w->size}, remote = {w->memory, w->size};

    assert_int_equal(process_vm_readv(w->pid, &local, 1, &remote, 1, 0), w->size);
    assert_int_equal(fm_page_store_read(w->store, INNER_PID, (uint64_t)(uintptr_t)w->memory, stored,
                                        w->size, NULL),
                     0);
    assert_memory_equal(stored, expected, w->size);
    free(expected);
    free(stored);
}

/* Some of the pages, as a tracker would give them: here by what differs from the store. */
static void add_changed(struct world *w)
{
    uint8_t *now = fm_xmalloc(w->size), *stored = fm_xmalloc(w->size);
    struct iovec local = {now, w->size}, remote = {w->memory, w->size};
    uint64_t start = (uint64_t)(uintptr_t)w->memory, page = fm_page_size();
    struct fm_ranges ranges = {0};

    assert_int_equal(process_vm_readv(w->pid, &local, 1, &remote, 1, 0), w->size);
    assert_int_equal(fm_page_store_read(w->store, INNER_PID, start, stored, w->size, NULL), 0);
    for (uint64_t i = 0, n = 0; i < w->size; i += page, n++)
        if (memcmp(now + i, stored + i, page) != 0 || n % 50 == 0)
            fm_ranges_append(&ranges, start + i, start + i + page);
    assert_int_equal(fm_page_sender_add(w->sender, w->pid, INNER_PID, &ranges, false, NULL), 0);
    fm_ranges_clear(&ranges);
    free(now);
    free(stored);
}

static void test_many_rounds(void **state)
{
    static const uint64_t caches[] = {0, 256u << 10, 64u << 20};
    static const enum fm_compression compressions[] = {FM_COMPRESS_NONE, FM_COMPRESS_ZSTD,
                                                       FM_COMPRESS_AUTO};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        const struct fm_page_sender_options options = {.compression = compressions[i],
                                                       .delta_cache_bytes = caches[i]};
        struct world w;

        open_world(&w, 3000, fill, churn, &options);
        add_all(&w, false);
        for (int round = 0; round < 8; round++) {
            sync_all(&w);
            compare_with_child(&w);
            go_on(&w);
            add_changed(&w);
        }
        sync_all(&w);
        compare_with_child(&w);
        close_world(&w);
    }
}

/* ---- Memory that is hard to read ---- */

static void hide_and_unmap(uint8_t *memory, size_t size)
{
    size_t page = fm_page_size();

    (void)size;
    mprotect(memory + 10 * page, 20 * page, PROT_NONE);
    munmap(memory + 50 * page, 25 * page);
}

static void fill_all(uint8_t *memory, size_t size)
{
    fill_text(memory, size);
}

static void test_unreadable_pages(void **state)
{
    const struct fm_page_sender_options options = {.compression = FM_COMPRESS_NONE};
    struct fm_page_stats stats;
    struct fm_error err = {0};
    struct world w;

    (void)state;
    open_world(&w, 100, fill_all, hide_and_unmap, &options);
    go_on(&w);
    add_all(&w, false);
    sync_all(&w);
    fm_page_sender_stats(w.sender, &stats);
    assert_int_equal(stats.pages, 75); /* with those that only the kernel may read */
    assert_int_equal(stats.vanished_pages, 25);
    add_all(&w, true);
    assert_int_equal(fm_page_sender_sync(w.sender, WAIT_MS, &err), -FM_E_IO);
    assert_non_null(strstr(err.text, "cannot read the page"));
    close_world(&w);
}

static void test_process_gone(void **state)
{
    const struct fm_page_sender_options options = {.compression = FM_COMPRESS_NONE};
    struct fm_page_stats stats;
    struct fm_error err = {0};
    struct world w;

    (void)state;
    open_world(&w, 1000, fill, NULL, &options);
    kill(w.pid, SIGKILL);
    waitpid(w.pid, NULL, 0);
    add_all(&w, false);
    sync_all(&w);
    fm_page_sender_stats(w.sender, &stats);
    assert_int_equal(stats.vanished_pages, 1000);
    add_all(&w, true);
    assert_int_equal(fm_page_sender_sync(w.sender, WAIT_MS, &err), -FM_E_IO);
    close_world(&w);
}

/* ---- Failures ---- */

static void test_destination_full(void **state)
{
    const struct fm_page_sender_options options = {.compression = FM_COMPRESS_NONE};
    struct fm_error err = {0};
    struct world w;

    (void)state;
    open_world(&w, 1000, fill_all, NULL, &options);
    fm_fault_arm("pages.store=fail:2");
    add_all(&w, false);
    assert_int_equal(fm_page_sender_sync(w.sender, WAIT_MS, &err), -FM_E_NO_SPACE);
    fm_fault_arm(NULL);
    close_world(&w);
}

static void test_damaged_frame(void **state)
{
    const struct fm_page_sender_options options = {.compression = FM_COMPRESS_NONE};
    struct fm_error err = {0};
    struct world w;

    (void)state;
    open_world(&w, 1000, fill_all, NULL, &options);
    fm_fault_arm("wire.corrupt-pages=fail:3");
    add_all(&w, false);
    assert_int_equal(fm_page_sender_sync(w.sender, WAIT_MS, &err), -FM_E_CHECKSUM);
    fm_fault_arm(NULL);
    close_world(&w);
}

static void test_lost_connection(void **state)
{
    const struct fm_page_sender_options options = {.compression = FM_COMPRESS_NONE};
    struct fm_ranges ranges = {0};
    struct fm_error err = {0};
    struct world w;

    (void)state;
    open_world(&w, 1000, fill_all, NULL, &options);
    fm_fault_arm("pages.send=fail:2");
    add_all(&w, false);
    assert_int_equal(fm_page_sender_sync(w.sender, WAIT_MS, &err), -FM_E_CLOSED);
    fm_fault_arm(NULL);
    assert_int_equal(fm_page_sender_add(w.sender, w.pid, INNER_PID, &ranges, false, &err),
                     -FM_E_CLOSED);
    close_world(&w);
}

/* A destination that reads nothing: the wait ends in time, and close() wakes who is blocked. */
static void test_close_while_blocked(void **state)
{
    const struct fm_page_sender_options options = {.compression = FM_COMPRESS_NONE};
    struct fm_connection *connections[1];
    struct fm_error err = {0};
    struct world w = {.size = 100u << 20};
    uint64_t begin;

    (void)state;
    w.memory = mmap(NULL, w.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(w.memory != MAP_FAILED);
    start_child(&w, fill, NULL);
    assert_int_equal(wire_pair_connect(&pair), 0);
    connections[0] = FM_MOVE(pair.a);
    w.sender = fm_page_sender_open(connections, 1, &options, &err);
    assert_non_null(w.sender);
    add_all(&w, false);
    assert_int_equal(fm_page_sender_sync(w.sender, 200, &err), -FM_E_TIMEOUT);
    begin = fm_now_ms();
    fm_page_sender_close(w.sender);
    assert_in_range(fm_now_ms() - begin, 0, 2000);
    wire_pair_disconnect(&pair);
    end_child(&w);
}

/* ---- Post-copy ---- */

/* What arrived, in order. */
struct arrivals {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t base;
    uint8_t seen[16384];
    size_t count, before_wanted;
    uint64_t wanted;
    bool wanted_here;
};

static void note_arrival(void *ctx, pid_t inner_pid, uint64_t start, uint64_t end)
{
    struct arrivals *a = ctx;

    assert_int_equal(inner_pid, INNER_PID);
    pthread_mutex_lock(&a->lock);
    for (uint64_t at = start; at < end; at += fm_page_size()) {
        a->seen[(at - a->base) / fm_page_size()]++;
        a->count++;
        if (at == a->wanted) {
            a->wanted_here = true;
            pthread_cond_broadcast(&a->changed);
        }
        a->before_wanted += !a->wanted_here;
    }
    pthread_mutex_unlock(&a->lock);
}

/* Below a rate limit that needs seconds for all, wanted pages come at once, and each page once. */
static void test_serve(void **state)
{
    const struct fm_page_sender_options options = {.compression = FM_COMPRESS_NONE,
                                                   .bytes_per_second = 32u << 20};
    static struct arrivals a = {.lock = PTHREAD_MUTEX_INITIALIZER,
                                .changed = PTHREAD_COND_INITIALIZER};
    struct world w = {.size = 16384 * fm_page_size()};
    struct fm_error err = {0};

    (void)state;
    w.memory = mmap(NULL, w.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(w.memory != MAP_FAILED);
    start_child(&w, fill, NULL);
    a.base = (uint64_t)(uintptr_t)w.memory;
    open_stream(&w, &plenty, &options, note_arrival, &a);
    /* Wanted before it is queued: kept until then. */
    a.wanted = a.base + 12345 * fm_page_size();
    assert_int_equal(
        fm_page_receiver_want(w.receiver, w.hearers[0].connection, INNER_PID, a.wanted, &err), 0);
    assert_int_equal(fm_page_sender_serve(w.sender, &err), 0);
    add_all(&w, true);
    pthread_mutex_lock(&a.lock);
    while (!a.wanted_here)
        pthread_cond_wait(&a.changed, &a.lock);
    assert_in_range(a.before_wanted, 0, 2000);
    pthread_mutex_unlock(&a.lock);
    for (size_t i = 0; i < 5; i++) {
        uint64_t wanted = a.base + (16000 - 3000 * i) * fm_page_size();

        pthread_mutex_lock(&a.lock);
        a.before_wanted = 0;
        a.wanted = wanted;
        a.wanted_here = a.seen[(wanted - a.base) / fm_page_size()] > 0;
        pthread_mutex_unlock(&a.lock);
        /* Over any connection: here often the one that does not carry the page. */
        assert_int_equal(fm_page_receiver_want(w.receiver, w.hearers[i % LANES].connection,
                                               INNER_PID, wanted, &err),
                         0);
        pthread_mutex_lock(&a.lock);
        while (!a.wanted_here)
            pthread_cond_wait(&a.changed, &a.lock);
        assert_in_range(a.before_wanted, 0, 2000);
        pthread_mutex_unlock(&a.lock);
    }
    while (fm_page_sender_sync(w.sender, 50, &err) == -FM_E_TIMEOUT)
        err = (struct fm_error){0};
    assert_int_equal(err.code, 0);
    check_store(&w, fill, NULL);
    for (size_t i = 0; i < 16384; i++)
        assert_int_equal(a.seen[i], 1);
    close_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_deltas),
        cmocka_unit_test(test_small_cache),
        cmocka_unit_test(test_zstd),
        cmocka_unit_test(test_many_rounds),
        cmocka_unit_test(test_auto_compresses_on_slow_link),
        cmocka_unit_test(test_rate_limit),
        cmocka_unit_test(test_unreadable_pages),
        cmocka_unit_test(test_process_gone),
        cmocka_unit_test(test_destination_full),
        cmocka_unit_test(test_damaged_frame),
        cmocka_unit_test(test_lost_connection),
        cmocka_unit_test(test_close_while_blocked),
        cmocka_unit_test(test_serve),
    };

    return cmocka_run_group_tests(tests, open_pair, close_pair);
}
