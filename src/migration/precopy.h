/* Pre-copy: memory travels in rounds while the container runs, and the rest of it in the freeze.
 *
 * All of these do nothing for strategy cold. */
#ifndef FM_MIGRATION_PRECOPY_H
#define FM_MIGRATION_PRECOPY_H

#include "migration/migration.h"

/* Rounds until the freeze is expected to fit into max_downtime_ms. When they do not help any more
 * the container is throttled (auto_converge), the strategy becomes hybrid, or FM_E_REFUSED, as the
 * request says. */
int fm_precopy_rounds(struct fm_migration *m, struct fm_error *err);
/* Just before the freeze, when everything else is ready: one round more, since that took a while.
 */
int fm_precopy_last_round(struct fm_migration *m, struct fm_error *err);
/* All tasks are seized: the last pages begin to travel (or are left: hybrid, post-copy). */
int fm_precopy_freeze(struct fm_migration *m, struct fm_error *err);
/* The last pages and the memory index are there. */
int fm_precopy_finish(struct fm_migration *m, struct fm_error *err);
/* What was left begins to travel; nothing when nothing was. */
int fm_precopy_serve(struct fm_migration *m, struct fm_error *err);
/* Gives the container its processor time back; also after a restart of the daemon. */
int fm_precopy_unthrottle(struct fm_migration *m, struct fm_error *err);
/* The container runs there: the original's system calls are not watched any more. */
void fm_precopy_unwatch(struct fm_migration *m);
/* Ends the streams; fine when there are none. */
void fm_precopy_close(struct fm_migration *m);

/* What the memory interface needs to know for this migration. */
struct fm_memory_plan fm_precopy_plan(const struct fm_migration *m);

#endif
