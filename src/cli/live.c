#include "cli/live.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define CLEAR_LINE "\r\033[K"

void cli_live_open(struct cli_live *live, const struct cli *cli)
{
    *live = (struct cli_live){
        .silent = cli->json || cli->quiet,
        .terminal = isatty(STDOUT_FILENO) == 1,
        .started_ms = fm_now_ms(),
    };
}

void cli_live_clear(struct cli_live *live)
{
    if (live->drawn)
        fputs(CLEAR_LINE, stdout);
    live->drawn = false;
    fflush(stdout);
}

void cli_live_close(struct cli_live *live)
{
    cli_live_clear(live);
    json_decref(live->progress);
    live->progress = NULL;
}

static int terminal_width(void)
{
    struct winsize size;

    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
}

/* "  45%  123.4 MiB/s  33.0 MiB left"; empty when the daemon has not said anything yet. */
static char *numbers(const json_t *event)
{
    const json_t *percent = json_object_get(event, "percent");
    const json_t *speed = json_object_get(event, "mib_per_s");
    const json_t *remaining = json_object_get(event, "remaining");
    char size[32];
    fm_autofree char *a =
        json_is_number(percent) ? fm_strf("  %3.0f%%", json_number_value(percent)) : NULL;
    fm_autofree char *b =
        json_is_number(speed) ? fm_strf("  %.1f MiB/s", json_number_value(speed)) : NULL;
    fm_autofree char *c =
        json_is_integer(remaining) && json_integer_value(remaining) >= 0
            ? fm_strf("  %s left",
                      fm_format_size((uint64_t)json_integer_value(remaining), size, sizeof(size)))
            : NULL;

    return fm_strf("%s%s%s", a ? a : "", b ? b : "", c ? c : "");
}

void cli_live_draw(struct cli_live *live)
{
    fm_autofree char *middle = numbers(live->progress);
    fm_autofree char *line = NULL;

    if (live->silent || live->paused || !live->terminal)
        return;
    line = fm_strf("%-12s%s  %.1f s", live->state, middle,
                   (double)(fm_now_ms() - live->started_ms) / 1000);
    printf(CLEAR_LINE "%.*s", terminal_width() - 1, line);
    fflush(stdout);
    live->drawn = true;
}

void cli_live_progress(struct cli_live *live, const json_t *event)
{
    json_decref(live->progress);
    live->progress = json_deep_copy(event);
    cli_live_draw(live);
}

/* Numbers of another state would mislead. */
static void forget_progress(struct cli_live *live)
{
    if (fm_streq(json_string_value(json_object_get(live->progress, "phase")), live->state))
        return;
    json_decref(live->progress);
    live->progress = NULL;
}

void cli_live_document(struct cli_live *live, const json_t *doc)
{
    const json_t *transitions = json_object_get(doc, "transitions");
    char state[32], to[32], message[256];

    if (!fm_streq(live->state, cli_text(doc, "state", state, sizeof(state)))) {
        snprintf(live->state, sizeof(live->state), "%s",
                 cli_text(doc, "state", state, sizeof(state)));
        forget_progress(live);
    }
    for (; live->shown < json_array_size(transitions); live->shown++) {
        const json_t *transition = json_array_get(transitions, live->shown);

        if (live->silent || live->terminal)
            continue;
        printf("%-13s %s\n", cli_text(transition, "to", to, sizeof(to)),
               cli_text(transition, "message", message, sizeof(message)));
        fflush(stdout);
    }
    cli_live_draw(live);
}
