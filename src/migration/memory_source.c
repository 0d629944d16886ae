/* The memory of a container on its way: tracker and page streams. */
#include "migration/memory_engine.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "state/memory_index.h"
#include "state/tracker.h"

#define STREAMS_MAX 16u
/* How often a pass that waits for the network looks up. */
#define TICK_MS 250

struct fm_memory_source {
    char *filter_dir, *index;
    struct fm_tracker *tracker;
    struct fm_connection *connections[STREAMS_MAX + 1]; /* the sender's */
    unsigned count;
    struct fm_page_sender *sender;
    struct fm_memory_scan last; /* of the freeze */
    uint64_t scanned_us;
    pthread_t verifier;
    bool verifying;
    int verified; /* its result */
    struct fm_error error;
};

/* --- connections --- */

static struct fm_connection *open_stream(const struct fm_link_wire *wire,
                                         const struct fm_memory_plan *plan, unsigned stream,
                                         struct fm_error *err)
{
    struct fm_connection *c = fm_link_wire_connect(wire, plan->destination, plan->timeout_ms, err);
    json_auto_t *body =
        json_pack("{s:s, s:i}", "migration", plan->migration, "stream", (int)stream);
    if (!c)
        return NULL;
    if (fm_connection_send_json(c, FM_FRAME_PAGES_OPEN, body, err) == 0) {
        json_auto_t *answer = fm_connection_expect(c, FM_FRAME_PAGES_OPENED, err);
        if (answer)
            return c;
    }
    fm_error_prefix(err, "cannot open a page stream");
    fm_connection_close(c);
    return NULL;
}

static int open_streams(struct fm_memory_source *s, const struct fm_link_wire *wire,
                        const struct fm_memory_plan *plan, struct fm_error *err)
{
    unsigned bulk = plan->streams < STREAMS_MAX ? plan->streams : STREAMS_MAX;
    unsigned wanted = bulk + plan->pages.urgent_connection;
    for (; s->count < wanted; s->count++)
        if (!(s->connections[s->count] = open_stream(wire, plan, s->count, err)))
            break;
    if (s->count == wanted)
        s->sender = fm_page_sender_open(s->connections, s->count, &plan->pages, err);
    if (s->sender)
        return 0;
    while (s->count > 0)
        fm_connection_close(s->connections[--s->count]);
    return fm_error_result(err);
}

/* --- what CRIU was shown --- */

static void *verify(void *arg)
{
    struct fm_memory_source *s = arg;
    s->verified = fm_tracker_verify_maps(s->tracker, &s->last, &s->error);
    return NULL;
}

static void source_verify_begin(struct fm_memory_source *s)
{
    s->verifying = pthread_create(&s->verifier, NULL, verify, s) == 0;
    if (!s->verifying)
        verify(s);
}

static int source_verify_end(struct fm_memory_source *s, struct fm_error *err)
{
    if (s->verifying)
        pthread_join(s->verifier, NULL);
    s->verifying = false;
    return s->verified < 0 ? fm_error_set(err, s->error.code, "%s", s->error.text) : 0;
}

static void source_unwatch(struct fm_memory_source *s)
{
    if (s->tracker)
        fm_tracker_unwatch_maps(s->tracker);
}

/* --- the source --- */

static void source_close(struct fm_memory_source *s)
{
    if (!s)
        return;
    source_verify_end(s, NULL);
    fm_page_sender_close(s->sender);
    fm_tracker_close(s->tracker);
    fm_memory_scan_clear(&s->last);
    free(s->filter_dir);
    free(s->index);
    free(s);
}

static struct fm_memory_source *source_new(const struct fm_memory_plan *plan)
{
    struct fm_memory_source *s = fm_xcalloc(1, sizeof(*s));
    s->filter_dir = fm_strf("%s/filter", plan->dir);
    s->index = fm_strf("%s/memory", plan->dir);
    return s;
}

static int source_open(void *ctx, const struct fm_memory_plan *plan,
                       struct fm_memory_source **source, struct fm_error *err)
{
    struct fm_memory_engine *engine = ctx;
    struct fm_memory_source *s = source_new(plan);
    int rc = fm_mkdir_p(s->filter_dir, 0700, err);
    s->tracker =
        rc < 0 ? NULL : fm_tracker_open(plan->track ? engine->tracker : FM_TRACKER_NONE, err);
    if (s->tracker && open_streams(s, engine->config.wire, plan, err) == 0) {
        *source = s;
        return 0;
    }
    source_close(s);
    return fm_error_result(err);
}

static int source_recall(void *ctx, const struct fm_memory_plan *plan,
                         struct fm_memory_source **source, struct fm_error *err)
{
    struct fm_memory_engine *engine = ctx;
    struct fm_memory_source *s = source_new(plan);
    if (open_streams(s, engine->config.wire, plan, err) == 0) {
        *source = s;
        return 0;
    }
    source_close(s);
    return fm_error_result(err);
}

static void describe(struct fm_memory_source *s, const struct fm_memory_scan *scan,
                     struct fm_memory_round *round)
{
    uint64_t now = fm_now_us();
    *round = (struct fm_memory_round){.present_bytes = scan->present_bytes,
                                      .dirty_bytes = scan->dirty_bytes,
                                      .interval_us = s->scanned_us ? now - s->scanned_us : 0,
                                      .scan_us = scan->walk_us,
                                      .processes = (unsigned)scan->count};
    for (size_t i = 0; i < scan->count; i++)
        round->untracked += !scan->items[i].tracked;
    s->scanned_us = now;
}

static int add_dirty(struct fm_memory_source *s, const struct fm_memory_scan *scan, bool frozen,
                     struct fm_error *err)
{
    int rc = 0;
    for (size_t i = 0; i < scan->count && rc == 0; i++)
        rc = fm_page_sender_add(s->sender, scan->items[i].pid, scan->items[i].inner_pid,
                                &scan->items[i].dirty, frozen, err);
    return rc;
}

static int wait_sent(struct fm_memory_source *s, fm_memory_tick tick, void *arg,
                     struct fm_error *err)
{
    for (;;) {
        int rc = fm_page_sender_sync(s->sender, TICK_MS, err);
        if (rc != -FM_E_TIMEOUT)
            return rc;
        *err = (struct fm_error){0};
        if ((rc = tick(arg, err)) < 0)
            return rc;
    }
}

static int source_round(struct fm_memory_source *s, const pid_t *pids, size_t count,
                        fm_memory_tick tick, void *arg, struct fm_memory_round *round,
                        struct fm_error *err)
{
    fm_cleanup(fm_memory_scan_clear) struct fm_memory_scan scan = {0};
    int rc = fm_tracker_round(s->tracker, pids, count, &scan, err);
    if (rc < 0)
        return rc;
    describe(s, &scan, round);
    uint64_t since = fm_now_us();
    rc = add_dirty(s, &scan, false, err);
    if (rc == 0)
        rc = wait_sent(s, tick, arg, err);
    round->send_us = fm_now_us() - since;
    return rc;
}

static int source_prepare_freeze(struct fm_memory_source *s, const pid_t *pids, size_t count,
                                 struct fm_error *err)
{
    return fm_tracker_note_maps(s->tracker, pids, count, err);
}

static int source_freeze(struct fm_memory_source *s, const pid_t *pids, size_t count, bool leave,
                         struct fm_memory_round *round, struct fm_error *err)
{
    int rc = fm_tracker_final(s->tracker, pids, count, &s->last, err);
    if (rc == 0)
        rc = fm_tracker_write_filter(s->tracker, &s->last, s->filter_dir, err);
    if (rc == 0 && !leave)
        rc = add_dirty(s, &s->last, true, err);
    if (rc == 0)
        rc = fm_memory_index_save(s->index, &s->last, leave, err);
    describe(s, &s->last, round);
    return rc;
}

static const char *source_filter_dir(const struct fm_memory_source *s)
{
    return s->filter_dir;
}

static int source_finish(struct fm_memory_source *s, uint64_t timeout_ms, const char **index,
                         struct fm_error *err)
{
    *index = s->index;
    return fm_page_sender_sync(s->sender, timeout_ms, err);
}

static int source_serve(struct fm_memory_source *s, struct fm_error *err)
{
    fm_cleanup(fm_memory_index_clear) struct fm_memory_index index = {0};
    int rc = fm_memory_index_load(s->index, &index, err);
    if (rc == 0)
        rc = fm_page_sender_serve(s->sender, err);
    for (size_t i = 0; i < index.count && rc == 0; i++) {
        const struct fm_memory_index_entry *e = &index.items[i];
        if (!fm_process_is(e->pid, e->start_time))
            return fm_error_set(err, FM_E_FAILED,
                                "process %d of the original has gone, and its memory with it",
                                (int)e->pid);
        rc = fm_page_sender_add(s->sender, e->pid, e->inner_pid, &e->missing, true, err);
    }
    return rc;
}

static void source_stats(struct fm_memory_source *s, struct fm_page_stats *stats)
{
    fm_page_sender_stats(s->sender, stats);
}

static void source_interrupt(struct fm_memory_source *s)
{
    for (unsigned i = 0; i < s->count; i++)
        fm_connection_shutdown(s->connections[i]);
}

void fm_memory_source_fill(struct fm_memory_ops *ops)
{
    ops->open = source_open;
    ops->recall = source_recall;
    ops->round = source_round;
    ops->prepare_freeze = source_prepare_freeze;
    ops->freeze = source_freeze;
    ops->filter_dir = source_filter_dir;
    ops->finish = source_finish;
    ops->verify_begin = source_verify_begin;
    ops->verify_end = source_verify_end;
    ops->unwatch = source_unwatch;
    ops->serve = source_serve;
    ops->stats = source_stats;
    ops->interrupt = source_interrupt;
    ops->close = source_close;
}
