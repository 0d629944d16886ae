/* Memory of a container's processes, as ranges of pages. */
#ifndef FM_STATE_MEMORY_H
#define FM_STATE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/* Bytes; of this machine's base pages. */
uint64_t fm_page_size(void);

/* [start, end) in bytes, both multiples of the page size. */
struct fm_range {
    uint64_t start, end;
};

/* Sorted by address, without overlaps; neighbours are merged. */
struct fm_ranges {
    struct fm_range *items;
    size_t count, capacity;
};

void fm_ranges_clear(struct fm_ranges *r); /* frees; fine on a zeroed one */
/* Appends one that begins at or after the last one's end; merges with it when they touch. */
void fm_ranges_append(struct fm_ranges *r, uint64_t start, uint64_t end);
uint64_t fm_ranges_bytes(const struct fm_ranges *r);
/* The index of the range that holds `address`, or of the first one after it (count: none). */
size_t fm_ranges_find(const struct fm_ranges *r, uint64_t address);
bool fm_ranges_contain(const struct fm_ranges *r, uint64_t address);
/* Takes [start, end) out. */
void fm_ranges_subtract(struct fm_ranges *r, uint64_t start, uint64_t end);

/* One process (not a thread) at one moment. */
struct fm_process_memory {
    pid_t pid;                /* in this host's pid namespace */
    pid_t inner_pid;          /* in the container's: how both hosts and CRIU's images name it */
    bool tracked;             /* false: `dirty` is everything that is present */
    struct fm_ranges mapped;  /* mappings that the state engine moves: private, anonymous, not
                                 locked, not huge; CRIU moves all others */
    struct fm_ranges present; /* of those, pages with content (not the shared zero page) */
    struct fm_ranges dirty;   /* of those, pages written since the round before */
};

struct fm_memory_scan {
    struct fm_process_memory *items;
    size_t count;
    uint64_t present_bytes, dirty_bytes;
    uint64_t walk_us; /* how long it took */
};
void fm_memory_scan_clear(struct fm_memory_scan *scan);

#endif
