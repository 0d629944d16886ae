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

static bool has_meter(const json_t *meters, int64_t meter)
{
    for (size_t i = 0; i < json_array_size(meters); i++) {
        const json_t *id = json_object_get(json_array_get(meters, i), "meter_id");
        if (json_is_integer(id) && json_integer_value(id) == meter)
            return true;
    }
    return false;
}

/* A switch that refuses to tell has none. One that does not answer is another matter. */
static int judge_silence(const struct fm_sdn_request *requests, size_t count, struct fm_error *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct fm_error *e = &requests[i].err;
        if (e->code == FM_E_TIMEOUT || e->code == FM_E_UNREACHABLE)
            return fm_error_set(err, e->code, "%s", e->text);
    }
    return 0;
}

/* Appends the questions about a lane; *count follows. */
static void ask(const struct fm_sdn_lane *lane, struct fm_sdn_request *requests, size_t *count)
{
    if (lane->queue >= 0)
        requests[(*count)++] = (struct fm_sdn_request){
            .target = &lane->target, .verb = FM_SDN_QUEUES, .port = lane->port};
    if (lane->meter >= 0)
        requests[(*count)++] = (struct fm_sdn_request){
            .target = &lane->target, .verb = FM_SDN_METERS, .port = (uint32_t)lane->meter};
}

/* Forgets what the lane's switch turns out not to have; `next` stands at its first answer. */
static const struct fm_sdn_request *weigh(struct fm_sdn_lane *lane, bool taken,
                                          const struct fm_sdn_request *next)
{
    if (lane->queue >= 0 && (!has_queue((next++)->answer, lane->queue) || taken))
        lane->queue = -1;
    if (lane->meter >= 0 && (!has_meter((next++)->answer, lane->meter) || taken))
        lane->meter = -1;
    return next;
}

/* Leaves the lanes whose switch can do something for the migration's traffic. */
static int find_lanes(struct fm_sdn_step *step, struct fm_error *err)
{
    struct fm_sdn_plan *plan = &step->plan;
    size_t lanes = plan->lane_count;
    size_t count = 0;
    fm_autofree struct fm_sdn_request *requests = fm_xcalloc(2 * lanes + 1, sizeof(*requests));
    struct fm_error ignored = {0};
    for (size_t i = 0; i < lanes; i++)
        ask(&plan->lanes[i], requests, &count);
    fm_sdn_run(step->batch.session, requests, count, &ignored);
    int rc = judge_silence(requests, count, err);
    const struct fm_sdn_request *next = requests;
    for (size_t i = 0; i < lanes; i++)
        next = weigh(&plan->lanes[i], lane_taken(step, &plan->lanes[i]), next);
    plan->lane_count = 0;
    for (size_t i = 0; i < lanes; i++) {
        if (plan->lanes[i].queue < 0 && plan->lanes[i].meter < 0)
            continue;
        struct fm_sdn_lane *lane = &plan->lanes[plan->lane_count++];
        *lane = plan->lanes[i];
        lane->target.name = lane->name;
    }
    fm_sdn_requests_clear(requests, count);
    return rc;
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
    return rc == 0 ? find_lanes(step, err) : rc;
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
