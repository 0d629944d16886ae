#include "network/sdn_batch.h"

#include <stdlib.h>

#include "base/cleanup.h"
#include "base/text.h"

void fm_sdn_batch_open(struct fm_sdn_batch *batch, struct fm_sdn_session *session, size_t room)
{
    *batch = (struct fm_sdn_batch){
        .session = session,
        .targets = fm_xcalloc(room + 1, sizeof(const void *)),
        .errors = fm_xcalloc(room + 1, sizeof(*batch->errors)),
        .flows = fm_xcalloc(room + 1, sizeof(const void *)),
    };
}

void fm_sdn_batch_close(struct fm_sdn_batch *batch)
{
    for (size_t i = 0; i < batch->count; i++)
        json_decref(batch->flows[i]);
    fm_sdn_requests_clear(batch->requests, batch->request_count);
    fm_sdn_session_close(batch->session);
    free(batch->requests);
    free((void *)batch->targets);
    free(batch->errors);
    free((void *)batch->flows);
    *batch = (struct fm_sdn_batch){0};
}

size_t fm_sdn_batch_add(struct fm_sdn_batch *batch, const struct fm_topology_switch *target)
{
    for (size_t i = 0; i < batch->count; i++)
        if (batch->targets[i]->dpid == target->dpid)
            return i;
    batch->targets[batch->count] = target;
    return batch->count++;
}

int fm_sdn_batch_result(const struct fm_sdn_batch *batch, struct fm_error *err)
{
    const struct fm_error *first = NULL;
    size_t more = 0;
    for (size_t i = 0; i < batch->count; i++) {
        if (batch->errors[i].code && first)
            more++;
        else if (batch->errors[i].code)
            first = &batch->errors[i];
    }
    if (!first)
        return 0;
    if (more == 0)
        return fm_error_set(err, first->code, "%s", first->text);
    return fm_error_set(err, first->code, "%s (and %zu more switch%s failed)", first->text, more,
                        more == 1 ? "" : "es");
}

void fm_sdn_batch_fail(struct fm_sdn_batch *batch, size_t index, const struct fm_error *err)
{
    if (!batch->errors[index].code)
        batch->errors[index] = *err;
}

static void put(struct fm_sdn_batch *batch, size_t index, enum fm_sdn_verb verb, json_t *body)
{
    batch->requests =
        fm_xrealloc(batch->requests, (batch->request_count + 1) * sizeof(*batch->requests));
    batch->requests[batch->request_count++] =
        (struct fm_sdn_request){.target = batch->targets[index], .verb = verb, .body = body};
}

/* What the requests came to, for the switch of each. */
static void take_errors(struct fm_sdn_batch *batch)
{
    for (size_t i = 0; i < batch->request_count; i++)
        if (batch->requests[i].err.code)
            fm_sdn_batch_fail(batch, fm_sdn_batch_add(batch, batch->requests[i].target),
                              &batch->requests[i].err);
}

static void clear_requests(struct fm_sdn_batch *batch)
{
    fm_sdn_requests_clear(batch->requests, batch->request_count);
    batch->request_count = 0;
}

/* ---- listing ---- */

static void take_flows(struct fm_sdn_batch *batch)
{
    for (size_t i = 0; i < batch->request_count; i++) {
        const struct fm_sdn_request *request = &batch->requests[i];
        size_t index = fm_sdn_batch_add(batch, request->target);
        struct fm_error err = {0};
        if (request->err.code || fm_sdn_flows_take(request->answer, batch->flows[index], &err) == 0)
            continue;
        fm_error_prefix(&err, "switch '%s' (dpid %llu)", request->target->name,
                        (unsigned long long)request->target->dpid);
        fm_sdn_batch_fail(batch, index, &err);
    }
}

int fm_sdn_batch_list(struct fm_sdn_batch *batch, const json_t *matches, struct fm_error *err)
{
    for (size_t i = 0; i < batch->count; i++) {
        json_decref(batch->flows[i]);
        batch->flows[i] = json_array();
        for (size_t k = 0; !batch->errors[i].code && k < json_array_size(matches); k++)
            put(batch, i, FM_SDN_FLOWS, json_pack("{s:O}", "match", json_array_get(matches, k)));
    }
    struct fm_error ignored = {0};
    fm_sdn_run(batch->session, batch->requests, batch->request_count, &ignored);
    take_errors(batch);
    take_flows(batch);
    clear_requests(batch);
    return fm_sdn_batch_result(batch, err);
}

/* ---- changing ---- */

void fm_sdn_batch_edit(struct fm_sdn_batch *batch, size_t index, enum fm_sdn_verb verb,
                       const json_t *flow)
{
    struct fm_error err = {0};
    if (batch->errors[index].code)
        return;
    json_t *body = fm_sdn_flow_entry(flow, &err);
    if (body) {
        put(batch, index, verb, body);
        return;
    }
    fm_error_prefix(&err, "switch '%s'", batch->targets[index]->name);
    fm_sdn_batch_fail(batch, index, &err);
}

static bool needs_barrier(const struct fm_sdn_batch *batch, size_t index)
{
    for (size_t i = 0; i < batch->request_count; i++)
        if (!batch->requests[i].done &&
            batch->requests[i].target->dpid == batch->targets[index]->dpid)
            return true;
    return false;
}

static void wait_done(struct fm_sdn_batch *batch)
{
    fm_autofree size_t *where = fm_xcalloc(batch->count + 1, sizeof(*where));
    fm_autofree struct fm_error *errors = fm_xcalloc(batch->count + 1, sizeof(*errors));
    fm_autofree const struct fm_topology_switch **targets =
        fm_xcalloc(batch->count + 1, sizeof(const void *));
    struct fm_error ignored = {0};
    size_t count = 0;
    for (size_t i = 0; i < batch->count; i++) {
        if (batch->errors[i].code || !needs_barrier(batch, i))
            continue;
        targets[count] = batch->targets[i];
        where[count++] = i;
    }
    fm_sdn_barrier(batch->session, targets, count, errors, &ignored);
    for (size_t i = 0; i < count; i++)
        if (errors[i].code)
            fm_sdn_batch_fail(batch, where[i], &errors[i]);
}

int fm_sdn_batch_send(struct fm_sdn_batch *batch, struct fm_error *err)
{
    struct fm_error ignored = {0};
    if (batch->request_count) {
        fm_sdn_run(batch->session, batch->requests, batch->request_count, &ignored);
        take_errors(batch);
        wait_done(batch);
        clear_requests(batch);
    }
    return fm_sdn_batch_result(batch, err);
}
