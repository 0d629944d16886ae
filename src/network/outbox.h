/* Outbox: what a container's kernel says while its bridge port is blocked, to be sent when it
 * opens.
 *
 * A restore makes TCP send: the unsent part of the queues, a window probe when repair mode ends,
 * and the ARP requests for them. On the source, paced segments follow after the freeze which the
 * checkpoint counts as sent. All of it is true if that side is the one that goes on, and dropping
 * it costs a retransmission time-out or the 1 s of a lost ARP request. */
#ifndef FM_NETWORK_OUTBOX_H
#define FM_NETWORK_OUTBOX_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <linux/if_ether.h>
#include <linux/virtio_net.h>

#include "base/error.h"

/* Makes one that does not collect yet; returns its descriptor, which close(2) ends (slow: the
 * kernel waits for readers). */
int fm_outbox_open(struct fm_error *err);
/* Collects the frames that come out of this veth, before the bridge drops them; as many as the
 * kernel's buffer takes. */
int fm_outbox_collect(int outbox, int port, struct fm_error *err);
/* Collects no more; what is in stays. Microseconds. */
void fm_outbox_stop(int outbox);

/* Frames of an outbox have a header in front, which says what is left to do to them. */
#define FM_OUTBOX_HEADER sizeof(struct virtio_net_hdr)
#define FM_OUTBOX_FRAME_MAX (FM_OUTBOX_HEADER + ETH_HLEN + 65536)
/* The next one from this MAC: its length, or negative when there is none. */
ssize_t fm_outbox_next(int outbox, const uint8_t mac[6], uint8_t buffer[FM_OUTBOX_FRAME_MAX]);
/* Sends one through an interface: the bridge, as a rule. */
bool fm_outbox_put(int outbox, int interface, const uint8_t *buffer, size_t len);
/* Sends all that were collected from this MAC, in order. */
void fm_outbox_send(int outbox, int bridge, const uint8_t mac[6]);
/* The same, and closes it; what is for everybody on the bridge, perhaps hundreds, follows in a
 * thread that the caller does not wait for. */
void fm_outbox_finish(int outbox, int bridge, const uint8_t mac[6]);
/* close(2) of a packet socket that the caller does not wait for. */
void fm_outbox_close_later(int outbox);

#endif
