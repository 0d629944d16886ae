/* Relay: frames for a container that has left are sent on to where it is now, for hosts that do not
 * know it yet. nftables, table `netdev fleximigrate`: at the VXLAN device's ingress, where the
 * bridge would drop what is to leave by the port that it came from. The entry of the container's
 * MAC says where to. */
#ifndef FM_NETWORK_RELAY_H
#define FM_NETWORK_RELAY_H

#include "network/fabric.h"

struct fm_relay {
    char vxlan[16];
    uint8_t mac[6];
};

/* Begins or ends one; ending what is not there is fine. In one transaction. */
int fm_relay_set(struct fm_fabric *fabric, const struct fm_net *net, const uint8_t mac[6], bool on,
                 struct fm_error *err);
/* The container comes here: before its port opens, or its frames would leave again. */
void fm_relay_drop(struct fm_fabric *fabric, const struct fm_net *net, const uint8_t mac[6]);
/* Makes the kernel's those that are on, whatever somebody has changed there. */
int fm_relay_refresh(struct fm_fabric *fabric, struct fm_error *err);
/* What an earlier daemon has left: who still needs one says so again. */
void fm_relay_remove_stale(void);

#endif
