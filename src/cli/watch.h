/* Follows one migration to its end: events as they come, the document as the truth. */
#ifndef FM_CLI_WATCH_H
#define FM_CLI_WATCH_H

#include "cli/cli.h"

struct cli_watcher;

/* Subscribes to the daemon's events, so that nothing of what is asked for next is missed, and keeps
 * ^C for cli_watch_run. A daemon without events is no error: the document is asked for instead. */
struct cli_watcher *cli_watch_open(const struct cli *cli, struct fm_error *err);
void cli_watch_close(struct cli_watcher *watcher); /* NULL is fine */

/* Shows progress until the migration is final; *doc is then its document. ^C asks once and then
 * cancels with `may_cancel` (at once without a terminal), else it ends the watching: *doc is NULL
 * then. */
int cli_watch_run(struct cli_watcher *watcher, const char *id, bool may_cancel, json_t **doc,
                  struct fm_error *err);

#endif
