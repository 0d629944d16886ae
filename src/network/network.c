/* The table of functions that the coordinator calls. */
#include "network/fabric.h"

#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/fault.h"
#include "base/text.h"
#include "network/announce.h"
#include "network/outbox.h"
#include "network/redirector.h"

#define OWNER_PREFIX "fleximigrate "

/* ---- endpoints ---- */

int fm_port_parse(const struct fm_endpoint *ep, struct fm_port *port, struct fm_error *err)
{
    *port = (struct fm_port){0};
    int rc = fm_mac_parse(ep->mac, port->mac, err);
    return rc < 0 ? rc : fm_ip_parse("container address", ep->ip, &port->ip, err);
}

int fm_port_find(struct fm_fabric *fabric, const struct fm_endpoint *ep, struct fm_port *port,
                 struct fm_error *err)
{
    int rc = fm_port_parse(ep, port, err);
    if (rc < 0)
        return rc;
    struct ifreq request = {0};
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", ep->host_if);
    if (ioctl(fabric->packet_fd, SIOCGIFINDEX, &request) < 0)
        return fm_error_set(err, FM_E_NOT_FOUND, "the container has no interface %s on this host",
                            ep->host_if);
    port->index = request.ifr_ifindex;
    return 0;
}

void fm_owner_format(const struct fm_endpoint *ep, char alias[256])
{
    snprintf(alias, 256, OWNER_PREFIX "%s %s %s", ep->name, ep->ip, ep->mac);
}

bool fm_owner_parse(const char *alias, struct fm_owner *owner)
{
    *owner = (struct fm_owner){0};
    char ip[64];
    char mac[18];
    struct fm_error ignored = {0};
    return fm_starts_with(alias, OWNER_PREFIX) &&
           sscanf(alias + strlen(OWNER_PREFIX), "%63s %63s %17s", owner->name, ip, mac) == 3 &&
           fm_ip_parse("address", ip, &owner->ip, &ignored) == 0 &&
           fm_mac_parse(mac, owner->mac, &ignored) == 0;
}

static int check_container_address(const struct fm_fabric *fabric, const char *name,
                                   const struct fm_ip *ip, struct fm_error *err)
{
    char text[FM_IP_TEXT];
    char subnet[FM_IP_TEXT];
    fm_ip_format(ip, text);
    fm_ip_format_prefix(&fabric->subnet, subnet);
    if (!fm_ip_in_subnet(ip, &fabric->subnet))
        return fm_error_set(err, FM_E_INVALID,
                            "address %s of '%s' is outside of the subnet %s; choose one inside",
                            text, name, subnet);
    if (fm_ip_is_reserved(ip, &fabric->subnet))
        return fm_error_set(err, FM_E_INVALID,
                            "address %s of '%s' is reserved in the subnet %s; choose another", text,
                            name, subnet);
    if (fabric->has_gateway && fm_ip_equal(ip, &fabric->gateway))
        return fm_error_set(err, FM_E_INVALID,
                            "address %s of '%s' is the gateway's; choose another", text, name);
    return 0;
}

static int op_endpoint(void *ctx, const struct fm_endpoint_request *request, struct fm_endpoint *ep,
                       struct fm_error *err)
{
    struct fm_fabric *fabric = ctx;
    const char *name = request->name;
    *ep = (struct fm_endpoint){0};
    struct fm_ip address;
    int rc = fm_check_name("container", name, err);
    if (rc == 0)
        rc = fm_ip_parse("address", request->ip, &address, err);
    if (rc == 0)
        rc = check_container_address(fabric, name, &address, err);
    if (rc < 0)
        return rc;
    if (!address.with_prefix)
        address.prefix = fabric->subnet.prefix;

    uint8_t bytes[6];
    fm_mac_from_ip(&address, bytes);
    if (request->mac && (rc = fm_mac_parse(request->mac, bytes, err)) < 0)
        return rc;
    snprintf(ep->name, sizeof(ep->name), "%s", name);
    snprintf(ep->network, sizeof(ep->network), "%s", FM_NETWORK_DEFAULT);
    fm_ip_format_prefix(&address, ep->ip);
    fm_mac_format(bytes, ep->mac);
    if (fabric->has_gateway)
        fm_ip_format(&fabric->gateway, ep->gateway);
    snprintf(ep->ifname, sizeof(ep->ifname), "eth0");
    if (snprintf(ep->netns, sizeof(ep->netns), "%s/netns/%s", fabric->run_dir, name) >=
        (int)sizeof(ep->netns))
        return fm_error_set(err, FM_E_INVALID, "the run directory '%s' is too long a path",
                            fabric->run_dir);
    fm_host_if_name(name, ep->host_if);
    return 0;
}

static int op_stage(void *ctx, const struct fm_endpoint *ep, bool active, struct fm_error *err)
{
    struct fm_fabric *fabric = ctx;
    if (fm_fault("network-stage"))
        return fm_error_set(err, FM_E_FAILED, "cannot stage the network of '%s': fault injected",
                            ep->name);
    pthread_mutex_lock(&fabric->make);
    int rc = fm_endpoint_stage(fabric, ep, active, err);
    pthread_mutex_unlock(&fabric->make);
    return rc < 0 ? fm_error_prefix(err, "cannot stage the network of '%s'", ep->name) : 0;
}

static int op_unstage(void *ctx, const struct fm_endpoint *ep, struct fm_error *err)
{
    struct fm_fabric *fabric = ctx;
    pthread_mutex_lock(&fabric->make);
    int rc = fm_endpoint_unstage(fabric, ep, err);
    pthread_mutex_unlock(&fabric->make);
    return rc < 0 ? fm_error_prefix(err, "cannot remove the network of '%s'", ep->name) : 0;
}

int fm_endpoint_activate(struct fm_fabric *fabric, const struct fm_endpoint *ep,
                         struct fm_error *err)
{
    struct fm_port port;
    int rc = fm_port_find(fabric, ep, &port, err);
    if (rc < 0)
        return rc;
    int outbox = fm_outbox_take(fabric, port.index);
    if (outbox >= 0)
        fm_outbox_stop(outbox); /* what comes from here on goes out by itself */
    struct fm_nl_batch batch = {0};
    fm_link_put_port_state(&batch, port.index, FM_PORT_OPEN);
    fm_fdb_put_port(&batch, port.mac, port.index);
    if (fabric->has_vxlan)
        fm_fdb_delete_remote(&batch, port.mac, fabric->vxlan_index);
    rc = fm_nl_run(&fabric->fast, &batch, err);
    if (rc == 0)
        rc = fm_announce(fabric->packet_fd, fabric->bridge_index, &port.ip, port.mac, err);
    fm_hold_came_back(fabric, &port);
    if (outbox >= 0) {
        fm_outbox_send(outbox, fabric->bridge_index, port.mac);
        fm_outbox_close_later(outbox);
    }
    return rc;
}

static int op_activate(void *ctx, const struct fm_endpoint *ep, struct fm_error *err)
{
    if (fm_fault("network-activate"))
        return fm_error_set(err, FM_E_FAILED, "cannot activate the network of '%s': fault injected",
                            ep->name);
    int rc = fm_endpoint_activate(ctx, ep, err);
    return rc < 0 ? fm_error_prefix(err, "cannot activate the network of '%s'", ep->name) : 0;
}

static int op_deactivate(void *ctx, const struct fm_endpoint *ep, struct fm_error *err)
{
    struct fm_fabric *fabric = ctx;
    struct fm_port port;
    int rc = fm_port_find(fabric, ep, &port, err);
    if (rc == 0) {
        struct fm_nl_batch batch = {0};
        fm_link_put_port_state(&batch, port.index, FM_PORT_BLOCKED);
        fm_fdb_delete_port(&batch, port.mac, port.index);
        rc = fm_nl_run(&fabric->fast, &batch, err);
    }
    return rc < 0 ? fm_error_prefix(err, "cannot deactivate the network of '%s'", ep->name) : 0;
}

/* ---- other hosts ---- */

static int parse_host(struct fm_fabric *fabric, const char *host, struct fm_ip *ip,
                      struct fm_error *err)
{
    int rc = fm_ip_parse("host address", host, ip, err);
    if (rc < 0)
        return rc;
    if (!fabric->has_vxlan)
        return fm_error_set(err, FM_E_REFUSED,
                            "this host has no underlay address, so containers cannot be reached on "
                            "%s; set network.underlay in its configuration",
                            host);
    if (ip->family != fabric->underlay.family)
        return fm_error_set(err, FM_E_INVALID,
                            "host address %s is not of the same family as this host's", host);
    return 0;
}

static int forget_remote(struct fm_fabric *fabric, const uint8_t mac[6], struct fm_error *err)
{
    if (!fabric->has_vxlan)
        return 0;
    struct fm_nl_batch batch = {0};
    fm_fdb_delete_port(&batch, mac, fabric->vxlan_index);
    fm_fdb_delete_remote(&batch, mac, fabric->vxlan_index);
    return fm_nl_run(&fabric->fast, &batch, err);
}

static int op_set_remote(void *ctx, const char *network, const char *mac, const char *host,
                         struct fm_error *err)
{
    (void)network;
    struct fm_fabric *fabric = ctx;
    uint8_t bytes[6];
    int rc = fm_mac_parse(mac, bytes, err);
    if (rc < 0)
        return rc;
    if (!host)
        return forget_remote(fabric, bytes, err);
    struct fm_ip ip;
    rc = parse_host(fabric, host, &ip, err);
    if (rc < 0)
        return rc;
    if (fm_ip_equal(&ip, &fabric->underlay)) /* it is here: activate has set the entry */
        return 0;
    struct fm_nl_batch batch = {0};
    fm_fdb_put_remote(&batch, bytes, fabric->vxlan_index, &ip);
    if (!fm_hold_owns(fabric, bytes)) /* else the hold relays, and points it there when it ends */
        fm_fdb_put_port(&batch, bytes, fabric->vxlan_index);
    return fm_nl_run(&fabric->fast, &batch, err);
}

static int op_peer(void *ctx, const char *host, bool present, struct fm_error *err)
{
    struct fm_fabric *fabric = ctx;
    struct fm_ip ip;
    int rc = parse_host(fabric, host, &ip, err);
    if (rc < 0 || fm_ip_equal(&ip, &fabric->underlay))
        return rc;
    struct fm_nl_batch batch = {0};
    if (present)
        fm_fdb_put_flood(&batch, fabric->vxlan_index, &ip);
    else
        fm_fdb_delete_flood(&batch, fabric->vxlan_index, &ip);
    return fm_nl_run(&fabric->slow, &batch, err);
}

/* ---- the hold, unrepair, inspect ---- */

static int op_hold_prepare(void *ctx, const struct fm_endpoint *ep,
                           const struct fm_hold_limits *limits, void **hold, struct fm_error *err)
{
    struct fm_hold *made = NULL;
    int rc = fm_hold_prepare(ctx, ep, limits, &made, err);
    *hold = made;
    return rc;
}

static int op_hold_engage(void *ctx, void *hold, struct fm_error *err)
{
    (void)ctx;
    return fm_hold_engage(hold, err);
}

static int op_hold_release_local(void *ctx, void *hold, struct fm_error *err)
{
    (void)ctx;
    return fm_hold_release_local(hold, err);
}

static int op_hold_forward(void *ctx, void *hold, const char *host, struct fm_error *err)
{
    struct fm_ip ip;
    int rc = parse_host(ctx, host, &ip, err);
    return rc < 0 ? rc : fm_hold_forward(hold, &ip, err);
}

static void op_hold_end(void *ctx, void *hold, struct fm_hold_counters *counters)
{
    (void)ctx;
    if (hold)
        fm_hold_end(hold, counters);
    else if (counters)
        *counters = (struct fm_hold_counters){0};
}

static int op_unrepair(void *ctx, const pid_t *pids, size_t count, struct fm_error *err)
{
    (void)ctx;
    return fm_unrepair(pids, count, err);
}

static int op_inspect(void *ctx, pid_t pid, struct fm_endpoint *ep, bool *found, bool *host,
                      struct fm_error *err)
{
    return fm_endpoint_inspect(ctx, pid, ep, found, host, err);
}

static int op_neighbours(void *ctx, const struct fm_endpoint *ep, json_t **list,
                         struct fm_error *err)
{
    (void)ctx;
    return fm_neighbours_read(ep, list, err);
}

static int op_set_neighbours(void *ctx, const struct fm_endpoint *ep, json_t *list,
                             struct fm_error *err)
{
    (void)ctx;
    return fm_neighbours_write(ep, list, err);
}

const struct fm_network_ops fm_fabric_ops = {
    .neighbours = op_neighbours,
    .set_neighbours = op_set_neighbours,
    .endpoint = op_endpoint,
    .stage = op_stage,
    .unstage = op_unstage,
    .activate = op_activate,
    .deactivate = op_deactivate,
    .set_remote = op_set_remote,
    .hold_prepare = op_hold_prepare,
    .hold_engage = op_hold_engage,
    .hold_release_local = op_hold_release_local,
    .hold_forward = op_hold_forward,
    .hold_end = op_hold_end,
    .unrepair = op_unrepair,
    .inspect = op_inspect,
    .peer = op_peer,
};
