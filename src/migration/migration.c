#include "migration/migration.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"

/* Sums of 512 GiB of large files. */
#define BLOCKS_MEMORY (64u << 20)

static struct fm_migration *migration_alloc(struct fm_components *parts, const char *id)
{
    struct fm_migration *m = fm_xcalloc(1, sizeof(*m));
    m->parts = parts;
    snprintf(m->id, sizeof(m->id), "%s", id);
    m->dir = fm_strf("%s/%s", parts->migrations_dir, id);
    m->state_since_us = m->started_us = fm_now_us();
    m->blocks = fm_tree_blocks_new(BLOCKS_MEMORY);
    pthread_mutex_init(&m->link_lock, NULL);
    return m;
}

struct fm_migration *fm_migration_new(struct fm_components *parts,
                                      const struct fm_migration_options *options,
                                      const char *return_of, struct fm_error *err)
{
    fm_autofree char *id = fm_random_id();
    struct fm_migration *m = migration_alloc(parts, id);
    m->options = *options;
    m->strategy = options->strategy;
    snprintf(m->return_of, sizeof(m->return_of), "%s", return_of ? return_of : "");
    if (!*m->options.source)
        snprintf(m->options.source, sizeof(m->options.source), "%s", parts->host);
    m->stats.started_us = fm_realtime_us();
    json_auto_t *doc = fm_migration_to_json(m);
    if (fm_journal_create(parts->journal, m->id, FM_ROLE_SOURCE, doc, err) < 0) {
        fm_migration_free(m);
        return NULL;
    }
    return m;
}

struct fm_migration *fm_migration_load(struct fm_components *parts, const char *id,
                                       struct fm_error *err)
{
    json_auto_t *doc = fm_journal_load(parts->journal, id, err);
    if (!doc)
        return NULL;
    struct fm_migration *m = migration_alloc(parts, id);
    if (fm_migration_options_from_json(json_object_get(doc, "options"), &m->options, err) < 0) {
        fm_migration_free(m);
        return NULL;
    }
    m->fsm.state = fm_state_by_text(json_string_value(json_object_get(doc, "state")));
    const char *failed_in = json_string_value(json_object_get(doc, "failed_in"));
    m->fsm.failed_in = failed_in ? fm_state_by_text(failed_in) : FM_STATE_NONE;
    m->fsm.final = json_is_true(json_object_get(doc, "final"));
    m->strategy = fm_strategy_by_text(json_string_value(json_object_get(doc, "strategy")));
    m->left = json_incref(json_object_get(doc, "followers_left"));
    m->needs_attention = json_is_true(json_object_get(doc, "needs_attention")) &&
                         !json_is_true(json_object_get(m->left, "alone"));
    const json_t *reason = json_object_get(doc, "reason");
    const char *message = json_string_value(json_object_get(reason, "message"));
    if (message)
        fm_error_set(&m->reason,
                     fm_code_by_name(json_string_value(json_object_get(reason, "code"))), "%s",
                     message);
    const char *return_of = json_string_value(json_object_get(doc, "return_of"));
    snprintf(m->return_of, sizeof(m->return_of), "%s", return_of ? return_of : "");
    json_t *started = json_object_get(json_object_get(doc, "stats"), "started_us");
    m->stats.started_us = (uint64_t)json_integer_value(started);
    return m;
}

void fm_migration_free(struct fm_migration *m)
{
    if (!m)
        return;
    fm_container_free(m->container);
    fm_container_free(m->arrival);
    json_decref(m->needs);
    json_decref(m->left);
    json_decref(m->untold);
    fm_timeline_clear(&m->freeze);
    fm_strv_free(&m->mapped_files);
    fm_tree_blocks_free(m->blocks);
    pthread_mutex_destroy(&m->link_lock);
    fm_tmpfs_clear(&m->tmpfs);
    free(m->tmpfs_prints);
    free(m->dir);
    free(m);
}

static const char *result_of(const struct fm_migration *m)
{
    if (!m->fsm.final)
        return "running";
    return m->fsm.state == FM_STATE_COMPLETED ? "completed" : "failed";
}

/* "alone": nothing else asks for attention. */
static json_t *left_json(const struct fm_migration *m)
{
    json_t *left = json_copy(m->left);
    json_object_set_new(left, "alone", json_boolean(!m->needs_attention));
    return left;
}

bool fm_migration_is_settled(const json_t *doc)
{
    const json_t *left = json_object_get(doc, "followers_left");
    return json_is_true(json_object_get(doc, "final")) &&
           (!json_is_true(json_object_get(doc, "needs_attention")) ||
            json_is_true(json_object_get(left, "alone")));
}

json_t *fm_migration_to_json(const struct fm_migration *m)
{
    json_t *doc = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:s, s:b, s:o, s:o, s:o, s:o}", "id", m->id,
        "container", m->options.container, "source", m->options.source, "destination",
        m->options.destination, "strategy", fm_strategy_text(m->strategy), "priority",
        fm_priority_text(m->options.priority), "state",
        m->fsm.state == FM_STATE_NONE ? "NONE" : fm_state_text(m->fsm.state), "final",
        (int)m->fsm.final, "result", result_of(m), "needs_attention",
        (int)(m->needs_attention || m->left), "created", fm_json_time(m->stats.started_us),
        "updated", fm_json_time(fm_realtime_us()), "options",
        fm_migration_options_to_json(&m->options), "stats", fm_migration_stats_to_json(&m->stats));
    if (m->fsm.failed_in != FM_STATE_NONE)
        json_object_set_new(doc, "failed_in", json_string(fm_state_text(m->fsm.failed_in)));
    if (m->reason.code)
        json_object_set_new(doc, "reason",
                            json_pack("{s:s, s:s}", "code", fm_code_name(m->reason.code), "message",
                                      m->reason.text));
    if (m->left)
        json_object_set_new(doc, "followers_left", left_json(m));
    if (m->freeze.steps)
        json_object_set(doc, "freeze", m->freeze.steps);
    if (*m->strategy_reason)
        json_object_set_new(doc, "strategy_reason", json_string(m->strategy_reason));
    if (*m->return_of)
        json_object_set_new(doc, "return_of", json_string(m->return_of));
    return doc;
}

int fm_migration_save(struct fm_migration *m, struct fm_error *err)
{
    json_auto_t *doc = fm_migration_to_json(m);
    /* What asks for attention is tried again at the next start. */
    bool finished = m->fsm.final && !m->needs_attention && !m->left;
    return fm_journal_update(m->parts->journal, m->id, doc, finished, err);
}

static void publish_transition(struct fm_migration *m, const struct fm_transition *t)
{
    if (!m->parts->events)
        return;
    json_t *event = json_pack(
        "{s:s, s:o, s:s, s:s, s:s, s:s, s:s?, s:s, s:b, s:s, s:s}", "type", "transition", "at",
        fm_json_time(fm_realtime_us()), "migration", m->id, "container", m->options.container,
        "source", m->options.source, "destination", m->options.destination, "from",
        t->from == FM_STATE_NONE ? NULL : fm_state_text(t->from), "to", fm_state_text(t->to),
        "final", (int)t->final, "component", t->component, "message", t->message);
    fm_events_publish(m->parts->events, event);
}

int fm_migration_to(struct fm_migration *m, enum fm_state state, bool final, const char *component,
                    const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fm_autofree char *message = fm_vstrf(fmt, ap);
    va_end(ap);
    uint64_t now = fm_now_us();
    struct fm_transition t = {.from = m->fsm.state,
                              .to = state,
                              .final = final,
                              .component = component,
                              .message = message,
                              .duration_ms = (double)(now - m->state_since_us) / 1000.0};
    struct fm_error err = {0};
    if (fm_fsm_to(&m->fsm, state, final, &err) < 0 ||
        fm_journal_transition(m->parts->journal, m->id, &t, &err) < 0 ||
        fm_migration_save(m, &err) < 0)
        fm_log(FM_LOG_ERROR, FM_MIGRATION_MANAGER, "migration %s: %s", m->id, err.text);
    if (err.code)
        return -(int)err.code;
    m->state_since_us = now;
    enum fm_log_level level = state == FM_STATE_FAILED     ? FM_LOG_ERROR
                              : state == FM_STATE_ROLLBACK ? FM_LOG_WARN
                                                           : FM_LOG_INFO;
    fm_log_transition(level, component, t.from == FM_STATE_NONE ? NULL : fm_state_text(t.from),
                      fm_state_text(state), final, (unsigned long)t.duration_ms, "%s", message);
    publish_transition(m, &t);
    return 0;
}

int fm_migration_step(struct fm_migration *m, enum fm_step step, json_t *detail_to_steal,
                      struct fm_error *err)
{
    json_auto_t *detail = detail_to_steal;
    return fm_journal_step(m->parts->journal, m->id, step, detail, err);
}

int fm_migration_check_cancelled(const struct fm_migration *m, struct fm_error *err)
{
    if (atomic_load(&m->stopping))
        return fm_error_set(err, FM_E_CANCELLED, "cancelled: the daemon is being stopped");
    if (atomic_load(&m->expired))
        return fm_error_set(err, FM_E_TIMEOUT, "it took longer than the request allows");
    if (atomic_load(&m->cancelled))
        return fm_error_set(err, FM_E_CANCELLED, "cancelled");
    return 0;
}

/* Wakes whatever the migration's thread is blocked in, unless the decision stands. */
static void interrupt(struct fm_migration *m)
{
    atomic_store(&m->cancelled, true);
    if (m->parts->slots)
        fm_slots_wake(m->parts->slots);
    pthread_mutex_lock(&m->link_lock);
    if (m->link && !m->committed)
        m->parts->links.ops->shutdown(m->link);
    if (m->memory && !m->committed)
        m->parts->memory.ops->interrupt(m->memory);
    pthread_mutex_unlock(&m->link_lock);
}

void fm_migration_cancel(struct fm_migration *m, bool stopping)
{
    if (stopping)
        atomic_store(&m->stopping, true);
    interrupt(m);
}

void fm_migration_set_deadline(struct fm_migration *m, uint64_t phase_ms)
{
    uint64_t deadline = phase_ms ? fm_now_ms() + phase_ms : 0;
    if (deadline && m->last_deadline_ms && deadline > m->last_deadline_ms)
        deadline = m->last_deadline_ms;
    atomic_store(&m->deadline_ms, deadline);
}

void fm_migration_expire(struct fm_migration *m)
{
    uint64_t deadline = atomic_load(&m->deadline_ms);
    if (!deadline || fm_now_ms() < deadline || atomic_exchange(&m->expired, true))
        return;
    interrupt(m);
}

void fm_migration_stand_aside(struct fm_migration *m)
{
    struct fm_error ignored = {0}; /* written at the next change */
    m->needs_attention = true;
    fm_migration_save(m, &ignored);
    if (m->in_slot)
        fm_slots_release(m->parts->slots);
    m->in_slot = false;
}

void fm_migration_go_on(struct fm_migration *m)
{
    m->needs_attention = false;
    if (!m->in_slot)
        fm_slots_force(m->parts->slots);
    m->in_slot = true;
}

void fm_migration_progress(struct fm_migration *m, const char *phase, int percent, uint64_t bytes)
{
    if (!m->parts->events)
        return;
    json_t *event = json_pack("{s:s, s:o, s:s, s:s, s:i, s:I}", "type", "progress", "at",
                              fm_json_time(fm_realtime_us()), "migration", m->id, "phase", phase,
                              "percent", percent, "bytes", (json_int_t)bytes);
    fm_events_publish(m->parts->events, event);
}

void fm_migration_memory_progress(struct fm_migration *m, const char *phase)
{
    const struct fm_migration_stats *s = &m->stats;
    uint64_t done = s->memory_bytes > s->dirty_bytes ? s->memory_bytes - s->dirty_bytes : 0;
    int percent = s->memory_bytes ? (int)(done * 100 / s->memory_bytes) : 0;
    struct fm_error ignored = {0};
    fm_migration_save(m, &ignored);
    if (!m->parts->events)
        return;
    json_t *event = json_pack(
        "{s:s, s:o, s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:f}", "type", "progress", "at",
        fm_json_time(fm_realtime_us()), "migration", m->id, "phase", phase, "percent", percent,
        "bytes", (json_int_t)s->pages.wire_bytes, "round", (json_int_t)s->rounds, "remaining",
        (json_int_t)s->dirty_bytes, "dirty_rate", (json_int_t)s->dirty_rate, "throughput",
        (json_int_t)s->throughput, "expected_downtime_ms", s->expected_downtime_ms);
    fm_events_publish(m->parts->events, event);
}
