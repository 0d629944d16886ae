/* HAProxy as a follower: drained, pointed to the new address, and given its weight back. */
#include "network/load_balancer_internal.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "network/address.h"
#include "network/haproxy.h"

/* What `read` found, and what the steps make of it; this is what the journal keeps. */
struct plan {
    char address[FM_IP_TEXT], new_address[FM_IP_TEXT]; /* the same unless it changes */
    uint16_t port;
    unsigned weight, drained;
    bool up;
};

/* A step's view: whom it asks about which server. */
struct step {
    const struct fm_load_balancer *lb;
    struct fm_haproxy haproxy;
    const char *server;
    struct plan plan;
    struct fm_haproxy_server now;
    unsigned others_up;
};

static void step_start(struct step *s, const struct fm_load_balancer *lb,
                       const struct fm_move *move)
{
    *s = (struct step){.lb = lb,
                       .haproxy = {.socket = lb->socket,
                                   .backend = lb->backend,
                                   .timeout_ms = lb->timeout_ms,
                                   .deadline = fm_now_ms() + lb->timeout_ms,
                                   .cancel = move->cancel},
                       .server = lb->server ? lb->server : move->container};
}

/* ---- read ---- */

/* Writes the address that takes the place of `old`, if that is the server's. */
static bool follow(const char *address, const char *old, const char *new, char out[FM_IP_TEXT])
{
    struct fm_ip is, was, becomes;
    if (!*old || fm_ip_parse("", address, &is, NULL) < 0 || fm_ip_parse("", old, &was, NULL) < 0 ||
        fm_ip_parse("", new, &becomes, NULL) < 0 || !fm_ip_equal(&is, &was))
        return false;
    fm_ip_format(&becomes, out);
    return true;
}

/* It may be the container's address, or its host's, which has the port published. */
static int plan_address(struct step *s, const struct fm_move *move, struct fm_error *err)
{
    struct plan *p = &s->plan;
    if (follow(p->address, move->old_ip, move->new_ip, p->new_address) ||
        follow(p->address, move->old_ip6, move->new_ip6, p->new_address) ||
        follow(p->address, move->source_address, move->destination_address, p->new_address))
        return 0;
    if (fm_streq(move->old_ip, move->new_ip) && fm_streq(move->old_ip6, move->new_ip6)) {
        memcpy(p->new_address, p->address, sizeof(p->new_address)); /* behind somebody's NAT */
        return 0;
    }
    return fm_error_set(err, FM_E_REFUSED,
                        "server %s/%s of HAProxy has address %s, which is neither the container's "
                        "(%s) nor its host's (%s); where to it moves is unknown",
                        s->lb->backend, s->server, p->address, move->old_ip, move->source_address);
}

static int make_plan(struct step *s, const struct fm_move *move, struct fm_error *err)
{
    struct plan *p = &s->plan;
    if (!s->now.address[0])
        return fm_error_set(err, FM_E_REFUSED, "server %s/%s of HAProxy has no IP address",
                            s->lb->backend, s->server);
    memcpy(p->address, s->now.address, sizeof(p->address));
    p->port = s->now.port;
    p->weight = s->now.weight;
    p->drained = (p->weight * s->lb->drain_percent + 99) / 100;
    p->up = s->now.up;
    return plan_address(s, move, err);
}

static json_t *plan_to_json(const struct plan *p)
{
    return json_pack("{s:s, s:s, s:i, s:i, s:i, s:b}", "address", p->address, "new_address",
                     p->new_address, "port", (int)p->port, "weight", (int)p->weight, "drained",
                     (int)p->drained, "up", p->up);
}

static bool take_address(const json_t *before, const char *key, char out[FM_IP_TEXT])
{
    const char *text = json_string_value(json_object_get(before, key));
    struct fm_ip ip;
    if (!text || fm_ip_parse("", text, &ip, NULL) < 0)
        return false;
    fm_ip_format(&ip, out);
    return true;
}

static bool take_number(const json_t *before, const char *key, int max, int *out)
{
    const json_t *value = json_object_get(before, key);
    json_int_t n = json_integer_value(value);
    *out = (int)n;
    return json_is_integer(value) && n >= 0 && n <= max;
}

static int plan_from_json(const json_t *before, struct plan *p, struct fm_error *err)
{
    int port, weight, drained;
    if (!take_address(before, "address", p->address) ||
        !take_address(before, "new_address", p->new_address) ||
        !take_number(before, "port", 65535, &port) ||
        !take_number(before, "weight", FM_HAPROXY_MAX_WEIGHT, &weight) ||
        !take_number(before, "drained", FM_HAPROXY_MAX_WEIGHT, &drained))
        return fm_error_set(err, FM_E_INVALID, "what HAProxy had before is not understood");
    p->port = (uint16_t)port;
    p->weight = (unsigned)weight;
    p->drained = (unsigned)drained;
    p->up = json_is_true(json_object_get(before, "up"));
    return 0;
}

static int look(struct step *s, struct fm_error *err)
{
    return fm_haproxy_read(&s->haproxy, s->server, &s->now, &s->others_up, NULL, err);
}

/* A container that nobody named has a server in the backend, or none of this is about it. */
static int haproxy_read(void *ctx, const struct fm_move *move, json_t **before,
                        struct fm_error *err)
{
    const struct fm_load_balancer *lb = ctx;
    struct step s;
    bool has_backend = false;
    *before = NULL;
    if (!fm_load_balancer_concerns(lb, move->container))
        return 0;
    step_start(&s, lb, move);
    int rc = fm_haproxy_read(&s.haproxy, s.server, &s.now, &s.others_up, &has_backend, err);
    if (rc == -FM_E_NOT_FOUND && has_backend && lb->all) {
        *err = (struct fm_error){0};
        return 0;
    }
    if (rc == 0)
        rc = make_plan(&s, move, err);
    if (rc == 0)
        *before = plan_to_json(&s.plan);
    return fm_load_balancer_result(lb, rc, err);
}

/* ---- the steps: nothing is set that is there already, nor over what somebody else has set ---- */

static int set_weight(struct step *s, unsigned weight, struct fm_error *err)
{
    const struct plan *p = &s->plan;
    if (s->now.weight == weight)
        return 0;
    if (s->now.weight != p->weight && s->now.weight != p->drained)
        return fm_error_set(err, FM_E_REFUSED,
                            "server %s/%s of HAProxy has weight %u where %u is expected: somebody "
                            "else has changed it, it stays",
                            s->lb->backend, s->server, s->now.weight,
                            weight == p->weight ? p->drained : p->weight);
    int rc = fm_haproxy_set_weight(&s->haproxy, s->server, weight, err);
    if (rc == 0)
        s->now.weight = weight;
    return rc;
}

static bool is_at(const struct step *s, const char *address)
{
    return fm_streq(s->now.address, address) && s->now.port == s->plan.port;
}

static int set_address(struct step *s, const char *address, struct fm_error *err)
{
    const struct plan *p = &s->plan;
    if (is_at(s, address))
        return 0;
    const char *other = fm_streq(address, p->address) ? p->new_address : p->address;
    if (!is_at(s, other))
        return fm_error_set(err, FM_E_REFUSED,
                            "server %s/%s of HAProxy has address %s port %u where %s port %u is "
                            "expected: somebody else has changed it, it stays",
                            s->lb->backend, s->server, s->now.address, s->now.port, other, p->port);
    return fm_haproxy_set_address(&s->haproxy, s->server, address, p->port, err);
}

/* As low as it may be: somebody must be left who answers. */
static int drain(struct step *s, struct fm_error *err)
{
    bool alone = s->plan.drained == 0 && s->others_up == 0;
    return set_weight(s, alone ? s->plan.weight : s->plan.drained, err);
}

static int wait_for_sessions(struct step *s, struct fm_error *err)
{
    uint64_t end = fm_now_ms() + s->lb->drain_wait_ms;
    uint64_t sessions = 0;
    for (;;) {
        s->haproxy.deadline = fm_now_ms() + s->lb->timeout_ms;
        int rc = fm_haproxy_sessions(&s->haproxy, s->server, &s->now, &sessions, err);
        if (rc < 0 || sessions == 0 || fm_now_ms() >= end)
            return rc;
        poll(NULL, 0, FM_CANCEL_LOOK_MS);
        rc = fm_cancel_check(&s->haproxy.cancel, err);
        if (rc == 0)
            rc = look(s, err);
        if (rc == 0)
            rc = drain(s, err); /* the others may have gone meanwhile */
        if (rc < 0 || s->now.weight == s->plan.weight)
            return rc;
    }
}

static int do_prepare(struct step *s, struct fm_error *err)
{
    int rc = drain(s, err);
    if (rc == 0 && s->lb->drain_wait_ms && s->now.weight < s->plan.weight)
        rc = wait_for_sessions(s, err);
    return rc;
}

static int do_switch(struct step *s, struct fm_error *err)
{
    int rc = set_address(s, s->plan.new_address, err);
    return rc < 0 ? rc : set_weight(s, s->plan.weight, err);
}

static int do_finish(struct step *s, struct fm_error *err)
{
    int rc = do_switch(s, err);
    while (rc == 0 && s->plan.up && !s->now.up) {
        if (fm_now_ms() + FM_CANCEL_LOOK_MS >= s->haproxy.deadline)
            return fm_error_set(err, FM_E_TIMEOUT,
                                "HAProxy does not find server %s/%s up within %" PRIu64
                                " ms after the move",
                                s->lb->backend, s->server, s->lb->timeout_ms);
        poll(NULL, 0, FM_CANCEL_LOOK_MS);
        rc = look(s, err);
    }
    return rc;
}

/* One of the two may be somebody else's by now; the other one is put back all the same. */
static int do_undo(struct step *s, struct fm_error *err)
{
    struct fm_error later = {0};
    int rc = set_address(s, s->plan.address, err);
    int rc_weight = set_weight(s, s->plan.weight, rc < 0 ? &later : err);
    return rc < 0 ? rc : rc_weight;
}

static int run(void *ctx, const struct fm_move *move, const json_t *before,
               int (*what)(struct step *s, struct fm_error *err), struct fm_error *err)
{
    const struct fm_load_balancer *lb = ctx;
    struct step s;
    step_start(&s, lb, move);
    int rc = plan_from_json(before, &s.plan, err);
    if (rc == 0)
        rc = look(&s, err);
    if (rc == 0)
        rc = what(&s, err);
    return fm_load_balancer_result(lb, rc, err);
}

static int haproxy_prepare(void *ctx, const struct fm_move *move, const json_t *before,
                           struct fm_error *err)
{
    return run(ctx, move, before, do_prepare, err);
}

static int haproxy_switch(void *ctx, const struct fm_move *move, const json_t *before,
                          struct fm_error *err)
{
    return run(ctx, move, before, do_switch, err);
}

static int haproxy_finish(void *ctx, const struct fm_move *move, const json_t *before,
                          struct fm_error *err)
{
    return run(ctx, move, before, do_finish, err);
}

static int haproxy_undo(void *ctx, const struct fm_move *move, const json_t *before,
                        struct fm_error *err)
{
    return run(ctx, move, before, do_undo, err);
}

const struct fm_follower_ops fm_haproxy_follower_ops = {
    .kind = "load-balancer",
    .read = haproxy_read,
    .prepare = haproxy_prepare,
    .switch_over = haproxy_switch,
    .finish = haproxy_finish,
    .undo = haproxy_undo,
};
