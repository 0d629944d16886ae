/* What is shown while a migration runs: one live line on a terminal, else a line per state. */
#ifndef FM_CLI_LIVE_H
#define FM_CLI_LIVE_H

#include "cli/cli.h"

struct cli_live {
    bool terminal, silent;
    bool drawn;   /* the live line is on the screen */
    bool paused;  /* a question stands there instead */
    size_t shown; /* transitions that were printed */
    uint64_t started_ms;
    char state[32];
    json_t *progress; /* the last progress event; NULL: none */
};

void cli_live_open(struct cli_live *live, const struct cli *cli);
/* Removes the live line. */
void cli_live_close(struct cli_live *live);
/* Shows what is new in the migration's document. */
void cli_live_document(struct cli_live *live, const json_t *doc);
/* Shows a progress event. */
void cli_live_progress(struct cli_live *live, const json_t *event);
/* Draws the live line again, as time has passed. */
void cli_live_draw(struct cli_live *live);
/* Makes room for another line. */
void cli_live_clear(struct cli_live *live);

#endif
