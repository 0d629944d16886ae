/* OCI runtimes behind one table of functions. One real implementation per file (runtime_runc.c). */
#ifndef FM_CONTAINER_RUNTIME_H
#define FM_CONTAINER_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/text.h"
#include "container/cpu_limit.h"

/* What the runtime says of one container. */
struct fm_runtime_state {
    char status[16];  /* created, running, paused, stopped */
    pid_t init_pid;   /* in the host's pid namespace; 0 when stopped */
    char bundle[512]; /* directory with config.json */
    char rootfs[512];
};

/* A running `checkpoint` or `restore` of the runtime. The process is the shim, which survives this
 * one, with the runtime below it; after a restore it stays with the container. */
struct fm_runtime_job {
    pid_t pid;           /* of the shim */
    uint64_t start_time; /* fm_process_start_time, for the journal */
    int pidfd;     /* readable when the runtime has ended; job_wait then closes it and sets -1 */
    char log[512]; /* what the runtime printed; CRIU's own log is in the same directory */
};

struct fm_runtime_checkpoint {
    const char *id;
    const char *image_dir; /* the interposer finds its daemon by <image_dir>/../criu.sock */
    const char *work_dir;  /* CRIU's logs */
};

struct fm_runtime_restore {
    const char *id;
    const char *bundle;
    const char *image_dir;
    const char *work_dir;
    const char *log_path;  /* stdout and stderr go on here, by a shim that outlives the daemon */
    const char *exit_path; /* the shim writes the exit status of init here */
};

struct fm_runtime_run {
    const char *id;
    const char *bundle;
    const char *log_path;
    const char *exit_path;
};

struct fm_runtime_ops {
    const char *name; /* "runc" */
    /* [{"id","pid","status","bundle","created"}]; the caller decrefs. */
    int (*list)(void *ctx, json_t **containers, struct fm_error *err);
    int (*state)(void *ctx, const char *id, struct fm_runtime_state *state, struct fm_error *err);
    /* Creates and starts, detached, under a shim. */
    int (*run)(void *ctx, const struct fm_runtime_run *run, struct fm_error *err);
    /* Runs argv inside; the three descriptors stay the caller's. *exit_code as of the command. */
    int (*exec)(void *ctx, const char *id, const char *const *argv, const int fds[3],
                uint64_t timeout_ms, int *exit_code, struct fm_error *err);
    int (*kill)(void *ctx, const char *id, int signal, struct fm_error *err);
    /* Kills what is left and forgets the container; a container that is not there is no error. */
    int (*remove)(void *ctx, const char *id, struct fm_error *err);
    /* Both start and return; the interposer talks to the daemon meanwhile. With `checkpoint` the
     * runtime destroys the container's state when CRIU reports success. */
    int (*checkpoint)(void *ctx, const struct fm_runtime_checkpoint *checkpoint,
                      struct fm_runtime_job *job, struct fm_error *err);
    int (*restore)(void *ctx, const struct fm_runtime_restore *restore, struct fm_runtime_job *job,
                   struct fm_error *err);
    /* Waits for a job's end and says why it failed (last lines of the runtime's and of CRIU's log).
     * 0 waits for ever. */
    int (*job_wait)(void *ctx, struct fm_runtime_job *job, uint64_t timeout_ms,
                    struct fm_error *err);
    /* SIGKILL to everything that the job started (runc, interposer, criu) and waits until it is
     * gone, then unmounts what CRIU had mounted in the work directory. Spares tasks of the
     * container: see destroy_processes. Needs only pid, start_time and log, so it works from the
     * journal. job_wait afterwards says that the runtime was killed. */
    void (*job_kill)(void *ctx, struct fm_runtime_job *job);
    /* The container's cgroup, v1 or v2. Frozen tasks run no instruction, whoever traces them. */
    int (*freeze)(void *ctx, const char *id, bool frozen, struct fm_error *err);
    /* Its processor time: what it may use, setting that, and taking `percent` of it away. */
    int (*cpu_limit)(void *ctx, const char *id, struct fm_cpu_limit *limit, struct fm_error *err);
    int (*set_cpu_limit)(void *ctx, const char *id, const struct fm_cpu_limit *limit,
                         struct fm_error *err);
    /* SIGKILL to every process of the container, then thaw: none runs another instruction. Does not
     * wait for them to be gone. Works from the cgroup recorded for `id`, also when the runtime
     * forgot it. */
    int (*destroy_processes)(void *ctx, const char *id, struct fm_error *err);
    /* The tasks of a restore are about to run: from here on `state` finds the container as long as
     * it lives, even when the runtime's restore fails after all. NULL: the runtime needs no help.
     */
    int (*remember)(void *ctx, const char *id, struct fm_error *err);
    /* Every process of the container (host pids). */
    int (*processes)(void *ctx, const char *id, pid_t **pids, size_t *count, struct fm_error *err);
};

struct fm_runtime {
    const struct fm_runtime_ops *ops;
    void *ctx;
};

/* Whether one can be found: of its own, without starting the runtime's program. */
static inline bool fm_runtime_has_processes(const struct fm_runtime *runtime, const char *id)
{
    fm_autofree pid_t *pids = NULL;
    size_t count = 0;

    return runtime->ops->processes(runtime->ctx, id, &pids, &count, NULL) == 0 && count > 0;
}

/* Where the programs and directories are. Strings are copied. */
struct fm_runtime_config {
    const char *runc;           /* program, looked up in PATH */
    const char *root;           /* runc --root */
    const char *interposer_dir; /* holds `criu`, put first in PATH */
    const char *shim;           /* path of fleximigrate-shim */
    const char *cgroup_parent;  /* e.g. /fleximigrate */
};
int fm_runtime_runc_open(const struct fm_runtime_config *config, struct fm_runtime *runtime,
                         struct fm_error *err);
void fm_runtime_runc_close(struct fm_runtime *runtime);

#endif
