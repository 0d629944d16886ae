/* Injection: a system call executed by another process, by ptrace.
 *
 * One thread of the process stops for 0.1 ms or so. No byte of its memory changes: an existing
 * system call instruction is used. Signals, stopped processes and interrupted system calls come out
 * as if nothing had been; a seccomp filter does not see the call (PTRACE_O_SUSPEND_SECCOMP). What
 * nobody can prevent: when the calling process dies within some 50 µs, the registers stay altered.
 */
#ifndef FM_STATE_INJECT_H
#define FM_STATE_INJECT_H

#include <sys/types.h>

#include "base/error.h"

/* A descriptor that the process opened for us. */
struct fm_injected {
    int fd;     /* ours; to be closed by the caller */
    int number; /* that it had in the process for a moment; a child forked just then has it too */
};

/* Opens a userfaultfd of the process's memory, which only we hold afterwards. FM_E_NOT_FOUND: the
 * process has ended. FM_E_REFUSED: it cannot be done (seccomp that cannot be suspended, traced
 * already, 32-bit, …). FM_E_TIMEOUT: no thread stops at present, try again later. */
int fm_inject_userfaultfd(pid_t pid, struct fm_injected *result, struct fm_error *err);
/* Closes descriptor `number` of the process if it is the same open file as ours. */
int fm_inject_close(pid_t pid, int number, int ours, struct fm_error *err);

#endif
