#include "network/published.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "network/firewall.h"
#include "network/host_port.h"
#include "network/networks.h"

static int parse_own(const struct fm_net *net, const char *text, struct fm_ip *ip, size_t *place,
                     struct fm_error *err)
{
    int rc = fm_ip_parse("host address", text, ip, err);
    if (rc < 0)
        return rc;
    for (*place = 0; *place < 2; (*place)++)
        if (net->subnets[*place].family && fm_ip_in_subnet(ip, &net->subnets[*place]))
            return 0;
    return fm_error_set(err, FM_E_INVALID, "host address %s is not in network '%s'", text,
                        net->spec.name);
}

static int put_own(const struct fm_net *net, const char *text, struct fm_host_port *port,
                   struct fm_error *err)
{
    struct fm_ip ip;
    size_t place = 0;
    int rc = text && *text ? parse_own(net, text, &ip, &place, err) : 0;
    if (rc < 0 || !text || !*text)
        return rc;
    *(place ? &port->address6 : &port->address) = ip;
    *(place ? &port->subnet6 : &port->subnet) = net->subnets[place];
    return 0;
}

int fm_published_host_address(struct fm_fabric *fabric, const char *network, const char *ip,
                              const char *ip6, struct fm_error *err)
{
    const struct fm_net *net = fm_net_find(fabric, network, err);
    uint8_t mac[6];
    if (!net)
        return fm_error_result(err);
    if (net->spec.mode != FM_NETWORK_OVERLAY)
        return fm_error_set(err, FM_E_REFUSED,
                            "network '%s' is the user's own: this host needs no address of ours in "
                            "it",
                            network);
    if ((!ip || !*ip) && (!ip6 || !*ip6))
        return fm_host_port_remove(&fabric->slow, net->spec.name, err);
    struct fm_host_port port = {.network = net->spec.name, .bridge = net->bridge, .mtu = net->mtu};
    int rc = put_own(net, ip, &port, err);
    if (rc == 0)
        rc = put_own(net, ip6, &port, err);
    return rc < 0 ? rc : fm_host_port_make(&fabric->slow, &port, mac, err);
}

/* One network without a published port needs no table, and no nftables in the kernel. */
static bool needs_table(size_t network_count, size_t publication_count)
{
    json_t *there = NULL;
    bool whole = false;
    struct fm_error ignored = {0};
    if (network_count > 1 || publication_count > 0)
        return true;
    int rc = fm_firewall_describe(&there, &whole, &ignored);
    bool left = rc == 0 && (whole || json_array_size(there) > 0);
    json_decref(there);
    return left;
}

int fm_published_apply(struct fm_fabric *fabric, const struct fm_publication *list, size_t count,
                       struct fm_error *err)
{
    size_t net_count, known = 0;
    fm_autofree struct fm_net *nets = fm_net_list(fabric, &net_count);
    fm_autofree struct fm_firewall_network *networks = fm_xcalloc(net_count + 1, sizeof(*networks));
    for (size_t i = 0; i < net_count; i++) {
        struct fm_host_port_state own;
        if (nets[i].spec.mode != FM_NETWORK_OVERLAY)
            continue;
        int rc = fm_host_port_read(&fabric->slow, nets[i].spec.name, &own, err);
        if (rc < 0)
            return rc;
        networks[known++] = (struct fm_firewall_network){.name = nets[i].spec.name,
                                                         .bridge = nets[i].bridge,
                                                         .address = own.address,
                                                         .address6 = own.address6};
    }
    if (!needs_table(known, count))
        return 0;
    struct fm_firewall firewall = {.networks = networks,
                                   .network_count = known,
                                   .publications = list,
                                   .publication_count = count};
    return fm_firewall_apply(&firewall, err);
}

static void add_address(json_t *list, const struct fm_ip *ip)
{
    char text[FM_IP_TEXT];
    if (ip->family)
        json_array_append_new(list, json_string(fm_ip_format(ip, text)));
}

static int describe_own(struct fm_fabric *fabric, json_t *network, struct fm_error *err)
{
    struct fm_host_port_state own;
    const char *name = json_string_value(json_object_get(network, "name"));
    int rc = fm_host_port_read(&fabric->slow, name, &own, err);
    if (rc < 0)
        return rc;
    json_t *addresses = json_array();
    if (own.found) {
        add_address(addresses, &own.address);
        add_address(addresses, &own.address6);
    }
    json_object_set_new(network, "host_address", addresses);
    return 0;
}

int fm_published_describe(struct fm_fabric *fabric, json_t *description, struct fm_error *err)
{
    json_t *publications = NULL, *network;
    bool whole = false;
    size_t i;
    json_array_foreach(json_object_get(description, "networks"), i, network)
    {
        int rc = describe_own(fabric, network, err);
        if (rc < 0)
            return rc;
    }
    int rc = fm_firewall_describe(&publications, &whole, err);
    if (rc < 0)
        return rc;
    json_object_set_new(description, "publications", publications);
    json_object_set_new(description, "whole", json_boolean(whole));
    return 0;
}
