#include "migration/postcopy.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/handover.h"
#include "migration/precopy.h"
#include "state/memory_index.h"
#include "wire/frame.h"

#define CONNECT_TIMEOUT_MS 3000
/* Less than a second until either side knows that the other is lost. */
#define ANSWER_TIMEOUT_MS 900
#define PAUSE_MS 200
/* So long the original's memory waits for the copy's: to give it back takes a processor, to keep it
 * takes memory. */
#define ORIGINAL_WAIT_MS 1000
/* Without missing pages a destination that cannot be reached goes on alone. */
#define PATIENCE_MS 10000
#define SAVE_EVERY_MS 1000

/* Also in a daemon that was started after the commit: the index tells. */
bool fm_postcopy_is_needed(const struct fm_migration *m)
{
    fm_autofree char *path = fm_strf("%s/memory", m->dir);
    if (m->memory)
        return m->leave_pages && !m->filled;
    return !m->filled && fm_memory_index_missing_in(path) > 0;
}

int fm_postcopy_serve(struct fm_migration *m, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    struct fm_memory_plan plan = fm_precopy_plan(m);
    struct fm_memory_source *source = m->memory;
    int rc = 0;
    if (source || !p->memory.ops || !fm_postcopy_is_needed(m))
        return 0;
    rc = p->memory.ops->recall(p->memory.ctx, &plan, &source, err);
    pthread_mutex_lock(&m->link_lock);
    m->memory = source;
    pthread_mutex_unlock(&m->link_lock);
    m->leave_pages = true;
    if (rc == 0 && (rc = p->memory.ops->serve(source, err)) < 0)
        fm_precopy_close(m); /* streams that carry nothing would look as if all were well */
    return rc;
}

static void note(struct fm_migration *m, const json_t *answer)
{
    m->stats.faults = (uint64_t)json_integer_value(json_object_get(answer, "faults"));
    m->stats.fault_us_max = (uint64_t)json_integer_value(json_object_get(answer, "fault_us_max"));
    m->stats.dirty_bytes = (uint64_t)json_integer_value(json_object_get(answer, "total")) -
                           (uint64_t)json_integer_value(json_object_get(answer, "filled"));
    if (m->memory)
        m->parts->memory.ops->stats(m->memory, &m->stats.pages);
    m->filled = json_is_true(json_object_get(answer, "done"));
}

static int ask(struct fm_migration *m, struct fm_error *err)
{
    int rc = fm_handover_connect(m, CONNECT_TIMEOUT_MS, err);
    if (rc < 0)
        return rc;
    json_auto_t *body = json_pack("{s:s}", "migration", m->id);
    json_auto_t *answer =
        m->parts->links.ops->call(m->link, FM_FRAME_FILL, body, ANSWER_TIMEOUT_MS, err);
    if (!answer)
        return fm_error_result(err);
    note(m, answer);
    return 0;
}

/* Perhaps only an answer was lost. Else the streams are made again; the destination keeps what it
 * has. */
static int reconnect(struct fm_migration *m, struct fm_error *err)
{
    fm_handover_disconnect(m);
    int rc = ask(m, err);
    if (rc == 0 || !fm_handover_is_cut(err))
        return rc;
    *err = (struct fm_error){0};
    fm_precopy_close(m);
    return fm_postcopy_serve(m, err);
}

static int mend(struct fm_migration *m, struct fm_error *err)
{
    fm_log(FM_LOG_ERROR, FM_STATE_SYNCHRONIZER,
           "%s runs on %s, but lacks memory that is still here, and the connection is lost: %s.",
           m->container->name, m->destination.name, err->text);
    fm_migration_stand_aside(m);
    for (;;) {
        if (!fm_handover_pause(m, PAUSE_MS))
            return fm_error_set(err, FM_E_CANCELLED,
                                "the daemon is being stopped; goes on at its next start");
        *err = (struct fm_error){0};
        int rc = reconnect(m, err);
        if (rc < 0 && fm_handover_is_cut(err))
            continue;
        fm_migration_go_on(m);
        return rc;
    }
}

static int try_again(struct fm_migration *m, struct fm_error *err)
{
    fm_handover_disconnect(m);
    *err = (struct fm_error){0};
    return fm_handover_pause(m, PAUSE_MS)
               ? 0
               : fm_error_set(err, FM_E_CANCELLED, "the daemon is being stopped");
}

/* A source that nobody needs any more does not wait for ever. */
static int go_on_alone(struct fm_migration *m, const struct fm_error *err)
{
    fm_warn(FM_STATE_SYNCHRONIZER, "%s fills its memory unwatched: %s.", m->container->name,
            err->text);
    m->filled = true;
    return 0;
}

int fm_postcopy_fill(struct fm_migration *m, struct fm_error *err)
{
    uint64_t since = fm_now_us(), heard_ms = fm_now_ms(), saved_ms = heard_ms;
    int rc = 0;
    if (m->strategy == FM_STRATEGY_COLD)
        return 0;
    while (rc == 0 && !m->filled) {
        bool needed = fm_postcopy_is_needed(m);
        if (!needed && !m->destroyed && fm_now_us() - since >= ORIGINAL_WAIT_MS * 1000u)
            fm_handover_destroy(m);
        rc = ask(m, err);
        if (rc == 0)
            heard_ms = fm_now_ms();
        else if (fm_handover_is_cut(err) && needed)
            rc = mend(m, err);
        else if (fm_handover_is_cut(err))
            rc = fm_now_ms() - heard_ms < PATIENCE_MS ? try_again(m, err) : go_on_alone(m, err);
        if (rc == 0 && fm_now_ms() - saved_ms > SAVE_EVERY_MS) {
            fm_migration_memory_progress(m, "fill");
            saved_ms = fm_now_ms();
        }
    }
    m->stats.fill_ms = (double)(fm_now_us() - since) / 1000.0;
    return rc;
}
