/* Mounts that a killed helper left behind. */
#ifndef FM_CONTAINER_MOUNTS_H
#define FM_CONTAINER_MOUNTS_H

#include "base/error.h"

/* Unmounts everything that is mounted below the directory `dir` (not on it), the latest first.
 * Missing is fine. */
int fm_unmount_below(const char *dir, struct fm_error *err);

#endif
