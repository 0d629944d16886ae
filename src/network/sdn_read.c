#include <stdlib.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "network/address.h"
#include "network/sdn_step.h"

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
static json_t *all_matches(const struct fm_sdn_step *step)
{
    json_t *matches = fm_sdn_container_match(&step->plan);
    add_ip_matches(matches, step->move->new_ip);
    add_ip_matches(matches, step->move->new_ip6);
    if (step->plan.lane_match)
        json_array_append(matches, step->plan.lane_match);
    return matches;
}

/* A flow of ours as it was read, if it can be put back later. */
static int take_flow(const struct fm_sdn_step *step, size_t index, struct fm_sdn_key key,
                     json_t **flow, struct fm_error *err)
{
    *flow = json_incref((json_t *)fm_sdn_flow_find(step->batch.flows[index], &key));
    json_t *entry = *flow ? fm_sdn_flow_entry(*flow, err) : NULL;
    bool lost = *flow && !entry;
    json_decref(entry);
    return lost ? fm_error_prefix(err, "switch '%s'", step->plan.changes[index].name) : 0;
}

static int take_before(struct fm_sdn_step *step, struct fm_error *err)
{
    struct fm_sdn_plan *plan = &step->plan;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < plan->count; i++) {
        rc = fm_sdn_check_foreign(step, i, err);
        if (rc == 0)
            rc = take_flow(step, i, fm_sdn_settled_key(plan), &plan->changes[i].settled, err);
        if (rc == 0)
            rc = take_flow(step, i, fm_sdn_prepared_key(plan), &plan->changes[i].prepared, err);
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
static bool lane_taken(struct fm_sdn_step *step, const struct fm_sdn_lane *lane)
{
    struct fm_sdn_key key = fm_sdn_lane_key(&step->plan);
    size_t index = fm_sdn_batch_add(&step->batch, &lane->target);
    const json_t *flow = fm_sdn_flow_find(step->batch.flows[index], &key);
    return flow && !fm_sdn_flow_has_cookie(flow, step->plan.cookie);
}

/* Leaves the lanes whose switch has the queue; a switch that does not tell has none. */
static int find_queues(struct fm_sdn_step *step, struct fm_error *err)
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

static int read_switches(struct fm_sdn_step *step, struct fm_error *err)
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

int fm_sdn_read(void *ctx, const struct fm_move *move, json_t **before, struct fm_error *err)
{
    struct fm_sdn_step step = {.sdn = ctx, .move = move};
    *before = NULL;
    int rc = fm_sdn_plan_make(&step.sdn->settings, move, &step.plan, err);
    if (rc == 0 && (step.plan.count || step.plan.reserve_bps)) {
        fm_sdn_step_open(&step, false);
        rc = read_switches(&step, err);
        if (rc == 0)
            *before = fm_sdn_plan_save(&step.plan);
        fm_sdn_batch_close(&step.batch);
    }
    fm_sdn_plan_clear(&step.plan);
    return rc < 0 ? fm_error_prefix(err, "SDN") : 0;
}
