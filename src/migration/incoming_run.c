/* The incoming migration from READY on: commit, verification, completion, discarding, recovery. */
#include "migration/incoming_internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "migration/handover_tmpfs.h"
#include "migration/leases.h"
#include "migration/leftover.h"
#include "migration/lifecycle.h"

#define RESTORE_TIMEOUT_MS 120000
#define LEFTOVER_GRACE_MS 5000

/* --- READY --- */

/* overlayfs must not have its upper directory changed under a mount: a fresh mount sees the last
 * files. */
static int renew_root(struct fm_incoming *in, struct fm_error *err)
{
    fm_cleanup(fm_strv_free) struct fm_strv lower = {0};
    if (!in->root_changed)
        return 0;
    int rc = fm_lifecycle_layer_dirs(in->parts, in->container, &lower, err);
    if (rc == 0)
        rc = fm_bundle_unmount(&in->bundle, err);
    return rc < 0 ? rc : fm_bundle_mount(&in->bundle, &lower, err);
}

static int go_restore(struct fm_incoming *in, const char *root, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    struct fm_restore_request request = {.timeout_ms = RESTORE_TIMEOUT_MS,
                                         .root = root,
                                         .lazy_pages = in->lazy,
                                         .tcp_close = in->left != NULL,
                                         .tmpfs = &in->tmpfs};
    int rc = fm_tmpfs_seal(&in->tmpfs, in->dir, err);
    return rc < 0 ? rc : p->state.ops->restore_go(p->state.ctx, in->restore, &request, err);
}

/* With what is promised to it, for the next daemon to go on with. */
static int write_ready(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    struct fm_reserved own = {0};
    if (p->reservations)
        own = fm_reserved_for(p->reservations, in->id);
    json_auto_t *detail =
        json_pack("{s:I, s:I}", "memory", (json_int_t)own.memory, "disk", (json_int_t)own.disk);
    return fm_journal_step(p->journal, in->id, FM_STEP_READY, detail, err);
}

int fm_incoming_frozen(struct fm_incoming *in, const json_t *body, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    uint64_t bytes = 0;
    if (in->stage != FM_STAGE_ARMED || !in->receiver)
        return fm_error_set(err, FM_E_PROTOCOL, "FROZEN in stage %s", fm_stage_text(in->stage));
    fm_timeline_start(&in->freeze);
    int rc = fm_restore_receive_finish(FM_MOVE(in->receiver), json_object_get(body, "manifest"),
                                       &bytes, err);
    fm_timeline_mark(&in->freeze, "images verified");
    if (rc == 0)
        rc = fm_incoming_memory_settle(in, err);
    fm_timeline_mark(&in->freeze, "page store settled");
    if (rc == 0 && in->has_endpoint)
        rc = p->network.ops->set_neighbours(p->network.ctx, &in->endpoint,
                                            json_object_get(body, "neighbours"), err);
    fm_timeline_mark(&in->freeze, "neighbours set");
    if (rc == 0)
        rc = renew_root(in, err);
    fm_timeline_mark(&in->freeze, "root file system");
    if (rc == 0)
        rc = go_restore(in, in->root_changed ? in->bundle.rootfs : NULL, err);
    fm_timeline_mark(&in->freeze, "tasks restored");
    if (rc == 0)
        fm_incoming_memory_restored(in);
    if (rc == 0)
        rc = write_ready(in, err);
    if (rc == 0)
        rc = fm_incoming_enter(in, FM_STAGE_READY, err);
    fm_timeline_mark(&in->freeze, "journal written");
    return rc;
}

/* --- COMMIT --- */

/* The last moment before the first instruction: from here on packets come to this host. */
static int switch_network(void *arg, struct fm_error *err)
{
    struct fm_incoming *in = arg;
    struct fm_components *p = in->parts;
    return in->has_endpoint ? p->network.ops->activate(p->network.ctx, &in->endpoint, err) : 0;
}

static int release(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    int rc = fm_journal_step(p->journal, in->id, FM_STEP_RELEASE, NULL, err);
    return rc < 0
               ? rc
               : p->state.ops->restore_resume(p->state.ctx, in->restore, switch_network, in, err);
}

static int renew_network(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    json_t *known = NULL;
    if (!in->has_endpoint)
        return 0;
    p->network.ops->neighbours(p->network.ctx, &in->endpoint, &known, NULL);
    json_auto_t *neighbours = known;
    int rc = fm_incoming_provide_network(in, true, err);
    if (rc == 0 && neighbours)
        p->network.ops->set_neighbours(p->network.ctx, &in->endpoint, neighbours, NULL);
    return rc;
}

/* The held restore died with its daemon or its CRIU: the images are here, verified, so it is
 * restored again. */
static int restore_again(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    int rc = fm_leftover_end(in->dir, LEFTOVER_GRACE_MS, err);
    if (rc == 0)
        rc = p->runtime.ops->remove(p->runtime.ctx, in->container->name, err);
    if (rc == 0)
        rc = renew_root(in, err);
    if (rc == 0)
        rc = renew_network(in, err);
    if (rc == 0)
        rc = fm_incoming_memory_pager(in, err);
    if (rc == 0)
        rc = fm_incoming_start_restore(in, err);
    if (rc == 0)
        rc = go_restore(in, in->bundle.rootfs, err);
    return rc < 0 ? rc : release(in, err);
}

/* A runtime that does not answer tells nothing: that is an error, not a death. */
static int look(struct fm_incoming *in, bool *alive, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    struct fm_runtime_state state = {0};
    struct fm_error e = {0};
    int rc = p->runtime.ops->state(p->runtime.ctx, in->container->name, &state, &e);
    *alive = rc == 0 && !fm_streq(state.status, "stopped");
    if (rc == 0 || e.code == FM_E_NOT_FOUND)
        return 0;
    *err = e;
    return rc;
}

static int enter_registry(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    int rc = fm_journal_step(p->journal, in->id, FM_STEP_REGISTER, NULL, err);
    json_auto_t *doc = fm_container_to_json(in->container);
    return rc < 0 ? rc
                  : p->store.ops->put(p->store.ctx, "container", in->container->name, doc, err);
}

/* A step of the undoing: what it left in the error counts only when it failed. */
static void note(int rc, struct fm_error *e, size_t *n)
{
    if (rc < 0)
        (*n)++;
    else
        e[*n] = (struct fm_error){0};
}

/* Removes the volumes that this migration made, and no others: one that was refused is somebody's.
 */
static int discard_volumes(struct fm_incoming *in, struct fm_error *err)
{
    json_auto_t *doc = fm_journal_load(in->parts->journal, in->id, err);
    int rc = doc ? 0 : fm_error_result(err);
    size_t i;
    json_t *step;
    json_array_foreach(json_object_get(doc, "steps"), i, step)
    {
        const char *path =
            json_string_value(json_object_get(json_object_get(step, "detail"), "path"));
        if (path &&
            fm_streq(json_string_value(json_object_get(step, "step")),
                     fm_step_text(FM_STEP_STAGE_VOLUME)) &&
            fm_remove_tree(path, err) < 0)
            rc = fm_error_result(err);
    }
    return rc;
}

/* Undoes all that was staged. Tries every step; the first error is kept. */
static int discard(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    struct fm_error e[9] = {0};
    size_t n = 0;
    fm_journal_step(p->journal, in->id, FM_STEP_DISCARD, NULL, NULL);
    fm_restore_receive_abort(FM_MOVE(in->receiver));
    if (in->restore)
        p->state.ops->restore_end(p->state.ctx, FM_MOVE(in->restore));
    else if (fm_journal_has(p->journal, in->id, FM_STEP_RESTORE, NULL))
        note(fm_leftover_end(in->dir, 0, &e[n]), e, &n);
    if (fm_journal_has(p->journal, in->id, FM_STEP_RESTORE, NULL))
        note(p->runtime.ops->remove(p->runtime.ctx, in->container->name, &e[n]), e, &n);
    note(fm_incoming_memory_discard(in, &e[n]), e, &n);
    bool staged =
        in->has_endpoint && fm_journal_has(p->journal, in->id, FM_STEP_STAGE_NETWORK, NULL);
    if (staged)
        note(p->network.ops->unstage(p->network.ctx, &in->endpoint, &e[n]), e, &n);
    if (fm_journal_has(p->journal, in->id, FM_STEP_STAGE_BUNDLE, NULL))
        note(fm_bundle_remove(&in->bundle, &e[n]), e, &n);
    if (fm_journal_has(p->journal, in->id, FM_STEP_STAGE_VOLUME, NULL))
        note(discard_volumes(in, &e[n]), e, &n);
    if (fm_journal_has(p->journal, in->id, FM_STEP_REGISTER, NULL)) {
        int rc = p->store.ops->remove(p->store.ctx, "container", in->container->name, &e[n]);
        note(e[n].code == FM_E_NOT_FOUND ? 0 : rc, e, &n);
        if (rc == 0)
            fm_journal_undone(p->journal, in->id, FM_STEP_REGISTER, NULL);
    }
    in->stage = FM_STAGE_DISCARDED; /* its layers are not in use any more */
    if (fm_journal_has(p->journal, in->id, FM_STEP_STAGE_LAYER, NULL))
        note(fm_lifecycle_prune_layers(p, &e[n]), e, &n);
    note(fm_handover_remove_dir(in->dir, &e[n]), e, &n);
    if (p->reservations)
        fm_reserve_release(p->reservations, in->id);
    for (size_t i = 0; i < n; i++)
        fm_log(FM_LOG_ERROR, FM_CONTAINER_MANAGER, "Discarding %s: %s.", in->id, e[i].text);
    in->unclean = n > 0;
    fm_incoming_enter(in, FM_STAGE_DISCARDED, NULL);
    if (staged) /* its entry is that of its lease from here on */
        fm_lease_leave(p, in->container, &in->endpoint);
    if (n > 0 && err)
        *err = e[0];
    return n > 0 ? -(int)e[0].code : 0;
}

/* What could not be removed, once more; unless a container that came later has the name by now. */
int fm_incoming_discard_again(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    json_auto_t *later = p->store.ops->get(p->store.ctx, "container", in->container->name, NULL);
    if (!later || fm_journal_has(p->journal, in->id, FM_STEP_REGISTER, NULL))
        return discard(in, err);
    in->unclean = false;
    int rc = fm_handover_remove_dir(in->dir, err);
    return rc < 0 ? rc : fm_incoming_enter(in, FM_STAGE_DISCARDED, err);
}

/* Before the source hears that it is gone it must be: else two might run. The stage stays when a
 * process is left. */
static int discard_for_good(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    enum fm_stage stage = in->stage;
    fm_autofree pid_t *pids = NULL;
    size_t count = 0;
    struct fm_error e = {0};
    discard(in, &e);
    int rc = p->runtime.ops->processes(p->runtime.ctx, in->container->name, &pids, &count, err);
    if ((rc == 0 && count == 0) || rc == -FM_E_NOT_FOUND)
        return 0;
    fm_incoming_enter(in, stage, NULL);
    return rc < 0 ? rc
                  : fm_error_set(err, FM_E_FAILED, "processes of '%s' do not end on host '%s': %s",
                                 in->container->name, p->host, e.text);
}

/* After COMMIT and still no way to run it: gives it up for good, so that the source may restore its
 * copy. */
static int give_up(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_error why = *err;
    fm_log(FM_LOG_ERROR, FM_CONTAINER_MANAGER, "%s cannot run here: %s.", in->container->name,
           why.text);
    if (discard_for_good(in, err) < 0)
        return fm_error_result(err);
    *err = why;
    return fm_error_recode(err, FM_E_ROLLED_BACK);
}

/* An earlier daemon may have let it go: then it runs, and must not be restored over itself. */
static int find_released(struct fm_incoming *in, bool *alive, struct fm_error *err)
{
    *alive = false;
    if (in->restore || !fm_journal_has(in->parts->journal, in->id, FM_STEP_RELEASE, NULL))
        return 0;
    int rc = fm_leftover_end(in->dir, LEFTOVER_GRACE_MS, err);
    return rc < 0 ? rc : look(in, alive, err);
}

/* Daemon and pager have died while it ran on an unfinished memory: it starts once more from the
 * state that it came with. */
static int restore_without_pager(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    fm_log(FM_LOG_ERROR, FM_STATE_SYNCHRONIZER,
           "The pager of %s has died with its daemon: the container is restored once more from its "
           "checkpoint and page store. What it did since the migration is lost.",
           in->container->name);
    int rc = p->runtime.ops->destroy_processes(p->runtime.ctx, in->container->name, err);
    return rc < 0 ? rc : restore_again(in, err);
}

/* It runs since an earlier daemon, which has left its pager to this one. */
static int adopt(struct fm_incoming *in, struct fm_error *err)
{
    bool whole = true;
    int rc = fm_incoming_memory_recover(in, &whole, err);
    if (rc == 0 && !whole)
        return restore_without_pager(in, err);
    return rc < 0 ? rc : switch_network(in, err);
}

static int run(struct fm_incoming *in, struct fm_error *err)
{
    bool alive = false;
    int rc = find_released(in, &alive, err);
    if (rc < 0 || alive)
        return rc < 0 ? rc : adopt(in, err);
    rc = in->restore ? release(in, err) : restore_again(in, err);
    if (rc < 0) {
        fm_warn(FM_CONTAINER_MANAGER, "Resuming %s failed, restoring it again: %s.",
                in->container->name, err->text);
        in->parts->state.ops->restore_end(in->parts->state.ctx, FM_MOVE(in->restore));
        *err = (struct fm_error){0};
        rc = restore_again(in, err);
    }
    return rc < 0 ? give_up(in, err) : 0;
}

static json_t *running_answer(struct fm_incoming *in)
{
    return json_pack("{s:I, s:o}", "resumed_at_us", (json_int_t)fm_realtime_us(), "steps",
                     fm_timeline_take(&in->freeze));
}

/* Ends the runtime's bookkeeping behind a resumed restore; not part of anybody's downtime. */
static void settle_restore(struct fm_incoming *in)
{
    struct fm_components *p = in->parts;
    if (in->restore)
        p->state.ops->restore_end(p->state.ctx, FM_MOVE(in->restore));
}

/* It runs: from here on this is told, even if it could not be written down yet. */
static int enter_running(struct fm_incoming *in, struct fm_error *err)
{
    if (in->registered)
        return 0;
    int rc = enter_registry(in, err);
    if (rc == 0)
        rc = fm_incoming_enter(in, FM_STAGE_RUNNING, err);
    in->stage = FM_STAGE_RUNNING;
    in->registered = rc == 0;
    return rc;
}

/* After the commit has been answered: from now on the lease of its address is here. */
static void take_lease(struct fm_incoming *in)
{
    struct fm_error err = {0};
    if (fm_lease_move(in->parts, in->container, in->parts->host, NULL, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "Lease of %s: %s.", in->container->name, err.text);
}

json_t *fm_incoming_commit(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    bool commit = false;
    if (in->stage == FM_STAGE_RUNNING || in->stage == FM_STAGE_DONE)
        return running_answer(in);
    if (in->stage != FM_STAGE_READY && in->stage != FM_STAGE_COMMITTED) {
        fm_error_set(err, in->stage == FM_STAGE_DISCARDED ? FM_E_ROLLED_BACK : FM_E_PROTOCOL,
                     "COMMIT in stage %s", fm_stage_text(in->stage));
        return NULL;
    }
    if (!in->restore && fm_incoming_memory_is_cut_off(in)) {
        fm_error_set(err, FM_E_CLOSED, "the source serves no pages yet");
        return NULL;
    }
    fm_timeline_start(&in->freeze);
    /* The same durable record as on the source: from here on it runs, whatever dies. */
    if (p->store.ops->decide(p->store.ctx, in->id, true, &commit, err) < 0)
        return NULL;
    in->stage = FM_STAGE_COMMITTED;
    fm_timeline_mark(&in->freeze, "decision recorded");
    if (fm_journal_step(p->journal, in->id, FM_STEP_RUN, NULL, err) < 0 || run(in, err) < 0)
        return NULL;
    fm_timeline_mark(&in->freeze, "tasks resumed");
    json_t *answer = running_answer(in);
    struct fm_error e = {0};
    if (enter_running(in, &e) < 0)
        fm_log(FM_LOG_ERROR, FM_CONTAINER_MANAGER, "%s runs, but: %s.", in->container->name,
               e.text);
    return answer;
}

/* --- VERIFY, COMPLETE, RETURN --- */

int fm_incoming_verify(struct fm_incoming *in, json_t **report, struct fm_error *err)
{
    char text[256] = "alive";
    if (in->stage == FM_STAGE_DONE) { /* asked by a source that died while it was cleaning up */
        *report = json_pack("{s:s}", "report", "complete");
        return 0;
    }
    if (in->stage != FM_STAGE_RUNNING)
        return fm_error_set(err, FM_E_PROTOCOL, "VERIFY in stage %s", fm_stage_text(in->stage));
    int rc = enter_running(in, err);
    if (rc < 0)
        return rc;
    take_lease(in);
    settle_restore(in);
    /* The runtime would take a processor from the container for 10 ms just when all wait for its
     * answers: it is asked only when there is nobody. */
    bool alive = fm_runtime_has_processes(&in->parts->runtime, in->container->name);
    if (!alive && (rc = look(in, &alive, err)) < 0)
        return rc;
    if (!alive)
        return fm_error_set(err, FM_E_FAILED, "container '%s' does not run", in->container->name);
    rc = fm_incoming_check_health(in, text, err);
    rc = fm_incoming_check_dependencies(in, rc, err);
    if (rc < 0 && !*in->return_of)
        return rc;
    if (rc < 0) /* this is the rollback: there is no better place to send it to */
        fm_warn(FM_CONTAINER_MANAGER, "Container %s is back, but: %s.", in->container->name,
                err->text);
    else
        fm_info(FM_CONTAINER_MANAGER, "Container %s is healthy: %s.", in->container->name, text);
    if (err)
        *err = (struct fm_error){0};
    *report = json_pack("{s:s}", "report", text);
    return 0;
}

int fm_incoming_complete(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    if (in->stage == FM_STAGE_DONE)
        return 0;
    if (in->stage != FM_STAGE_RUNNING)
        return fm_error_set(err, FM_E_PROTOCOL, "COMPLETE in stage %s", fm_stage_text(in->stage));
    settle_restore(in);
    for (size_t i = 0; i < in->container->volume_count; i++)
        p->store.ops->remove(p->store.ctx, "volume", in->container->volumes[i].source, NULL);
    if (p->reservations)
        fm_reserve_release(p->reservations, in->id);
    int rc = enter_running(in, err);
    if (rc == 0)
        rc = fm_incoming_memory_complete(in, err);
    if (rc == 0)
        rc = fm_handover_remove_dir(in->dir, err);
    if (rc == 0)
        rc = fm_incoming_enter(in, FM_STAGE_DONE, err);
    if (rc < 0)
        in->stage = FM_STAGE_RUNNING; /* and asks for it again */
    return rc;
}

int fm_incoming_abort(struct fm_incoming *in, const char *why, struct fm_error *err)
{
    if (in->stage == FM_STAGE_DISCARDED)
        return 0;
    if (in->stage >= FM_STAGE_COMMITTED)
        return fm_error_set(err, FM_E_REFUSED, "migration %s is committed", in->id);
    fm_info(FM_CONTAINER_MANAGER, "Incoming %s is discarded: %s.", in->container->name, why);
    return discard(in, err);
}

/* The migration that takes it back: "running", "completed", "failed", or "" when there is none.
 * What it leaves frozen behind is not dead. */
static void way_back(struct fm_incoming *in, char result[16])
{
    json_auto_t *doc = fm_journal_return_of(in->parts->journal, in->id, FM_ROLE_SOURCE);
    const char *text = json_string_value(json_object_get(doc, "result"));
    snprintf(result, 16, "%s", text ? text : "");
}

json_t *fm_incoming_way_back(const struct fm_incoming *in)
{
    json_t *request =
        json_pack("{s:s, s:s}", "container", in->container->name, "destination", in->source.name);
    const char *ip = json_string_value(json_object_get(in->left, "ip"));
    if (ip) {
        json_object_set(request, "new_network", json_object_get(in->left, "network"));
        json_object_set_new(request, "new_address", json_stringn(ip, strcspn(ip, "/")));
    }
    return request;
}

int fm_incoming_give_back(struct fm_incoming *in, bool *gone, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    bool alive = false;
    char back[16];
    way_back(in, back);
    *gone = fm_streq(back, "completed");
    if (*gone)
        return 0;
    if (fm_streq(back, "running"))
        return fm_error_set(err, FM_E_EXISTS, "container '%s' is on its way back already",
                            in->container->name);
    if (in->stage == FM_STAGE_DISCARDED)
        return fm_error_set(err, FM_E_ROLLED_BACK, "container is not on host '%s' any more",
                            p->host);
    if (in->stage != FM_STAGE_RUNNING)
        return fm_error_set(err, FM_E_PROTOCOL, "RETURN in stage %s", fm_stage_text(in->stage));
    settle_restore(in);
    int rc = look(in, &alive, err);
    if (rc < 0 || alive)
        return rc;
    if ((rc = discard_for_good(in, err)) < 0)
        return rc;
    return fm_error_set(err, FM_E_ROLLED_BACK, "container '%s' is dead on host '%s'",
                        in->container->name, p->host);
}

/* --- recovery --- */

/* COMMIT had been received. */
static int recover_committed(struct fm_incoming *in, struct fm_error *err)
{
    in->stage = FM_STAGE_COMMITTED;
    if (fm_incoming_memory_is_cut_off(in))
        return 0; /* the source comes back with its COMMIT */
    int rc = run(in, err);
    return rc < 0 ? rc : enter_running(in, err);
}

static int recover_running(struct fm_incoming *in, struct fm_error *err)
{
    bool alive = false;
    in->registered = true;
    int rc = look(in, &alive, err);
    return rc == 0 && alive ? adopt(in, err) : rc;
}

static void promise_again(struct fm_incoming *in, const json_t *ready)
{
    struct fm_components *p = in->parts;
    json_int_t memory = json_integer_value(json_object_get(ready, "memory"));
    json_int_t disk = json_integer_value(json_object_get(ready, "disk"));
    if (p->reservations && (memory > 0 || disk > 0))
        fm_reserve_force(p->reservations, in->id, (uint64_t)memory, (uint64_t)disk);
}

/* Its network is not there, perhaps: the next start tries again, and until then it is seen. */
static void ask_for_attention(struct fm_components *p, const char *id)
{
    json_auto_t *doc = fm_journal_load(p->journal, id, NULL);
    if (doc && json_object_set_new(doc, "needs_attention", json_true()) == 0)
        fm_journal_update(p->journal, id, doc, false, NULL);
}

int fm_incoming_recover(struct fm_incoming_table *t, const char *id, struct fm_error *err)
{
    struct fm_incoming *in = fm_incoming_load(t, id, err);
    if (!in) {
        ask_for_attention(t->parts, id);
        return fm_error_result(err);
    }
    struct fm_components *p = in->parts;
    bool decided = false, commit = false;
    in->root_changed = in->container->layers.count > 0;
    if (in->stage == FM_STAGE_DISCARDED)
        return fm_incoming_discard_again(in, err);
    json_auto_t *ready = NULL;
    if (!fm_journal_has(p->journal, id, FM_STEP_READY, &ready))
        return fm_incoming_abort(in, "the daemon was restarted", err);
    promise_again(in, ready);
    /* A registry that cannot be read: the source knows, too. */
    int rc = p->store.ops->decision(p->store.ctx, id, &decided, &commit, err);
    fm_incoming_memory_reopen(in);
    if (in->stage == FM_STAGE_RUNNING)
        rc = recover_running(in, err);
    else if (rc == 0 && decided && commit)
        rc = recover_committed(in, err);
    else
        in->stage = FM_STAGE_READY;
    if (fm_incoming_has_questions(in))
        fm_incoming_start_asking(in);
    return rc;
}
