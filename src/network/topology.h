/* Topology: switches, hosts and the links between them; ways through it, and the capacity that
 * migrations have reserved on them. Safe to use from several threads. */
#ifndef FM_NETWORK_TOPOLOGY_H
#define FM_NETWORK_TOPOLOGY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"

#define FM_PORT_MAX 0xffffff00U /* the highest number of a port in OpenFlow 1.3 */

struct fm_topology_switch {
    const char *name;
    uint64_t dpid;
};

/* The same in both directions; each direction has all of the capacity. */
struct fm_topology_line {
    double latency_ms;    /* 0 or more */
    int64_t capacity_bps; /* 0: unknown, never the bottleneck */
    double loss;          /* the part of the packets that is lost, 0 to less than 1 */
};

struct fm_topology_link {
    const char *a, *b; /* switches */
    uint32_t port_a, port_b;
    struct fm_topology_line line;
};

/* A host hangs on one switch, and is never a way to somewhere else. */
struct fm_topology_host {
    const char *name;
    const char *at; /* switch */
    uint32_t port;
    struct fm_topology_line line;
};

struct fm_topology_config {
    const struct fm_topology_switch *switches;
    size_t switch_count;
    const struct fm_topology_link *links;
    size_t link_count;
    const struct fm_topology_host *hosts;
    size_t host_count;
};

/* What a way is chosen by. Between equal ones the other measure decides, then the number of hops.
 */
enum fm_path_order { FM_PATH_LATENCY, FM_PATH_WIDEST };

struct fm_hop {
    char name[64]; /* of the switch */
    uint64_t dpid;
    uint32_t in_port, out_port;
};

struct fm_path {
    struct fm_hop *hops; /* in the order of travel */
    size_t count;
    double latency_ms;
    uint64_t bottleneck_bps; /* what is free on the narrowest link; UINT64_MAX: unknown */
    double loss;
};
void fm_path_clear(struct fm_path *path);

struct fm_path_request {
    const char *from, *to; /* hosts */
    enum fm_path_order order;
    uint64_t free_bps; /* only over links that have as much unreserved */
};

/* One switch's port towards a host, and how many switches away from it that is. */
struct fm_route {
    char name[64];
    uint64_t dpid;
    uint32_t port;
    unsigned distance; /* 0: the host's own switch */
};

struct fm_topology;
/* FM_E_INVALID: a name or port that is given twice, an unknown switch, a value out of range. */
struct fm_topology *fm_topology_open(const struct fm_topology_config *config, struct fm_error *err);
/* The same from a document:
 * {"switches":[{"name","dpid"}],
 *  "links":[{"a","port_a","b","port_b","latency_ms"?,"capacity_bps"?,"loss"?}],
 *  "hosts":[{"name","switch","port","latency_ms"?,"capacity_bps"?,"loss"?}]} */
struct fm_topology *fm_topology_load(const json_t *document, struct fm_error *err);
void fm_topology_close(struct fm_topology *topology);

bool fm_topology_has_host(const struct fm_topology *topology, const char *host);

/* Dijkstra over latencies, or the way with the widest bottleneck. FM_E_NOT_FOUND: an unknown host;
 * FM_E_UNREACHABLE: not connected; FM_E_NO_SPACE: connected, but without `free_bps`. */
int fm_topology_path(struct fm_topology *topology, const struct fm_path_request *request,
                     struct fm_path *path, struct fm_error *err);

/* Every switch's port towards a host, nearest first; switches without a way there are left out.
 * Reservations do not matter, and followed from anywhere the routes never loop. The caller frees
 * *routes. */
int fm_topology_routes(struct fm_topology *topology, const char *host, enum fm_path_order order,
                       struct fm_route **routes, size_t *count, struct fm_error *err);

/* Takes request->free_bps on the best way for `id`, and says which; the same again for an id that
 * has its reservation already. FM_E_NO_SPACE as above. */
int fm_topology_reserve(struct fm_topology *topology, const char *id,
                        const struct fm_path_request *request, struct fm_path *path,
                        struct fm_error *err);
/* Gives it back; false when there is none. */
bool fm_topology_release(struct fm_topology *topology, const char *id);
/* Another id than this one has a reservation between these hosts in this direction. */
bool fm_topology_is_shared(struct fm_topology *topology, const char *id, const char *from,
                           const char *to);

#endif
