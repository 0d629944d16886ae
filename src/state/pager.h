/* Pager, the daemon's end: one small process (fleximigrate-pager) for each restored container whose
 * memory is still in the page store.
 *
 * It listens at <work dir>/lazy-pages.socket for CRIU, takes each task's userfaultfd, and fills the
 * memory: faults first, the rest in the background. The daemon keeps duplicates of the descriptors,
 * and so does the container's init (base/deposit.h): when the pager dies, even together with the
 * daemon, the tasks stand still instead of seeing zeroes, and a new pager goes on. */
#ifndef FM_STATE_PAGER_H
#define FM_STATE_PAGER_H

#include "state/memory.h"

struct fm_pager_spec {
    const char *program; /* path of fleximigrate-pager */
    /* Page store; settled (a .present for every process, empty if need be, and .missing files) when
     * CRIU sends its tasks: those that are not there are refused. */
    const char *store_dir;
    const char *work_dir; /* CRIU's: lazy-pages.socket is made there */
    const char *control;  /* path of the socket on which a later daemon finds it */
    const char *log;
};

struct fm_pager_status {
    uint64_t total_bytes, filled_bytes, missing_bytes;
    uint64_t faults, fault_us_max; /* served; the longest wait of one */
    uint64_t processes;
    bool resumed; /* CRIU said that all tasks are restored */
    bool done;    /* every page is in place, every userfaultfd is closed */
};

struct fm_pager;
/* Returns when it listens. */
struct fm_pager *fm_pager_start(const struct fm_pager_spec *spec, struct fm_error *err);
/* Finds one that an earlier daemon started, also when it has come to its end since (the first
 * status is then `done`; known from a note in the store). For one that was killed with its daemon
 * another goes on with what the container has kept. FM_E_NOT_FOUND: there was none, or it was
 * ended. FM_E_FAILED: it has died, as fm_pager_wait says it. */
struct fm_pager *fm_pager_find(const struct fm_pager_spec *spec, struct fm_error *err);
/* Waits for a change of the status at most so long. Restarts a pager that has died; FM_E_FAILED
 * when that is impossible: the container must be killed and restored again. One thread has to be in
 * here until the pager is done: it also keeps the duplicates, and lets go of them. */
int fm_pager_wait(struct fm_pager *p, uint64_t timeout_ms, struct fm_pager_status *status,
                  struct fm_error *err);
/* CRIU has laid out the memory of all tasks, which wait for their resume: what came last may be
 * filled in the meantime. A hint. Thread-safe. */
void fm_pager_restored(struct fm_pager *p);
/* Post-copy: pages now in the store that were missing. Thread-safe; also before CRIU has connected.
 */
void fm_pager_arrived(struct fm_pager *p, pid_t inner_pid, uint64_t start, uint64_t end);
/* Post-copy: a page that a task waits for; asks the source. Called by fm_pager_wait's thread. */
typedef void (*fm_pager_want)(void *ctx, pid_t inner_pid, uint64_t address);
void fm_pager_set_want(struct fm_pager *p, fm_pager_want want, void *ctx);
/* Ends it: before the container has run (undone restore), or when it is done. Tasks that it has not
 * filled yet are killed, for they would go on with zeroes. Frees. NULL is fine. */
void fm_pager_end(struct fm_pager *p);
/* Frees the daemon's end only: the pager goes on alone (the daemon stops). */
void fm_pager_leave(struct fm_pager *p);
/* Does userfaultfd work here as the pager needs it? Tried on a child. */
int fm_pager_probe(struct fm_error *err);

#endif
