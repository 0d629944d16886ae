/* Overlay: the devices of one network on this host. A bridge and a VXLAN device of ours, or the
 * user's interface that it plugs into. */
#ifndef FM_NETWORK_OVERLAY_H
#define FM_NETWORK_OVERLAY_H

#include "network/fabric.h"

/* The MTU which leaves room for the header of VXLAN, by the interface that carries the underlay
 * address; 1500 without one. FM_E_INVALID: the underlay address is not on this host. */
int fm_overlay_mtu(struct fm_fabric *fabric, int *mtu, struct fm_error *err);
/* Makes what is missing, takes over what is there and is ours, and fills in the indexes and the
 * MTU. FM_E_EXISTS: a device with its name, or its VNI, is somebody else's. What it made is removed
 * when it fails. */
int fm_overlay_make(struct fm_fabric *fabric, struct fm_net *net, struct fm_error *err);
/* Removes the devices that are ours; missing is fine. */
int fm_overlay_remove(struct fm_fabric *fabric, const struct fm_net *net, struct fm_error *err);
/* The devices' names of a network that is not the configuration's. */
void fm_overlay_name(struct fm_net *net);

#endif
