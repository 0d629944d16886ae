/* Components: what a migration works with on one host. Real ones are put together by the manager,
 * fakes by the tests. */
#ifndef FM_MIGRATION_COMPONENTS_H
#define FM_MIGRATION_COMPONENTS_H

#include <pthread.h>
#include <stdint.h>

#include "cluster/store.h"
#include "container/bundle.h"
#include "container/image.h"
#include "container/runtime.h"
#include "migration/allocator.h"
#include "migration/events.h"
#include "migration/journal.h"
#include "migration/link.h"
#include "migration/memory_interface.h"
#include "migration/state_interface.h"
#include "network/follower.h"
#include "network/network.h"

struct fm_incoming_table;
struct fm_networks;

struct fm_components {
    const char *host;           /* this host's name */
    const char *advertise;      /* its underlay address */
    const char *migrations_dir; /* <state>/migrations: one directory each */
    struct fm_journal *journal;
    struct fm_store store;
    struct fm_runtime runtime;
    struct fm_network network;
    const struct fm_follower *followers; /* told in this order, and undone in reverse */
    size_t follower_count;
    struct fm_networks *networks; /* and the addresses in them; NULL: only the default network, and
                                     nobody keeps a list of addresses */
    uint64_t relay_limit_us;      /* how long hosts that are away may send to where it was */
    struct fm_state_interface state;
    struct fm_memory memory;        /* without operations: strategy cold only */
    _Atomic double freeze_fixed_ms; /* what a freeze costs beside its pages, of the last few; 0: not
                                       known yet */
    struct fm_links links;          /* to other hosts */
    struct fm_image_store *images;
    struct fm_bundle_config bundles;
    pthread_mutex_t images_lock; /* from an import to its record, and while layers are pruned */
    struct fm_incoming_table *incoming; /* whose layers are in use too; NULL: none */
    struct fm_events *events;
    struct fm_slots *slots_in;            /* incoming ones; NULL: no limit */
    struct fm_slots *slots;               /* migrations at a time */
    struct fm_reservations *reservations; /* memory and disk promised to incoming containers */
    /* Facts of this host (preflight.h); new reference. */
    json_t *(*facts)(void *ctx, struct fm_error *err);
    void *facts_ctx;
};

#endif
