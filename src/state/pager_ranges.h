/* The lists of pages in a page store (page_store.h), as the pager reads them. */
#ifndef FM_STATE_PAGER_RANGES_H
#define FM_STATE_PAGER_RANGES_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* {0} is empty. Ascending, whole pages. */
struct fm_pager_ranges {
    char *data;
    size_t count;
};

/* <store_dir>/<inner_pid>.<kind>. FM_E_NOT_FOUND; FM_E_PROTOCOL when it is damaged. */
int fm_pager_ranges_read(struct fm_pager_ranges *r, const char *store_dir, int32_t inner_pid,
                         const char *kind, struct fm_error *err);
void fm_pager_ranges_at(const struct fm_pager_ranges *r, size_t i, uint64_t *start, uint64_t *end);
void fm_pager_ranges_clear(struct fm_pager_ranges *r); /* frees */

#endif
