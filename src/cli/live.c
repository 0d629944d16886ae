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

/* Adds "  <size><after>" for a number of the event that is not zero. */
static void add_size(char **line, const json_t *event, const char *key, const char *before,
                     const char *after)
{
    json_int_t value = json_integer_value(json_object_get(event, key));
    fm_autofree char *old = NULL;
    char size[32];

    if (value <= 0)
        return;
    old = FM_MOVE(*line);
    *line = fm_strf("%s  %s%s%s", old, before, fm_format_size((uint64_t)value, size, sizeof(size)),
                    after);
}

static void add_number(char **line, const json_t *event, const char *key, const char *format)
{
    const json_t *value = json_object_get(event, key);
    fm_autofree char *old = NULL;
    char text[64];

    if (!json_is_number(value) || json_number_value(value) <= 0)
        return;
    snprintf(text, sizeof(text), format, json_number_value(value));
    old = FM_MOVE(*line);
    *line = fm_strf("%s  %s", old, text);
}

/* "  round 3  45%  123.4 MiB/s  33.0 MiB left  written 2.1 MiB/s  freeze 31 ms"; empty when the
 * daemon has not said anything yet. */
static char *numbers(const json_t *event)
{
    char *line = fm_xstrdup("");

    add_number(&line, event, "round", "round %.0f");
    add_number(&line, event, "percent", "%.0f%%");
    add_size(&line, event, "throughput", "", "/s");
    add_size(&line, event, "remaining", "", " left");
    add_size(&line, event, "dirty_rate", "written ", "/s");
    add_number(&line, event, "expected_downtime_ms", "freeze %.0f ms");
    return line;
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
