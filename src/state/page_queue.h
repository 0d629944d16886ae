/* Page queue: what one connection has still to send, first in, first out, except for pages that
 * somebody waits for. Not thread-safe. */
#ifndef FM_STATE_PAGE_QUEUE_H
#define FM_STATE_PAGE_QUEUE_H

#include "state/memory.h"
#include "state/page_read.h"

struct fm_page_job;

struct fm_page_queue { /* {0} is empty */
    struct fm_page_job *first, *last;
    size_t range_count; /* waiting in all jobs */
    uint64_t bytes;     /* of them */
};

/* What to do next: pages of one process, or, with a number, a barrier. */
struct fm_page_work {
    uint64_t barrier;
    pid_t inner_pid;
    bool frozen;
    struct fm_page_list list;
};

void fm_page_queue_clear(struct fm_page_queue *q);
/* Takes the ranges over and leaves an empty list. */
void fm_page_queue_add(struct fm_page_queue *q, pid_t pid, pid_t inner_pid, bool frozen,
                       struct fm_ranges *ranges);
void fm_page_queue_add_barrier(struct fm_page_queue *q, uint64_t barrier); /* not 0 */
/* Takes at most max_pages (<= FM_PAGE_READ_MAX) off the front; false: empty. */
bool fm_page_queue_take(struct fm_page_queue *q, size_t max_pages, struct fm_page_work *work);
/* Takes the page at `address` with its neighbours in the same aligned block of `block` bytes, which
 * holds at most FM_PAGE_READ_MAX pages; false: it does not wait here. */
bool fm_page_queue_take_near(struct fm_page_queue *q, pid_t inner_pid, uint64_t address,
                             uint64_t block, struct fm_page_work *work);

#endif
