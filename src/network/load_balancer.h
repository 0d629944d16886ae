/* External load balancers follow a container: HAProxy through its runtime API, any other one by a
 * command of the operator's. */
#ifndef FM_NETWORK_LOAD_BALANCER_H
#define FM_NETWORK_LOAD_BALANCER_H

#include <stdint.h>

#include "network/follower.h"

struct fm_haproxy_config {
    const char *socket;     /* "/run/haproxy/admin.sock", or "ADDRESS:PORT"; of level admin */
    const char *backend;    /* that the container is a server of */
    const char *server;     /* its name there; NULL: the container's */
    unsigned drain_percent; /* of its weight, which it keeps while it moves; 0 only as long as
                               another server of the backend gets requests */
    uint64_t drain_wait_ms; /* how long PREPARATION waits for its sessions to end; 0: it does not.
                               What is left at the end moves along */
};

struct fm_load_balancer_config {
    const char *name;              /* for people; NULL: none */
    const char *const *containers; /* NULL-terminated; NULL: every container, with HAProxy every one
                                      that the backend has a server for */
    uint64_t timeout_ms;           /* of each step, waiting for sessions apart; 0: 5 s */
    const struct fm_haproxy_config *haproxy;
    const char *const *command; /* instead of haproxy: an argument vector, NULL-terminated */
};

/* Makes the follower, without asking anybody; all is copied. FM_E_INVALID names what is wrong.
 *
 * HAProxy: `prepare` drains the server's weight, `switch_over` sets its new address if that changes
 * (the container's own, or its host's for a published port) and the weight that it had, `finish`
 * waits until HAProxy finds it up if it was.
 *
 * A command is run with FLEXIMIGRATE_PHASE=prepare, switch, finish or undo, and in
 * FLEXIMIGRATE_MIGRATION, _CONTAINER, _NETWORK, _MAC, _OLD_IP, _NEW_IP, _OLD_IP6, _NEW_IP6,
 * _SOURCE, _DESTINATION, _SOURCE_ADDRESS, _DESTINATION_ADDRESS with what fm_move says. Another exit
 * code than 0 is a failure, whose reason is the last line of its stderr. Past the timeout it and
 * its children get SIGTERM, and 2 s later SIGKILL. */
int fm_load_balancer_open(const struct fm_load_balancer_config *config,
                          struct fm_follower *follower, struct fm_error *err);
void fm_load_balancer_close(struct fm_follower *follower); /* {0} is fine */

#endif
