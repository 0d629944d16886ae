/* Lifecycle: containers of this host between migrations: run, find, list, stop, remove. */
#ifndef FM_MIGRATION_LIFECYCLE_H
#define FM_MIGRATION_LIFECYCLE_H

#include "migration/components.h"

/* The record from the registry and its endpoint; FM_E_NOT_FOUND. The caller frees *container. */
int fm_lifecycle_record(struct fm_components *p, const char *name, struct fm_container **container,
                        struct fm_endpoint *endpoint, bool *has_endpoint, struct fm_error *err);
/* As above with what the runtime says; a container that only the runtime knows is looked at and put
 * into the registry as found. */
int fm_lifecycle_resolve(struct fm_components *p, const char *name, struct fm_container **container,
                         struct fm_endpoint *endpoint, bool *has_endpoint,
                         struct fm_runtime_state *state, struct fm_error *err);

/* Its endpoint, as the network that it is in completes it. */
int fm_lifecycle_endpoint(struct fm_components *p, const struct fm_container *container,
                          struct fm_endpoint *endpoint, struct fm_error *err);

/* Body and documents as in manager.h. */
json_t *fm_lifecycle_run(struct fm_components *p, const json_t *request, struct fm_error *err);
json_t *fm_lifecycle_list(struct fm_components *p, struct fm_error *err);
json_t *fm_lifecycle_show(struct fm_components *p, const char *name, struct fm_error *err);
char *fm_lifecycle_log(struct fm_components *p, const char *name, struct fm_error *err);
json_t *fm_lifecycle_exec(struct fm_components *p, const char *name, const json_t *request,
                          struct fm_error *err);
int fm_lifecycle_stop(struct fm_components *p, const char *name, uint64_t timeout_ms,
                      struct fm_error *err);
int fm_lifecycle_remove(struct fm_components *p, const char *name, bool force,
                        struct fm_error *err);

/* Directories of a container's layers on this host, lowest first. */
int fm_lifecycle_layer_dirs(struct fm_components *p, const struct fm_container *container,
                            struct fm_strv *dirs, struct fm_error *err);
/* Removes layers that no container here uses. */
int fm_lifecycle_prune_layers(struct fm_components *p, struct fm_error *err);

#endif
