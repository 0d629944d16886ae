#include "network/link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <poll.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"

#define WAIT_UP_MS 2000
#define FIFO_HANDLE 0xf1f00000u

/* ---- requests ---- */

static struct nlmsghdr *add_link(struct fm_nl_batch *batch, const char *what, uint16_t type,
                                 uint16_t flags, int index)
{
    struct nlmsghdr *nlh = fm_nl_add(batch, what, type, flags);
    struct ifinfomsg *info = mnl_nlmsg_put_extra_header(nlh, sizeof(*info));
    info->ifi_index = index;
    return nlh;
}

static void put_bridge_data(struct nlmsghdr *nlh)
{
    struct nlattr *info = mnl_attr_nest_start(nlh, IFLA_LINKINFO);
    mnl_attr_put_strz(nlh, IFLA_INFO_KIND, "bridge");
    struct nlattr *data = mnl_attr_nest_start(nlh, IFLA_INFO_DATA);
    mnl_attr_put_u32(nlh, IFLA_BR_STP_STATE, 0);
    mnl_attr_put_u32(nlh, IFLA_BR_FORWARD_DELAY, 0);
    mnl_attr_put_u8(nlh, IFLA_BR_MCAST_SNOOPING, 0); /* no querier here: groups would time out */
    mnl_attr_nest_end(nlh, data);
    mnl_attr_nest_end(nlh, info);
}

void fm_link_put_bridge(struct fm_nl_batch *batch, const char *name, const uint8_t mac[6], int mtu)
{
    struct nlmsghdr *nlh =
        add_link(batch, "cannot make the bridge", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0);
    mnl_attr_put_strz(nlh, IFLA_IFNAME, name);
    mnl_attr_put(nlh, IFLA_ADDRESS, 6, mac);
    mnl_attr_put_u32(nlh, IFLA_MTU, (uint32_t)mtu);
    put_bridge_data(nlh);
}

void fm_link_put_bridge_settings(struct fm_nl_batch *batch, int index, const uint8_t mac[6],
                                 int mtu)
{
    struct nlmsghdr *nlh = add_link(batch, "cannot set up the bridge", RTM_NEWLINK, 0, index);
    if (mac)
        mnl_attr_put(nlh, IFLA_ADDRESS, 6, mac);
    mnl_attr_put_u32(nlh, IFLA_MTU, (uint32_t)mtu);
    put_bridge_data(nlh);
}

void fm_link_put_vxlan(struct fm_nl_batch *batch, const struct fm_vxlan *vxlan)
{
    struct nlmsghdr *nlh =
        add_link(batch, "cannot make the VXLAN device", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0);
    mnl_attr_put_strz(nlh, IFLA_IFNAME, vxlan->name);
    mnl_attr_put_u32(nlh, IFLA_MTU, (uint32_t)vxlan->mtu);
    struct nlattr *info = mnl_attr_nest_start(nlh, IFLA_LINKINFO);
    mnl_attr_put_strz(nlh, IFLA_INFO_KIND, "vxlan");
    struct nlattr *data = mnl_attr_nest_start(nlh, IFLA_INFO_DATA);
    mnl_attr_put_u32(nlh, IFLA_VXLAN_ID, vxlan->vni);
    mnl_attr_put_u16(nlh, IFLA_VXLAN_PORT, htons(vxlan->port));
    mnl_attr_put_u8(nlh, IFLA_VXLAN_LEARNING, 0);
    uint16_t local = vxlan->local->family == AF_INET6 ? IFLA_VXLAN_LOCAL6 : IFLA_VXLAN_LOCAL;
    mnl_attr_put(nlh, local, fm_ip_size(vxlan->local), vxlan->local->bytes);
    mnl_attr_nest_end(nlh, data);
    mnl_attr_nest_end(nlh, info);
}

void fm_link_put_veth(struct fm_nl_batch *batch, const struct fm_veth *veth)
{
    struct nlmsghdr *nlh =
        add_link(batch, "cannot make the veth pair", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0);
    mnl_attr_put_strz(nlh, IFLA_IFNAME, veth->name);
    mnl_attr_put_u32(nlh, IFLA_MTU, (uint32_t)veth->mtu);
    struct nlattr *info = mnl_attr_nest_start(nlh, IFLA_LINKINFO);
    mnl_attr_put_strz(nlh, IFLA_INFO_KIND, "veth");
    struct nlattr *data = mnl_attr_nest_start(nlh, IFLA_INFO_DATA);
    struct nlattr *peer = mnl_attr_nest_start(nlh, VETH_INFO_PEER);
    mnl_nlmsg_put_extra_header(nlh, sizeof(struct ifinfomsg));
    mnl_attr_put_strz(nlh, IFLA_IFNAME, veth->peer);
    mnl_attr_put_u32(nlh, IFLA_MTU, (uint32_t)veth->mtu);
    mnl_attr_put_u32(nlh, IFLA_NET_NS_FD, (uint32_t)veth->peer_netns);
    mnl_attr_nest_end(nlh, peer);
    mnl_attr_nest_end(nlh, data);
    mnl_attr_nest_end(nlh, info);
}

void fm_link_put_macvlan(struct fm_nl_batch *batch, const struct fm_macvlan *macvlan)
{
    struct nlmsghdr *nlh =
        add_link(batch, "cannot make the macvlan", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0);
    mnl_attr_put_strz(nlh, IFLA_IFNAME, macvlan->name);
    mnl_attr_put_u32(nlh, IFLA_LINK, (uint32_t)macvlan->parent);
    mnl_attr_put_u32(nlh, IFLA_MTU, (uint32_t)macvlan->mtu);
    if (macvlan->mac)
        mnl_attr_put(nlh, IFLA_ADDRESS, 6, macvlan->mac);
    if (macvlan->netns >= 0)
        mnl_attr_put_u32(nlh, IFLA_NET_NS_FD, (uint32_t)macvlan->netns);
    struct nlattr *info = mnl_attr_nest_start(nlh, IFLA_LINKINFO);
    mnl_attr_put_strz(nlh, IFLA_INFO_KIND, "macvlan");
    struct nlattr *data = mnl_attr_nest_start(nlh, IFLA_INFO_DATA);
    mnl_attr_put_u32(nlh, IFLA_MACVLAN_MODE,
                     macvlan->deaf ? MACVLAN_MODE_SOURCE : MACVLAN_MODE_BRIDGE);
    mnl_attr_nest_end(nlh, data);
    mnl_attr_nest_end(nlh, info);
}

void fm_link_put_macvlan_deaf(struct fm_nl_batch *batch, int index, bool deaf)
{
    struct nlmsghdr *nlh = add_link(batch, "cannot switch the macvlan", RTM_NEWLINK, 0, index);
    struct nlattr *info = mnl_attr_nest_start(nlh, IFLA_LINKINFO);
    mnl_attr_put_strz(nlh, IFLA_INFO_KIND, "macvlan");
    struct nlattr *data = mnl_attr_nest_start(nlh, IFLA_INFO_DATA);
    mnl_attr_put_u32(nlh, IFLA_MACVLAN_MODE, deaf ? MACVLAN_MODE_SOURCE : MACVLAN_MODE_BRIDGE);
    mnl_attr_nest_end(nlh, data);
    mnl_attr_nest_end(nlh, info);
}

void fm_link_put_fifo(struct fm_nl_batch *batch, int index, uint32_t frames)
{
    struct nlmsghdr *nlh = fm_nl_add(batch, "cannot set the queue of a link", RTM_NEWQDISC,
                                     NLM_F_CREATE | NLM_F_REPLACE);
    struct tcmsg *info = mnl_nlmsg_put_extra_header(nlh, sizeof(*info));
    info->tcm_family = AF_UNSPEC;
    info->tcm_ifindex = index;
    info->tcm_parent = TC_H_ROOT;
    info->tcm_handle = FIFO_HANDLE; /* the same one is changed in place, in no time */
    mnl_attr_put_strz(nlh, TCA_KIND, "pfifo");
    struct tc_fifo_qopt options = {.limit = frames};
    mnl_attr_put(nlh, TCA_OPTIONS, sizeof(options), &options);
}

void fm_link_put_delete(struct fm_nl_batch *batch, int index)
{
    add_link(batch, "cannot delete a link", RTM_DELLINK, 0, index);
    fm_nl_ignore(batch, ENODEV);
}

void fm_link_put_up(struct fm_nl_batch *batch, int index)
{
    struct nlmsghdr *nlh = add_link(batch, "cannot bring a link up", RTM_NEWLINK, 0, index);
    struct ifinfomsg *info = mnl_nlmsg_get_payload(nlh);
    info->ifi_flags = IFF_UP;
    info->ifi_change = IFF_UP;
}

void fm_link_put_master(struct fm_nl_batch *batch, int index, int master)
{
    struct nlmsghdr *nlh =
        add_link(batch, "cannot attach a link to the bridge", RTM_NEWLINK, 0, index);
    mnl_attr_put_u32(nlh, IFLA_MASTER, (uint32_t)master);
}

void fm_link_put_mac(struct fm_nl_batch *batch, int index, const uint8_t mac[6])
{
    struct nlmsghdr *nlh = add_link(batch, "cannot set a MAC address", RTM_NEWLINK, 0, index);
    mnl_attr_put(nlh, IFLA_ADDRESS, 6, mac);
}

void fm_link_put_mtu(struct fm_nl_batch *batch, int index, int mtu)
{
    struct nlmsghdr *nlh = add_link(batch, "cannot set an MTU", RTM_NEWLINK, 0, index);
    mnl_attr_put_u32(nlh, IFLA_MTU, (uint32_t)mtu);
}

void fm_link_put_queue(struct fm_nl_batch *batch, int index, uint32_t frames)
{
    struct nlmsghdr *nlh = add_link(batch, "cannot set a queue length", RTM_NEWLINK, 0, index);
    mnl_attr_put_u32(nlh, IFLA_TXQLEN, frames);
}

void fm_link_put_alias(struct fm_nl_batch *batch, int index, const char *alias)
{
    struct nlmsghdr *nlh = add_link(batch, "cannot name a link's owner", RTM_NEWLINK, 0, index);
    mnl_attr_put_strz(nlh, IFLA_IFALIAS, alias);
}

void fm_link_put_quiet(struct fm_nl_batch *batch, int index)
{
    struct nlmsghdr *nlh =
        add_link(batch, "cannot turn off link-local addresses", RTM_NEWLINK, 0, index);
    fm_nl_ignore(batch, EAFNOSUPPORT); /* a kernel without IPv6 */
    fm_nl_ignore(batch, EOPNOTSUPP);
    fm_nl_ignore(batch, EINVAL); /* MTU below 1280: no IPv6 there */
    struct nlattr *families = mnl_attr_nest_start(nlh, IFLA_AF_SPEC);
    struct nlattr *inet6 = mnl_attr_nest_start(nlh, AF_INET6);
    mnl_attr_put_u8(nlh, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
    mnl_attr_nest_end(nlh, inet6);
    mnl_attr_nest_end(nlh, families);
}

static struct nlmsghdr *add_port(struct fm_nl_batch *batch, const char *what, int index)
{
    struct nlmsghdr *nlh = add_link(batch, what, RTM_SETLINK, 0, index);
    struct ifinfomsg *info = mnl_nlmsg_get_payload(nlh);
    info->ifi_family = AF_BRIDGE;
    return nlh;
}

void fm_link_put_port_state(struct fm_nl_batch *batch, int index, uint8_t state)
{
    struct nlmsghdr *nlh = add_port(batch, "cannot set the state of a bridge port", index);
    struct nlattr *port = mnl_attr_nest_start(nlh, IFLA_PROTINFO);
    mnl_attr_put_u8(nlh, IFLA_BRPORT_STATE, state);
    mnl_attr_nest_end(nlh, port);
}

void fm_link_put_port_flags(struct fm_nl_batch *batch, int index, const struct fm_port_flags *flags)
{
    struct nlmsghdr *nlh = add_port(batch, "cannot set the flags of a bridge port", index);
    struct nlattr *port = mnl_attr_nest_start(nlh, IFLA_PROTINFO);
    mnl_attr_put_u8(nlh, IFLA_BRPORT_LEARNING, flags->learning);
    mnl_attr_put_u8(nlh, IFLA_BRPORT_UNICAST_FLOOD, flags->unicast_flood);
    mnl_attr_put_u8(nlh, IFLA_BRPORT_MCAST_FLOOD, flags->group_flood);
    mnl_attr_put_u8(nlh, IFLA_BRPORT_BCAST_FLOOD, flags->group_flood);
    mnl_attr_nest_end(nlh, port);
}

void fm_address_put(struct fm_nl_batch *batch, int index, const struct fm_ip *ip)
{
    struct nlmsghdr *nlh =
        fm_nl_add(batch, "cannot add an address", RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
    struct ifaddrmsg *info = mnl_nlmsg_put_extra_header(nlh, sizeof(*info));
    info->ifa_family = (uint8_t)ip->family;
    info->ifa_prefixlen = ip->prefix;
    info->ifa_index = (uint32_t)index;
    if (ip->family == AF_INET6) {
        info->ifa_flags =
            IFA_F_NODAD; /* usable at once: a restore binds to it within milliseconds */
        info->ifa_scope = ip->bytes[0] == 0xfe && ip->bytes[1] == 0x80 ? RT_SCOPE_LINK : 0;
        mnl_attr_put(nlh, IFA_ADDRESS, 16, ip->bytes);
        return;
    }
    struct fm_ip broadcast = *ip;
    for (unsigned bit = ip->prefix; bit < 32; bit++)
        broadcast.bytes[bit / 8] |= (uint8_t)(1 << (7 - bit % 8));
    mnl_attr_put(nlh, IFA_LOCAL, 4, ip->bytes);
    mnl_attr_put(nlh, IFA_ADDRESS, 4, ip->bytes);
    if (ip->prefix < 31)
        mnl_attr_put(nlh, IFA_BROADCAST, 4, broadcast.bytes);
}

void fm_route_put_default(struct fm_nl_batch *batch, int index, const struct fm_ip *gateway)
{
    struct nlmsghdr *nlh = fm_nl_add(batch, "cannot add the default route", RTM_NEWROUTE,
                                     NLM_F_CREATE | NLM_F_REPLACE);
    struct rtmsg *info = mnl_nlmsg_put_extra_header(nlh, sizeof(*info));
    info->rtm_family = (uint8_t)gateway->family;
    info->rtm_table = RT_TABLE_MAIN;
    info->rtm_protocol = RTPROT_STATIC;
    info->rtm_scope = RT_SCOPE_UNIVERSE;
    info->rtm_type = RTN_UNICAST;
    info->rtm_flags = RTNH_F_ONLINK;
    mnl_attr_put(nlh, RTA_GATEWAY, fm_ip_size(gateway), gateway->bytes);
    mnl_attr_put_u32(nlh, RTA_OIF, (uint32_t)index);
}

/* ---- links read back ---- */

static void parse_ip(const struct nlattr *attr, int family, struct fm_ip *ip)
{
    ip->family = family;
    if (mnl_attr_get_payload_len(attr) == fm_ip_size(ip))
        memcpy(ip->bytes, mnl_attr_get_payload(attr), fm_ip_size(ip));
    ip->prefix = (uint8_t)(fm_ip_size(ip) * 8);
}

static void parse_vxlan(const struct nlattr *data, struct fm_link *link)
{
    const struct nlattr *attr;
    mnl_attr_for_each_nested(attr, data)
    {
        switch (mnl_attr_get_type(attr)) {
        case IFLA_VXLAN_ID:
            link->vxlan.vni = mnl_attr_get_u32(attr);
            break;
        case IFLA_VXLAN_PORT:
            link->vxlan.port = ntohs(mnl_attr_get_u16(attr));
            break;
        case IFLA_VXLAN_LOCAL:
            parse_ip(attr, AF_INET, &link->vxlan.local);
            break;
        case IFLA_VXLAN_LOCAL6:
            parse_ip(attr, AF_INET6, &link->vxlan.local);
            break;
        default:
            break;
        }
    }
}

static void parse_bridge(const struct nlattr *data, struct fm_link *link)
{
    const struct nlattr *attr;
    mnl_attr_for_each_nested(attr, data)
    {
        if (mnl_attr_get_type(attr) == IFLA_BR_STP_STATE)
            link->stp = mnl_attr_get_u32(attr) != 0;
    }
}

static void parse_macvlan(const struct nlattr *data, struct fm_link *link)
{
    const struct nlattr *attr;
    mnl_attr_for_each_nested(attr, data)
    {
        if (mnl_attr_get_type(attr) == IFLA_MACVLAN_MODE)
            link->deaf = mnl_attr_get_u32(attr) == MACVLAN_MODE_SOURCE;
    }
}

static void parse_info(const struct nlattr *info, struct fm_link *link)
{
    const struct nlattr *attr;
    const struct nlattr *data = NULL;
    const struct nlattr *port = NULL;
    bool bridge_port = false;
    mnl_attr_for_each_nested(attr, info)
    {
        switch (mnl_attr_get_type(attr)) {
        case IFLA_INFO_KIND:
            snprintf(link->kind, sizeof(link->kind), "%s", mnl_attr_get_str(attr));
            break;
        case IFLA_INFO_DATA:
            data = attr;
            break;
        case IFLA_INFO_SLAVE_KIND:
            bridge_port = fm_streq(mnl_attr_get_str(attr), "bridge");
            break;
        case IFLA_INFO_SLAVE_DATA:
            port = attr;
            break;
        default:
            break;
        }
    }
    if (data && fm_streq(link->kind, "vxlan"))
        parse_vxlan(data, link);
    if (data && fm_streq(link->kind, "bridge"))
        parse_bridge(data, link);
    if (data && fm_streq(link->kind, "macvlan"))
        parse_macvlan(data, link);
    if (!port || !bridge_port)
        return;
    mnl_attr_for_each_nested(attr, port)
    {
        if (mnl_attr_get_type(attr) == IFLA_BRPORT_STATE)
            link->port_state = mnl_attr_get_u8(attr);
    }
}

static void parse_link(const struct nlmsghdr *nlh, struct fm_link *link)
{
    const struct ifinfomsg *info = mnl_nlmsg_get_payload(nlh);
    *link = (struct fm_link){.index = info->ifi_index, .flags = info->ifi_flags};
    const struct nlattr *attr;
    mnl_attr_for_each(attr, nlh, sizeof(*info))
    {
        switch (mnl_attr_get_type(attr)) {
        case IFLA_IFNAME:
            snprintf(link->name, sizeof(link->name), "%s", mnl_attr_get_str(attr));
            break;
        case IFLA_IFALIAS:
            snprintf(link->alias, sizeof(link->alias), "%s", mnl_attr_get_str(attr));
            break;
        case IFLA_ADDRESS:
            link->has_mac = mnl_attr_get_payload_len(attr) == 6;
            if (link->has_mac)
                memcpy(link->mac, mnl_attr_get_payload(attr), 6);
            break;
        case IFLA_MTU:
            link->mtu = (int)mnl_attr_get_u32(attr);
            break;
        case IFLA_MASTER:
            link->master = (int)mnl_attr_get_u32(attr);
            break;
        case IFLA_LINK:
            link->peer = (int)mnl_attr_get_u32(attr);
            break;
        case IFLA_OPERSTATE:
            link->operstate = mnl_attr_get_u8(attr);
            break;
        case IFLA_LINKINFO:
            parse_info(attr, link);
            break;
        default:
            break;
        }
    }
}

static int take_link(const struct nlmsghdr *nlh, void *ctx)
{
    if (nlh->nlmsg_type == RTM_NEWLINK)
        parse_link(nlh, ctx);
    return 0;
}

static int get_link(struct fm_nl *nl, const char *name, int index, struct fm_link *link,
                    struct fm_error *err)
{
    char request[256] __attribute__((aligned(8)));
    struct nlmsghdr *nlh = mnl_nlmsg_put_header(request);
    nlh->nlmsg_type = RTM_GETLINK;
    nlh->nlmsg_flags = NLM_F_REQUEST;
    struct ifinfomsg *info = mnl_nlmsg_put_extra_header(nlh, sizeof(*info));
    info->ifi_index = index;
    if (name)
        mnl_attr_put_strz(nlh, IFLA_IFNAME, name);
    *link = (struct fm_link){0};

    struct fm_error here = {0};
    int rc = fm_nl_query(nl, nlh, take_link, link, &here);
    if (rc < 0 && here.sys_errno == ENODEV)
        return name ? fm_error_set(err, FM_E_NOT_FOUND, "there is no interface '%s'", name)
                    : fm_error_set(err, FM_E_NOT_FOUND, "there is no interface %d", index);
    if (rc < 0 && err)
        *err = here;
    return rc;
}

int fm_link_by_name(struct fm_nl *nl, const char *name, struct fm_link *link, struct fm_error *err)
{
    return get_link(nl, name, 0, link, err);
}

int fm_link_by_index(struct fm_nl *nl, int index, struct fm_link *link, struct fm_error *err)
{
    return get_link(nl, NULL, index, link, err);
}

struct walk {
    fm_link_each_fn each;
    void *ctx;
};

static int step_link(const struct nlmsghdr *nlh, void *ctx)
{
    const struct walk *walk = ctx;
    struct fm_link link;
    parse_link(nlh, &link);
    return walk->each(&link, walk->ctx);
}

int fm_link_each(struct fm_nl *nl, fm_link_each_fn each, void *ctx, struct fm_error *err)
{
    char request[64] __attribute__((aligned(8)));
    struct nlmsghdr *nlh = mnl_nlmsg_put_header(request);
    nlh->nlmsg_type = RTM_GETLINK;
    nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    mnl_nlmsg_put_extra_header(nlh, sizeof(struct ifinfomsg));
    mnl_attr_put_u32(nlh, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS); /* most of an answer otherwise */
    struct walk walk = {each, ctx};
    return fm_nl_query(nl, nlh, step_link, &walk, err);
}

/* ---- waiting ---- */

static struct mnl_socket *listen_to(unsigned groups, struct fm_error *err)
{
    struct mnl_socket *news = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    if (news && mnl_socket_bind(news, groups, MNL_SOCKET_AUTOPID) == 0)
        return news;
    fm_error_errno(err, errno, "cannot listen to changes of interfaces");
    if (news)
        mnl_socket_close(news);
    return NULL;
}

/* False at the deadline. */
static bool wait_for_news(struct mnl_socket *news, uint64_t deadline)
{
    uint64_t now = fm_now_ms();
    struct pollfd wait = {.fd = mnl_socket_get_fd(news), .events = POLLIN};
    if (now >= deadline || poll(&wait, 1, (int)(deadline - now)) == 0)
        return false;
    char buffer[8192];
    mnl_socket_recvfrom(news, buffer, sizeof(buffer)); /* an overrun only wakes us as well */
    return true;
}

int fm_link_wait_up(struct fm_nl *nl, int index, struct fm_error *err)
{
    struct mnl_socket *news = listen_to(RTMGRP_LINK, err);
    if (!news)
        return fm_error_result(err);
    uint64_t deadline = fm_now_ms() + WAIT_UP_MS;
    int rc = 0;
    for (;;) {
        struct fm_link link;
        rc = fm_link_by_index(nl, index, &link, err);
        if (rc < 0 || ((link.flags & IFF_UP) &&
                       (link.operstate == IF_OPER_UP ||
                        (link.operstate == IF_OPER_UNKNOWN && (link.flags & IFF_LOWER_UP)))))
            break;
        if (wait_for_news(news, deadline))
            continue;
        rc = fm_error_set(err, FM_E_TIMEOUT, "interface %s did not come up", link.name);
        break;
    }
    mnl_socket_close(news);
    return rc;
}

struct group_search {
    int index;
    uint8_t group[16];
    bool found;
};

static int match_group(const struct nlmsghdr *nlh, void *ctx)
{
    struct group_search *search = ctx;
    const struct ifaddrmsg *info = mnl_nlmsg_get_payload(nlh);
    if ((int)info->ifa_index != search->index)
        return 0;
    const struct nlattr *attr;
    mnl_attr_for_each(attr, nlh, sizeof(*info))
    {
        if (mnl_attr_get_type(attr) == IFA_MULTICAST && mnl_attr_get_payload_len(attr) == 16 &&
            memcmp(mnl_attr_get_payload(attr), search->group, 16) == 0)
            search->found = true;
    }
    return 0;
}

/* Whether the interface is in the group that solicitations for the address are sent to (RFC 4291,
 * section 2.7.1). */
static int hears_solicitations(struct fm_nl *nl, int index, const struct fm_ip *ip, bool *hears,
                               struct fm_error *err)
{
    struct group_search search = {index, {0xff, 0x02, [11] = 1, [12] = 0xff}, false};
    memcpy(search.group + 13, ip->bytes + 13, 3);
    char request[64] __attribute__((aligned(8)));
    struct nlmsghdr *nlh = mnl_nlmsg_put_header(request);
    nlh->nlmsg_type = RTM_GETMULTICAST;
    nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    struct ifaddrmsg *info = mnl_nlmsg_put_extra_header(nlh, sizeof(*info));
    info->ifa_family = AF_INET6;
    int rc = fm_nl_query(nl, nlh, match_group, &search, err);
    *hears = search.found;
    return rc;
}

int fm_address_wait_heard(struct fm_nl *nl, int index, const struct fm_ip *ip, struct fm_error *err)
{
    if (ip->family != AF_INET6)
        return 0;
    struct mnl_socket *news = listen_to(RTMGRP_IPV6_IFADDR, err);
    if (!news)
        return fm_error_result(err);
    uint64_t deadline = fm_now_ms() + WAIT_UP_MS;
    bool hears = false;
    int rc;
    do
        rc = hears_solicitations(nl, index, ip, &hears, err);
    while (rc == 0 && !hears && wait_for_news(news, deadline));
    mnl_socket_close(news);
    return rc;
}
