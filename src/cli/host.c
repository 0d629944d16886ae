/* fleximigrate host: the hosts that containers can move between. */
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/table.h"

static const struct cli_option none[] = {{NULL, 0, NULL, NULL}};
static const struct cli_option add_options[] = {
    {"api-port", 0, "PORT", "the daemon's API port; 7440 when not given"},
    {"wire-port", 0, "PORT", "the daemon's port for other daemons; 7441 when not given"},
    {NULL, 0, NULL, NULL},
};

static const char *status(const json_t *row, char *buf, size_t len)
{
    char text[64];

    snprintf(buf, len, "%s%s", cli_text(row, "status", text, sizeof(text)),
             json_is_true(json_object_get(row, "cordoned")) ? ", cordoned" : "");
    return buf;
}

static const char *name(const json_t *row, char *buf, size_t len)
{
    char text[64];

    snprintf(buf, len, "%s%s", cli_text(row, "name", text, sizeof(text)),
             json_is_true(json_object_get(row, "self")) ? " (this host)" : "");
    return buf;
}

static int list(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    static const struct cli_column columns[] = {
        {"NAME", NULL, name},
        {"ADDRESS", "address", NULL},
        {"STATUS", NULL, status},
        {"LAST SEEN", "last_seen", NULL},
    };
    json_auto_t *reply = NULL;

    (void)args;
    if (cli_request(cli, "GET", "/v1/hosts", NULL, &reply, err) < 0)
        return -(int)err->code;
    if (cli->json)
        cli_print_json(reply);
    else
        cli_table(columns, FM_COUNT(columns), reply);
    return 0;
}

static bool is_size(const char *key)
{
    return fm_ends_with(key, "_bytes") || fm_starts_with(key, "memory_") ||
           fm_streq(key, "disk_free");
}

/* A value on one line; what is long or nested is summed up, --json has it all. */
static char *value_text(const char *key, const json_t *value)
{
    char size[32];

    if (json_is_string(value))
        return fm_xstrdup(json_string_value(value));
    if (json_is_integer(value) && is_size(key))
        return fm_xstrdup(fm_format_size((uint64_t)json_integer_value(value), size, sizeof(size)));
    if (json_array_size(value) > 4)
        return fm_strf("%zu entries", json_array_size(value));
    return json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
}

static void print_value(const char *key, json_t *value)
{
    const char *inner;
    json_t *part;

    if (!json_is_object(value)) {
        fm_autofree char *text = value_text(key, value);

        printf("%-22s %s\n", key, text ? text : "");
        return;
    }
    json_object_foreach(value, inner, part)
    {
        fm_autofree char *name = fm_strf("%s.%s", key, inner);
        fm_autofree char *text = value_text(inner, part);

        printf("%-22s %s\n", name, text ? text : "");
    }
}

static int show(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    fm_autofree char *path = cli_path("hosts", args->words.items[0], "");
    json_auto_t *reply = NULL;
    const char *key;
    json_t *value;

    if (cli_request(cli, "GET", path, NULL, &reply, err) < 0)
        return -(int)err->code;
    if (cli->json) {
        cli_print_json(reply);
        return 0;
    }
    json_object_foreach(reply, key, value) print_value(key, value);
    return 0;
}

static int set_port(json_t *body, const char *key, const struct cli_args *args, const char *option,
                    struct fm_error *err)
{
    const char *text = cli_value(args, option);
    int64_t port;

    if (!text)
        return 0;
    if (fm_parse_int(text, 1, 65535, &port, err) < 0) {
        fm_error_prefix(err, "--%s", option);
        return fm_error_recode(err, FM_E_USAGE);
    }
    json_object_set_new(body, key, json_integer(port));
    return 0;
}

static int add(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    json_auto_t *body =
        json_pack("{s:s, s:s}", "name", args->words.items[0], "address", args->words.items[1]);
    json_auto_t *reply = NULL;
    const char *warning;

    if (!body)
        return fm_error_set(err, FM_E_USAGE, "the name or the address is not UTF-8");
    if (set_port(body, "api_port", args, "api-port", err) < 0 ||
        set_port(body, "wire_port", args, "wire-port", err) < 0 ||
        cli_request(cli, "POST", "/v1/hosts", body, &reply, err) < 0)
        return -(int)err->code;
    warning = json_string_value(json_object_get(reply, "warning"));
    if (warning)
        fprintf(stderr, "fleximigrate: warning: %s\n", warning);
    if (cli->json)
        cli_print_json(reply);
    else
        cli_say(cli, "added host '%s'", args->words.items[0]);
    return 0;
}

/* A request without an answer, and what to say when it is done. */
static int act(struct cli *cli, const struct cli_args *args, const char *method, const char *suffix,
               const char *done, struct fm_error *err)
{
    fm_autofree char *path = cli_path("hosts", args->words.items[0], suffix);

    if (cli_request(cli, method, path, NULL, NULL, err) < 0)
        return -(int)err->code;
    if (cli->json)
        puts("{}");
    else
        cli_say(cli, "%s host '%s'", done, args->words.items[0]);
    return 0;
}

static int remove_host(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    return act(cli, args, "DELETE", "", "removed", err);
}

static int cordon(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    return act(cli, args, "POST", "/cordon", "cordoned", err);
}

static int uncordon(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    return act(cli, args, "POST", "/uncordon", "uncordoned", err);
}

const struct cli_command cli_host_commands[] = {
    {.name = "list",
     .summary = "list the hosts that this daemon knows",
     .arguments = "",
     .options = none,
     .example = "fleximigrate host list",
     .run = list},
    {.name = "show",
     .summary = "ask a host what it is and what it can do",
     .arguments = "HOST",
     .options = none,
     .example = "fleximigrate host show host-b",
     .least = 1,
     .most = 1,
     .run = show},
    {.name = "add",
     .summary = "make another host known",
     .arguments = "HOST ADDRESS",
     .options = add_options,
     .example = "fleximigrate host add host-b 192.0.2.11",
     .least = 2,
     .most = 2,
     .run = add},
    {.name = "remove",
     .summary = "forget a host",
     .arguments = "HOST",
     .options = none,
     .example = "fleximigrate host remove host-b",
     .least = 1,
     .most = 1,
     .run = remove_host},
    {.name = "cordon",
     .summary = "let no container move to a host",
     .arguments = "HOST",
     .options = none,
     .example = "fleximigrate host cordon host-b",
     .least = 1,
     .most = 1,
     .run = cordon},
    {.name = "uncordon",
     .summary = "let containers move to a host again",
     .arguments = "HOST",
     .options = none,
     .example = "fleximigrate host uncordon host-b",
     .least = 1,
     .most = 1,
     .run = uncordon},
    {.name = NULL},
};
