#include "migration/coordinator.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/following.h"
#include "migration/handover.h"
#include "migration/handover_files.h"
#include "migration/incoming.h"
#include "migration/lifecycle.h"
#include "migration/network_orchestrator.h"
#include "migration/networks.h"
#include "migration/postcopy.h"
#include "migration/precopy.h"
#include "migration/readdress.h"
#include "migration/policy.h"
#include "migration/preflight.h"
#include "migration/strategy.h"
#include "migration/witness.h"
#include "wire/frame.h"

#define CONNECT_TIMEOUT_MS 5000
#define CHECK_TIMEOUT_MS 20000
#define REGISTRY_PAUSE_MS 1000
#define MEMORY_WAIT_MS 60000
#define MEMORY_PAUSE_MS 20

/* --- PENDING: the request is valid, both hosts are known and reachable --- */

static int find_destination(struct fm_components *p, const char *name, struct fm_host *host,
                            struct fm_error *err)
{
    if (fm_streq(name, p->host))
        return fm_error_set(err, FM_E_INVALID,
                            "source and destination are both '%s': choose another destination",
                            name);
    json_auto_t *doc = p->store.ops->get(p->store.ctx, "host", name, err);
    if (!doc && err->code == FM_E_NOT_FOUND)
        return fm_error_set(err, FM_E_NOT_FOUND,
                            "host '%s' is not known here: add it with `fleximigrate host add`",
                            name);
    return doc ? fm_host_from_json(doc, host, err) : fm_error_result(err);
}

static int find_source(struct fm_migration *m, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    if (fm_streq(m->options.source, p->host))
        return 0;
    struct fm_host host;
    json_auto_t *doc = p->store.ops->get(p->store.ctx, "host", m->options.source, err);
    if (!doc)
        return fm_error_set(err, FM_E_NOT_FOUND, "source host '%s' is not known here",
                            m->options.source);
    int rc = fm_host_from_json(doc, &host, err);
    struct fm_link *link =
        rc < 0 ? NULL : p->links.ops->open(p->links.ctx, &host, 0, CONNECT_TIMEOUT_MS, err);
    if (!link)
        return rc < 0 ? rc : fm_error_prefix(err, "source");
    p->links.ops->close(link);
    return fm_error_set(err, FM_E_REFUSED,
                        "container runs on '%s': send the request to that host's daemon",
                        m->options.source);
}

/* The record and the endpoint of the container, wherever they are known from. */
static int find_container(struct fm_migration *m, struct fm_error *err)
{
    struct fm_runtime_state state;
    int rc = fm_lifecycle_resolve(m->parts, m->options.container, &m->container, &m->endpoint,
                                  &m->has_endpoint, &state, err);
    if (rc < 0)
        return rc;
    m->init_pid = state.init_pid;
    if (!fm_streq(state.status, "running"))
        return fm_error_set(err, FM_E_REFUSED,
                            "container '%s' is %s: only a running one can be migrated",
                            m->options.container, state.status);
    return 0;
}

static bool is_cancelled(void *ctx)
{
    struct fm_migration *m = ctx;
    return atomic_load(&m->cancelled);
}

/* A container that has just come here cannot leave before its memory is in place. */
static int await_memory(struct fm_migration *m, struct fm_error *err)
{
    uint64_t deadline = fm_now_ms() + MEMORY_WAIT_MS;
    struct fm_components *p = m->parts;
    int rc = 0;
    while (rc == 0 && p->incoming && fm_incoming_is_filling(p->incoming, m->options.container)) {
        if (fm_now_ms() >= deadline)
            return fm_error_set(err, FM_E_REFUSED,
                                "the memory of '%s' is still on its way here from its last "
                                "migration",
                                m->options.container);
        fm_handover_pause(m, MEMORY_PAUSE_MS);
        rc = fm_migration_check_cancelled(m, err);
    }
    return rc;
}

static int pending(struct fm_migration *m, struct fm_error *err)
{
    int rc = fm_migration_to(m, FM_STATE_PENDING, false, FM_MIGRATION_MANAGER,
                             "Migration %s of %s from %s to %s requested.", m->id,
                             m->options.container, m->options.source, m->options.destination);
    if (rc < 0)
        return fm_error_set(err, FM_E_IO, "the journal cannot be written");
    if ((rc = find_source(m, err)) < 0 ||
        (rc = find_destination(m->parts, m->options.destination, &m->destination, err)) < 0 ||
        (rc = find_container(m, err)) < 0)
        return rc;
    if ((rc = await_memory(m, err)) < 0)
        return rc;
    struct fm_slots_wait wait = {.cancelled = is_cancelled, .ctx = m};
    rc = fm_slots_acquire(m->parts->slots, m->options.priority, &wait, err);
    if (rc < 0)
        return rc;
    m->in_slot = true;
    if (m->options.timeout_ms)
        m->last_deadline_ms = fm_now_ms() + m->options.timeout_ms;
    return fm_handover_connect(m, CONNECT_TIMEOUT_MS, err);
}

/* --- PLANNING: policies allow it, the destination fits --- */

static json_t *preflight(struct fm_components *p, struct fm_link *link,
                         const struct fm_container *container, const char *return_of,
                         json_t **needs_out, struct fm_error *err)
{
    fm_autofree pid_t *pids = NULL;
    size_t count = 0;
    if (p->runtime.ops->processes(p->runtime.ctx, container->name, &pids, &count, err) < 0)
        return NULL;
    json_auto_t *needs = fm_facts_container(container, pids, count, err);
    json_auto_t *here = needs ? p->facts(p->facts_ctx, err) : NULL;
    if (!here)
        return NULL;
    json_auto_t *ask = json_pack("{s:o, s:O, s:s}", "container", fm_container_to_json(container),
                                 "needs", needs, "return_of", return_of);
    json_object_set_new(ask, "network", fm_networks_document(p, container->network));
    json_auto_t *answer = p->links.ops->call(link, FM_FRAME_CHECK, ask, CHECK_TIMEOUT_MS, err);
    if (!answer)
        return NULL;
    if (needs_out)
        *needs_out = json_incref(needs);
    const json_t *there = json_object_get(answer, "facts");
    const json_t *state = json_object_get(answer, "state");
    uint64_t layers =
        fm_handover_layer_bytes(p, container, json_object_get(state, "missing_layers"));
    json_object_set_new(needs, "layer_bytes", json_integer((json_int_t)layers));
    json_t *result = fm_preflight_compare(container, needs, here, there, state);
    json_object_set_new(result, "state_engine",
                        json_pack("{s:O*, s:O*}", "source", json_object_get(here, "state_engine"),
                                  "destination", json_object_get(there, "state_engine")));
    return result;
}

static void log_findings(const json_t *result)
{
    size_t i;
    json_t *finding;
    json_array_foreach(json_object_get(result, "findings"), i,
                       finding) if (!json_is_true(json_object_get(finding, "ok")))
        fm_warn(FM_DECISION_ENGINE, "Preflight %s: %s.",
                json_string_value(json_object_get(finding, "check")),
                json_string_value(json_object_get(finding, "message")));
}

static void choose_strategy(struct fm_migration *m, const json_t *preflight)
{
    const json_t *engines = json_object_get(preflight, "state_engine");
    m->strategy = fm_strategy_choose(m->options.strategy, json_object_get(engines, "source"),
                                     json_object_get(engines, "destination"), m->strategy_reason,
                                     sizeof(m->strategy_reason));
    if (*m->strategy_reason)
        fm_warn(FM_DECISION_ENGINE, "Strategy %s in place of %s: %s.",
                fm_strategy_text(m->strategy), fm_strategy_text(m->options.strategy),
                m->strategy_reason);
    else
        fm_info(FM_DECISION_ENGINE, "Destination %s fits; strategy %s.", m->options.destination,
                fm_strategy_text(m->strategy));
}

static int planning(struct fm_migration *m, struct fm_error *err)
{
    if (fm_migration_to(m, FM_STATE_PLANNING, false, FM_MIGRATION_MANAGER, "Request is valid.") < 0)
        return fm_error_set(err, FM_E_IO, "the journal cannot be written");
    json_auto_t *ping =
        m->parts->links.ops->call(m->link, FM_FRAME_PING, NULL, CONNECT_TIMEOUT_MS, err);
    if (!ping)
        return fm_error_result(err);
    struct fm_policy_request request = {
        .container = m->container,
        .source = m->options.source,
        .destination = m->options.destination,
        .destination_cordoned =
            m->destination.cordoned || json_is_true(json_object_get(ping, "cordoned")),
    };
    int rc = *m->return_of ? 0 : fm_policy_decide(&request, err);
    if (rc < 0) {
        fm_log(FM_LOG_ERROR, FM_POLICY_ENFORCER, "Migration %s is denied: %s.", m->id, err->text);
        return rc;
    }
    fm_info(FM_POLICY_ENFORCER, "Policies allow the migration of %s.", m->options.container);
    if ((rc = fm_readdress_plan(m, err)) < 0)
        return rc;
    json_auto_t *result =
        preflight(m->parts, m->link, fm_readdress_container(m), m->return_of, &m->needs, err);
    if (!result)
        return fm_error_result(err);
    log_findings(result);
    rc = fm_preflight_verdict(result, err);
    if (rc == 0)
        choose_strategy(m, result);
    return rc;
}

/* --- PREPARATION, EXECUTION, VERIFICATION --- */

static int preparation(struct fm_migration *m, struct fm_error *err)
{
    if (fm_migration_to(m, FM_STATE_PREPARATION, false, FM_DECISION_ENGINE,
                        "Strategy %s chosen, destination fits.", fm_strategy_text(m->strategy)) < 0)
        return fm_error_set(err, FM_E_IO, "the journal cannot be written");
    fm_migration_set_deadline(m, m->options.preparation_timeout_ms);
    int rc = fm_handover_prepare(m, err);
    return rc < 0 ? rc : fm_migration_check_cancelled(m, err);
}

static int execution(struct fm_migration *m, struct fm_error *err)
{
    if (fm_migration_to(m, FM_STATE_EXECUTION, false, FM_NETWORK_MANAGER,
                        "Destination %s is staged.", m->options.destination) < 0)
        return fm_error_set(err, FM_E_IO, "the journal cannot be written");
    fm_migration_set_deadline(m, m->options.timeout_ms);
    int rc = fm_precopy_rounds(m, err);
    if (rc == 0)
        rc = fm_handover_sync_files(m, err);
    fm_migration_set_deadline(m, m->options.execution_timeout_ms);
    if (rc == 0)
        rc = fm_handover_transfer(m, err);
    if (rc == 0)
        rc = fm_handover_decide(m, err);
    if (rc < 0)
        return rc;
    return fm_handover_commit(m, err);
}

/* The original is kept until its copy is verified, and, when some of the memory is nowhere else,
 * until that has arrived. */
static int fill(struct fm_migration *m, struct fm_error *err)
{
    fm_precopy_unwatch(m);
    fm_migration_set_deadline(m, 0);
    return fm_postcopy_fill(m, err);
}

/* It runs there: is it well, and does it get all of its memory? */
static int verify(struct fm_migration *m, struct fm_error *err)
{
    struct fm_error later = {0}; /* filling tries that again */
    fm_postcopy_serve(m, &later);
    int rc = fm_following_switch(m, err);
    fm_orchestrator_announce(m);
    if (rc == 0)
        rc = fm_handover_verify(m, err);
    if (rc == 0)
        rc = fm_witness_ask(m, err);
    if (rc == 0)
        rc = fill(m, err);
    if (rc == 0 || !*m->return_of || atomic_load(&m->stopping))
        return rc;
    /* A rollback is not rolled back. */
    fm_warn(FM_CONTAINER_MANAGER, "Container %s is back on %s, but: %s.", m->options.container,
            m->options.destination, err->text);
    *err = (struct fm_error){0};
    return 0;
}

static int verification(struct fm_migration *m, struct fm_error *err)
{
    /* It runs there, whether this can be written down or not. */
    fm_migration_to(m, FM_STATE_VERIFICATION, false, FM_STATE_SYNCHRONIZER,
                    "Container %s runs on %s after %.1f ms.", m->options.container,
                    m->options.destination, m->stats.freeze_ms);
    return verify(m, err);
}

/* --- the ends --- */

static void close_books(struct fm_migration *m)
{
    fm_handover_disconnect(m);
    m->stats.ended_us = fm_realtime_us();
    m->stats.total_ms = (double)(m->stats.ended_us - m->stats.started_us) / 1000.0;
}

static int completed(struct fm_migration *m)
{
    struct fm_error err = {0};
    if (fm_handover_complete(m, &err) < 0) {
        m->needs_attention = true;
        m->reason = err;
    }
    close_books(m);
    return fm_migration_to(m, FM_STATE_COMPLETED, true, FM_MIGRATION_MANAGER,
                           "Migration %s of %s to %s succeeded.", m->id, m->options.container,
                           m->options.destination);
}

static const char *component_of(enum fm_state state)
{
    switch (state) {
    case FM_STATE_PLANNING:
        return FM_DECISION_ENGINE;
    case FM_STATE_PREPARATION:
        return FM_NETWORK_MANAGER;
    case FM_STATE_EXECUTION:
        return FM_STATE_SYNCHRONIZER;
    case FM_STATE_VERIFICATION:
        return FM_CONTAINER_MANAGER;
    default:
        return FM_MIGRATION_MANAGER;
    }
}

static int roll_back(struct fm_migration *m, char *how, size_t len, struct fm_error *err)
{
    uint64_t age_ms = 0;
    int rc = 0;
    snprintf(how, len, "Rolled back; the container runs on where it was");
    if (!m->committed && ((rc = fm_handover_abort(m, err)) == 0 || !m->committed)) {
        if (fm_handover_is_killed(m))
            snprintf(how, len, "Rolled back; the container has ended meanwhile");
        return rc;
    }
    if (rc < 0) { /* a commit stands after all */
        *err = (struct fm_error){0};
        rc = fm_handover_commit(m, err);
    }
    if (rc == 0)
        rc = fm_handover_return(m, &age_ms, err);
    if (age_ms)
        snprintf(how, len, "Restored on %s from a checkpoint that is %llu ms old",
                 m->options.source, (unsigned long long)age_ms);
    else
        snprintf(how, len, "Migrated back to %s", m->options.source);
    return rc;
}

/* FAILED, ROLLBACK and the final FAILED; goes on from wherever an earlier daemon had come to. */
static void failed(struct fm_migration *m, const struct fm_error *why)
{
    enum fm_state in = m->fsm.state;
    if (in != FM_STATE_FAILED && in != FM_STATE_ROLLBACK) {
        m->reason = *why;
        fm_migration_to(m, FM_STATE_FAILED, false, component_of(in), "%s failed: %s.",
                        fm_state_text(in), why->text);
    }
    if (m->fsm.state == FM_STATE_FAILED)
        fm_migration_to(m, FM_STATE_ROLLBACK, false, FM_MIGRATION_MANAGER, "Rolling back.");
    struct fm_error err = {0};
    char how[160] = "Nothing had been made";
    if (m->fsm.failed_in != FM_STATE_PENDING && roll_back(m, how, sizeof(how), &err) < 0) {
        m->needs_attention = true;
        snprintf(how, sizeof(how), "Rollback is incomplete");
    } else if (m->left) {
        size_t len = strlen(how);
        snprintf(how + len, sizeof(how) - len, "; but");
        fm_error_set(&err, FM_E_FAILED, "%s; it is tried again", fm_following_problem(m));
    }
    close_books(m);
    fm_migration_to(m, FM_STATE_FAILED, true, FM_MIGRATION_MANAGER, "%s%s%s.", how,
                    err.code ? ": " : "", err.text);
}

static void enter_context(struct fm_migration *m)
{
    struct fm_log_context context = {.migration = m->id,
                                     .container = m->options.container,
                                     .source = m->options.source,
                                     .destination = m->options.destination};
    fm_log_set_context(&context);
}

static int finish(struct fm_migration *m, int rc, struct fm_error *err)
{
    bool unfinished = rc < 0 && m->committed && atomic_load(&m->stopping);
    fm_migration_set_deadline(m, 0);
    /* An interrupted call says only that its connection ended. */
    if (rc < 0 && !m->committed)
        fm_migration_check_cancelled(m, err);
    if (rc < 0 && !m->committed && fm_handover_is_killed(m))
        fm_error_prefix(err, "container '%s' was stopped or removed meanwhile", m->container->name);
    if (rc == 0)
        completed(m);
    else if (!unfinished)
        failed(m, err);
    if (m->in_slot)
        fm_slots_release(m->parts->slots);
    m->in_slot = false;
    fm_log_set_context(NULL);
    return rc;
}

int fm_coordinator_run(struct fm_migration *m, struct fm_error *err)
{
    enter_context(m);
    int rc = pending(m, err);
    if (rc == 0)
        rc = planning(m, err);
    if (rc == 0)
        rc = preparation(m, err);
    if (rc == 0)
        rc = execution(m, err);
    if (rc == 0)
        rc = verification(m, err);
    return finish(m, rc, err);
}

/* --- recovery --- */

/* Its network is not here (the user's bridge is not up, perhaps): the container is all the same. */
static bool find_without_network(struct fm_migration *m, const struct fm_error *why)
{
    const struct fm_store *store = &m->parts->store;
    json_auto_t *doc = store->ops->get(store->ctx, "container", m->options.container, NULL);
    m->container = doc ? fm_container_from_json(doc, NULL) : NULL;
    m->has_endpoint = false;
    if (m->container)
        fm_warn(FM_NETWORK_MANAGER, "Recovery of %s goes on without its network: %s.", m->id,
                why->text);
    return m->container != NULL;
}

/* What PENDING had found out, from the registry; no container: it is gone from here, its entry
 * being the last thing that goes. */
static int relocate(struct fm_migration *m, struct fm_error *err)
{
    struct fm_error e = {0};
    int rc = m->container ? 0
                          : fm_lifecycle_record(m->parts, m->options.container, &m->container,
                                                &m->endpoint, &m->has_endpoint, &e);
    if (rc < 0 && e.code == FM_E_NOT_FOUND && find_without_network(m, &e))
        rc = 0;
    if (rc == 0 || e.code == FM_E_NOT_FOUND) {
        e = (struct fm_error){0};
        rc = find_destination(m->parts, m->options.destination, &m->destination, &e);
    }
    if (rc == 0 || e.code == FM_E_NOT_FOUND)
        return fm_readdress_recall(m, err);
    *err = e;
    return rc;
}

/* A registry that cannot be read tells nothing: asked until it can be. */
static int read_registry(struct fm_migration *m, struct fm_error *err)
{
    const struct fm_store *store = &m->parts->store;
    for (;;) {
        bool decided = false, commit = false;
        *err = (struct fm_error){0};
        int rc = store->ops->decision(store->ctx, m->id, &decided, &commit, err);
        if (rc == 0)
            rc = relocate(m, err);
        m->committed = decided && commit;
        if (rc == 0)
            return 0;
        fm_warn(FM_MIGRATION_MANAGER, "Recovery of %s waits: %s.", m->id, err->text);
        if (!fm_handover_pause(m, REGISTRY_PAUSE_MS))
            return rc;
    }
}

/* The decision says COMMIT: whatever state the daemon died in, the way leads forward, or back over
 * the destination. */
static int recover_committed(struct fm_migration *m, struct fm_error *err)
{
    int rc = 0;
    if (m->fsm.state == FM_STATE_FAILED || m->fsm.state == FM_STATE_ROLLBACK)
        return fm_error_set(err, FM_E_FAILED, "the daemon was restarted during the rollback");
    /* It was verified; the registry's entry is the last thing that goes. */
    if (!m->container || fm_journal_has(m->parts->journal, m->id, FM_STEP_CLEAN_UP, NULL))
        return 0;
    if (m->fsm.state == FM_STATE_EXECUTION)
        rc = fm_handover_commit(m, err);
    if (rc == 0 && m->fsm.state == FM_STATE_EXECUTION)
        return verification(m, err);
    return rc < 0 ? rc : verify(m, err);
}

/* Final, and yet something was left undone: tries that again. */
static int tidy_up(struct fm_migration *m, struct fm_error *err)
{
    char how[160] = "Clean-up is complete";
    int rc = 0;
    bool only_left = m->left && !m->needs_attention;
    /* What a later migration of the container has made of it is none of this one's business. */
    bool latest = fm_journal_is_latest(m->parts->journal, m->id, m->options.container);
    if (!latest)
        snprintf(how, sizeof(how), "A later migration has followed");
    if (!latest || only_left)
        fm_following_retry(m);
    else if (m->fsm.state == FM_STATE_COMPLETED)
        rc = fm_handover_complete(m, err);
    else
        rc = roll_back(m, how, sizeof(how), err);
    fm_handover_disconnect(m);
    if (m->in_slot)
        fm_slots_release(m->parts->slots);
    m->in_slot = false;
    m->needs_attention = rc < 0;
    if (rc == 0 && m->left)
        rc = fm_error_set(err, FM_E_FAILED, "%s", fm_following_problem(m));
    if (rc == 0)
        fm_info(FM_MIGRATION_MANAGER, "%s: migration %s needs no attention any more.", how, m->id);
    else
        fm_log(FM_LOG_ERROR, FM_MIGRATION_MANAGER, "Migration %s still needs attention: %s.", m->id,
               err->text);
    fm_migration_save(m, NULL);
    fm_log_set_context(NULL);
    return rc;
}

void fm_coordinator_retry(struct fm_migration *m)
{
    enter_context(m);
    fm_following_retry(m);
    fm_migration_save(m, NULL);
    fm_log_set_context(NULL);
}

int fm_coordinator_recover(struct fm_migration *m, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    enter_context(m);
    int rc = read_registry(m, err);
    if (rc < 0)
        return rc;
    fm_slots_force(p->slots);
    m->in_slot = true;
    if (m->fsm.final)
        return tidy_up(m, err);
    if (m->fsm.state == FM_STATE_NONE)
        fm_migration_to(m, FM_STATE_PENDING, false, FM_MIGRATION_MANAGER, "Found after a restart.");
    fm_info(FM_MIGRATION_MANAGER, "Recovering migration %s from %s, %s.", m->id,
            fm_state_text(m->fsm.state), m->committed ? "committed" : "not committed");
    rc = m->committed ? recover_committed(m, err)
                      : fm_error_set(err, FM_E_CANCELLED, "the daemon was restarted in %s",
                                     fm_state_text(m->fsm.state));
    return finish(m, rc, err);
}

/* --- check --- */

json_t *fm_coordinator_check(struct fm_components *parts, const char *container,
                             const char *destination, struct fm_error *err)
{
    struct fm_host host;
    fm_autocontainer struct fm_container *record = NULL;
    struct fm_endpoint endpoint;
    bool has_endpoint;
    struct fm_runtime_state state;
    if (find_destination(parts, destination, &host, err) < 0 ||
        fm_lifecycle_resolve(parts, container, &record, &endpoint, &has_endpoint, &state, err) < 0)
        return NULL;
    if (!fm_streq(state.status, "running")) {
        fm_error_set(err, FM_E_REFUSED, "container '%s' is %s: only a running one can be migrated",
                     container, state.status);
        return NULL;
    }
    struct fm_link *link =
        parts->links.ops->open(parts->links.ctx, &host, 0, CONNECT_TIMEOUT_MS, err);
    if (!link)
        return NULL;
    json_t *result = preflight(parts, link, record, "", NULL, err);
    parts->links.ops->close(link);
    return result;
}
