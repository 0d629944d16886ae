/* What /proc/PID/status tells of a process's memory and names. */
#ifndef FM_STATE_PROCESS_STATUS_H
#define FM_STATE_PROCESS_STATUS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct fm_process_status {
    pid_t inner_pid; /* in its innermost pid namespace */
    bool has_memory; /* false: a zombie, or its first thread has ended */
    bool is_thread;  /* not a process's first one */
    unsigned threads;
    uint64_t locked_bytes; /* by mlock and its like */
};

/* FM_E_NOT_FOUND: the process has ended. */
int fm_process_status_read(pid_t pid, struct fm_process_status *status, struct fm_error *err);
/* Start time in clock ticks, the same errors: unlike fm_process_start_time, which says 0 to all. */
int fm_process_status_start(pid_t pid, uint64_t *start_time, struct fm_error *err);

#endif
