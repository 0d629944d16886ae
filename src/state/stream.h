/* Streams: DATA … DATA_END on a connection, counted, digested and bounded. */
#ifndef FM_STATE_STREAM_H
#define FM_STATE_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "wire/connection.h"

#define FM_STREAM_CHUNK (1u << 20) /* payload of a DATA frame at most */
#define FM_STREAM_DIGEST_SIZE 33   /* 32 hex digits and a NUL */

/* One direction of one stream. It may be interrupted: DATA_END then tells what has travelled so
 * far, and the stream goes on later (image files do, trees do not). */
struct fm_stream {
    struct fm_connection *connection;
    struct XXH3_state_s *digest; /* XXH3-128 of everything so far */
    uint64_t bytes;              /* that have travelled so far */
    bool ended_by_peer;          /* it gave up: nothing more comes */
};

void fm_stream_init(struct fm_stream *s, struct fm_connection *c);
void fm_stream_clear(struct fm_stream *s); /* frees what it holds; fine on a zeroed one */
/* Lower-case hex of the digest in canonical form. */
void fm_stream_digest(const struct fm_stream *s, char hex[FM_STREAM_DIGEST_SIZE]);

/* Counts and digests bytes that travel in some other way. */
void fm_stream_account(struct fm_stream *s, const void *data, size_t len);

/* Sends bytes as DATA frames, of FM_STREAM_CHUNK each at most. */
int fm_stream_send(struct fm_stream *s, const void *data, size_t len, struct fm_error *err);
/* Sends DATA_END {"bytes","digest"}, both of the whole stream so far. */
int fm_stream_send_end(struct fm_stream *s, struct fm_error *err);

/* The next verified bytes. *len is 0 after DATA_END, whose count and digest have then been
 * compared. The bytes belong to the connection until the next call. More than `limit` bytes in all
 * is FM_E_NO_SPACE. */
int fm_stream_recv(struct fm_stream *s, uint64_t limit, const void **data, size_t *len,
                   struct fm_error *err);
/* After a failure on this side: reads to the `ends`-th DATA_END and forgets, for a few seconds at
 * most, so that the peer gets to hear the reason instead of a reset connection. */
void fm_stream_drain(struct fm_connection *c, unsigned ends);

#endif
