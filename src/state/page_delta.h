/* Page delta: a page as the difference from what it was when it was sent before.
 *
 * XXH3-64 of the new page (8 bytes, little endian), then pairs of counts in words of 8 bytes, each
 * a base-128 number, low group first: words that are the same, words that changed; after each pair
 * the changed words themselves. What remains at the end is the same. The idea is XBZRLE's: P. Svärd
 * et al., "Evaluation of delta compression techniques for efficient live migration of large virtual
 * machines", VEE 2011. */
#ifndef FM_STATE_PAGE_DELTA_H
#define FM_STATE_PAGE_DELTA_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Writes the delta from `before` to `after`, pages of `size` bytes, to `out`. Returns its length, 0
 * when it does not fit into `max`. */
size_t fm_page_delta_encode(const uint8_t *before, const uint8_t *after, size_t size, uint8_t *out,
                            size_t max);
/* Turns `page`, which holds what it was before, into what it is now. FM_E_PROTOCOL: no valid delta;
 * FM_E_CHECKSUM: it was made from another page. Then `page` is of no use. */
int fm_page_delta_apply(uint8_t *page, size_t size, const uint8_t *delta, size_t len,
                        struct fm_error *err);

#endif
