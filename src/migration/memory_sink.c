/* Where the memory of a container arrives: page store and pager. */
#include "migration/memory_engine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "state/memory_index.h"

/* How long the pager's silence lasts at most before its watcher looks up. */
#define WATCH_MS 200

struct stream {
    struct fm_connection *connection;
    bool open; /* the greetings are over */
    struct stream *next;
};

struct arrival {
    pid_t inner_pid;
    uint64_t start, end;
};

struct fm_memory_sink {
    const struct fm_memory_engine *engine;
    char *store_dir;
    struct fm_page_store *store;
    struct fm_page_receiver *receiver;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct stream *streams;
    struct fm_pager *pager;
    struct fm_pager_status status;
    struct fm_error error;    /* the pager's, final */
    uint64_t missing;         /* bytes that the source kept */
    struct arrival *arrivals; /* since the last PAGES_SYNC */
    size_t arrival_count, arrival_capacity;
    bool closing;

    pthread_t watcher;
    bool watching;
    atomic_bool stop;
};

/* --- the pager --- */

/* Any stream will do: the source knows which of its threads has the page. */
static void want(void *ctx, pid_t inner_pid, uint64_t address)
{
    struct fm_memory_sink *s = ctx;
    pthread_mutex_lock(&s->lock);
    struct stream *stream = s->streams;
    while (stream && !stream->open)
        stream = stream->next;
    if (stream)
        fm_page_receiver_want(s->receiver, stream->connection, inner_pid, address, NULL);
    pthread_mutex_unlock(&s->lock);
}

static void tell_pager(struct fm_memory_sink *s, const struct arrival *a)
{
    fm_pager_arrived(s->pager, a->inner_pid, a->start, a->end);
}

/* The source serves missing pages as soon as it has said which they are, over other connections
 * than it says so, and each of them once. What it sends after its last PAGES_SYNC is missing pages
 * only; a pager that starts later hears of them all. */
static void arrived(void *ctx, pid_t inner_pid, uint64_t start, uint64_t end)
{
    struct fm_memory_sink *s = ctx;
    struct arrival a = {inner_pid, start, end};
    pthread_mutex_lock(&s->lock);
    if (s->arrival_count == s->arrival_capacity) {
        s->arrival_capacity = s->arrival_capacity ? 2 * s->arrival_capacity : 64;
        s->arrivals = fm_xrealloc(s->arrivals, s->arrival_capacity * sizeof(*s->arrivals));
    }
    s->arrivals[s->arrival_count++] = a;
    if (s->missing && s->pager)
        tell_pager(s, &a);
    pthread_mutex_unlock(&s->lock);
}

/* Under the lock. */
static void tell_all(struct fm_memory_sink *s)
{
    for (size_t i = 0; s->missing && s->pager && i < s->arrival_count; i++)
        tell_pager(s, &s->arrivals[i]);
}

static void *watch(void *arg)
{
    struct fm_memory_sink *s = arg;
    for (bool done = false; !done && !atomic_load(&s->stop);) {
        struct fm_pager_status status = {0};
        struct fm_error err = {0};
        int rc = fm_pager_wait(s->pager, WATCH_MS, &status, &err);
        pthread_mutex_lock(&s->lock);
        if (rc == 0)
            s->status = status;
        else
            s->error = err;
        done = rc < 0 || status.done;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
    }
    return NULL;
}

static int start_watching(struct fm_memory_sink *s, struct fm_error *err)
{
    fm_pager_set_want(s->pager, want, s);
    atomic_store(&s->stop, false);
    s->error = (struct fm_error){0};
    s->status = (struct fm_pager_status){0};
    int e = pthread_create(&s->watcher, NULL, watch, s);
    if (e != 0)
        return fm_error_errno(err, e, "cannot start a thread");
    s->watching = true;
    return 0;
}

static void stop_watching(struct fm_memory_sink *s)
{
    atomic_store(&s->stop, true);
    if (s->watching)
        pthread_join(s->watcher, NULL);
    s->watching = false;
}

static struct fm_pager *take_pager(struct fm_memory_sink *s)
{
    stop_watching(s);
    pthread_mutex_lock(&s->lock);
    struct fm_pager *pager = FM_MOVE(s->pager);
    pthread_mutex_unlock(&s->lock);
    return pager;
}

static void sink_stop(struct fm_memory_sink *s)
{
    fm_pager_end(take_pager(s));
}

static struct fm_pager_spec spec_of(const struct fm_memory_sink *s, const char *work_dir,
                                    char *control, char *log)
{
    return (struct fm_pager_spec){.program = s->engine->config.pager,
                                  .store_dir = s->store_dir,
                                  .work_dir = work_dir,
                                  .control = control,
                                  .log = log};
}

static int sink_pager(struct fm_memory_sink *s, const char *work_dir, struct fm_error *err)
{
    fm_autofree char *control = fm_strf("%s.sock", s->store_dir);
    fm_autofree char *log = fm_strf("%s/pager.log", work_dir);
    struct fm_pager_spec spec = spec_of(s, work_dir, control, log);
    int rc = fm_mkdir_p(work_dir, 0700, err);
    if (rc < 0)
        return rc;
    struct fm_pager *pager = fm_pager_start(&spec, err);
    pthread_mutex_lock(&s->lock);
    s->pager = pager;
    tell_all(s);
    pthread_mutex_unlock(&s->lock);
    return pager ? start_watching(s, err) : fm_error_result(err);
}

/* --- life --- */

static void sink_free(struct fm_memory_sink *s)
{
    fm_page_receiver_close(s->receiver);
    fm_page_store_close(s->store);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s->arrivals);
    free(s->store_dir);
    free(s);
}

static char *store_dir_of(const struct fm_memory_engine *engine, const char *migration,
                          bool scattered)
{
    return fm_strf("%s/%s%s", engine->config.pages_dir, scattered ? FM_PAGES_SCATTERED "/" : "",
                   migration);
}

static int sink_open(void *ctx, const char *migration, bool scattered,
                     const struct fm_page_room *room, struct fm_memory_sink **sink,
                     struct fm_error *err)
{
    const struct fm_memory_engine *engine = ctx;
    struct fm_memory_sink *s = fm_xcalloc(1, sizeof(*s));
    pthread_condattr_t attributes;
    s->engine = engine;
    s->store_dir = store_dir_of(engine, migration, scattered);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    s->store = fm_page_store_open(s->store_dir, room, err);
    if (s->store)
        s->receiver = fm_page_receiver_open(s->store, arrived, s);
    if (s->receiver) {
        *sink = s;
        return 0;
    }
    sink_free(s);
    return fm_error_result(err);
}

static void end_streams(struct fm_memory_sink *s)
{
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    for (struct stream *stream = s->streams; stream; stream = stream->next)
        fm_connection_shutdown(stream->connection);
    while (s->streams)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

/* A pager that was killed has left its socket. */
static void remove_store(const struct fm_memory_sink *s)
{
    fm_autofree char *control = fm_strf("%s.sock", s->store_dir);
    struct fm_error err = {0};
    unlink(control);
    if (fm_page_store_remove(s->store_dir, &err) < 0)
        fm_warn(FM_STATE_SYNCHRONIZER, "A page store stays: %s.", err.text);
}

static void sink_close(struct fm_memory_sink *s, bool remove)
{
    if (!s)
        return;
    end_streams(s);
    if (remove)
        sink_stop(s);
    else
        fm_pager_leave(take_pager(s));
    if (remove)
        remove_store(s);
    sink_free(s);
}

static int sink_find(void *ctx, const char *migration, const char *work_dir,
                     struct fm_memory_sink **sink, struct fm_error *err)
{
    const struct fm_memory_engine *engine = ctx;
    fm_autofree char *dir = store_dir_of(engine, migration, true);
    bool scattered = fm_file_exists(dir);
    fm_autofree char *other = store_dir_of(engine, migration, false);
    if (!scattered && !fm_file_exists(other))
        return fm_error_set(err, FM_E_NOT_FOUND, "no page store of migration %s", migration);
    /* It was settled, so there is room for whatever comes yet. */
    const struct fm_page_room room = {.max_bytes = UINT64_MAX};
    int rc = sink_open(ctx, migration, scattered, &room, sink, err);
    if (rc < 0)
        return rc;
    struct fm_memory_sink *s = *sink;
    fm_autofree char *control = fm_strf("%s.sock", s->store_dir);
    fm_autofree char *log = fm_strf("%s/pager.log", work_dir);
    struct fm_pager_spec spec = spec_of(s, work_dir, control, log);
    struct fm_error nobody = {0};
    s->pager = fm_pager_find(&spec, &nobody);
    s->missing = 1; /* perhaps: the pager knows */
    if (s->pager)
        return start_watching(s, err);
    s->error = nobody;
    return 0;
}

/* --- streams --- */

static int sink_attach(struct fm_memory_sink *s, struct fm_connection *c, struct fm_error *err)
{
    struct stream *stream = fm_xcalloc(1, sizeof(*stream));
    stream->connection = c;
    pthread_mutex_lock(&s->lock);
    bool closing = s->closing;
    if (!closing) {
        stream->next = s->streams;
        s->streams = stream;
    }
    pthread_mutex_unlock(&s->lock);
    if (!closing)
        return 0;
    free(stream);
    return fm_error_set(err, FM_E_CLOSED, "the migration ends");
}

static struct stream *open_stream(struct fm_memory_sink *s, const struct fm_connection *c)
{
    pthread_mutex_lock(&s->lock);
    struct stream *stream = s->streams;
    while (stream->connection != c)
        stream = stream->next;
    stream->open = true;
    pthread_mutex_unlock(&s->lock);
    return stream;
}

static void detach(struct fm_memory_sink *s, struct stream *stream)
{
    pthread_mutex_lock(&s->lock);
    struct stream **at = &s->streams;
    while (*at != stream)
        at = &(*at)->next;
    *at = stream->next;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    free(stream);
}

static int take_frame(struct fm_memory_sink *s, struct stream *stream, struct fm_error *err)
{
    struct fm_frame frame;
    int rc = fm_connection_recv(stream->connection, &frame, err);
    if (rc == 0 && frame.type == FM_FRAME_PAGES_SYNC) {
        pthread_mutex_lock(&s->lock);
        s->arrival_count = 0; /* of a round: they may have been written since */
        pthread_mutex_unlock(&s->lock);
    }
    return rc < 0 ? rc : fm_page_receive(s->receiver, stream->connection, &frame, err);
}

static int sink_stream(struct fm_memory_sink *s, struct fm_connection *c, struct fm_error *err)
{
    struct stream *stream = open_stream(s, c);
    int rc;
    fm_connection_set_timeout(c, 0);
    while ((rc = take_frame(s, stream, err)) == 0)
        continue;
    detach(s, stream);
    if (rc != -FM_E_CLOSED)
        return rc;
    *err = (struct fm_error){0};
    return 0;
}

/* --- the end of the stream --- */

static int sink_settle(struct fm_memory_sink *s, const char *path, struct fm_error *err)
{
    fm_cleanup(fm_memory_index_clear) struct fm_memory_index index = {0};
    int rc = fm_memory_index_load(path, &index, err);
    for (size_t i = 0; i < index.count && rc == 0; i++)
        rc = fm_page_store_settle(s->store, index.items[i].inner_pid, &index.items[i].present,
                                  &index.items[i].missing, err);
    pthread_mutex_lock(&s->lock);
    s->missing = fm_memory_index_missing(&index);
    tell_all(s);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static void sink_restored(struct fm_memory_sink *s)
{
    pthread_mutex_lock(&s->lock);
    if (s->pager)
        fm_pager_restored(s->pager);
    pthread_mutex_unlock(&s->lock);
}

static int sink_wait(struct fm_memory_sink *s, uint64_t timeout_ms, struct fm_pager_status *status,
                     struct fm_error *err)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(timeout_ms / 1000);
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    if (!s->status.done && !s->error.code)
        pthread_cond_timedwait(&s->changed, &s->lock, &until);
    *status = s->status;
    if (status->total_bytes == 0 && !status->done && s->missing > 1) /* not heard of it yet */
        status->missing_bytes = s->missing;
    if (s->error.code) {
        rc = fm_error_set(err, s->error.code, "%s", s->error.text);
    } else if (status->missing_bytes > 0 && !s->streams) {
        rc = fm_error_set(err, FM_E_CLOSED, "the source is gone, and with it %llu MiB of memory",
                          (unsigned long long)(status->missing_bytes >> 20));
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static bool sink_served(struct fm_memory_sink *s)
{
    pthread_mutex_lock(&s->lock);
    bool served = s->streams != NULL;
    pthread_mutex_unlock(&s->lock);
    return served;
}

void fm_memory_sink_fill(struct fm_memory_ops *ops)
{
    ops->sink_open = sink_open;
    ops->sink_attach = sink_attach;
    ops->sink_stream = sink_stream;
    ops->sink_pager = sink_pager;
    ops->sink_settle = sink_settle;
    ops->sink_restored = sink_restored;
    ops->sink_wait = sink_wait;
    ops->sink_served = sink_served;
    ops->sink_stop = sink_stop;
    ops->sink_close = sink_close;
    ops->sink_find = sink_find;
}
