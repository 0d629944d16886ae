#include "network/sdn_plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "network/address.h"

#define COOKIE_LIMIT (1ULL << 53) /* what every JSON number can hold exactly */
#define ENTRIES_MAX 4096
#define OPENFLOW_METER_MAX 0xffff0000
#define RANK_MAX 65536

/* ---- configuration ---- */

static const struct fm_topology_switch *find_switch(const struct fm_sdn_settings *settings,
                                                    const char *name)
{
    for (size_t i = 0; i < settings->switch_count; i++)
        if (fm_streq(settings->switches[i].name, name))
            return &settings->switches[i];
    return NULL;
}

static int check_port(const struct fm_sdn_settings *settings, size_t index, struct fm_error *err)
{
    const struct fm_sdn_port *port = &settings->ports[index];
    int rc = fm_check_name("host", port->host, err);
    if (rc < 0)
        return rc;
    if (!find_switch(settings, port->at))
        return fm_error_set(err, FM_E_INVALID, "host '%s': unknown switch '%s'", port->host,
                            port->at);
    if (port->port == 0 || port->port > FM_PORT_MAX)
        return fm_error_set(err, FM_E_INVALID, "host '%s': switch '%s' cannot have a port %u",
                            port->host, port->at, port->port);
    for (size_t i = 0; i < index; i++)
        if (fm_streq(settings->ports[i].host, port->host) &&
            fm_streq(settings->ports[i].at, port->at))
            return fm_error_set(err, FM_E_INVALID, "host '%s' has two ports on switch '%s'",
                                port->host, port->at);
    return 0;
}

static int check(const struct fm_sdn_settings *settings, const struct fm_sdn_config *config,
                 struct fm_error *err)
{
    int rc = 0;
    if (settings->switch_count == 0)
        return fm_error_set(err, FM_E_INVALID, "no switches are configured");
    if (settings->priority < 2 || settings->priority == UINT16_MAX)
        return fm_error_set(err, FM_E_INVALID, "priority %u is not within 2 to 65534",
                            settings->priority);
    if (settings->table == UINT8_MAX)
        return fm_error_set(err, FM_E_INVALID, "table 255 is no table of its own");
    if (settings->cookie >= COOKIE_LIMIT)
        return fm_error_set(err, FM_E_INVALID, "cookie 0x%" PRIx64 " is not below 2^53",
                            settings->cookie);
    if (settings->queue > UINT32_MAX - 1)
        return fm_error_set(err, FM_E_INVALID, "no switch has a queue %" PRId64, settings->queue);
    if (settings->meter > OPENFLOW_METER_MAX)
        return fm_error_set(err, FM_E_INVALID, "no switch has a meter %" PRId64, settings->meter);
    if (settings->reserve_bps && config->topology.host_count < 2)
        return fm_error_set(err, FM_E_INVALID,
                            "bandwidth can be reserved only between hosts of the topology");
    for (size_t i = 0; rc == 0 && i < settings->port_count; i++)
        rc = check_port(settings, i, err);
    return rc;
}

static void copy_lists(const struct fm_sdn_config *config, struct fm_sdn_settings *settings)
{
    const struct fm_topology_config *topology = &config->topology;
    settings->switches = fm_xcalloc(topology->switch_count + 1, sizeof(*settings->switches));
    settings->switch_count = topology->switch_count;
    for (size_t i = 0; i < topology->switch_count; i++)
        settings->switches[i] = (struct fm_topology_switch){fm_xstrdup(topology->switches[i].name),
                                                            topology->switches[i].dpid};
    settings->ports = fm_xcalloc(config->port_count + 1, sizeof(*settings->ports));
    settings->port_count = config->port_count;
    for (size_t i = 0; i < config->port_count; i++)
        settings->ports[i] =
            (struct fm_sdn_port){fm_xstrdup(config->ports[i].host), fm_xstrdup(config->ports[i].at),
                                 config->ports[i].port};
    if (config->networks)
        fm_strv_add_all(&settings->networks, config->networks);
}

int fm_sdn_settings_take(const struct fm_sdn_config *config, struct fm_sdn_settings *settings,
                         struct fm_error *err)
{
    *settings = (struct fm_sdn_settings){
        .order = config->order,
        .table = config->table,
        .priority = config->priority ? config->priority : FM_SDN_PRIORITY,
        .cookie = config->cookie ? config->cookie : FM_SDN_COOKIE,
        .reserve_bps = config->reserve_bps,
        .queue = config->queue,
        .meter = config->meter > 0 ? config->meter : -1,
    };
    copy_lists(config, settings);
    int rc = check(settings, config, err);
    if (rc < 0)
        return rc;
    settings->topology = fm_topology_open(&config->topology, err);
    return settings->topology ? 0 : fm_error_result(err);
}

void fm_sdn_settings_clear(struct fm_sdn_settings *settings)
{
    for (size_t i = 0; i < settings->switch_count; i++)
        free((void *)settings->switches[i].name);
    for (size_t i = 0; i < settings->port_count; i++) {
        free((void *)settings->ports[i].host);
        free((void *)settings->ports[i].at);
    }
    free(settings->switches);
    free(settings->ports);
    fm_strv_free(&settings->networks);
    fm_topology_close(settings->topology);
    *settings = (struct fm_sdn_settings){0};
}

/* ---- a move ---- */

struct routes {
    struct fm_route *list;
    size_t count;
};

static bool has_ports(const struct fm_sdn_settings *settings, const char *host)
{
    for (size_t i = 0; i < settings->port_count; i++)
        if (fm_streq(settings->ports[i].host, host))
            return true;
    return false;
}

static void listed_routes(const struct fm_sdn_settings *settings, const char *host,
                          struct routes *routes)
{
    routes->list = fm_xcalloc(settings->port_count, sizeof(*routes->list));
    for (size_t i = 0; i < settings->port_count; i++) {
        const struct fm_sdn_port *port = &settings->ports[i];
        if (!fm_streq(port->host, host))
            continue;
        struct fm_route *route = &routes->list[routes->count];
        *route = (struct fm_route){.port = port->port, .distance = (unsigned)routes->count++};
        snprintf(route->name, sizeof(route->name), "%s", port->at);
        route->dpid = find_switch(settings, port->at)->dpid;
    }
}

static int find_routes(const struct fm_sdn_settings *settings, const char *host,
                       struct routes *routes, struct fm_error *err)
{
    if (!has_ports(settings, host))
        return fm_topology_routes(settings->topology, host, settings->order, &routes->list,
                                  &routes->count, err);
    listed_routes(settings, host, routes);
    return 0;
}

static const struct fm_route *find_route(const struct routes *routes, uint64_t dpid)
{
    for (size_t i = 0; i < routes->count; i++)
        if (routes->list[i].dpid == dpid)
            return &routes->list[i];
    return NULL;
}

/* A switch that sees only one of the hosts cannot follow: packets there would be lost. */
static int add_changes(const struct routes *from, const struct routes *to, const char *source,
                       const char *destination, struct fm_sdn_plan *plan, struct fm_error *err)
{
    plan->changes = fm_xcalloc(to->count + 1, sizeof(*plan->changes));
    for (size_t i = 0; i < from->count; i++)
        if (!find_route(to, from->list[i].dpid))
            return fm_error_set(err, FM_E_INVALID,
                                "switch '%s' has a port towards host '%s', but none towards '%s'",
                                from->list[i].name, source, destination);
    for (size_t i = 0; i < to->count; i++) {
        const struct fm_route *new_route = &to->list[i];
        const struct fm_route *old_route = find_route(from, new_route->dpid);
        if (!old_route)
            return fm_error_set(err, FM_E_INVALID,
                                "switch '%s' has a port towards host '%s', but none towards '%s'",
                                new_route->name, destination, source);
        if (old_route->port == new_route->port)
            continue;
        struct fm_sdn_change *change = &plan->changes[plan->count++];
        *change = (struct fm_sdn_change){
            .target.dpid = new_route->dpid,
            .old_port = old_route->port,
            .new_port = new_route->port,
            .old_rank = old_route->distance,
            .new_rank = new_route->distance,
        };
        memcpy(change->name, new_route->name, sizeof(change->name));
        change->target.name = change->name;
    }
    return 0;
}

static json_t *lane_match(const struct fm_move *move, struct fm_error *err)
{
    struct fm_ip from;
    struct fm_ip to;
    char from_text[FM_IP_TEXT];
    char to_text[FM_IP_TEXT];
    if (fm_ip_parse("address of the source", move->source_address, &from, err) < 0 ||
        fm_ip_parse("address of the destination", move->destination_address, &to, err) < 0)
        return NULL;
    fm_ip_format(&from, from_text);
    fm_ip_format(&to, to_text);
    if (from.family == AF_INET6)
        return json_pack("{s:i s:s s:s}", "dl_type", 0x86dd, "ipv6_src", from_text, "ipv6_dst",
                         to_text);
    return json_pack("{s:i s:s s:s}", "dl_type", 0x0800, "nw_src", from_text, "nw_dst", to_text);
}

static int add_lanes(const struct fm_sdn_settings *settings, const struct fm_move *move,
                     struct fm_sdn_plan *plan, struct fm_error *err)
{
    if (settings->reserve_bps == 0)
        return 0;
    struct fm_path path;
    int rc = fm_topology_path(settings->topology,
                              &(struct fm_path_request){.from = move->source,
                                                        .to = move->destination,
                                                        .order = settings->order,
                                                        .free_bps = settings->reserve_bps},
                              &path, err);
    if (rc < 0)
        return fm_error_prefix(err, "no bandwidth for the migration");
    plan->reserve_bps = settings->reserve_bps;
    plan->lanes = fm_xcalloc(path.count + 1, sizeof(*plan->lanes));
    bool steered = settings->queue >= 0 || settings->meter >= 0;
    for (size_t i = 0; steered && i < path.count; i++) {
        struct fm_sdn_lane *lane = &plan->lanes[plan->lane_count++];
        memcpy(lane->name, path.hops[i].name, sizeof(lane->name));
        lane->target = (struct fm_topology_switch){lane->name, path.hops[i].dpid};
        lane->port = path.hops[i].out_port;
        lane->queue = settings->queue;
        lane->meter = settings->meter;
    }
    fm_path_clear(&path);
    plan->lane_match = lane_match(move, err);
    return plan->lane_match ? 0 : fm_error_result(err);
}

static bool is_followed(const struct fm_sdn_settings *settings, const char *network)
{
    for (size_t i = 0; i < settings->networks.count; i++)
        if (fm_streq(settings->networks.items[i], network))
            return true;
    return settings->networks.count == 0;
}

static bool is_known(const struct fm_sdn_settings *settings, const char *host)
{
    return has_ports(settings, host) || fm_topology_has_host(settings->topology, host);
}

static int check_hosts(const struct fm_sdn_settings *settings, const struct fm_move *move,
                       bool *concerned, struct fm_error *err)
{
    bool source = is_known(settings, move->source);
    bool destination = is_known(settings, move->destination);
    *concerned = source || destination;
    if (source == destination)
        return 0;
    return fm_error_set(err, FM_E_INVALID,
                        "host '%s' hangs on the configured switches, but '%s' does not: give its "
                        "port",
                        source ? move->source : move->destination,
                        source ? move->destination : move->source);
}

static int take_mac(const struct fm_move *move, struct fm_sdn_plan *plan, struct fm_error *err)
{
    uint8_t mac[6];
    char text[FM_MAC_TEXT];
    int rc = fm_mac_parse(move->mac, mac, err);
    if (rc == 0)
        plan->match = json_pack("{s:s}", "dl_dst", fm_mac_format(mac, text));
    return rc;
}

int fm_sdn_plan_make(const struct fm_sdn_settings *settings, const struct fm_move *move,
                     struct fm_sdn_plan *plan, struct fm_error *err)
{
    *plan = (struct fm_sdn_plan){
        .table = settings->table, .priority = settings->priority, .cookie = settings->cookie};
    bool concerned = false;
    struct routes from = {0};
    struct routes to = {0};
    int rc = check_hosts(settings, move, &concerned, err);
    if (rc < 0 || !concerned || !is_followed(settings, move->network))
        return rc;
    rc = take_mac(move, plan, err);
    if (rc == 0)
        rc = find_routes(settings, move->source, &from, err);
    if (rc == 0)
        rc = find_routes(settings, move->destination, &to, err);
    if (rc == 0)
        rc = add_changes(&from, &to, move->source, move->destination, plan, err);
    if (rc == 0)
        rc = add_lanes(settings, move, plan, err);
    free(from.list);
    free(to.list);
    return rc;
}

void fm_sdn_plan_clear(struct fm_sdn_plan *plan)
{
    for (size_t i = 0; i < plan->count; i++) {
        json_decref(plan->changes[i].settled);
        json_decref(plan->changes[i].prepared);
    }
    json_decref(plan->match);
    json_decref(plan->lane_match);
    free(plan->changes);
    free(plan->lanes);
    *plan = (struct fm_sdn_plan){0};
}

/* ---- the journal's form ---- */

static json_t *dpid_text(uint64_t dpid)
{
    return json_sprintf("%" PRIu64, dpid);
}

json_t *fm_sdn_plan_save(const struct fm_sdn_plan *plan)
{
    json_t *changes = json_array();
    json_t *lanes = json_array();
    for (size_t i = 0; i < plan->count; i++) {
        const struct fm_sdn_change *c = &plan->changes[i];
        json_t *entry =
            json_pack("{s:s s:o s:I s:I s:i s:i s:O? s:O?}", "name", c->name, "dpid",
                      dpid_text(c->target.dpid), "old_port", (json_int_t)c->old_port, "new_port",
                      (json_int_t)c->new_port, "old_rank", (int)c->old_rank, "new_rank",
                      (int)c->new_rank, "settled", c->settled, "prepared", c->prepared);
        json_array_append_new(changes, entry);
    }
    for (size_t i = 0; i < plan->lane_count; i++) {
        const struct fm_sdn_lane *l = &plan->lanes[i];
        json_t *entry = json_pack("{s:s s:o s:I s:I s:I}", "name", l->name, "dpid",
                                  dpid_text(l->target.dpid), "port", (json_int_t)l->port, "queue",
                                  (json_int_t)l->queue, "meter", (json_int_t)l->meter);
        json_array_append_new(lanes, entry);
    }
    return json_pack("{s:i s:i s:I s:O s:o s:I s:O? s:o}", "table", (int)plan->table, "priority",
                     (int)plan->priority, "cookie", (json_int_t)plan->cookie, "match", plan->match,
                     "switches", changes, "reserve_bps", (json_int_t)plan->reserve_bps,
                     "lane_match", plan->lane_match, "lanes", lanes);
}

static int load_target(const char *name, const char *dpid, char copy[64],
                       struct fm_topology_switch *target)
{
    char *end;
    if (strlen(name) >= 64 || !dpid[0])
        return -1;
    snprintf(copy, 64, "%s", name);
    target->name = copy;
    target->dpid = strtoull(dpid, &end, 10);
    return *end ? -1 : 0;
}

/* A flow, or null. */
static int load_flow(json_t *value, json_t **flow)
{
    if (json_is_object(value))
        *flow = json_incref(value);
    return json_is_object(value) || json_is_null(value) ? 0 : -1;
}

static int load_change(json_t *entry, struct fm_sdn_change *c)
{
    const char *name, *dpid;
    json_int_t old_port, new_port;
    json_t *settled, *prepared;
    int old_rank, new_rank;
    if (json_unpack(entry, "{s:s s:s s:I s:I s:i s:i s:o s:o}", "name", &name, "dpid", &dpid,
                    "old_port", &old_port, "new_port", &new_port, "old_rank", &old_rank, "new_rank",
                    &new_rank, "settled", &settled, "prepared", &prepared) != 0)
        return -1;
    if (old_rank < 0 || old_rank > RANK_MAX || new_rank < 0 || new_rank > RANK_MAX)
        return -1;
    c->old_port = (uint32_t)old_port;
    c->new_port = (uint32_t)new_port;
    c->old_rank = (unsigned)old_rank;
    c->new_rank = (unsigned)new_rank;
    return load_target(name, dpid, c->name, &c->target) || load_flow(settled, &c->settled) ||
                   load_flow(prepared, &c->prepared)
               ? -1
               : 0;
}

static int load_lane(json_t *entry, struct fm_sdn_lane *lane)
{
    const char *name, *dpid;
    json_int_t port, queue, meter;
    if (json_unpack(entry, "{s:s s:s s:I s:I s:I}", "name", &name, "dpid", &dpid, "port", &port,
                    "queue", &queue, "meter", &meter) != 0)
        return -1;
    lane->queue = queue;
    lane->meter = meter;
    lane->port = (uint32_t)port;
    return load_target(name, dpid, lane->name, &lane->target);
}

static int load_head(const json_t *saved, struct fm_sdn_plan *plan, json_t **changes,
                     json_t **lanes)
{
    int table, priority;
    json_int_t cookie, reserve;
    json_t *match, *lane_match;
    if (json_unpack((json_t *)saved, "{s:i s:i s:I s:o s:o s:I s:o s:o}", "table", &table,
                    "priority", &priority, "cookie", &cookie, "match", &match, "switches", changes,
                    "reserve_bps", &reserve, "lane_match", &lane_match, "lanes", lanes) != 0)
        return -1;
    if (!json_is_object(match) || !json_is_array(*changes) || !json_is_array(*lanes) ||
        json_array_size(*changes) > ENTRIES_MAX || json_array_size(*lanes) > ENTRIES_MAX)
        return -1;
    plan->table = (uint8_t)table;
    plan->priority = (uint16_t)priority;
    plan->cookie = (uint64_t)cookie;
    plan->reserve_bps = (uint64_t)reserve;
    plan->match = json_incref(match);
    return load_flow(lane_match, &plan->lane_match);
}

int fm_sdn_plan_load(const json_t *saved, struct fm_sdn_plan *plan, struct fm_error *err)
{
    json_t *changes = NULL;
    json_t *lanes = NULL;
    *plan = (struct fm_sdn_plan){0};
    int bad = load_head(saved, plan, &changes, &lanes);
    plan->changes = fm_xcalloc(json_array_size(changes) + 1, sizeof(*plan->changes));
    plan->lanes = fm_xcalloc(json_array_size(lanes) + 1, sizeof(*plan->lanes));
    for (; !bad && plan->count < json_array_size(changes); plan->count++)
        bad = load_change(json_array_get(changes, plan->count), &plan->changes[plan->count]);
    for (; !bad && plan->lane_count < json_array_size(lanes); plan->lane_count++)
        bad = load_lane(json_array_get(lanes, plan->lane_count), &plan->lanes[plan->lane_count]);
    if (!bad)
        return 0;
    fm_sdn_plan_clear(plan);
    return fm_error_set(err, FM_E_INVALID,
                        "what the journal has of the switches' flows is not readable");
}
