/* Page stream: pages of running or frozen processes over several connections at once.
 *
 * A page always travels over the same connection (by process and address), so that a later copy
 * never overtakes an earlier one. One that a task waits for (post-copy: each page goes once) may
 * have a connection without a queue in front of it. Frames on such a connection, S→D: PAGES
 * (binary, page_codec.h), PAGES_SYNC {"sequence"} answered by PAGES_SYNCED {"sequence","bytes"}
 * once everything before it lies in the store. D→S while the container runs there already
 * (post-copy): PAGES_WANT {"pid","address"}.
 *
 * Fault points: pages.send (the connection is lost), pages.store (no room at the destination). */
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
    bool urgent_connection;     /* the last of several carries only pages that a task waits for */
};

/* Sums since the sender was opened. */
struct fm_page_stats {
    uint64_t pages; /* read of the processes: zero, delta or normal (raw) ones */
    uint64_t zero_pages, delta_pages, normal_pages;
    uint64_t compressed_pages;            /* of the delta and normal ones */
    uint64_t vanished_pages;              /* were gone when their turn came (not when frozen) */
    uint64_t wire_bytes;                  /* frames with their headers */
    uint64_t read_us, encode_us, send_us; /* of all threads */
    double bytes_per_second;              /* of page content, lately */
};

struct fm_page_sender;
/* Threads for each connection, which from here to close belong to the sender; when it cannot be
 * opened they are of no more use, and the caller closes them. */
struct fm_page_sender *fm_page_sender_open(struct fm_connection *const *connections, size_t count,
                                           const struct fm_page_sender_options *options,
                                           struct fm_error *err);
/* Queues `ranges` of a process; returns at once when `frozen`, else may wait for room in the queue.
 * While not frozen, pages that cannot be read any more are left out; frozen, that is an error. */
int fm_page_sender_add(struct fm_page_sender *s, pid_t pid, pid_t inner_pid,
                       const struct fm_ranges *ranges, bool frozen, struct fm_error *err);
/* Waits until everything queued lies in the destination's store: the end of a round. The first
 * error of any thread, also the peer's own (ERROR, FAILED). timeout_ms 0: for ever. FM_E_TIMEOUT:
 * may be called again. */
int fm_page_sender_sync(struct fm_page_sender *s, uint64_t timeout_ms, struct fm_error *err);
void fm_page_sender_stats(struct fm_page_sender *s, struct fm_page_stats *stats);
/* Post-copy: from here on PAGES_WANT of the destination (also those that came before, and of pages
 * that are added only later) go before what is queued; each page goes once. */
int fm_page_sender_serve(struct fm_page_sender *s, struct fm_error *err);
/* Stops the threads (a blocked one is woken by shutting its connection down), closes the
 * connections. NULL is fine. */
void fm_page_sender_close(struct fm_page_sender *s);

/* Receiving side. `arrived` may be NULL; it is called after pages were stored (post-copy). */
struct fm_page_receiver;
typedef void (*fm_pages_arrived)(void *ctx, pid_t inner_pid, uint64_t start, uint64_t end);
struct fm_page_receiver *fm_page_receiver_open(struct fm_page_store *store,
                                               fm_pages_arrived arrived, void *ctx);
/* Handles one PAGES or PAGES_SYNC frame; one thread for each connection. Nothing of a batch that is
 * not valid is stored: FM_E_PROTOCOL, FM_E_CHECKSUM; FM_E_NO_SPACE. */
int fm_page_receive(struct fm_page_receiver *r, struct fm_connection *c,
                    const struct fm_frame *frame, struct fm_error *err);
/* Post-copy: sends PAGES_WANT. From any thread, also while another one receives on the connection.
 */
int fm_page_receiver_want(struct fm_page_receiver *r, struct fm_connection *c, pid_t inner_pid,
                          uint64_t address, struct fm_error *err);
void fm_page_receiver_close(struct fm_page_receiver *r);

#endif
