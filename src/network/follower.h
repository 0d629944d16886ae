/* Follower: an outside party that is told where a container is (DNS, an SDN controller, a load
 * balancer). Each step may be repeated after a crash, and finds its work done then. */
#ifndef FM_NETWORK_FOLLOWER_H
#define FM_NETWORK_FOLLOWER_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/cancel.h"
#include "base/error.h"

/* A container that goes from one host to another. Strings are never NULL. */
struct fm_move {
    const char *migration; /* id */
    const char *container;
    const char *network;
    const char *mac;
    const char *old_ip, *new_ip;      /* without prefix; the same when the address moves along */
    const char *old_ip6, *new_ip6;    /* "": none */
    const char *source, *destination; /* hosts' names */
    const char *source_address, *destination_address; /* of the underlay */
    struct fm_cancel cancel;                          /* ends its waits; {0}: nobody does */
};

/* In this order; `undo` at any point instead of what remains. All may block, none longer than the
 * follower's own timeout; while they wait they look at the move's `cancel`, and fail as it says. */
struct fm_follower_ops {
    const char *kind; /* "dns", "sdn", "load-balancer" */
    /* `finish` and `undo` change only what is as this move has made it: they may even come when the
     * container has moved on. */
    bool guarded;
    /* What is there, as `undo` needs it and the journal keeps it (new reference in *before); NULL
     * with 0: this move does not concern it, and no other function is called. Changes nothing. */
    int (*read)(void *ctx, const struct fm_move *move, json_t **before, struct fm_error *err);
    /* PREPARATION: all that can be done while the container still runs on the source. */
    int (*prepare)(void *ctx, const struct fm_move *move, const json_t *before,
                   struct fm_error *err);
    /* The container runs on the destination: clients go there from now on. Short. */
    int (*switch_over)(void *ctx, const struct fm_move *move, const json_t *before,
                       struct fm_error *err);
    /* The migration is complete: takes away what was there for the transition only. */
    int (*finish)(void *ctx, const struct fm_move *move, const json_t *before,
                  struct fm_error *err);
    /* Everything as `before` says, whichever of the steps were done, even by half. What somebody
     * else has changed meanwhile stays, and is an error. */
    int (*undo)(void *ctx, const struct fm_move *move, const json_t *before, struct fm_error *err);
};

struct fm_follower {
    const char *name; /* of its own; the same after a restart */
    const struct fm_follower_ops *ops;
    void *ctx;
};

#endif
