/* Which cgroup belongs to a container of runc, also when runc has forgotten the container. */
#ifndef FM_CONTAINER_RUNC_CGROUP_H
#define FM_CONTAINER_RUNC_CGROUP_H

#include "base/error.h"
#include "container/cgroup.h"

/* <cgroup_parent>/<id>, where all of ours are; an empty result is no error. */
int fm_runc_cgroup_usual(const char *cgroup_parent, const char *id, struct fm_cgroup *cg,
                         struct fm_error *err);
/* <cgroup_parent>/<id>; else where runc's state says (a found container), which is noted in `root`
 * for later. FM_E_NOT_FOUND when there is none. */
int fm_runc_cgroup_find(const char *root, const char *cgroup_parent, const char *id,
                        struct fm_cgroup *cg, struct fm_error *err);
/* Drops the note. */
void fm_runc_cgroup_forget(const char *root, const char *id);

#endif
