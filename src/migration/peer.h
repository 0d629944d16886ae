/* Peer: answers what other hosts' daemons ask over the wire. */
#ifndef FM_MIGRATION_PEER_H
#define FM_MIGRATION_PEER_H

#include "migration/components.h"
#include "migration/incoming.h"
#include "wire/connection.h"

struct fm_peer_service {
    struct fm_components *parts;
    struct fm_incoming_table *incoming;
    /* Migrates a container of an incoming migration back to its source, to the end; 0 when it runs
     * there. */
    int (*give_back)(void *ctx, const char *container, const char *destination,
                     const char *return_of, struct fm_error *err);
    /* This host as the registry shows it. */
    json_t *(*self)(void *ctx);
    void *ctx;
};

/* Serves one connection to its end. */
void fm_peer_serve(const struct fm_peer_service *service, struct fm_connection *c);

#endif
