/* Page stream: pages of running or frozen processes over several connections at once.
 *
 * A page always travels over the same connection (by process and address), so that a later copy
 * never overtakes an earlier one. Frames on such a connection, S→D: PAGES (binary, page_codec.h),
 * PAGES_SYNC {"sequence"} answered by PAGES_SYNCED {"sequence","bytes"} once everything before it
 * lies in the store. D→S while the container runs there already (post-copy): PAGES_WANT
 * {"pid","address"}. */
#ifndef FM_STATE_PAGE_STREAM_H
#define FM_STATE_PAGE_STREAM_H

#include "state/memory.h"
#include "state/page_store.h"
#include "wire/connection.h"

#define FM_COMPRESSIONS(X)                                                                         \
    X(AUTO, "auto") /* zstd while the link, not the processor, is what limits: measured */         \
    X(NONE, "none")                                                                                \
    X(ZSTD, "zstd")

enum fm_compression {
#define X(name, text) FM_COMPRESS_##name,
    FM_COMPRESSIONS(X)
#undef X
};

struct fm_page_sender_options {
    enum fm_compression compression;
    uint64_t delta_cache_bytes; /* of pages sent before, all connections together; 0: no deltas */
    uint64_t bytes_per_second;  /* all connections together; 0: no limit */
};

/* Sums since the sender was opened. */
struct fm_page_stats {
    uint64_t pages;        /* read of the processes */
    uint64_t zero_pages, delta_pages, normal_pages, compressed_pages;
    uint64_t vanished_pages; /* were gone when their turn came (not when frozen) */
    uint64_t wire_bytes;   /* frames with their headers */
    uint64_t read_us, encode_us, send_us; /* of all threads */
    double bytes_per_second; /* of page content, lately */
};

struct fm_page_sender;
/* One thread for each connection, which from here to close belong to the sender. */
struct fm_page_sender *fm_page_sender_open(struct fm_connection *const *connections, size_t count,
                                           const struct fm_page_sender_options *options,
                                           struct fm_error *err);
/* Queues `ranges` of a process; returns at once when `frozen`, else may wait for room in the queue.
 * While not frozen, pages that cannot be read any more are left out; frozen, that is an error. */
int fm_page_sender_add(struct fm_page_sender *s, pid_t pid, pid_t inner_pid,
                       const struct fm_ranges *ranges, bool frozen, struct fm_error *err);
/* Waits until everything queued lies in the destination's store. The first error of any thread. */
int fm_page_sender_sync(struct fm_page_sender *s, uint64_t timeout_ms, struct fm_error *err);
void fm_page_sender_stats(struct fm_page_sender *s, struct fm_page_stats *stats);
/* Post-copy: from here on PAGES_WANT of the destination go before what is queued. */
int fm_page_sender_serve(struct fm_page_sender *s, struct fm_error *err);
/* Stops the threads (a blocked one is woken by shutting its connection down), closes the
 * connections. NULL is fine. */
void fm_page_sender_close(struct fm_page_sender *s);

/* Receiving side, one thread for each connection: handles one PAGES or PAGES_SYNC frame. `arrived`
 * may be NULL; it is called after pages were stored (post-copy). */
struct fm_page_receiver;
typedef void (*fm_pages_arrived)(void *ctx, pid_t inner_pid, uint64_t start, uint64_t end);
struct fm_page_receiver *fm_page_receiver_open(struct fm_page_store *store, fm_pages_arrived arrived,
                                               void *ctx);
int fm_page_receive(struct fm_page_receiver *r, struct fm_connection *c,
                    const struct fm_frame *frame, struct fm_error *err);
void fm_page_receiver_close(struct fm_page_receiver *r);

#endif
