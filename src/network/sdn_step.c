#include "network/sdn_step.h"

#include <stdlib.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/text.h"

#define PAUSE_MS 5 /* between two looks at a switch whose controller has no barriers */

void fm_sdn_step_open(struct fm_sdn_step *step, bool patient)
{
    struct fm_sdn_plan *plan = &step->plan;
    fm_sdn_batch_open(&step->batch,
                      fm_sdn_session_open(step->sdn->rest, patient, step->move->cancel),
                      plan->count + plan->lane_count);
    for (size_t i = 0; i < plan->count; i++)
        fm_sdn_batch_add(&step->batch, &plan->changes[i].target);
    for (size_t i = 0; i < plan->lane_count; i++)
        fm_sdn_batch_add(&step->batch, &plan->lanes[i].target);
}

int fm_sdn_step_load(struct fm_sdn_step *step, struct fm_sdn *sdn, const struct fm_move *move,
                     const json_t *before, bool patient, struct fm_error *err)
{
    *step = (struct fm_sdn_step){.sdn = sdn, .move = move};
    int rc = fm_sdn_plan_load(before, &step->plan, err);
    if (rc == 0)
        fm_sdn_step_open(step, patient);
    return rc;
}

void fm_sdn_step_close(struct fm_sdn_step *step)
{
    fm_sdn_batch_close(&step->batch);
    fm_sdn_plan_clear(&step->plan);
}

/* ---- flows of ours ---- */

struct fm_sdn_key fm_sdn_settled_key(const struct fm_sdn_plan *plan)
{
    return (struct fm_sdn_key){plan->table, plan->priority, plan->match};
}

struct fm_sdn_key fm_sdn_prepared_key(const struct fm_sdn_plan *plan)
{
    return (struct fm_sdn_key){plan->table, FM_SDN_PREPARED(plan), plan->match};
}

struct fm_sdn_key fm_sdn_lane_key(const struct fm_sdn_plan *plan)
{
    return (struct fm_sdn_key){plan->table, plan->priority, plan->lane_match};
}

void fm_sdn_step_edit(struct fm_sdn_step *step, size_t index, enum fm_sdn_verb verb,
                      struct fm_sdn_key key, json_t *actions)
{
    json_t *flow = fm_sdn_flow_make(&key, step->plan.cookie, actions);
    fm_sdn_batch_edit(&step->batch, index, verb, flow);
    json_decref(flow);
}

bool fm_sdn_leads_to(const json_t *flow, uint32_t port)
{
    json_t *actions = fm_sdn_actions(port);
    bool same = fm_sdn_flow_has_actions(flow, actions);
    json_decref(actions);
    return same;
}

void fm_sdn_step_edit_lanes(struct fm_sdn_step *step, enum fm_sdn_verb verb)
{
    for (size_t i = 0; i < step->plan.lane_count; i++) {
        const struct fm_sdn_lane *lane = &step->plan.lanes[i];
        fm_sdn_step_edit(step, fm_sdn_batch_add(&step->batch, &lane->target), verb,
                         fm_sdn_lane_key(&step->plan),
                         fm_sdn_lane_actions(lane->meter, lane->queue, lane->port));
    }
}

void fm_sdn_step_release_lanes(struct fm_sdn_step *step)
{
    struct fm_topology *topology = step->sdn->settings.topology;
    const struct fm_move *move = step->move;
    if (!fm_topology_is_shared(topology, move->migration, move->source, move->destination))
        fm_sdn_step_edit_lanes(step, FM_SDN_DELETE_STRICT);
    fm_topology_release(topology, move->migration);
}

json_t *fm_sdn_container_match(const struct fm_sdn_plan *plan)
{
    return json_pack("[O]", plan->match);
}

/* ---- looking ---- */

int fm_sdn_fail_foreign(const struct fm_sdn_step *step, size_t index, const json_t *flow,
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

int fm_sdn_check_foreign(const struct fm_sdn_step *step, size_t index, struct fm_error *err)
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
            return fm_sdn_fail_foreign(step, index, flow, err);
    }
    return 0;
}

static void nap(void)
{
    struct timespec t = {.tv_nsec = PAUSE_MS * 1000000L};
    nanosleep(&t, NULL);
}

int fm_sdn_fail_missing(const struct fm_sdn_step *step, size_t index, const char *what,
                        struct fm_error *err)
{
    const struct fm_topology_switch *target = step->batch.targets[index];
    return fm_error_set(err, FM_E_FAILED,
                        "switch '%s' (dpid %llu) did not take the %s flow of '%s' (table full, or "
                        "no such port?)",
                        target->name, (unsigned long long)target->dpid, what,
                        step->move->container);
}

int fm_sdn_step_look(struct fm_sdn_step *step,
                     int (*judge)(struct fm_sdn_step *step, struct fm_error *err),
                     struct fm_error *err)
{
    json_t *matches = fm_sdn_container_match(&step->plan);
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
