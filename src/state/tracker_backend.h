/* Between the tracker and its ways of knowing what was written. Private to tracker*.c. */
#ifndef FM_STATE_TRACKER_BACKEND_H
#define FM_STATE_TRACKER_BACKEND_H

#include "state/flag_watch.h"
#include "state/memory_map.h"
#include "state/page_walk.h"
#include "state/process_status.h"
#include "state/tracker.h"

/* A process that the tracker knows; ends with its pid's, never by exec. */
struct fm_tracked {
    pid_t pid;
    uint64_t start_time;
    bool attached;            /* the backend knows what it writes */
    bool shared;              /* another process, which is attached, has the same memory (vfork) */
    bool reported;            /* a round has told what it held */
    bool foreign;             /* of some mapping the backend cannot know what was written */
    int uffd;                 /* pagemap-scan: of its memory; -1 */
    int number;               /* that this had for a moment in the process */
    struct fm_ranges cleared; /* soft-dirty: where marks were cleared after they had been told */

    unsigned seen;                          /* the last round that it was there in */
    const struct fm_process_memory *answer; /* of this round; NULL: none so far */

    struct fm_memory_map noted; /* smaps, while it ran */
    uint64_t noted_locked;
    bool noted_small;           /* the copy counts only when nothing has changed */
    struct fm_memory_map shown; /* of the final scan, with flags: what CRIU is shown; its flags may
                                   lie in `noted` */
    bool shown_flags_hold;      /* its flags are known to be those of the freeze */
};

/* One process in one round. */
struct fm_tracker_visit {
    struct fm_tracker *tracker;
    struct fm_tracked *process;
    const struct fm_memory_map *map;
    int pagemap;
    struct fm_process_memory *answer; /* `mapped` is filled; the rest is empty */
};

struct fm_tracker_backend {
    /* Begins with a process. Not to be had: `err` says why. */
    int (*attach)(struct fm_tracked *p, struct fm_error *err);
    void (*detach)(struct fm_tracked *p);
    /* Fills present and dirty; what is written from here on counts for the next round. -ESTALE: the
     * process has other memory by now than the one attached; another negative errno. */
    int (*round)(struct fm_tracker_visit *v);
    /* The same of a process that stands still, for the last time: changes nothing. */
    int (*final)(struct fm_tracker_visit *v);
};

struct fm_tracker {
    enum fm_tracker_kind kind;
    const struct fm_tracker_backend *backend; /* NULL: nothing is tracked */
    struct fm_page_walkers walkers;
    struct fm_tracked **items;
    size_t count;
    unsigned round;
    uint64_t small_bytes;        /* FM_TRACKER_SMALL_BYTES, but for tests */
    struct fm_flag_watch *watch; /* of those that were noted, since before that; NULL: none */
    bool tells_guards;           /* the kernel flags mappings that may have guard regions */
    struct fm_error refusal;     /* why the last process that is not tracked is not */
};
/* That of the thread which has the tracker. */
static inline struct fm_pagemap_reader *fm_tracker_reader(struct fm_tracker *t)
{
    return &t->walkers.readers[0];
}
/* Knows it from here on, or again; *found is NULL when it has ended or is a thread. */
int fm_tracker_see(struct fm_tracker *t, pid_t pid, struct fm_tracked **found,
                   struct fm_error *err);
/* NULL: unknown. */
struct fm_tracked *fm_tracker_find(struct fm_tracker *t, pid_t pid);
/* Whether two processes have the same memory (KCMP_VM), or another thing. */
bool fm_tracked_share(const struct fm_tracked *a, const struct fm_tracked *b, int what);
/* Somebody else among those that it knows has the same memory, and may write and change it. */
bool fm_tracker_has_sharer(const struct fm_tracker *t, const struct fm_tracked *p);
void fm_tracked_fill_mapped(const struct fm_memory_map *map, struct fm_ranges *mapped);
/* Maps, with flags when it has locked memory: maps alone do not tell which that is. */
int fm_tracker_read_map(pid_t pid, const struct fm_process_status *status,
                        struct fm_memory_map *map, struct fm_error *err);
/* Fills present and dirty by one walk over `mapped`. 0 or a negative errno. */
int fm_tracker_walk(struct fm_tracker_visit *v, enum fm_pagemap_mode mode);
/* Whether VmFlags say "gu" of a mapping with guard regions (Linux 6.18), tried on a page of our
 * own.
 */
bool fm_tracker_kernel_tells_guards(void);
/* Fills p->shown for a process that stands still, and that CRIU has not touched so far. */
int fm_tracker_show_maps(struct fm_tracker *t, struct fm_tracked *p,
                         const struct fm_process_status *status, struct fm_error *err);

extern const struct fm_tracker_backend fm_tracker_pagemap, fm_tracker_soft_dirty;

#endif
