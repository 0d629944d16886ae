#include "migration/handover.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/handover_files.h"
#include "migration/handover_tmpfs.h"
#include "migration/leases.h"
#include "migration/leftover.h"
#include "migration/log_pipe.h"
#include "migration/network_orchestrator.h"
#include "migration/networks.h"
#include "migration/postcopy.h"
#include "migration/precopy.h"
#include "migration/readdress.h"
#include "wire/frame.h"

#define CONNECT_TIMEOUT_MS 5000
#define COMMIT_TIMEOUT_MS 30000
#define ATTENTION_AFTER_MS 30000
#define VERIFY_PAUSE_MS 500
#define LEFTOVER_GRACE_MS 3000

static double ms_since(uint64_t since_us)
{
    return (double)(fm_now_us() - since_us) / 1000.0;
}

int fm_handover_connect(struct fm_migration *m, uint64_t timeout_ms, struct fm_error *err)
{
    if (m->link)
        return 0;
    struct fm_link *link = m->parts->links.ops->open(m->parts->links.ctx, &m->destination,
                                                     m->options.bandwidth_bytes, timeout_ms, err);
    if (!link)
        return fm_error_result(err);
    pthread_mutex_lock(&m->link_lock);
    m->link = link;
    pthread_mutex_unlock(&m->link_lock);
    return 0;
}

void fm_handover_disconnect(struct fm_migration *m)
{
    pthread_mutex_lock(&m->link_lock);
    struct fm_link *link = FM_MOVE(m->link);
    pthread_mutex_unlock(&m->link_lock);
    if (!link)
        return;
    m->stats.wire_bytes += m->parts->links.ops->bytes(link);
    m->parts->links.ops->close(link);
}

/* One control frame about this migration; `fields` is stolen and may be NULL. */
static json_t *call(struct fm_migration *m, enum fm_frame_type type, json_t *fields,
                    uint64_t timeout_ms, struct fm_error *err)
{
    json_auto_t *body = fields ? fields : json_object();
    json_object_set_new(body, "migration", json_string(m->id));
    return m->parts->links.ops->call(m->link, type, body, timeout_ms, err);
}

static int call_void(struct fm_migration *m, enum fm_frame_type type, json_t *fields,
                     uint64_t timeout_ms, struct fm_error *err)
{
    json_auto_t *answer = call(m, type, fields, timeout_ms, err);
    return answer ? 0 : fm_error_result(err);
}

/* --- PREPARATION --- */

/* Where the destination asks for the decision when it cannot be told. */
static void describe_source(struct fm_components *p, struct fm_host *self)
{
    json_auto_t *doc = p->store.ops->get(p->store.ctx, "host", p->host, NULL);
    if (!doc || fm_host_from_json(doc, self, NULL) < 0)
        *self = (struct fm_host){0};
    snprintf(self->name, sizeof(self->name), "%s", p->host);
    snprintf(self->address, sizeof(self->address), "%s", p->advertise ? p->advertise : "");
}

int fm_handover_prepare(struct fm_migration *m, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    struct fm_host self;
    describe_source(p, &self);
    int rc = fm_handover_tmpfs_find(m, err);
    if (rc == 0)
        rc = fm_migration_step(m, FM_STEP_PREPARE,
                               json_pack("{s:s, s:o}", "destination", m->options.destination,
                                         "tmpfs", fm_tmpfs_to_json(&m->tmpfs)),
                               err);
    if (rc < 0)
        return rc;
    json_t *body =
        json_pack("{s:o, s:o, s:s, s:s, s:s, s:O?}", "container",
                  fm_container_to_json(fm_readdress_container(m)), "source", fm_host_to_json(&self),
                  "return_of", m->return_of, "strategy", fm_strategy_text(m->strategy), "priority",
                  fm_priority_text(m->options.priority), "needs", m->needs);
    json_object_set_new(body, "tmpfs", fm_tmpfs_to_json(&m->tmpfs));
    json_object_set_new(body, "network",
                        fm_networks_document(p, fm_readdress_container(m)->network));
    json_object_set_new(body, "left", fm_readdress_left(m));
    json_auto_t *prepared = call(m, FM_FRAME_PREPARE, body, m->options.preparation_timeout_ms, err);
    if (!prepared)
        return fm_error_result(err);
    /* A destination that does not know them would leave gaps. */
    if (!json_is_true(json_object_get(prepared, "patches")))
        fm_tree_blocks_free(FM_MOVE(m->blocks));
    rc = fm_handover_send_layers(m, json_object_get(prepared, "missing_layers"), err);
    if (rc == 0)
        rc = fm_orchestrator_prepare(m, err);
    if (rc < 0)
        return rc;
    m->upper_since_us = fm_realtime_us();
    rc = fm_handover_tmpfs_attach(m, err);
    if (rc == 0)
        rc = fm_handover_send_files(m, 0, false, err);
    if (rc == 0)
        rc = fm_handover_send_log(m, err);
    fm_migration_progress(m, "files", 100, m->stats.file_bytes);
    return rc;
}

/* --- EXECUTION --- */

static int arm(struct fm_migration *m, struct fm_error *err)
{
    fm_autofree char *path = fm_strf("%s/images/descriptors.json", m->dir);
    json_t *descriptors = json_null();
    if (fm_file_exists(path) && !(descriptors = fm_json_load(path, err)))
        return fm_error_result(err);
    int rc = fm_migration_step(m, FM_STEP_ARM, NULL, err);
    if (rc < 0) {
        json_decref(descriptors);
        return rc;
    }
    return call_void(m, FM_FRAME_ARM, json_pack("{s:o}", "descriptors", descriptors),
                     m->options.execution_timeout_ms, err);
}

/* What the container knows of its neighbours; without it the destination asks by ARP. */
static json_t *neighbours(struct fm_migration *m)
{
    struct fm_components *p = m->parts;
    struct fm_error err = {0};
    json_t *list = NULL;
    if (m->has_endpoint && !m->arrival &&
        p->network.ops->neighbours(p->network.ctx, &m->endpoint, &list, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "Neighbours of %s: %s.", m->container->name, err.text);
    return list ? list : json_array();
}

/* CRIU is started and about to seize the tasks. */
static int on_freezing(void *arg, struct fm_error *err)
{
    int rc = fm_precopy_last_round(arg, err);
    return rc < 0 ? rc : fm_orchestrator_settle(arg, err);
}

/* All tasks are seized. From here on packets wait. */
static int on_frozen(void *arg, struct fm_error *err)
{
    struct fm_migration *m = arg;
    m->frozen_us = fm_now_us();
    m->frozen = true;
    fm_timeline_start(&m->freeze);
    int rc = fm_orchestrator_hold(m, err);
    if (rc < 0)
        return rc;
    fm_timeline_mark(&m->freeze, "packets held");
    rc = fm_precopy_freeze(m, err);
    if (rc < 0)
        return fm_error_prefix(err, "cannot find the last pages");
    fm_timeline_mark(&m->freeze, "last pages found");
    return 0;
}

static int send_last_files(struct fm_migration *m, struct fm_error *err)
{
    int rc = fm_handover_send_files(m, m->upper_since_us, true, err);
    if (rc == 0)
        fm_log_pipe_settle(m->init_pid);
    return rc < 0 ? rc : fm_handover_send_log(m, err);
}

/* While CRIU writes the images, all else goes that cannot change any more; then the images as far
 * as they are there. */
static int on_dumping(void *arg, struct fm_error *err)
{
    struct fm_migration *m = arg;
    fm_autofree char *images = fm_strf("%s/images", m->dir);
    int rc = send_last_files(m, err);
    fm_timeline_mark(&m->freeze, "files and log sent");
    if (rc == 0)
        rc = fm_precopy_finish(m, err);
    fm_timeline_mark(&m->freeze, "last pages sent");
    return rc < 0 ? rc : m->parts->links.ops->images_begin(m->link, images, err);
}

/* The images are complete and the original stands: makes sure that it stays so, whoever dies. */
static int pin_original(struct fm_migration *m, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    int rc = p->runtime.ops->freeze(p->runtime.ctx, m->container->name, true, err);
    if (rc < 0)
        return fm_error_prefix(err, "cannot freeze the original");
    if (p->state.ops->dump_stands &&
        (rc = p->state.ops->dump_stands(p->state.ctx, m->dump, err)) < 0)
        return rc;
    rc = fm_migration_step(m, FM_STEP_DUMPED, NULL, err);
    fm_timeline_mark(&m->freeze, "original pinned");
    return rc;
}

/* While the destination restores, the original is pinned. Since the dump, what CRIU was shown is
 * compared with what there is. */
static int restore_there(struct fm_migration *m, json_t *body, struct fm_error *err)
{
    const struct fm_memory_ops *memory = m->parts->memory.ops;
    struct fm_error e = {0};
    json_auto_t *frozen = body;
    json_object_set_new(frozen, "migration", json_string(m->id));
    int rc = m->parts->links.ops->ask(m->link, FM_FRAME_FROZEN, frozen, err);
    if (rc == 0)
        rc = pin_original(m, err);
    if (rc < 0)
        return rc;
    json_auto_t *ready =
        m->parts->links.ops->answer(m->link, FM_FRAME_FROZEN, m->options.execution_timeout_ms, err);
    rc = ready ? 0 : fm_error_result(err);
    fm_timeline_mark_remote(&m->freeze, "restored", json_object_get(ready, "steps"));
    int verified = m->memory ? memory->verify_end(m->memory, &e) : 0;
    fm_timeline_mark(&m->freeze, "maps verified");
    if (rc < 0 || verified == 0)
        return rc;
    *err = e;
    return verified;
}

static int send_state(struct fm_migration *m, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    uint64_t since = fm_now_us();
    json_auto_t *manifest =
        p->links.ops->images_finish(m->link, &m->stats.image_bytes, &m->stats.early_bytes, err);
    if (!manifest)
        return fm_error_result(err);
    fm_timeline_mark(&m->freeze, "images sent");
    /* CRIU touches pages before the container runs. */
    int rc = fm_precopy_serve(m, err);
    m->stats.transfer_ms = ms_since(since);
    since = fm_now_us();
    if (rc == 0)
        rc = restore_there(
            m, json_pack("{s:O, s:o}", "manifest", manifest, "neighbours", neighbours(m)), err);
    m->stats.restore_ms = ms_since(since);
    return rc;
}

int fm_handover_transfer(struct fm_migration *m, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    int rc = fm_mkdir_p(m->dir, 0700, err);
    if (rc == 0)
        rc = fm_migration_step(m, FM_STEP_DUMP, json_pack("{s:s}", "dir", m->dir), err);
    if (rc == 0)
        rc = p->state.ops->dump_start(p->state.ctx, m->container->name, m->dir, &m->dump, err);
    if (rc == 0)
        rc = arm(m, err);
    if (rc == 0)
        rc = fm_migration_check_cancelled(m, err);
    if (rc == 0)
        rc = fm_migration_step(m, FM_STEP_FREEZE,
                               json_pack("{s:I}", "at_us", (json_int_t)fm_realtime_us()), err);
    struct fm_dump_request request = {.timeout_ms = m->options.execution_timeout_ms,
                                      .freezing = on_freezing,
                                      .frozen = on_frozen,
                                      .dumping = on_dumping,
                                      .arg = m,
                                      .filter_dir =
                                          m->memory ? p->memory.ops->filter_dir(m->memory) : NULL,
                                      .skip_in_flight = *m->return_of != '\0',
                                      .tmpfs = &m->tmpfs};
    if (rc == 0)
        rc = p->state.ops->dump_go(p->state.ctx, m->dump, &request, err);
    m->stats.dump_ms = ms_since(m->frozen_us);
    fm_timeline_mark(&m->freeze, "dumped");
    if (rc == 0 && m->memory)
        p->memory.ops->verify_begin(m->memory);
    if (rc == 0)
        rc = send_state(m, err);
    return rc;
}

/* A write that failed leaves open whether it took place: what stands in the record counts. */
static int write_decision(struct fm_migration *m, bool *commit, struct fm_error *err)
{
    struct fm_store *store = &m->parts->store;
    struct fm_error unread = {0};
    bool decided = false;
    int rc = store->ops->decide(store->ctx, m->id, true, commit, err);
    if (rc < 0 && store->ops->decision(store->ctx, m->id, &decided, commit, &unread) == 0 &&
        decided)
        return 0;
    return rc;
}

/* A signal that came during the freeze waits for the thaw. */
bool fm_handover_is_killed(const struct fm_migration *m)
{
    fm_autofree char *path = fm_strf("/proc/%d/status", (int)m->init_pid);
    fm_autofree char *status = NULL;
    size_t len;
    unsigned long long own = 0, shared = 0;
    const unsigned long long kill_bit = 1ull << (SIGKILL - 1);
    if (m->init_pid <= 0)
        return false;
    if (fm_file_read(path, 1 << 16, &status, &len, NULL) < 0)
        return !fm_file_exists(path);
    const char *state = strstr(status, "\nState:\t"), *pending = strstr(status, "\nSigPnd:");
    if (pending)
        sscanf(pending, "\nSigPnd:%llx ShdPnd:%llx", &own, &shared);
    return (state && state[8] == 'Z') || ((own | shared) & kill_bit);
}

int fm_handover_decide(struct fm_migration *m, struct fm_error *err)
{
    uint64_t since = fm_now_us();
    bool commit = false;
    int rc = fm_migration_check_cancelled(m, err);
    if (rc == 0 && fm_handover_is_killed(m))
        rc = fm_error_set(err, FM_E_FAILED, "its state is not handed over");
    if (rc == 0)
        rc = fm_migration_step(m, FM_STEP_DECIDE, NULL, err);
    if (rc == 0)
        rc = write_decision(m, &commit, err);
    if (rc < 0)
        return rc;
    if (!commit)
        return fm_error_set(err, FM_E_CANCELLED, "the decision to abort had been made before");
    pthread_mutex_lock(&m->link_lock);
    m->committed = true;
    pthread_mutex_unlock(&m->link_lock);
    m->stats.decide_ms = ms_since(since);
    fm_timeline_mark(&m->freeze, "decided");
    /* The decision stands, whatever becomes of this line of the journal. */
    struct fm_error ignored = {0};
    fm_migration_step(m, FM_STEP_COMMIT, NULL, &ignored);
    return 0;
}

/* --- after the commit --- */

bool fm_handover_is_cut(const struct fm_error *err)
{
    return err->code == FM_E_CLOSED || err->code == FM_E_UNREACHABLE || err->code == FM_E_TIMEOUT;
}

bool fm_handover_pause(struct fm_migration *m, uint64_t ms)
{
    poll(NULL, 0, (int)ms);
    return !atomic_load(&m->stopping);
}

static int tell_commit(struct fm_migration *m, struct fm_error *err)
{
    uint64_t since = fm_now_ms(), backoff = 50;
    bool known = m->needs_attention; /* an earlier daemon has waited already */
    for (;;) {
        *err = (struct fm_error){0};
        json_auto_t *running =
            fm_handover_connect(m, CONNECT_TIMEOUT_MS, err) == 0 && fm_postcopy_serve(m, err) == 0
                ? call(m, FM_FRAME_COMMIT, NULL, COMMIT_TIMEOUT_MS, err)
                : NULL;
        if (running) {
            fm_timeline_mark_remote(&m->freeze, "resumed", json_object_get(running, "steps"));
            fm_migration_go_on(m);
            return 0;
        }
        if (err->code == FM_E_ROLLED_BACK) {
            fm_migration_go_on(m);
            return fm_error_recode(err, FM_E_FAILED);
        }
        fm_handover_disconnect(m);
        fm_precopy_close(m); /* the streams have ended with it */
        fm_warn(FM_MIGRATION_MANAGER, "Commit of %s not acknowledged yet: %s.", m->id, err->text);
        if (m->in_slot && (known || fm_now_ms() - since > ATTENTION_AFTER_MS))
            fm_migration_stand_aside(m);
        if (!fm_handover_pause(m, backoff))
            return fm_error_set(err, FM_E_CANCELLED,
                                "the daemon is being stopped; goes on at its next start");
        backoff = backoff < 2000 ? backoff * 2 : 2000;
    }
}

void fm_handover_destroy(struct fm_migration *m)
{
    struct fm_components *p = m->parts;
    struct fm_error e = {0};
    m->destroyed = true;
    fm_migration_step(m, FM_STEP_DESTROY, NULL, &e);
    if (p->runtime.ops->destroy_processes(p->runtime.ctx, m->container->name, &e) < 0)
        fm_log(FM_LOG_ERROR, FM_CONTAINER_MANAGER, "Frozen original of %s stays: %s.",
               m->container->name, e.text);
    int rc = m->dump ? p->state.ops->dump_end(p->state.ctx, FM_MOVE(m->dump), true, &e)
                     : fm_leftover_end(m->dir, LEFTOVER_GRACE_MS, &e);
    if (rc < 0)
        fm_debug(FM_STATE_SYNCHRONIZER, "After the dump: %s.", e.text);
}

/* What a freeze costs beside its last pages, for the next one's estimate. */
static void learn_fixed_cost(struct fm_migration *m)
{
    double now = m->stats.freeze_ms - m->stats.pages_ms, known = m->parts->freeze_fixed_ms;
    if (m->strategy != FM_STRATEGY_COLD)
        m->parts->freeze_fixed_ms = known > 0 ? known * 0.7 + now * 0.3 : now;
}

int fm_handover_commit(struct fm_migration *m, struct fm_error *err)
{
    uint64_t since = fm_now_us();
    int rc = tell_commit(m, err);
    if (rc < 0)
        return rc;
    if (m->frozen) {
        m->stats.resume_ms = ms_since(since);
        m->stats.freeze_ms = ms_since(m->frozen_us);
        learn_fixed_cost(m);
    }
    fm_orchestrator_switch(m);
    if (m->strategy == FM_STRATEGY_COLD)
        fm_handover_destroy(m);
    return 0;
}

/* A network that is away says nothing of the container: asked again until the time is up. */
int fm_handover_verify(struct fm_migration *m, struct fm_error *err)
{
    uint64_t deadline = fm_now_ms() + m->options.verification_timeout_ms;
    /* Its verdict is to arrive while somebody waits for it. */
    json_int_t limit = (json_int_t)(m->options.verification_timeout_ms * 9 / 10);
    for (;;) {
        *err = (struct fm_error){0};
        int rc = fm_handover_connect(m, CONNECT_TIMEOUT_MS, err);
        if (rc == 0)
            rc = call_void(m, FM_FRAME_VERIFY, json_pack("{s:I}", "limit_ms", limit),
                           m->options.verification_timeout_ms, err);
        if (rc == 0 || !fm_handover_is_cut(err) || fm_now_ms() >= deadline)
            return rc;
        fm_handover_disconnect(m);
        if (!fm_handover_pause(m, VERIFY_PAUSE_MS))
            return rc;
    }
}

/* Keeps the first error and goes on: what can be removed is removed. */
static int keep_first(int rc, int step_rc, const struct fm_error *step, struct fm_error *err)
{
    if (step_rc < 0)
        fm_log(FM_LOG_ERROR, FM_MIGRATION_MANAGER, "Clean-up: %s.", step->text);
    if (step_rc < 0 && rc == 0 && err)
        *err = *step;
    return rc < 0 ? rc : step_rc;
}

/* The content of volumes stays where its owner keeps it, marked as left behind: a return of the
 * container may replace it. */
static void leave_volumes(struct fm_migration *m)
{
    struct fm_store *store = &m->parts->store;
    json_auto_t *mark =
        json_pack("{s:s, s:s}", "container", m->container->name, "moved_to", m->destination.name);
    struct fm_error e = {0};
    for (size_t i = 0; i < m->container->volume_count; i++)
        if (!m->container->volumes[i].shared &&
            store->ops->put(store->ctx, "volume", m->container->volumes[i].source, mark, &e) < 0)
            fm_warn(FM_CONTAINER_MANAGER, "Volume %s: %s.", m->container->volumes[i].source,
                    e.text);
}

/* Everything of the container leaves this host. A found container's own directory is its owner's
 * and stays. */
static int forget_container(struct fm_migration *m, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    struct fm_error e = {0};
    const char *name = m->container->name;
    int rc = keep_first(0, p->runtime.ops->remove(p->runtime.ctx, name, &e), &e, err);
    if (m->has_endpoint) {
        rc = keep_first(rc, p->network.ops->unstage(p->network.ctx, &m->endpoint, &e), &e, err);
        rc = keep_first(rc,
                        p->network.ops->set_remote(p->network.ctx, m->endpoint.network,
                                                   m->endpoint.mac,
                                                   m->arrival ? NULL : m->destination.address, &e),
                        &e, err);
    }
    leave_volumes(m);
    struct fm_bundle bundle;
    fm_bundle_paths(&p->bundles, name, &bundle);
    rc = keep_first(rc, fm_bundle_remove(&bundle, &e), &e, err);
    if (rc < 0)
        return rc; /* the registry's entry is the last thing that goes */
    int gone = p->store.ops->remove(p->store.ctx, "container", name, &e);
    return gone < 0 && e.code != FM_E_NOT_FOUND ? keep_first(rc, gone, &e, err) : 0;
}

int fm_handover_complete(struct fm_migration *m, struct fm_error *err)
{
    struct fm_error e = {0};
    int rc = fm_migration_step(m, FM_STEP_CLEAN_UP, NULL, err);
    fm_precopy_close(m);
    if (m->container && !m->destroyed)
        fm_handover_destroy(m);
    if (fm_handover_connect(m, CONNECT_TIMEOUT_MS, &e) < 0 ||
        call_void(m, FM_FRAME_COMPLETE, NULL, CONNECT_TIMEOUT_MS, &e) < 0)
        fm_warn(FM_MIGRATION_MANAGER, "The destination keeps its images for now: %s.", e.text);
    fm_handover_disconnect(m);
    fm_orchestrator_finish(m);
    if (m->container && forget_container(m, &e) < 0)
        rc = keep_first(rc, -(int)e.code, &e, err);
    else
        fm_readdress_settle(m);
    return keep_first(rc, fm_handover_remove_dir(m->dir, &e), &e, err);
}
