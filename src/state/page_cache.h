/* Page cache: copies of pages as they were sent last, bounded, for deltas. Not thread-safe.
 *
 * Free room is taken by whatever comes first. Once it is used up, only a page that is sent for the
 * second time displaces another: one that was sent only once, in an earlier round, or one that was
 * of no use for two rounds. So neither a first pass over all memory nor a working set larger than
 * the cache washes it out. */
#ifndef FM_STATE_PAGE_CACHE_H
#define FM_STATE_PAGE_CACHE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct fm_page_cache;
/* NULL when `bytes` are not enough for a few pages. */
struct fm_page_cache *fm_page_cache_new(uint64_t bytes, size_t page_size);
void fm_page_cache_free(struct fm_page_cache *c); /* NULL is fine */
/* The copy of a page, which the caller changes when it sends another one; NULL: not there. */
uint8_t *fm_page_cache_find(struct fm_page_cache *c, pid_t inner_pid, uint64_t address);
/* Notes that a page which is not there is sent; keeps a copy if it is worth it. */
void fm_page_cache_offer(struct fm_page_cache *c, pid_t inner_pid, uint64_t address,
                         const uint8_t *page);
/* A round over the process's pages is over. */
void fm_page_cache_end_round(struct fm_page_cache *c);
void fm_page_cache_drop(struct fm_page_cache *c, pid_t inner_pid, uint64_t address);

#endif
