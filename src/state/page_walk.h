/* A walk over all mappings of a process that stands still, by several processors when there is
 * much. */
#ifndef FM_STATE_PAGE_WALK_H
#define FM_STATE_PAGE_WALK_H

#include "state/crew.h"
#include "state/pagemap.h"

/* Members of a crew, each with a reader whose memory is there before it is needed. */
struct fm_page_walkers {
    struct fm_crew *crew;
    struct fm_pagemap_reader readers[FM_CREW_MAX];
};
void fm_page_walkers_open(struct fm_page_walkers *w);
void fm_page_walkers_close(struct fm_page_walkers *w); /* fine on a zeroed one */

/* fm_pagemap_walk over each range of `mapped`, in this order. 0 or a negative errno, the first of
 * any member; `present` and `dirty` then hold no use. */
int fm_page_walk(struct fm_page_walkers *w, int fd, enum fm_pagemap_mode mode,
                 const struct fm_ranges *mapped, struct fm_ranges *present,
                 struct fm_ranges *dirty);

/* Where a piece of about `len` bytes ends that begins at `start`: at `end`, or at a multiple of
 * what one page table maps (2 MiB of 4 KiB pages), so that no two pieces share a table, or a huge
 * page. */
uint64_t fm_page_walk_cut(uint64_t start, uint64_t end, uint64_t len);

#endif
