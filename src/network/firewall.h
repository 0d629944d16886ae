/* Firewall: published ports, and networks that do not reach each other. nftables, by libnftables.
 *
 * All of it is in the table `inet fleximigrate`, which is ours alone; no other table is read or
 * changed. A new connection to a published port on any address of this host is led to the container
 * (DNAT) and leaves under this host's own address in that network (SNAT), so that its answers come
 * back here wherever the container is. From then on the connection is this host's, in its
 * connection tracking: it goes on through any number of moves of the container, replacements of the
 * table, and the end of the publication. The container sees this host's address, not the client's.
 *
 * Not led: connections of this host to 127.0.0.0/8 and ::1 (use another address of the host), and
 * to link-local IPv6 addresses. An IPv6 client reaches containers with an IPv6 address only.
 *
 * Forwarding between two of our networks is dropped, except to and from published ports. Nothing
 * else is dropped, and nothing is masqueraded. Other tables have their say too: where the machine's
 * own rules drop what is forwarded (Docker, firewalld and ufw do), they must let it pass to the
 * host ports (interfaces fmh…).
 */
#ifndef FM_NETWORK_FIREWALL_H
#define FM_NETWORK_FIREWALL_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "base/error.h"
#include "network/address.h"
#include "network/network.h"

/* An overlay network of this host. */
struct fm_firewall_network {
    const char *name;
    const char *bridge;             /* interface */
    struct fm_ip address, address6; /* this host's own, as fm_host_port_make was given them */
};

struct fm_firewall {
    const struct fm_firewall_network *networks;
    size_t network_count;
    const struct fm_publication *publications;
    size_t publication_count;
};

/* Makes this the table's contents, in one transaction, whatever they were: applying twice, or after
 * somebody changed the table, gives the same. A publication in a network of which this host has no
 * own address of any of the container's families is left out, with a warning. With the first
 * publication the kernel's forwarding of each family in use is turned on (fm_forwarding_enable); it
 * is never turned off. Acts on the network namespace of the calling thread. FM_E_INVALID and
 * FM_E_EXISTS as fm_publication_check. */
int fm_firewall_apply(const struct fm_firewall *firewall, struct fm_error *err);
/* Runs commands of nft as they stand, in one transaction. */
int fm_firewall_run(const char *commands, struct fm_error *err);
/* Removes the table: connections through published ports end. Missing is fine. */
int fm_firewall_remove(struct fm_error *err);
/* What the kernel has: [{"container","network","protocol","host_port","port","ip","ip6"}] by
 * protocol and host port, with "" for the family that is not published (new reference; empty
 * without a table). *whole: the rules and lists that make it so are all there, as far as they can
 * be told without knowing what was applied. */
int fm_firewall_describe(json_t **publications, bool *whole, struct fm_error *err);

#endif
