/* Replica: documents that every host has a copy of.
 *
 * Kinds are "network" (key: its name) and "lease" (key: network/address). A document carries who
 * wrote it when ("updated_us", "updated_by"), and stays as "removed" for a while, so that a host
 * that was away learns of that, too. The newest wins: by updated_us, then by the writer's name. A
 * writer's stamp is always later than that of what it replaces, whatever its clock says. */
#ifndef FM_MIGRATION_REPLICA_H
#define FM_MIGRATION_REPLICA_H

#include "migration/components.h"

#define FM_KIND_NETWORK "network"
#define FM_KIND_LEASE "lease"

/* Those that are not removed; new reference. */
json_t *fm_replica_live(struct fm_components *p, const char *kind, struct fm_error *err);
/* The one of this key, new reference; NULL with FM_E_NOT_FOUND when it is removed as well. */
json_t *fm_replica_get(struct fm_components *p, const char *kind, const char *key,
                       struct fm_error *err);
/* Stamps and stores a document (stolen) of this host's, applies it here, and leaves it to the next
 * pass to tell the others. With the lock held. */
int fm_replica_write(struct fm_components *p, const char *kind, json_t *doc, struct fm_error *err);
/* The same, "removed" set; nothing when there is none. With the lock held. */
int fm_replica_remove(struct fm_components *p, const char *kind, const char *key,
                      struct fm_error *err);
/* Another host's document: checked, and kept when it is newer. *problem (may be NULL) says what of
 * it could not be put into effect here. */
int fm_replica_learn(struct fm_components *p, const char *kind, const json_t *foreign,
                     struct fm_error *problem, struct fm_error *err);
/* "default/10.88.0.5"; the caller frees it. NULL when the document has no key. */
char *fm_replica_key(const char *kind, const json_t *doc);

/* Tells what is untold, and exchanges everything with hosts that are met again. `problems` (may be
 * NULL) gets what they could not put into effect, as "host-b: …". */
void fm_replica_pass(struct fm_components *p, json_t *problems);
/* Hears what every host that can be reached has changed, now. */
void fm_replica_catch_up(struct fm_components *p);
/* A request "sync", "learn" or "documents" of another host's. */
json_t *fm_replica_answer(struct fm_components *p, const char *op, const json_t *body,
                          struct fm_error *err);

/* Asks one host; NULL with err. One that cannot be reached is met again later. */
json_t *fm_replica_ask(struct fm_components *p, const struct fm_host *host, const json_t *body,
                       struct fm_error *err);
/* The host answered when it was last asked, and has all documents. */
bool fm_replica_has_met(struct fm_components *p, const char *host);
/* The other hosts of the registry, new reference. */
json_t *fm_replica_hosts(struct fm_components *p);

#endif
