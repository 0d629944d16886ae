#include "cli/report.h"

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/table.h"

static const char *text_of(const json_t *doc, const char *key)
{
    const char *text = json_string_value(json_object_get(doc, key));

    return text ? text : "-";
}

static const char *milliseconds(double ms, char *buf, size_t len)
{
    if (ms < 1000)
        snprintf(buf, len, "%.1f ms", ms);
    else
        snprintf(buf, len, "%.1f s", ms / 1000);
    return buf;
}

/* Adds ", name 12.3 ms" for a measure that was taken. */
static void add_time(char **line, const json_t *stats, const char *key, const char *name)
{
    const json_t *value = json_object_get(stats, key);
    fm_autofree char *before = NULL;
    char buf[32];

    if (!json_is_number(value) || json_number_value(value) <= 0)
        return;
    before = FM_MOVE(*line);
    *line = fm_strf("%s, %s %s", before, name,
                    milliseconds(json_number_value(value), buf, sizeof(buf)));
}

void cli_report_short(const json_t *doc)
{
    const json_t *stats = json_object_get(doc, "stats");
    const json_t *bytes = json_object_get(stats, "wire_bytes");
    fm_autofree char *line =
        fm_strf("'%s' runs on '%s'", text_of(doc, "container"), text_of(doc, "destination"));
    char buf[32];

    add_time(&line, stats, "freeze_ms", "freeze");
    add_time(&line, stats, "client_gap_ms", "client gap");
    add_time(&line, stats, "total_ms", "total");
    if (json_is_integer(bytes) && json_integer_value(bytes) > 0)
        printf("%s, %s sent\n", line,
               fm_format_size((uint64_t)json_integer_value(bytes), buf, sizeof(buf)));
    else
        printf("%s\n", line);
}

static const char *duration(const json_t *row, char *buf, size_t len)
{
    const json_t *value = json_object_get(row, "duration_ms");

    return json_is_number(value) ? milliseconds(json_number_value(value), buf, len) : "-";
}

static const char *next_state(const json_t *row, char *buf, size_t len)
{
    snprintf(buf, len, "%s%s", text_of(row, "to"),
             json_is_true(json_object_get(row, "final")) ? " (final)" : "");
    return buf;
}

static void print_measures(const json_t *stats)
{
    const char *key;
    json_t *value;
    char buf[32];

    json_object_foreach((json_t *)(uintptr_t)stats, key, value)
    {
        if (!json_is_number(value))
            continue;
        if (fm_ends_with(key, "_ms"))
            milliseconds(json_number_value(value), buf, sizeof(buf));
        else if (fm_ends_with(key, "_bytes"))
            fm_format_size((uint64_t)json_integer_value(value), buf, sizeof(buf));
        else
            snprintf(buf, sizeof(buf), "%.0f", json_number_value(value));
        if (!fm_ends_with(key, "_us"))
            printf("  %-22s %s\n", key, buf);
    }
}

static void print_steps(const json_t *steps, const char *indent)
{
    size_t i;
    json_t *step;

    json_array_foreach((json_t *)(uintptr_t)steps, i, step)
    {
        fm_autofree char *deeper = fm_strf("%s    ", indent);

        printf("%s%8.2f ms  %s\n", indent, json_number_value(json_object_get(step, "ms")),
               text_of(step, "step"));
        print_steps(json_object_get(step, "of"), deeper);
    }
}

/* Where the freeze went, step by step; what the destination did is indented. */
static void print_freeze(const json_t *steps, const json_t *stats)
{
    char buf[32];

    if (json_array_size(steps) == 0)
        return;
    printf("\nFreeze, %s:\n",
           milliseconds(json_number_value(json_object_get(stats, "freeze_ms")), buf, sizeof(buf)));
    print_steps(steps, "  ");
}

void cli_report_full(const json_t *doc)
{
    static const struct cli_column columns[] = {
        {"AT", "at", NULL},        {"STATE", NULL, next_state},  {"BEFORE IT", NULL, duration},
        {"BY", "component", NULL}, {"MESSAGE", "message", NULL},
    };
    const json_t *stats = json_object_get(doc, "stats");
    struct fm_error err = {0};

    printf("%s: '%s' from '%s' to '%s', strategy %s\n", text_of(doc, "id"),
           text_of(doc, "container"), text_of(doc, "source"), text_of(doc, "destination"),
           text_of(doc, "strategy"));
    if (json_object_get(doc, "strategy_reason"))
        printf("why not another strategy: %s\n", text_of(doc, "strategy_reason"));
    if (!json_is_true(json_object_get(doc, "final")))
        printf("state: %s\n", text_of(doc, "state"));
    else if (cli_report_result(doc, &err) < 0)
        printf("result: %s\n", err.text);
    else
        printf("result: completed\n");
    putchar('\n');
    cli_table(columns, FM_COUNT(columns), json_object_get(doc, "transitions"));
    print_freeze(json_object_get(doc, "freeze"), stats);
    if (json_object_size(stats) > 0) {
        printf("\nMeasured:\n");
        print_measures(stats);
    }
}

/* A failure before anything was made: its own code, but what planning finds is a refusal. */
static enum fm_code early_code(const char *failed_in, enum fm_code code)
{
    bool planning = fm_streq(failed_in, "PLANNING");

    return planning && (code == FM_E_EXISTS || code == FM_E_NO_SPACE) ? FM_E_REFUSED : code;
}

int cli_report_result(const json_t *doc, struct fm_error *err)
{
    const json_t *reason = json_object_get(doc, "reason");
    const char *message = text_of(reason, "message"), *failed_in = text_of(doc, "failed_in");
    enum fm_code code = fm_code_by_name(text_of(reason, "code"));

    if (fm_streq(text_of(doc, "result"), "completed"))
        return 0;
    if (json_is_true(json_object_get(doc, "needs_attention")))
        return fm_error_set(err, FM_E_FAILED,
                            "'%s' did not move: %s; not all could be undone, see 'fleximigrate "
                            "migration show %s'",
                            text_of(doc, "container"), message, text_of(doc, "id"));
    if (fm_streq(failed_in, "PENDING") || fm_streq(failed_in, "PLANNING"))
        return fm_error_set(err, early_code(failed_in, code), "'%s' does not move: %s",
                            text_of(doc, "container"), message);
    return fm_error_set(err, FM_E_ROLLED_BACK, "'%s' stays on '%s': rolled back from %s: %s",
                        text_of(doc, "container"), text_of(doc, "source"), failed_in, message);
}
