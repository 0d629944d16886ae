/* fleximigrate container: the containers of one host. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/table.h"

static const struct cli_option none[] = {{NULL, 0, NULL, NULL}};
static const struct cli_option log_options[] = {
    {"follow", 'f', NULL, "go on until ^C as the log grows"},
    {"tail", 'n', "LINES", "only the last lines"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option stop_options[] = {
    {"timeout", 't', "TIME", "SIGKILL after it; 10s when not given"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option remove_options[] = {
    {"force", 'f', NULL, "also a running one: it is killed"},
    {NULL, 0, NULL, NULL},
};

static const char *runtime(const json_t *row, char *buf, size_t len)
{
    char text[64];

    snprintf(buf, len, "%s%s", cli_text(row, "runtime", text, sizeof(text)),
             json_is_true(json_object_get(row, "found")) ? " (found)" : "");
    return buf;
}

static const char *command(const json_t *row, char *buf, size_t len)
{
    const json_t *word;
    size_t i, used = 0;

    buf[0] = '\0';
    json_array_foreach(json_object_get(row, "command"), i, word)
    {
        const char *text = json_string_value(word);

        used += (size_t)snprintf(buf + used, len - used, "%s%s", i ? " " : "", text ? text : "");
        if (used >= len || used > 40)
            break;
    }
    if (used > 40)
        memcpy(buf + 39, "…", sizeof("…"));
    return buf[0] ? buf : "-";
}

static int list(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    static const struct cli_column columns[] = {
        {"NAME", "name", NULL},     {"STATE", "state", NULL}, {"IP", "ip", NULL},
        {"RUNTIME", NULL, runtime}, {"PID", "pid", NULL},     {"COMMAND", NULL, command},
    };
    json_auto_t *reply = NULL;

    (void)args;
    if (cli_request(cli, "GET", "/v1/containers", NULL, &reply, err) < 0)
        return -(int)err->code;
    if (cli->json)
        cli_print_json(reply);
    else
        cli_table(columns, FM_COUNT(columns), reply);
    return 0;
}

static int show(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    fm_autofree char *path = cli_path("containers", args->words.items[0], "");
    json_auto_t *reply = NULL;
    const char *key;
    json_t *value;

    if (cli_request(cli, "GET", path, NULL, &reply, err) < 0)
        return -(int)err->code;
    if (cli->json) {
        cli_print_json(reply);
        return 0;
    }
    json_object_foreach(reply, key, value)
    {
        fm_autofree char *text = json_is_string(value)
                                     ? fm_xstrdup(json_string_value(value))
                                     : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

        printf("%-14s %s\n", key, text ? text : "");
    }
    return 0;
}

static int write_out(const char *data, size_t len, void *ctx)
{
    (void)ctx;
    return fwrite(data, 1, len, stdout) != len || fflush(stdout) != 0;
}

static int logs(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    const char *tail = cli_value(args, "tail");
    bool follow = cli_flag(args, "follow");
    fm_autofree char *query = NULL;
    fm_autofree char *path = NULL;
    cli_autoclient *client = NULL;
    int64_t lines = 0;

    if (tail && fm_parse_int(tail, 0, 1000000, &lines, err) < 0) {
        fm_error_prefix(err, "--tail");
        return fm_error_recode(err, FM_E_USAGE);
    }
    query = tail ? fm_strf("/logs?follow=%d&tail=%lld", follow, (long long)lines)
                 : fm_strf("/logs?follow=%d", follow);
    path = cli_path("containers", args->words.items[0], query);
    client = cli_open(cli, err);
    return client ? fm_client_stream(client, path, write_out, NULL, err) : -(int)err->code;
}

static int exec(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    fm_autofree char *path = cli_path("containers", args->words.items[0], "/exec");
    json_t *words = json_array();
    json_auto_t *body = json_pack("{s:o}", "command", words);
    json_auto_t *reply = NULL;
    const char *out, *errors;

    for (size_t i = 1; i < args->words.count; i++)
        json_array_append_new(words, json_string(args->words.items[i]));
    if (cli_request(cli, "POST", path, body, &reply, err) < 0)
        return -(int)err->code;
    cli->exit_code = (int)json_integer_value(json_object_get(reply, "exit_code"));
    if (cli->json) {
        cli_print_json(reply);
        return 0;
    }
    out = json_string_value(json_object_get(reply, "stdout"));
    errors = json_string_value(json_object_get(reply, "stderr"));
    fputs(out ? out : "", stdout);
    fflush(stdout);
    fputs(errors ? errors : "", stderr);
    return 0;
}

static int done(const struct cli *cli, const char *what, const char *name)
{
    if (cli->json)
        puts("{}");
    else
        cli_say(cli, "%s '%s'", what, name);
    return 0;
}

static int stop(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    fm_autofree char *path = cli_path("containers", args->words.items[0], "/stop");
    const char *timeout = cli_value(args, "timeout");
    json_auto_t *body = json_object();
    uint64_t ms;

    if (timeout) {
        if (fm_parse_duration(timeout, &ms, err) < 0) {
            fm_error_prefix(err, "--timeout");
            return fm_error_recode(err, FM_E_USAGE);
        }
        json_object_set_new(body, "timeout_ms", json_integer((json_int_t)ms));
    }
    if (cli_request(cli, "POST", path, body, NULL, err) < 0)
        return -(int)err->code;
    return done(cli, "stopped", args->words.items[0]);
}

static int remove_container(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    fm_autofree char *path =
        cli_path("containers", args->words.items[0], cli_flag(args, "force") ? "?force=1" : "");

    if (cli_request(cli, "DELETE", path, NULL, NULL, err) < 0)
        return -(int)err->code;
    return done(cli, "removed", args->words.items[0]);
}

const struct cli_command cli_container_commands[] = {
    {.name = "list",
     .summary = "list containers, also those that only the runtime knows",
     .arguments = "",
     .options = none,
     .example = "fleximigrate container list",
     .run = list},
    {.name = "show",
     .summary = "show a container",
     .arguments = "CONTAINER",
     .options = none,
     .example = "fleximigrate container show redis --json",
     .least = 1,
     .most = 1,
     .run = show},
    {.name = "logs",
     .summary = "print what a container wrote",
     .arguments = "CONTAINER",
     .options = log_options,
     .example = "fleximigrate container logs --follow --tail 20 redis",
     .least = 1,
     .most = 1,
     .run = logs},
    {.name = "exec",
     .summary = "run a command in a container",
     .arguments = "CONTAINER [--] COMMAND [ARG…]",
     .options = none,
     .example = "fleximigrate container exec redis -- redis-cli ping",
     .notes = "Exit status: the command's own.",
     .least = 2,
     .most = -1,
     .rest = true,
     .run = exec},
    {.name = "stop",
     .summary = "stop a container; its files stay",
     .arguments = "CONTAINER",
     .options = stop_options,
     .example = "fleximigrate container stop redis --timeout 30s",
     .least = 1,
     .most = 1,
     .run = stop},
    {.name = "remove",
     .summary = "remove a stopped container and its files",
     .arguments = "CONTAINER",
     .options = remove_options,
     .example = "fleximigrate container remove redis --force",
     .least = 1,
     .most = 1,
     .run = remove_container},
    {.name = NULL},
};
