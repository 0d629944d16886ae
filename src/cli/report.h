/* How a migration went, for people, and the error that a failed one amounts to. */
#ifndef FM_CLI_REPORT_H
#define FM_CLI_REPORT_H

#include "cli/cli.h"

/* One or two lines at the end of `migrate`. */
void cli_report_short(const json_t *doc);
/* Every transition and every measure. */
void cli_report_full(const json_t *doc);
/* 0 when the migration completed; else its reason: FM_E_ROLLED_BACK when it was rolled back,
 * FM_E_REFUSED when planning found that it must not or cannot be. */
int cli_report_result(const json_t *doc, struct fm_error *err);

#endif
