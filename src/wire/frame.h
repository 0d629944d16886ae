/* Frames: what travels between daemons. A fixed header, then the payload it promises.
 *
 * Header, 40 bytes, big endian: magic "FMW1" (4), type (2), flags (2, zero), length (4), reserved
 * (4, zero), XXH3-128 of the payload, canonical form (16), sequence number (8, from 0 in each
 * direction). A frame whose magic, length, sequence or checksum is wrong ends the connection:
 * nothing of it is used. */
#ifndef FM_WIRE_FRAME_H
#define FM_WIRE_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define FM_FRAME_HEADER_SIZE 40
#define FM_FRAME_MAX_PAYLOAD (4u << 20)

/* Control frames carry one JSON object; DATA carries bytes of the stream that was announced last.
 */
#define FM_FRAME_TYPES(X)                                                                          \
    X(HELLO, 1)    /* first frame each way: protocol version, host name, purpose */                \
    X(ERROR, 2)    /* {"code","message"}: the request before it failed */                          \
    X(DATA, 3)     /* bytes of the open stream; payload up to 1 MiB */                             \
    X(DATA_END, 4) /* {"bytes","digest"}: end of the open stream */                                \
    X(PREPARE, 10) /* S→D, D→S PREPARED | REFUSED */                                           \
    X(PREPARED, 11)                                                                                \
    X(REFUSED, 12)                                                                                 \
    X(TREE, 13) /* S→D {"name"}: a file tree follows as DATA … DATA_END; D→S TREE_DONE */    \
    X(TREE_DONE, 14)                                                                               \
    X(ARM, 15) /* S→D: start the restore and hold it; D→S ARMED */                             \
    X(ARMED, 16)                                                                                   \
    X(IMAGE, 17)  /* S→D {"name","offset"}: DATA … DATA_END of one checkpoint file follow */   \
    X(FROZEN, 18) /* S→D {"manifest":[…]}: all images sent; D→S READY | FAILED */            \
    X(READY, 19)                                                                                   \
    X(FAILED, 20) /* D→S {"code","message"} */                                                   \
    X(COMMIT, 21) /* S→D; D→S RUNNING */                                                       \
    X(ABORT, 22)  /* S→D; D→S ABORTED */                                                       \
    X(ABORTED, 23)                                                                                 \
    X(RUNNING, 24) /* D→S {"resumed_at_us", …} */                                              \
    X(VERIFY, 25)  /* S→D; D→S VERIFIED | FAILED */                                            \
    X(VERIFIED, 26)                                                                                \
    X(COMPLETE, 27) /* S→D: forget the images; D→S COMPLETED */                                \
    X(COMPLETED, 28)                                                                               \
    X(RETURN, 29) /* S→D: migrate it back to me; D→S RETURNED | FAILED */                      \
    X(RETURNED, 30)                                                                                \
    X(DECISION, 31) /* D→S {"migration"}: asks for the decision; S→D DECIDED */                \
    X(DECIDED, 32)  /* {"decision":"commit"|"abort"|"undecided"} */                                \
    X(FABRIC, 33)   /* {"op", …}: overlay entries between hosts; answered by FABRIC_DONE */      \
    X(FABRIC_DONE, 34)                                                                             \
    X(CHECK, 35) /* S→D preflight facts wanted; D→S CHECKED */                                 \
    X(CHECKED, 36)                                                                                 \
    X(PING, 37)                                                                                    \
    X(PONG, 38)                                                                                    \
    X(PAGES, 40)        /* S→D binary: a batch of pages (state/page_codec.h) */                  \
    X(PAGES_SYNC, 41)   /* S→D {"sequence"}; D→S PAGES_SYNCED once all before it is stored */  \
    X(PAGES_SYNCED, 42) /* {"sequence","bytes"}: what the store occupies */                        \
    X(PAGES_WANT, 43)   /* D→S {"pid","address"}: post-copy, a task waits for this page */       \
    X(PAGES_OPEN, 44) /* S→D: from here on this connection carries pages; D→S PAGES_OPENED */  \
    X(PAGES_OPENED, 45)                                                                            \
    X(FILL, 46)   /* S→D: how far is its memory in place? D→S FILLED */                        \
    X(FILLED, 47) /* {"done","total","filled","missing","faults"} */

enum fm_frame_type {
#define X(name, value) FM_FRAME_##name = value,
    FM_FRAME_TYPES(X)
#undef X
};

struct fm_frame_header {
    uint16_t type;
    uint32_t length;
    uint8_t checksum[16];
    uint64_t sequence;
};

/* "PREPARE"; "?" when unknown. */
const char *fm_frame_type_name(uint16_t type);

void fm_frame_header_encode(const struct fm_frame_header *header,
                            uint8_t out[FM_FRAME_HEADER_SIZE]);
/* Rejects a wrong magic, non-zero reserved fields, an unknown type and a length over the limit. */
int fm_frame_header_decode(const uint8_t in[FM_FRAME_HEADER_SIZE], struct fm_frame_header *header,
                           struct fm_error *err);

/* XXH3-128 in canonical (big-endian) form. Source: xxHash's specification. */
void fm_frame_checksum(const void *payload, size_t len, uint8_t out[16]);

#endif
