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

static int network_endpoint(void *ctx, const struct fm_endpoint_request *request,
                            struct fm_endpoint *ep, struct fm_error *err)
{
    const char *mac = request->mac;
    struct passage p;

    (void)ctx;
    if (!world_enter(&p, "network.endpoint"))
        return world_fail(&p, err);
    *ep = (struct fm_endpoint){.ifname = "eth0", .network = FM_NETWORK_DEFAULT};
    snprintf(ep->name, sizeof(ep->name), "%s", request->name);
    snprintf(ep->ip, sizeof(ep->ip), "%s%s", request->ip, strchr(request->ip, '/') ? "" : "/16");
    snprintf(ep->mac, sizeof(ep->mac), "%s", mac ? mac : "02:00:0a:58:00:00");
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
    return world_leave(&p, 0, err);
}

static int network_unstage(void *ctx, const struct fm_endpoint *ep, struct fm_error *err)
{
    struct port *port = port_of(ctx, ep->name);
    struct passage p;

    if (!world_enter(&p, "network.unstage"))
        return world_fail(&p, err);
    port->staged = port->active = false;
    port->remote[0] = '\0';
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
    port->remote[0] = '\0';
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
    (void)network;
    struct host *h = ctx;
    struct port *port = &h->ports[strtoul(mac + strlen(mac) - 2, NULL, 16) % WORLD_COPIES];
    struct passage p;

    if (!world_enter(&p, "network.set_remote"))
        return world_fail(&p, err);
    snprintf(port->remote, sizeof(port->remote), "%s", host ? host : "");
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
    .unrepair = network_unrepair,
    .neighbours = network_neighbours,
    .set_neighbours = network_set_neighbours,
    .peer = network_peer,
};
