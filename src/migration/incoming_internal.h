/* Between the files of the incoming migration: how it is prepared (incoming.c), what it receives
 * (incoming_files.c) and how it ends (incoming_run.c). */
#ifndef FM_MIGRATION_INCOMING_INTERNAL_H
#define FM_MIGRATION_INCOMING_INTERNAL_H

#include "migration/incoming.h"

/* All of a host. */
struct fm_incoming_table {
    struct fm_components *parts;
    pthread_mutex_t lock;
    pthread_mutex_t admission; /* from the check of a name to its entry */
    struct fm_incoming *first;
};

/* A migration of ours after its commit, whose rollback brings the container back: then the name is
 * free for it. `peer` NULL: from whichever host. */
bool fm_incoming_is_return(struct fm_components *p, const char *return_of, const char *container,
                           const char *peer);
/* Digests of the container's layers that this host has not. */
json_t *fm_incoming_missing_layers(struct fm_components *p, const struct fm_container *container);
/* FM_E_REFUSED, FM_E_AUTH: why it may not be prepared here. */
int fm_incoming_admissible(struct fm_incoming_table *t, const struct fm_incoming *in,
                           const char *peer, struct fm_error *err);

/* Moves to a stage and writes it to the journal. */
int fm_incoming_enter(struct fm_incoming *in, enum fm_stage stage, struct fm_error *err);
/* What of VERIFY's time is left: at least 1 ms; 0: there is no limit. */
uint64_t fm_incoming_verify_left(const struct fm_incoming *in);
/* The health check of the container's record; `report` (256 bytes) gets the last answer. */
int fm_incoming_check_health(struct fm_incoming *in, char *report, struct fm_error *err);
/* The part of VERIFY after the health check, whose result is `health` (with *err, not NULL): asks
 * for each dependency. Returns the first failure; *err tells all of them. */
int fm_incoming_check_dependencies(struct fm_incoming *in, int health, struct fm_error *err);
/* Starts the runtime's restore, held before CRIU. */
int fm_incoming_start_restore(struct fm_incoming *in, struct fm_error *err);
/* Tries again to remove what is left of a discarded one. */
int fm_incoming_discard_again(struct fm_incoming *in, struct fm_error *err);
/* Asks the source once for its decision and follows it, after the commit whether it has let go;
 * true when there is more to ask. */
bool fm_incoming_ask(struct fm_incoming *in);
/* Stages the endpoint; until the switch this host, too, finds the container on the source. `anew`:
 * in a new network namespace, for in the old one the sockets of an original or of a first attempt
 * may still be closing, and their addresses are taken then. */
int fm_incoming_provide_network(struct fm_incoming *in, bool anew, struct fm_error *err);
/* The memory, step by step; nothing for strategy cold. Its promise was made, and grows with it. */
int fm_incoming_memory_stage(struct fm_incoming *in, struct fm_error *err);
int fm_incoming_memory_pager(struct fm_incoming *in, struct fm_error *err);
bool fm_incoming_memory_is_cut_off(struct fm_incoming *in);
void fm_incoming_memory_reopen(struct fm_incoming *in);
int fm_incoming_memory_settle(struct fm_incoming *in, struct fm_error *err);
void fm_incoming_memory_restored(struct fm_incoming *in);
/* Waits until all of it is in place. */
int fm_incoming_memory_complete(struct fm_incoming *in, struct fm_error *err);
int fm_incoming_memory_discard(struct fm_incoming *in, struct fm_error *err);
/* The daemon stops: a pager whose container runs goes on alone. */
void fm_incoming_memory_leave(struct fm_incoming *in);
void fm_incoming_memory_orphaned(struct fm_incoming *in);
/* What runs here may wait for pages: finds its pager. *whole: it can go on; else its pager has
 * died, and it must be restored again. */
int fm_incoming_memory_recover(struct fm_incoming *in, bool *whole, struct fm_error *err);

/* There is something that only the source knows. */
bool fm_incoming_has_questions(const struct fm_incoming *in);
/* With the lock held, or before anybody else knows it. */
void fm_incoming_start_asking(struct fm_incoming *in);
/* From the journal into the table. */
struct fm_incoming *fm_incoming_load(struct fm_incoming_table *t, const char *id,
                                     struct fm_error *err);

#endif
