/* followers.yaml as it is written: what is not given is NULL or 0. */
#ifndef FM_DAEMON_FOLLOWERS_FILE_H
#define FM_DAEMON_FOLLOWERS_FILE_H

#include <stdint.h>

#include "base/error.h"

struct raw_list {
    char **items;
    unsigned count;
};

struct raw_dns_name {
    char *container, *name;
};

struct raw_dns {
    char *server, *zone, *key_name, *algorithm, *secret, *secret_file, *timeout;
    struct raw_list reverse_zones;
    uint32_t port, low_ttl;
    uint32_t *retries;
    struct raw_dns_name *names;
    unsigned names_count;
};

struct raw_switch {
    char *name;
    uint64_t dpid;
};

struct raw_link {
    char *a, *b;
    uint32_t port_a, port_b;
    uint64_t capacity_bps;
    double latency_ms, loss;
};

struct raw_sdn_host {
    char *name, *at;
    uint32_t port;
    uint64_t capacity_bps;
    double latency_ms, loss;
};

struct raw_sdn {
    struct raw_list controllers, networks;
    char *ca, *cert, *key, *timeout, *order;
    struct raw_switch *switches;
    struct raw_link *links;
    struct raw_sdn_host *hosts, *ports;
    unsigned switches_count, links_count, hosts_count, ports_count;
    uint32_t table, priority, meter;
    uint64_t cookie, reserve_bps;
    int64_t *queue;
};

struct raw_haproxy {
    char *socket, *backend, *server, *drain_wait;
    uint32_t drain_percent;
};

struct raw_load_balancer {
    char *name, *timeout;
    struct raw_list containers, command;
    struct raw_haproxy *haproxy;
};

struct raw_followers {
    struct raw_sdn *sdn;
    struct raw_dns *dns;
    struct raw_load_balancer *load_balancers;
    unsigned load_balancers_count;
};

/* *raw is NULL when the file says nothing. Errors start with FILE:LINE:COLUMN. */
int fm_followers_file_read(const char *path, struct raw_followers **raw, struct fm_error *err);
void fm_followers_file_free(struct raw_followers *raw);

#endif
