/* What the kernel has of the networks, for those who compare it with what should be. */
#include "network/fabric.h"

#include <linux/if.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "network/macvlan.h"
#include "network/networks.h"

/* One look at everything; the networks then pick theirs. */
struct picture {
    struct fm_link *links;
    size_t link_count;
    struct fm_fdb_entry *entries;
    size_t entry_count;
    struct fm_macvlan_port *macvlans;
    size_t macvlan_count;
};

static void picture_free(struct picture *p)
{
    free(p->links);
    free(p->entries);
    free(p->macvlans);
}

/* Room for one more; the capacity is the next power of two. */
static void *grow(void *array, size_t count, size_t size)
{
    bool full = (count & (count - 1)) == 0;
    return full ? fm_xrealloc(array, (count ? 2 * count : 1) * size) : array;
}

static int keep_link(const struct fm_link *link, void *ctx)
{
    struct picture *p = ctx;
    p->links = grow(p->links, p->link_count, sizeof(*link));
    p->links[p->link_count++] = *link;
    return 0;
}

static int keep_entry(const struct fm_fdb_entry *entry, void *ctx)
{
    struct picture *p = ctx;
    p->entries = grow(p->entries, p->entry_count, sizeof(*entry));
    p->entries[p->entry_count++] = *entry;
    return 0;
}

static int keep_macvlan(const struct fm_macvlan_port *port, void *ctx)
{
    struct picture *p = ctx;
    p->macvlans = grow(p->macvlans, p->macvlan_count, sizeof(*port));
    p->macvlans[p->macvlan_count++] = *port;
    return 0;
}

static const struct fm_fdb_entry *entry_of(const struct picture *p, const uint8_t mac[6],
                                           int bridge)
{
    for (size_t i = 0; i < p->entry_count; i++)
        if (p->entries[i].bridge == bridge && memcmp(p->entries[i].mac, mac, 6) == 0)
            return &p->entries[i];
    return NULL;
}

/* ---- one network ---- */

static json_t *describe_devices(const struct picture *p, const struct fm_net *net)
{
    json_t *devices = json_array();
    for (size_t i = 0; i < p->link_count; i++) {
        const struct fm_link *link = &p->links[i];
        if (link->index != net->bridge_index && link->index != net->vxlan_index &&
            link->index != net->parent_index)
            continue;
        json_t *device = json_pack("{s:s, s:s, s:i, s:b}", "name", link->name, "kind", link->kind,
                                   "mtu", link->mtu, "up", (link->flags & IFF_UP) != 0);
        if (link->index == net->vxlan_index) {
            json_object_set_new(device, "vni", json_integer(link->vxlan.vni));
            json_object_set_new(device, "attached",
                                json_boolean(link->master == net->bridge_index));
        }
        json_array_append_new(devices, device);
    }
    return devices;
}

/* A remote counts when the bridge sends its frames to the VXLAN device as well; the hosts that get
 * broadcasts are the peers. */
static void describe_remotes(const struct picture *p, const struct fm_net *net, json_t *remotes,
                             json_t *peers)
{
    static const uint8_t all_zero[6];
    for (size_t i = 0; net->vxlan_index && i < p->entry_count; i++) {
        const struct fm_fdb_entry *entry = &p->entries[i];
        if (entry->index != net->vxlan_index || entry->bridge || !entry->host.family)
            continue;
        char host[FM_IP_TEXT];
        char mac[FM_MAC_TEXT];
        fm_ip_format(&entry->host, host);
        if (memcmp(entry->mac, all_zero, 6) == 0) {
            json_array_append_new(peers, json_string(host));
            continue;
        }
        const struct fm_fdb_entry *forwarding = entry_of(p, entry->mac, net->bridge_index);
        if (forwarding && forwarding->index == net->vxlan_index)
            json_array_append_new(remotes, json_pack("{s:s, s:s}", "mac",
                                                     fm_mac_format(entry->mac, mac), "host", host));
    }
}

static json_t *describe_port(const struct fm_owner *owner, bool open)
{
    char ip[FM_IP_TEXT];
    char ip6[FM_IP_TEXT];
    char mac[FM_MAC_TEXT];
    return json_pack("{s:s, s:s, s:s, s:s, s:b}", "container", owner->name, "ip",
                     fm_ip_format(&owner->ips[0], ip), "ip6", fm_ip_format(&owner->ips[1], ip6),
                     "mac", fm_mac_format(owner->mac, mac), "open", open);
}

static json_t *describe_ports(const struct picture *p, const struct fm_net *net)
{
    json_t *ports = json_array();
    struct fm_owner owner;
    for (size_t i = 0; net->bridge_index && i < p->link_count; i++) {
        const struct fm_link *link = &p->links[i];
        if (link->master != net->bridge_index || !fm_owner_parse(link->alias, &owner) ||
            !fm_owner_in(&owner, net, link->master))
            continue;
        const struct fm_fdb_entry *forwarding = entry_of(p, owner.mac, net->bridge_index);
        bool heard = (forwarding && forwarding->index == link->index) ||
                     net->spec.mode == FM_NETWORK_BRIDGE; /* there the entry ages */
        json_array_append_new(ports,
                              describe_port(&owner, link->port_state == FM_PORT_OPEN && heard));
    }
    for (size_t i = 0; i < p->macvlan_count; i++)
        if (fm_streq(p->macvlans[i].owner.network, net->spec.name))
            json_array_append_new(ports, describe_port(&p->macvlans[i].owner, p->macvlans[i].open));
    return ports;
}

static json_t *describe_net(const struct picture *p, const struct fm_net *net)
{
    static const char *const modes[] = {"overlay", "bridge", "macvlan"};
    json_t *remotes = json_array();
    json_t *peers = json_array();
    describe_remotes(p, net, remotes, peers);
    return json_pack("{s:s, s:s, s:i, s:o, s:o, s:o, s:o}", "name", net->spec.name, "mode",
                     modes[net->spec.mode], "mtu", net->mtu, "devices", describe_devices(p, net),
                     "remotes", remotes, "peers", peers, "ports", describe_ports(p, net));
}

json_t *fm_fabric_describe(struct fm_fabric *fabric, struct fm_error *err)
{
    struct picture picture fm_cleanup(picture_free) = {0};
    size_t count;
    fm_autofree struct fm_net *nets = fm_net_list(fabric, &count);
    bool macvlan = false;
    for (size_t i = 0; i < count; i++)
        macvlan |= nets[i].spec.mode == FM_NETWORK_MACVLAN;
    int rc = fm_link_each(&fabric->slow, keep_link, &picture, err);
    if (rc == 0)
        rc = fm_fdb_each(&fabric->slow, keep_entry, &picture, err);
    if (rc == 0 && macvlan)
        rc = fm_macvlan_each(fabric, keep_macvlan, &picture, err);
    if (rc < 0)
        return NULL;
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, describe_net(&picture, &nets[i]));
    return json_pack("{s:o}", "networks", list);
}
