#include "daemon/followers.h"

#include <stdlib.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "daemon/followers_file.h"
#include "daemon/yaml_file.h"
#include "network/dns.h"
#include "network/load_balancer.h"
#include "network/sdn.h"

struct reading {
    const char *path;
    struct fm_followers *into;
};

/* Room for one more, behind the others. */
static struct fm_follower *room(struct fm_followers *followers)
{
    followers->items =
        fm_xrealloc(followers->items, (followers->count + 1) * sizeof(*followers->items));
    followers->items[followers->count] = (struct fm_follower){0};
    return &followers->items[followers->count];
}

static void add(struct fm_followers *followers, const char *name)
{
    followers->items[followers->count++].name = fm_xstrdup(name);
}

/* A list for those who want NULL at its end; NULL when nothing is given. The strings are not
 * copied. */
static const char **terminated(const struct raw_list *list)
{
    const char **texts;

    if (list->count == 0)
        return NULL;
    texts = fm_xcalloc(list->count + 1, sizeof(*texts));
    for (unsigned i = 0; i < list->count; i++)
        texts[i] = list->items[i];
    return texts;
}

static int parse_duration(const struct reading *r, const char *section, const char *key,
                          const char *text, uint64_t *ms, struct fm_error *err)
{
    fm_autofree char *message = NULL;

    *ms = 0;
    if (!text || fm_parse_duration(text, ms, NULL) == 0)
        return 0;
    message = fm_strf("'%s' is not a time such as 500ms or 5s", text);
    return fm_yaml_file_error(r->path, section, key, message, err);
}

/* --- dns --- */

static int open_dns(struct reading *r, const struct raw_dns *raw, struct fm_error *err)
{
    fm_autofree const char **zones = terminated(&raw->reverse_zones);
    fm_autofree struct fm_dns_name *names = fm_xcalloc(raw->names_count + 1, sizeof(*names));
    struct fm_dns_config config = {
        .server = raw->server,
        .port = (uint16_t)raw->port,
        .zone = raw->zone,
        .reverse_zones = zones,
        .key_name = raw->key_name,
        .algorithm = raw->algorithm,
        .secret = raw->secret,
        .secret_file = raw->secret_file,
        .retries = raw->retries ? *raw->retries : FM_DNS_RETRIES,
        .low_ttl = raw->low_ttl,
        .names = names,
        .name_count = raw->names_count,
    };
    struct fm_error e = {0};

    if (raw->port > UINT16_MAX)
        return fm_yaml_file_error(r->path, "dns", "port", "it is above 65535", err);
    if (parse_duration(r, "dns", "timeout", raw->timeout, &config.timeout_ms, err) < 0)
        return -FM_E_INVALID;
    for (unsigned i = 0; i < raw->names_count; i++)
        names[i] = (struct fm_dns_name){raw->names[i].container, raw->names[i].name};
    if (fm_dns_open(&config, room(r->into), &e) < 0)
        return fm_error_set(err, e.code, "%s: dns: %s", r->path, e.text);
    add(r->into, "dns");
    return 0;
}

/* --- sdn --- */

static struct fm_topology_line line_of(double latency_ms, uint64_t capacity_bps, double loss)
{
    return (struct fm_topology_line){
        .latency_ms = latency_ms, .capacity_bps = (int64_t)capacity_bps, .loss = loss};
}

/* The arrays of a topology; the strings are the file's. */
struct network_map {
    struct fm_topology_switch *switches;
    struct fm_topology_link *links;
    struct fm_topology_host *hosts;
    struct fm_sdn_port *ports;
};

static void map_clear(struct network_map *map)
{
    free(map->switches);
    free(map->links);
    free(map->hosts);
    free(map->ports);
}

static void map_make(struct network_map *map, const struct raw_sdn *raw)
{
    map->switches = fm_xcalloc(raw->switches_count + 1, sizeof(*map->switches));
    map->links = fm_xcalloc(raw->links_count + 1, sizeof(*map->links));
    map->hosts = fm_xcalloc(raw->hosts_count + 1, sizeof(*map->hosts));
    map->ports = fm_xcalloc(raw->ports_count + 1, sizeof(*map->ports));
    for (unsigned i = 0; i < raw->switches_count; i++)
        map->switches[i] =
            (struct fm_topology_switch){raw->switches[i].name, raw->switches[i].dpid};
    for (unsigned i = 0; i < raw->links_count; i++) {
        const struct raw_link *l = &raw->links[i];
        map->links[i] = (struct fm_topology_link){l->a, l->b, l->port_a, l->port_b,
                                                  line_of(l->latency_ms, l->capacity_bps, l->loss)};
    }
    for (unsigned i = 0; i < raw->hosts_count; i++) {
        const struct raw_sdn_host *h = &raw->hosts[i];
        map->hosts[i] = (struct fm_topology_host){h->name, h->at, h->port,
                                                  line_of(h->latency_ms, h->capacity_bps, h->loss)};
    }
    for (unsigned i = 0; i < raw->ports_count; i++) {
        const struct raw_sdn_host *p = &raw->ports[i];
        map->ports[i] = (struct fm_sdn_port){p->name, p->at, p->port};
    }
}

static int check_sdn(const struct reading *r, const struct raw_sdn *raw, struct fm_error *err)
{
    if (raw->order && !fm_streq(raw->order, "latency") && !fm_streq(raw->order, "widest"))
        return fm_yaml_file_error(r->path, "sdn", "order", "use latency or widest", err);
    if (raw->table > UINT8_MAX)
        return fm_yaml_file_error(r->path, "sdn", "table", "it is above 255", err);
    if (raw->priority > UINT16_MAX)
        return fm_yaml_file_error(r->path, "sdn", "priority", "it is above 65535", err);
    return 0;
}

static int open_sdn(struct reading *r, const struct raw_sdn *raw, struct fm_error *err)
{
    fm_autofree const char **controllers = terminated(&raw->controllers);
    fm_autofree const char **networks = terminated(&raw->networks);
    fm_cleanup(map_clear) struct network_map map = {0};
    struct fm_error e = {0};

    if (check_sdn(r, raw, err) < 0)
        return -FM_E_INVALID;
    map_make(&map, raw);
    struct fm_sdn_config config = {
        .controllers = controllers,
        .ca = raw->ca,
        .cert = raw->cert,
        .key = raw->key,
        .networks = networks,
        .topology = {.switches = map.switches,
                     .switch_count = raw->switches_count,
                     .links = map.links,
                     .link_count = raw->links_count,
                     .hosts = map.hosts,
                     .host_count = raw->hosts_count},
        .ports = map.ports,
        .port_count = raw->ports_count,
        .order = fm_streq(raw->order, "widest") ? FM_PATH_WIDEST : FM_PATH_LATENCY,
        .table = (uint8_t)raw->table,
        .priority = (uint16_t)raw->priority,
        .cookie = raw->cookie,
        .reserve_bps = raw->reserve_bps,
        .queue = raw->queue ? *raw->queue : -1,
        .meter = raw->meter,
    };
    if (parse_duration(r, "sdn", "timeout", raw->timeout, &config.timeout_ms, err) < 0)
        return -FM_E_INVALID;
    if (fm_sdn_open(&config, room(r->into), &e) < 0)
        return fm_error_set(err, e.code, "%s: sdn: %s", r->path, e.text);
    add(r->into, "sdn");
    return 0;
}

/* --- load balancers --- */

static int open_load_balancer(struct reading *r, const struct raw_load_balancer *raw,
                              struct fm_error *err)
{
    fm_autofree const char **containers = terminated(&raw->containers);
    fm_autofree const char **command = terminated(&raw->command);
    fm_autofree char *name = fm_strf("load-balancer %s", raw->name);
    struct fm_haproxy_config haproxy = {0};
    struct fm_load_balancer_config config = {
        .name = raw->name, .containers = containers, .command = command};
    struct fm_error e = {0};

    if (raw->haproxy) {
        haproxy = (struct fm_haproxy_config){.socket = raw->haproxy->socket,
                                             .backend = raw->haproxy->backend,
                                             .server = raw->haproxy->server,
                                             .drain_percent = raw->haproxy->drain_percent};
        config.haproxy = &haproxy;
    }
    if (parse_duration(r, NULL, "load_balancers", raw->timeout, &config.timeout_ms, err) < 0 ||
        parse_duration(r, NULL, "load_balancers", raw->haproxy ? raw->haproxy->drain_wait : NULL,
                       &haproxy.drain_wait_ms, err) < 0)
        return -FM_E_INVALID;
    for (size_t i = 0; i < r->into->count; i++)
        if (fm_streq(r->into->items[i].name, name))
            return fm_error_set(err, FM_E_INVALID, "%s: two load balancers are called '%s'",
                                r->path, raw->name);
    if (fm_load_balancer_open(&config, room(r->into), &e) < 0)
        return fm_error_set(err, e.code, "%s: %s", r->path, e.text);
    add(r->into, name);
    return 0;
}

/* --- all of it --- */

int fm_followers_open(const char *path, struct fm_followers *followers, struct fm_error *err)
{
    struct reading r = {.path = path, .into = followers};
    struct raw_followers *raw = NULL;
    int rc = 0;

    *followers = (struct fm_followers){0};
    if (!fm_file_exists(path))
        return 0;
    rc = fm_followers_file_read(path, &raw, err);
    if (rc == 0 && raw && raw->sdn)
        rc = open_sdn(&r, raw->sdn, err);
    if (rc == 0 && raw && raw->dns)
        rc = open_dns(&r, raw->dns, err);
    for (unsigned i = 0; rc == 0 && raw && i < raw->load_balancers_count; i++)
        rc = open_load_balancer(&r, &raw->load_balancers[i], err);
    fm_followers_file_free(raw);
    if (rc < 0)
        fm_followers_close(followers);
    return rc;
}

void fm_followers_close(struct fm_followers *followers)
{
    for (size_t i = 0; i < followers->count; i++) {
        struct fm_follower *f = &followers->items[i];
        free((char *)(uintptr_t)f->name);
        f->name = NULL;
        if (fm_streq(f->ops->kind, "dns"))
            fm_dns_close(f);
        else if (fm_streq(f->ops->kind, "sdn"))
            fm_sdn_close(f);
        else
            fm_load_balancer_close(f);
    }
    free(followers->items);
    *followers = (struct fm_followers){0};
}
