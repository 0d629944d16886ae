/* fleximigrate migration: migrations that run and that have run. */
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/report.h"
#include "cli/table.h"
#include "cli/watch.h"

static const struct cli_option none[] = {{NULL, 0, NULL, NULL}};

static const char *result(const json_t *row, char *buf, size_t len)
{
    char text[64];

    snprintf(buf, len, "%s%s", cli_text(row, "result", text, sizeof(text)),
             json_is_true(json_object_get(row, "needs_attention")) ? ", needs attention" : "");
    return buf;
}

static int list(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    static const struct cli_column columns[] = {
        {"ID", "id", NULL},           {"CONTAINER", "container", NULL}, {"FROM", "source", NULL},
        {"TO", "destination", NULL},  {"STATE", "state", NULL},         {"RESULT", NULL, result},
        {"CREATED", "created", NULL},
    };
    json_auto_t *reply = NULL;

    (void)args;
    if (cli_request(cli, "GET", "/v1/migrations", NULL, &reply, err) < 0)
        return -(int)err->code;
    if (cli->json)
        cli_print_json(reply);
    else
        cli_table(columns, FM_COUNT(columns), reply);
    return 0;
}

static int fetch(const struct cli *cli, const struct cli_args *args, json_t **doc,
                 struct fm_error *err)
{
    fm_autofree char *path = cli_path("migrations", args->words.items[0], "");

    return cli_request(cli, "GET", path, NULL, doc, err);
}

static int show(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    json_auto_t *doc = NULL;
    const char *key;
    json_t *value;

    if (fetch(cli, args, &doc, err) < 0)
        return -(int)err->code;
    if (cli->json) {
        cli_print_json(doc);
        return 0;
    }
    json_object_foreach(doc, key, value)
    {
        fm_autofree char *text = json_is_string(value)
                                     ? fm_xstrdup(json_string_value(value))
                                     : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

        if (!fm_streq(key, "transitions") && !fm_streq(key, "steps"))
            printf("%-16s %s\n", key, text ? text : "");
    }
    return 0;
}

static int report(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    json_auto_t *doc = NULL;

    if (fetch(cli, args, &doc, err) < 0)
        return -(int)err->code;
    if (cli->json)
        cli_print_json(doc);
    else
        cli_report_full(doc);
    return 0;
}

static int watch(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    struct cli_watcher *watcher = cli_watch_open(cli, err);
    json_auto_t *doc = NULL;
    int ret;

    if (!watcher)
        return -(int)err->code;
    ret = cli_watch_run(watcher, args->words.items[0], false, &doc, err);
    cli_watch_close(watcher);
    if (ret < 0 || !doc)
        return ret;
    ret = cli_report_result(doc, err);
    if (cli->json)
        cli_print_json(doc);
    else if (ret == 0 && !cli->quiet)
        cli_report_short(doc);
    return ret;
}

static int cancel(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    fm_autofree char *path = cli_path("migrations", args->words.items[0], "");
    json_auto_t *doc = NULL;

    if (cli_request(cli, "DELETE", path, NULL, &doc, err) < 0)
        return -(int)err->code;
    if (cli->json)
        cli_print_json(doc);
    else
        cli_say(cli, "cancelling %s", args->words.items[0]);
    return 0;
}

const struct cli_command cli_migration_commands[] = {
    {.name = "list",
     .summary = "list migrations, newest first",
     .arguments = "",
     .options = none,
     .example = "fleximigrate migration list",
     .run = list},
    {.name = "show",
     .summary = "show a migration",
     .arguments = "ID",
     .options = none,
     .example = "fleximigrate migration show 4f1c09a2b3d4 --json",
     .least = 1,
     .most = 1,
     .run = show},
    {.name = "watch",
     .summary = "follow a migration to its end",
     .arguments = "ID",
     .options = none,
     .example = "fleximigrate migration watch 4f1c09a2b3d4",
     .notes = "Exit status: as of migrate. ^C ends the watching, not the migration.",
     .least = 1,
     .most = 1,
     .run = watch},
    {.name = "cancel",
     .summary = "stop a migration; the container runs on where it was",
     .arguments = "ID",
     .options = none,
     .example = "fleximigrate migration cancel 4f1c09a2b3d4",
     .least = 1,
     .most = 1,
     .run = cancel},
    {.name = "report",
     .summary = "say how a migration went: states, times, bytes",
     .arguments = "ID",
     .options = none,
     .example = "fleximigrate migration report 4f1c09a2b3d4",
     .least = 1,
     .most = 1,
     .run = report},
    {.name = NULL},
};
