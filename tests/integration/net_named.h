/* The scene of named networks: one of them on hosts A and B with a server of both IP families, a
 * client on C. */
#ifndef FM_TESTS_NET_NAMED_H
#define FM_TESTS_NET_NAMED_H

#include "net_scene.h"

#define NAMED "blue"
#define NAMED_IP "10.89.0.5"
#define NAMED_IP6 "fd00:89::5"
#define NAMED_PORT 7004
#define NAMED_SERVER .network = NAMED, .name = "server", .ip = NAMED_IP, .ip6 = NAMED_IP6

/* The overlay that most tests define. */
struct fm_network_spec named_overlay(void);
/* The network of the scene in this mode. */
struct fm_network_spec named_spec(enum fm_network_mode mode);
/* Each host gets an interface `v` to a switch which is the user's, and in bridge mode a bridge
 * `ubr0` that has it as a port. C is a machine of the user's there. */
struct scene named_scene(enum fm_network_mode mode);
void named_scene_stop(enum fm_network_mode mode);
/* Where the frames of the hold on A go from now on; C is told, if it is one that must be told. */
void named_forward(enum fm_network_mode mode);
const char *named_mode(enum fm_network_mode mode);
/* One datagram from a namespace to the echo server at this address. */
bool named_answered(const char *netns, const char *ip, unsigned patience_ms);

#endif
