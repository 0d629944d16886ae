/* Host port: this host's own address in an overlay network, on a port of its own of the bridge.
 *
 * The bridge itself has the gateway's address and MAC, which are the same on every host: an answer
 * to it ends on the host where it was given. What this host sends into the network on its own
 * behalf (requests to published ports, health checks) must come from an address that only it has,
 * so that the answer finds back, wherever the container is by then. That address is on one end of a
 * veth pair, the other end of which is a port of the bridge; its MAC follows from the address, and
 * other hosts are told of it like of a container's (fm_network_ops.set_remote).
 *
 * Routes: each half of the subnet leads to the host port. They are longer than the bridge's own
 * route, so that all which this host routes into the network takes this way and containers on other
 * hosts are reached as well. Neighbours: bridge and host port only answer for their own addresses.
 */
#ifndef FM_NETWORK_HOST_PORT_H
#define FM_NETWORK_HOST_PORT_H

#include <stdbool.h>
#include <stdint.h>

#include "network/address.h"
#include "network/netlink.h"

struct fm_host_port {
    const char *network; /* name */
    const char *bridge;  /* interface, which is there */
    int mtu;             /* of the bridge */
    /* As the network has them: the first may be of either family, the second is IPv6; family 0:
     * none. At least one address. */
    struct fm_ip subnet, address;
    struct fm_ip subnet6, address6;
};

/* How the aliases of its interfaces begin. */
#define FM_HOST_PORT_ALIAS "fleximigrate-host "

/* "fmh" and 8 hexadecimal digits: the end with the address. The end on the bridge is "fmp" …. */
void fm_host_port_name(const char *network, char name[16]);
/* The MAC that follows from its addresses (the second counts when there is no first). */
void fm_host_port_mac(const struct fm_ip *address, const struct fm_ip *address6, uint8_t mac[6]);

/* Makes it, or takes over what is there and is ours; with another address it is made anew. Must run
 * in the namespace of `nl`, one call at a time. `mac` is what other hosts are to be told.
 * FM_E_INVALID: an address is not one of the subnet; FM_E_EXISTS: somebody else's interface has the
 * name. */
int fm_host_port_make(struct fm_nl *nl, const struct fm_host_port *port, uint8_t mac[6],
                      struct fm_error *err);
/* Missing is fine; what is not ours stays. */
int fm_host_port_remove(struct fm_nl *nl, const char *network, struct fm_error *err);

/* What the kernel has. */
struct fm_host_port_state {
    bool found; /* the pair is whole, up, and on a bridge */
    int bridge; /* index */
    uint8_t mac[6];
    struct fm_ip address, address6; /* IPv4, IPv6; family 0: none */
};
int fm_host_port_read(struct fm_nl *nl, const char *network, struct fm_host_port_state *state,
                      struct fm_error *err);

#endif
