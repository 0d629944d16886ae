/* A container's cgroup: find it without the runtime, freeze, kill and remove it. cgroup v1, hybrid
 * and v2. */
#ifndef FM_CONTAINER_CGROUP_H
#define FM_CONTAINER_CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/text.h"

/* The directories of one cgroup, one per hierarchy that is mounted: many with v1, one with v2. {0}
 * is empty. */
struct fm_cgroup {
    struct fm_strv dirs;
};
void fm_cgroup_clear(struct fm_cgroup *cg);

/* The directories that exist for `path` ("/fleximigrate/web") below the mounted hierarchies. An
 * empty result is no error: look at dirs.count. */
int fm_cgroup_find(const char *path, struct fm_cgroup *cg, struct fm_error *err);

/* Freezes or thaws, and waits up to timeout_ms until the kernel says that it is so. Uses the v1
 * freezer when the processes are in one, else cgroup.freeze. After a failed freeze the cgroup may
 * stay half frozen: thaw it. */
int fm_cgroup_freeze(const struct fm_cgroup *cg, bool frozen, uint64_t timeout_ms,
                     struct fm_error *err);

/* Every process in it and below it; the caller frees *pids. */
int fm_cgroup_processes(const struct fm_cgroup *cg, pid_t **pids, size_t *count,
                        struct fm_error *err);

/* Freezes, sends SIGKILL to every process, thaws. None runs another instruction of its own. */
int fm_cgroup_kill(const struct fm_cgroup *cg, struct fm_error *err);

/* Removes the directories and those below, waiting up to timeout_ms for the last process to go. */
int fm_cgroup_remove(const struct fm_cgroup *cg, uint64_t timeout_ms, struct fm_error *err);

#endif
