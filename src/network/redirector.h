/* Redirector: holds the frames of a container that is frozen, and gives them to wherever it goes
 * on. */
#ifndef FM_NETWORK_REDIRECTOR_H
#define FM_NETWORK_REDIRECTOR_H

#include "network/fabric.h"

#define FM_HOLD_PREFIX "fmhold" /* of the names of its devices */

/* The functions of fm_network_ops with these names. */
int fm_hold_prepare(struct fm_fabric *fabric, const struct fm_endpoint *ep,
                    const struct fm_hold_limits *limits, struct fm_hold **out,
                    struct fm_error *err);
int fm_hold_settle(struct fm_hold *hold, const struct fm_endpoint *ep, uint64_t patience_ms,
                   struct fm_error *err);
int fm_hold_engage(struct fm_hold *hold, struct fm_error *err);
int fm_hold_release_local(struct fm_hold *hold, struct fm_error *err);
/* `host` matters to an overlay only: in the other modes the user's network knows by then. */
int fm_hold_forward(struct fm_hold *hold, const struct fm_ip *host, struct fm_error *err);
const struct fm_net *fm_hold_net(const struct fm_hold *hold);
void fm_hold_end(struct fm_hold *hold, struct fm_hold_counters *counters);

/* The container came back to this host while a hold of its last departure still relays: what
 * arrives there now goes to the local port. */
void fm_hold_came_back(struct fm_fabric *fabric, const struct fm_port *port);
/* True while a hold has the bridge's entry of this MAC: nobody else may point it elsewhere. */
bool fm_hold_owns(struct fm_fabric *fabric, const struct fm_net *net, const uint8_t mac[6]);
/* Removes what holds of a dead daemon left on this network. */
int fm_hold_remove_stale(struct fm_fabric *fabric, const struct fm_net *net, struct fm_error *err);

/* What a frame that leaves through the hold's port is to the container. */
enum fm_hold_class {
    FM_HOLD_NOT_OURS, /* broadcast and multicast of others: lost, as they may be */
    FM_HOLD_UNICAST,  /* sent to its MAC */
    FM_HOLD_RESOLVE,  /* ARP request or neighbour solicitation for its address: lost ones cost the
                         asker 1 s */
};
enum fm_hold_class fm_hold_classify(const uint8_t *frame, size_t len, const struct fm_port *port);
/* A TCP connection begins with it. */
bool fm_hold_is_knock(const uint8_t *frame, size_t len);

#endif
