#include "network/topology.h"

#include <igraph/igraph.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "network/topology_load.h"

#define UNKNOWN_CAPACITY 1e18 /* more than any link has */
#define HOP_MS 1e-6           /* between equally fast ways the one with fewer hops is shorter */

struct node {
    char name[64];
    bool is_host;
    uint64_t dpid;
};

/* Arc 2i leads from `a` to `b`, arc 2i + 1 back. */
struct edge {
    size_t a, b;
    uint32_t port_a, port_b; /* 0 at a host */
    struct fm_topology_line line;
    double reserved[2];
};

struct reservation {
    char id[64];
    size_t from, to;
    double bps;
    size_t *arcs;
    size_t count;
};

struct fm_topology {
    struct node *nodes; /* switches, then hosts */
    size_t node_count, switch_count;
    struct edge *edges;
    size_t edge_count;
    struct reservation *reservations;
    size_t reservation_count;
    igraph_t graph;
};

/* Debian's igraph keeps its error state in global variables: one caller at a time, in the whole
 * process. The same lock guards the reservations. */
static pthread_mutex_t graph_lock = PTHREAD_MUTEX_INITIALIZER;

static void quieten_igraph(void)
{
    igraph_set_error_handler(igraph_error_handler_ignore);
    igraph_set_warning_handler(igraph_warning_handler_ignore);
}

static void lock_graph(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, quieten_igraph);
    pthread_mutex_lock(&graph_lock);
}

static void unlock_graph(void)
{
    pthread_mutex_unlock(&graph_lock);
}

void fm_path_clear(struct fm_path *path)
{
    free(path->hops);
    *path = (struct fm_path){0};
}

/* ---- nodes and edges ---- */

static const struct node *find_node(const struct fm_topology *t, const char *name, bool is_host)
{
    for (size_t i = 0; i < t->node_count; i++)
        if (t->nodes[i].is_host == is_host && fm_streq(t->nodes[i].name, name))
            return &t->nodes[i];
    return NULL;
}

bool fm_topology_has_host(const struct fm_topology *topology, const char *host)
{
    return find_node(topology, host, true) != NULL;
}

static int add_node(struct fm_topology *t, const char *name, bool is_host, uint64_t dpid,
                    struct fm_error *err)
{
    const char *what = is_host ? "host" : "switch";
    int rc = fm_check_name(what, name, err);
    if (rc < 0)
        return rc;
    if (find_node(t, name, is_host))
        return fm_error_set(err, FM_E_INVALID, "%s '%s' is in the topology twice", what, name);
    for (size_t i = 0; !is_host && i < t->node_count; i++)
        if (t->nodes[i].dpid == dpid)
            return fm_error_set(err, FM_E_INVALID, "switches '%s' and '%s' have the same dpid %llu",
                                t->nodes[i].name, name, (unsigned long long)dpid);
    struct node *node = &t->nodes[t->node_count++];
    *node = (struct node){.is_host = is_host, .dpid = dpid};
    snprintf(node->name, sizeof(node->name), "%s", name);
    return 0;
}

static int check_line(const struct fm_topology_line *line, const char *what, struct fm_error *err)
{
    if (!(line->latency_ms >= 0) || isinf(line->latency_ms))
        return fm_error_set(err, FM_E_INVALID, "%s: latency_ms %g is not 0 or more", what,
                            line->latency_ms);
    if (line->capacity_bps < 0)
        return fm_error_set(err, FM_E_INVALID, "%s: capacity_bps %lld is negative", what,
                            (long long)line->capacity_bps);
    if (!(line->loss >= 0 && line->loss < 1))
        return fm_error_set(err, FM_E_INVALID,
                            "%s: loss %g is not a part of the packets (0 to less than 1)", what,
                            line->loss);
    return 0;
}

/* One end of an edge: the switch is known, the port possible and free. */
static int check_end(const struct fm_topology *t, const char *name, uint32_t port, const char *what,
                     size_t *index, struct fm_error *err)
{
    const struct node *node = find_node(t, name, false);
    if (!node)
        return fm_error_set(err, FM_E_INVALID, "%s: unknown switch '%s'; list it under switches",
                            what, name);
    if (port == 0 || port > FM_PORT_MAX)
        return fm_error_set(err, FM_E_INVALID, "%s: switch '%s' cannot have a port %u", what, name,
                            port);
    *index = (size_t)(node - t->nodes);
    for (size_t i = 0; i < t->edge_count; i++) {
        const struct edge *e = &t->edges[i];
        if ((e->a == *index && e->port_a == port) || (e->b == *index && e->port_b == port))
            return fm_error_set(err, FM_E_INVALID, "%s: port %u of switch '%s' is taken already",
                                what, port, name);
    }
    return 0;
}

static int add_link(struct fm_topology *t, const struct fm_topology_link *link,
                    struct fm_error *err)
{
    char what[160];
    struct edge e = {.port_a = link->port_a, .port_b = link->port_b, .line = link->line};
    snprintf(what, sizeof(what), "link %.63s-%.63s", link->a, link->b);
    int rc = check_line(&link->line, what, err);
    if (rc == 0)
        rc = check_end(t, link->a, link->port_a, what, &e.a, err);
    if (rc == 0)
        rc = check_end(t, link->b, link->port_b, what, &e.b, err);
    if (rc == 0 && e.a == e.b)
        return fm_error_set(err, FM_E_INVALID, "%s joins a switch with itself", what);
    if (rc == 0)
        t->edges[t->edge_count++] = e;
    return rc;
}

static int add_host(struct fm_topology *t, const struct fm_topology_host *host,
                    struct fm_error *err)
{
    char what[96];
    struct edge e = {.a = t->node_count, .port_b = host->port, .line = host->line};
    snprintf(what, sizeof(what), "host %.63s", host->name);
    int rc = add_node(t, host->name, true, 0, err);
    if (rc == 0)
        rc = check_line(&host->line, what, err);
    if (rc == 0)
        rc = check_end(t, host->at, host->port, what, &e.b, err);
    if (rc == 0)
        t->edges[t->edge_count++] = e;
    return rc;
}

static int fill(struct fm_topology *t, const struct fm_topology_config *config,
                struct fm_error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < config->switch_count; i++)
        rc = add_node(t, config->switches[i].name, false, config->switches[i].dpid, err);
    t->switch_count = t->node_count;
    for (size_t i = 0; rc == 0 && i < config->link_count; i++)
        rc = add_link(t, &config->links[i], err);
    for (size_t i = 0; rc == 0 && i < config->host_count; i++)
        rc = add_host(t, &config->hosts[i], err);
    return rc;
}

static int make_graph(struct fm_topology *t, struct fm_error *err)
{
    igraph_vector_int_t ends;
    igraph_vector_int_init(&ends, 0);
    for (size_t i = 0; i < t->edge_count; i++) {
        const igraph_integer_t a = (igraph_integer_t)t->edges[i].a;
        const igraph_integer_t b = (igraph_integer_t)t->edges[i].b;
        const igraph_integer_t both[] = {a, b, b, a};
        for (size_t k = 0; k < FM_COUNT(both); k++)
            igraph_vector_int_push_back(&ends, both[k]);
    }
    igraph_error_t failed =
        igraph_create(&t->graph, &ends, (igraph_integer_t)t->node_count, IGRAPH_DIRECTED);
    igraph_vector_int_destroy(&ends);
    return failed ? fm_error_set(err, FM_E_FAILED, "igraph: %s", igraph_strerror(failed)) : 0;
}

struct fm_topology *fm_topology_open(const struct fm_topology_config *config, struct fm_error *err)
{
    struct fm_topology *t = fm_xcalloc(1, sizeof(*t));
    t->nodes = fm_xcalloc(config->switch_count + config->host_count + 1, sizeof(*t->nodes));
    t->edges = fm_xcalloc(config->link_count + config->host_count + 1, sizeof(*t->edges));
    int rc = fill(t, config, err);
    if (rc == 0) {
        lock_graph();
        rc = make_graph(t, err);
        unlock_graph();
    }
    if (rc == 0)
        return t;
    free(t->nodes);
    free(t->edges);
    free(t);
    return NULL;
}

struct fm_topology *fm_topology_load(const json_t *document, struct fm_error *err)
{
    struct fm_topology_config config = {0};
    struct fm_topology *t = NULL;
    if (fm_topology_parse(document, &config, err) == 0)
        t = fm_topology_open(&config, err);
    fm_topology_parse_clear(&config);
    return t;
}

void fm_topology_close(struct fm_topology *topology)
{
    if (!topology)
        return;
    lock_graph();
    igraph_destroy(&topology->graph);
    unlock_graph();
    for (size_t i = 0; i < topology->reservation_count; i++)
        free(topology->reservations[i].arcs);
    free(topology->reservations);
    free(topology->nodes);
    free(topology->edges);
    free(topology);
}

/* ---- ways; all below with the lock held ---- */

struct search {
    size_t from, to;
    enum fm_path_order order;
    double at_least; /* bit/s */
    bool unreserved; /* what others have reserved is not there */
};

static double width(const struct fm_topology *t, size_t arc, bool unreserved)
{
    const struct edge *e = &t->edges[arc / 2];
    if (e->line.capacity_bps == 0)
        return UNKNOWN_CAPACITY;
    return (double)e->line.capacity_bps - (unreserved ? e->reserved[arc % 2] : 0);
}

/* The arcs of the shortest way over those that are wide enough, or of the widest way (`wide`);
 * none: not connected. */
static size_t best_arcs(struct fm_topology *t, const struct search *s, bool wide, size_t *arcs)
{
    size_t arc_count = 2 * t->edge_count;
    igraph_vector_t weights;
    igraph_vector_int_t found;
    igraph_vector_init(&weights, (igraph_integer_t)arc_count);
    igraph_vector_int_init(&found, 0);
    for (size_t i = 0; i < arc_count; i++) {
        double free_bps = width(t, i, s->unreserved);
        double ms = t->edges[i / 2].line.latency_ms + HOP_MS;
        VECTOR(weights)[i] = wide ? free_bps : free_bps >= s->at_least ? ms : IGRAPH_INFINITY;
    }
    const igraph_integer_t from = (igraph_integer_t)s->from;
    const igraph_integer_t to = (igraph_integer_t)s->to;
    igraph_error_t failed =
        wide ? igraph_get_widest_path(&t->graph, NULL, &found, from, to, &weights, IGRAPH_OUT)
             : igraph_get_shortest_path_dijkstra(&t->graph, NULL, &found, from, to, &weights,
                                                 IGRAPH_OUT);
    size_t count = failed ? 0 : (size_t)igraph_vector_int_size(&found);
    for (size_t i = 0; i < count; i++)
        arcs[i] = (size_t)VECTOR(found)[i];
    igraph_vector_destroy(&weights);
    igraph_vector_int_destroy(&found);
    return count;
}

static double narrowest(const struct fm_topology *t, const size_t *arcs, size_t count,
                        bool unreserved)
{
    double least = UNKNOWN_CAPACITY;
    for (size_t i = 0; i < count; i++)
        least = fmin(least, width(t, arcs[i], unreserved));
    return least;
}

static int find_arcs(struct fm_topology *t, const struct search *search, size_t *arcs,
                     size_t *count, struct fm_error *err)
{
    struct search s = *search;
    const char *from = t->nodes[s.from].name;
    const char *to = t->nodes[s.to].name;
    *count = best_arcs(t, &s, true, arcs);
    if (*count == 0)
        return fm_error_set(err, FM_E_UNREACHABLE,
                            "no links lead from '%s' to '%s'; see the links of the topology", from,
                            to);
    double widest = narrowest(t, arcs, *count, s.unreserved);
    if (widest < s.at_least)
        return fm_error_set(err, FM_E_NO_SPACE,
                            "no way from '%s' to '%s' has %.0f bit/s free: at most %.0f", from, to,
                            s.at_least, fmax(widest, 0));
    if (s.order == FM_PATH_WIDEST)
        s.at_least = widest; /* the fastest one of the widest */
    *count = best_arcs(t, &s, false, arcs);
    if (*count == 0)
        return fm_error_set(err, FM_E_UNREACHABLE, "no way from '%s' to '%s'", from, to);
    return 0;
}

static uint32_t arc_port(const struct fm_topology *t, size_t arc, bool head)
{
    const struct edge *e = &t->edges[arc / 2];
    return (arc % 2 == 0) == head ? e->port_b : e->port_a;
}

static size_t arc_head(const struct fm_topology *t, size_t arc)
{
    const struct edge *e = &t->edges[arc / 2];
    return arc % 2 == 0 ? e->b : e->a;
}

static void describe(const struct fm_topology *t, const size_t *arcs, size_t count, bool unreserved,
                     struct fm_path *path)
{
    double arrive = 1;
    *path = (struct fm_path){.hops = fm_xcalloc(count, sizeof(*path->hops)), .count = count - 1};
    for (size_t i = 0; i < count; i++) {
        const struct fm_topology_line *line = &t->edges[arcs[i] / 2].line;
        path->latency_ms += line->latency_ms;
        arrive *= 1 - line->loss;
        if (i + 1 == count)
            break;
        const struct node *node = &t->nodes[arc_head(t, arcs[i])];
        struct fm_hop *hop = &path->hops[i];
        snprintf(hop->name, sizeof(hop->name), "%s", node->name);
        hop->dpid = node->dpid;
        hop->in_port = arc_port(t, arcs[i], true);
        hop->out_port = arc_port(t, arcs[i + 1], false);
    }
    double least = narrowest(t, arcs, count, unreserved);
    path->bottleneck_bps = least >= UNKNOWN_CAPACITY ? UINT64_MAX : (uint64_t)fmax(least, 0);
    path->loss = 1 - arrive;
}

static int find_host(const struct fm_topology *t, const char *name, size_t *index,
                     struct fm_error *err)
{
    const struct node *node = find_node(t, name, true);
    if (!node)
        return fm_error_set(err, FM_E_NOT_FOUND,
                            "host '%s' is not in the topology; list it under hosts", name);
    *index = (size_t)(node - t->nodes);
    return 0;
}

static int prepare_search(const struct fm_topology *t, const struct fm_path_request *request,
                          struct search *s, struct fm_error *err)
{
    *s = (struct search){
        .order = request->order, .at_least = (double)request->free_bps, .unreserved = true};
    int rc = find_host(t, request->from, &s->from, err);
    if (rc == 0)
        rc = find_host(t, request->to, &s->to, err);
    if (rc == 0 && s->from == s->to)
        return fm_error_set(err, FM_E_INVALID, "a way from '%s' to itself was asked for",
                            request->from);
    return rc;
}

int fm_topology_path(struct fm_topology *topology, const struct fm_path_request *request,
                     struct fm_path *path, struct fm_error *err)
{
    struct search s;
    size_t count = 0;
    *path = (struct fm_path){0};
    int rc = prepare_search(topology, request, &s, err);
    if (rc < 0)
        return rc;
    fm_autofree size_t *arcs = fm_xcalloc(topology->node_count, sizeof(*arcs));
    lock_graph();
    rc = find_arcs(topology, &s, arcs, &count, err);
    if (rc == 0)
        describe(topology, arcs, count, true, path);
    unlock_graph();
    return rc;
}

static int by_distance(const void *a, const void *b)
{
    const struct fm_route *x = a;
    const struct fm_route *y = b;
    return (x->distance > y->distance) - (x->distance < y->distance);
}

int fm_topology_routes(struct fm_topology *topology, const char *host, enum fm_path_order order,
                       struct fm_route **routes, size_t *count, struct fm_error *err)
{
    struct search s = {.order = order};
    *routes = NULL;
    *count = 0;
    int rc = find_host(topology, host, &s.to, err);
    if (rc < 0)
        return rc;
    fm_autofree size_t *arcs = fm_xcalloc(topology->node_count, sizeof(*arcs));
    struct fm_route *list = fm_xcalloc(topology->switch_count, sizeof(*list));
    lock_graph();
    for (s.from = 0; s.from < topology->switch_count; s.from++) {
        struct fm_error ignored = {0};
        size_t arc_count = 0;
        if (find_arcs(topology, &s, arcs, &arc_count, &ignored) < 0)
            continue;
        struct fm_route *route = &list[(*count)++];
        snprintf(route->name, sizeof(route->name), "%s", topology->nodes[s.from].name);
        route->dpid = topology->nodes[s.from].dpid;
        route->port = arc_port(topology, arcs[0], false);
        route->distance = (unsigned)arc_count - 1;
    }
    unlock_graph();
    qsort(list, *count, sizeof(*list), by_distance);
    *routes = list;
    return 0;
}

/* ---- reservations ---- */

static struct reservation *find_reservation(struct fm_topology *t, const char *id)
{
    for (size_t i = 0; i < t->reservation_count; i++)
        if (fm_streq(t->reservations[i].id, id))
            return &t->reservations[i];
    return NULL;
}

static void book(struct fm_topology *t, const struct reservation *r, double bps)
{
    for (size_t i = 0; i < r->count; i++)
        t->edges[r->arcs[i] / 2].reserved[r->arcs[i] % 2] += bps;
}

static int add_reservation(struct fm_topology *t, const char *id, const struct search *s,
                           struct fm_error *err)
{
    fm_autofree size_t *arcs = fm_xcalloc(t->node_count, sizeof(*arcs));
    struct reservation r = {.from = s->from, .to = s->to, .bps = s->at_least};
    int rc = find_arcs(t, s, arcs, &r.count, err);
    if (rc < 0)
        return rc;
    snprintf(r.id, sizeof(r.id), "%s", id);
    r.arcs = FM_MOVE(arcs);
    book(t, &r, r.bps);
    t->reservations =
        fm_xrealloc(t->reservations, (t->reservation_count + 1) * sizeof(*t->reservations));
    t->reservations[t->reservation_count++] = r;
    return 0;
}

int fm_topology_reserve(struct fm_topology *topology, const char *id,
                        const struct fm_path_request *request, struct fm_path *path,
                        struct fm_error *err)
{
    struct search s;
    *path = (struct fm_path){0};
    if (strlen(id) >= sizeof(topology->reservations->id))
        return fm_error_set(err, FM_E_INVALID, "the id of a reservation is too long: %s", id);
    int rc = prepare_search(topology, request, &s, err);
    if (rc < 0)
        return rc;
    lock_graph();
    if (!find_reservation(topology, id))
        rc = add_reservation(topology, id, &s, err);
    if (rc == 0) {
        const struct reservation *r = find_reservation(topology, id);
        describe(topology, r->arcs, r->count, true, path);
    }
    unlock_graph();
    return rc;
}

bool fm_topology_release(struct fm_topology *topology, const char *id)
{
    lock_graph();
    struct reservation *r = find_reservation(topology, id);
    if (r) {
        book(topology, r, -r->bps);
        free(r->arcs);
        *r = topology->reservations[--topology->reservation_count];
    }
    unlock_graph();
    return r != NULL;
}

bool fm_topology_is_shared(struct fm_topology *topology, const char *id, const char *from,
                           const char *to)
{
    bool shared = false;
    lock_graph();
    for (size_t i = 0; i < topology->reservation_count; i++) {
        const struct reservation *r = &topology->reservations[i];
        shared = shared || (!fm_streq(r->id, id) && fm_streq(topology->nodes[r->from].name, from) &&
                            fm_streq(topology->nodes[r->to].name, to));
    }
    unlock_graph();
    return shared;
}
