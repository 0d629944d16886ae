/* Pages of a process: which have content and which were written, from /proc/PID/pagemap.
 *
 * Source: Documentation/admin-guide/mm/pagemap.rst. */
#ifndef FM_STATE_PAGEMAP_H
#define FM_STATE_PAGEMAP_H

#include "state/memory.h"

/* What counts as dirty among the pages with content. */
enum fm_pagemap_mode {
    FM_PAGEMAP_EVERYTHING, /* all of them */
    FM_PAGEMAP_PROTECT,    /* those without the userfaultfd's write protection, and protects them in
                              the same step; -EPERM where the mapping is not registered for that */
    /* Of a process that stands still, and of ranges that are mapped throughout: the kernel tells
     * the exceptions only, a third of the time. */
    FM_PAGEMAP_STILL,      /* all of them */
    FM_PAGEMAP_WRITTEN,    /* those without the userfaultfd's write protection */
    FM_PAGEMAP_SOFT_DIRTY, /* those with the soft-dirty bit */
};

/* How this kernel answers, and room for its answers. Not for two threads at once. */
struct fm_pagemap_reader {
    bool scans;        /* PAGEMAP_SCAN; else the table is read page by page */
    bool sees_guards;  /* PAGE_IS_GUARD */
    uint64_t zero_pfn; /* frame of the shared zero page; 0: unknown */
    void *buffer;
};
void fm_pagemap_reader_open(struct fm_pagemap_reader *r);
/* Another one for another thread. */
void fm_pagemap_reader_copy(struct fm_pagemap_reader *r, const struct fm_pagemap_reader *like);
void fm_pagemap_reader_close(struct fm_pagemap_reader *r);

/* Frame of the shared zero page; 0 when this process may not know (CAP_SYS_ADMIN). */
uint64_t fm_pagemap_zero_pfn(void);

/* A descriptor that belongs to the memory which the process has now, whatever it executes later;
 * negative: an errno. */
int fm_pagemap_open(pid_t pid);
/* Appends the pages of [start, end) with content to `present`, and of those the dirty ones to
 * `dirty`. 0 or a negative errno; then what was appended is taken off again. */
int fm_pagemap_walk(struct fm_pagemap_reader *r, int fd, enum fm_pagemap_mode mode, uint64_t start,
                    uint64_t end, struct fm_ranges *present, struct fm_ranges *dirty);
/* True when the mapping at `address` is registered for asynchronous write protection. */
bool fm_pagemap_is_registered(struct fm_pagemap_reader *r, int fd, uint64_t address);

#endif
