/* Corrections of CRIU's images between the dump and the restore, for what CRIU itself would restore
 * wrongly. */
#ifndef FM_CRIU_IMAGE_FIX_H
#define FM_CRIU_IMAGE_FIX_H

#include "base/error.h"

/* Timers (timerfd) as CRIU 4.1 to 4.2 would restore them wrongly:
 * - A periodic one that has expired and was not read yet has no time left in the images, which is
 *   taken for disarmed: it would never tick again. It gets one interval until the next tick; the
 *   ticks that wait to be read stay.
 * - One that was set to an absolute time is set to now, without its fraction of a second, plus what
 *   is left: up to a second too early, and at once when it was disarmed. It becomes relative,
 *   unless it follows a clock that can be set.
 * Replaces <dir>/files.img, and only when there is such a timer. Images that cannot be parsed are
 * FM_E_PROTOCOL. Images without files.img are fine.
 *
 * Format: two 32-bit magic numbers, then entries of a 32-bit size (all little-endian) and a
 * protobuf message of that size. */
int fm_image_fix_timers(const char *dir, struct fm_error *err);

/* Pages that the images have, of memory that could be filled lazily: a restore with lazy pages
 * leaves them to the pager, which has other pages, so that they would be zeroes. They are marked as
 * to be read at once. Replaces <dir>/pagemap-<pid>.img, and only when there are such pages. Errors
 * as above. */
int fm_image_fix_pages(const char *dir, struct fm_error *err);

#endif
