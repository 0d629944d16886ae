/* A network of ports that forward or not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "fakes/world.h"

/* Frames in the hold belong to it until they are released or forwarded. */
struct hold {
    struct port *port;
    bool engaged, ended;
};

struct net *net_of(struct host *h, const char *name)
{
    for (int i = 0; i < WORLD_NETS; i++)
        if (fm_streq(h->nets[i].name, name))
            return &h->nets[i];
    return NULL;
}

static int network_define(void *ctx, const struct fm_network_spec *spec, struct fm_error *err)
{
    struct host *h = ctx;
    struct net *net = net_of(h, spec->name);
    struct passage p;

    if (!world_enter(&p, "network.define"))
        return world_fail(&p, err);
    if (!net)
        net = net_of(h, "");
    if (!net)
        abort();
    if (*spec->parent && fm_streq(spec->parent, "missing"))
        return world_leave(&p, fm_error_set(err, FM_E_NOT_FOUND, "no interface 'missing'"), err);
    snprintf(net->name, sizeof(net->name), "%s", spec->name);
    net->spec = *spec;
    return world_leave(&p, 0, err);
}

static int network_undefine(void *ctx, const char *network, struct fm_error *err)
{
    struct net *net = net_of(ctx, network);
    struct passage p;

    if (!world_enter(&p, "network.undefine"))
        return world_fail(&p, err);
    if (net)
        *net = (struct net){0};
    return world_leave(&p, 0, err);
}

static int network_host_address(void *ctx, const char *network, const char *ip, const char *ip6,
                                struct fm_error *err)
{
    struct host *h = ctx;
    struct passage p;

    (void)network;
    if (!world_enter(&p, "network.host_address"))
        return world_fail(&p, err);
    snprintf(h->own_address, sizeof(h->own_address), "%s", *ip ? ip : ip6);
    return world_leave(&p, 0, err);
}

static int network_publish(void *ctx, const struct fm_publication *list, size_t count,
                           struct fm_error *err)
{
    struct host *h = ctx;
    struct passage p;

    if (!world_enter(&p, "network.publish"))
        return world_fail(&p, err);
    if (count > WORLD_ENTRIES)
        abort();
    if (count)
        memcpy(h->published, list, count * sizeof(*list));
    h->published_count = count;
    return world_leave(&p, 0, err);
}

static json_t *describe_net(struct host *h, const char *name)
{
    json_t *remotes = json_array(), *ports = json_array();
    bool is_default = fm_streq(name, FM_NETWORK_DEFAULT);

    for (int i = 0; i < WORLD_ENTRIES; i++)
        if (*h->entries[i].mac && fm_streq(h->entries[i].network, name))
            json_array_append_new(remotes, json_pack("{s:s, s:s}", "mac", h->entries[i].mac, "host",
                                                     h->entries[i].host));
    for (int i = 0; i < WORLD_COPIES; i++)
        if (h->ports[i].staged &&
            (*h->ports[i].network ? fm_streq(h->ports[i].network, name) : is_default))
            json_array_append_new(ports,
                                  json_pack("{s:s, s:s, s:b}", "container", h->ports[i].name, "ip",
                                            h->ports[i].ip, "open", (int)h->ports[i].active));
    return json_pack("{s:s, s:[], s:o, s:o, s:s}", "name", name, "devices", "remotes", remotes,
                     "ports", ports, "host_address", h->own_address);
}

static json_t *network_describe(void *ctx, struct fm_error *err)
{
    struct host *h = ctx;
    json_t *nets = json_array(), *publications = json_array();
    struct passage p;

    if (!world_enter(&p, "network.describe") || world_leave(&p, 0, err) < 0) {
        json_decref(nets);
        json_decref(publications);
        world_fail(&p, err);
        return NULL;
    }
    json_array_append_new(nets, describe_net(h, FM_NETWORK_DEFAULT));
    for (int i = 0; i < WORLD_NETS; i++)
        if (*h->nets[i].name)
            json_array_append_new(nets, describe_net(h, h->nets[i].name));
    for (size_t i = 0; i < h->published_count; i++)
        json_array_append_new(publications,
                              json_pack("{s:s, s:i, s:i, s:s, s:s}", "protocol",
                                        h->published[i].protocol, "host_port",
                                        h->published[i].host_port, "port", h->published[i].port,
                                        "ip", h->published[i].ip, "ip6", h->published[i].ip6));
    return json_pack("{s:o, s:o}", "networks", nets, "publications", publications);
}

const char *entry_of(struct host *h, const char *network, const char *mac)
{
    for (int i = 0; i < WORLD_ENTRIES; i++)
        if (fm_streq(h->entries[i].network, network) && fm_streq(h->entries[i].mac, mac))
            return h->entries[i].host;
    return "";
}

static void set_entry(struct host *h, const char *network, const char *mac, const char *host)
{
    struct entry *empty = NULL;

    for (int i = WORLD_ENTRIES - 1; i >= 0; i--) {
        if (fm_streq(h->entries[i].network, network) && fm_streq(h->entries[i].mac, mac))
            h->entries[i] = (struct entry){0};
        if (!*h->entries[i].mac)
            empty = &h->entries[i];
    }
    if (!host || fm_streq(host, h->address))
        return;
    if (!empty)
        abort();
    snprintf(empty->network, sizeof(empty->network), "%s", network);
    snprintf(empty->mac, sizeof(empty->mac), "%s", mac);
    snprintf(empty->host, sizeof(empty->host), "%s", host);
}

/* As the fabric makes it: from the last bytes of the address. */
static void make_mac(const char *ip, char mac[18])
{
    unsigned a = 0, b = 0, c = 0, d = 0;

    sscanf(ip, "%u.%u.%u.%u", &a, &b, &c, &d);
    snprintf(mac, 18, "02:fd:%02x:%02x:%02x:%02x", a & 255, b & 255, c & 255, d & 255);
}

static int network_endpoint(void *ctx, const struct fm_endpoint_request *request,
                            struct fm_endpoint *ep, struct fm_error *err)
{
    const char *mac = request->mac;
    struct passage p;

    (void)ctx;
    if (!world_enter(&p, "network.endpoint"))
        return world_fail(&p, err);
    *ep = (struct fm_endpoint){.ifname = "eth0"};
    snprintf(ep->network, sizeof(ep->network), "%s",
             request->network ? request->network : FM_NETWORK_DEFAULT);
    snprintf(ep->name, sizeof(ep->name), "%s", request->name);
    snprintf(ep->ip, sizeof(ep->ip), "%s%s", request->ip, strchr(request->ip, '/') ? "" : "/16");
    if (request->ip6)
        snprintf(ep->ip6, sizeof(ep->ip6), "%s%s", request->ip6,
                 strchr(request->ip6, '/') ? "" : "/64");
    make_mac(request->ip, ep->mac);
    if (mac)
        snprintf(ep->mac, sizeof(ep->mac), "%s", mac);
    return world_leave(&p, 0, err);
}

static int network_stage(void *ctx, const struct fm_endpoint *ep, bool active, struct fm_error *err)
{
    struct port *port = port_of(ctx, ep->name);
    struct passage p;

    if (!world_enter(&p, "network.stage"))
        return world_fail(&p, err);
    port->staged = true;
    port->active = active;
    snprintf(port->ip, sizeof(port->ip), "%s", ep->ip);
    snprintf(port->network, sizeof(port->network), "%s", ep->network);
    return world_leave(&p, 0, err);
}

static int network_unstage(void *ctx, const struct fm_endpoint *ep, struct fm_error *err)
{
    struct port *port = port_of(ctx, ep->name);
    struct passage p;

    if (!world_enter(&p, "network.unstage"))
        return world_fail(&p, err);
    port->staged = port->active = false;
    return world_leave(&p, 0, err);
}

static int network_activate(void *ctx, const struct fm_endpoint *ep, struct fm_error *err)
{
    struct port *port = port_of(ctx, ep->name);
    struct passage p;

    if (!world_enter(&p, "network.activate"))
        return world_fail(&p, err);
    if (!port->staged)
        return world_leave(&p, fm_error_set(err, FM_E_NOT_FOUND, "no port of %s", ep->name), err);
    port->active = true;
    set_entry(ctx, ep->network, ep->mac, NULL);
    return world_leave(&p, 0, err);
}

static int network_deactivate(void *ctx, const struct fm_endpoint *ep, struct fm_error *err)
{
    struct port *port = port_of(ctx, ep->name);
    struct passage p;

    if (!world_enter(&p, "network.deactivate"))
        return world_fail(&p, err);
    port->active = false;
    return world_leave(&p, 0, err);
}

static int network_set_remote(void *ctx, const char *network, const char *mac, const char *host,
                              struct fm_error *err)
{
    struct passage p;

    if (!world_enter(&p, "network.set_remote"))
        return world_fail(&p, err);
    set_entry(ctx, network, mac, host);
    return world_leave(&p, 0, err);
}

static int network_hold_prepare(void *ctx, const struct fm_endpoint *ep,
                                const struct fm_hold_limits *limits, void **hold,
                                struct fm_error *err)
{
    struct port *port = port_of(ctx, ep->name);
    struct passage p;

    (void)limits;
    if (!world_enter(&p, "network.hold_prepare"))
        return world_fail(&p, err);
    int rc = world_leave(&p, 0, err);
    if (rc < 0)
        return rc;
    struct hold *made = fm_xcalloc(1, sizeof(*made));
    made->port = port;
    port->hold = made;
    *hold = made;
    return 0;
}

static int network_hold_engage(void *ctx, void *hold, struct fm_error *err)
{
    struct hold *h = hold;
    struct passage p;

    (void)ctx;
    if (!world_enter(&p, "network.hold_engage"))
        return world_fail(&p, err);
    h->engaged = true;
    h->port->active = false;
    return world_leave(&p, 0, err);
}

static int network_hold_release(void *ctx, void *hold, struct fm_error *err)
{
    struct hold *h = hold;
    struct passage p;

    (void)ctx;
    if (!world_enter(&p, "network.hold_release_local"))
        return world_fail(&p, err);
    h->ended = true;
    h->port->active = true;
    return world_leave(&p, 0, err);
}

static int network_hold_forward(void *ctx, void *hold, const char *host, struct fm_error *err)
{
    struct hold *h = hold;
    struct passage p;

    (void)ctx;
    (void)host;
    if (!world_enter(&p, "network.hold_forward"))
        return world_fail(&p, err);
    h->ended = true;
    return world_leave(&p, 0, err);
}

static void network_hold_end(void *ctx, void *hold, struct fm_hold_counters *counters)
{
    struct hold *h = hold;
    struct passage p;

    (void)ctx;
    (void)counters;
    if (world_enter(&p, "network.hold_end"))
        world_leave(&p, 0, NULL);
    if (h->port->hold == h) /* else it went with its daemon */
        h->port->hold = NULL;
    free(h);
}

/* Somebody answers. */
static int network_reach(void *ctx, const char *network, const char *ip, const char *mac,
                         uint64_t *latency_us, struct fm_error *err)
{
    struct passage p;

    (void)ctx;
    (void)network;
    (void)ip;
    (void)mac;
    if (!world_enter(&p, "network.reach"))
        return world_fail(&p, err);
    *latency_us = 100;
    return world_leave(&p, 0, err);
}

static int network_unrepair(void *ctx, const pid_t *pids, size_t count, struct fm_error *err)
{
    struct passage p;

    (void)ctx;
    (void)pids;
    (void)count;
    if (!world_enter(&p, "network.unrepair"))
        return world_fail(&p, err);
    return world_leave(&p, 0, err);
}

static int network_neighbours(void *ctx, const struct fm_endpoint *ep, json_t **list,
                              struct fm_error *err)
{
    struct passage p;

    (void)ctx;
    (void)ep;
    if (!world_enter(&p, "network.neighbours"))
        return world_fail(&p, err);
    int rc = world_leave(&p, 0, err);
    if (rc == 0)
        *list = json_array();
    return rc;
}

static int network_set_neighbours(void *ctx, const struct fm_endpoint *ep, json_t *list,
                                  struct fm_error *err)
{
    struct passage p;

    (void)ctx;
    (void)ep;
    (void)list;
    if (!world_enter(&p, "network.set_neighbours"))
        return world_fail(&p, err);
    return world_leave(&p, 0, err);
}

static int network_peer(void *ctx, const char *host, bool present, struct fm_error *err)
{
    struct passage p;

    (void)ctx;
    (void)host;
    (void)present;
    if (!world_enter(&p, "network.peer"))
        return world_fail(&p, err);
    return world_leave(&p, 0, err);
}

const struct fm_network_ops fake_network_ops = {
    .define = network_define,
    .undefine = network_undefine,
    .host_address = network_host_address,
    .publish = network_publish,
    .describe = network_describe,
    .endpoint = network_endpoint,
    .stage = network_stage,
    .unstage = network_unstage,
    .activate = network_activate,
    .deactivate = network_deactivate,
    .set_remote = network_set_remote,
    .hold_prepare = network_hold_prepare,
    .hold_engage = network_hold_engage,
    .hold_release_local = network_hold_release,
    .hold_forward = network_hold_forward,
    .hold_end = network_hold_end,
    .reach = network_reach,
    .unrepair = network_unrepair,
    .neighbours = network_neighbours,
    .set_neighbours = network_set_neighbours,
    .peer = network_peer,
};
