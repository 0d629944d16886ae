/* Processor time of a container's cgroup: read, cut, given back. cgroup v1 and v2. Source:
 * Documentation/scheduler/sched-bwc.rst, admin-guide/cgroup-v2.rst (cpu.max). */
#ifndef FM_CONTAINER_CPU_LIMIT_H
#define FM_CONTAINER_CPU_LIMIT_H

#include <stdint.h>

#include "container/cgroup.h"

struct fm_cpu_limit {
    int64_t quota_us; /* of processor time in each period; -1: no limit */
    int64_t period_us;
    uint64_t used_us; /* all of it so far; 0: not known. Only ever read */
};

int fm_cpu_limit_read(const struct fm_cgroup *cg, struct fm_cpu_limit *limit, struct fm_error *err);
int fm_cpu_limit_write(const struct fm_cgroup *cg, const struct fm_cpu_limit *limit,
                       struct fm_error *err);
/* What the cgroup has used of `now` lately: since `before`, which was read `elapsed_us` ago. `now`
 * where that is not known. */
struct fm_cpu_limit fm_cpu_limit_used(const struct fm_cpu_limit *before,
                                      const struct fm_cpu_limit *now, uint64_t elapsed_us);
/* What is left of `limit` (without one: of `cpus` processors) when `percent` of it is taken away.
 */
struct fm_cpu_limit fm_cpu_limit_cut(const struct fm_cpu_limit *limit, unsigned percent,
                                     unsigned cpus);

#endif
