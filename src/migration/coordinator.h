/* Coordinator: the story of one migration, from the request to its final state. */
#ifndef FM_MIGRATION_COORDINATOR_H
#define FM_MIGRATION_COORDINATOR_H

#include "migration/migration.h"

/* Runs a new migration in the calling thread until it is final. 0: COMPLETED. Otherwise `err` says
 * why it failed; the migration is rolled back then (FM_E_REFUSED, FM_E_NOT_FOUND, … as code). A
 * daemon that is being stopped after the commit leaves it unfinished. */
int fm_coordinator_run(struct fm_migration *m, struct fm_error *err);

/* Goes on with a migration of a daemon that died, from the journal alone: rolled back when no
 * decision stands, carried to its end otherwise. */
int fm_coordinator_recover(struct fm_migration *m, struct fm_error *err);
/* Another try for the followers that a migration has left, which is final. */
void fm_coordinator_retry(struct fm_migration *m);

/* PENDING and PLANNING alone, without a migration: the preflight document of manager.h. */
json_t *fm_coordinator_check(struct fm_components *parts, const char *container,
                             const char *destination, struct fm_error *err);

#endif
