/* The bridge and the VXLAN device of this host. */
#include "network/fabric.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "network/netns.h"
#include "network/outbox.h"
#include "network/redirector.h"

#define VXLAN_OVERHEAD_IPV4 50
#define VXLAN_OVERHEAD_IPV6 70
#define DEFAULT_MTU 1500

/* ---- outboxes ---- */

struct fm_staged {
    struct fm_staged *next;
    int port;
    int outbox;
};

int fm_outbox_take(struct fm_fabric *fabric, int port)
{
    int outbox = -1;
    pthread_mutex_lock(&fabric->lock);
    for (struct fm_staged **at = &fabric->staged; *at; at = &(*at)->next) {
        struct fm_staged *staged = *at;
        if (staged->port != port)
            continue;
        outbox = staged->outbox;
        *at = staged->next;
        free(staged);
        break;
    }
    pthread_mutex_unlock(&fabric->lock);
    return outbox;
}

void fm_outbox_drop(struct fm_fabric *fabric, int port)
{
    int outbox = fm_outbox_take(fabric, port);
    if (outbox >= 0)
        close(outbox);
}

int fm_outbox_start(struct fm_fabric *fabric, int port, struct fm_error *err)
{
    fm_outbox_drop(fabric, port);
    fm_autoclose int outbox = fm_outbox_open(err);
    if (outbox < 0)
        return outbox;
    int rc = fm_outbox_collect(outbox, port, err);
    if (rc < 0)
        return rc;
    struct fm_staged *staged = fm_xcalloc(1, sizeof(*staged));
    *staged = (struct fm_staged){.port = port, .outbox = FM_MOVE_FD(outbox)};
    pthread_mutex_lock(&fabric->lock);
    staged->next = fabric->staged;
    fabric->staged = staged;
    pthread_mutex_unlock(&fabric->lock);
    return 0;
}

/* ---- opening ---- */

static int check_if_name(const char *what, const char *name, struct fm_error *err)
{
    size_t len = strlen(name);
    if (len == 0 || len >= IFNAMSIZ || strpbrk(name, "/: \t%"))
        return fm_error_set(err, FM_E_INVALID, "%s '%s' is not an interface name", what, name);
    return 0;
}

static int take_config(struct fm_fabric *fabric, const struct fm_fabric_config *config,
                       struct fm_error *err)
{
    int rc = check_if_name("bridge", config->bridge, err);
    if (rc == 0)
        rc = check_if_name("vxlan", config->vxlan, err);
    if (rc == 0)
        rc = fm_ip_parse("subnet", config->subnet, &fabric->subnet, err);
    if (rc < 0)
        return rc;
    fabric->run_dir = fm_xstrdup(config->run_dir);
    snprintf(fabric->bridge, sizeof(fabric->bridge), "%s", config->bridge);
    snprintf(fabric->vxlan, sizeof(fabric->vxlan), "%s", config->vxlan);
    fabric->vni = config->vni;
    fabric->port = config->port ? config->port : 4789;
    fabric->has_vxlan = config->underlay != NULL;
    fabric->has_gateway = config->gateway != NULL;
    if (fabric->has_vxlan &&
        (rc = fm_ip_parse("underlay address", config->underlay, &fabric->underlay, err)) < 0)
        return rc;
    if (!fabric->has_gateway)
        return 0;
    rc = fm_ip_parse("gateway", config->gateway, &fabric->gateway, err);
    if (rc < 0)
        return rc;
    fabric->gateway.prefix = fabric->subnet.prefix;
    if (!fm_ip_in_subnet(&fabric->gateway, &fabric->subnet))
        return fm_error_set(err, FM_E_INVALID, "gateway %s is outside of the subnet %s",
                            config->gateway, config->subnet);
    return 0;
}

static int open_sockets(struct fm_fabric *fabric, struct fm_error *err)
{
    int rc = fm_nl_open(&fabric->fast, err);
    if (rc == 0)
        rc = fm_nl_open(&fabric->slow, err);
    if (rc == 0)
        rc = fm_netns_identity("/proc/thread-self/ns/net", &fabric->netns, err);
    if (rc < 0)
        return rc;
    fabric->packet_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fabric->packet_fd < 0)
        return fm_error_errno(err, errno, "cannot open a packet socket");
    return 0;
}

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

/* The MTU inside the tunnel follows from the interface that carries the underlay address. */
static int find_mtu(struct fm_fabric *fabric, int configured, struct fm_error *err)
{
    fabric->mtu = configured ? configured : DEFAULT_MTU;
    if (!fabric->has_vxlan)
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
    if (rc < 0 || configured)
        return rc;
    bool ipv6 = fabric->underlay.family == AF_INET6;
    fabric->mtu = link.mtu - (ipv6 ? VXLAN_OVERHEAD_IPV6 : VXLAN_OVERHEAD_IPV4);
    return 0;
}

static int random_mac(uint8_t mac[6], struct fm_error *err)
{
    if (getrandom(mac, 6, 0) != 6)
        return fm_error_errno(err, errno, "cannot get random numbers");
    mac[0] = (uint8_t)((mac[0] & 0xfc) | 2);
    return 0;
}

static int open_bridge(struct fm_fabric *fabric, struct fm_error *err)
{
    /* Set explicitly, else it follows the ports as they come and go. */
    uint8_t mac[6];
    int rc = 0;
    if (fabric->has_gateway)
        fm_mac_of_gateway(&fabric->gateway, mac);
    else
        rc = random_mac(mac, err);
    if (rc < 0)
        return rc;
    struct fm_link link;
    struct fm_error missing = {0};
    struct fm_nl_batch batch = {0};
    if (fm_link_by_name(&fabric->slow, fabric->bridge, &link, &missing) < 0) {
        fm_link_put_bridge(&batch, fabric->bridge, mac, fabric->mtu);
        rc = fm_nl_run(&fabric->slow, &batch, err);
        if (rc == 0)
            rc = fm_link_by_name(&fabric->slow, fabric->bridge, &link, err);
        if (rc < 0)
            return rc;
        fm_link_put_quiet(&batch, link.index);
    } else if (!fm_streq(link.kind, "bridge")) {
        return fm_error_set(err, FM_E_EXISTS,
                            "interface %s is there and is not a bridge; choose another name for "
                            "network.bridge",
                            fabric->bridge);
    } else {
        fm_link_put_bridge_settings(&batch, link.index, fabric->has_gateway ? mac : NULL,
                                    fabric->mtu);
    }
    fabric->bridge_index = link.index;
    fm_link_put_up(&batch, link.index);
    if (fabric->has_gateway)
        fm_address_put(&batch, link.index, &fabric->gateway);
    return fm_nl_run(&fabric->slow, &batch, err);
}

static int check_vxlan(const struct fm_fabric *fabric, const struct fm_link *link,
                       struct fm_error *err)
{
    if (!fm_streq(link->kind, "vxlan"))
        return fm_error_set(err, FM_E_EXISTS,
                            "interface %s is there and is not a VXLAN device; choose another name "
                            "for network.vxlan",
                            fabric->vxlan);
    if (link->vxlan.vni != fabric->vni || link->vxlan.port != fabric->port ||
        !fm_ip_equal(&link->vxlan.local, &fabric->underlay))
        return fm_error_set(err, FM_E_EXISTS,
                            "VXLAN device %s has other settings (VNI %u, port %u) than the "
                            "configuration (VNI %u, port %u) or another address; remove it (ip "
                            "link del %s) or correct the configuration",
                            fabric->vxlan, link->vxlan.vni, link->vxlan.port, fabric->vni,
                            fabric->port, fabric->vxlan);
    if (link->master && link->master != fabric->bridge_index)
        return fm_error_set(err, FM_E_EXISTS, "VXLAN device %s belongs to another bridge",
                            fabric->vxlan);
    return 0;
}

static int open_vxlan(struct fm_fabric *fabric, struct fm_error *err)
{
    struct fm_link link;
    struct fm_error missing = {0};
    struct fm_nl_batch batch = {0};
    int rc = 0;
    if (fm_link_by_name(&fabric->slow, fabric->vxlan, &link, &missing) < 0) {
        struct fm_vxlan vxlan = {.name = fabric->vxlan,
                                 .vni = fabric->vni,
                                 .port = fabric->port,
                                 .local = &fabric->underlay,
                                 .mtu = fabric->mtu};
        fm_link_put_vxlan(&batch, &vxlan);
        rc = fm_nl_run(&fabric->slow, &batch, err);
        if (rc == 0)
            rc = fm_link_by_name(&fabric->slow, fabric->vxlan, &link, err);
        if (rc < 0)
            return rc;
        fm_link_put_quiet(&batch, link.index);
    } else if ((rc = check_vxlan(fabric, &link, err)) < 0) {
        return rc;
    }
    fabric->vxlan_index = link.index;
    /* Where a container is, is told, not learnt; unknown addresses (a client elsewhere) are
     * flooded. */
    struct fm_port_flags flags = {.learning = false, .unicast_flood = true, .group_flood = true};
    fm_link_put_mtu(&batch, link.index, fabric->mtu);
    fm_link_put_master(&batch, link.index, fabric->bridge_index);
    fm_link_put_port_flags(&batch, link.index, &flags);
    fm_link_put_up(&batch, link.index);
    return fm_nl_run(&fabric->slow, &batch, err);
}

static void warn_about_bridge_netfilter(void)
{
    fm_autofree char *on = fm_file_line("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if (fm_streq(on, "1"))
        fm_warn(FM_NETWORK_MANAGER,
                "The host's iptables rules apply to bridged packets and may drop containers' "
                "traffic (sysctl net.bridge.bridge-nf-call-iptables=0 turns that off).");
}

static int open_fabric(struct fm_fabric *fabric, const struct fm_fabric_config *config,
                       struct fm_error *err)
{
    int rc = take_config(fabric, config, err);
    if (rc == 0)
        rc = open_sockets(fabric, err);
    if (rc == 0)
        rc = find_mtu(fabric, config->mtu, err);
    if (rc == 0)
        rc = open_bridge(fabric, err);
    if (rc == 0 && fabric->has_vxlan)
        rc = open_vxlan(fabric, err);
    if (rc == 0)
        rc = fm_hold_remove_stale(fabric, err);
    return rc;
}

static void fabric_free(struct fm_fabric *fabric)
{
    while (fabric->holds)
        fm_hold_end(fabric->holds, NULL);
    while (fabric->staged)
        fm_outbox_drop(fabric, fabric->staged->port);
    fm_nl_close(&fabric->fast);
    fm_nl_close(&fabric->slow);
    if (fabric->packet_fd >= 0)
        close(fabric->packet_fd);
    free(fabric->run_dir);
    free(fabric);
}

int fm_fabric_open(const struct fm_fabric_config *config, struct fm_network *network,
                   struct fm_error *err)
{
    *network = (struct fm_network){0};
    struct fm_fabric *fabric = fm_xcalloc(1, sizeof(*fabric));
    fabric->packet_fd = -1;
    pthread_mutex_init(&fabric->make, NULL);
    pthread_mutex_init(&fabric->lock, NULL);
    int rc = open_fabric(fabric, config, err);
    if (rc < 0) {
        fabric_free(fabric);
        return fm_error_prefix(err, "cannot open the network");
    }
    warn_about_bridge_netfilter();
    *network = (struct fm_network){.ops = &fm_fabric_ops, .ctx = fabric};
    return 0;
}

struct census {
    const struct fm_fabric *fabric;
    unsigned ports;
};

static int count_port(const struct fm_link *link, void *ctx)
{
    struct census *census = ctx;
    census->ports +=
        link->master == census->fabric->bridge_index && link->index != census->fabric->vxlan_index;
    return 0;
}

static void remove_devices(struct fm_fabric *fabric)
{
    struct census census = {.fabric = fabric};
    struct fm_error err = {0};
    if (fm_link_each(&fabric->slow, count_port, &census, &err) < 0 || census.ports > 0)
        return;
    struct fm_nl_batch batch = {0};
    if (fabric->has_vxlan)
        fm_link_put_delete(&batch, fabric->vxlan_index);
    fm_link_put_delete(&batch, fabric->bridge_index);
    if (fm_nl_run(&fabric->slow, &batch, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "The bridge could not be removed: %s.", err.text);
}

void fm_fabric_close(struct fm_network *network, bool teardown)
{
    struct fm_fabric *fabric = network->ctx;
    *network = (struct fm_network){0};
    if (!fabric)
        return;
    while (fabric->holds) /* their ports would count as containers */
        fm_hold_end(fabric->holds, NULL);
    if (teardown)
        remove_devices(fabric);
    fabric_free(fabric);
}
