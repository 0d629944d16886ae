/* Page store: the pages of a container on their destination, before they are its memory.
 *
 * A directory on tmpfs with, for each process, a sparse file <inner pid>.pages whose offsets are
 * addresses, and, once the source stands still, <inner pid>.present (which pages have content) and
 * <inner pid>.missing (which of those are still on the source: post-copy), both as pairs of
 * little-endian u64 [start, end). A hole within `present` is a page of zeroes; what lies outside of
 * `present` is one whatever the file says (it was unmapped or discarded since). <inner pid>.recent
 * lists in the same way what came last: a hint where to begin. It survives its daemon, so that a
 * container can be restored again from it. */
#ifndef FM_STATE_PAGE_STORE_H
#define FM_STATE_PAGE_STORE_H

#include "state/memory.h"

struct fm_page_store;

/* How much a store may hold, and who is asked for more. */
struct fm_page_room {
    uint64_t max_bytes; /* what was reserved */
    /* The pages need `bytes`, which is more: *max_bytes becomes at least that, or the answer is
     * negative, as a rule FM_E_NO_SPACE. From any thread that writes or settles, one at a time, and
     * not into the store. NULL: more is FM_E_NO_SPACE. */
    int (*grow)(void *ctx, uint64_t bytes, uint64_t *max_bytes, struct fm_error *err);
    void *ctx;
};

/* Makes or opens `dir`; `room` is copied. Thread-safe. */
struct fm_page_store *fm_page_store_open(const char *dir, const struct fm_page_room *room,
                                         struct fm_error *err);
void fm_page_store_close(struct fm_page_store *s); /* the files stay; NULL is fine */
/* Removes the files and the directory; missing is fine. */
int fm_page_store_remove(const char *dir, struct fm_error *err);

/* Whole pages at an aligned address below 2^56. FM_E_PROTOCOL for others. Two threads do not write
 * the same page. */
int fm_page_store_write(struct fm_page_store *s, pid_t inner_pid, uint64_t address,
                        const void *pages, size_t len, struct fm_error *err);
int fm_page_store_read(struct fm_page_store *s, pid_t inner_pid, uint64_t address, void *pages,
                       size_t len, struct fm_error *err);
int fm_page_store_zero(struct fm_page_store *s, pid_t inner_pid, uint64_t start, uint64_t end,
                       struct fm_error *err);
/* What the final scan found; drops what lies outside. missing may be NULL: there is room for it
 * from here on, or FM_E_NO_SPACE. */
int fm_page_store_settle(struct fm_page_store *s, pid_t inner_pid, const struct fm_ranges *present,
                         const struct fm_ranges *missing, struct fm_error *err);
uint64_t fm_page_store_bytes(struct fm_page_store *s); /* that it occupies now */

#endif
