/* Jobs of an OCI runtime: a checkpoint or restore under the shim, its end, its reasons, its death.
 */
#ifndef FM_CONTAINER_RUNC_JOB_H
#define FM_CONTAINER_RUNC_JOB_H

#include "base/error.h"
#include "base/text.h"
#include "container/runtime.h"

struct fm_runc_job_spec {
    const char *shim;        /* program */
    const char *const *argv; /* of the runtime */
    const char *const *env;  /* NAME=value, replaced in the environment */
    const char *log; /* file for the runtime's own words; its directory is CRIU's work directory */
    const char *container_log; /* NULL: no container comes of it */
    const char *exit_path;     /* with container_log */
};

/* Starts the shim, which survives this process, and the runtime below it. */
int fm_runc_job_start(const struct fm_runc_job_spec *spec, struct fm_runtime_job *job,
                      struct fm_error *err);
/* See fm_runtime_ops. `wait` closes job->pidfd once the job has ended. */
int fm_runc_job_wait(struct fm_runtime_job *job, uint64_t timeout_ms, struct fm_error *err);
void fm_runc_job_kill(struct fm_runtime_job *job);

/* What stopped the program that wrote these JSON log lines (runc --log-format json): the last
 * error's text. The caller frees it; NULL when there is none. */
char *fm_runc_log_error(const char *text);
/* The same of a log of CRIU: its last telling errors in one line. */
char *fm_criu_log_error(const char *text);

#endif
