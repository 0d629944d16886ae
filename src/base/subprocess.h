/* Subprocesses: argument vectors, bounded run time, captured output, no shell. */
#ifndef FM_BASE_SUBPROCESS_H
#define FM_BASE_SUBPROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cancel.h"
#include "base/error.h"

struct fm_subprocess_options {
    const char *const *argv; /* NULL-terminated; argv[0] is looked up in the child's PATH */
    const char *const *env;  /* NAME=value entries that are added or replaced; NULL: none */
    const char *cwd;         /* NULL: unchanged */
    int stdin_fd;            /* < 0: /dev/null (0 would be the caller's; leave -1 if unsure) */
    int stdout_fd;           /* <= 0: captured by fm_subprocess_run, /dev/null by _start */
    int stderr_fd;           /* <= 0: as stdout_fd */
    bool new_session;        /* setsid: survives the caller's death, gets no ^C */
    bool die_with_parent;    /* SIGKILL when the *thread* that started it ends (PR_SET_PDEATHSIG) */
    const int *keep_fds;     /* further descriptors that stay open, same numbers */
    size_t keep_fd_count;
    uint64_t timeout_ms;     /* 0: none; past it SIGTERM, 2 s later SIGKILL, FM_E_TIMEOUT */
    struct fm_cancel cancel; /* ends it in the same way, with its own error; {0}: nobody does */
};

struct fm_subprocess_result {
    int exit_code; /* 128 + signal when killed by one */
    char *out;     /* captured stdout, NUL-terminated; NULL when not captured */
    size_t out_len;
    char *err; /* captured stderr, at most 64 KiB: the end of it */
};
void fm_subprocess_result_clear(struct fm_subprocess_result *r);

/* Runs to the end. 0 when the program ran (look at exit_code), negative when it could not be
 * started or timed out. Safe to call from several threads (posix rules between fork and exec). */
int fm_subprocess_run(const struct fm_subprocess_options *options,
                      struct fm_subprocess_result *result, struct fm_error *err);

/* As fm_subprocess_run, but a non-zero exit is FM_E_FAILED with the last line of stderr. `out` may
 * be NULL; else the caller frees it. */
int fm_subprocess_check(const struct fm_subprocess_options *options, char **out,
                        struct fm_error *err);

/* Starts and returns. The caller reaps it with fm_subprocess_wait, or never when it is to outlive
 * us (then a second fork makes init its parent: `detach`). *pidfd (may be NULL) must be closed. */
int fm_subprocess_start(const struct fm_subprocess_options *options, bool detach, pid_t *pid,
                        int *pidfd, struct fm_error *err);
/* Waits for a child started here; timeout_ms 0 waits for ever. Kills nothing. */
int fm_subprocess_wait(pid_t pid, uint64_t timeout_ms, int *exit_code, struct fm_error *err);

/* Identity of a process that survives pid reuse: start time in clock ticks (/proc/PID/stat field
 * 22); 0 when there is no such process. */
uint64_t fm_process_start_time(pid_t pid);
/* True when pid still is the process that had this start time and is not a zombie. */
bool fm_process_is(pid_t pid, uint64_t start_time);
/* The process behind a pidfd, in our pid namespace; 0 when it has been reaped. */
pid_t fm_process_of_pidfd(int pidfd);

#endif
