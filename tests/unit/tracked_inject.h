/* Processes that are stopped again and again, by each tracker in its way. */
#ifndef FM_TEST_TRACKED_INJECT_H
#define FM_TEST_TRACKED_INJECT_H

#include "tracked_child.h"

#define TIMES 100

/* Soft-dirty injects nothing, but stops all threads; that it can do on any kernel. */
static enum fm_tracker_kind kind = FM_TRACKER_PAGEMAP_SCAN;

/* Rounds until a task that is hard to stop, such as one under a storm of signals, is tracked. */
#define PATIENCE 20

/* A new tracker each time, so that each injects. */
static inline void inject_once(pid_t pid, bool tracked)
{
    struct fm_tracker *t = open_tracker(kind);
    struct fm_memory_scan scan = {0};

    round_on(t, pid, &scan);
    for (int i = 0; i < PATIENCE && scan.items[0].tracked != tracked; i++)
        round_on(t, pid, &scan);
    if (scan.items[0].tracked != tracked)
        fail_msg("process %d is %stracked", (int)pid, tracked ? "not " : "");
    fm_memory_scan_clear(&scan);
    fm_tracker_close(t);
}

static inline void inject_often(pid_t pid)
{
    for (int i = 0; i < TIMES; i++)
        inject_once(pid, true);
}

static inline void await_state(pid_t pid, char wanted)
{
    uint64_t deadline = fm_now_ms() + DEADLINE_MS;

    while (thread_state(pid, pid) != wanted) {
        if (fm_now_ms() > deadline)
            fail_msg("process %d is '%c', not '%c'", (int)pid, thread_state(pid, pid), wanted);
        pause_us(100);
    }
}

static inline int use_soft_dirty(void **state)
{
    (void)state;
    kind = FM_TRACKER_SOFT_DIRTY;
    return 0;
}

static inline int use_pagemap_scan(void **state)
{
    (void)state;
    kind = FM_TRACKER_PAGEMAP_SCAN;
    return 0;
}

#define STOPPED_BY_SOFT_DIRTY(test)                                                                \
    {                                                                                              \
#test " (soft-dirty)", test, use_soft_dirty, use_pagemap_scan, NULL                        \
    }

#endif
