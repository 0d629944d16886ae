/* Peer: answers what other hosts' daemons ask over the wire. */
#ifndef FM_MIGRATION_PEER_H
#define FM_MIGRATION_PEER_H

#include "migration/components.h"
#include "migration/incoming.h"
#include "wire/connection.h"

struct fm_peer_service {
    struct fm_components *parts;
    struct fm_incoming_table *incoming;
    /* Migrates the container of an incoming migration back to its source, to the end; 0 when it
     * runs there. `request` as for POST /v1/migrations. */
    int (*give_back)(void *ctx, const json_t *request, const char *return_of, struct fm_error *err);
    /* This host as the registry shows it. */
    json_t *(*self)(void *ctx);
    void *ctx;
};

/* One connection: who is there and which migration it brought. */
struct fm_conversation {
    const struct fm_peer_service *service;
    const char *peer;            /* the other host's name */
    struct fm_connection *c;     /* for the requests that a stream follows */
    struct fm_incoming *brought; /* by PREPARE on this connection */
    struct fm_incoming *pages;   /* whose pages it carries from here on */
};
/* The answer to one request, a new reference; NULL with err. */
json_t *fm_peer_answer(struct fm_conversation *v, enum fm_frame_type type, const json_t *body,
                       struct fm_error *err);

/* Serves one connection to its end. */
void fm_peer_serve(const struct fm_peer_service *service, struct fm_connection *c);

#endif
