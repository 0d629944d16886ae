/* Links, addresses and forwarding entries as netlink requests, and links read back. */
#ifndef FM_NETWORK_LINK_H
#define FM_NETWORK_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "network/address.h"
#include "network/netlink.h"

struct fm_link {
    int index;
    char name[16];
    char kind[16]; /* "bridge", "vxlan", "veth", "macvlan", "tun"; "" for hardware and lo */
    char alias[256];
    uint8_t mac[6];
    bool has_mac;
    int mtu;
    int master;         /* index, 0: none */
    int peer;           /* index of the other end, in that one's namespace */
    unsigned flags;     /* IFF_… */
    uint8_t operstate;  /* IF_OPER_… */
    uint8_t port_state; /* BR_STATE_… when the master is a bridge */
    bool stp;           /* a bridge that runs the spanning tree protocol */
    bool deaf;          /* a macvlan that hears nothing */
    struct {
        uint32_t vni;
        uint16_t port;
        struct fm_ip local;
    } vxlan;
};

/* FM_E_NOT_FOUND when there is no such link. */
int fm_link_by_name(struct fm_nl *nl, const char *name, struct fm_link *link, struct fm_error *err);
int fm_link_by_index(struct fm_nl *nl, int index, struct fm_link *link, struct fm_error *err);
/* A negative return of `each` ends the walk and is returned. */
typedef int (*fm_link_each_fn)(const struct fm_link *link, void *ctx);
int fm_link_each(struct fm_nl *nl, fm_link_each_fn each, void *ctx, struct fm_error *err);
/* Blocks until the link is operational (only then its bridge port has a state), 2 s at most. Must
 * run in the namespace of `nl`. */
int fm_link_wait_up(struct fm_nl *nl, int index, struct fm_error *err);
/* Blocks until neighbour solicitations for a new IPv6 address are heard, 2 s at most, which is no
 * error: the kernel joins their group a little later, and who asks in between asks again after 1 s.
 * The interface has to be up. */
int fm_address_wait_heard(struct fm_nl *nl, int index, const struct fm_ip *ip,
                          struct fm_error *err);

/* A port that neither lets frames in nor out. LISTENING, not DISABLED: the bridge itself turns a
 * disabled port on again at the next carrier event, and a BLOCKING one whenever another port
 * changes; it leaves a LISTENING one alone. */
#define FM_PORT_BLOCKED 1 /* BR_STATE_LISTENING */
#define FM_PORT_OPEN 3    /* BR_STATE_FORWARDING */

/* What a bridge port may do; every member is set. */
struct fm_port_flags {
    bool learning;
    bool unicast_flood; /* gets frames to unknown addresses */
    bool group_flood;   /* gets broadcast and multicast */
};

/* Requests; they are executed by fm_nl_run. */
void fm_link_put_bridge(struct fm_nl_batch *batch, const char *name, const uint8_t mac[6], int mtu);
/* The same settings for a bridge that is there already. */
void fm_link_put_bridge_settings(struct fm_nl_batch *batch, int index, const uint8_t mac[6],
                                 int mtu);
struct fm_vxlan {
    const char *name;
    uint32_t vni;
    uint16_t port;
    const struct fm_ip *local;
    int mtu;
};
void fm_link_put_vxlan(struct fm_nl_batch *batch, const struct fm_vxlan *vxlan);
struct fm_veth {
    const char *name; /* here */
    const char *peer; /* in the other namespace */
    int peer_netns;   /* descriptor */
    int mtu;
};
void fm_link_put_veth(struct fm_nl_batch *batch, const struct fm_veth *veth);
struct fm_macvlan {
    const char *name;
    int parent;         /* index, here */
    int netns;          /* descriptor of where to make it; -1: here */
    const uint8_t *mac; /* NULL: a random one */
    int mtu;
    bool deaf;
};
/* In bridge mode: the macvlans of a parent hear each other. */
void fm_link_put_macvlan(struct fm_nl_batch *batch, const struct fm_macvlan *macvlan);
/* Deaf: in source mode without a permitted source, so that nothing is delivered to it. */
void fm_link_put_macvlan_deaf(struct fm_nl_batch *batch, int index, bool deaf);
/* A plain queue of so many frames in front of the link; with 0 it drops whatever is sent. */
void fm_link_put_fifo(struct fm_nl_batch *batch, int index, uint32_t frames);
void fm_link_put_delete(struct fm_nl_batch *batch, int index);
void fm_link_put_up(struct fm_nl_batch *batch, int index);
void fm_link_put_master(struct fm_nl_batch *batch, int index, int master);
void fm_link_put_mac(struct fm_nl_batch *batch, int index, const uint8_t mac[6]);
void fm_link_put_mtu(struct fm_nl_batch *batch, int index, int mtu);
void fm_link_put_queue(struct fm_nl_batch *batch, int index, uint32_t frames);
void fm_link_put_alias(struct fm_nl_batch *batch, int index, const char *alias);
/* No link-local IPv6 address: a bridge port has nothing to say. */
void fm_link_put_quiet(struct fm_nl_batch *batch, int index);
void fm_link_put_port_state(struct fm_nl_batch *batch, int index, uint8_t state);
void fm_link_put_port_flags(struct fm_nl_batch *batch, int index,
                            const struct fm_port_flags *flags);
void fm_address_put(struct fm_nl_batch *batch, int index, const struct fm_ip *ip);
void fm_route_put_default(struct fm_nl_batch *batch, int index, const struct fm_ip *gateway);

#endif
