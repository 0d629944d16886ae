/* Owners: whose an interface is, and who is on this host.
 *
 * Looking at every interface takes the kernel 10 us for each. So the owners are read once, and kept
 * as containers come and go. The list only says whom to ask: before it makes anybody refuse, the
 * interface itself is looked at. */
#include "network/fabric.h"

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "network/macvlan.h"

#define OWNER_PREFIX "fleximigrate "
#define NOTHING "-" /* an empty field of an alias */

struct fm_resident {
    struct fm_resident *next;
    struct fm_owner owner;
    char host_if[16]; /* "": a macvlan */
};

/* ---- aliases ---- */

void fm_owner_format(const struct fm_endpoint *ep, char alias[256])
{
    snprintf(alias, 256, OWNER_PREFIX "%s %s %s %s %s", ep->name, ep->ip, ep->mac,
             ep->ip6[0] ? ep->ip6 : NOTHING, ep->network[0] ? ep->network : NOTHING);
}

bool fm_owner_parse(const char *alias, struct fm_owner *owner)
{
    *owner = (struct fm_owner){0};
    char ip[64];
    char mac[18];
    char ip6[64] = NOTHING;
    char network[32] = NOTHING;
    struct fm_error ignored = {0};
    if (!fm_starts_with(alias, OWNER_PREFIX))
        return false;
    int fields = sscanf(alias + strlen(OWNER_PREFIX), "%63s %63s %17s %63s %31s", owner->name, ip,
                        mac, ip6, network);
    if ((fields != 3 && fields != 5) || fm_ip_parse("address", ip, &owner->ips[0], &ignored) < 0 ||
        fm_mac_parse(mac, owner->mac, &ignored) < 0 ||
        (!fm_streq(ip6, NOTHING) && fm_ip_parse("address", ip6, &owner->ips[1], &ignored) < 0))
        return false;
    if (!fm_streq(network, NOTHING))
        snprintf(owner->network, sizeof(owner->network), "%s", network);
    return true;
}

bool fm_owner_in(const struct fm_owner *owner, const struct fm_net *net, int master)
{
    if (owner->network[0])
        return fm_streq(owner->network, net->spec.name);
    return net->configured && master == net->bridge_index;
}

static bool same_address(const struct fm_ip *a, const struct fm_ip *b)
{
    return a->family && fm_ip_equal(a, b);
}

int fm_owner_clashes(const struct fm_owner *owner, const struct fm_endpoint *ep,
                     const struct fm_port *port, struct fm_error *err)
{
    char text[FM_IP_TEXT];
    if (fm_streq(owner->name, ep->name)) {
        bool second = !owner->ips[1].family || same_address(&owner->ips[1], &port->ips[1]);
        bool network = !owner->network[0] || fm_streq(owner->network, port->net->spec.name);
        if (same_address(&owner->ips[0], &port->ips[0]) && second && network &&
            memcmp(owner->mac, port->mac, 6) == 0)
            return 0;
        return fm_error_set(err, FM_E_EXISTS,
                            "a container '%s' with address %s is on this host; remove it first",
                            owner->name, fm_ip_format(&owner->ips[0], text));
    }
    for (size_t i = 0; i < 4; i++)
        if (same_address(&owner->ips[i / 2], &port->ips[i % 2]))
            return fm_error_set(err, FM_E_EXISTS,
                                "address %s belongs to container '%s' on this host",
                                fm_ip_format(&owner->ips[i / 2], text), owner->name);
    if (memcmp(owner->mac, port->mac, 6) == 0)
        return fm_error_set(err, FM_E_EXISTS,
                            "MAC address %s belongs to container '%s' on this host", ep->mac,
                            owner->name);
    return 0;
}

/* ---- the list ---- */

static struct fm_resident **find(struct fm_fabric *fabric, const char *name)
{
    struct fm_resident **at = &fabric->residents;
    while (*at && !fm_streq((*at)->owner.name, name))
        at = &(*at)->next;
    return at;
}

static void take_out(struct fm_resident **at)
{
    struct fm_resident *gone = *at;
    *at = gone->next;
    free(gone);
}

static void put(struct fm_fabric *fabric, const struct fm_owner *owner, const char *host_if)
{
    struct fm_resident **at = find(fabric, owner->name);
    if (!*at)
        *at = fm_xcalloc(1, sizeof(**at));
    (*at)->owner = *owner;
    snprintf((*at)->host_if, sizeof((*at)->host_if), "%s", host_if);
}

static int take_link(const struct fm_link *link, void *ctx)
{
    struct fm_owner owner;
    if (fm_owner_parse(link->alias, &owner))
        put(ctx, &owner, link->name);
    return 0;
}

static int take_macvlan(const struct fm_macvlan_port *port, void *ctx)
{
    put(ctx, &port->owner, "");
    return 0;
}

int fm_residents_read(struct fm_fabric *fabric, struct fm_error *err)
{
    return fm_link_each(&fabric->slow, take_link, fabric, err);
}

void fm_residents_put(struct fm_fabric *fabric, const struct fm_endpoint *ep,
                      const struct fm_port *port)
{
    struct fm_owner owner = {.ips = {port->ips[0], port->ips[1]}};
    snprintf(owner.name, sizeof(owner.name), "%s", ep->name);
    snprintf(owner.network, sizeof(owner.network), "%s", port->net->spec.name);
    memcpy(owner.mac, port->mac, sizeof(owner.mac));
    put(fabric, &owner, port->net->spec.mode == FM_NETWORK_MACVLAN ? "" : ep->host_if);
}

void fm_residents_remove(struct fm_fabric *fabric, const char *name)
{
    struct fm_resident **at = find(fabric, name);
    if (*at)
        take_out(at);
}

void fm_residents_free(struct fm_fabric *fabric)
{
    while (fabric->residents)
        take_out(&fabric->residents);
}

/* ---- who is in the way ---- */

/* What its interface says now; false when it is gone, or nobody's. */
static bool look_again(struct fm_fabric *fabric, struct fm_resident *resident, int *master)
{
    struct fm_error ignored = {0};
    *master = 0;
    if (!resident->host_if[0]) {
        struct fm_macvlan_port port;
        bool there = fm_macvlan_look(fabric, resident->owner.name, &port);
        resident->owner = there ? port.owner : resident->owner;
        return there;
    }
    struct fm_link link;
    if (fm_link_by_name(&fabric->slow, resident->host_if, &link, &ignored) < 0)
        return false;
    *master = link.master;
    return fm_owner_parse(link.alias, &resident->owner);
}

/* Whose interface is to be compared: on a bridge its other ports, and among macvlans the others. */
static bool concerns(const struct fm_resident *resident, const struct fm_endpoint *ep,
                     const struct fm_net *net)
{
    bool macvlan = !resident->host_if[0];
    return macvlan == (net->spec.mode == FM_NETWORK_MACVLAN) &&
           (macvlan || !fm_streq(resident->host_if, ep->host_if));
}

int fm_residents_check(struct fm_fabric *fabric, const struct fm_endpoint *ep,
                       const struct fm_port *port, struct fm_error *err)
{
    bool macvlan = port->net->spec.mode == FM_NETWORK_MACVLAN;
    if (macvlan && !fabric->macvlans_read) {
        int rc = fm_macvlan_each(fabric, take_macvlan, fabric, err);
        if (rc < 0)
            return rc;
        fabric->macvlans_read = true;
    }
    for (struct fm_resident **at = &fabric->residents; *at;) {
        struct fm_resident *resident = *at;
        struct fm_error ignored = {0};
        int master;
        if (!concerns(resident, ep, port->net) ||
            fm_owner_clashes(&resident->owner, ep, port, &ignored) == 0) {
            at = &resident->next;
        } else if (!look_again(fabric, resident, &master)) {
            take_out(at);
        } else {
            int rc = macvlan || master == port->net->bridge_index
                         ? fm_owner_clashes(&resident->owner, ep, port, err)
                         : 0;
            if (rc < 0)
                return rc;
            at = &resident->next;
        }
    }
    return 0;
}
