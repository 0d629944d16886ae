#include "network/sdn.h"

#include <stdlib.h>

#include "base/text.h"
#include "network/sdn_step.h"

/* ---- prepare ---- */

static int reserve(const struct fm_sdn_step *step, struct fm_error *err)
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

static int judge_prepared(struct fm_sdn_step *step, struct fm_error *err)
{
    struct fm_sdn_key settled = fm_sdn_settled_key(&step->plan);
    struct fm_sdn_key prepared = fm_sdn_prepared_key(&step->plan);
    for (size_t i = 0; i < step->plan.count; i++) {
        const json_t *flows = step->batch.flows[i];
        const json_t *waiting = fm_sdn_flow_find(flows, &prepared);
        int rc = fm_sdn_check_foreign(step, i, err);
        if (rc < 0)
            return rc;
        if (!fm_sdn_flow_find(flows, &settled))
            return fm_sdn_fail_missing(step, i, "present", err);
        if (!waiting || !fm_sdn_leads_to(waiting, step->plan.changes[i].new_port))
            return fm_sdn_fail_missing(step, i, "new", err);
    }
    return 0;
}

static int check_all_foreign(struct fm_sdn_step *step, struct fm_error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < step->plan.count; i++)
        rc = fm_sdn_check_foreign(step, i, err);
    return rc;
}

/* First the way to the source gets a flow of ours wherever it has none: it hides the new one below,
 * and the switch-over is then but a change of its actions, which needs no more room in the table.
 */
static int install(struct fm_sdn_step *step, struct fm_error *err)
{
    const struct fm_sdn_plan *plan = &step->plan;
    int rc = fm_sdn_step_look(step, check_all_foreign, err);
    for (size_t i = 0; rc == 0 && i < plan->count; i++)
        if (!plan->changes[i].settled)
            fm_sdn_step_edit(step, i, FM_SDN_ADD, fm_sdn_settled_key(plan),
                             fm_sdn_actions(plan->changes[i].old_port));
    if (rc == 0) {
        fm_sdn_step_edit_lanes(step, FM_SDN_ADD);
        rc = fm_sdn_batch_send(&step->batch, err);
    }
    for (size_t i = 0; rc == 0 && i < plan->count; i++)
        fm_sdn_step_edit(step, i, FM_SDN_ADD, fm_sdn_prepared_key(plan),
                         fm_sdn_actions(plan->changes[i].new_port));
    if (rc == 0)
        rc = fm_sdn_batch_send(&step->batch, err);
    return rc == 0 ? fm_sdn_step_look(step, judge_prepared, err) : rc;
}

static int sdn_prepare(void *ctx, const struct fm_move *move, const json_t *before,
                       struct fm_error *err)
{
    struct fm_sdn_step step;
    int rc = fm_sdn_step_load(&step, ctx, move, before, false, err);
    if (rc < 0)
        return fm_error_prefix(err, "SDN");
    rc = reserve(&step, err);
    if (rc == 0)
        rc = install(&step, err);
    fm_sdn_step_close(&step);
    return rc < 0 ? fm_error_prefix(err, "SDN") : 0;
}

/* ---- switch-over and finish ---- */

static int judge_switched(struct fm_sdn_step *step, struct fm_error *err)
{
    struct fm_sdn_key settled = fm_sdn_settled_key(&step->plan);
    for (size_t i = 0; i < step->plan.count; i++) {
        const json_t *flow = fm_sdn_flow_find(step->batch.flows[i], &settled);
        if (flow && !fm_sdn_flow_has_cookie(flow, step->plan.cookie))
            return fm_sdn_fail_foreign(step, i, flow, err);
        if (!flow || !fm_sdn_leads_to(flow, step->plan.changes[i].new_port))
            return fm_sdn_fail_missing(step, i, "switched", err);
    }
    return 0;
}

/* A switch that has lost its flows (a restart) gets them anew; one that has somebody else's there
 * does not. */
static int repair(struct fm_sdn_step *step, struct fm_error *err)
{
    struct fm_sdn_key settled = fm_sdn_settled_key(&step->plan);
    for (size_t i = 0; i < step->plan.count; i++)
        if (!fm_sdn_flow_find(step->batch.flows[i], &settled))
            fm_sdn_step_edit(step, i, FM_SDN_ADD, settled,
                             fm_sdn_actions(step->plan.changes[i].new_port));
    int rc = fm_sdn_batch_send(&step->batch, err);
    return rc == 0 ? fm_sdn_step_look(step, judge_switched, err) : rc;
}

static int confirm(struct fm_sdn_step *step, struct fm_error *err)
{
    struct fm_error first = {0};
    int rc = fm_sdn_step_look(step, judge_switched, &first);
    if (rc == -FM_E_FAILED)
        return repair(step, err);
    if (rc < 0 && err)
        *err = first;
    return rc;
}

/* The switch next to the destination first: then no packet meets a switch that still sends it
 * back. */
static int switch_over(struct fm_sdn_step *step, struct fm_error *err)
{
    const struct fm_sdn_plan *plan = &step->plan;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < plan->count; i++) {
        const struct fm_sdn_change *c = &plan->changes[i];
        fm_sdn_step_edit(step, i, FM_SDN_MODIFY_STRICT, fm_sdn_settled_key(plan),
                         fm_sdn_actions(c->new_port));
        if (i + 1 == plan->count || plan->changes[i + 1].new_rank != c->new_rank)
            rc = fm_sdn_batch_send(&step->batch, err);
    }
    return rc == 0 ? confirm(step, err) : rc;
}

static int sdn_switch_over(void *ctx, const struct fm_move *move, const json_t *before,
                           struct fm_error *err)
{
    struct fm_sdn_step step;
    int rc = fm_sdn_step_load(&step, ctx, move, before, false, err);
    if (rc < 0)
        return fm_error_prefix(err, "SDN");
    rc = switch_over(&step, err);
    fm_sdn_step_close(&step);
    return rc < 0 ? fm_error_prefix(err, "SDN") : 0;
}

static int sdn_finish(void *ctx, const struct fm_move *move, const json_t *before,
                      struct fm_error *err)
{
    struct fm_sdn_step step;
    int rc = fm_sdn_step_load(&step, ctx, move, before, true, err);
    if (rc < 0)
        return fm_error_prefix(err, "SDN");
    rc = confirm(&step, err);
    for (size_t i = 0; i < step.plan.count; i++)
        fm_sdn_step_edit(&step, i, FM_SDN_DELETE_STRICT, fm_sdn_prepared_key(&step.plan),
                         fm_sdn_actions(step.plan.changes[i].new_port));
    fm_sdn_step_release_lanes(&step);
    struct fm_error late = {0};
    int sent = fm_sdn_batch_send(&step.batch, &late);
    if (rc == 0 && sent < 0) {
        rc = sent;
        if (err)
            *err = late;
    }
    fm_sdn_step_close(&step);
    return rc < 0 ? fm_error_prefix(err, "SDN") : 0;
}

/* ---- life ---- */

static const struct fm_follower_ops sdn_ops = {
    .kind = "sdn",
    .read = fm_sdn_read,
    .prepare = sdn_prepare,
    .switch_over = sdn_switch_over,
    .finish = sdn_finish,
    .undo = fm_sdn_undo,
};

int fm_sdn_open(const struct fm_sdn_config *config, struct fm_follower *follower,
                struct fm_error *err)
{
    struct fm_sdn *sdn = fm_xcalloc(1, sizeof(*sdn));
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
    *follower = (struct fm_follower){.ops = &sdn_ops, .ctx = sdn};
    if (rc < 0) {
        fm_sdn_close(follower);
        fm_error_prefix(err, "SDN");
    }
    return rc;
}

void fm_sdn_close(struct fm_follower *follower)
{
    struct fm_sdn *sdn = follower->ctx;
    if (sdn) {
        fm_sdn_settings_clear(&sdn->settings);
        fm_sdn_rest_close(sdn->rest);
    }
    free(sdn);
    *follower = (struct fm_follower){0};
}
