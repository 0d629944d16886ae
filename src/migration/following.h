/* Following: those outside who are told where a container is (network/follower.h), in their order
 * and back.
 *
 * What each of them found stands in the journal (step "follow") until it is done with the
 * migration. One whose last step fails is tried again and again, by whatever daemon there is, until
 * it succeeds or a later migration of the container has taken its place. */
#ifndef FM_MIGRATION_FOLLOWING_H
#define FM_MIGRATION_FOLLOWING_H

#include "migration/migration.h"

/* PREPARATION: reads, and does what can be done beforehand. Those that an earlier migration of the
 * container has left are tried first. */
int fm_following_prepare(struct fm_migration *m, struct fm_error *err);
/* It runs on the destination. */
int fm_following_switch(struct fm_migration *m, struct fm_error *err);
/* The last step of each of them, whatever another said: `undo` in reverse, or `finish`. Those that
 * fail are in m->left afterwards. */
void fm_following_end(struct fm_migration *m, bool undo);
/* The same for what is left, of a migration that is final; those that a later one has told are
 * dropped. Tells in log and events what came of it. The caller saves the migration. */
void fm_following_retry(struct fm_migration *m);
/* Why the first of them is left; "" nobody is. */
const char *fm_following_problem(const struct fm_migration *m);

#endif
