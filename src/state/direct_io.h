/* Direct reads: the device writes into pages that the kernel pinned before, past all page tables,
 * so that no write protection sees it. */
#ifndef FM_STATE_DIRECT_IO_H
#define FM_STATE_DIRECT_IO_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"
#include "state/memory_map.h"

/* Asynchronous reads (io_setup): they may end at any time, and nobody can wait for them. */
bool fm_direct_io_is_asynchronous(const struct fm_memory_map *map);
/* Returns once every direct read that was under way has ended; at once for a process without files
 * opened so. Negative: it takes too long. */
int fm_direct_io_settle(pid_t pid, struct fm_error *err);

#endif
