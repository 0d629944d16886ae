/* Between the files of the lifecycle: what is there (lifecycle.c) and how it starts
 * (lifecycle_run.c). */
#ifndef FM_MIGRATION_LIFECYCLE_INTERNAL_H
#define FM_MIGRATION_LIFECYCLE_INTERNAL_H

#include "migration/lifecycle.h"

/* The record from the registry; the caller frees it. NULL with FM_E_NOT_FOUND. */
struct fm_container *fm_lifecycle_load(struct fm_components *p, const char *name,
                                       struct fm_error *err);
int fm_lifecycle_save(struct fm_components *p, const struct fm_container *c, struct fm_error *err);
/* The document of manager.h; new reference. */
json_t *fm_lifecycle_describe(struct fm_components *p, const struct fm_container *c,
                              const char *status, json_int_t pid);
/* Adds the strings of a list, and nothing else that is in it. */
void fm_lifecycle_add_strings(struct fm_strv *target, const json_t *list);

#endif
