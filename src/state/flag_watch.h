/* Flag watch: whether the flags of a process's mappings (VmFlags of smaps) may have changed without
 * a trace in /proc/PID/maps. To read them again takes a walk over all pages; to know that no thread
 * has made a system call that could have changed them does not.
 *
 * Each thread has an event which counts such calls as they return: what was under way when the
 * watch began counts as well, and so does the making of a thread, which is not watched itself.
 * Advice about content (MADV_DONTNEED and its like) does not count where the kernel tells the
 * arguments (CONFIG_FTRACE_SYSCALLS). What does not show: the account flag ("ac"), those of
 * userfaultfd, and 32-bit calls by int 0x80 of a 64-bit program.
 *
 * While one is open, every system call of the host takes some 50 to 100 ns more.
 *
 * Sources: perf_event_open(2); Documentation/trace/{events,tracepoints}.rst; process_madvise(2):
 * another process's flags it cannot change. */
#ifndef FM_STATE_FLAG_WATCH_H
#define FM_STATE_FLAG_WATCH_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

struct fm_flag_watch;

/* FM_E_REFUSED: the kernel has no such tracepoints, or this process may not mount tracefs. */
struct fm_flag_watch *fm_flag_watch_open(struct fm_error *err);
/* Takes 40 to 80 ms (a grace period of RCU for each tracepoint). NULL is fine. */
void fm_flag_watch_close(struct fm_flag_watch *w);

/* Begins with a process and all of its threads, some 40 us each; what it does from here on counts.
 * FM_E_REFUSED: too many threads, a 32-bit program, no permission. */
int fm_flag_watch_add(struct fm_flag_watch *w, pid_t pid, struct fm_error *err);
/* True when the process stands still, and neither has made such a call since nor executed another
 * program. False as well when it is not known. A microsecond per thread. NULL is fine. */
bool fm_flag_watch_is_quiet(const struct fm_flag_watch *w, pid_t pid);

#endif
