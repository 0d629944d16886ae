/* Between the files of the load balancer: HAProxy (load_balancer_haproxy.c) and commands
 * (load_balancer.c). */
#ifndef FM_NETWORK_LOAD_BALANCER_INTERNAL_H
#define FM_NETWORK_LOAD_BALANCER_INTERNAL_H

#include <stdbool.h>

#include "base/text.h"
#include "network/load_balancer.h"

struct fm_load_balancer {
    char *name;
    bool all; /* containers: every one */
    struct fm_strv containers;
    uint64_t timeout_ms;
    struct fm_strv command;
    char *socket, *backend, *server; /* HAProxy */
    unsigned drain_percent;
    uint64_t drain_wait_ms;
};

extern const struct fm_follower_ops fm_haproxy_follower_ops;

/* Whether the configuration names this container. */
bool fm_load_balancer_concerns(const struct fm_load_balancer *lb, const char *container);
/* Puts "load balancer 'name': " in front of an error; returns rc. */
int fm_load_balancer_result(const struct fm_load_balancer *lb, int rc, struct fm_error *err);

#endif
