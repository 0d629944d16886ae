/* Recent pages: what came last of a process, which is what it wrote last and wants first when it
 * runs again. Not thread-safe. */
#ifndef FM_STATE_PAGE_RECENT_H
#define FM_STATE_PAGE_RECENT_H

#include "state/memory.h"

#define FM_PAGE_RECENT_RUNS 1024

/* {0} is empty. A ring: the oldest are forgotten. */
struct fm_page_recent {
    struct fm_range runs[FM_PAGE_RECENT_RUNS];
    size_t noted; /* ever; the next one's place is this modulo the runs */
};

void fm_page_recent_note(struct fm_page_recent *r, uint64_t start, uint64_t end);
/* Adds the newest, about `max_bytes`, to an empty `ranges`. */
void fm_page_recent_ranges(const struct fm_page_recent *r, uint64_t max_bytes,
                           struct fm_ranges *ranges);

#endif
