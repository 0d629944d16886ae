/* Threads of other processes, stopped for a moment by ptrace, so that they do not notice.
 *
 * The kernel ties all this to the thread that calls; when that ends, it lets go of all of them. */
#ifndef FM_STATE_THREAD_STOP_H
#define FM_STATE_THREAD_STOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "state/inject_arch.h"

enum fm_stop { FM_STOP_DONE, FM_STOP_ENDED, FM_STOP_LATE };

/* The next stop of any kind. */
enum fm_stop fm_thread_wait(pid_t tid, int *status, uint64_t timeout_ms);
/* The stop that PTRACE_INTERRUPT makes; signals that come before it reach the thread. */
enum fm_stop fm_thread_wait_interrupted(pid_t tid, uint64_t timeout_ms);
int fm_thread_get_registers(pid_t tid, fm_arch_regs *regs, size_t *len);
int fm_thread_set_registers(pid_t tid, fm_arch_regs *regs);
/* 'R', 'S', 'D', 'T', 't', 'Z', …; 'X' when it has ended. */
char fm_thread_state(pid_t pid, pid_t tid);

/* Runs `work` while every thread of the process stands still, in a thread of its own.
 * FM_E_NOT_FOUND: the process has ended; FM_E_TIMEOUT: a thread does not stop now (vfork);
 * FM_E_REFUSED: somebody else traces it. Else what `work` returns. */
typedef int (*fm_stopped_work)(void *ctx, struct fm_error *err);
int fm_process_while_stopped(pid_t pid, fm_stopped_work work, void *ctx, struct fm_error *err);

/* Calls `run` in a thread of its own without signals, and waits for its end. */
int fm_run_as_tracer(void *(*run)(void *), void *arg, struct fm_error *err);

#endif
