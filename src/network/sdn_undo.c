#include "base/cleanup.h"
#include "base/text.h"
#include "network/sdn_step.h"

/* Whether what stands at a place is what we may have put there, or what was there before. */
static bool is_expected(const struct fm_sdn_step *step, size_t index, const json_t *flow,
                        const json_t *wanted)
{
    const struct fm_sdn_change *c = &step->plan.changes[index];
    return fm_sdn_flow_has_cookie(flow, step->plan.cookie) &&
           (fm_sdn_leads_to(flow, c->old_port) || fm_sdn_leads_to(flow, c->new_port) ||
            (wanted && fm_sdn_flow_has_actions(flow, json_object_get(wanted, "actions"))));
}

/* Puts one place back as it was: `wanted`, or nothing. */
static void restore(struct fm_sdn_step *step, size_t index, struct fm_sdn_key key,
                    const json_t *wanted)
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
        fm_sdn_step_edit(step, index, FM_SDN_DELETE_STRICT, key,
                         fm_sdn_actions(step->plan.changes[index].old_port));
}

/* Nearest to the source first, as in switch_over. */
static void restore_settled(struct fm_sdn_step *step)
{
    struct fm_error ignored = {0};
    size_t done = 0;
    for (unsigned rank = 0; done < step->plan.count; rank++) {
        for (size_t i = 0; i < step->plan.count; i++) {
            if (step->plan.changes[i].old_rank != rank)
                continue;
            restore(step, i, fm_sdn_settled_key(&step->plan), step->plan.changes[i].settled);
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

static int judge_restored(struct fm_sdn_step *step, struct fm_error *err)
{
    for (size_t i = 0; i < step->plan.count; i++) {
        const struct fm_sdn_change *c = &step->plan.changes[i];
        const json_t *flows = step->batch.flows[i];
        if (!is_as_wanted(flows, fm_sdn_settled_key(&step->plan), c->settled) ||
            !is_as_wanted(flows, fm_sdn_prepared_key(&step->plan), c->prepared))
            return fm_sdn_fail_missing(step, i, "former", err);
    }
    return 0;
}

static int undo(struct fm_sdn_step *step, struct fm_error *err)
{
    struct fm_error ignored = {0};
    json_t *matches = fm_sdn_container_match(&step->plan);
    fm_sdn_batch_list(&step->batch, matches, &ignored);
    json_decref(matches);
    for (size_t i = 0; i < step->plan.count; i++) /* while the settled ones still hide them */
        restore(step, i, fm_sdn_prepared_key(&step->plan), step->plan.changes[i].prepared);
    fm_sdn_step_release_lanes(step);
    fm_sdn_batch_send(&step->batch, &ignored);
    restore_settled(step);
    int rc = fm_sdn_batch_result(&step->batch, err);
    if (rc < 0 || !step->stays.code)
        return rc < 0 ? rc : fm_sdn_step_look(step, judge_restored, err);
    if (err)
        *err = step->stays;
    return -(int)step->stays.code;
}

int fm_sdn_undo(void *ctx, const struct fm_move *move, const json_t *before, struct fm_error *err)
{
    struct fm_sdn_step step;
    int rc = fm_sdn_step_load(&step, ctx, move, before, true, err);
    if (rc < 0)
        return fm_error_prefix(err, "SDN");
    rc = undo(&step, err);
    fm_sdn_step_close(&step);
    return rc < 0 ? fm_error_prefix(err, "SDN") : 0;
}
