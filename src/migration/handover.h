/* Handover, the source's side: two-phase commit that moves a container to exactly one owner
 * (migration.md).
 *
 * Before the decision record says COMMIT every failure is undone by letting the original run on;
 * after it the original never runs again. Each function is one act of the story that coordinator.c
 * tells. */
#ifndef FM_MIGRATION_HANDOVER_H
#define FM_MIGRATION_HANDOVER_H

#include "migration/migration.h"

/* PREPARATION: the destination reserves, stages and gets layers, files, volumes and log, while the
 * container runs. */
int fm_handover_prepare(struct fm_migration *m, struct fm_error *err);
/* EXECUTION up to READY: dump and restore armed, freeze, images, last files. The container stands
 * still when it returns 0. */
int fm_handover_transfer(struct fm_migration *m, struct fm_error *err);
/* True when somebody else has killed the original, or it dies as soon as it is let go. */
bool fm_handover_is_killed(const struct fm_migration *m);
/* The decision, durably. 0: COMMIT stands. Otherwise it was aborted (or could not be written). */
int fm_handover_decide(struct fm_migration *m, struct fm_error *err);
/* After the decision: tells the destination until it runs there (reconnecting for as long as it
 * takes), then switches the network, and with `cold` kills the original. FM_E_FAILED: the
 * destination gave the container up for good. */
int fm_handover_commit(struct fm_migration *m, struct fm_error *err);
/* The original is killed and the dump ended: not before the decision. */
void fm_handover_destroy(struct fm_migration *m);
/* VERIFICATION on the destination. */
int fm_handover_verify(struct fm_migration *m, struct fm_error *err);
/* COMPLETED: the destination forgets the images, everything of the container leaves this host. */
int fm_handover_complete(struct fm_migration *m, struct fm_error *err);

/* ROLLBACK before the commit: the original runs on, everything staged goes. Each step is tried
 * whatever the one before it did; negative when one failed. Also the recovery of a migration whose
 * daemon died (then dump, hold and link are NULL and the journal tells what was done). */
int fm_handover_abort(struct fm_migration *m, struct fm_error *err);
/* ROLLBACK after the commit: the destination migrates it back, or, when it is dead there, the
 * newest checkpoint is restored here. *age_ms tells how old that is (0 when it was brought back
 * live). */
int fm_handover_return(struct fm_migration *m, uint64_t *age_ms, struct fm_error *err);

/* Opens the link to the destination unless it is open. */
int fm_handover_connect(struct fm_migration *m, uint64_t timeout_ms, struct fm_error *err);
void fm_handover_disconnect(struct fm_migration *m);
/* The request may have been heard or not: the connection is at fault, not the other host. */
bool fm_handover_is_cut(const struct fm_error *err);
/* Pauses between two attempts; false when the daemon is being stopped. */
bool fm_handover_pause(struct fm_migration *m, uint64_t ms);

#endif
