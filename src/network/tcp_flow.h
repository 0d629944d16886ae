/* TCP flows of a container that is held: which byte each of its peers waits for. Pure.
 *
 * Until the checkpoint gets to its sockets, a frozen container's kernel goes on sending what it had
 * queued, and all of that counts as sent: it continues a flow. What comes later repeats, or jumps:
 * in repair mode a kernel counts without sending, and may then probe with the tail. */
#ifndef FM_NETWORK_TCP_FLOW_H
#define FM_NETWORK_TCP_FLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FM_TCP_FLOWS 256 /* more are not followed */

struct fm_tcp_flow {
    uint8_t family; /* version of IP: 4, 6 */
    uint8_t peer[16];
    uint16_t port, peer_port;
    uint32_t next; /* sequence number of that byte */
};

/* {0} is empty. */
struct fm_tcp_flows {
    struct fm_tcp_flow flows[FM_TCP_FLOWS];
    size_t count;
};

/* A frame of the container went out. Frames are Ethernet's; any other than of TCP is fine. */
void fm_tcp_flows_sent(struct fm_tcp_flows *flows, const uint8_t *frame, size_t len);
/* A peer's frame came in: what it acknowledges, it has. */
void fm_tcp_flows_heard(struct fm_tcp_flows *flows, const uint8_t *frame, size_t len);

/* What a frame of the container is to the flow that it is in. */
enum fm_tcp_step {
    FM_TCP_NOTHING,   /* it has no data, or is not of TCP */
    FM_TCP_BEGINS,    /* data of a flow that was never seen */
    FM_TCP_CONTINUES, /* with the byte that the peer waits for */
    FM_TCP_STRAYS,    /* with another one */
};
enum fm_tcp_step fm_tcp_flows_judge(const struct fm_tcp_flows *flows, const uint8_t *frame,
                                    size_t len);

#endif
