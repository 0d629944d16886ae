/* After the commit: memory that is still on its way to its place, from the source (post-copy,
 * hybrid) or from the destination's own page store. Nothing for strategy cold. */
#ifndef FM_MIGRATION_POSTCOPY_H
#define FM_MIGRATION_POSTCOPY_H

#include "migration/migration.h"

/* The container runs there: what was left here travels on, in a new daemon again. */
int fm_postcopy_serve(struct fm_migration *m, struct fm_error *err);
/* Waits until all memory is in place. Lost connections are made again as long as pages are missing
 * there: they are nowhere else. */
int fm_postcopy_fill(struct fm_migration *m, struct fm_error *err);
/* True while the frozen original is the only one that has some of the memory. */
bool fm_postcopy_is_needed(const struct fm_migration *m);

#endif
