/* The table of functions that the coordinator calls. */
#include "network/fabric.h"

#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/text.h"
#include "network/announce.h"
#include "network/macvlan.h"
#include "network/host_port.h"
#include "network/networks.h"
#include "network/published.h"
#include "network/outbox.h"
#include "network/port_in_use.h"
#include "network/redirector.h"
#include "network/relay.h"
#include "network/verifier.h"

#define REACH_TIMEOUT_MS 700 /* of each of three attempts */

/* ---- endpoints ---- */

int fm_port_parse(const struct fm_endpoint *ep, struct fm_port *port, struct fm_error *err)
{
    *port = (struct fm_port){0};
    int rc = fm_mac_parse(ep->mac, port->mac, err);
    if (rc == 0)
        rc = fm_ip_parse("container address", ep->ip, &port->ips[0], err);
    if (rc == 0 && ep->ip6[0])
        rc = fm_ip_parse("container address", ep->ip6, &port->ips[1], err);
    return rc;
}

int fm_port_of_network(struct fm_fabric *fabric, const struct fm_endpoint *ep, struct fm_port *port,
                       struct fm_error *err)
{
    int rc = fm_port_parse(ep, port, err);
    if (rc < 0)
        return rc;
    port->net = fm_net_find(fabric, ep->network, err);
    return port->net ? 0 : -FM_E_NOT_FOUND;
}

int fm_port_find(struct fm_fabric *fabric, const struct fm_endpoint *ep, struct fm_port *port,
                 struct fm_error *err)
{
    int rc = fm_port_of_network(fabric, ep, port, err);
    if (rc < 0 || port->net->spec.mode == FM_NETWORK_MACVLAN)
        return rc;
    struct ifreq request = {0};
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", ep->host_if);
    if (ioctl(fabric->packet_fd, SIOCGIFINDEX, &request) < 0)
        return fm_error_set(err, FM_E_NOT_FOUND, "the container has no interface %s on this host",
                            ep->host_if);
    port->index = request.ifr_ifindex;
    return 0;
}

/* ---- networks ---- */

static int op_define(void *ctx, const struct fm_network_spec *spec, struct fm_error *err)
{
    struct fm_fabric *fabric = ctx;
    if (fm_fault("network-define"))
        return fm_error_set(err, FM_E_FAILED, "cannot define network '%s': fault injected",
                            spec->name);
    pthread_mutex_lock(&fabric->make);
    int rc = fm_net_define(fabric, spec, err);
    pthread_mutex_unlock(&fabric->make);
    return rc < 0 ? fm_error_prefix(err, "cannot define network '%.31s'", spec->name) : 0;
}

static int op_undefine(void *ctx, const char *network, struct fm_error *err)
{
    struct fm_fabric *fabric = ctx;
    pthread_mutex_lock(&fabric->make);
    int rc = fm_net_undefine(fabric, network, err);
    if (rc == 0)
        rc = fm_host_port_remove(&fabric->slow, network, err);
    pthread_mutex_unlock(&fabric->make);
    return rc < 0 ? fm_error_prefix(err, "cannot remove network '%s'", network) : 0;
}

static int op_host_address(void *ctx, const char *network, const char *ip, const char *ip6,
                           struct fm_error *err)
{
    struct fm_fabric *fabric = ctx;
    pthread_mutex_lock(&fabric->make);
    int rc = fm_published_host_address(fabric, network, ip, ip6, err);
    pthread_mutex_unlock(&fabric->make);
    return rc < 0 ? fm_error_prefix(err, "cannot give this host an address in '%s'", network) : 0;
}

static int op_publish(void *ctx, const struct fm_publication *list, size_t count,
                      struct fm_error *err)
{
    struct fm_fabric *fabric = ctx;
    pthread_mutex_lock(&fabric->make);
    int rc = fm_published_apply(fabric, list, count, err);
    pthread_mutex_unlock(&fabric->make);
    return rc < 0 ? fm_error_prefix(err, "cannot publish ports") : 0;
}

static bool op_port_in_use(void *ctx, const char *protocol, uint16_t port)
{
    (void)ctx;
    return fm_port_in_use(protocol, port);
}

static json_t *op_describe(void *ctx, struct fm_error *err)
{
    json_auto_t *description = fm_fabric_describe(ctx, err);
    if (description && fm_published_describe(ctx, description, err) == 0)
        return json_incref(description);
    fm_error_prefix(err, "cannot describe the network");
    return NULL;
}

/* ---- endpoints ---- */

static int check_container_address(const struct fm_net *net, const char *name, struct fm_ip *ip,
                                   size_t *place, struct fm_error *err)
{
    char text[FM_IP_TEXT];
    char subnet[FM_IP_TEXT];
    fm_ip_format(ip, text);
    *place = ip->family == net->subnets[1].family ? 1 : 0;
    fm_ip_format_prefix(&net->subnets[*place], subnet);
    if (!fm_ip_in_subnet(ip, &net->subnets[*place]))
        return fm_error_set(err, FM_E_INVALID,
                            "address %s of '%s' is outside of the subnet %s; choose one inside",
                            text, name, subnet);
    if (fm_ip_is_reserved(ip, &net->subnets[*place]))
        return fm_error_set(err, FM_E_INVALID,
                            "address %s of '%s' is reserved in the subnet %s; choose another", text,
                            name, subnet);
    if (fm_ip_equal(ip, &net->gateways[*place]))
        return fm_error_set(err, FM_E_INVALID,
                            "address %s of '%s' is the gateway's; choose another", text, name);
    if (!ip->with_prefix)
        ip->prefix = net->subnets[*place].prefix;
    return 0;
}

struct endpoint_address {
    const char *text;
    char *ip;      /* of the endpoint */
    char *gateway; /* for it */
};

static int take_address(const struct fm_net *net, const char *name,
                        const struct endpoint_address *to, struct fm_ip *ip, struct fm_error *err)
{
    size_t place = 0;
    int rc = fm_ip_parse("address", to->text, ip, err);
    if (rc == 0)
        rc = check_container_address(net, name, ip, &place, err);
    if (rc < 0)
        return rc;
    fm_ip_format_prefix(ip, to->ip);
    if (net->gateways[place].family)
        fm_ip_format(&net->gateways[place], to->gateway);
    return 0;
}

static int take_addresses(const struct fm_net *net, const struct fm_endpoint_request *request,
                          struct fm_endpoint *ep, struct fm_ip *first, struct fm_error *err)
{
    const char *second = request->ip && request->ip[0] ? request->ip6 : NULL;
    const struct endpoint_address to[] = {
        {second || !request->ip6 ? request->ip : request->ip6, ep->ip, ep->gateway},
        {second, ep->ip6, ep->gateway6},
    };
    if (!to[0].text || !to[0].text[0])
        return fm_error_set(err, FM_E_INVALID, "'%s' has no address", request->name);
    int rc = take_address(net, request->name, &to[0], first, err);
    if (rc < 0 || !second || !second[0])
        return rc;
    struct fm_ip ip6;
    rc = take_address(net, request->name, &to[1], &ip6, err);
    if (rc == 0 && (first->family != AF_INET || ip6.family != AF_INET6))
        rc = fm_error_set(err, FM_E_INVALID,
                          "addresses %s and %s of '%s': the first one has to be of IPv4 and the "
                          "second one of IPv6",
                          ep->ip, ep->ip6, request->name);
    return rc;
}

static int op_endpoint(void *ctx, const struct fm_endpoint_request *request, struct fm_endpoint *ep,
                       struct fm_error *err)
{
    struct fm_fabric *fabric = ctx;
    const char *name = request->name;
    *ep = (struct fm_endpoint){0};
    int rc = fm_check_name("container", name, err);
    if (rc < 0)
        return rc;
    const struct fm_net *net = fm_net_find(fabric, request->network, err);
    if (!net)
        return -FM_E_NOT_FOUND;
    struct fm_ip address;
    rc = take_addresses(net, request, ep, &address, err);
    if (rc < 0)
        return rc;
    uint8_t bytes[6];
    fm_mac_from_ip(&address, bytes);
    if (request->mac && (rc = fm_mac_parse(request->mac, bytes, err)) < 0)
        return rc;
    snprintf(ep->name, sizeof(ep->name), "%s", name);
    snprintf(ep->network, sizeof(ep->network), "%s", net->spec.name);
    fm_mac_format(bytes, ep->mac);
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
    struct fm_port port;
    if (active && fm_port_of_network(fabric, ep, &port, NULL) == 0)
        fm_relay_drop(fabric, port.net, port.mac);
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

/* The switches of the user's network have to hear it at once. In an overlay everybody is told where
 * the container is, and until then its old host relays; whoever only listens hears it soon after. A
 * bridge with hundreds of containers takes its time. */
static int announce(struct fm_fabric *fabric, const struct fm_port *port, struct fm_error *err)
{
    const struct fm_net *net = port->net;
    if (net->spec.mode == FM_NETWORK_OVERLAY) {
        const int interfaces[] = {net->vxlan_index, net->bridge_index};
        fm_announce_later(fabric->packet_fd, interfaces, port->ips, port->mac);
        return 0;
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < FM_COUNT(port->ips); i++)
        if (port->ips[i].family)
            rc = fm_announce(fabric->packet_fd, net->bridge_index, &port->ips[i], port->mac, err);
    return rc;
}

/* On the user's bridge the entry is one as the bridge learns: it ages, and moves with the container
 * when that is heard elsewhere. */
static void put_forwarding(struct fm_nl_batch *batch, const struct fm_port *port)
{
    if (port->net->spec.mode == FM_NETWORK_BRIDGE)
        fm_fdb_put_learned(batch, port->mac, port->index);
    else
        fm_fdb_put_port(batch, port->mac, port->index);
    if (port->net->vxlan_index)
        fm_fdb_delete_remote(batch, port->mac, port->net->vxlan_index);
}

int fm_endpoint_activate(struct fm_fabric *fabric, const struct fm_endpoint *ep,
                         struct fm_error *err)
{
    struct fm_port port;
    int rc = fm_port_find(fabric, ep, &port, err);
    if (rc < 0)
        return rc;
    if (port.net->spec.mode == FM_NETWORK_MACVLAN)
        return fm_macvlan_open(ep, &port, err);
    int outbox = fm_outbox_take(fabric, port.index);
    if (outbox >= 0)
        fm_outbox_stop(outbox); /* what comes from here on goes out by itself */
    struct fm_nl_batch batch = {0};
    fm_link_put_port_state(&batch, port.index, FM_PORT_OPEN);
    put_forwarding(&batch, &port);
    rc = fm_nl_run(&fabric->fast, &batch, err);
    struct fm_error unheard = {0};
    if (rc == 0 &&
        announce(fabric, &port, &unheard) < 0) /* no reason to give it up: others learn */
        fm_warn(FM_NETWORK_MANAGER, "%s: %s.", ep->name, unheard.text);
    fm_hold_came_back(fabric, &port);
    if (outbox >= 0)
        fm_outbox_finish(outbox, port.net->bridge_index, port.mac);
    return rc;
}

static int op_activate(void *ctx, const struct fm_endpoint *ep, struct fm_error *err)
{
    if (fm_fault("network-activate"))
        return fm_error_set(err, FM_E_FAILED, "cannot activate the network of '%s': fault injected",
                            ep->name);
    struct fm_port port;
    if (fm_port_of_network(ctx, ep, &port, NULL) == 0)
        fm_relay_drop(ctx, port.net, port.mac);
    int rc = fm_endpoint_activate(ctx, ep, err);
    return rc < 0 ? fm_error_prefix(err, "cannot activate the network of '%s'", ep->name) : 0;
}

static int op_deactivate(void *ctx, const struct fm_endpoint *ep, struct fm_error *err)
{
    struct fm_fabric *fabric = ctx;
    struct fm_port port;
    int rc = fm_port_find(fabric, ep, &port, err);
    if (rc == 0 && port.net->spec.mode == FM_NETWORK_MACVLAN) {
        rc = fm_macvlan_close(ep, err);
    } else if (rc == 0) {
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
    if (!fabric->has_underlay)
        return fm_error_set(err, FM_E_REFUSED,
                            "this host has no underlay address, so containers cannot be reached on "
                            "%s; set network.underlay in its configuration",
                            host);
    if (ip->family != fabric->underlay.family)
        return fm_error_set(err, FM_E_INVALID,
                            "host address %s is not of the same family as this host's", host);
    return 0;
}

static int forget_remote(struct fm_fabric *fabric, const struct fm_net *net, const uint8_t mac[6],
                         struct fm_error *err)
{
    if (!net->vxlan_index)
        return 0;
    struct fm_nl_batch batch = {0};
    fm_fdb_delete_port(&batch, mac, net->vxlan_index);
    fm_fdb_delete_remote(&batch, mac, net->vxlan_index);
    return fm_nl_run(&fabric->fast, &batch, err);
}

static int op_set_remote(void *ctx, const char *network, const char *mac, const char *host,
                         struct fm_error *err)
{
    struct fm_fabric *fabric = ctx;
    uint8_t bytes[6];
    int rc = fm_mac_parse(mac, bytes, err);
    if (rc < 0)
        return rc;
    const struct fm_net *net = fm_net_find(fabric, network, err);
    if (!net)
        return -FM_E_NOT_FOUND;
    if (net->spec.mode != FM_NETWORK_OVERLAY) /* the user's switches learn it by themselves */
        return 0;
    if (!host)
        return forget_remote(fabric, net, bytes, err);
    struct fm_ip ip;
    rc = parse_host(fabric, host, &ip, err);
    if (rc < 0)
        return rc;
    if (fm_ip_equal(&ip, &fabric->underlay)) /* it is here: activate has set the entry */
        return 0;
    struct fm_nl_batch batch = {0};
    fm_fdb_put_remote(&batch, bytes, net->vxlan_index, &ip);
    if (!fm_hold_owns(fabric, net,
                      bytes)) /* else the hold relays, and points it there when it ends */
        fm_fdb_put_port(&batch, bytes, net->vxlan_index);
    return fm_nl_run(&fabric->fast, &batch, err);
}

static int op_relay(void *ctx, const char *network, const char *mac, bool on, struct fm_error *err)
{
    struct fm_fabric *fabric = ctx;
    uint8_t bytes[6];
    if (!network)
        return fm_relay_refresh(fabric, err);
    int rc = fm_mac_parse(mac, bytes, err);
    const struct fm_net *net = rc < 0 ? NULL : fm_net_find(fabric, network, err);
    return net ? fm_relay_set(fabric, net, bytes, on, err) : fm_error_result(err);
}

static int op_peer(void *ctx, const char *host, bool present, struct fm_error *err)
{
    struct fm_fabric *fabric = ctx;
    struct fm_ip ip;
    int rc = parse_host(fabric, host, &ip, err);
    if (rc < 0 || fm_ip_equal(&ip, &fabric->underlay))
        return rc;
    pthread_mutex_lock(&fabric->make);
    rc = fm_net_peer(fabric, &ip, present, err);
    pthread_mutex_unlock(&fabric->make);
    return rc;
}

/* ---- the hold, unrepair, inspect ---- */

static int op_hold_prepare(void *ctx, const struct fm_endpoint *ep,
                           const struct fm_hold_limits *limits, void **hold, struct fm_error *err)
{
    struct fm_fabric *fabric = ctx;
    struct fm_hold *made = NULL;
    pthread_mutex_lock(&fabric->make);
    int rc = fm_hold_prepare(fabric, ep, limits, &made, err);
    pthread_mutex_unlock(&fabric->make);
    *hold = made;
    return rc;
}

static int op_hold_settle(void *ctx, void *hold, const struct fm_endpoint *ep, uint64_t patience_ms,
                          struct fm_error *err)
{
    (void)ctx;
    return fm_hold_settle(hold, ep, patience_ms, err);
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
    struct fm_ip ip = {0};
    int rc =
        fm_hold_net(hold)->spec.mode == FM_NETWORK_OVERLAY ? parse_host(ctx, host, &ip, err) : 0;
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

/* A bridge without its way out hears only the containers of this host. */
static int check_way_out(struct fm_fabric *fabric, const struct fm_net *net, struct fm_error *err)
{
    struct fm_link link;
    if (net->spec.mode != FM_NETWORK_OVERLAY)
        return 0;
    if (!net->vxlan_index)
        return fm_error_set(err, FM_E_REFUSED, "network '%s' has no way to other hosts",
                            net->spec.name);
    if (fm_link_by_index(&fabric->slow, net->vxlan_index, &link, err) < 0)
        return fm_error_recode(err, FM_E_REFUSED);
    if (link.master == net->bridge_index && link.flags & IFF_UP)
        return 0;
    return fm_error_set(err, FM_E_REFUSED, "VXLAN device %s of network '%s' is %s", link.name,
                        net->spec.name, link.flags & IFF_UP ? "no port of its bridge" : "down");
}

static int op_reach(void *ctx, const char *network, const char *ip, const char *mac,
                    uint64_t *latency_us, struct fm_error *err)
{
    const struct fm_net *net = fm_net_find(ctx, network, err);
    struct fm_reach_answer answer = {0};
    if (!net)
        return fm_error_recode(err, FM_E_REFUSED);
    if (!net->bridge[0])
        return fm_error_set(err, FM_E_REFUSED, "network '%s' has no bridge here", network);
    int rc = check_way_out(ctx, net, err);
    if (rc < 0)
        return rc;
    struct fm_reach reach = {
        .address = ip, .interface = net->bridge, .mac = mac, .timeout_ms = REACH_TIMEOUT_MS};
    rc = fm_verify_reachable(&reach, &answer, err);
    *latency_us = answer.latency_us;
    /* A device that has gone meanwhile. */
    return rc == -FM_E_NOT_FOUND ? fm_error_recode(err, FM_E_REFUSED) : rc;
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
    .define = op_define,
    .undefine = op_undefine,
    .host_address = op_host_address,
    .publish = op_publish,
    .port_in_use = op_port_in_use,
    .describe = op_describe,
    .neighbours = op_neighbours,
    .set_neighbours = op_set_neighbours,
    .endpoint = op_endpoint,
    .stage = op_stage,
    .unstage = op_unstage,
    .activate = op_activate,
    .deactivate = op_deactivate,
    .set_remote = op_set_remote,
    .hold_prepare = op_hold_prepare,
    .hold_settle = op_hold_settle,
    .hold_engage = op_hold_engage,
    .hold_release_local = op_hold_release_local,
    .hold_forward = op_hold_forward,
    .hold_end = op_hold_end,
    .reach = op_reach,
    .unrepair = op_unrepair,
    .inspect = op_inspect,
    .relay = op_relay,
    .peer = op_peer,
};
