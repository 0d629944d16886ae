/* Staging: a container's namespace, veth pair and addresses, made before it arrives and without a
 * frame under its MAC getting out. */
#include "network/fabric.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "network/macvlan.h"
#include "network/netns.h"

struct staging {
    struct fm_fabric *fabric;
    const struct fm_endpoint *ep;
    struct fm_port port;
    struct fm_error *err;
    struct fm_link host; /* the bridge side; index 0: not there yet */
};

/* ---- what is there ---- */

static int judge_namesake(struct staging *s, const struct fm_link *link)
{
    struct fm_owner owner;
    if (fm_owner_parse(link->alias, &owner)) {
        if (!fm_streq(owner.name, s->ep->name))
            return fm_error_set(s->err, FM_E_EXISTS,
                                "interface %s belongs to container '%s'; rename one of the two",
                                link->name, owner.name);
        int rc = fm_owner_clashes(&owner, s->ep, &s->port, s->err);
        if (rc < 0)
            return rc;
    } else if (!fm_streq(link->kind, "veth") || link->alias[0] || link->master) {
        return fm_error_set(s->err, FM_E_EXISTS,
                            "interface %s is there and is not ours; remove it (ip link del %s)",
                            link->name, link->name);
    } /* else a crash interrupted its making */
    if (link->master && link->master != s->port.net->bridge_index)
        return fm_error_set(s->err, FM_E_EXISTS, "interface %s belongs to another bridge than %s",
                            link->name, s->port.net->bridge);
    s->host = *link;
    return 0;
}

/* By name, since it may be anybody's; who else has the address is asked of the owners. */
static int survey(struct staging *s)
{
    struct fm_link link;
    struct fm_error here = {0};
    int rc = fm_link_by_name(&s->fabric->slow, s->ep->host_if, &link, &here);
    if (rc == -FM_E_NOT_FOUND)
        rc = 0;
    else if (rc < 0)
        *s->err = here;
    else
        rc = judge_namesake(s, &link);
    if (rc == 0 && s->host.index && s->port.net->spec.mode == FM_NETWORK_MACVLAN)
        return fm_error_set(s->err, FM_E_EXISTS,
                            "a container '%s' in another network is on this host; remove it first",
                            s->ep->name);
    return rc < 0 ? rc : fm_residents_check(s->fabric, s->ep, &s->port, s->err);
}

static int check_device(struct fm_fabric *fabric, const struct fm_net *net, struct fm_error *err)
{
    bool macvlan = net->spec.mode == FM_NETWORK_MACVLAN;
    const char *name = macvlan ? net->spec.parent : net->bridge;
    struct fm_link link;
    struct fm_error missing = {0};
    if (fm_link_by_name(&fabric->slow, name, &link, &missing) == 0 &&
        link.index == (macvlan ? net->parent_index : net->bridge_index))
        return 0;
    if (net->spec.mode == FM_NETWORK_OVERLAY)
        return fm_error_set(err, FM_E_FAILED,
                            "bridge %s is gone; restart fleximigrated to make it again", name);
    return fm_error_set(err, FM_E_FAILED,
                        "interface %s of network '%s' is gone, or another one has its name now; "
                        "define the network again",
                        name, net->spec.name);
}

/* ---- inside the namespace ---- */

static int find_inner(struct staging *s, struct fm_nl *nl, struct fm_link *inner,
                      struct fm_error *err)
{
    int rc = fm_nl_open(nl, err);
    if (rc < 0)
        return rc;
    rc = fm_link_by_name(nl, s->ep->ifname, inner, err);
    if (rc < 0)
        fm_nl_close(nl);
    return rc;
}

/* Up, but with a MAC of its own: whatever it says now does not speak for the container. */
static int inner_up(void *ctx, struct fm_error *err)
{
    struct fm_nl nl;
    struct fm_link inner;
    int rc = find_inner(ctx, &nl, &inner, err);
    if (rc < 0)
        return rc;
    struct fm_nl_batch batch = {0};
    fm_link_put_quiet(&batch, inner.index);
    fm_link_put_up(&batch, inner.index);
    rc = fm_nl_run(&nl, &batch, err);
    fm_nl_close(&nl);
    return rc;
}

int fm_endpoint_put_addresses(struct fm_nl_batch *batch, int index, const struct fm_endpoint *ep,
                              const struct fm_port *port, struct fm_error *err)
{
    for (size_t i = 0; i < FM_COUNT(port->ips); i++)
        if (port->ips[i].family)
            fm_address_put(batch, index, &port->ips[i]);
    if (port->net->mtu >= FM_IPV6_MTU_MIN) {
        struct fm_ip link_local;
        fm_ip_link_local(port->mac, &link_local);
        fm_address_put(batch, index, &link_local);
        fm_nl_ignore(batch, EOPNOTSUPP); /* no IPv6, or turned off */
        fm_nl_ignore(batch, EAFNOSUPPORT);
        fm_nl_ignore(batch, EACCES);
    }
    const char *const gateways[] = {ep->gateway, ep->gateway6};
    for (size_t i = 0; i < FM_COUNT(gateways); i++) {
        struct fm_ip gateway;
        if (!gateways[i][0])
            continue;
        int rc = fm_ip_parse("gateway", gateways[i], &gateway, err);
        if (rc < 0)
            return rc;
        fm_route_put_default(batch, index, &gateway);
    }
    return 0;
}

int fm_endpoint_wait_heard(struct fm_nl *nl, int index, const struct fm_port *port,
                           struct fm_error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < FM_COUNT(port->ips); i++)
        rc = fm_address_wait_heard(nl, index, &port->ips[i], err);
    return rc;
}

static int inner_configure(void *ctx, struct fm_error *err)
{
    struct staging *s = ctx;
    struct fm_nl nl;
    struct fm_link inner;
    int rc = find_inner(s, &nl, &inner, err);
    if (rc < 0)
        return rc;
    struct fm_nl_batch batch = {0};
    fm_link_put_mac(&batch, inner.index, s->port.mac);
    rc = fm_endpoint_put_addresses(&batch, inner.index, s->ep, &s->port, err);
    if (rc == 0)
        rc = fm_nl_run(&nl, &batch, err);
    if (rc == 0)
        rc = fm_endpoint_wait_heard(&nl, inner.index, &s->port, err);
    fm_nl_close(&nl);
    return rc;
}

static int inner_is_intact(void *ctx, struct fm_error *err)
{
    struct staging *s = ctx;
    struct fm_nl nl;
    struct fm_link inner;
    int rc = find_inner(s, &nl, &inner, err);
    if (rc < 0)
        return rc;
    fm_nl_close(&nl);
    return inner.peer == s->host.index && inner.index == s->host.peer ? 0 : -FM_E_NOT_FOUND;
}

/* An interface whose other end is not ours any more (its bridge side was in a namespace that is
 * gone). */
static int inner_delete_orphan(void *ctx, struct fm_error *err)
{
    struct fm_nl nl;
    struct fm_link inner;
    struct fm_error missing = {0};
    struct staging *s = ctx;
    if (find_inner(s, &nl, &inner, &missing) < 0)
        return 0;
    struct fm_owner owner;
    int rc = 0;
    if (fm_owner_parse(inner.alias, &owner)) { /* a macvlan, which no other end could have lost */
        rc = fm_error_set(err, FM_E_EXISTS,
                          "a container '%s' in network '%s' is on this host; remove it first",
                          owner.name, owner.network);
    } else {
        struct fm_nl_batch batch = {0};
        fm_link_put_delete(&batch, inner.index);
        rc = fm_nl_run(&nl, &batch, err);
    }
    fm_nl_close(&nl);
    return rc;
}

/* ---- the bridge side ---- */

static int delete_link(struct fm_fabric *fabric, int index, struct fm_error *err)
{
    struct fm_nl_batch batch = {0};
    fm_link_put_delete(&batch, index);
    return fm_nl_run(&fabric->slow, &batch, err);
}

/* Uses the pair that is there if it is whole, else makes a new one. */
static int provide_pair(struct staging *s, struct fm_error *err)
{
    struct fm_fabric *fabric = s->fabric;
    bool old = fm_netns_exists(s->ep->netns);
    int rc = fm_netns_create(s->ep->netns, err);
    if (rc == 0 && s->host.index) {
        struct fm_error broken = {0};
        if (fm_netns_run(s->ep->netns, inner_is_intact, s, &broken) == 0)
            return 0;
        rc = delete_link(fabric, s->host.index, err);
    }
    if (rc == 0 && old)
        rc = fm_netns_run(s->ep->netns, inner_delete_orphan, s, err);
    if (rc < 0)
        return rc;
    fm_autoclose int netns = open(s->ep->netns, O_RDONLY | O_CLOEXEC);
    if (netns < 0)
        return fm_error_errno(err, errno, "cannot open %s", s->ep->netns);
    struct fm_veth veth = {.name = s->ep->host_if,
                           .peer = s->ep->ifname,
                           .peer_netns = netns,
                           .mtu = s->port.net->mtu};
    struct fm_nl_batch batch = {0};
    fm_link_put_veth(&batch, &veth);
    rc = fm_nl_run(&fabric->slow, &batch, err);
    return rc < 0 ? rc : fm_link_by_name(&fabric->slow, s->ep->host_if, &s->host, err);
}

static int attach_pair(struct staging *s, bool active, struct fm_error *err)
{
    struct fm_fabric *fabric = s->fabric;
    int port = s->host.index;
    char alias[256];
    fm_owner_format(s->ep, alias);
    struct fm_nl_batch batch = {0};
    fm_link_put_alias(&batch, port, alias);
    fm_link_put_quiet(&batch, port);
    fm_link_put_up(&batch, port);
    fm_residents_put(fabric, s->ep, &s->port);
    int rc = fm_nl_run(&fabric->slow, &batch, err);
    if (rc == 0)
        rc = fm_netns_run(s->ep->netns, inner_up, s, err);
    if (rc == 0) /* before it joins: the bridge opens a port when its link comes up */
        rc = fm_link_wait_up(&fabric->slow, port, err);
    if (rc < 0)
        return rc;

    if (active)
        fm_outbox_drop(fabric, port);
    else if ((rc = fm_outbox_start(fabric, port, err)) < 0)
        return rc;
    /* On the user's bridge it is a port as any other. */
    bool theirs = s->port.net->spec.mode == FM_NETWORK_BRIDGE;
    struct fm_port_flags flags = {.learning = theirs, .unicast_flood = theirs, .group_flood = true};
    fm_link_put_master(&batch, port, s->port.net->bridge_index);
    if (!active)
        fm_link_put_port_state(&batch, port, FM_PORT_BLOCKED);
    fm_link_put_port_flags(&batch, port, &flags);
    if (!active)
        fm_fdb_delete_port(&batch, s->port.mac, port);
    return fm_nl_run(&fabric->slow, &batch, err);
}

static int make(struct staging *s, bool active, struct fm_error *err)
{
    int rc;
    if (s->port.net->spec.mode == FM_NETWORK_MACVLAN) {
        rc = fm_macvlan_stage(s->fabric, s->ep, &s->port, active, err);
    } else {
        rc = provide_pair(s, err);
        if (rc == 0)
            rc = attach_pair(s, active, err);
        if (rc == 0)
            rc = fm_netns_run(s->ep->netns, inner_configure, s, err);
    }
    if (rc == 0 && active)
        rc = fm_endpoint_activate(s->fabric, s->ep, err);
    return rc;
}

int fm_endpoint_stage(struct fm_fabric *fabric, const struct fm_endpoint *ep, bool active,
                      struct fm_error *err)
{
    struct fm_error here = {0};
    struct staging s = {.fabric = fabric, .ep = ep, .err = &here};
    int rc = fm_port_of_network(fabric, ep, &s.port, &here);
    if (rc == 0)
        rc = check_device(fabric, s.port.net, &here);
    if (rc == 0)
        rc = survey(&s);
    bool was_there = s.host.index != 0 || fm_netns_exists(ep->netns);
    if (rc == 0) {
        rc = make(&s, active, &here);
        struct fm_error ignored = {0};
        if (rc < 0 && !was_there) /* ours is only what we made */
            fm_endpoint_unstage(fabric, ep, &ignored);
    }
    if (rc < 0 && err)
        *err = here;
    return rc;
}

static bool may_delete(const struct fm_link *link, const struct fm_endpoint *ep)
{
    struct fm_owner owner;
    if (fm_owner_parse(link->alias, &owner))
        return fm_streq(owner.name, ep->name);
    return fm_streq(link->kind, "veth") && !link->alias[0] && !link->master;
}

int fm_endpoint_unstage(struct fm_fabric *fabric, const struct fm_endpoint *ep,
                        struct fm_error *err)
{
    struct fm_link link;
    struct fm_error missing = {0};
    fm_autofree char *own = fm_strf("%s/netns/", fabric->run_dir);
    bool pinned = fm_starts_with(ep->netns, own);
    int rc = fm_link_by_name(&fabric->slow, ep->host_if, &link, &missing);
    bool ours = rc == 0 && may_delete(&link, ep);
    if (ours) {
        fm_outbox_drop(fabric, link.index);
        rc = delete_link(fabric, link.index, err);
    } else {
        rc = pinned ? fm_macvlan_unstage(ep, err) : 0;
    }
    if (rc == 0 && (ours || pinned))
        fm_residents_remove(fabric, ep->name);
    if (!pinned)
        return rc;
    int rc2 = fm_netns_remove(ep->netns, rc < 0 ? NULL : err);
    return rc < 0 ? rc : rc2;
}
