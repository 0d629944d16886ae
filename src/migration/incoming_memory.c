/* The memory of an incoming container: from the page streams over the store and the pager to its
 * place. */
#include "migration/incoming_internal.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/options.h"
#include "migration/preflight.h"
#include "state/memory_index.h"

/* One answer to FILL takes so long at most. */
#define FILL_WAIT_MS 200
/* A container whose memory is all in the store is filled at memory speed. */
#define COMPLETE_WAIT_MS 60000
/* While pages are missing the source speaks several times a second. */
#define SOURCE_SILENCE_MS 500

static const struct fm_memory_ops *ops_of(const struct fm_incoming *in)
{
    return in->parts->memory.ops;
}

static char *work_dir(const struct fm_incoming *in)
{
    return fm_strf("%s/work", in->dir);
}

/* The container has grown since its need was measured. In the thread of a page stream. */
static int grow(void *ctx, uint64_t bytes, uint64_t *max_bytes, struct fm_error *err)
{
    struct fm_incoming *in = ctx;
    struct fm_components *p = in->parts;
    struct fm_reserve_request request = {.id = in->id,
                                         .container = in->container->name,
                                         .memory = bytes,
                                         .memory_available = fm_facts_memory_available()};
    char size[32];
    int rc = fm_reserve_grow(p->reservations, &request, max_bytes, err);
    if (rc == 0)
        fm_debug(FM_RESOURCE_ALLOCATOR, "%s grows on its way: %s is promised to it now.",
                 in->container->name, fm_format_size(*max_bytes, size, sizeof(size)));
    return rc;
}

int fm_incoming_memory_stage(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    struct fm_page_room room = {.max_bytes = UINT64_MAX};
    if (!in->lazy)
        return 0;
    if (!ops_of(in))
        return fm_error_set(err, FM_E_REFUSED, "host '%s' takes strategy cold only", p->host);
    int rc = fm_journal_step(p->journal, in->id, FM_STEP_STAGE_PAGES, NULL, err);
    if (p->reservations)
        room = (struct fm_page_room){
            .max_bytes = fm_reserved_for(p->reservations, in->id).memory, .grow = grow, .ctx = in};
    bool scattered = fm_streq(in->strategy, fm_strategy_text(FM_STRATEGY_POST_COPY));
    return rc < 0 ? rc
                  : ops_of(in)->sink_open(p->memory.ctx, in->id, scattered, &room, &in->sink, err);
}

int fm_incoming_memory_attach(struct fm_incoming *in, struct fm_connection *c, struct fm_error *err)
{
    if (!in->sink || in->stage >= FM_STAGE_DONE)
        return fm_error_set(err, FM_E_PROTOCOL, "pages in stage %s", fm_stage_text(in->stage));
    int rc = ops_of(in)->sink_attach(in->sink, c, err);
    if (rc == 0)
        atomic_fetch_add(&in->page_streams, 1);
    return rc;
}

int fm_incoming_memory_pager(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    if (!in->lazy)
        return 0;
    fm_autofree char *work = work_dir(in);
    int rc = fm_journal_step(p->journal, in->id, FM_STEP_PAGER, NULL, err);
    if (rc == 0 && !in->sink)
        rc = ops_of(in)->sink_find(p->memory.ctx, in->id, work, &in->sink, err);
    if (rc < 0)
        return rc;
    ops_of(in)->sink_stop(in->sink);
    return ops_of(in)->sink_pager(in->sink, work, err);
}

/* Bytes that the source kept at the freeze; 0 when it is not frozen yet. */
static uint64_t kept_bytes(const struct fm_incoming *in)
{
    fm_autofree char *path = fm_strf("%s/memory", in->dir);
    return fm_memory_index_missing_in(path);
}

/* Some of it is on the source, and CRIU touches pages: without them it would wait for ever. */
bool fm_incoming_memory_is_cut_off(struct fm_incoming *in)
{
    return in->sink && kept_bytes(in) > 0 && !ops_of(in)->sink_served(in->sink);
}

/* What an earlier daemon had received. */
void fm_incoming_memory_reopen(struct fm_incoming *in)
{
    fm_autofree char *work = work_dir(in);
    if (in->lazy && ops_of(in) && !in->sink)
        ops_of(in)->sink_find(in->parts->memory.ctx, in->id, work, &in->sink, NULL);
}

int fm_incoming_memory_settle(struct fm_incoming *in, struct fm_error *err)
{
    fm_autofree char *index = fm_strf("%s/memory", in->dir);
    return in->lazy ? ops_of(in)->sink_settle(in->sink, index, err) : 0;
}

void fm_incoming_memory_restored(struct fm_incoming *in)
{
    if (in->lazy)
        ops_of(in)->sink_restored(in->sink);
}

/* All pages are in place: nothing of the store is needed any more. */
static void finish(struct fm_incoming *in)
{
    ops_of(in)->sink_close(FM_MOVE(in->sink), true);
    fm_journal_undone(in->parts->journal, in->id, FM_STEP_PAGER, NULL);
    fm_journal_undone(in->parts->journal, in->id, FM_STEP_STAGE_PAGES, NULL);
    fm_info(FM_STATE_SYNCHRONIZER, "All memory of %s is in place.", in->container->name);
}

static void found_again(struct fm_incoming *in)
{
    in->source_lost = false;
    fm_info(FM_STATE_SYNCHRONIZER, "Source %s of %s is back.", in->source.name,
            in->container->name);
    fm_incoming_enter(in, in->stage, NULL);
}

json_t *fm_incoming_fill(struct fm_incoming *in, uint64_t *missing, struct fm_error *err)
{
    struct fm_pager_status status = {.done = true};
    *missing = 0;
    if (in->stage < FM_STAGE_RUNNING || in->stage == FM_STAGE_DISCARDED) {
        fm_error_set(err, FM_E_PROTOCOL, "FILL in stage %s", fm_stage_text(in->stage));
        return NULL;
    }
    if (in->sink && ops_of(in)->sink_wait(in->sink, FILL_WAIT_MS, &status, err) < 0)
        return NULL;
    *missing = status.missing_bytes;
    if (in->source_lost)
        found_again(in);
    if (in->sink && status.done)
        finish(in);
    return json_pack("{s:b, s:I, s:I, s:I, s:I, s:I}", "done", (int)status.done, "total",
                     (json_int_t)status.total_bytes, "filled", (json_int_t)status.filled_bytes,
                     "missing", (json_int_t)status.missing_bytes, "faults",
                     (json_int_t)status.faults, "fault_us_max", (json_int_t)status.fault_us_max);
}

int fm_incoming_memory_complete(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_pager_status status = {0};
    if (!in->sink)
        return 0;
    int rc = 0;
    for (uint64_t waited = 0; rc == 0 && !status.done && waited < COMPLETE_WAIT_MS;
         waited += FILL_WAIT_MS)
        rc = ops_of(in)->sink_wait(in->sink, FILL_WAIT_MS, &status, err);
    if (rc == 0 && !status.done)
        rc = fm_error_set(err, FM_E_TIMEOUT, "the memory of '%s' is not all in place",
                          in->container->name);
    if (rc == 0)
        finish(in);
    return rc;
}

/* Its tasks are dead by now. */
int fm_incoming_memory_discard(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    struct fm_error e = {0};
    fm_autofree char *work = work_dir(in);
    int rc = 0;
    if (!in->sink && ops_of(in) && fm_journal_has(p->journal, in->id, FM_STEP_STAGE_PAGES, NULL))
        rc = ops_of(in)->sink_find(p->memory.ctx, in->id, work, &in->sink, &e);
    if (in->sink)
        ops_of(in)->sink_close(FM_MOVE(in->sink), true);
    return rc < 0 && e.code != FM_E_NOT_FOUND
               ? fm_error_set(err, e.code, "its page store stays: %.900s", e.text)
               : 0;
}

void fm_incoming_memory_leave(struct fm_incoming *in)
{
    if (!in->sink)
        return;
    if (in->stage < FM_STAGE_RUNNING)
        ops_of(in)->sink_stop(in->sink);
    ops_of(in)->sink_close(FM_MOVE(in->sink), false);
}

/* Of the pages that the source kept, as far as is known at this moment. */
static uint64_t missing_now(struct fm_incoming *in)
{
    struct fm_pager_status status = {0};
    struct fm_error err = {0};
    if (in->sink && in->stage == FM_STAGE_RUNNING)
        ops_of(in)->sink_wait(in->sink, 0, &status, &err);
    return status.missing_bytes;
}

bool fm_incoming_heard(struct fm_incoming *in, const void *from)
{
    pthread_mutex_lock(&in->lock);
    in->heard_from = from;
    in->heard_ms = fm_now_ms();
    in->missing_seen = missing_now(in);
    bool needed = in->missing_seen > 0;
    pthread_mutex_unlock(&in->lock);
    return needed;
}

void fm_incoming_hung_up(struct fm_incoming *in, const void *from)
{
    pthread_mutex_lock(&in->lock);
    bool elsewhere = in->stage == FM_STAGE_RUNNING && in->heard_from && in->heard_from != from;
    if (in->heard_from == from)
        in->heard_from = NULL;
    pthread_mutex_unlock(&in->lock);
    if (!elsewhere)
        fm_incoming_orphaned(in);
}

/* Somebody whose pages come is only busy. */
void fm_incoming_unheard(struct fm_incoming *in)
{
    pthread_mutex_lock(&in->lock);
    uint64_t missing = missing_now(in);
    bool still = missing == in->missing_seen;
    in->missing_seen = missing;
    if (still && fm_now_ms() - in->heard_ms >= SOURCE_SILENCE_MS)
        fm_incoming_memory_orphaned(in);
    pthread_mutex_unlock(&in->lock);
}

void fm_incoming_interrupt(struct fm_incoming *in)
{
    struct fm_components *p = in->parts;
    struct fm_error err = {0};
    if (in->stage == FM_STAGE_ARMED &&
        p->runtime.ops->destroy_processes(p->runtime.ctx, in->container->name, &err) < 0)
        fm_warn(FM_CONTAINER_MANAGER, "Interrupting the restore of %s: %s.", in->container->name,
                err.text);
}

void fm_incoming_pages_ended(struct fm_incoming *in)
{
    if (atomic_fetch_sub(&in->page_streams, 1) == 1 && kept_bytes(in) > 0)
        fm_incoming_interrupt(in);
}

/* The source went away: without missing pages nobody needs it. */
void fm_incoming_memory_orphaned(struct fm_incoming *in)
{
    uint64_t missing = missing_now(in);
    if (missing == 0 || in->source_lost)
        return;
    in->source_lost = true;
    fm_log(FM_LOG_ERROR, FM_STATE_SYNCHRONIZER,
           "Source %s of %s is lost after the commit: %llu MiB of its memory are still there. "
           "Processes that need them stand still until it is back.",
           in->source.name, in->container->name, (unsigned long long)(missing >> 20));
    fm_incoming_enter(in, in->stage, NULL);
}

int fm_incoming_memory_recover(struct fm_incoming *in, bool *whole, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    struct fm_pager_status status = {0};
    struct fm_error e = {0};
    fm_autofree char *work = work_dir(in);
    *whole = true;
    if (!in->lazy || !fm_journal_has(p->journal, in->id, FM_STEP_PAGER, NULL))
        return 0;
    if (!ops_of(in))
        return fm_error_set(err, FM_E_FAILED, "the pager does not work here any more");
    int rc = in->sink ? 0 : ops_of(in)->sink_find(p->memory.ctx, in->id, work, &in->sink, &e);
    if (rc == -FM_E_NOT_FOUND)
        return 0;
    if (rc == 0)
        rc = ops_of(in)->sink_wait(in->sink, 0, &status, &e);
    *whole = rc != -FM_E_FAILED && rc != -FM_E_NOT_FOUND;
    if (rc < 0 && *whole && rc != -FM_E_CLOSED)
        *err = e;
    return rc < 0 && *whole && rc != -FM_E_CLOSED ? rc : 0;
}
