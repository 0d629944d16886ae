/* Macvlan: a container directly on an interface of the user's. There is no bridge port that could
 * be closed; instead the container's interface is made deaf and mute, inside its namespace.
 *
 * Deaf: macvlan's source mode without a permitted source. Mute: a queue of no frames. Both are
 * switched by one batch of requests. What a mute container's kernel says is lost, not kept. */
#ifndef FM_NETWORK_MACVLAN_H
#define FM_NETWORK_MACVLAN_H

#include "network/fabric.h"

/* A macvlan of ours in a namespace that we pinned. */
struct fm_macvlan_port {
    struct fm_owner owner;
    int parent; /* index of the user's interface */
    bool open;
};
/* A negative return of `each` ends the walk and is returned. */
typedef int (*fm_macvlan_each_fn)(const struct fm_macvlan_port *port, void *ctx);
int fm_macvlan_each(struct fm_fabric *fabric, fm_macvlan_each_fn each, void *ctx,
                    struct fm_error *err);
/* The one of this container; false: none. */
bool fm_macvlan_look(const struct fm_fabric *fabric, const char *container,
                     struct fm_macvlan_port *port);

/* The parts of stage, unstage, activate and deactivate. stage leaves it closed, but for one that is
 * there and is to be `active`. */
int fm_macvlan_stage(struct fm_fabric *fabric, const struct fm_endpoint *ep,
                     const struct fm_port *port, bool active, struct fm_error *err);
int fm_macvlan_unstage(const struct fm_endpoint *ep, struct fm_error *err);
int fm_macvlan_open(const struct fm_endpoint *ep, const struct fm_port *port, struct fm_error *err);
int fm_macvlan_close(const struct fm_endpoint *ep, struct fm_error *err);

/* A handle for switching fast: sockets in the container's namespace. */
struct fm_macvlan_switch {
    struct fm_nl nl;
    int packet_fd;
    int index;
};
int fm_macvlan_switch_open(const struct fm_endpoint *ep, struct fm_macvlan_switch *out,
                           struct fm_error *err);
void fm_macvlan_switch_close(struct fm_macvlan_switch *s);
int fm_macvlan_switch_set(struct fm_macvlan_switch *s, bool open, struct fm_error *err);

#endif
