/* State interface: a dump and a restore as the handover sees them, whatever runtime and CRIU do
 * underneath.
 *
 * Both are held at their points of no return: a dump when its images are complete, a restore before
 * the first instruction. Real implementation: runtime + CRIU session; the tests bring a fake. */
#ifndef FM_MIGRATION_STATE_INTERFACE_H
#define FM_MIGRATION_STATE_INTERFACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "container/runtime.h"
#include "container/tmpfs_mounts.h"

struct fm_dump;    /* a container that is being checkpointed */
struct fm_restore; /* a container that is being restored */

/* What a restore needs to know. Paths belong to the caller. */
struct fm_restore_plan {
    const char *id;
    const char *dir; /* migration's directory: <dir>/images, <dir>/criu.sock, <dir>/work */
    const char *bundle;
    const char *log_path;
    const char *exit_path;
};

/* Called while everything stands still; a negative return fails the operation. */
typedef int (*fm_state_hook)(void *arg, struct fm_error *err);

struct fm_dump_request {
    uint64_t timeout_ms;
    fm_state_hook freezing; /* called when CRIU is about to seize the tasks; NULL: nothing */
    fm_state_hook frozen;   /* called when all tasks are seized (network-lock), before CRIU reads
                               their memory maps: the filter's files are written here */
    fm_state_hook dumping;  /* called after it, while CRIU writes the images; NULL: nothing */
    void *arg;
    const char *filter_dir; /* <host pid>.hide, <host pid>.smaps; NULL: CRIU saves all memory */
    const struct fm_tmpfs_mounts *tmpfs; /* that CRIU leaves to us; may be NULL */
    bool skip_in_flight; /* lose connections that nobody has accepted rather than fail */
};

struct fm_restore_request {
    uint64_t timeout_ms;
    const char *root; /* replaces the root mount when not NULL */
    bool lazy_pages;  /* the pager listens at <dir>/work/lazy-pages.socket */
    bool tcp_close;   /* its address is another one: established connections come back closed */
    const struct fm_tmpfs_mounts *tmpfs; /* made below <dir>, with their content; may be NULL */
};

struct fm_state_ops {
    /* Starts the runtime's checkpoint of `id` into <dir>/images; returns when CRIU's request is
     * held and descriptors.json is there. The container runs on. */
    int (*dump_start)(void *ctx, const char *id, const char *dir, struct fm_dump **dump,
                      struct fm_error *err);
    /* Lets CRIU dump; `frozen` is called when all tasks are seized (network-lock), `go` returns
     * when the images are complete and CRIU waits in post-dump. On failure the container runs on.
     */
    int (*dump_go)(void *ctx, struct fm_dump *dump, const struct fm_dump_request *request,
                   struct fm_error *err);
    /* Once the container is frozen: fails when its tasks may have run since the images were
     * complete, because CRIU has died. NULL: they cannot. */
    int (*dump_stands)(void *ctx, struct fm_dump *dump, struct fm_error *err);
    /* The way back: CRIU lets the tasks run on; returns when they do. dump_end follows, without
     * commit. */
    int (*dump_resume)(void *ctx, struct fm_dump *dump, struct fm_error *err);
    /* commit: CRIU kills the tasks and the runtime forgets the container. Otherwise they run on.
     * Waits for the runtime's end. Frees the dump, also on failure. */
    int (*dump_end)(void *ctx, struct fm_dump *dump, bool commit, struct fm_error *err);

    /* Starts the runtime's restore; returns when CRIU's request is held (only descriptors.json need
     * be in <dir>/images). */
    int (*restore_start)(void *ctx, const struct fm_restore_plan *plan, struct fm_restore **restore,
                         struct fm_error *err);
    /* Starts CRIU already, which then waits for the images; NULL: only restore_go does. The request
     * is the one that restore_go will be given. */
    int (*restore_warm)(void *ctx, struct fm_restore *restore,
                        const struct fm_restore_request *request, struct fm_error *err);
    /* The images are complete: restores up to the instant before the first instruction. */
    int (*restore_go)(void *ctx, struct fm_restore *restore,
                      const struct fm_restore_request *request, struct fm_error *err);
    /* Lets the tasks run; `resuming` is called in the last moment before (switch the network
     * there). A failure means that none of them has run; a runtime or CRIU that dies later is no
     * failure. */
    int (*restore_resume)(void *ctx, struct fm_restore *restore, fm_state_hook resuming, void *arg,
                          struct fm_error *err);
    /* Frees; a restore that was not resumed is undone (its tasks are killed). NULL is fine. */
    void (*restore_end)(void *ctx, struct fm_restore *restore);
};

struct fm_state_interface {
    const struct fm_state_ops *ops;
    void *ctx;
};

/* Does a dump with a page filter work here? Tried on a child; some tens of milliseconds. Without it
 * only the strategy cold remains. `interposer_dir` holds fleximigrate-criu. */
int fm_skeleton_probe(const char *interposer_dir, struct fm_error *err);

/* The real one. `runtime` must outlive it. */
void fm_state_interface_open(const struct fm_runtime *runtime, struct fm_state_interface *state);

#endif
