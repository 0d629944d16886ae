/* Neighbours: the link-layer addresses that a container knows. They move with it: else its first
 * packet on the new host waits for ARP, which nobody hears while the port is still closed, and
 * which is asked again only a second later. */
#include "network/fabric.h"

#include <arpa/inet.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>

#include "base/cleanup.h"
#include "network/netlink.h"
#include "network/netns.h"

#define MAX_NEIGHBOURS 512
#define KNOWN (NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT)

/* One visit to a namespace: `list` is filled by reading, or written. */
struct visit {
    const struct fm_endpoint *ep;
    json_t *list;
    int ifindex;
};

static size_t address_size(int family)
{
    return family == AF_INET ? 4 : 16;
}

static int take_neighbour(const struct nlmsghdr *nlh, void *ctx)
{
    struct visit *v = ctx;
    const struct ndmsg *nd = mnl_nlmsg_get_payload(nlh);
    const void *address = NULL, *mac = NULL;
    struct nlattr *attr;
    if (nd->ndm_ifindex != v->ifindex || !(nd->ndm_state & KNOWN) ||
        (nd->ndm_family != AF_INET && nd->ndm_family != AF_INET6) ||
        json_array_size(v->list) >= MAX_NEIGHBOURS)
        return 0;
    mnl_attr_for_each(attr, nlh, sizeof(*nd))
    {
        if (mnl_attr_get_type(attr) == NDA_DST &&
            mnl_attr_get_payload_len(attr) == address_size(nd->ndm_family))
            address = mnl_attr_get_payload(attr);
        if (mnl_attr_get_type(attr) == NDA_LLADDR && mnl_attr_get_payload_len(attr) == 6)
            mac = mnl_attr_get_payload(attr);
    }
    char ip_text[INET6_ADDRSTRLEN], mac_text[FM_MAC_TEXT];
    if (!address || !mac || !inet_ntop(nd->ndm_family, address, ip_text, sizeof(ip_text)))
        return 0;
    fm_mac_format(mac, mac_text);
    json_array_append_new(v->list, json_pack("{s:s, s:s}", "ip", ip_text, "mac", mac_text));
    return 0;
}

static int find_interface(struct visit *v, struct fm_error *err)
{
    v->ifindex = (int)if_nametoindex(v->ep->ifname);
    return v->ifindex ? 0
                      : fm_error_set(err, FM_E_NOT_FOUND,
                                     "no interface %s in the container's namespace", v->ep->ifname);
}

static int read_neighbours(void *ctx, struct fm_error *err)
{
    struct visit *v = ctx;
    struct fm_nl nl;
    int rc = find_interface(v, err);
    if (rc == 0)
        rc = fm_nl_open(&nl, err);
    if (rc < 0)
        return rc;
    char buf[MNL_NLMSG_HDRLEN + sizeof(struct ndmsg)] __attribute__((aligned(8)));
    struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
    nlh->nlmsg_type = RTM_GETNEIGH;
    nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    mnl_nlmsg_put_extra_header(nlh, sizeof(struct ndmsg));
    rc = fm_nl_query(&nl, nlh, take_neighbour, v, err);
    fm_nl_close(&nl);
    return rc;
}

/* An entry that is no address (a hostile peer's) is left out. STALE is used at once and confirmed
 * later. */
static void put_neighbour(struct fm_nl_batch *batch, int ifindex, const json_t *entry)
{
    const char *ip = json_string_value(json_object_get(entry, "ip"));
    const char *mac_text = json_string_value(json_object_get(entry, "mac"));
    uint8_t address[16], mac[6];
    if (!ip || !mac_text || fm_mac_parse(mac_text, mac, NULL) < 0)
        return;
    int family = strchr(ip, ':') ? AF_INET6 : AF_INET;
    if (inet_pton(family, ip, address) != 1)
        return;
    struct nlmsghdr *nlh =
        fm_nl_add(batch, "cannot enter a neighbour", RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
    struct ndmsg *nd = mnl_nlmsg_put_extra_header(nlh, sizeof(*nd));
    nd->ndm_family = (uint8_t)family;
    nd->ndm_ifindex = ifindex;
    nd->ndm_state = NUD_STALE;
    mnl_attr_put(nlh, NDA_DST, address_size(family), address);
    mnl_attr_put(nlh, NDA_LLADDR, sizeof(mac), mac);
}

static int write_neighbours(void *ctx, struct fm_error *err)
{
    struct visit *v = ctx;
    struct fm_nl nl;
    struct fm_nl_batch batch = {0};
    int rc = find_interface(v, err);
    if (rc == 0)
        rc = fm_nl_open(&nl, err);
    if (rc < 0)
        return rc;
    size_t count = json_array_size(v->list);
    for (size_t i = 0; rc == 0 && i < count && i < MAX_NEIGHBOURS; i++) {
        put_neighbour(&batch, v->ifindex, json_array_get(v->list, i));
        if (batch.count == FM_NL_BATCH_COUNT)
            rc = fm_nl_run(&nl, &batch, err);
    }
    if (rc == 0 && batch.count)
        rc = fm_nl_run(&nl, &batch, err);
    fm_nl_close(&nl);
    return rc;
}

int fm_neighbours_read(const struct fm_endpoint *ep, json_t **list, struct fm_error *err)
{
    struct visit v = {.ep = ep, .list = json_array()};
    int rc = fm_netns_run(ep->netns, read_neighbours, &v, err);
    *list = v.list;
    return rc;
}

int fm_neighbours_write(const struct fm_endpoint *ep, json_t *list, struct fm_error *err)
{
    struct visit v = {.ep = ep, .list = list};
    return json_array_size(list) ? fm_netns_run(ep->netns, write_neighbours, &v, err) : 0;
}
