#include "container/cpu_limit.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"

#define PERIOD_US 100000
/* The kernel takes no less. */
#define QUOTA_MIN_US 1000

/* The path of a file of the cgroup, in whichever hierarchy has it; NULL when none does. */
static char *find(const struct fm_cgroup *cg, const char *name)
{
    for (size_t i = 0; i < cg->dirs.count; i++) {
        char *path = fm_strf("%s/%s", cg->dirs.items[i], name);
        if (fm_file_exists(path))
            return path;
        free(path);
    }
    return NULL;
}

static int none(struct fm_error *err)
{
    return fm_error_set(err, FM_E_REFUSED,
                        "the container has no cgroup that limits processor time");
}

static int read_number(const struct fm_cgroup *cg, const char *name, int64_t *value,
                       struct fm_error *err)
{
    fm_autofree char *path = find(cg, name);
    fm_autofree char *line = path ? fm_file_line(path) : NULL;
    if (!line)
        return none(err);
    *value = strtoll(line, NULL, 10);
    return 0;
}

/* "max 100000", "50000 100000". */
static int parse_max(const char *line, struct fm_cpu_limit *limit, struct fm_error *err)
{
    limit->quota_us = -1;
    if (sscanf(line, "max %" SCNd64, &limit->period_us) == 1 ||
        sscanf(line, "%" SCNd64 " %" SCNd64, &limit->quota_us, &limit->period_us) == 2)
        return 0;
    return fm_error_set(err, FM_E_FAILED, "cpu.max reads '%s'", line);
}

/* In nanoseconds of v1, or a line of v2's. */
static uint64_t read_used_us(const struct fm_cgroup *cg)
{
    int64_t used_ns = 0;
    uint64_t used_us = 0;
    fm_autofree char *v2 = find(cg, "cpu.stat");
    fm_autofree char *line = v2 ? fm_file_line(v2) : NULL;
    if (line && sscanf(line, "usage_usec %" SCNu64, &used_us) == 1)
        return used_us;
    return read_number(cg, "cpuacct.usage", &used_ns, NULL) == 0 ? (uint64_t)used_ns / 1000 : 0;
}

int fm_cpu_limit_read(const struct fm_cgroup *cg, struct fm_cpu_limit *limit, struct fm_error *err)
{
    limit->used_us = read_used_us(cg);
    fm_autofree char *v2 = find(cg, "cpu.max");
    fm_autofree char *line = v2 ? fm_file_line(v2) : NULL;
    if (line)
        return parse_max(line, limit, err);
    int rc = read_number(cg, "cpu.cfs_quota_us", &limit->quota_us, err);
    return rc < 0 ? rc : read_number(cg, "cpu.cfs_period_us", &limit->period_us, err);
}

static int write_number(const struct fm_cgroup *cg, const char *name, int64_t value,
                        struct fm_error *err)
{
    fm_autofree char *path = find(cg, name);
    fm_autofree char *text = fm_strf("%" PRId64, value);
    return path ? fm_file_poke(path, text, err) : none(err);
}

int fm_cpu_limit_write(const struct fm_cgroup *cg, const struct fm_cpu_limit *limit,
                       struct fm_error *err)
{
    fm_autofree char *v2 = find(cg, "cpu.max");
    fm_autofree char *text =
        limit->quota_us < 0 ? fm_strf("max %" PRId64, limit->period_us)
                            : fm_strf("%" PRId64 " %" PRId64, limit->quota_us, limit->period_us);
    if (v2)
        return fm_file_poke(v2, text, err);
    int rc = write_number(cg, "cpu.cfs_period_us", limit->period_us, err);
    return rc < 0 ? rc : write_number(cg, "cpu.cfs_quota_us", limit->quota_us, err);
}

struct fm_cpu_limit fm_cpu_limit_used(const struct fm_cpu_limit *before,
                                      const struct fm_cpu_limit *now, uint64_t elapsed_us)
{
    struct fm_cpu_limit used = *now;
    if (!before->used_us || now->used_us <= before->used_us || elapsed_us == 0)
        return used;
    if (used.period_us <= 0)
        used.period_us = PERIOD_US;
    double part = (double)(now->used_us - before->used_us) / (double)elapsed_us;
    int64_t quota = (int64_t)(part * (double)used.period_us) + 1;
    if (used.quota_us <= 0 || quota < used.quota_us)
        used.quota_us = quota;
    return used;
}

struct fm_cpu_limit fm_cpu_limit_cut(const struct fm_cpu_limit *limit, unsigned percent,
                                     unsigned cpus)
{
    struct fm_cpu_limit cut = {.period_us = limit->period_us > 0 ? limit->period_us : PERIOD_US};
    int64_t whole = limit->quota_us > 0 ? limit->quota_us : cut.period_us * (int64_t)cpus;
    cut.quota_us = whole * (100 - (int64_t)(percent < 100 ? percent : 99)) / 100;
    if (cut.quota_us < QUOTA_MIN_US)
        cut.quota_us = QUOTA_MIN_US;
    return cut;
}
