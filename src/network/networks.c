#include "network/networks.h"

#include <linux/if.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"
#include "network/host_port.h"
#include "network/macvlan.h"
#include "network/overlay.h"
#include "network/redirector.h"

#define VNI_MAX 0xffffffu
#define MTU_MIN 576
#define MTU_MAX 65535

/* ---- what a specification says ---- */

static int check_subnet(const char *text, struct fm_ip *subnet, struct fm_error *err)
{
    int rc = fm_ip_parse("subnet", text, subnet, err);
    if (rc < 0)
        return rc;
    unsigned bits = (unsigned)fm_ip_size(subnet) * 8;
    if (!subnet->with_prefix)
        return fm_error_set(err, FM_E_INVALID,
                            "subnet %s has no prefix length; write it as 10.89.0.0/24", text);
    if (subnet->prefix < 8 || bits - subnet->prefix < 2)
        return fm_error_set(err, FM_E_INVALID,
                            "subnet %s is too %s; its prefix has to be within 8 and %u", text,
                            subnet->prefix < 8 ? "large" : "small", bits - 2);
    struct fm_ip base = *subnet;
    for (unsigned bit = base.prefix; bit < bits; bit++)
        base.bytes[bit / 8] &= (uint8_t) ~(1 << (7 - bit % 8));
    char want[FM_IP_TEXT];
    if (!fm_ip_equal(&base, subnet))
        return fm_error_set(err, FM_E_INVALID,
                            "subnet %s has bits behind its prefix; it would be %s", text,
                            fm_ip_format_prefix(&base, want));
    if (base.bytes[0] == 0xff || (base.family == AF_INET && base.bytes[0] >= 224) ||
        (base.family == AF_INET && base.bytes[0] == 127) ||
        (base.family == AF_INET6 && base.bytes[0] == 0xfe && (base.bytes[1] & 0xc0) == 0x80))
        return fm_error_set(err, FM_E_INVALID, "subnet %s is reserved; choose another", text);
    return 0;
}

static int check_gateway(const char *text, const char *subnet_text, const struct fm_ip *subnet,
                         struct fm_ip *gateway, struct fm_error *err)
{
    if (!text[0])
        return 0;
    int rc = fm_ip_parse("gateway", text, gateway, err);
    if (rc < 0)
        return rc;
    gateway->prefix = subnet->prefix;
    if (!subnet->family || !fm_ip_in_subnet(gateway, subnet))
        return fm_error_set(err, FM_E_INVALID, "gateway %s is outside of the subnet %s", text,
                            subnet_text[0] ? subnet_text : "(there is none of its family)");
    return 0;
}

static int check_addresses(const struct fm_network_spec *spec, struct fm_net *net,
                           struct fm_error *err)
{
    int rc = check_subnet(spec->subnet, &net->subnets[0], err);
    if (rc == 0 && spec->subnet6[0])
        rc = check_subnet(spec->subnet6, &net->subnets[1], err);
    if (rc < 0)
        return rc;
    if (net->subnets[1].family &&
        (net->subnets[0].family != AF_INET || net->subnets[1].family != AF_INET6))
        return fm_error_set(err, FM_E_INVALID,
                            "subnets %s and %s: the first one has to be of IPv4 and the second one "
                            "of IPv6",
                            spec->subnet, spec->subnet6);
    const char *const gateways[] = {spec->gateway, spec->gateway6};
    const char *const subnets[] = {spec->subnet, spec->subnet6};
    for (size_t i = 0; rc == 0 && i < FM_COUNT(gateways); i++) {
        rc = check_gateway(gateways[i], subnets[i], &net->subnets[i], &net->gateways[i], err);
        if (rc == 0 && net->gateways[i].family &&
            fm_ip_is_reserved(&net->gateways[i], &net->subnets[i]))
            rc = fm_error_set(err, FM_E_INVALID, "gateway %s is reserved in the subnet %s",
                              gateways[i], subnets[i]);
    }
    return rc;
}

static int check_devices(const struct fm_network_spec *spec, struct fm_error *err)
{
    bool overlay = spec->mode == FM_NETWORK_OVERLAY;
    if (overlay && spec->parent[0])
        return fm_error_set(err, FM_E_INVALID,
                            "an overlay has no parent interface ('%s'); leave it out, or use the "
                            "mode bridge or macvlan",
                            spec->parent);
    if (!overlay && !spec->parent[0])
        return fm_error_set(err, FM_E_INVALID,
                            "the mode %s needs a parent, which is an interface of this host",
                            spec->mode == FM_NETWORK_BRIDGE ? "bridge" : "macvlan");
    if (overlay && (spec->vni == 0 || spec->vni > VNI_MAX))
        return fm_error_set(err, FM_E_INVALID, "VNI %u is not within 1 and %u", spec->vni, VNI_MAX);
    if (!overlay && spec->vni)
        return fm_error_set(err, FM_E_INVALID, "VNI %u: only an overlay has one", spec->vni);
    if (spec->mtu && (spec->mtu < MTU_MIN || spec->mtu > MTU_MAX))
        return fm_error_set(err, FM_E_INVALID, "MTU %d is not within %d and %d", spec->mtu, MTU_MIN,
                            MTU_MAX);
    return 0;
}

int fm_net_check(const struct fm_network_spec *spec, struct fm_net *net, struct fm_error *err)
{
    *net = (struct fm_net){.spec = *spec};
    if (!memchr(spec->name, '\0', sizeof(spec->name)))
        return fm_error_set(err, FM_E_INVALID, "a network's name has at most %zu characters",
                            sizeof(spec->name) - 1);
    int rc = fm_check_name("network", spec->name, err);
    if (rc < 0)
        return rc;
    if ((int)spec->mode < FM_NETWORK_OVERLAY || spec->mode > FM_NETWORK_MACVLAN)
        return fm_error_set(err, FM_E_INVALID, "unknown mode %d", (int)spec->mode);
    rc = check_addresses(spec, net, err);
    if (rc == 0)
        rc = check_devices(spec, err);
    return rc;
}

/* ---- the list ---- */

static struct fm_net *find(struct fm_fabric *fabric, const char *name)
{
    for (struct fm_net *net = fabric->nets; net; net = net->next)
        if (fm_streq(net->spec.name, name))
            return net;
    return NULL;
}

const struct fm_net *fm_net_find(struct fm_fabric *fabric, const char *name, struct fm_error *err)
{
    if (!name || !name[0])
        name = FM_NETWORK_DEFAULT;
    pthread_mutex_lock(&fabric->net_lock);
    const struct fm_net *net = find(fabric, name);
    pthread_mutex_unlock(&fabric->net_lock);
    if (!net)
        fm_error_set(err, FM_E_NOT_FOUND, "there is no network '%s' on this host", name);
    return net;
}

const struct fm_net *fm_net_of_bridge(struct fm_fabric *fabric, int bridge, const char *name)
{
    const struct fm_net *found = NULL;
    pthread_mutex_lock(&fabric->net_lock);
    for (const struct fm_net *net = fabric->nets; bridge && net; net = net->next)
        if (net->bridge_index == bridge && (!found || fm_streq(net->spec.name, name)))
            found = net;
    pthread_mutex_unlock(&fabric->net_lock);
    return found;
}

struct fm_net *fm_net_list(struct fm_fabric *fabric, size_t *count)
{
    pthread_mutex_lock(&fabric->net_lock);
    size_t n = 0;
    for (const struct fm_net *net = fabric->nets; net; net = net->next)
        n++;
    struct fm_net *list = fm_xcalloc(n + 1, sizeof(*list));
    *count = 0;
    for (const struct fm_net *net = fabric->nets; net; net = net->next)
        list[(*count)++] = *net;
    pthread_mutex_unlock(&fabric->net_lock);
    return list;
}

static void list_put(struct fm_fabric *fabric, struct fm_net *net)
{
    pthread_mutex_lock(&fabric->net_lock);
    struct fm_net **at = &fabric->nets;
    while (*at && !fm_streq((*at)->spec.name, net->spec.name))
        at = &(*at)->next;
    struct fm_net *old = *at;
    net->next = old ? old->next : NULL;
    *at = net;
    if (old) {
        old->next = fabric->former;
        fabric->former = old;
    }
    pthread_mutex_unlock(&fabric->net_lock);
}

static void list_remove(struct fm_fabric *fabric, const char *name)
{
    pthread_mutex_lock(&fabric->net_lock);
    struct fm_net **at = &fabric->nets;
    while (*at && !fm_streq((*at)->spec.name, name))
        at = &(*at)->next;
    struct fm_net *old = *at;
    if (old) {
        *at = old->next;
        old->next = fabric->former;
        fabric->former = old;
    }
    pthread_mutex_unlock(&fabric->net_lock);
}

void fm_net_free_all(struct fm_fabric *fabric)
{
    struct fm_net *lists[] = {fabric->nets, fabric->former};
    for (size_t i = 0; i < FM_COUNT(lists); i++) {
        for (struct fm_net *net = lists[i]; net;) {
            struct fm_net *next = net->next;
            free(net);
            net = next;
        }
    }
    fabric->nets = fabric->former = NULL;
}

/* ---- define ---- */

static bool same_spec(const struct fm_network_spec *a, const struct fm_network_spec *b)
{
    return a->mode == b->mode && fm_streq(a->subnet, b->subnet) &&
           fm_streq(a->gateway, b->gateway) && fm_streq(a->subnet6, b->subnet6) &&
           fm_streq(a->gateway6, b->gateway6) && a->vni == b->vni && a->mtu == b->mtu &&
           fm_streq(a->parent, b->parent);
}

static int check_against(const struct fm_net *net, const struct fm_net *other, struct fm_error *err)
{
    if (net->spec.mode == FM_NETWORK_OVERLAY && other->spec.mode == FM_NETWORK_OVERLAY &&
        net->spec.vni == other->spec.vni)
        return fm_error_set(err, FM_E_EXISTS,
                            "VNI %u of network '%s' is that of network '%s'; choose another",
                            net->spec.vni, net->spec.name, other->spec.name);
    for (size_t i = 0; i < 4; i++) {
        const struct fm_ip *mine = &net->subnets[i / 2];
        const struct fm_ip *its = &other->subnets[i % 2];
        char a[FM_IP_TEXT];
        char b[FM_IP_TEXT];
        if (mine->family && its->family && fm_ip_overlaps(mine, its))
            return fm_error_set(err, FM_E_EXISTS,
                                "subnet %s of network '%s' overlaps %s of network '%s'; choose "
                                "another",
                                fm_ip_format_prefix(mine, a), net->spec.name,
                                fm_ip_format_prefix(its, b), other->spec.name);
    }
    return 0;
}

/* Our routes to such a subnet would cut the host off. */
static int check_underlay(const struct fm_fabric *fabric, const struct fm_net *net,
                          struct fm_error *err)
{
    char text[FM_IP_TEXT];
    for (size_t i = 0; i < FM_COUNT(net->subnets); i++)
        if (fabric->has_underlay && net->spec.mode == FM_NETWORK_OVERLAY &&
            net->subnets[i].family && fm_ip_in_subnet(&fabric->underlay, &net->subnets[i]))
            return fm_error_set(err, FM_E_INVALID,
                                "the subnet of network '%s' contains this host's own address %s; "
                                "choose another",
                                net->spec.name, fm_ip_format(&fabric->underlay, text));
    return 0;
}

static int add_peers(struct fm_fabric *fabric, const struct fm_net *net, struct fm_error *err)
{
    int rc = 0;
    struct fm_nl_batch batch = {0};
    for (size_t i = 0; net->vxlan_index && rc == 0 && i < fabric->peer_count; i++) {
        fm_fdb_put_flood(&batch, net->vxlan_index, &fabric->peers[i]);
        if (batch.count == FM_NL_BATCH_COUNT)
            rc = fm_nl_run(&fabric->slow, &batch, err);
    }
    return rc < 0 ? rc : fm_nl_run(&fabric->slow, &batch, err);
}

static int set_up(struct fm_fabric *fabric, struct fm_net *net, struct fm_error *err)
{
    int rc = fm_overlay_make(fabric, net, err);
    if (rc == 0)
        rc = fm_hold_remove_stale(fabric, net, err);
    if (rc == 0)
        rc = add_peers(fabric, net, err);
    return rc;
}

int fm_net_define(struct fm_fabric *fabric, const struct fm_network_spec *spec,
                  struct fm_error *err)
{
    fm_autofree struct fm_net *net = fm_xcalloc(1, sizeof(*net));
    const struct fm_net *old = find(fabric, spec->name);
    if (old && same_spec(&old->spec, spec)) {
        *net = *old;
    } else {
        int rc = fm_net_check(spec, net, err);
        if (rc < 0)
            return rc;
        if (old)
            return fm_error_set(err, FM_E_EXISTS,
                                "there is a network '%s' with other settings; remove it first",
                                spec->name);
        for (const struct fm_net *other = fabric->nets; rc == 0 && other; other = other->next)
            rc = check_against(net, other, err);
        if (rc == 0)
            rc = check_underlay(fabric, net, err);
        if (rc < 0)
            return rc;
        if (spec->mode == FM_NETWORK_OVERLAY)
            fm_overlay_name(net);
    }
    int rc = set_up(fabric, net, err);
    bool news = !old || old->bridge_index != net->bridge_index || old->mtu != net->mtu ||
                old->vxlan_index != net->vxlan_index || old->parent_index != net->parent_index;
    if (rc == 0 && news)
        list_put(fabric, FM_MOVE(net));
    return rc;
}

static int check_if_name(const char *what, const char *name, struct fm_error *err)
{
    size_t len = strlen(name);
    if (len == 0 || len >= IFNAMSIZ || strpbrk(name, "/: \t%"))
        return fm_error_set(err, FM_E_INVALID, "%s '%s' is not an interface name", what, name);
    return 0;
}

int fm_net_define_configured(struct fm_fabric *fabric, const struct fm_fabric_config *config,
                             struct fm_error *err)
{
    fm_autofree struct fm_net *net = fm_xcalloc(1, sizeof(*net));
    struct fm_network_spec *spec = &net->spec;
    net->configured = true;
    int rc = check_if_name("bridge", config->bridge, err);
    if (rc == 0)
        rc = check_if_name("vxlan", config->vxlan, err);
    if (rc == 0)
        rc = fm_ip_parse("subnet", config->subnet, &net->subnets[0], err);
    if (rc == 0)
        rc = check_gateway(config->gateway ? config->gateway : "", config->subnet, &net->subnets[0],
                           &net->gateways[0], err);
    if (rc < 0)
        return rc;
    snprintf(spec->name, sizeof(spec->name), FM_NETWORK_DEFAULT);
    snprintf(spec->subnet, sizeof(spec->subnet), "%s", config->subnet);
    snprintf(spec->gateway, sizeof(spec->gateway), "%s", config->gateway ? config->gateway : "");
    spec->vni = config->vni;
    spec->mtu = config->mtu;
    snprintf(net->bridge, sizeof(net->bridge), "%s", config->bridge);
    snprintf(net->vxlan, sizeof(net->vxlan), "%s", config->vxlan);
    rc = set_up(fabric, net, err);
    if (rc == 0)
        list_put(fabric, FM_MOVE(net));
    return rc;
}

/* ---- undefine ---- */

struct census {
    const struct fm_net *net;
    unsigned ports;
    char name[64]; /* of one of them: the container's, else the interface's */
};

static void count(struct census *census, const struct fm_owner *owner, const char *interface)
{
    census->ports++;
    snprintf(census->name, sizeof(census->name), "%s", owner->name[0] ? owner->name : interface);
}

static int count_link(const struct fm_link *link, void *ctx)
{
    struct census *census = ctx;
    const struct fm_net *net = census->net;
    if (!net->bridge_index || link->master != net->bridge_index || link->index == net->vxlan_index)
        return 0;
    struct fm_owner owner;
    bool ours = fm_owner_parse(link->alias, &owner);
    if (fm_starts_with(link->alias, FM_HOST_PORT_ALIAS)) /* goes along with the network */
        return 0;
    if (net->spec.mode == FM_NETWORK_OVERLAY || (ours && fm_owner_in(&owner, net, link->master)))
        count(census, &owner, link->name);
    return 0;
}

static int count_macvlan(const struct fm_macvlan_port *port, void *ctx)
{
    struct census *census = ctx;
    if (fm_streq(port->owner.network, census->net->spec.name))
        count(census, &port->owner, "");
    return 0;
}

static int count_ports(struct fm_fabric *fabric, struct census *census, struct fm_error *err)
{
    return census->net->spec.mode == FM_NETWORK_MACVLAN
               ? fm_macvlan_each(fabric, count_macvlan, census, err)
               : fm_link_each(&fabric->slow, count_link, census, err);
}

/* After a restart of the daemon devices may be left of a network that was not defined again. */
static int forgotten(struct fm_fabric *fabric, const char *name, struct fm_net *net,
                     struct fm_error *err)
{
    *net = (struct fm_net){0};
    if (strlen(name) >= sizeof(net->spec.name))
        return fm_error_set(err, FM_E_INVALID, "'%s' is no name of a network", name);
    snprintf(net->spec.name, sizeof(net->spec.name), "%s", name);
    fm_overlay_name(net);
    struct fm_link link;
    struct fm_error missing = {0};
    if (fm_link_by_name(&fabric->slow, net->bridge, &link, &missing) == 0)
        net->bridge_index = link.index;
    if (fm_link_by_name(&fabric->slow, net->vxlan, &link, &missing) == 0)
        net->vxlan_index = link.index;
    return 0;
}

int fm_net_undefine(struct fm_fabric *fabric, const char *name, struct fm_error *err)
{
    if (fm_streq(name, FM_NETWORK_DEFAULT))
        return fm_error_set(err, FM_E_REFUSED, "the network '%s' is the configuration's and stays",
                            name);
    struct fm_net gone;
    const struct fm_net *net = find(fabric, name);
    int rc = net ? 0 : forgotten(fabric, name, &gone, err);
    struct census census = {.net = net ? net : &gone};
    if (rc == 0)
        rc = count_ports(fabric, &census, err);
    if (rc < 0)
        return rc;
    if (census.ports > 0)
        return fm_error_set(err, FM_E_REFUSED,
                            "network '%s' has %u container%s on this host ('%s'); remove %s first",
                            name, census.ports, census.ports == 1 ? "" : "s", census.name,
                            census.ports == 1 ? "it" : "them");
    rc = fm_overlay_remove(fabric, census.net, err);
    if (rc == 0)
        list_remove(fabric, name);
    return rc;
}

void fm_net_teardown(struct fm_fabric *fabric)
{
    struct census census = {.net = find(fabric, FM_NETWORK_DEFAULT)};
    struct fm_error err = {0};
    if (!census.net || count_ports(fabric, &census, &err) < 0 || census.ports > 0)
        return;
    if (fm_overlay_remove(fabric, census.net, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "The bridge could not be removed: %s.", err.text);
}

/* ---- peers ---- */

static void remember_peer(struct fm_fabric *fabric, const struct fm_ip *host, bool present)
{
    size_t at = 0;
    while (at < fabric->peer_count && !fm_ip_equal(&fabric->peers[at], host))
        at++;
    if (at < fabric->peer_count && !present) {
        fabric->peers[at] = fabric->peers[--fabric->peer_count];
    } else if (at == fabric->peer_count && present) {
        fabric->peers =
            fm_xrealloc(fabric->peers, (fabric->peer_count + 1) * sizeof(fabric->peers[0]));
        fabric->peers[fabric->peer_count++] = *host;
    }
}

int fm_net_peer(struct fm_fabric *fabric, const struct fm_ip *host, bool present,
                struct fm_error *err)
{
    remember_peer(fabric, host, present);
    int result = 0;
    for (const struct fm_net *net = fabric->nets; net; net = net->next) {
        if (!net->vxlan_index)
            continue;
        struct fm_nl_batch batch = {0};
        struct fm_error here = {0};
        if (present)
            fm_fdb_put_flood(&batch, net->vxlan_index, host);
        else
            fm_fdb_delete_flood(&batch, net->vxlan_index, host);
        int rc = fm_nl_run(&fabric->slow, &batch, &here);
        if (rc < 0 && result == 0) {
            result = fm_error_prefix(&here, "network '%s'", net->spec.name);
            if (err)
                *err = here;
        }
    }
    return result;
}
