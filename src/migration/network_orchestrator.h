/* Network orchestrator: the order in which a container's network goes along with it, and its way
 * back.
 *
 * hold → followers prepared → (freeze) held → (commit) forwarded, hosts told → followers switched →
 * finished. Each step is journalled before it is taken; undoing goes the other way, and any of
 * these may be repeated after a crash. */
#ifndef FM_MIGRATION_NETWORK_ORCHESTRATOR_H
#define FM_MIGRATION_NETWORK_ORCHESTRATOR_H

#include "migration/migration.h"

/* PREPARATION: the packet hold is made, and followers do what can be done beforehand; what they
 * found is in the journal first. */
int fm_orchestrator_prepare(struct fm_migration *m, struct fm_error *err);
/* The freeze is next: new connections wait from here on, and those that have begun are accepted,
 * because others cannot move along. On the way back of a migration it goes on without those. */
int fm_orchestrator_settle(struct fm_migration *m, struct fm_error *err);
/* The container stands still: its packets wait. In the freeze. */
int fm_orchestrator_hold(struct fm_migration *m, struct fm_error *err);
/* It runs on the destination: packets go there. What fails here is mended by the announcement of
 * the destination, and logged. */
void fm_orchestrator_switch(struct fm_migration *m);
/* All hosts hear of it, at the same time; m->untold are those that did not. */
void fm_orchestrator_announce(struct fm_migration *m);
/* COMPLETED: nothing of the transition is left, neither here nor at the followers, but for m->left
 * (following.h). */
void fm_orchestrator_finish(struct fm_migration *m);

/* ROLLBACK: the container runs on here, and gets what was held. */
int fm_orchestrator_release(struct fm_migration *m, struct fm_error *err);
/* The hold is gone, its counters are kept. */
void fm_orchestrator_end_hold(struct fm_migration *m);
/* Followers are what they were before, last ones first, but for m->left. */
void fm_orchestrator_undo(struct fm_migration *m);

#endif
