#include "network/host_port.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "network/fdb.h"
#include "network/link.h"

#define IPV6_MTU_MIN 1280

/* While one is made. */
struct making {
    struct fm_nl *nl;
    const struct fm_host_port *want;
    uint8_t mac[6];
    struct fm_link bridge;
    struct fm_link inner, port; /* with the address, on the bridge; index 0: not there */
    char inner_name[16], port_name[16];
    char alias[256];
};

/* ---- names ---- */

/* The same digits as a container's interface of that name would have. */
static void name_end(const char *network, const char *prefix, char name[16])
{
    char base[16];
    fm_host_if_name(network, base);
    snprintf(name, 16, "%s%.8s", prefix, base + strlen("fm"));
}

void fm_host_port_name(const char *network, char name[16])
{
    name_end(network, "fmh", name);
}

void fm_host_port_mac(const struct fm_ip *address, const struct fm_ip *address6, uint8_t mac[6])
{
    fm_mac_from_ip(address->family ? address : address6, mac);
}

static const char *or_dash(const struct fm_ip *ip, char text[FM_IP_TEXT])
{
    return ip->family ? fm_ip_format(ip, text) : "-";
}

static void format_alias(const struct fm_host_port *want, char alias[256])
{
    char ip[FM_IP_TEXT], ip6[FM_IP_TEXT];
    snprintf(alias, 256, FM_HOST_PORT_ALIAS "%s %s %s", want->network, or_dash(&want->address, ip),
             or_dash(&want->address6, ip6));
}

static bool alias_is_ours(const char *alias, const char *network)
{
    fm_autofree char *start = fm_strf(FM_HOST_PORT_ALIAS "%s ", network);
    return fm_starts_with(alias, start);
}

/* ---- checks ---- */

static int check_address(const struct fm_host_port *want, const struct fm_ip *ip,
                         const struct fm_ip *subnet, struct fm_error *err)
{
    char text[FM_IP_TEXT], subnet_text[FM_IP_TEXT];
    if (!ip->family)
        return 0;
    fm_ip_format(ip, text);
    if (!subnet->family || !fm_ip_in_subnet(ip, subnet) || fm_ip_is_reserved(ip, subnet))
        return fm_error_set(err, FM_E_INVALID,
                            "address %s of this host is not one of the subnet %s", text,
                            subnet->family ? fm_ip_format_prefix(subnet, subnet_text) : "(none)");
    if (subnet->prefix > fm_ip_size(ip) * 8 - 2)
        return fm_error_set(err, FM_E_INVALID,
                            "subnet %s has no room for an address of this host; use a larger one",
                            fm_ip_format_prefix(subnet, subnet_text));
    if (ip->family == AF_INET6 && want->mtu < IPV6_MTU_MIN)
        return fm_error_set(err, FM_E_INVALID,
                            "IPv6 needs an MTU of %d or more, and this network has %d",
                            IPV6_MTU_MIN, want->mtu);
    return 0;
}

static int check_wishes(const struct fm_host_port *want, struct fm_error *err)
{
    int rc = check_address(want, &want->address, &want->subnet, err);
    if (rc == 0)
        rc = check_address(want, &want->address6, &want->subnet6, err);
    if (rc == 0 && !want->address.family && !want->address6.family)
        rc = fm_error_set(err, FM_E_INVALID, "this host has no address in the network");
    return rc;
}

/* Index 0 when there is none. */
static int look_up(struct fm_nl *nl, const char *name, struct fm_link *link, struct fm_error *err)
{
    struct fm_error here = {0};
    int rc = fm_link_by_name(nl, name, link, &here);
    if (rc == -FM_E_NOT_FOUND) {
        *link = (struct fm_link){0};
        return 0;
    }
    if (rc < 0 && err)
        *err = here;
    return rc;
}

static int check_owner(const struct fm_link *link, const char *network, struct fm_error *err)
{
    if (!link->index ||
        (fm_streq(link->kind, "veth") && (!link->alias[0] || alias_is_ours(link->alias, network))))
        return 0; /* without an alias a crash interrupted its making */
    return fm_error_set(err, FM_E_EXISTS,
                        "interface %s is there and is not ours; remove it (ip link del %s)",
                        link->name, link->name);
}

static int survey(struct making *m, struct fm_error *err)
{
    int rc = fm_link_by_name(m->nl, m->want->bridge, &m->bridge, err);
    if (rc == 0)
        rc = look_up(m->nl, m->inner_name, &m->inner, err);
    if (rc == 0)
        rc = look_up(m->nl, m->port_name, &m->port, err);
    if (rc == 0)
        rc = check_owner(&m->inner, m->want->network, err);
    if (rc == 0)
        rc = check_owner(&m->port, m->want->network, err);
    return rc;
}

/* ---- settings of the kernel that have no netlink request ---- */

struct setting {
    const char *family, *name, *value;
};

/* Missing is fine: a kernel without IPv6, or with that turned off. */
static void poke_settings(const char *interface, const struct setting *settings, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct fm_error ignored = {0};
        fm_autofree char *path =
            fm_strf("/proc/sys/net/%s/conf/%s/%s", settings[i].family, interface, settings[i].name);
        fm_autofree char *now = fm_file_line(path);
        if (now && !fm_streq(now, settings[i].value))
            fm_file_poke(path, settings[i].value, &ignored);
    }
}

static const struct setting bridge_settings[] = {
    {"ipv4", "arp_ignore", "1"}, /* else it answers for the host port's address, with its own MAC */
    {"ipv4", "rp_filter", "2"},  /* the way back to a container is through the host port */
    {"ipv6", "accept_ra", "0"},  /* a container is nobody's router */
};
static const struct setting inner_settings[] = {
    {"ipv4", "arp_ignore", "1"},   /* the gateway's address is the bridge's to answer for */
    {"ipv4", "arp_announce", "2"}, /* and must not be tied to this MAC by our own requests */
    {"ipv4", "rp_filter", "2"},    {"ipv4", "accept_redirects", "0"},
    {"ipv6", "accept_ra", "0"},    {"ipv6", "accept_redirects", "0"},
};

/* ---- making ---- */

static int delete_pair(struct fm_nl *nl, const struct fm_link *inner, const struct fm_link *port,
                       struct fm_error *err)
{
    struct fm_nl_batch batch = {0};
    if (inner->index)
        fm_link_put_delete(&batch, inner->index);
    if (port->index && !(inner->index && inner->peer == port->index))
        fm_link_put_delete(&batch, port->index);
    return fm_nl_run(nl, &batch, err);
}

static bool is_usable(const struct making *m)
{
    return m->inner.index && m->port.index && m->inner.peer == m->port.index &&
           m->port.peer == m->inner.index && fm_streq(m->inner.alias, m->alias) &&
           (!m->port.master || m->port.master == m->bridge.index);
}

/* Uses the pair that is there if it is whole and has this address, else makes a new one. */
static int provide_pair(struct making *m, struct fm_error *err)
{
    if (is_usable(m))
        return 0;
    int rc = delete_pair(m->nl, &m->inner, &m->port, err);
    if (rc < 0)
        return rc;
    fm_autoclose int here = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (here < 0)
        return fm_error_errno(err, errno, "cannot open this network namespace");
    struct fm_veth veth = {
        .name = m->inner_name, .peer = m->port_name, .peer_netns = here, .mtu = m->want->mtu};
    struct fm_nl_batch batch = {0};
    fm_link_put_veth(&batch, &veth);
    rc = fm_nl_run(m->nl, &batch, err);
    if (rc == 0)
        rc = fm_link_by_name(m->nl, m->inner_name, &m->inner, err);
    if (rc == 0)
        rc = fm_link_by_name(m->nl, m->port_name, &m->port, err);
    return rc;
}

static int plug_in(struct making *m, struct fm_error *err)
{
    struct fm_nl_batch batch = {0};
    if (memcmp(m->inner.mac, m->mac, sizeof(m->mac)) != 0)
        fm_link_put_mac(&batch, m->inner.index, m->mac);
    fm_link_put_quiet(&batch, m->inner.index);
    fm_link_put_quiet(&batch, m->port.index);
    fm_link_put_mtu(&batch, m->inner.index, m->want->mtu);
    fm_link_put_mtu(&batch, m->port.index, m->want->mtu);
    int rc = fm_nl_run(m->nl, &batch, err);
    if (rc < 0)
        return rc;
    /* Before they are up: nothing of what they say may be wrong. */
    poke_settings(m->want->bridge, bridge_settings, FM_COUNT(bridge_settings));
    poke_settings(m->inner_name, inner_settings, FM_COUNT(inner_settings));

    struct fm_port_flags flags = {.learning = false, .unicast_flood = false, .group_flood = true};
    fm_link_put_up(&batch, m->inner.index);
    fm_link_put_up(&batch, m->port.index);
    fm_link_put_master(&batch, m->port.index, m->bridge.index);
    fm_link_put_port_flags(&batch, m->port.index, &flags);
    fm_fdb_put_port(&batch, m->mac, m->port.index);
    return fm_nl_run(m->nl, &batch, err);
}

static void put_route(struct fm_nl_batch *batch, int index, const struct fm_ip *to,
                      const struct fm_ip *source)
{
    struct nlmsghdr *nlh = fm_nl_add(batch, "cannot add the route to a network", RTM_NEWROUTE,
                                     NLM_F_CREATE | NLM_F_REPLACE);
    struct rtmsg *info = mnl_nlmsg_put_extra_header(nlh, sizeof(*info));
    info->rtm_family = (uint8_t)to->family;
    info->rtm_dst_len = to->prefix;
    info->rtm_table = RT_TABLE_MAIN;
    info->rtm_protocol = RTPROT_STATIC;
    info->rtm_scope = to->family == AF_INET ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
    info->rtm_type = RTN_UNICAST;
    mnl_attr_put(nlh, RTA_DST, fm_ip_size(to), to->bytes);
    mnl_attr_put(nlh, RTA_PREFSRC, fm_ip_size(source), source->bytes);
    mnl_attr_put_u32(nlh, RTA_OIF, (uint32_t)index);
}

/* The address alone, and the subnet in halves. */
static void put_family(struct fm_nl_batch *batch, int index, const struct fm_ip *address,
                       const struct fm_ip *subnet)
{
    if (!address->family)
        return;
    struct fm_ip own = *address;
    own.prefix = (uint8_t)(fm_ip_size(address) * 8);
    fm_address_put(batch, index, &own);
    struct fm_ip half = *subnet;
    for (unsigned bit = half.prefix; bit < own.prefix; bit++)
        half.bytes[bit / 8] &= (uint8_t) ~(1 << (7 - bit % 8));
    half.prefix++;
    put_route(batch, index, &half, &own);
    half.bytes[subnet->prefix / 8] |= (uint8_t)(1 << (7 - subnet->prefix % 8));
    put_route(batch, index, &half, &own);
}

static int give_addresses(struct making *m, struct fm_error *err)
{
    const struct fm_host_port *want = m->want;
    int index = m->inner.index;
    struct fm_nl_batch batch = {0};
    put_family(&batch, index, &want->address, &want->subnet);
    if (want->address6.family == AF_INET6 || want->address.family == AF_INET6) {
        struct fm_ip link_local;
        fm_ip_link_local(m->mac, &link_local);
        fm_address_put(&batch, index, &link_local);
    }
    put_family(&batch, index, &want->address6, &want->subnet6);
    /* Last: with it the pair counts as finished. */
    fm_link_put_alias(&batch, index, m->alias);
    fm_link_put_alias(&batch, m->port.index, m->alias);
    return fm_nl_run(m->nl, &batch, err);
}

int fm_host_port_make(struct fm_nl *nl, const struct fm_host_port *port, uint8_t mac[6],
                      struct fm_error *err)
{
    struct making m = {.nl = nl, .want = port};
    int rc = check_wishes(port, err);
    if (rc == 0) {
        fm_host_port_mac(&port->address, &port->address6, m.mac);
        name_end(port->network, "fmh", m.inner_name);
        name_end(port->network, "fmp", m.port_name);
        format_alias(port, m.alias);
        rc = survey(&m, err);
    }
    if (rc == 0)
        rc = provide_pair(&m, err);
    if (rc == 0)
        rc = plug_in(&m, err);
    if (rc == 0)
        rc = give_addresses(&m, err);
    if (rc == 0)
        rc = fm_address_wait_heard(nl, m.inner.index, &port->address, err);
    if (rc == 0)
        rc = fm_address_wait_heard(nl, m.inner.index, &port->address6, err);
    if (rc < 0)
        return fm_error_prefix(err, "cannot give this host an address in network '%s'",
                               port->network);
    memcpy(mac, m.mac, sizeof(m.mac));
    return 0;
}

int fm_host_port_remove(struct fm_nl *nl, const char *network, struct fm_error *err)
{
    char inner_name[16], port_name[16];
    struct fm_link inner, port;
    struct fm_error ignored = {0};
    name_end(network, "fmh", inner_name);
    name_end(network, "fmp", port_name);
    int rc = look_up(nl, inner_name, &inner, err);
    if (rc == 0)
        rc = look_up(nl, port_name, &port, err);
    if (rc < 0)
        return fm_error_prefix(err, "cannot remove this host's address in network '%s'", network);
    if (check_owner(&inner, network, &ignored) < 0)
        inner.index = 0;
    if (check_owner(&port, network, &ignored) < 0)
        port.index = 0;
    rc = delete_pair(nl, &inner, &port, err);
    return rc < 0
               ? fm_error_prefix(err, "cannot remove this host's address in network '%s'", network)
               : 0;
}

/* ---- read back ---- */

struct address_walk {
    int index;
    struct fm_host_port_state *state;
};

static int take_address(const struct nlmsghdr *nlh, void *ctx)
{
    struct address_walk *walk = ctx;
    const struct ifaddrmsg *info = mnl_nlmsg_get_payload(nlh);
    if ((int)info->ifa_index != walk->index || info->ifa_scope == RT_SCOPE_LINK)
        return 0;
    const struct nlattr *attr;
    mnl_attr_for_each(attr, nlh, sizeof(*info))
    {
        struct fm_ip ip = {.family = info->ifa_family, .prefix = info->ifa_prefixlen};
        if (mnl_attr_get_type(attr) != IFA_ADDRESS ||
            mnl_attr_get_payload_len(attr) != fm_ip_size(&ip))
            continue;
        memcpy(ip.bytes, mnl_attr_get_payload(attr), fm_ip_size(&ip));
        if (ip.family == AF_INET)
            walk->state->address = ip;
        else
            walk->state->address6 = ip;
    }
    return 0;
}

int fm_host_port_read(struct fm_nl *nl, const char *network, struct fm_host_port_state *state,
                      struct fm_error *err)
{
    *state = (struct fm_host_port_state){0};
    char inner_name[16], port_name[16];
    struct fm_link inner, port;
    name_end(network, "fmh", inner_name);
    name_end(network, "fmp", port_name);
    int rc = look_up(nl, inner_name, &inner, err);
    if (rc == 0)
        rc = look_up(nl, port_name, &port, err);
    if (rc < 0 || !inner.index || !alias_is_ours(inner.alias, network))
        return rc;
    state->found =
        inner.peer == port.index && port.master && (inner.flags & IFF_UP) && (port.flags & IFF_UP);
    state->bridge = port.master;
    memcpy(state->mac, inner.mac, sizeof(state->mac));

    char buffer[64] __attribute__((aligned(8)));
    struct nlmsghdr *nlh = mnl_nlmsg_put_header(buffer);
    nlh->nlmsg_type = RTM_GETADDR;
    nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    mnl_nlmsg_put_extra_header(nlh, sizeof(struct ifaddrmsg));
    struct address_walk walk = {.index = inner.index, .state = state};
    return fm_nl_query(nl, nlh, take_address, &walk, err);
}
