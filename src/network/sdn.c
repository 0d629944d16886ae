#include "network/sdn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "network/address.h"
#include "network/sdn_batch.h"
#include "network/sdn_plan.h"
#include "network/sdn_rest.h"

#define PAUSE_MS 5 /* between two looks at a switch whose controller has no barriers */

struct sdn {
    struct fm_sdn_settings settings;
    struct fm_sdn_rest *rest;
};

/* One step: its plan, and its requests. The changes' switches come first in the batch, in their
 * order. */
struct step {
    struct sdn *sdn;
    const struct fm_move *move;
    struct fm_sdn_plan plan;
    struct fm_sdn_batch batch;
    struct fm_error stays; /* what somebody else has changed, and undo left alone */
};

static void step_open(struct step *step, bool patient)
{
    struct fm_sdn_plan *plan = &step->plan;
    fm_sdn_batch_open(&step->batch, step->sdn->rest, patient, plan->count + plan->lane_count);
    for (size_t i = 0; i < plan->count; i++)
        fm_sdn_batch_add(&step->batch, &plan->changes[i].target);
    for (size_t i = 0; i < plan->lane_count; i++)
        fm_sdn_batch_add(&step->batch, &plan->lanes[i].target);
}

static int step_load(struct step *step, struct sdn *sdn, const struct fm_move *move,
                     const json_t *before, bool patient, struct fm_error *err)
{
    *step = (struct step){.sdn = sdn, .move = move};
    int rc = fm_sdn_plan_load(before, &step->plan, err);
    if (rc == 0)
        step_open(step, patient);
    return rc;
}

static void step_close(struct step *step)
{
    fm_sdn_batch_close(&step->batch);
    fm_sdn_plan_clear(&step->plan);
}

/* ---- flows of ours ---- */

static struct fm_sdn_key settled_key(const struct fm_sdn_plan *plan)
{
    return (struct fm_sdn_key){plan->table, plan->priority, plan->match};
}

static struct fm_sdn_key prepared_key(const struct fm_sdn_plan *plan)
{
    return (struct fm_sdn_key){plan->table, FM_SDN_PREPARED(plan), plan->match};
}

static struct fm_sdn_key lane_key(const struct fm_sdn_plan *plan)
{
    return (struct fm_sdn_key){plan->table, plan->priority, plan->lane_match};
}

/* Asks for a flow of ours at `key` that leads to `port`, or for its end. */
static void edit(struct step *step, size_t index, enum fm_sdn_verb verb, struct fm_sdn_key key,
                 int64_t queue, uint32_t port)
{
    json_t *flow = fm_sdn_flow_make(&key, step->plan.cookie, fm_sdn_actions(queue, port));
    fm_sdn_batch_edit(&step->batch, index, verb, flow);
    json_decref(flow);
}

static bool leads_to(const json_t *flow, uint32_t port)
{
    json_t *actions = fm_sdn_actions(-1, port);
    bool same = fm_sdn_flow_has_actions(flow, actions);
    json_decref(actions);
    return same;
}

static void edit_lanes(struct step *step, enum fm_sdn_verb verb)
{
    for (size_t i = 0; i < step->plan.lane_count; i++) {
        const struct fm_sdn_lane *lane = &step->plan.lanes[i];
        edit(step, fm_sdn_batch_add(&step->batch, &lane->target), verb, lane_key(&step->plan),
             step->plan.queue, lane->port);
    }
}

/* Takes the migration's own bandwidth back, unless another one on the same way needs the flows. */
static void release_lanes(struct step *step)
{
    struct fm_topology *topology = step->sdn->settings.topology;
    const struct fm_move *move = step->move;
    if (!fm_topology_is_shared(topology, move->migration, move->source, move->destination))
        edit_lanes(step, FM_SDN_DELETE_STRICT);
    fm_topology_release(topology, move->migration);
}

static json_t *container_match(const struct fm_sdn_plan *plan)
{
    return json_pack("[O]", plan->match);
}

/* ---- read ---- */

static int fail_foreign(const struct step *step, size_t index, const json_t *flow,
                        struct fm_error *err)
{
    const struct fm_topology_switch *target = step->batch.targets[index];
    fm_autofree char *text = fm_sdn_flow_text(flow);
    return fm_error_set(err, FM_E_REFUSED,
                        "switch '%s' (dpid %llu) has a flow of somebody else's for '%s' that "
                        "overrules ours (%s): remove it, or configure a priority above it",
                        target->name, (unsigned long long)target->dpid, step->move->container,
                        text);
}

/* Flows of others that would hide ours, or whose place ours need. */
static int check_foreign(const struct step *step, size_t index, struct fm_error *err)
{
    const struct fm_sdn_plan *plan = &step->plan;
    const json_t *flows = step->batch.flows[index];
    for (size_t i = 0; i < json_array_size(flows); i++) {
        const json_t *flow = json_array_get(flows, i);
        json_int_t table = json_integer_value(json_object_get(flow, "table_id"));
        json_int_t priority = json_integer_value(json_object_get(flow, "priority"));
        if (fm_sdn_flow_has_cookie(flow, plan->cookie) || table != plan->table ||
            priority < FM_SDN_PREPARED(plan))
            continue;
        bool in_place =
            priority <= plan->priority && json_equal(json_object_get(flow, "match"), plan->match);
        if (in_place || fm_sdn_flow_forwards(flow))
            return fail_foreign(step, index, flow, err);
    }
    return 0;
}

static void add_ip_matches(json_t *matches, const char *text)
{
    struct fm_ip ip;
    struct fm_error ignored = {0};
    char bare[FM_IP_TEXT];
    if (!text || !text[0] || fm_ip_parse("address", text, &ip, &ignored) < 0)
        return;
    fm_ip_format(&ip, bare);
    if (ip.family == AF_INET6) {
        json_array_append_new(matches, json_pack("{s:i s:s}", "dl_type", 0x86dd, "ipv6_dst", bare));
        return;
    }
    json_array_append_new(matches, json_pack("{s:i s:s}", "dl_type", 0x0800, "nw_dst", bare));
    json_array_append_new(matches, json_pack("{s:i s:s}", "dl_type", 0x0806, "arp_tpa", bare));
}

/* Everything that concerns the container, by its addresses. */
static json_t *all_matches(const struct step *step)
{
    json_t *matches = container_match(&step->plan);
    add_ip_matches(matches, step->move->new_ip);
    add_ip_matches(matches, step->move->new_ip6);
    if (step->plan.lane_match)
        json_array_append(matches, step->plan.lane_match);
    return matches;
}

/* A flow of ours as it was read, if it can be put back later. */
static int take_flow(const struct step *step, size_t index, struct fm_sdn_key key, json_t **flow,
                     struct fm_error *err)
{
    *flow = json_incref((json_t *)fm_sdn_flow_find(step->batch.flows[index], &key));
    json_t *entry = *flow ? fm_sdn_flow_entry(*flow, err) : NULL;
    bool lost = *flow && !entry;
    json_decref(entry);
    return lost ? fm_error_prefix(err, "switch '%s'", step->plan.changes[index].name) : 0;
}

static int take_before(struct step *step, struct fm_error *err)
{
    struct fm_sdn_plan *plan = &step->plan;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < plan->count; i++) {
        rc = check_foreign(step, i, err);
        if (rc == 0)
            rc = take_flow(step, i, settled_key(plan), &plan->changes[i].settled, err);
        if (rc == 0)
            rc = take_flow(step, i, prepared_key(plan), &plan->changes[i].prepared, err);
    }
    return rc;
}

static bool has_queue(const json_t *ports, int64_t queue)
{
    for (size_t i = 0; i < json_array_size(ports); i++) {
        const json_t *queues = json_object_get(json_array_get(ports, i), "queues");
        for (size_t k = 0; k < json_array_size(queues); k++) {
            const json_t *id = json_object_get(json_array_get(queues, k), "queue_id");
            if (json_is_integer(id) && json_integer_value(id) == queue)
                return true;
        }
    }
    return false;
}

/* Somebody else steers this traffic there. */
static bool lane_taken(struct step *step, const struct fm_sdn_lane *lane)
{
    struct fm_sdn_key key = lane_key(&step->plan);
    size_t index = fm_sdn_batch_add(&step->batch, &lane->target);
    const json_t *flow = fm_sdn_flow_find(step->batch.flows[index], &key);
    return flow && !fm_sdn_flow_has_cookie(flow, step->plan.cookie);
}

/* Leaves the lanes whose switch has the queue; a switch that does not tell has none. */
static int find_queues(struct step *step, struct fm_error *err)
{
    struct fm_sdn_plan *plan = &step->plan;
    size_t count = plan->lane_count;
    size_t kept = 0;
    fm_autofree bool *usable = fm_xcalloc(count + 1, sizeof(*usable));
    fm_autofree struct fm_sdn_request *requests = fm_xcalloc(count + 1, sizeof(*requests));
    for (size_t i = 0; i < count; i++)
        requests[i] = (struct fm_sdn_request){
            .target = &plan->lanes[i].target, .verb = FM_SDN_QUEUES, .port = plan->lanes[i].port};
    struct fm_error failed = {0};
    int rc = fm_sdn_run(step->batch.session, requests, count, &failed);
    for (size_t i = 0; i < count; i++)
        usable[i] =
            has_queue(requests[i].answer, plan->queue) && !lane_taken(step, &plan->lanes[i]);
    fm_sdn_requests_clear(requests, count);
    if (rc < 0 && failed.code != FM_E_PROTOCOL && failed.code != FM_E_NOT_FOUND) {
        if (err)
            *err = failed;
        return rc;
    }
    for (size_t i = 0; i < count; i++) {
        if (!usable[i])
            continue;
        struct fm_sdn_lane *lane = &plan->lanes[kept++];
        *lane = plan->lanes[i];
        lane->target.name = lane->name;
    }
    plan->lane_count = kept;
    return 0;
}

static int read_switches(struct step *step, struct fm_error *err)
{
    struct fm_sdn_batch *batch = &step->batch;
    int rc = fm_sdn_connected(batch->session, batch->targets, batch->count, err);
    if (rc < 0)
        return rc;
    json_t *matches = all_matches(step);
    rc = fm_sdn_batch_list(batch, matches, err);
    json_decref(matches);
    if (rc == 0)
        rc = take_before(step, err);
    return rc == 0 ? find_queues(step, err) : rc;
}

static int sdn_read(void *ctx, const struct fm_move *move, json_t **before, struct fm_error *err)
{
    struct step step = {.sdn = ctx, .move = move};
    *before = NULL;
    int rc = fm_sdn_plan_make(&step.sdn->settings, move, &step.plan, err);
    if (rc == 0 && (step.plan.count || step.plan.reserve_bps)) {
        step_open(&step, false);
        rc = read_switches(&step, err);
        if (rc == 0)
            *before = fm_sdn_plan_save(&step.plan);
        fm_sdn_batch_close(&step.batch);
    }
    fm_sdn_plan_clear(&step.plan);
    return rc < 0 ? fm_error_prefix(err, "SDN") : 0;
}

/* ---- prepare ---- */

static int reserve(const struct step *step, struct fm_error *err)
{
    const struct fm_sdn_settings *settings = &step->sdn->settings;
    const struct fm_sdn_plan *plan = &step->plan;
    struct fm_path path;
    if (plan->reserve_bps == 0)
        return 0;
    int rc = fm_topology_reserve(settings->topology, step->move->migration,
                                 &(struct fm_path_request){.from = step->move->source,
                                                           .to = step->move->destination,
                                                           .order = settings->order,
                                                           .free_bps = plan->reserve_bps},
                                 &path, err);
    if (rc < 0)
        return rc;
    /* The lanes that were looked for are on the way that was free then. */
    for (size_t i = 0; i < plan->lane_count && rc == 0; i++) {
        bool found = false;
        for (size_t k = 0; k < path.count; k++)
            found = found || (path.hops[k].dpid == plan->lanes[i].target.dpid &&
                              path.hops[k].out_port == plan->lanes[i].port);
        if (!found)
            rc = fm_error_set(err, FM_E_NO_SPACE,
                              "another migration has just taken the bandwidth on the way over "
                              "switch '%s'; try again",
                              plan->lanes[i].name);
    }
    fm_path_clear(&path);
    if (rc < 0)
        fm_topology_release(settings->topology, step->move->migration);
    return rc;
}

static void nap(void)
{
    struct timespec t = {.tv_nsec = PAUSE_MS * 1000000L};
    nanosleep(&t, NULL);
}

static int fail_missing(const struct step *step, size_t index, const char *what,
                        struct fm_error *err)
{
    const struct fm_topology_switch *target = step->batch.targets[index];
    return fm_error_set(err, FM_E_FAILED,
                        "switch '%s' (dpid %llu) did not take the %s flow of '%s' (table full, or "
                        "no such port?)",
                        target->name, (unsigned long long)target->dpid, what,
                        step->move->container);
}

static int judge_prepared(struct step *step, struct fm_error *err)
{
    struct fm_sdn_key settled = settled_key(&step->plan);
    struct fm_sdn_key prepared = prepared_key(&step->plan);
    for (size_t i = 0; i < step->plan.count; i++) {
        const json_t *flows = step->batch.flows[i];
        const json_t *waiting = fm_sdn_flow_find(flows, &prepared);
        int rc = check_foreign(step, i, err);
        if (rc < 0)
            return rc;
        if (!fm_sdn_flow_find(flows, &settled))
            return fail_missing(step, i, "present", err);
        if (!waiting || !leads_to(waiting, step->plan.changes[i].new_port))
            return fail_missing(step, i, "new", err);
    }
    return 0;
}

/* What a step has done, as the switches tell. Without barriers it may take a moment to show. */
static int look(struct step *step, int (*judge)(struct step *step, struct fm_error *err),
                struct fm_error *err)
{
    json_t *matches = container_match(&step->plan);
    int rc;
    for (;;) {
        rc = fm_sdn_batch_list(&step->batch, matches, err);
        if (rc < 0)
            break;
        rc = judge(step, err);
        if (rc == 0 || fm_sdn_session_has_barriers(step->batch.session) ||
            !fm_sdn_session_has_time(step->batch.session))
            break;
        nap();
    }
    json_decref(matches);
    return rc;
}

static int check_all_foreign(struct step *step, struct fm_error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < step->plan.count; i++)
        rc = check_foreign(step, i, err);
    return rc;
}

/* First the way to the source gets a flow of ours wherever it has none: it hides the new one below,
 * and the switch-over is then but a change of its actions, which needs no more room in the table.
 */
static int install(struct step *step, struct fm_error *err)
{
    const struct fm_sdn_plan *plan = &step->plan;
    int rc = look(step, check_all_foreign, err);
    for (size_t i = 0; rc == 0 && i < plan->count; i++)
        if (!plan->changes[i].settled)
            edit(step, i, FM_SDN_ADD, settled_key(plan), -1, plan->changes[i].old_port);
    if (rc == 0) {
        edit_lanes(step, FM_SDN_ADD);
        rc = fm_sdn_batch_send(&step->batch, err);
    }
    for (size_t i = 0; rc == 0 && i < plan->count; i++)
        edit(step, i, FM_SDN_ADD, prepared_key(plan), -1, plan->changes[i].new_port);
    if (rc == 0)
        rc = fm_sdn_batch_send(&step->batch, err);
    return rc == 0 ? look(step, judge_prepared, err) : rc;
}

static int sdn_prepare(void *ctx, const struct fm_move *move, const json_t *before,
                       struct fm_error *err)
{
    struct step step;
    int rc = step_load(&step, ctx, move, before, false, err);
    if (rc < 0)
        return fm_error_prefix(err, "SDN");
    rc = reserve(&step, err);
    if (rc == 0)
        rc = install(&step, err);
    step_close(&step);
    return rc < 0 ? fm_error_prefix(err, "SDN") : 0;
}

/* ---- switch-over and finish ---- */

static int judge_switched(struct step *step, struct fm_error *err)
{
    struct fm_sdn_key settled = settled_key(&step->plan);
    for (size_t i = 0; i < step->plan.count; i++) {
        const json_t *flow = fm_sdn_flow_find(step->batch.flows[i], &settled);
        if (flow && !fm_sdn_flow_has_cookie(flow, step->plan.cookie))
            return fail_foreign(step, i, flow, err);
        if (!flow || !leads_to(flow, step->plan.changes[i].new_port))
            return fail_missing(step, i, "switched", err);
    }
    return 0;
}

/* A switch that has lost its flows (a restart) gets them anew; one that has somebody else's there
 * does not. */
static int repair(struct step *step, struct fm_error *err)
{
    struct fm_sdn_key settled = settled_key(&step->plan);
    for (size_t i = 0; i < step->plan.count; i++)
        if (!fm_sdn_flow_find(step->batch.flows[i], &settled))
            edit(step, i, FM_SDN_ADD, settled, -1, step->plan.changes[i].new_port);
    int rc = fm_sdn_batch_send(&step->batch, err);
    return rc == 0 ? look(step, judge_switched, err) : rc;
}

static int confirm(struct step *step, struct fm_error *err)
{
    struct fm_error first = {0};
    int rc = look(step, judge_switched, &first);
    if (rc == -FM_E_FAILED)
        return repair(step, err);
    if (rc < 0 && err)
        *err = first;
    return rc;
}

/* The switch next to the destination first: then no packet meets a switch that still sends it
 * back. */
static int switch_over(struct step *step, struct fm_error *err)
{
    const struct fm_sdn_plan *plan = &step->plan;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < plan->count; i++) {
        const struct fm_sdn_change *c = &plan->changes[i];
        edit(step, i, FM_SDN_MODIFY_STRICT, settled_key(plan), -1, c->new_port);
        if (i + 1 == plan->count || plan->changes[i + 1].new_rank != c->new_rank)
            rc = fm_sdn_batch_send(&step->batch, err);
    }
    return rc == 0 ? confirm(step, err) : rc;
}

static int sdn_switch_over(void *ctx, const struct fm_move *move, const json_t *before,
                           struct fm_error *err)
{
    struct step step;
    int rc = step_load(&step, ctx, move, before, false, err);
    if (rc < 0)
        return fm_error_prefix(err, "SDN");
    rc = switch_over(&step, err);
    step_close(&step);
    return rc < 0 ? fm_error_prefix(err, "SDN") : 0;
}

static int sdn_finish(void *ctx, const struct fm_move *move, const json_t *before,
                      struct fm_error *err)
{
    struct step step;
    int rc = step_load(&step, ctx, move, before, true, err);
    if (rc < 0)
        return fm_error_prefix(err, "SDN");
    rc = confirm(&step, err);
    for (size_t i = 0; i < step.plan.count; i++)
        edit(&step, i, FM_SDN_DELETE_STRICT, prepared_key(&step.plan), -1,
             step.plan.changes[i].new_port);
    release_lanes(&step);
    struct fm_error late = {0};
    int sent = fm_sdn_batch_send(&step.batch, &late);
    if (rc == 0 && sent < 0) {
        rc = sent;
        if (err)
            *err = late;
    }
    step_close(&step);
    return rc < 0 ? fm_error_prefix(err, "SDN") : 0;
}

/* ---- undo ---- */

/* Whether what stands at a place is what we may have put there, or what was there before. */
static bool is_expected(const struct step *step, size_t index, const json_t *flow,
                        const json_t *wanted)
{
    const struct fm_sdn_change *c = &step->plan.changes[index];
    return fm_sdn_flow_has_cookie(flow, step->plan.cookie) &&
           (leads_to(flow, c->old_port) || leads_to(flow, c->new_port) ||
            (wanted && fm_sdn_flow_has_actions(flow, json_object_get(wanted, "actions"))));
}

/* Puts one place back as it was: `wanted`, or nothing. */
static void restore(struct step *step, size_t index, struct fm_sdn_key key, const json_t *wanted)
{
    const json_t *flow = fm_sdn_flow_find(step->batch.flows[index], &key);
    if (flow && !is_expected(step, index, flow, wanted)) {
        const struct fm_topology_switch *target = step->batch.targets[index];
        fm_autofree char *text = fm_sdn_flow_text(flow);
        fm_error_set(&step->stays, FM_E_REFUSED,
                     "switch '%s' (dpid %llu): somebody else has changed a flow of '%s' meanwhile "
                     "(%s); it stays as it is",
                     target->name, (unsigned long long)target->dpid, step->move->container, text);
        return;
    }
    if (wanted && !(flow && json_equal(flow, wanted)))
        fm_sdn_batch_edit(&step->batch, index, FM_SDN_ADD, wanted);
    else if (!wanted) /* also when it is not seen: it may still be on its way */
        edit(step, index, FM_SDN_DELETE_STRICT, key, -1, step->plan.changes[index].old_port);
}

/* Nearest to the source first, as in switch_over. */
static void restore_settled(struct step *step)
{
    struct fm_error ignored = {0};
    size_t done = 0;
    for (unsigned rank = 0; done < step->plan.count; rank++) {
        for (size_t i = 0; i < step->plan.count; i++) {
            if (step->plan.changes[i].old_rank != rank)
                continue;
            restore(step, i, settled_key(&step->plan), step->plan.changes[i].settled);
            done++;
        }
        fm_sdn_batch_send(&step->batch, &ignored);
    }
}

static bool is_as_wanted(const json_t *flows, struct fm_sdn_key key, const json_t *wanted)
{
    const json_t *flow = fm_sdn_flow_find(flows, &key);
    return wanted ? flow && json_equal(flow, wanted) : !flow;
}

static int judge_restored(struct step *step, struct fm_error *err)
{
    for (size_t i = 0; i < step->plan.count; i++) {
        const struct fm_sdn_change *c = &step->plan.changes[i];
        const json_t *flows = step->batch.flows[i];
        if (!is_as_wanted(flows, settled_key(&step->plan), c->settled) ||
            !is_as_wanted(flows, prepared_key(&step->plan), c->prepared))
            return fail_missing(step, i, "former", err);
    }
    return 0;
}

static int undo(struct step *step, struct fm_error *err)
{
    struct fm_error ignored = {0};
    json_t *matches = container_match(&step->plan);
    fm_sdn_batch_list(&step->batch, matches, &ignored);
    json_decref(matches);
    for (size_t i = 0; i < step->plan.count; i++) /* while the settled ones still hide them */
        restore(step, i, prepared_key(&step->plan), step->plan.changes[i].prepared);
    release_lanes(step);
    fm_sdn_batch_send(&step->batch, &ignored);
    restore_settled(step);
    int rc = fm_sdn_batch_result(&step->batch, err);
    if (rc < 0 || !step->stays.code)
        return rc < 0 ? rc : look(step, judge_restored, err);
    if (err)
        *err = step->stays;
    return -(int)step->stays.code;
}

static int sdn_undo(void *ctx, const struct fm_move *move, const json_t *before,
                    struct fm_error *err)
{
    struct step step;
    int rc = step_load(&step, ctx, move, before, true, err);
    if (rc < 0)
        return fm_error_prefix(err, "SDN");
    rc = undo(&step, err);
    step_close(&step);
    return rc < 0 ? fm_error_prefix(err, "SDN") : 0;
}

/* ---- life ---- */

static const struct fm_follower_ops sdn_ops = {
    .kind = "sdn",
    .read = sdn_read,
    .prepare = sdn_prepare,
    .switch_over = sdn_switch_over,
    .finish = sdn_finish,
    .undo = sdn_undo,
};

int fm_sdn_open(const struct fm_sdn_config *config, struct fm_follower *follower,
                struct fm_error *err)
{
    struct sdn *sdn = fm_xcalloc(1, sizeof(*sdn));
    struct fm_sdn_rest_config rest = {
        .urls = config->controllers,
        .timeout_ms = config->timeout_ms ? config->timeout_ms : FM_SDN_TIMEOUT_MS,
        .ca = config->ca,
        .cert = config->cert,
        .key = config->key,
    };
    *follower = (struct fm_follower){0};
    int rc = fm_sdn_settings_take(config, &sdn->settings, err);
    if (rc == 0) {
        sdn->rest = fm_sdn_rest_open(&rest, err);
        rc = sdn->rest ? 0 : fm_error_result(err);
    }
    *follower = (struct fm_follower){&sdn_ops, sdn};
    if (rc < 0) {
        fm_sdn_close(follower);
        fm_error_prefix(err, "SDN");
    }
    return rc;
}

void fm_sdn_close(struct fm_follower *follower)
{
    struct sdn *sdn = follower->ctx;
    if (sdn) {
        fm_sdn_settings_clear(&sdn->settings);
        fm_sdn_rest_close(sdn->rest);
    }
    free(sdn);
    *follower = (struct fm_follower){0};
}
