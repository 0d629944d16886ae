/* Page map: a set of page numbers, sparse, one bit each. Not thread-safe. */
#ifndef FM_STATE_PAGE_MAP_H
#define FM_STATE_PAGE_MAP_H

#include <stddef.h>
#include <stdint.h>

struct fm_page_map_chunk;

/* {0} is empty. Pages in chunks of 32 MiB of 4 KiB pages, found by a hash table. */
struct fm_page_map {
    struct fm_page_map_chunk **slots;
    size_t slot_count, chunk_count;
};

void fm_page_map_clear(struct fm_page_map *m); /* frees */
/* Each takes pages [first, end) and returns how many of them it changed, or found not set. */
uint64_t fm_page_map_set(struct fm_page_map *m, uint64_t first, uint64_t end);
uint64_t fm_page_map_clear_bits(struct fm_page_map *m, uint64_t first, uint64_t end);
uint64_t fm_page_map_unset_count(const struct fm_page_map *m, uint64_t first, uint64_t end);

#endif
