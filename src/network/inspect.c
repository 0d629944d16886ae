/* Finding out how a running container is connected, from its namespace alone. */
#include "network/fabric.h"

#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "network/netns.h"
#include "network/networks.h"

struct inside {
    struct fm_link link; /* the interface with the address */
    struct fm_ip ips[2]; /* IPv4 and IPv6, or the only one and none */
    struct fm_ip gateways[2];
    unsigned connected; /* interfaces with an address */
    struct fm_nl nl;
    struct fm_link candidate;      /* while walking */
    struct fm_ip candidate_ips[2]; /* by family: the first one of each */
};

static int take_address(const struct nlmsghdr *nlh, void *ctx)
{
    struct inside *in = ctx;
    const struct ifaddrmsg *info = mnl_nlmsg_get_payload(nlh);
    if ((int)info->ifa_index != in->candidate.index || info->ifa_scope != RT_SCOPE_UNIVERSE ||
        (info->ifa_family != AF_INET && info->ifa_family != AF_INET6))
        return 0;
    struct fm_ip *first = &in->candidate_ips[info->ifa_family == AF_INET6];
    if (first->family)
        return 0;
    struct fm_ip ip = {.family = info->ifa_family, .prefix = info->ifa_prefixlen};
    const struct nlattr *attr;
    mnl_attr_for_each(attr, nlh, sizeof(*info))
    {
        uint16_t wanted = info->ifa_family == AF_INET ? IFA_LOCAL : IFA_ADDRESS;
        if (mnl_attr_get_type(attr) != wanted || mnl_attr_get_payload_len(attr) != fm_ip_size(&ip))
            continue;
        memcpy(ip.bytes, mnl_attr_get_payload(attr), fm_ip_size(&ip));
        *first = ip;
    }
    return 0;
}

static int take_default_route(const struct nlmsghdr *nlh, void *ctx)
{
    struct inside *in = ctx;
    const struct rtmsg *info = mnl_nlmsg_get_payload(nlh);
    if (info->rtm_dst_len != 0 || info->rtm_table != RT_TABLE_MAIN ||
        info->rtm_type != RTN_UNICAST ||
        (info->rtm_family != AF_INET && info->rtm_family != AF_INET6))
        return 0;
    struct fm_ip gateway = {.family = info->rtm_family};
    bool has_gateway = false;
    int interface = 0;
    const struct nlattr *attr;
    mnl_attr_for_each(attr, nlh, sizeof(*info))
    {
        if (mnl_attr_get_type(attr) == RTA_OIF)
            interface = (int)mnl_attr_get_u32(attr);
        if (mnl_attr_get_type(attr) == RTA_GATEWAY &&
            mnl_attr_get_payload_len(attr) == fm_ip_size(&gateway)) {
            memcpy(gateway.bytes, mnl_attr_get_payload(attr), fm_ip_size(&gateway));
            has_gateway = true;
        }
    }
    for (size_t i = 0; i < FM_COUNT(in->ips); i++)
        if (has_gateway && interface == in->link.index && in->ips[i].family == gateway.family)
            in->gateways[i] = gateway;
    return 0;
}

static int query(struct fm_nl *nl, uint16_t type, size_t header, fm_nl_each_fn each, void *ctx,
                 struct fm_error *err)
{
    char request[128] __attribute__((aligned(8)));
    struct nlmsghdr *nlh = mnl_nlmsg_put_header(request);
    nlh->nlmsg_type = type;
    nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    mnl_nlmsg_put_extra_header(nlh, header);
    return fm_nl_query(nl, nlh, each, ctx, err);
}

struct link_list {
    struct fm_link links[64];
    size_t count;
};

static int collect_link(const struct fm_link *link, void *ctx)
{
    struct link_list *list = ctx;
    bool usable = !(link->flags & IFF_LOOPBACK) && (link->flags & IFF_UP) && link->has_mac;
    if (usable && list->count < FM_COUNT(list->links))
        list->links[list->count++] = *link;
    return 0;
}

static int look_around(struct inside *in, struct fm_error *err)
{
    fm_autofree struct link_list *list = fm_xcalloc(1, sizeof(*list));
    int rc = fm_link_each(&in->nl, collect_link, list, err);
    for (size_t i = 0; rc == 0 && i < list->count; i++) {
        in->candidate = list->links[i];
        memset(in->candidate_ips, 0, sizeof(in->candidate_ips));
        rc = query(&in->nl, RTM_GETADDR, sizeof(struct ifaddrmsg), take_address, in, err);
        bool ipv4 = in->candidate_ips[0].family != 0;
        if (rc < 0 || (!ipv4 && !in->candidate_ips[1].family))
            continue;
        in->connected++;
        in->link = in->candidate;
        in->ips[0] = in->candidate_ips[ipv4 ? 0 : 1];
        in->ips[1] = ipv4 ? in->candidate_ips[1] : (struct fm_ip){0};
    }
    if (rc == 0 && in->connected)
        rc = query(&in->nl, RTM_GETROUTE, sizeof(struct rtmsg), take_default_route, in, err);
    return rc;
}

static int look_inside(void *ctx, struct fm_error *err)
{
    struct inside *in = ctx;
    int rc = fm_nl_open(&in->nl, err);
    if (rc < 0)
        return rc;
    rc = look_around(in, err);
    fm_nl_close(&in->nl);
    return rc;
}

/* The names that stage gave, when it was us who connected this container. */
static void take_own_names(struct fm_fabric *fabric, const struct fm_owner *owner,
                           const struct stat *netns, struct fm_endpoint *ep)
{
    snprintf(ep->name, sizeof(ep->name), "%s", owner->name);
    snprintf(ep->network, sizeof(ep->network), "%s", owner->network);
    fm_autofree char *pinned = fm_strf("%s/netns/%s", fabric->run_dir, owner->name);
    struct stat there;
    struct fm_error ignored = {0};
    if (fm_netns_identity(pinned, &there, &ignored) == 0 && there.st_ino == netns->st_ino &&
        there.st_dev == netns->st_dev)
        snprintf(ep->netns, sizeof(ep->netns), "%s", pinned);
}

static int find_host_side(struct fm_fabric *fabric, const struct inside *in, pid_t pid,
                          struct fm_link *host, struct fm_error *err)
{
    struct fm_error missing = {0};
    if (in->link.peer && fm_link_by_index(&fabric->slow, in->link.peer, host, &missing) == 0 &&
        fm_streq(host->kind, "veth") && host->peer == in->link.index)
        return 0;
    return fm_error_set(err, FM_E_REFUSED,
                        "interface %s of process %d is not a veth pair with its other end on this "
                        "host; only such can be moved",
                        in->link.name, (int)pid);
}

int fm_endpoint_inspect(struct fm_fabric *fabric, pid_t pid, struct fm_endpoint *ep, bool *found,
                        bool *host, struct fm_error *err)
{
    *ep = (struct fm_endpoint){0};
    *found = *host = false;
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
    struct stat netns;
    int rc = fm_netns_identity(path, &netns, err);
    if (rc < 0)
        return rc;
    if (netns.st_ino == fabric->netns.st_ino && netns.st_dev == fabric->netns.st_dev) {
        *host = true;
        return 0;
    }
    struct inside in = {0};
    rc = fm_netns_run(path, look_inside, &in, err);
    if (rc < 0 || !in.connected)
        return rc;
    if (in.connected > 1)
        return fm_error_set(err, FM_E_REFUSED,
                            "process %d has %u interfaces with addresses; only one can be moved",
                            (int)pid, in.connected);
    struct fm_owner owner;
    struct fm_link outside = {0};
    bool macvlan = fm_streq(in.link.kind, "macvlan") && fm_owner_parse(in.link.alias, &owner);
    if (!macvlan && (rc = find_host_side(fabric, &in, pid, &outside, err)) < 0)
        return rc;
    *found = true;
    fm_ip_format_prefix(&in.ips[0], ep->ip);
    if (in.ips[1].family)
        fm_ip_format_prefix(&in.ips[1], ep->ip6);
    fm_mac_format(in.link.mac, ep->mac);
    fm_ip_format(&in.gateways[0], ep->gateway);
    fm_ip_format(&in.gateways[1], ep->gateway6);
    snprintf(ep->ifname, sizeof(ep->ifname), "%s", in.link.name);
    snprintf(ep->netns, sizeof(ep->netns), "%s", path);
    if (macvlan)
        fm_host_if_name(owner.name, ep->host_if);
    else
        snprintf(ep->host_if, sizeof(ep->host_if), "%s", outside.name);
    if (macvlan || fm_owner_parse(outside.alias, &owner))
        take_own_names(fabric, &owner, &netns, ep);
    const struct fm_net *net = fm_net_of_bridge(fabric, outside.master, ep->network);
    if (net)
        snprintf(ep->network, sizeof(ep->network), "%s", net->spec.name);
    return 0;
}
