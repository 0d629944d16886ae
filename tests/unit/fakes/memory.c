/* Memory that travels on its own: a version, in a store of the destination or still on the source.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "fakes/world.h"
#include "state/memory_index.h"

struct fm_memory_source {
    struct host *host;
    char id[16], dir[256], index[300];
    unsigned int version;
    bool leave;
};

struct fm_memory_sink {
    struct host *host;
    char id[16];
    struct fm_page_room room;
};

struct store *store_of(struct host *h, const char *id)
{
    for (int i = 0; i < WORLD_JOBS; i++)
        if (*h->stores[i].id && fm_streq(h->stores[i].id, id))
            return &h->stores[i];
    return NULL;
}

static json_t *memory_facts(void *ctx)
{
    (void)ctx;
    return json_pack("{s:s, s:b, s:b}", "tracker", "pagemap-scan", "pager", 1, "skeleton", 1);
}

/* ---- source ---- */

static struct store *there(const struct fm_memory_source *s)
{
    struct host *to = other_host(s->host);

    return to->up ? store_of(to, s->id) : NULL;
}

static int lost(struct passage *p, struct fm_error *err)
{
    return world_leave(p, fm_error_set(err, FM_E_CLOSED, "the page streams are lost"), err);
}

static struct fm_memory_source *source_new(struct host *h, const struct fm_memory_plan *plan)
{
    struct fm_memory_source *s = fm_xcalloc(1, sizeof(*s));

    s->host = h;
    snprintf(s->id, sizeof(s->id), "%s", plan->migration);
    snprintf(s->dir, sizeof(s->dir), "%s", plan->dir);
    snprintf(s->index, sizeof(s->index), "%s/memory", s->dir);
    return s;
}

static int source_open(void *ctx, const struct fm_memory_plan *plan,
                       struct fm_memory_source **source, struct fm_error *err)
{
    struct passage p;

    if (!world_enter(&p, "memory.open"))
        return world_fail(&p, err);
    struct fm_memory_source *s = source_new(ctx, plan);
    int rc = there(s) ? world_leave(&p, 0, err) : lost(&p, err);
    if (rc < 0)
        free(s);
    else
        *source = s;
    return rc;
}

static int source_recall(void *ctx, const struct fm_memory_plan *plan,
                         struct fm_memory_source **source, struct fm_error *err)
{
    int rc = source_open(ctx, plan, source, err);

    if (rc == 0)
        (*source)->leave = true;
    return rc;
}

static int source_round(struct fm_memory_source *s, const pid_t *pids, size_t count,
                        fm_memory_tick tick, void *arg, struct fm_memory_round *round,
                        struct fm_error *err)
{
    struct passage p;

    (void)pids;
    (void)count;
    if (!world_enter(&p, "memory.round"))
        return world_fail(&p, err);
    *round = (struct fm_memory_round){.present_bytes = 1 << 20,
                                      .dirty_bytes = 1 << 16,
                                      .interval_us = 1000000,
                                      .send_us = 1000,
                                      .processes = 1};
    if (!there(s))
        return lost(&p, err);
    return world_leave(&p, tick(arg, err), err);
}

static int source_prepare_freeze(struct fm_memory_source *s, const pid_t *pids, size_t count,
                                 struct fm_error *err)
{
    struct passage p;

    (void)s;
    (void)pids;
    (void)count;
    return world_enter(&p, "memory.prepare_freeze") ? world_leave(&p, 0, err) : world_fail(&p, err);
}

/* The seized copy of this host. */
static const struct copy *seized(const struct host *h)
{
    for (int i = 0; i < WORLD_COPIES; i++)
        if (h->copies[i].seized)
            return &h->copies[i];
    return NULL;
}

static int save_index(struct fm_memory_source *s, struct fm_error *err)
{
    struct fm_process_memory process = {.pid = 1, .inner_pid = 1};
    struct fm_memory_scan scan = {.items = &process, .count = 1};

    fm_ranges_append(&process.present, 0, fm_page_size());
    fm_ranges_append(&process.dirty, 0, fm_page_size());
    int rc = fm_memory_index_save(s->index, &scan, s->leave, err);
    fm_ranges_clear(&process.present);
    fm_ranges_clear(&process.dirty);
    return rc;
}

static int source_freeze(struct fm_memory_source *s, const pid_t *pids, size_t count, bool leave,
                         struct fm_memory_round *round, struct fm_error *err)
{
    struct passage p;

    (void)pids;
    (void)count;
    if (!world_enter(&p, "memory.freeze"))
        return world_fail(&p, err);
    if (!seized(s->host))
        world_broken("the last pages were looked for before all stood still");
    else
        s->version = seized(s->host)->version;
    s->leave = leave;
    *round = (struct fm_memory_round){.present_bytes = 1 << 20, .dirty_bytes = 1 << 12};
    return world_leave(&p, save_index(s, err), err);
}

static const char *source_filter_dir(const struct fm_memory_source *s)
{
    return s->dir;
}

static int source_finish(struct fm_memory_source *s, uint64_t timeout_ms, const char **index,
                         struct fm_error *err)
{
    struct passage p;

    (void)timeout_ms;
    if (!world_enter(&p, "memory.finish"))
        return world_fail(&p, err);
    struct store *store = there(s);
    if (!store)
        return lost(&p, err);
    *index = s->index;
    store->version = s->version;
    store->missing = s->leave;
    return world_leave(&p, 0, err);
}

static void source_verify_begin(struct fm_memory_source *s)
{
    (void)s;
}

static void source_unwatch(struct fm_memory_source *s)
{
    (void)s;
}

static int source_verify_end(struct fm_memory_source *s, struct fm_error *err)
{
    struct passage p;

    (void)s;
    return world_enter(&p, "memory.verify") ? world_leave(&p, 0, err) : world_fail(&p, err);
}

static int source_serve(struct fm_memory_source *s, struct fm_error *err)
{
    struct passage p;

    if (!world_enter(&p, "memory.serve"))
        return world_fail(&p, err);
    struct store *store = there(s);
    if (!store)
        return lost(&p, err);
    store->served_by = s->host->incarnation;
    return world_leave(&p, 0, err);
}

static void source_stats(struct fm_memory_source *s, struct fm_page_stats *stats)
{
    (void)s;
    *stats = (struct fm_page_stats){0};
}

static void source_interrupt(struct fm_memory_source *s)
{
    (void)s;
}

static void source_close(struct fm_memory_source *s)
{
    free(s);
}

/* ---- destination ---- */

static struct fm_memory_sink *sink_new(struct host *h, const char *id)
{
    struct fm_memory_sink *s = fm_xcalloc(1, sizeof(*s));

    s->host = h;
    snprintf(s->id, sizeof(s->id), "%s", id);
    return s;
}

static int sink_open(void *ctx, const char *migration, bool scattered,
                     const struct fm_page_room *room, struct fm_memory_sink **sink,
                     struct fm_error *err)
{
    struct host *h = ctx;
    struct passage p;

    (void)scattered;
    if (!world_enter(&p, "memory.sink_open"))
        return world_fail(&p, err);
    for (int i = 0; i < WORLD_JOBS && !store_of(h, migration); i++)
        if (!*h->stores[i].id)
            snprintf(h->stores[i].id, sizeof(h->stores[i].id), "%s", migration);
    int rc = world_leave(&p, 0, err);
    if (rc == 0) {
        *sink = sink_new(h, migration);
        (*sink)->room = *room;
    }
    return rc;
}

int fake_sink_needs(struct fm_memory_sink *s, uint64_t bytes, struct fm_error *err)
{
    if (bytes <= s->room.max_bytes)
        return 0;
    return s->room.grow(s->room.ctx, bytes, &s->room.max_bytes, err);
}

static int sink_find(void *ctx, const char *migration, const char *work_dir,
                     struct fm_memory_sink **sink, struct fm_error *err)
{
    struct passage p;

    (void)work_dir;
    if (!world_enter(&p, "memory.sink_find"))
        return world_fail(&p, err);
    if (!store_of(ctx, migration))
        return world_leave(&p, fm_error_set(err, FM_E_NOT_FOUND, "no page store"), err);
    int rc = world_leave(&p, 0, err);
    if (rc == 0)
        *sink = sink_new(ctx, migration);
    return rc;
}

static int sink_pager(struct fm_memory_sink *s, const char *work_dir, struct fm_error *err)
{
    struct passage p;

    (void)work_dir;
    if (!world_enter(&p, "memory.sink_pager"))
        return world_fail(&p, err);
    store_of(s->host, s->id)->pager = true;
    return world_leave(&p, 0, err);
}

static int sink_settle(struct fm_memory_sink *s, const char *index, struct fm_error *err)
{
    struct passage p;

    (void)index;
    if (!world_enter(&p, "memory.sink_settle"))
        return world_fail(&p, err);
    store_of(s->host, s->id)->settled = true;
    return world_leave(&p, 0, err);
}

static void sink_restored(struct fm_memory_sink *s)
{
    (void)s;
}

/* The daemon on the other side that serves is still the one that began to. */
static bool is_served(const struct fm_memory_sink *s, const struct store *store)
{
    const struct host *from = other_host(s->host);

    return from->up && store->served_by == from->incarnation;
}

static int sink_wait(struct fm_memory_sink *s, uint64_t timeout_ms, struct fm_pager_status *status,
                     struct fm_error *err)
{
    struct store *store = store_of(s->host, s->id);
    struct passage p;

    (void)timeout_ms;
    *status = (struct fm_pager_status){.missing_bytes = store->missing};
    if (!world_enter(&p, "memory.sink_wait"))
        return world_fail(&p, err);
    if (!store->pager)
        return world_leave(&p, fm_error_set(err, FM_E_FAILED, "no pager"), err);
    if (store->missing && !is_served(s, store))
        return world_leave(&p, fm_error_set(err, FM_E_CLOSED, "the source is gone"), err);
    store->missing = false;
    *status = (struct fm_pager_status){.done = true};
    return world_leave(&p, 0, err);
}

static bool sink_served(struct fm_memory_sink *s)
{
    return is_served(s, store_of(s->host, s->id));
}

static void sink_stop(struct fm_memory_sink *s)
{
    struct store *store = store_of(s->host, s->id);

    if (store && !world_is_dead())
        store->pager = false;
}

static void sink_close(struct fm_memory_sink *s, bool remove)
{
    struct store *store = s ? store_of(s->host, s->id) : NULL;

    if (store && remove && !world_is_dead())
        *store = (struct store){0};
    free(s);
}

const struct fm_memory_ops fake_memory_ops = {
    .facts = memory_facts,
    .open = source_open,
    .recall = source_recall,
    .round = source_round,
    .prepare_freeze = source_prepare_freeze,
    .freeze = source_freeze,
    .filter_dir = source_filter_dir,
    .finish = source_finish,
    .verify_begin = source_verify_begin,
    .verify_end = source_verify_end,
    .unwatch = source_unwatch,
    .serve = source_serve,
    .stats = source_stats,
    .interrupt = source_interrupt,
    .close = source_close,
    .sink_open = sink_open,
    .sink_pager = sink_pager,
    .sink_settle = sink_settle,
    .sink_restored = sink_restored,
    .sink_wait = sink_wait,
    .sink_served = sink_served,
    .sink_stop = sink_stop,
    .sink_close = sink_close,
    .sink_find = sink_find,
};
