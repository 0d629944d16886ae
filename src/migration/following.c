#include "migration/following.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/incoming.h"
#include "migration/leases.h"
#include "migration/readdress.h"

#define RETRY_MAX_S 60

/* --- the journey: what the journal keeps --- */

/* "10.88.0.5" of "10.88.0.5/24"; new reference. */
static json_t *bare(const char *address)
{
    return json_stringn(address, strcspn(address, "/"));
}

/* {"move":{…},"before":{"<follower>": what it found},"told":["<follower>"]}: a later daemon may not
 * find the container any more. Who is done with it leaves `before`, and stays in `told`. */
static json_t *new_journey(const struct fm_migration *m)
{
    const struct fm_endpoint *from = &m->endpoint, *to = fm_readdress_endpoint(m);
    return json_pack("{s:{s:s, s:s, s:s, s:o, s:o, s:o, s:o}, s:{}, s:[]}", "move", "network",
                     to->network, "mac", to->mac, "destination_address", m->destination.address,
                     "old_ip", bare(from->ip), "new_ip", bare(to->ip), "old_ip6", bare(from->ip6),
                     "new_ip6", bare(to->ip6), "before", "told");
}

/* What followers are told; borrows from both. */
static struct fm_move move_of(const struct fm_migration *m, const json_t *journey)
{
    const json_t *move = json_object_get(journey, "move");
    const char *there = fm_json_text(move, "destination_address");
    return (struct fm_move){
        .migration = m->id,
        .container = m->options.container,
        .network = fm_json_text(move, "network"),
        .mac = fm_json_text(move, "mac"),
        .old_ip = fm_json_text(move, "old_ip"),
        .new_ip = fm_json_text(move, "new_ip"),
        .old_ip6 = fm_json_text(move, "old_ip6"),
        .new_ip6 = fm_json_text(move, "new_ip6"),
        .source = m->options.source,
        .destination = m->options.destination,
        .source_address = m->parts->advertise ? m->parts->advertise : "",
        .destination_address = *there ? there : m->destination.address,
    };
}

/* NULL: no follower takes part. New reference. */
static json_t *known_journey(const struct fm_migration *m)
{
    json_t *journey = NULL;
    return fm_journal_has(m->parts->journal, m->id, FM_STEP_FOLLOW, &journey) ? journey : NULL;
}

static json_t *before_of(const json_t *journey, const char *name)
{
    return json_object_get(json_object_get(journey, "before"), name);
}

/* One of them is done with it: what others change there from now on is none of ours. */
static int take_out(struct fm_migration *m, json_t *journey, const char *name, struct fm_error *err)
{
    json_auto_t *shorter = json_deep_copy(journey);
    json_object_del(json_object_get(shorter, "before"), name);
    int rc = fm_journal_amend(m->parts->journal, m->id, FM_STEP_FOLLOW, shorter, err);
    if (rc == 0)
        json_object_del(json_object_get(journey, "before"), name);
    return rc;
}

static const struct fm_follower *follower_of(const struct fm_components *p, const char *name)
{
    for (size_t i = 0; i < p->follower_count; i++)
        if (fm_streq(p->followers[i].name, name))
            return &p->followers[i];
    return NULL;
}

/* --- there --- */

/* The manager's own look at deadlines comes only every second. */
static int check_patience(void *ctx, struct fm_error *err)
{
    struct fm_migration *m = ctx;
    fm_migration_expire(m);
    return fm_migration_check_cancelled(m, err);
}

static int prepare_follower(struct fm_migration *m, const struct fm_follower *f, json_t *journey,
                            struct fm_error *err)
{
    struct fm_move move = move_of(m, journey);
    move.cancel = (struct fm_cancel){.check = check_patience, .ctx = m};
    json_t *before = NULL;
    int rc = f->ops->read(f->ctx, &move, &before, err);
    if (rc < 0)
        json_decref(before);
    if (rc < 0 || !before)
        return rc;
    json_object_set_new(json_object_get(journey, "before"), f->name, before);
    json_array_append_new(json_object_get(journey, "told"), json_string(f->name));
    rc = fm_migration_step(m, FM_STEP_FOLLOW, json_deep_copy(journey), err);
    return rc < 0 ? rc : f->ops->prepare(f->ctx, &move, before, err);
}

/* What this migration reads should not be what an earlier one has left behind. */
static void settle_earlier(struct fm_migration *m)
{
    const struct fm_components *p = m->parts;
    json_auto_t *ids = fm_journal_left(p->journal, m->options.container, UINT64_MAX);
    size_t i;
    json_t *id;
    json_array_foreach(ids, i, id)
    {
        struct fm_error err = {0};
        struct fm_migration *earlier = fm_migration_load(m->parts, json_string_value(id), &err);
        if (!earlier)
            continue;
        fm_following_retry(earlier);
        fm_migration_save(earlier, &err);
        fm_migration_free(earlier);
    }
}

/* The way back of a migration is told by the one that it takes back. */
int fm_following_prepare(struct fm_migration *m, struct fm_error *err)
{
    const struct fm_components *p = m->parts;
    json_auto_t *journey = new_journey(m);
    int rc = 0;
    if (!m->has_endpoint || *m->return_of)
        return 0;
    settle_earlier(m);
    for (size_t i = 0; i < p->follower_count && rc == 0; i++) {
        rc = prepare_follower(m, &p->followers[i], journey, err);
        if (rc == 0)
            rc = fm_migration_check_cancelled(m, err);
    }
    return rc;
}

int fm_following_switch(struct fm_migration *m, struct fm_error *err)
{
    const struct fm_components *p = m->parts;
    json_auto_t *journey = known_journey(m);
    struct fm_move move = move_of(m, journey);
    int rc = 0;
    for (size_t i = 0; i < p->follower_count && rc == 0; i++) {
        const struct fm_follower *f = &p->followers[i];
        const json_t *before = before_of(journey, f->name);
        rc = before ? f->ops->switch_over(f->ctx, &move, before, err) : 0;
    }
    return rc;
}

/* --- the end --- */

static int check_stopping(void *ctx, struct fm_error *err)
{
    const struct fm_migration *m = ctx;
    return atomic_load(&m->stopping)
               ? fm_error_set(err, FM_E_CANCELLED, "the daemon is being stopped")
               : 0;
}

static int end_one(struct fm_migration *m, const struct fm_follower *f, json_t *journey, bool undo,
                   struct fm_error *err)
{
    struct fm_move move = move_of(m, journey);
    const json_t *before = before_of(journey, f->name);
    if (!before)
        return 0;
    if (m->fsm.final) /* again, and again later if need be */
        move.cancel = (struct fm_cancel){.check = check_stopping, .ctx = m};
    int rc = undo ? f->ops->undo(f->ctx, &move, before, err)
                  : f->ops->finish(f->ctx, &move, before, err);
    return rc < 0 ? rc : take_out(m, journey, f->name, err);
}

/* One that took part, and is configured no more. */
static void find_unknown(const struct fm_migration *m, const json_t *journey, struct fm_error *err)
{
    const char *name;
    json_t *before;
    json_object_foreach(json_object_get(journey, "before"), name, before)
    {
        if (!follower_of(m->parts, name))
            fm_error_set(err, FM_E_NOT_FOUND,
                         "'%s' is not configured any more: it still has what the migration had "
                         "made there; configure it again and restart the daemon",
                         name);
    }
}

static json_t *names_in(const json_t *before)
{
    json_t *names = json_array();
    const char *name;
    json_t *found;
    json_object_foreach((json_t *)(uintptr_t)before, name, found)
        json_array_append_new(names, json_string(name));
    return names;
}

/* A second at first, twice as long each time. */
static void note_left(struct fm_migration *m, const json_t *journey, const struct fm_error *why)
{
    json_int_t attempts = json_integer_value(json_object_get(m->left, "attempts"));
    uint64_t delay_s = attempts < 6 ? 1u << attempts : RETRY_MAX_S;
    uint64_t retry_us = fm_realtime_us() + delay_s * 1000000;
    if (!fm_streq(fm_following_problem(m), why->text))
        fm_log(FM_LOG_ERROR, FM_NETWORK_MANAGER, "Migration %s: %s. It is tried again.", m->id,
               why->text);
    json_decref(m->left);
    m->left =
        json_pack("{s:o, s:s, s:I, s:o, s:I}", "followers",
                  names_in(json_object_get(journey, "before")), "problem", why->text, "attempts",
                  attempts + 1, "next", fm_json_time(retry_us), "retry_us", (json_int_t)retry_us);
}

static void end_all(struct fm_migration *m, json_t *journey, bool undo)
{
    const struct fm_components *p = m->parts;
    struct fm_error first = {0};
    find_unknown(m, journey, &first);
    for (size_t i = 0; i < p->follower_count; i++) {
        const struct fm_follower *f = &p->followers[undo ? p->follower_count - 1 - i : i];
        struct fm_error err = {0};
        if (end_one(m, f, journey, undo, &err) < 0 && !first.code)
            first = err;
        else if (err.code)
            fm_log(FM_LOG_ERROR, FM_NETWORK_MANAGER, "Migration %s: %s.", m->id, err.text);
    }
    if (!first.code)
        fm_journal_undone(p->journal, m->id, FM_STEP_FOLLOW, &first);
    if (first.code) {
        note_left(m, journey, &first);
        return;
    }
    json_decref(m->left);
    m->left = NULL;
}

void fm_following_end(struct fm_migration *m, bool undo)
{
    json_auto_t *journey = known_journey(m);
    if (journey)
        end_all(m, journey, undo);
}

const char *fm_following_problem(const struct fm_migration *m)
{
    return fm_json_text(m->left, "problem");
}

/* --- what is left --- */

/* True when a lease says that the container is on another host than where the migration ended. */
static bool is_elsewhere(const struct fm_migration *m, bool undo)
{
    const char *expected = undo ? m->options.source : m->options.destination;
    json_auto_t *leases = fm_leases_list(m->parts, NULL, NULL);
    size_t i;
    json_t *lease;
    json_array_foreach(leases, i, lease)
    {
        if (fm_streq(fm_json_text(lease, "owner"), m->options.container))
            return !fm_streq(fm_json_text(lease, "host"), expected);
    }
    return false;
}

/* A later migration has told it something else. What other hosts have told is not known here: only
 * one that guards itself may still be told then. */
static bool is_superseded(const struct fm_migration *m, const char *name, bool undo)
{
    const struct fm_components *p = m->parts;
    const struct fm_follower *f = follower_of(p, name);
    if (fm_journal_told_later(p->journal, m->id, m->options.container, name))
        return true;
    if (f && f->ops->guarded)
        return false;
    return fm_journal_came_later(p->journal, m->id, m->options.container) || is_elsewhere(m, undo);
}

static void drop_superseded(struct fm_migration *m, json_t *journey, bool undo)
{
    json_auto_t *names = names_in(json_object_get(journey, "before"));
    size_t i;
    json_t *entry;
    json_array_foreach(names, i, entry)
    {
        struct fm_error err = {0};
        const char *name = json_string_value(entry);
        if (!is_superseded(m, name, undo))
            continue;
        fm_warn(FM_NETWORK_MANAGER,
                "Follower '%s' is not told of migration %s any more: a later migration of %s has "
                "superseded it there (%s).",
                name, m->id, m->options.container, fm_following_problem(m));
        if (take_out(m, journey, name, &err) < 0)
            fm_warn(FM_NETWORK_MANAGER, "Migration %s: %s.", m->id, err.text);
    }
}

static void publish(const struct fm_migration *m, const char *message)
{
    json_t *left = json_object_get(m->left, "followers");
    if (m->parts->events)
        fm_events_publish(m->parts->events,
                          json_pack("{s:s, s:o, s:s, s:s, s:s, s:O*, s:s}", "type", "followers",
                                    "at", fm_json_time(fm_realtime_us()), "migration", m->id,
                                    "container", m->options.container, "component",
                                    FM_NETWORK_MANAGER, "left", left, "message", message));
}

void fm_following_retry(struct fm_migration *m)
{
    json_auto_t *journey = known_journey(m);
    bool undo = m->fsm.state != FM_STATE_COMPLETED;
    if (journey) {
        drop_superseded(m, journey, undo);
        end_all(m, journey, undo);
    } else {
        json_decref(m->left);
        m->left = NULL;
    }
    publish(m, m->left ? fm_following_problem(m) : "All followers are done with it.");
    if (!m->left)
        fm_info(FM_NETWORK_MANAGER, "All followers are done with migration %s of %s.", m->id,
                m->options.container);
}
