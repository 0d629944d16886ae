/* Network Manager behind one table of functions: what the coordinator asks of the network. */
#ifndef FM_NETWORK_NETWORK_H
#define FM_NETWORK_NETWORK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include "base/error.h"

/* One container's interface, the same on every host it visits. */
struct fm_endpoint {
    char name[64];    /* of the container */
    char ip[64];      /* "10.88.0.5/24" (IPv4 or IPv6) */
    char mac[18];     /* "02:…" */
    char gateway[64]; /* "" : none */
    char ifname[16];  /* inside, "eth0" */
    char netns[256];  /* bind mount of the namespace on this host */
    char host_if[16]; /* veth end on the bridge, fm + 8 hex digits of the name's hash */
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

struct fm_network_ops {
    /* Fills in an endpoint for a container name: host_if, netns path, a MAC derived from the
     * address when `mac` is NULL, the configured gateway; checks the address against the subnet.
     * `ip` without prefix gets the subnet's. */
    int (*endpoint)(void *ctx, const char *name, const char *ip, const char *mac,
                    struct fm_endpoint *ep, struct fm_error *err);
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
    int (*set_remote)(void *ctx, const char *mac, const char *host, struct fm_error *err);

    /* The hold of a container that is about to freeze. prepare makes the TAP (slow, before the
     * freeze), engage diverts (fast), then exactly one of release_local (rollback) or forward
     * (commit; goes on relaying what still arrives). end removes the TAP after all (also without
     * engage). */
    int (*hold_prepare)(void *ctx, const struct fm_endpoint *ep,
                        const struct fm_hold_limits *limits, void **hold, struct fm_error *err);
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

    /* Makes every TCP socket of these processes leave repair mode: what a CRIU killed in mid-dump
     * forgot. */
    int (*unrepair)(void *ctx, const pid_t *pids, size_t count, struct fm_error *err);

    /* Finds the endpoint of a running container by looking into its network namespace: *found false
     * when it has only loopback (or shares the host's: *host true). */
    int (*inspect)(void *ctx, pid_t pid, struct fm_endpoint *ep, bool *found, bool *host,
                   struct fm_error *err);
    /* Another fabric member (underlay address): head-end replication entry; present false removes
     * it. */
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
