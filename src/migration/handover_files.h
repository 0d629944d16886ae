/* Handover, the container's files: layers, writable layer, volumes, tmpfs mounts and log, from its
 * source to its destination. */
#ifndef FM_MIGRATION_HANDOVER_FILES_H
#define FM_MIGRATION_HANDOVER_FILES_H

#include "migration/migration.h"

/* What those of the container's layers take here on disk that `missing`, an array of digests from a
 * peer, names. */
uint64_t fm_handover_layer_bytes(struct fm_components *p, const struct fm_container *container,
                                 const json_t *missing);
/* The image layers that the destination lacks, an array of digests. */
int fm_handover_send_layers(struct fm_migration *m, const json_t *missing, struct fm_error *err);
/* One pass over the writable layer, the volumes and the tmpfs mounts; the last one lies in the
 * freeze. */
int fm_handover_send_files(struct fm_migration *m, uint64_t changed_after_us, bool last,
                           struct fm_error *err);
/* Before the freeze, when memory has converged: passes over what changed meanwhile, as long as each
 * moves much and less than the one before it. */
int fm_handover_sync_files(struct fm_migration *m, struct fm_error *err);
/* What the log has grown by. */
int fm_handover_send_log(struct fm_migration *m, struct fm_error *err);

#endif
