/* Leftovers: processes that a dead daemon had started for a migration (runtime, interposer, CRIU).
 */
#ifndef FM_MIGRATION_LEFTOVER_H
#define FM_MIGRATION_LEFTOVER_H

#include <stdint.h>

#include "base/error.h"

/* Waits until no process names `dir` on its command line or holds something below it open: an
 * interposer without a daemon gives up by itself, and the runtime with it. Whoever is still there
 * after grace_ms is killed. This process is left out. */
int fm_leftover_end(const char *dir, uint64_t grace_ms, struct fm_error *err);

#endif
