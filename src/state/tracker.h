/* Tracker: which pages a container's processes have written since the round before, while they run.
 *
 * Its answer is a superset of what was written, always: a false "written" costs bytes, a false
 * "clean" corrupts. Sources: Documentation/admin-guide/mm/{userfaultfd,pagemap,soft-dirty}.rst. */
#ifndef FM_STATE_TRACKER_H
#define FM_STATE_TRACKER_H

#include "state/memory.h"

#define FM_TRACKERS(X)                                                                             \
    X(NONE, "none")                                                                                \
    X(PAGEMAP_SCAN, "pagemap-scan") /* userfaultfd write-protection, asynchronous; Linux 6.7 */    \
    X(SOFT_DIRTY, "soft-dirty")     /* CONFIG_MEM_SOFT_DIRTY */

enum fm_tracker_kind {
#define X(name, text) FM_TRACKER_##name,
    FM_TRACKERS(X)
#undef X
};
const char *fm_tracker_text(enum fm_tracker_kind kind);

/* Tries a backend on a child of its own: 0 when it answers rightly, else `err` says what is
 * missing. Some milliseconds. NONE always works. */
int fm_tracker_probe(enum fm_tracker_kind kind, struct fm_error *err);
/* The best backend that works here; `why` gets the reasons of those that do not, one line, "" when
 * the first works. */
enum fm_tracker_kind fm_tracker_best(char *why, size_t len);

/* One caller at a time; from any thread. */
struct fm_tracker;
struct fm_tracker *fm_tracker_open(enum fm_tracker_kind kind, struct fm_error *err);
/* Stops tracking; the processes, if they still live, run as before. While the kernel takes the
 * protection off a living one (some 50 ms/GiB), its page faults may wait: not within a freeze. NULL
 * is fine. */
void fm_tracker_close(struct fm_tracker *t);

/* One round over the processes that are there now (host pids, threads' pids are ignored): what they
 * have written since the last round; everything of a process that is new, has executed another
 * program, or cannot be tracked (FM_TRACKER_NONE; traced by somebody else; a seccomp filter that
 * cannot be suspended; asynchronous reads by io_setup; within vfork just now). From here on their
 * writes count for the next round. A process that ends meanwhile is left out, as is a zombie.
 * `present` is filled as well. After an error the next round tells everything. */
int fm_tracker_round(struct fm_tracker *t, const pid_t *pids, size_t count,
                     struct fm_memory_scan *scan, struct fm_error *err);
/* The same once all of them stand still (seized by CRIU): injects nothing, protects nothing, and
 * every process must be readable. Fast: it lies in the freeze. `mapped` is exact here (in a round
 * it may hold what CRIU moves itself), and what the page filter must hide. Before CRIU touches the
 * processes, so before its query-ext-files is answered. */
int fm_tracker_final(struct fm_tracker *t, const pid_t *pids, size_t count,
                     struct fm_memory_scan *scan, struct fm_error *err);

/* Reading smaps costs 0.15 us a page. Processes with less resident memory than the first need no
 * copy; with less than the second the copy counts only if no flag can have changed since (else
 * they are read in the freeze: some milliseconds, and madvise cannot come between). Tests set the
 * second to 0, which goes for both. */
#define FM_TRACKER_TINY_BYTES (UINT64_C(16) << 20)
#define FM_TRACKER_SMALL_BYTES (UINT64_C(192) << 20)
void fm_tracker_set_small(struct fm_tracker *t, uint64_t bytes);

/* What CRIU would read of the processes while they stand still, made ready. Takes copies of
 * /proc/PID/smaps while they run (it walks every page: 7 ms/GiB), and watches for calls that make
 * them untrue (state/flag_watch.h), until fm_tracker_close or... */
int fm_tracker_note_maps(struct fm_tracker *t, const pid_t *pids, size_t count,
                         struct fm_error *err);
/* ...this, for which the final scan must be over. Some 40 to 80 ms: not within a freeze. */
void fm_tracker_unwatch_maps(struct fm_tracker *t);
/* Writes for each process of a final scan <dir>/<host pid>.smaps (the lines of maps with
 * VmFlags only; from the copy, when the locked amount has not changed and every line is the same or
 * of anonymous memory that grew, else from a fresh one, which the final scan took),
 * <dir>/<host pid>.hide (binary: the ranges of `mapped`, as pairs of little-endian u64) and, when
 * the kernel tells, <dir>/<host pid>.unguarded (the same of where no guard regions are), which the
 * page filter serves to CRIU. `mapped` of the scan must be the one that was hidden. */
int fm_tracker_write_filter(struct fm_tracker *t, const struct fm_memory_scan *scan,
                            const char *dir, struct fm_error *err);
/* Afterwards, still frozen: fails when a mapping differs from what CRIU was shown. Where it is not
 * known that the flags are those of the freeze (madvise leaves no trace in maps), reads smaps again
 * for that. To be called beside the restore, before the decision. */
int fm_tracker_verify_maps(struct fm_tracker *t, const struct fm_memory_scan *scan,
                           struct fm_error *err);

#endif
