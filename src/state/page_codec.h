/* Page codec: how a batch of one process's pages travels in a PAGES frame.
 *
 * All numbers are little endian. Header, 24 bytes: magic "FMPG", version (1), flags (1; bit 0: the
 * body is zstd), log2 of the page size (1), zero (1), inner pid (4), count of runs (4), size of the
 * body (4), the same as it travels (4). Then the body, then the runs, 16 bytes each, in ascending
 * order: address | kind (8), pages (4), bytes of the body (4). The runs stand behind so that pages
 * can be read of a process right into the place where they are sent from. What protects against
 * damage on the way is the frame's checksum. */
#ifndef FM_STATE_PAGE_CODEC_H
#define FM_STATE_PAGE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#define FM_PAGE_BATCH_HEADER 24
#define FM_PAGE_BATCH_RUN 16
#define FM_PAGE_BATCH_BODY_MAX (4u << 20) /* also of the pages that deltas become */
#define FM_PAGE_PID_MAX (1 << 22)
#define FM_PAGE_ADDRESS_MAX (UINT64_C(1) << 56)

enum fm_page_kind {
    FM_PAGE_ZERO = 0,  /* nothing in the body */
    FM_PAGE_RAW = 1,   /* the pages */
    FM_PAGE_DELTA = 2, /* one page, as page_delta.h changes the one sent before */
};

struct fm_page_run {
    uint64_t address;
    uint32_t pages;
    uint32_t bytes; /* of the body */
    enum fm_page_kind kind;
};

struct fm_page_batch {
    pid_t inner_pid;
    const uint8_t *body; /* what the runs' bytes lie in, one after the other */
    size_t body_size;
    struct fm_page_run *runs;
    size_t count;
};

/* Writes the header of `batch` to `out`, of which FM_PAGE_BATCH_HEADER bytes are used. `stored`:
 * the bytes of the body as they travel; they are compressed when that is not body_size. */
void fm_page_batch_header(const struct fm_page_batch *batch, size_t stored, bool compressed,
                          uint8_t *out);
/* Writes the runs to `out`: FM_PAGE_BATCH_RUN bytes each. */
void fm_page_batch_runs(const struct fm_page_batch *batch, uint8_t *out);

/* What decoding needs of memory and zstd, for one thread, used again for every batch. */
struct fm_page_decoder;
struct fm_page_decoder *fm_page_decoder_new(void);
void fm_page_decoder_free(struct fm_page_decoder *d); /* NULL is fine */
/* Checks everything in a foreign payload and describes it in `batch`, which points into the payload
 * and the decoder until the next call. FM_E_PROTOCOL. */
int fm_page_batch_decode(struct fm_page_decoder *d, const uint8_t *payload, size_t len,
                         struct fm_page_batch *batch, struct fm_error *err);

/* 0, or FM_E_PROTOCOL: an inner pid and whole pages below FM_PAGE_ADDRESS_MAX. */
int fm_page_check(pid_t inner_pid, uint64_t start, uint64_t end, struct fm_error *err);

#endif
