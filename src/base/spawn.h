/* Starting a program: what happens around fork and exec. Private to fm_subprocess. */
#ifndef FM_BASE_SPAWN_H
#define FM_BASE_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/subprocess.h"

/* Starts options->argv with these three descriptors as its 0, 1 and 2. With `detach` it is the
 * child of init (or of the nearest subreaper), else ours to reap. */
int fm_spawn(const struct fm_subprocess_options *options, const int stdio[3], bool detach,
             pid_t *pid, struct fm_error *err);

#endif
