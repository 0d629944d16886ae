/* SDN: switches whose flows lead to a container follow it to its new host. */
#ifndef FM_NETWORK_SDN_H
#define FM_NETWORK_SDN_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "network/follower.h"
#include "network/topology.h"

#define FM_SDN_TIMEOUT_MS 2000
#define FM_SDN_PRIORITY 20000
#define FM_SDN_COOKIE 0x464d53444eULL /* "FMSDN" */

/* Where a host is seen from a switch. A host that is listed here has these ports and no others,
 * whatever the topology says; its nearest switch comes first. */
struct fm_sdn_port {
    const char *host;
    const char *at; /* switch */
    uint32_t port;
};

/* All strings are copied. */
struct fm_sdn_config {
    const char *const *controllers; /* URLs, NULL-terminated; see sdn_rest.h */
    const char *ca, *cert, *key;    /* for https, or NULL */
    uint64_t timeout_ms;            /* of each step as a whole; 0: FM_SDN_TIMEOUT_MS */
    const char *const *networks;    /* whose containers the switches see; NULL: all */

    struct fm_topology_config topology; /* switches always; links and hosts where known */
    const struct fm_sdn_port *ports;
    size_t port_count;
    enum fm_path_order order; /* of the ways through the topology */

    uint8_t table; /* of our flows */
    uint16_t
        priority; /* of our flows, at least 2; the one below is used as well; 0: FM_SDN_PRIORITY */
    uint64_t cookie; /* marks our flows; below 2^53; 0: FM_SDN_COOKIE */

    uint64_t reserve_bps; /* for a migration's own traffic; 0: none. Needs the topology's links */
    int64_t queue;        /* of the switches' ports, for that traffic; < 0: none */
    int64_t meter;        /* of the switches, for that traffic; 0 or less: none */
};

/* Asks nobody yet. FM_E_INVALID with what is wrong in the configuration. */
int fm_sdn_open(const struct fm_sdn_config *config, struct fm_follower *follower,
                struct fm_error *err);
/* Leaves all flows as they are. */
void fm_sdn_close(struct fm_follower *follower);

#endif
