/* Fault points: named places where a test makes the program fail or die, exactly there.
 *
 * FLEXIMIGRATE_FAULT holds a comma-separated list of `point=action[:count]`; action is one of
 *   fail     fm_fault() returns true and the caller fails as if the operation had
 *   kill     SIGKILL to this process
 *   stop     SIGSTOP to this process
 *   run:PATH replaced by running PATH with the point's name (used to kill somebody else), then goes
 * on count: act on the count-th passage only (default 1). Unset (always, in production) it costs
 * one load. */
#ifndef FM_BASE_FAULT_H
#define FM_BASE_FAULT_H

#include <stdbool.h>

/* True when the caller must fail here. */
bool fm_fault(const char *point);

/* Arms from a string instead of the environment (NULL disarms); for tests. */
void fm_fault_arm(const char *spec);

#endif
