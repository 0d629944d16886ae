/* A walk over all mappings of a process, by several processors when there is much. */
#ifndef FM_STATE_PAGE_WALK_H
#define FM_STATE_PAGE_WALK_H

#include "state/pagemap.h"

/* fm_pagemap_walk over each range of `mapped`. 0 or a negative errno; `present` and `dirty` then
 * hold no use. */
int fm_page_walk(struct fm_pagemap_reader *r, int fd, enum fm_pagemap_mode mode,
                 const struct fm_ranges *mapped, struct fm_ranges *present,
                 struct fm_ranges *dirty);

#endif
