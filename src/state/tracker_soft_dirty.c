/* Backend soft-dirty: the kernel marks pages that are written (bit 55 of pagemap) until the marks
 * are cleared. Source: Documentation/admin-guide/mm/soft-dirty.rst.
 *
 * Reading and clearing are two steps, between which a write would get lost: so the process stands
 * still for them, some milliseconds per GiB. */
#include "state/tracker_backend.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "state/thread_stop.h"

#define CLEAR_SOFT_DIRTY "4"

/* The first round tells everything, for nothing is cleared so far. */
static int attach(struct fm_tracked *p, struct fm_error *err)
{
    (void)err;
    fm_ranges_clear(&p->cleared);
    return 0;
}

static void detach(struct fm_tracked *p)
{
    fm_ranges_clear(&p->cleared);
}

static int walk(struct fm_tracker_visit *v, enum fm_pagemap_mode mode, uint64_t start, uint64_t end)
{
    return fm_pagemap_walk(fm_tracker_reader(v->tracker), v->pagemap, mode, start, end,
                           &v->answer->present, &v->answer->dirty);
}

/* Marks count where they were cleared in an earlier round. Elsewhere, in what was locked then, say,
 * they may have been cleared untold. */
static int walk_range(struct fm_tracker_visit *v, struct fm_range range)
{
    const struct fm_ranges *cleared = &v->process->cleared;
    size_t i = fm_ranges_find(cleared, range.start);
    int rc = 0;

    while (rc == 0 && range.start < range.end) {
        bool known = i < cleared->count && cleared->items[i].start <= range.start;
        uint64_t end = range.end;

        if (known && cleared->items[i].end < end)
            end = cleared->items[i++].end;
        else if (!known && i < cleared->count && cleared->items[i].start < end)
            end = cleared->items[i].start;
        rc = walk(v, known ? FM_PAGEMAP_SOFT_DIRTY : FM_PAGEMAP_EVERYTHING, range.start, end);
        range.start = end;
    }
    return rc;
}

static int read_marks(struct fm_tracker_visit *v)
{
    int rc = 0;

    for (size_t i = 0; i < v->answer->mapped.count && rc == 0; i++)
        rc = walk_range(v, v->answer->mapped.items[i]);
    return rc;
}

static int clear_marks(struct fm_tracker_visit *v, struct fm_error *err)
{
    fm_autofree char *path = fm_strf("/proc/%d/clear_refs", (int)v->process->pid);
    const struct fm_ranges *mapped = &v->answer->mapped;
    int rc = fm_file_poke(path, CLEAR_SOFT_DIRTY, err);

    if (rc < 0)
        return rc;
    fm_ranges_clear(&v->process->cleared);
    for (size_t i = 0; i < mapped->count; i++)
        fm_ranges_append(&v->process->cleared, mapped->items[i].start, mapped->items[i].end);
    return 0;
}

/* Now that it stands still, its mappings are what they are. */
static int read_and_clear(void *ctx, struct fm_error *err)
{
    struct fm_tracker_visit *v = ctx;
    fm_cleanup(fm_memory_map_clear) struct fm_memory_map map = {0};
    struct fm_process_status status;
    int rc = fm_process_status_read(v->process->pid, &status, err);

    if (rc == 0)
        rc = fm_tracker_read_map(v->process->pid, &status, &map, err);
    if (rc < 0)
        return rc;
    fm_ranges_clear(&v->answer->mapped);
    fm_tracked_fill_mapped(&map, &v->answer->mapped);
    rc = read_marks(v);
    return rc < 0 ? fm_error_errno(err, -rc, "cannot read the soft-dirty marks of process %d",
                                   (int)v->process->pid)
                  : clear_marks(v, err);
}

/* Somebody with the same memory would go on writing it while the process stands still. */
static int round_of(struct fm_tracker_visit *v)
{
    if (fm_tracker_has_sharer(v->tracker, v->process))
        return -EBUSY;
    return fm_process_while_stopped(v->process->pid, read_and_clear, v, NULL) < 0 ? -EIO : 0;
}

const struct fm_tracker_backend fm_tracker_soft_dirty = {
    .attach = attach,
    .detach = detach,
    .round = round_of,
    .final = read_marks,
};
