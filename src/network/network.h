/* Network Manager behind one table of functions: what the coordinator asks of the network. */
#ifndef FM_NETWORK_NETWORK_H
#define FM_NETWORK_NETWORK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include "base/error.h"

#define FM_NETWORK_DEFAULT "default" /* the one of the configuration */

/* How the containers of a network reach each other. */
enum fm_network_mode {
    FM_NETWORK_OVERLAY, /* a bridge on each host, joined by a VXLAN device of ours */
    FM_NETWORK_BRIDGE,  /* a bridge of the user's, on the user's own layer 2 */
    FM_NETWORK_MACVLAN, /* on an interface of the user's */
};

/* A named network, the same on every host. Strings are never NULL. */
struct fm_network_spec {
    char name[32];
    enum fm_network_mode mode;
    char subnet[64];   /* "10.89.0.0/24", or an IPv6 one */
    char gateway[64];  /* "10.89.0.1"; "": none */
    char subnet6[64];  /* beside an IPv4 subnet; "": none */
    char gateway6[64]; /* "": none */
    uint32_t vni;      /* overlay only */
    int mtu;           /* 0: the underlay's, minus the header of VXLAN */
    char parent[16];   /* bridge, macvlan: the user's interface on this host */
};

struct fm_endpoint_request {
    const char *network; /* NULL: the default one */
    const char *name;    /* of the container */
    const char *ip;      /* without prefix it gets the subnet's */
    const char *ip6;     /* NULL: none beside `ip` */
    const char *mac;     /* NULL: derived from `ip` */
};

/* One container's interface, the same on every host it visits. */
struct fm_endpoint {
    char name[64];     /* of the container */
    char network[32];  /* that it is in */
    char ip[64];       /* "10.88.0.5/24" (IPv4 or IPv6) */
    char ip6[64];      /* the second one of a network with both families; "": none */
    char mac[18];      /* "02:…" */
    char gateway[64];  /* "" : none */
    char gateway6[64]; /* "" : none */
    char ifname[16];   /* inside, "eth0" */
    char netns[256];   /* bind mount of the namespace on this host */
    char host_if[16];  /* veth end on the bridge, fm + 8 hex digits of the name's hash */
};

struct fm_hold_limits {
    uint64_t max_bytes;  /* default 16 MiB */
    uint32_t max_frames; /* default 16384 */
};

struct fm_hold_counters {
    uint64_t held, held_bytes; /* frames that waited */
    uint64_t released;         /* given to the local container */
    uint64_t forwarded;        /* sent on to the new host */
    uint64_t dropped;          /* over the limits, or at the end without a receiver */
};

/* A port of every host that leads to a container, wherever that is. */
struct fm_publication {
    char container[64];
    char network[32];
    char protocol[4];   /* "tcp", "udp" */
    uint16_t host_port; /* on every address of every host */
    uint16_t port;      /* of the container */
    char ip[64];        /* of the container, without prefix */
    char ip6[64];       /* "": none */
};

struct fm_network_ops {
    /* Makes a network's devices on this host, or takes over what is there and is ours.
     * FM_E_EXISTS: another network has its name with other settings, its VNI or a part of its
     * subnet. */
    int (*define)(void *ctx, const struct fm_network_spec *spec, struct fm_error *err);
    /* Removes them; FM_E_REFUSED while a container is attached, missing is fine. */
    int (*undefine)(void *ctx, const char *network, struct fm_error *err);
    /* This host's own address in a network, which forwarded requests of published ports come from:
     * "10.89.255.1" or "" of each family. */
    int (*host_address)(void *ctx, const char *network, const char *ip, const char *ip6,
                        struct fm_error *err);
    /* Makes exactly these the published ports of this host, in one transaction. */
    int (*publish)(void *ctx, const struct fm_publication *list, size_t count,
                   struct fm_error *err);
    /* True when a program of this host listens on the port, which then cannot be published. NULL:
     * not looked at. */
    bool (*port_in_use)(void *ctx, const char *protocol, uint16_t port);
    /* What the kernel has of all this, {"networks":[{"name","mode","mtu","devices":[{"name","kind",
     * "mtu","up"}],"remotes":[{"mac","host"}],"peers":[host…],"ports":[{"container","ip","ip6",
     * "mac","open"}],"host_address":[…]}],"publications":[…],"whole"}; new
     * reference. A VXLAN device has also "vni" and "attached" (to its bridge). A remote is one
     * whose frames leave the bridge and the VXLAN device for that host; a port is open when it
     * forwards and has its entry; the table of published ports is whole, or damaged. */
    json_t *(*describe)(void *ctx, struct fm_error *err);

    /* Fills in an endpoint for a container name: host_if, netns path, MAC, the network's gateways;
     * checks the addresses against the subnets. FM_E_NOT_FOUND: no such network here. */
    int (*endpoint)(void *ctx, const struct fm_endpoint_request *request, struct fm_endpoint *ep,
                    struct fm_error *err);
    /* Makes namespace, veth and addresses; the bridge port stays disabled unless `active`. Takes
     * over what is there and is ours; FM_E_EXISTS when the name or the address belongs to somebody
     * else on this host. */
    int (*stage)(void *ctx, const struct fm_endpoint *ep, bool active, struct fm_error *err);
    /* Removes all that stage made, and FDB entries; missing is fine. */
    int (*unstage)(void *ctx, const struct fm_endpoint *ep, struct fm_error *err);
    /* This host has it now: port forwarding, static FDB entry on the port, gratuitous ARP /
     * unsolicited NA from the bridge to all hosts. Microseconds: used inside the freeze. */
    int (*activate)(void *ctx, const struct fm_endpoint *ep, struct fm_error *err);
    /* Port disabled, local FDB entry gone. */
    int (*deactivate)(void *ctx, const struct fm_endpoint *ep, struct fm_error *err);
    /* Another host (underlay address) has it: bridge FDB → VXLAN port, VXLAN FDB → host. NULL host
     * forgets it. */
    int (*set_remote)(void *ctx, const char *network, const char *mac, const char *host,
                      struct fm_error *err);

    /* The hold of a container that is about to freeze. prepare makes the TAP (slow, before the
     * freeze), settle lets connections that have begun be accepted while new ones wait, engage
     * diverts (fast), then exactly one of release_local (rollback) or forward (commit; goes on
     * relaying what still arrives). end removes the TAP after all (also without engage).
     *
     * settle: a connection that nobody has accepted cannot move along. FM_E_TIMEOUT names the port
     * of a program that did not within `patience_ms`. NULL: connections are not looked at. */
    int (*hold_prepare)(void *ctx, const struct fm_endpoint *ep,
                        const struct fm_hold_limits *limits, void **hold, struct fm_error *err);
    int (*hold_settle)(void *ctx, void *hold, const struct fm_endpoint *ep, uint64_t patience_ms,
                       struct fm_error *err);
    int (*hold_engage)(void *ctx, void *hold, struct fm_error *err);
    int (*hold_release_local)(void *ctx, void *hold, struct fm_error *err);
    int (*hold_forward)(void *ctx, void *hold, const char *host, struct fm_error *err);
    void (*hold_end)(void *ctx, void *hold, struct fm_hold_counters *counters);

    /* The link-layer addresses that the container knows, [{"ip","mac"}] (new reference), and
     * putting them into the namespace of a staged endpoint, so that its first packets need no ARP.
     */
    int (*neighbours)(void *ctx, const struct fm_endpoint *ep, json_t **list, struct fm_error *err);
    int (*set_neighbours)(void *ctx, const struct fm_endpoint *ep, json_t *list,
                          struct fm_error *err);

    /* Does this address answer (ARP, neighbour discovery), seen from this host's end of the
     * network, under this MAC? FM_E_UNREACHABLE: nobody does, FM_E_FAILED: another one does,
     * FM_E_REFUSED: nothing can be said from here. May be NULL. */
    int (*reach)(void *ctx, const char *network, const char *ip, const char *mac,
                 uint64_t *latency_us, struct fm_error *err);

    /* Makes every TCP socket of these processes leave repair mode: what a CRIU killed in mid-dump
     * forgot. */
    int (*unrepair)(void *ctx, const pid_t *pids, size_t count, struct fm_error *err);

    /* Finds the endpoint of a running container by looking into its network namespace: *found false
     * when it has only loopback (or shares the host's: *host true). */
    int (*inspect)(void *ctx, pid_t pid, struct fm_endpoint *ep, bool *found, bool *host,
                   struct fm_error *err);
    /* Frames for a container that has left, from hosts that do not know it, are sent on to where
     * set_remote says (overlay only), until it is switched off or activated here; after
     * a start of the daemon it is to be switched on again. `network` NULL: makes the kernel's what
     * is on. The function NULL: never. */
    int (*relay)(void *ctx, const char *network, const char *mac, bool on, struct fm_error *err);
    /* Another fabric member (underlay address): head-end replication entry in every overlay;
     * present false removes it. */
    int (*peer)(void *ctx, const char *host, bool present, struct fm_error *err);
};

struct fm_network {
    const struct fm_network_ops *ops;
    void *ctx;
};

/* The fabric of this host: bridge, VXLAN device. Strings are copied. */
struct fm_fabric_config {
    const char *run_dir; /* netns mounts go to <run_dir>/netns */
    const char *bridge;  /* "fmbr0" */
    const char *vxlan;   /* "fmvx0" */
    uint32_t vni;
    uint16_t port; /* 4789 */
    const char
        *underlay; /* this host's address that other hosts reach; NULL: no VXLAN (single host) */
    const char *subnet;  /* "10.88.0.0/16" */
    const char *gateway; /* address of the bridge itself on every host (anycast), or NULL: none */
    int mtu;             /* 0: underlay's MTU − 50 */
};
/* Makes bridge and VXLAN device when missing (takes over what is there), removes stale hold TAPs.
 */
int fm_fabric_open(const struct fm_fabric_config *config, struct fm_network *network,
                   struct fm_error *err);
/* Leaves the devices as they are: running containers go on. `teardown` removes bridge and VXLAN
 * when no container is attached. */
void fm_fabric_close(struct fm_network *network, bool teardown);

#endif
