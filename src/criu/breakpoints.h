/* Hardware breakpoints, which CRIU stops tasks with, made cheap. */
#ifndef FM_CRIU_BREAKPOINTS_H
#define FM_CRIU_BREAKPOINTS_H

/* The first breakpoint on a host switches the kernel's perf hooks on and waits for an RCU grace
 * period, 6 to 15 ms (kernel/events/core.c, account_event); CRIU would do that in mid-freeze. An
 * event of this process, which counts nothing, does it now, and keeps the hooks on for as long as
 * the descriptor is open. -1 where the kernel refuses: then the freeze is longer. */
int fm_breakpoints_prepare(void);

#endif
