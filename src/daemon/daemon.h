/* fleximigrated's life: start-up, waiting for signals, orderly shut-down. */
#ifndef FM_DAEMON_DAEMON_H
#define FM_DAEMON_DAEMON_H

#include "base/error.h"
#include "daemon/config.h"

/* Runs until SIGTERM or SIGINT. The log must be set up; call it before threads exist. FM_E_EXISTS
 * when another daemon uses the same state directory. */
int fm_daemon_run(const struct fm_config *config, struct fm_error *err);

#endif
