/* Log pipe: is everything that a frozen container wrote to its stdout in its log file yet? */
#ifndef FM_MIGRATION_LOG_PIPE_H
#define FM_MIGRATION_LOG_PIPE_H

#include <sys/types.h>

/* Waits (at most 200 ms) until the pipes behind the init's stdout and stderr are empty and the shim
 * that reads them sleeps again, so that the log file is complete. The container must be frozen.
 * Without pipes or shim it returns at once. */
void fm_log_pipe_settle(pid_t init_pid);

#endif
