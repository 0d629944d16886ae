/* Forwarding entries of bridges and VXLAN devices, as netlink requests and read back. */
#ifndef FM_NETWORK_FDB_H
#define FM_NETWORK_FDB_H

#include <stdbool.h>
#include <stdint.h>

#include "network/address.h"
#include "network/netlink.h"

/* The bridge's static entry: frames to `mac` leave through this port, wherever they left before. */
void fm_fdb_put_port(struct fm_nl_batch *batch, const uint8_t mac[6], int port);
/* The same, but as if the bridge had learnt it: ages, and moves when the address is heard
 * elsewhere.
 */
void fm_fdb_put_learned(struct fm_nl_batch *batch, const uint8_t mac[6], int port);
/* Removes the entry if it points to this port. */
void fm_fdb_delete_port(struct fm_nl_batch *batch, const uint8_t mac[6], int port);
/* The VXLAN device's entry: `mac` is behind this host. */
void fm_fdb_put_remote(struct fm_nl_batch *batch, const uint8_t mac[6], int vxlan,
                       const struct fm_ip *host);
void fm_fdb_delete_remote(struct fm_nl_batch *batch, const uint8_t mac[6], int vxlan);
/* Head-end replication: broadcast and unknown addresses go to this host too. */
void fm_fdb_put_flood(struct fm_nl_batch *batch, int vxlan, const struct fm_ip *host);
void fm_fdb_delete_flood(struct fm_nl_batch *batch, int vxlan, const struct fm_ip *host);

/* An entry as the kernel has it. */
struct fm_fdb_entry {
    int index;  /* bridge port, or VXLAN device */
    int bridge; /* index; 0: an entry of the VXLAN device itself */
    uint8_t mac[6];
    bool learned;      /* by the bridge, from a frame */
    struct fm_ip host; /* of the VXLAN device's entries; family 0: none */
};
/* A negative return of `each` ends the walk and is returned. */
typedef int (*fm_fdb_each_fn)(const struct fm_fdb_entry *entry, void *ctx);
int fm_fdb_each(struct fm_nl *nl, fm_fdb_each_fn each, void *ctx, struct fm_error *err);

#endif
