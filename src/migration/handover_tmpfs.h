/* Handover, the container's tmpfs mounts: their content travels like that of a volume, in passes
 * while the container runs and a last one in the freeze, which is free when nothing has changed. */
#ifndef FM_MIGRATION_HANDOVER_TMPFS_H
#define FM_MIGRATION_HANDOVER_TMPFS_H

#include "migration/incoming.h"
#include "migration/migration.h"

/* Source. Finds them; makes nothing yet. */
int fm_handover_tmpfs_find(struct fm_migration *m, struct fm_error *err);
/* From the journal, for the ways back of a migration whose daemon died. */
void fm_handover_tmpfs_recall(struct fm_migration *m);
/* They appear below the migration's directory. */
int fm_handover_tmpfs_attach(struct fm_migration *m, struct fm_error *err);
/* One pass over them; m->mapped_files is up to date. */
int fm_handover_tmpfs_send(struct fm_migration *m, uint64_t changed_after_us, bool last,
                           struct fm_error *err);
/* Those of the mapped files that lie below `target` ("/data"), relative to it. */
void fm_handover_mapped_below(const struct fm_strv *mapped, const char *target,
                              struct fm_strv *below);
/* Takes a tree's print into *print; true when it is the one that was there before and nothing of
 * the tree was mapped shared: then a pass has nothing to do. */
bool fm_handover_is_unchanged(const char *path, const struct fm_strv *mapped,
                              struct fm_tree_print *print);
/* Removes a migration's directory, on either host, with what is mounted there. */
int fm_handover_remove_dir(const char *dir, struct fm_error *err);

/* Destination. */
int fm_incoming_tmpfs_stage(struct fm_incoming *in, const json_t *list, struct fm_error *err);
int fm_incoming_tmpfs_receive(struct fm_incoming *in, struct fm_connection *c, const char *index,
                              struct fm_error *err);

#endif
