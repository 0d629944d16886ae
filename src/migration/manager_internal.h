/* Between the files of the manager: its life (manager.c), its threads (manager_threads.c), and what
 * it passes on (manager_pass.c). */
#ifndef FM_MIGRATION_MANAGER_INTERNAL_H
#define FM_MIGRATION_MANAGER_INTERNAL_H

#include <pthread.h>

#include "migration/components.h"
#include "migration/incoming.h"
#include "migration/manager.h"
#include "migration/migration.h"
#include "migration/peer.h"

enum errand {
    ERRAND_RUN,
    ERRAND_RECOVER,
    ERRAND_RETRY, /* of followers that a migration has left */
};

/* A migration's thread. */
struct running {
    struct fm_manager *manager;
    struct fm_migration *migration;
    enum errand errand;
    struct running *next;
};

/* A connection that is being served, so that closing can wake it. */
struct served {
    struct fm_connection *connection;
    struct served *next;
};

struct fm_manager {
    struct fm_manager_config config;
    struct fm_components parts;
    struct fm_link_wire wire;
    struct fm_tls_identity *identity;
    struct fm_incoming_table *incoming;
    struct fm_peer_service peers;
    struct fm_listener *listener;
    char *migrations_dir;
    char *pages_dir;
    char *criu; /* the real one */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct running *running;
    struct served *served;
    bool closing, ready;
    pthread_t watch; /* looks after deadlines */
    bool watching;
    pthread_t networking; /* tells other hosts of networks and leases */
    bool is_networking;
};

/* FM_E_REFUSED when the container is being migrated just now. */
bool fm_manager_is_busy(struct fm_manager *m, const char *container, struct fm_error *err);
/* Enters a migration into the table; FM_E_EXISTS when its container is on the way already, unless
 * it is one that waits for its turn in recovery. Takes it over only on success. */
int fm_manager_enter(struct fm_manager *m, struct fm_migration *migration, enum errand errand,
                     struct running **out, struct fm_error *err);
void fm_manager_leave(struct fm_manager *m, struct running *r);
/* Gives it a thread, which frees both; so does a failure. */
int fm_manager_start(struct running *r, struct fm_error *err);
/* Looks after deadlines and followers, and serves the networks, until the manager is closed. */
void fm_manager_start_watching(struct fm_manager *m);
/* Enters the members of the fabric: hosts of the registry, and those of the configuration that have
 * no daemon. */
void fm_manager_connect_fabric(struct fm_manager *m);

#endif
