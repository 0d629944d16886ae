/* Where memory arrives: pages over a real connection into a real store, which asks for room. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "migration/memory_engine.h"
#include "page_world.h"
#include "state/memory_index.h"

#define ID "0123456789ab"

static struct fm_memory_engine engine;

/* A host with so much memory. */
struct landlord {
    uint64_t most; /* bytes */
    int asked;
};

static int let(void *ctx, uint64_t bytes, uint64_t *max_bytes, struct fm_error *err)
{
    struct landlord *l = ctx;

    l->asked++;
    if (bytes > l->most)
        return fm_error_set(err, FM_E_NO_SPACE, "the host is full");
    *max_bytes = bytes;
    return 0;
}

/* The destination's end. */
struct arrival_side {
    struct fm_memory_sink *sink;
    struct fm_connection *connection;
    pthread_t thread;
};

static void *serve(void *arg)
{
    struct arrival_side *d = arg;
    struct fm_error err = {0};

    if (engine.ops.sink_stream(d->sink, d->connection, &err) < 0) {
        fm_connection_send_error(d->connection, FM_FRAME_FAILED, &err, NULL);
        fm_connection_drain(d->connection, 1000);
    }
    return NULL;
}

static void fill(uint8_t *memory, size_t size)
{
    for (size_t i = 0; i < size; i += fm_page_size())
        memset(memory + i, (int)(i / fm_page_size() % 250) + 1, fm_page_size());
}

static void open_sink(struct arrival_side *d, struct landlord *l, uint64_t max_bytes)
{
    const struct fm_page_room room = {.max_bytes = max_bytes, .grow = let, .ctx = l};
    struct fm_error err = {0};

    if (engine.ops.sink_open(&engine, ID, false, &room, &d->sink, &err) < 0)
        fail_msg("%s", err.text);
}

/* Sends `pages` of a child; what the sender's sync says. */
static int send_pages(struct arrival_side *d, size_t pages, struct fm_error *err)
{
    const struct fm_page_sender_options options = {.compression = FM_COMPRESS_NONE};
    struct world w = {.size = pages * fm_page_size()};
    struct fm_connection *source;
    int rc;

    w.memory = mmap(NULL, w.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(w.memory != MAP_FAILED);
    start_child(&w, fill, NULL);
    assert_int_equal(wire_pair_connect(&pair), 0);
    source = FM_MOVE(pair.a);
    d->connection = FM_MOVE(pair.b);
    assert_int_equal(engine.ops.sink_attach(d->sink, d->connection, NULL), 0);
    assert_int_equal(pthread_create(&d->thread, NULL, serve, d), 0);
    w.sender = fm_page_sender_open(&source, 1, &options, err);
    assert_non_null(w.sender);
    add_all(&w, false);
    rc = fm_page_sender_sync(w.sender, WAIT_MS, err);
    fm_page_sender_close(w.sender);
    pthread_join(d->thread, NULL);
    fm_connection_close(d->connection);
    end_child(&w);
    return rc;
}

static uint64_t stored(void)
{
    fm_autofree char *dir = fm_strf("%s/" ID, store_dir);
    uint64_t bytes = 0;

    assert_int_equal(fm_tree_size(dir, &bytes, NULL), 0);
    return bytes;
}

static void close_sink(struct arrival_side *d)
{
    fm_autofree char *dir = fm_strf("%s/" ID, store_dir);

    engine.ops.sink_close(d->sink, true);
    assert_false(fm_file_exists(dir));
}

static void memory_that_has_grown_gets_its_place(void **state)
{
    const uint64_t page = fm_page_size();
    struct landlord l = {.most = 3000 * page};
    struct arrival_side d = {0};
    struct fm_error err = {0};

    (void)state;
    open_sink(&d, &l, 100 * page);
    if (send_pages(&d, 3000, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(l.asked > 0);
    assert_int_equal(stored(), 3000 * page);
    close_sink(&d);
}

static void the_source_is_told_why_there_is_no_place(void **state)
{
    const uint64_t page = fm_page_size();
    struct landlord l = {.most = 1000 * page};
    struct arrival_side d = {0};
    struct fm_error err = {0};

    (void)state;
    open_sink(&d, &l, 100 * page);
    assert_int_equal(send_pages(&d, 3000, &err), -FM_E_NO_SPACE);
    assert_non_null(strstr(err.text, "the host is full"));
    assert_true(stored() <= l.most);
    close_sink(&d);
}

/* Writes an index of a process that has left `pages` on the source. */
static void leave_behind(const char *path, uint64_t pages)
{
    struct fm_process_memory process = {.pid = getpid(), .inner_pid = INNER_PID};
    struct fm_memory_scan scan = {.items = &process, .count = 1};
    const uint64_t start = UINT64_C(0x7f0000000000);

    fm_ranges_append(&process.present, start, start + pages * fm_page_size());
    fm_ranges_append(&process.dirty, start, start + pages * fm_page_size());
    assert_int_equal(fm_memory_index_save(path, &scan, true, NULL), 0);
    fm_ranges_clear(&process.present);
    fm_ranges_clear(&process.dirty);
}

static void what_is_left_behind_has_a_place_before_it_comes(void **state)
{
    const uint64_t page = fm_page_size();
    struct landlord l = {.most = 1000 * page};
    fm_autofree char *index = fm_strf("%s/memory", store_dir);
    struct arrival_side d = {0};
    struct fm_error err = {0};

    (void)state;
    open_sink(&d, &l, 100 * page);
    leave_behind(index, 100);
    assert_int_equal(engine.ops.sink_settle(d.sink, index, &err), 0);
    assert_int_equal(l.asked, 0);
    leave_behind(index, 1000);
    assert_int_equal(engine.ops.sink_settle(d.sink, index, &err), 0);
    assert_int_equal(l.asked, 1);
    leave_behind(index, 1001);
    assert_int_equal(engine.ops.sink_settle(d.sink, index, &err), -FM_E_NO_SPACE);
    leave_behind(index, UINT64_C(1) << 30); /* nobody's memory: an answer at once */
    assert_int_equal(engine.ops.sink_settle(d.sink, index, &err), -FM_E_NO_SPACE);
    close_sink(&d);
}

static void assert_found_again(bool scattered)
{
    const struct fm_page_room room = {.max_bytes = UINT64_MAX};
    fm_autofree char *dir = fm_strf("%s/%s" ID, store_dir, scattered ? FM_PAGES_SCATTERED "/" : "");
    struct fm_memory_sink *sink = NULL;
    struct fm_error err = {0};

    assert_int_equal(engine.ops.sink_open(&engine, ID, scattered, &room, &sink, &err), 0);
    engine.ops.sink_close(sink, false);
    assert_true(fm_file_exists(dir));
    assert_int_equal(engine.ops.sink_find(&engine, ID, store_dir, &sink, &err), 0);
    engine.ops.sink_close(sink, true);
    assert_false(fm_file_exists(dir));
    assert_int_equal(engine.ops.sink_find(&engine, ID, store_dir, &sink, &err), -FM_E_NOT_FOUND);
}

static void a_later_daemon_finds_a_store_wherever_it_is(void **state)
{
    (void)state;
    assert_found_again(false);
    assert_found_again(true);
}

static int open_host(void **state)
{
    snprintf(store_dir, sizeof(store_dir), "%s", STORE);
    if (!mkdtemp(store_dir))
        return -1;
    engine.config.pages_dir = store_dir;
    fm_memory_sink_fill(&engine.ops);
    return open_pair(state);
}

static int close_host(void **state)
{
    fm_remove_tree(store_dir, NULL);
    return close_pair(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_that_has_grown_gets_its_place),
        cmocka_unit_test(the_source_is_told_why_there_is_no_place),
        cmocka_unit_test(what_is_left_behind_has_a_place_before_it_comes),
        cmocka_unit_test(a_later_daemon_finds_a_store_wherever_it_is),
    };

    return cmocka_run_group_tests(tests, open_host, close_host);
}
