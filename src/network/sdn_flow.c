#include "network/sdn_flow.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

#define EXACTLY "0xffffffffffffffff" /* more than a JSON integer holds; controllers take texts */

json_t *fm_sdn_flow_make(const struct fm_sdn_key *key, uint64_t cookie, json_t *actions)
{
    json_t *match = json_deep_copy(key->match);
    return json_pack("{s:i s:i s:I s:i s:i s:i s:o s:o}", "table_id", (int)key->table, "priority",
                     (int)key->priority, "cookie", (json_int_t)cookie, "idle_timeout", 0,
                     "hard_timeout", 0, "flags", 0, "match", match, "actions", actions);
}

json_t *fm_sdn_actions(uint32_t port)
{
    return fm_sdn_lane_actions(-1, -1, port);
}

json_t *fm_sdn_lane_actions(int64_t meter, int64_t queue, uint32_t port)
{
    json_t *actions = json_array();
    if (meter >= 0)
        json_array_append_new(actions, json_sprintf("METER:%lld", (long long)meter));
    if (queue >= 0)
        json_array_append_new(actions, json_sprintf("SET_QUEUE:%lld", (long long)queue));
    json_array_append_new(actions, json_sprintf("OUTPUT:%u", port));
    return actions;
}

/* ---- what a controller lists ---- */

/* OpenFlow 1.3's names of fields, as the older ones that Ryu lists. */
static const char *spelling(const char *field)
{
    static const char *const pairs[][2] = {
        {"eth_dst", "dl_dst"},  {"eth_src", "dl_src"},   {"eth_type", "dl_type"},
        {"ipv4_dst", "nw_dst"}, {"ipv4_src", "nw_src"},  {"ip_proto", "nw_proto"},
        {"tcp_dst", "tp_dst"},  {"vlan_vid", "dl_vlan"}, {"tcp_src", "tp_src"},
    };
    for (size_t i = 0; i < FM_COUNT(pairs); i++)
        if (fm_streq(field, pairs[i][0]))
            return pairs[i][1];
    return field;
}

static json_t *take_match(json_t *match)
{
    const char *field;
    json_t *value;
    json_t *out = json_object();
    json_object_foreach(match, field, value) json_object_set(out, spelling(field), value);
    return out;
}

static json_t *take_flow(json_t *listed)
{
    json_int_t table, priority, idle = 0, hard = 0, flags = 0;
    json_t *cookie, *match, *actions;
    if (json_unpack(listed, "{s:I s:I s:o s?I s?I s?I s:o s:o}", "table_id", &table, "priority",
                    &priority, "cookie", &cookie, "idle_timeout", &idle, "hard_timeout", &hard,
                    "flags", &flags, "match", &match, "actions", &actions) != 0)
        return NULL;
    if (table < 0 || table > UINT8_MAX || priority < 0 || priority > UINT16_MAX ||
        !json_is_number(cookie) || !json_is_object(match) || !json_is_array(actions))
        return NULL;
    return json_pack("{s:I s:I s:O s:I s:I s:I s:o s:O}", "table_id", table, "priority", priority,
                     "cookie", cookie, "idle_timeout", idle, "hard_timeout", hard, "flags", flags,
                     "match", take_match(match), "actions", actions);
}

static struct fm_sdn_key key_of(const json_t *flow)
{
    return (struct fm_sdn_key){
        .table = (uint8_t)json_integer_value(json_object_get(flow, "table_id")),
        .priority = (uint16_t)json_integer_value(json_object_get(flow, "priority")),
        .match = json_object_get(flow, "match"),
    };
}

int fm_sdn_flows_take(const json_t *listed, json_t *flows, struct fm_error *err)
{
    for (size_t i = 0; i < json_array_size(listed); i++) {
        json_t *flow = take_flow(json_array_get(listed, i));
        if (!flow)
            return fm_error_set(err, FM_E_PROTOCOL,
                                "the controller lists something that is no flow (entry %zu)",
                                i + 1);
        struct fm_sdn_key key = key_of(flow);
        if (fm_sdn_flow_find(flows, &key))
            json_decref(flow);
        else
            json_array_append_new(flows, flow);
    }
    return 0;
}

/* ---- questions ---- */

const json_t *fm_sdn_flow_find(const json_t *flows, const struct fm_sdn_key *key)
{
    for (size_t i = 0; i < json_array_size(flows); i++) {
        const json_t *flow = json_array_get(flows, i);
        struct fm_sdn_key here = key_of(flow);
        if (here.table == key->table && here.priority == key->priority &&
            json_equal(here.match, key->match))
            return flow;
    }
    return NULL;
}

bool fm_sdn_flow_has_cookie(const json_t *flow, uint64_t cookie)
{
    return json_number_value(json_object_get(flow, "cookie")) == (double)cookie;
}

bool fm_sdn_flow_has_actions(const json_t *flow, const json_t *actions)
{
    return json_equal(json_object_get(flow, "actions"), actions);
}

bool fm_sdn_flow_forwards(const json_t *flow)
{
    static const char *const forwarding[] = {"OUTPUT:", "GROUP:", "GOTO_TABLE:"};
    const json_t *actions = json_object_get(flow, "actions");
    for (size_t i = 0; i < json_array_size(actions); i++) {
        const char *action = json_string_value(json_array_get(actions, i));
        if (!action) /* a list of actions that are done at the end of the pipeline */
            return true;
        for (size_t k = 0; k < FM_COUNT(forwarding); k++)
            if (fm_starts_with(action, forwarding[k]))
                return true;
    }
    return false;
}

char *fm_sdn_flow_text(const json_t *flow)
{
    struct fm_sdn_key key = key_of(flow);
    char *match = json_dumps(key.match, JSON_ENSURE_ASCII);
    char *actions = json_dumps(json_object_get(flow, "actions"), JSON_ENSURE_ASCII);
    char *text = fm_strf("priority %u, match %.160s, actions %.160s", key.priority,
                         match ? match : "?", actions ? actions : "?");
    free(match);
    free(actions);
    return text;
}

/* ---- requests ---- */

static json_t *action_entry(const char *action)
{
    static const struct {
        const char *prefix, *type, *field;
    } kinds[] = {
        {"OUTPUT:", "OUTPUT", "port"},
        {"SET_QUEUE:", "SET_QUEUE", "queue_id"},
        {"METER:", "METER", "meter_id"},
    };
    for (size_t i = 0; action && i < FM_COUNT(kinds); i++) {
        int64_t number;
        struct fm_error ignored = {0};
        if (fm_starts_with(action, kinds[i].prefix) &&
            fm_parse_int(action + strlen(kinds[i].prefix), 0, UINT32_MAX, &number, &ignored) == 0)
            return json_pack("{s:s s:I}", "type", kinds[i].type, kinds[i].field,
                             (json_int_t)number);
    }
    return NULL;
}

json_t *fm_sdn_flow_entry(const json_t *flow, struct fm_error *err)
{
    const json_t *actions = json_object_get(flow, "actions");
    json_t *entries = json_array();
    for (size_t i = 0; i < json_array_size(actions); i++) {
        json_t *entry = action_entry(json_string_value(json_array_get(actions, i)));
        if (!entry) {
            fm_autofree char *text = fm_sdn_flow_text(flow);
            json_decref(entries);
            fm_error_set(err, FM_E_INVALID,
                         "a flow with our cookie has actions that are none of ours (%s); has "
                         "somebody edited it?",
                         text);
            return NULL;
        }
        json_array_append_new(entries, entry);
    }
    json_t *entry = json_deep_copy(flow);
    json_object_set_new(entry, "actions", entries);
    json_object_set_new(entry, "cookie_mask", json_string(EXACTLY));
    return entry;
}
