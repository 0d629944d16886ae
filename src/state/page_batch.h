/* Page batch: what a sender makes of the pages that it has read, for one connection: zero pages,
 * deltas against what was sent before, and compression. Not thread-safe. */
#ifndef FM_STATE_PAGE_BATCH_H
#define FM_STATE_PAGE_BATCH_H

#include "state/page_codec.h"
#include "state/page_read.h"
#include "state/page_squeeze.h"

/* Of one batch. */
struct fm_page_packed {
    const uint8_t *payload; /* of its frame; the packer's, until its next use */
    size_t len;
    uint64_t zero, delta, normal, compressed; /* pages; the last are among delta and normal */
    size_t content;                           /* bytes of the body before compression */
};

struct fm_page_packer;
/* cache_bytes: of this connection's part of the cache. */
struct fm_page_packer *fm_page_packer_new(enum fm_compression compression, uint64_t cache_bytes);
void fm_page_packer_free(struct fm_page_packer *p); /* NULL is fine */
/* Where the next batch's pages are to be read to: room for fm_page_batch_max(). */
uint8_t *fm_page_packer_room(struct fm_page_packer *p);
/* Makes the payload of a frame of them. */
void fm_page_packer_pack(struct fm_page_packer *p, pid_t inner_pid, const struct fm_page_list *list,
                         struct fm_page_packed *packed);
/* All pages of a round are sent. */
void fm_page_packer_end_round(struct fm_page_packer *p);
/* Tells how it went, for the decision to compress. */
void fm_page_packer_learn(struct fm_page_packer *p, const struct fm_page_trip *trip);

#endif
