/* Flows of a switch as a controller lists them, in one spelling: {"table_id", "priority", "cookie",
 * "idle_timeout", "hard_timeout", "flags", "match": {…}, "actions": ["OUTPUT:2", …]}. Pure. */
#ifndef FM_NETWORK_SDN_FLOW_H
#define FM_NETWORK_SDN_FLOW_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"

/* Which flow of a table: two flows of a table differ in priority or match. */
struct fm_sdn_key {
    uint8_t table;
    uint16_t priority;
    const json_t *match;
};

/* A new flow of ours (new reference); `actions` is a list of texts and is taken over. */
json_t *fm_sdn_flow_make(const struct fm_sdn_key *key, uint64_t cookie, json_t *actions);
/* ["OUTPUT:port"]; new reference. */
json_t *fm_sdn_actions(uint32_t port);
/* The same through a meter and a queue; < 0: none. */
json_t *fm_sdn_lane_actions(int64_t meter, int64_t queue, uint32_t port);

/* Checks what a controller lists and appends it to `flows`, in our spelling and without counters;
 * what `flows` holds already is left out. FM_E_PROTOCOL: something else than flows. */
int fm_sdn_flows_take(const json_t *listed, json_t *flows, struct fm_error *err);

/* Borrowed, or NULL. */
const json_t *fm_sdn_flow_find(const json_t *flows, const struct fm_sdn_key *key);
bool fm_sdn_flow_has_cookie(const json_t *flow, uint64_t cookie);
bool fm_sdn_flow_has_actions(const json_t *flow, const json_t *actions);
/* It sends packets somewhere: it is no filter. */
bool fm_sdn_flow_forwards(const json_t *flow);
/* For an operator: "priority 100, {"dl_dst": "…"}, OUTPUT:2"; the caller frees it. */
char *fm_sdn_flow_text(const json_t *flow);

/* As the modifying requests want it (new reference), with a cookie mask that limits them to flows
 * with this very cookie. FM_E_INVALID: actions other than OUTPUT, SET_QUEUE and METER, which ours
 * never have. */
json_t *fm_sdn_flow_entry(const json_t *flow, struct fm_error *err);

#endif
