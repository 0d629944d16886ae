/* Reading pages of a process, running or stopped, into one buffer. */
#ifndef FM_STATE_PAGE_READ_H
#define FM_STATE_PAGE_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#define FM_PAGE_READ_MAX 256u /* pages in one call, at most */

/* Pages to read, ascending, and afterwards those that were. */
struct fm_page_list {
    pid_t pid; /* in this host's pid namespace */
    uint64_t addresses[FM_PAGE_READ_MAX];
    size_t count;
};

/* How many pages go into one batch: 1 MiB, which a frame has room for with pages of any size. */
size_t fm_page_batch_max(void);

/* Reads the pages one behind the other. Those that cannot be read are taken off the list unless
 * `frozen`, when they are an error. */
int fm_pages_read(struct fm_page_list *list, uint8_t *buf, bool frozen, struct fm_error *err);

#endif
