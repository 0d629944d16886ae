/* Handover, the ways back: abort before the decision, return after it. */
#include "migration/handover.h"

#include <stdlib.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/handover_tmpfs.h"
#include "migration/leases.h"
#include "migration/leftover.h"
#include "migration/network_orchestrator.h"
#include "migration/postcopy.h"
#include "migration/precopy.h"
#include "wire/frame.h"

#define LEFTOVER_GRACE_MS 3000
#define RETURN_TIMEOUT_MS 300000
#define RETURN_PATIENCE_MS 60000
#define RETURN_PAUSE_MS 1000

/* One undo step: a failure is logged and remembered, the next step is tried all the same. */
static void note(struct fm_migration *m, int rc, const struct fm_error *step, struct fm_error *err)
{
    if (rc >= 0)
        return;
    fm_log(FM_LOG_ERROR, FM_MIGRATION_MANAGER, "Rollback of %s: %s.", m->id, step->text);
    if (err && !err->code)
        *err = *step;
}

/* A CRIU that was killed in mid-dump leaves the container's sockets in repair mode, where they are
 * deaf. */
static int revive_sockets(struct fm_migration *m, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    fm_autofree pid_t *pids = NULL;
    size_t count = 0;
    int rc = p->runtime.ops->processes(p->runtime.ctx, m->container->name, &pids, &count, err);
    return rc < 0 ? rc : p->network.ops->unrepair(p->network.ctx, pids, count, err);
}

/* Lets the original run on. */
static void resume_original(struct fm_migration *m, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    struct fm_error e = {0};
    if (m->link)
        p->links.ops->images_abort(m->link);
    bool frozen = m->frozen || fm_journal_has(p->journal, m->id, FM_STEP_FREEZE, NULL);
    int thawed = frozen ? p->runtime.ops->freeze(p->runtime.ctx, m->container->name, false, &e) : 0;
    if (thawed < 0 && fm_handover_is_killed(m)) /* nobody is there to run on */
        frozen = false;
    else if (frozen)
        note(m, thawed, &e, err);
    if (m->dump)
        note(m, p->state.ops->dump_resume(p->state.ctx, m->dump, &e), &e, err);
    else if (fm_journal_has(p->journal, m->id, FM_STEP_DUMP, NULL))
        note(m, fm_leftover_end(m->dir, LEFTOVER_GRACE_MS, &e), &e, err);
    if (frozen)
        note(m, revive_sockets(m, &e), &e, err);
    if (frozen)
        note(m, fm_orchestrator_release(m, &e), &e, err);
    if (m->frozen)
        m->stats.downtime_rollback_ms = (double)(fm_now_us() - m->frozen_us) / 1000.0;
    m->frozen = false;
    if (m->dump)
        note(m, p->state.ops->dump_end(p->state.ctx, FM_MOVE(m->dump), false, &e), &e, err);
}

/* Tells the destination to discard what it staged. A destination that cannot be told asks for the
 * decision itself. */
static void abort_destination(struct fm_migration *m)
{
    struct fm_error e = {0};
    if (!fm_journal_has(m->parts->journal, m->id, FM_STEP_PREPARE, NULL))
        return;
    /* The old connection may stand in the middle of a stream. */
    fm_handover_disconnect(m);
    int rc = fm_handover_connect(m, 3000, &e);
    if (rc == 0) {
        json_auto_t *body = json_pack("{s:s}", "migration", m->id);
        json_auto_t *answer = m->parts->links.ops->call(m->link, FM_FRAME_ABORT, body, 20000, &e);
        rc = answer ? 0 : -1;
    }
    if (rc < 0)
        fm_warn(FM_MIGRATION_MANAGER, "The destination was not told of the rollback: %s.", e.text);
    fm_handover_disconnect(m);
}

/* Nobody but this migration writes a commit: without a record there will be none, even if the abort
 * cannot be written. */
static int decide_abort(struct fm_migration *m, bool *commit, struct fm_error *err)
{
    const struct fm_store *store = &m->parts->store;
    struct fm_error unread = {0};
    bool decided = false;
    int rc = store->ops->decide(store->ctx, m->id, false, commit, err);
    if (rc == 0 || store->ops->decision(store->ctx, m->id, &decided, commit, &unread) < 0)
        return rc;
    fm_warn(FM_MIGRATION_MANAGER, "Decision of %s cannot be written: %s.", m->id, err->text);
    *err = (struct fm_error){0};
    *commit = decided && *commit;
    return 0;
}

int fm_handover_abort(struct fm_migration *m, struct fm_error *err)
{
    struct fm_error e = {0};
    int rc = decide_abort(m, &m->committed, err);
    if (rc < 0)
        return rc;
    if (m->committed)
        return fm_error_set(err, FM_E_REFUSED, "migration %s is committed: it cannot be aborted",
                            m->id);
    struct fm_error first = {0};
    if (m->container)
        resume_original(m, &first);
    note(m, fm_precopy_unthrottle(m, &e), &e, &first);
    fm_precopy_close(m);
    abort_destination(m);
    fm_orchestrator_end_hold(m);
    fm_orchestrator_undo(m);
    note(m, fm_handover_remove_dir(m->dir, &e), &e, &first);
    if (first.code && err)
        *err = first;
    return -(int)first.code;
}

static int switch_here(void *arg, struct fm_error *err)
{
    struct fm_migration *m = arg;
    struct fm_components *p = m->parts;
    return m->has_endpoint ? p->network.ops->activate(p->network.ctx, &m->endpoint, err) : 0;
}

/* At least 1; by the journal, which knows it after a restart, too. */
static uint64_t age_of_checkpoint(struct fm_migration *m)
{
    json_auto_t *detail = NULL;
    fm_journal_has(m->parts->journal, m->id, FM_STEP_FREEZE, &detail);
    uint64_t since = (uint64_t)json_integer_value(json_object_get(detail, "at_us"));
    uint64_t now = fm_realtime_us();
    return now > since + 1000 ? (now - since) / 1000 : 1;
}

/* An earlier attempt may have let it go already. */
static int find_restored(struct fm_migration *m, bool *alive, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    struct fm_runtime_state state = {0};
    struct fm_error e = {0};
    *alive = false;
    if (!fm_journal_has(p->journal, m->id, FM_STEP_RELEASE, NULL))
        return 0;
    int rc = p->runtime.ops->state(p->runtime.ctx, m->container->name, &state, &e);
    *alive = rc == 0 && fm_streq(state.status, "running");
    if (rc == 0 || e.code == FM_E_NOT_FOUND)
        return 0;
    *err = e;
    return rc;
}

/* A found container's bundle is its owner's, and the runtime has forgotten where: what it says is
 * in the record. */
static int provide_bundle(struct fm_migration *m, const struct fm_bundle *bundle,
                          struct fm_error *err)
{
    fm_autofree char *path = fm_strf("%s/config.json", bundle->bundle);
    if (!m->container->found || fm_file_exists(path))
        return 0;
    int rc = fm_mkdir_p(bundle->bundle, 0711, err);
    return rc < 0 ? rc : fm_json_save(path, m->container->config, err);
}

/* The destination's copy is dead and gone: the checkpoint that it came from is the newest state
 * there is. */
static int restore_here(struct fm_migration *m, uint64_t *age_ms, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    struct fm_bundle bundle;
    fm_bundle_paths(&p->bundles, m->container->name, &bundle);
    struct fm_restore_plan plan = {.id = m->container->name,
                                   .dir = m->dir,
                                   .bundle = bundle.bundle,
                                   .log_path = bundle.log,
                                   .exit_path = bundle.exit};
    struct fm_restore *restore = NULL;
    bool alive = false;
    if (m->strategy != FM_STRATEGY_COLD) /* the images are without memory */
        return fm_error_set(err, FM_E_FAILED,
                            "the container died on '%s' after its original here was gone",
                            m->destination.name);
    fm_handover_tmpfs_recall(m);
    int rc = provide_bundle(m, &bundle, err);
    if (rc == 0)
        rc = fm_leftover_end(m->dir, LEFTOVER_GRACE_MS, err);
    if (rc == 0)
        rc = find_restored(m, &alive, err);
    if (alive)
        return switch_here(m, err);
    if (rc == 0)
        rc = p->runtime.ops->remove(p->runtime.ctx, m->container->name, err);
    if (rc == 0)
        rc = p->state.ops->restore_start(p->state.ctx, &plan, &restore, err);
    if (rc < 0)
        return rc;
    struct fm_restore_request request = {.timeout_ms = 60000, .tmpfs = &m->tmpfs};
    rc = p->state.ops->restore_go(p->state.ctx, restore, &request, err);
    if (rc == 0)
        rc = fm_migration_step(m, FM_STEP_RELEASE, NULL, err);
    if (rc == 0)
        rc = p->state.ops->restore_resume(p->state.ctx, restore, switch_here, m, err);
    p->state.ops->restore_end(p->state.ctx, restore);
    if (rc == 0)
        *age_ms = age_of_checkpoint(m);
    return rc;
}

/* The original still stands as it was frozen: the newest state there is. */
static int revive_original(struct fm_migration *m, uint64_t *age_ms, struct fm_error *err)
{
    struct fm_error e = {0};
    resume_original(m, &e);
    if (e.code && err)
        *err = e;
    *age_ms = age_of_checkpoint(m);
    return -(int)e.code;
}

/* The way back was gone to its end, whoever has died since. */
static bool came_back(struct fm_migration *m)
{
    json_auto_t *doc = fm_journal_return_of(m->parts->journal, m->id, FM_ROLE_DESTINATION);
    const char *stage = json_string_value(json_object_get(doc, "stage"));
    return fm_streq(stage, "running") || fm_streq(stage, "done");
}

/* `look`: only asks whether it is there. */
static int ask_back(struct fm_migration *m, bool look, struct fm_error *err)
{
    int rc = fm_handover_connect(m, 5000, err);
    if (rc < 0)
        return rc;
    json_auto_t *body = json_pack("{s:s, s:b}", "migration", m->id, "look", (int)look);
    json_auto_t *answer =
        m->parts->links.ops->call(m->link, FM_FRAME_RETURN, body, RETURN_TIMEOUT_MS, err);
    rc = answer ? 0 : fm_error_result(err);
    fm_handover_disconnect(m);
    return rc;
}

/* A migration of the destination's that is under way (EXISTS) may be the one that returns. */
static int ask_back_until_told(struct fm_migration *m, bool look, struct fm_error *err)
{
    uint64_t deadline = fm_now_ms() + RETURN_PATIENCE_MS;
    for (;;) {
        *err = (struct fm_error){0};
        if (came_back(m))
            return 0;
        int rc = ask_back(m, look, err);
        bool again = fm_handover_is_cut(err) || err->code == FM_E_EXISTS;
        if (rc == 0 || !again || fm_now_ms() >= deadline || !fm_handover_pause(m, RETURN_PAUSE_MS))
            return came_back(m) ? 0 : rc;
    }
}

static void take_lease(struct fm_migration *m)
{
    struct fm_error err = {0};
    if (m->container && fm_lease_move(m->parts, m->container, m->parts->host, NULL, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "Lease of %s: %s.", m->container->name, err.text);
}

/* It is here again: everything that still says something else is told, whatever another said. */
static int settle_return(struct fm_migration *m, struct fm_error *err)
{
    struct fm_error e = {0}, first = {0};
    fm_orchestrator_undo(m);
    take_lease(m);
    note(m, fm_precopy_unthrottle(m, &e), &e, &first);
    note(m, fm_handover_remove_dir(m->dir, &e), &e, &first);
    if (first.code && err)
        *err = first;
    return -(int)first.code;
}

int fm_handover_return(struct fm_migration *m, uint64_t *age_ms, struct fm_error *err)
{
    *age_ms = 0;
    struct fm_error e = {0};
    fm_orchestrator_end_hold(m);
    int rc = fm_migration_step(m, FM_STEP_RETURN, NULL, err);
    if (rc < 0)
        return rc;
    bool kept = m->container && !fm_journal_has(m->parts->journal, m->id, FM_STEP_DESTROY, NULL);
    /* It is given up for a copy that lives and has all of its memory, and else is all there is. */
    if (kept && m->strategy != FM_STRATEGY_COLD)
        rc = ask_back_until_told(m, true, &e);
    if (kept && rc == 0)
        rc = fm_postcopy_fill(m, &e);
    fm_precopy_close(m);
    if (kept && rc == 0)
        fm_handover_destroy(m);
    if (rc == 0)
        rc = ask_back_until_told(m, false, &e);
    if (rc < 0 && e.code == FM_E_ROLLED_BACK && m->container) {
        bool stands = !fm_journal_has(m->parts->journal, m->id, FM_STEP_DESTROY, NULL);
        fm_warn(FM_MIGRATION_MANAGER, "The container died on %s: %s.", m->destination.name, e.text);
        e = (struct fm_error){0};
        rc = stands ? revive_original(m, age_ms, &e) : restore_here(m, age_ms, &e);
    }
    if (rc == 0)
        return settle_return(m, err);
    if (err)
        *err = e;
    return rc;
}
