/* Corrections of CRIU's images between the dump and the restore, for what CRIU itself would restore
 * wrongly. */
#ifndef FM_CRIU_IMAGE_FIX_H
#define FM_CRIU_IMAGE_FIX_H

#include "base/error.h"

/* A periodic timerfd that has expired and was not read yet has no time left in the images, which
 * CRIU (4.1 to 4.2) takes for disarmed: it would never tick again. Gives it one interval until the
 * next tick; the ticks that wait to be read stay. Replaces <dir>/files.img, and only when there is
 * such a timer. Images that cannot be parsed are FM_E_PROTOCOL. Images without files.img are fine.
 *
 * Format: two 32-bit magic numbers, then entries of a 32-bit size (all little-endian) and a
 * protobuf message of that size. */
int fm_image_fix_timers(const char *dir, struct fm_error *err);

#endif
