/* Page squeeze: compresses batches with zstd, when that pays. Not thread-safe.
 *
 * With FM_COMPRESS_AUTO the time that a byte of content takes decides, measured without and with
 * compression. What is compressed badly is left alone for a while, also when zstd is forced. */
#ifndef FM_STATE_PAGE_SQUEEZE_H
#define FM_STATE_PAGE_SQUEEZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "state/page_stream.h"

/* How one batch went: reading, encoding, sending. */
struct fm_page_trip {
    uint64_t content, wire;     /* bytes before and after compression */
    uint64_t total_us, work_us; /* that passed, with what the rate limit cost; of the processor */
};

struct fm_page_squeeze;
struct fm_page_squeeze *fm_page_squeeze_new(enum fm_compression compression);
void fm_page_squeeze_free(struct fm_page_squeeze *q); /* NULL is fine */
/* Compresses to `out`, which has room for fm_page_squeeze_room(len). 0: send it as it is. */
size_t fm_page_squeeze_try(struct fm_page_squeeze *q, const uint8_t *body, size_t len,
                           uint8_t *out);
size_t fm_page_squeeze_room(size_t len);
/* Learns from what was sent. */
void fm_page_squeeze_learn(struct fm_page_squeeze *q, const struct fm_page_trip *trip,
                           uint64_t now_us);
/* Is it compressing now? */
bool fm_page_squeeze_on(const struct fm_page_squeeze *q);

#endif
