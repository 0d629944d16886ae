/* Checkpoint: sends CRIU's image files, already while CRIU writes them. */
#ifndef FM_STATE_CHECKPOINT_H
#define FM_STATE_CHECKPOINT_H

#include <stdint.h>

#include <jansson.h>

#include "base/error.h"
#include "wire/connection.h"

/* Sends an image directory over a connection from a thread of its own. Page files (pages-*.img)
 * only ever grow at their end, so what is there is sent while the dump goes on (inotify + size);
 * all other files go at the end. */
struct fm_checkpoint_sender;

struct fm_checkpoint_stats {
    uint64_t bytes;       /* of image files */
    uint64_t early_bytes; /* of those, sent before finish */
    uint32_t files;
};

/* From here to finish or abort the connection's sending side belongs to the sender. A failure shows
 * at finish. */
struct fm_checkpoint_sender *fm_checkpoint_send_begin(struct fm_connection *c, const char *dir,
                                                      struct fm_error *err);
/* The dump is complete: sends the rest (all regular files of the directory without a leading dot)
 * and returns the manifest [{"name","bytes","digest"}] (new reference), whose digests are XXH3-128
 * hex of whole files computed on the way. NULL on failure. Frees the sender in any case. */
json_t *fm_checkpoint_send_finish(struct fm_checkpoint_sender *s, struct fm_checkpoint_stats *stats,
                                  struct fm_error *err);
/* Stops without completing; frees; NULL is fine. Ends the open stream, so that the connection stays
 * usable; if the peer may be dead, shut the connection down first. */
void fm_checkpoint_send_abort(struct fm_checkpoint_sender *s);

#endif
