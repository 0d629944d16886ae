/* Capture: the hold of a container on a macvlan. There is no bridge that could send its frames
 * elsewhere; instead the container is made deaf and mute, and what passes the user's interface for
 * it is copied into a packet socket, whose buffer is the queue. That is also what the parent's
 * other macvlans send it: they do not find it beside them any more, and try the wire.
 *
 * Switch and capture are two things: a frame in between (under 0.1 ms) is delivered twice rather
 * than never. What the container's own kernel says meanwhile is lost. */
#ifndef FM_NETWORK_CAPTURE_H
#define FM_NETWORK_CAPTURE_H

#include "network/fabric.h"

struct fm_capture;

/* The slow part: sockets, and the macvlan of our own that frames are given back through. */
int fm_capture_open(struct fm_fabric *fabric, const struct fm_endpoint *ep,
                    const struct fm_port *port, const struct fm_hold_limits *limits,
                    struct fm_capture **out, struct fm_error *err);
int fm_capture_engage(struct fm_capture *capture, struct fm_error *err);
/* The container hears again, first what was captured. */
int fm_capture_release(struct fm_capture *capture, struct fm_hold_counters *counters,
                       struct fm_error *err);
/* What was captured goes back onto the wire, from this host, to where the container is now; it must
 * have been announced there. */
void fm_capture_forward(struct fm_capture *capture, struct fm_hold_counters *counters);
/* True when this interface is its own macvlan. NULL is fine. */
bool fm_capture_uses(const struct fm_capture *capture, int index);
/* What is left is counted as dropped. NULL is fine. */
void fm_capture_close(struct fm_capture *capture, struct fm_hold_counters *counters);

#endif
