/* Hosts: the other members of the cluster as this one knows them. Documents as in manager.h. */
#ifndef FM_MIGRATION_HOSTS_H
#define FM_MIGRATION_HOSTS_H

#include "migration/components.h"

/* Writes this host's own entry (keeping its cordon). */
int fm_hosts_enter_self(struct fm_components *p, int wire_port, int api_port, struct fm_error *err);
/* This host's document with its facts. */
json_t *fm_hosts_self(struct fm_components *p, struct fm_error *err);
json_t *fm_hosts_list(struct fm_components *p, struct fm_error *err);
json_t *fm_hosts_show(struct fm_components *p, const char *name, struct fm_error *err);
json_t *fm_hosts_add(struct fm_components *p, const json_t *request, struct fm_error *err);
int fm_hosts_remove(struct fm_components *p, const char *name, struct fm_error *err);
int fm_hosts_cordon(struct fm_components *p, const char *name, bool cordoned, struct fm_error *err);

#endif
