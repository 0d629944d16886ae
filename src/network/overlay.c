#include "network/overlay.h"

#include <errno.h>
#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/text.h"

#define VXLAN_OVERHEAD_IPV4 50
#define VXLAN_OVERHEAD_IPV6 70
#define DEFAULT_MTU 1500
#define ALIAS_PREFIX "fleximigrate network "

void fm_overlay_name(struct fm_net *net)
{
    fm_network_if_name("fmb", net->spec.name, net->bridge);
    fm_network_if_name("fmx", net->spec.name, net->vxlan);
}

/* ---- MTU ---- */

struct address_search {
    const struct fm_ip *ip;
    int index;
};

static int match_address(const struct nlmsghdr *nlh, void *ctx)
{
    struct address_search *search = ctx;
    const struct ifaddrmsg *info = mnl_nlmsg_get_payload(nlh);
    const struct nlattr *attr;
    if (info->ifa_family != search->ip->family)
        return 0;
    mnl_attr_for_each(attr, nlh, sizeof(*info))
    {
        uint16_t wanted = info->ifa_family == AF_INET ? IFA_LOCAL : IFA_ADDRESS;
        if (mnl_attr_get_type(attr) == wanted &&
            mnl_attr_get_payload_len(attr) == fm_ip_size(search->ip) &&
            memcmp(mnl_attr_get_payload(attr), search->ip->bytes, fm_ip_size(search->ip)) == 0)
            search->index = (int)info->ifa_index;
    }
    return 0;
}

int fm_overlay_mtu(struct fm_fabric *fabric, int *mtu, struct fm_error *err)
{
    *mtu = DEFAULT_MTU;
    if (!fabric->has_underlay)
        return 0;
    char request[64] __attribute__((aligned(8)));
    struct nlmsghdr *nlh = mnl_nlmsg_put_header(request);
    nlh->nlmsg_type = RTM_GETADDR;
    nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    mnl_nlmsg_put_extra_header(nlh, sizeof(struct ifaddrmsg));
    struct address_search search = {.ip = &fabric->underlay};
    int rc = fm_nl_query(&fabric->slow, nlh, match_address, &search, err);
    if (rc < 0)
        return rc;
    char text[FM_IP_TEXT];
    if (!search.index)
        return fm_error_set(err, FM_E_INVALID,
                            "underlay address %s is not an address of this host; correct "
                            "network.underlay",
                            fm_ip_format(&fabric->underlay, text));
    struct fm_link link;
    rc = fm_link_by_index(&fabric->slow, search.index, &link, err);
    if (rc < 0)
        return rc;
    bool ipv6 = fabric->underlay.family == AF_INET6;
    *mtu = link.mtu - (ipv6 ? VXLAN_OVERHEAD_IPV6 : VXLAN_OVERHEAD_IPV4);
    return 0;
}

static int choose_overlay_mtu(struct fm_fabric *fabric, struct fm_net *net, struct fm_error *err)
{
    int most;
    int rc = fm_overlay_mtu(fabric, &most, err);
    if (rc < 0)
        return rc;
    net->mtu = net->spec.mtu ? net->spec.mtu : most;
    if (!net->configured && fabric->has_underlay && net->mtu > most)
        return fm_error_set(err, FM_E_INVALID,
                            "MTU %d of network '%s' does not fit into this host's underlay; %d is "
                            "the most that it carries",
                            net->mtu, net->spec.name, most);
    return 0;
}

/* ---- whose a device is ---- */

/* The configuration's devices may have been made by hand, the others are marked. A crash may have
 * left one without its mark. */
static int check_mark(const struct fm_net *net, const struct fm_link *link, struct fm_error *err)
{
    if (net->configured || (!link->alias[0] && !link->master))
        return 0;
    if (!fm_starts_with(link->alias, ALIAS_PREFIX))
        return fm_error_set(err, FM_E_EXISTS,
                            "interface %s is there and is not ours; remove it (ip link del %s)",
                            link->name, link->name);
    const char *owner = link->alias + strlen(ALIAS_PREFIX);
    if (!fm_streq(owner, net->spec.name))
        return fm_error_set(err, FM_E_EXISTS,
                            "interface %s belongs to network '%s'; rename one of the two",
                            link->name, owner);
    return 0;
}

static void put_mark(struct fm_nl_batch *batch, const struct fm_net *net, int index)
{
    char alias[256];
    snprintf(alias, sizeof(alias), ALIAS_PREFIX "%s", net->spec.name);
    if (!net->configured)
        fm_link_put_alias(batch, index, alias);
}

/* ---- the bridge ---- */

static int random_mac(uint8_t mac[6], struct fm_error *err)
{
    if (getrandom(mac, 6, 0) != 6)
        return fm_error_errno(err, errno, "cannot get random numbers");
    mac[0] = (uint8_t)((mac[0] & 0xfc) | 2);
    return 0;
}

static int check_bridge(const struct fm_net *net, const struct fm_link *link, struct fm_error *err)
{
    if (!fm_streq(link->kind, "bridge"))
        return fm_error_set(
            err, FM_E_EXISTS, "interface %s is there and is not a bridge; %s%s", link->name,
            net->configured ? "choose another name for network.bridge" : "remove it: ip link del ",
            net->configured ? "" : link->name);
    return check_mark(net, link, err);
}

static int make_bridge(struct fm_fabric *fabric, struct fm_net *net, bool *made,
                       struct fm_error *err)
{
    const struct fm_ip *gateway = net->gateways[0].family ? &net->gateways[0] : &net->gateways[1];
    /* Set explicitly, else it follows the ports as they come and go. */
    uint8_t mac[6];
    int rc = 0;
    if (gateway->family)
        fm_mac_of_gateway(gateway, mac);
    else
        rc = random_mac(mac, err);
    if (rc < 0)
        return rc;
    struct fm_link link;
    struct fm_error missing = {0};
    struct fm_nl_batch batch = {0};
    if (fm_link_by_name(&fabric->slow, net->bridge, &link, &missing) < 0) {
        fm_link_put_bridge(&batch, net->bridge, mac, net->mtu);
        rc = fm_nl_run(&fabric->slow, &batch, err);
        *made = rc == 0;
        if (rc == 0)
            rc = fm_link_by_name(&fabric->slow, net->bridge, &link, err);
        if (rc < 0)
            return rc;
        fm_link_put_quiet(&batch, link.index);
    } else if ((rc = check_bridge(net, &link, err)) < 0) {
        return rc;
    } else {
        fm_link_put_bridge_settings(&batch, link.index, gateway->family ? mac : NULL, net->mtu);
    }
    net->bridge_index = link.index;
    put_mark(&batch, net, link.index);
    fm_link_put_up(&batch, link.index);
    for (size_t i = 0; i < FM_COUNT(net->gateways); i++)
        if (net->gateways[i].family)
            fm_address_put(&batch, link.index, &net->gateways[i]);
    return fm_nl_run(&fabric->slow, &batch, err);
}

/* ---- the VXLAN device ---- */

static int check_vxlan(const struct fm_fabric *fabric, const struct fm_net *net,
                       const struct fm_link *link, struct fm_error *err)
{
    if (!fm_streq(link->kind, "vxlan"))
        return fm_error_set(
            err, FM_E_EXISTS, "interface %s is there and is not a VXLAN device; %s%s", link->name,
            net->configured ? "choose another name for network.vxlan" : "remove it: ip link del ",
            net->configured ? "" : link->name);
    int rc = check_mark(net, link, err);
    if (rc < 0)
        return rc;
    if (link->vxlan.vni != net->spec.vni || link->vxlan.port != fabric->port ||
        !fm_ip_equal(&link->vxlan.local, &fabric->underlay))
        return fm_error_set(err, FM_E_EXISTS,
                            "VXLAN device %s has other settings (VNI %u, port %u) than the "
                            "%s (VNI %u, port %u) or another address; remove it (ip "
                            "link del %s)%s",
                            link->name, link->vxlan.vni, link->vxlan.port,
                            net->configured ? "configuration" : "network", net->spec.vni,
                            fabric->port, link->name,
                            net->configured ? " or correct the configuration" : "");
    if (link->master && link->master != net->bridge_index)
        return fm_error_set(err, FM_E_EXISTS, "VXLAN device %s belongs to another bridge",
                            link->name);
    return 0;
}

struct vni_search {
    const struct fm_fabric *fabric;
    const struct fm_net *net;
    struct fm_error *err;
};

/* The kernel would only say "file exists". */
static int match_vni(const struct fm_link *link, void *ctx)
{
    const struct vni_search *s = ctx;
    const struct fm_network_spec *spec = &s->net->spec;
    if (!fm_streq(link->kind, "vxlan") || link->vxlan.vni != spec->vni ||
        link->vxlan.port != s->fabric->port || fm_streq(link->name, s->net->vxlan))
        return 0;
    bool ours = fm_starts_with(link->alias, ALIAS_PREFIX);
    return fm_error_set(s->err, FM_E_EXISTS,
                        "VNI %u of network '%s' is used by interface %s%s%s%s; choose another",
                        spec->vni, spec->name, link->name, ours ? " of network '" : "",
                        ours ? link->alias + strlen(ALIAS_PREFIX) : "", ours ? "'" : "");
}

static int make_vxlan(struct fm_fabric *fabric, struct fm_net *net, bool *made,
                      struct fm_error *err)
{
    struct fm_link link;
    struct fm_error missing = {0};
    struct fm_error here = {0};
    struct fm_nl_batch batch = {0};
    int rc = 0;
    if (fm_link_by_name(&fabric->slow, net->vxlan, &link, &missing) < 0) {
        struct vni_search search = {fabric, net, &here};
        rc = fm_link_each(&fabric->slow, match_vni, &search, &here);
        if (rc < 0) {
            if (err)
                *err = here;
            return rc;
        }
        struct fm_vxlan vxlan = {.name = net->vxlan,
                                 .vni = net->spec.vni,
                                 .port = fabric->port,
                                 .local = &fabric->underlay,
                                 .mtu = net->mtu};
        fm_link_put_vxlan(&batch, &vxlan);
        rc = fm_nl_run(&fabric->slow, &batch, err);
        *made = rc == 0;
        if (rc == 0)
            rc = fm_link_by_name(&fabric->slow, net->vxlan, &link, err);
        if (rc < 0)
            return rc;
        fm_link_put_quiet(&batch, link.index);
    } else if ((rc = check_vxlan(fabric, net, &link, err)) < 0) {
        return rc;
    }
    net->vxlan_index = link.index;
    /* Where a container is, is told, not learnt; unknown addresses (a client elsewhere) are
     * flooded. */
    struct fm_port_flags flags = {.learning = false, .unicast_flood = true, .group_flood = true};
    put_mark(&batch, net, link.index);
    fm_link_put_mtu(&batch, link.index, net->mtu);
    fm_link_put_master(&batch, link.index, net->bridge_index);
    fm_link_put_port_flags(&batch, link.index, &flags);
    fm_link_put_up(&batch, link.index);
    return fm_nl_run(&fabric->slow, &batch, err);
}

static int make_overlay(struct fm_fabric *fabric, struct fm_net *net, struct fm_error *err)
{
    bool made_bridge = false;
    bool made_vxlan = false;
    int rc = choose_overlay_mtu(fabric, net, err);
    if (rc == 0)
        rc = make_bridge(fabric, net, &made_bridge, err);
    if (rc == 0 && fabric->has_underlay)
        rc = make_vxlan(fabric, net, &made_vxlan, err);
    if (rc == 0)
        return 0;
    struct fm_nl_batch batch = {0};
    if (made_vxlan && net->vxlan_index)
        fm_link_put_delete(&batch, net->vxlan_index);
    if (made_bridge && net->bridge_index)
        fm_link_put_delete(&batch, net->bridge_index);
    struct fm_error ignored = {0};
    fm_nl_run(&fabric->slow, &batch, &ignored);
    return rc;
}

/* ---- the user's interfaces ---- */

static int judge_parent(const struct fm_net *net, const struct fm_link *link, struct fm_error *err)
{
    const struct fm_network_spec *spec = &net->spec;
    if (fm_starts_with(link->alias, ALIAS_PREFIX))
        return fm_error_set(err, FM_E_INVALID,
                            "interface %s is the bridge of network '%s'; name one of your own",
                            spec->parent, link->alias + strlen(ALIAS_PREFIX));
    if (spec->mode == FM_NETWORK_BRIDGE && !fm_streq(link->kind, "bridge"))
        return fm_error_set(err, FM_E_INVALID,
                            "interface %s is not a bridge; name one, or use the mode macvlan",
                            spec->parent);
    if (spec->mode == FM_NETWORK_BRIDGE && link->stp)
        return fm_error_set(err, FM_E_REFUSED,
                            "bridge %s runs the spanning tree protocol, which leaves us no say in "
                            "a container's port; turn it off (ip link set %s type bridge "
                            "stp_state 0) or use another bridge",
                            spec->parent, spec->parent);
    if (spec->mode == FM_NETWORK_MACVLAN && ((link->flags & IFF_LOOPBACK) || !link->has_mac))
        return fm_error_set(err, FM_E_INVALID,
                            "interface %s is no Ethernet interface, which macvlan needs",
                            spec->parent);
    if (spec->mode == FM_NETWORK_MACVLAN && link->master)
        return fm_error_set(err, FM_E_REFUSED,
                            "interface %s is a port of another one, which gets all its frames; "
                            "name that one",
                            spec->parent);
    if (spec->mtu > link->mtu)
        return fm_error_set(err, FM_E_INVALID,
                            "MTU %d of network '%s' is above that of interface %s (%d)", spec->mtu,
                            spec->name, spec->parent, link->mtu);
    return 0;
}

static int adopt_parent(struct fm_fabric *fabric, struct fm_net *net, struct fm_error *err)
{
    struct fm_link link;
    struct fm_error missing = {0};
    if (fm_link_by_name(&fabric->slow, net->spec.parent, &link, &missing) < 0)
        return fm_error_set(err, FM_E_INVALID, "network '%s' needs interface %s, which is missing",
                            net->spec.name, net->spec.parent);
    int rc = judge_parent(net, &link, err);
    if (rc < 0)
        return rc;
    net->mtu = net->spec.mtu ? net->spec.mtu : link.mtu;
    if (net->spec.mode == FM_NETWORK_MACVLAN) {
        net->parent_index = link.index;
        return 0;
    }
    net->bridge_index = link.index;
    snprintf(net->bridge, sizeof(net->bridge), "%s", link.name);
    return 0;
}

int fm_overlay_make(struct fm_fabric *fabric, struct fm_net *net, struct fm_error *err)
{
    int rc = net->spec.mode == FM_NETWORK_OVERLAY ? make_overlay(fabric, net, err)
                                                  : adopt_parent(fabric, net, err);
    bool ipv6 = net->subnets[0].family == AF_INET6 || net->subnets[1].family == AF_INET6;
    if (rc == 0 && ipv6 && !net->configured && net->mtu < FM_IPV6_MTU_MIN) {
        struct fm_error ignored = {0};
        fm_overlay_remove(fabric, net, &ignored);
        rc = fm_error_set(err, FM_E_INVALID,
                          "MTU %d of network '%s' is too small for IPv6, which needs %d", net->mtu,
                          net->spec.name, FM_IPV6_MTU_MIN);
    }
    return rc;
}

int fm_overlay_remove(struct fm_fabric *fabric, const struct fm_net *net, struct fm_error *err)
{
    if (net->spec.mode != FM_NETWORK_OVERLAY)
        return 0;
    const struct {
        const char *name, *kind;
    } devices[] = {{net->vxlan, "vxlan"}, {net->bridge, "bridge"}};
    struct fm_nl_batch batch = {0};
    for (size_t i = 0; i < FM_COUNT(devices); i++) {
        struct fm_link link;
        struct fm_error other = {0};
        if (devices[i].name[0] &&
            fm_link_by_name(&fabric->slow, devices[i].name, &link, &other) == 0 &&
            fm_streq(link.kind, devices[i].kind) && check_mark(net, &link, &other) == 0)
            fm_link_put_delete(&batch, link.index);
    }
    return fm_nl_run(&fabric->slow, &batch, err);
}
