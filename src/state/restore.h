/* Restore, receiving side: image files arrive, are verified, and only then used. */
#ifndef FM_STATE_RESTORE_H
#define FM_STATE_RESTORE_H

#include <stdint.h>

#include <jansson.h>

#include "base/error.h"
#include "wire/connection.h"

/* State of a checkpoint that is arriving in a directory. */
struct fm_restore_receiver;

/* max_bytes: what was reserved; more is FM_E_NO_SPACE. `dir` exists and is empty (descriptors.json
 * may be there). */
struct fm_restore_receiver *fm_restore_receive_begin(const char *dir, uint64_t max_bytes,
                                                     struct fm_error *err);
/* Handles one IMAGE frame that was just received and the DATA … DATA_END that follow (see
 * image_file.h). File names are single path components [A-Za-z0-9._-], no leading dot; at most
 * FM_IMAGE_FILES_MAX files; an offset must equal what has arrived of the file. A file that is in
 * the directory already is replaced. */
int fm_restore_receive_image(struct fm_restore_receiver *r, struct fm_connection *c,
                             const struct fm_frame *frame, struct fm_error *err);
/* Compares with the manifest: every file there, no other, same size, same digest (computed while
 * writing). FM_E_CHECKSUM. Frees r. */
int fm_restore_receive_finish(struct fm_restore_receiver *r, const json_t *manifest,
                              uint64_t *bytes, struct fm_error *err);
void fm_restore_receive_abort(struct fm_restore_receiver *r); /* frees; NULL is fine */

#endif
