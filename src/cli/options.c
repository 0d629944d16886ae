/* From argv to a command and what it is given; --help. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/cli.h"

#define PKI_DIR "/etc/fleximigrate/pki/"

static const struct cli_option globals[] = {
    {"json", 0, NULL, "print the result as JSON"},
    {"quiet", 'q', NULL, "print nothing but errors and what was asked for"},
    {"host", 0, "URL", "the daemon to talk to, https://HOST:7440; or FLEXIMIGRATE_HOST"},
    {"socket", 0, "PATH", "the local daemon's socket; or FLEXIMIGRATE_SOCKET"},
    {"ca", 0, "FILE", "with --host: the authority's certificate; or FLEXIMIGRATE_CA"},
    {"cert", 0, "FILE", "with --host: the client certificate; or FLEXIMIGRATE_CERT"},
    {"key", 0, "FILE", "with --host: its key; or FLEXIMIGRATE_KEY"},
    {"help", 'h', NULL, "print this"},
    {"version", 0, NULL, "print the version"},
    {NULL, 0, NULL, NULL},
};

/* --- what was given --- */

const char *cli_value(const struct cli_args *args, const char *name)
{
    for (size_t i = args->given_count; i-- > 0;)
        if (fm_streq(args->given[i].option->name, name))
            return args->given[i].value;
    return NULL;
}

bool cli_flag(const struct cli_args *args, const char *name)
{
    return cli_value(args, name) != NULL;
}

json_t *cli_values(const struct cli_args *args, const char *name)
{
    json_t *list = NULL;

    for (size_t i = 0; i < args->given_count; i++)
        if (fm_streq(args->given[i].option->name, name)) {
            list = list ? list : json_array();
            json_array_append_new(list, json_string(args->given[i].value));
        }
    return list;
}

void cli_args_free(struct cli_args *args)
{
    free(args->given);
    fm_strv_free(&args->words);
    *args = (struct cli_args){0};
}

/* --- help --- */

static void print_options(const struct cli_option *options)
{
    for (; options && options->name; options++) {
        fm_autofree char *left =
            fm_strf("%s--%s%s%s", options->letter ? "" : "    ", options->name,
                    options->value ? " " : "", options->value ? options->value : "");

        if (options->letter)
            printf("  -%c, %-24s %s\n", options->letter, left, options->help);
        else
            printf("  %-28s %s\n", left, options->help);
    }
}

static void print_group(const struct cli_command *group, const struct cli_command *commands)
{
    printf("Usage: fleximigrate %s%sCOMMAND …\n\nCommands:\n", group ? group->name : "",
           group ? " " : "");
    for (; commands->name; commands++)
        printf("  %-12s %s\n", commands->name, commands->summary);
    printf("\nOptions of every command:\n");
    print_options(globals);
    if (group)
        printf("\nExample:\n  fleximigrate %s %s --help\n", group->name, group->commands->name);
    else
        printf("\nExit status: 0 ok, 1 failed, 2 usage, 3 not found, 4 refused by policy or "
               "preflight,\n5 failed and rolled back.\n"
               "\nExample:\n  fleximigrate migrate redis --to host-b\n");
}

static void print_command(const struct cli_command *group, const struct cli_command *command)
{
    fm_autofree char *text = fm_xstrdup(command->example);
    char *rest = NULL;

    printf("Usage: fleximigrate %s%s%s %s\n%s\n", group ? group->name : "", group ? " " : "",
           command->name, command->arguments, command->summary);
    if (command->options && command->options->name) {
        printf("\nOptions:\n");
        print_options(command->options);
    }
    printf("\nOptions of every command:\n");
    print_options(globals);
    if (command->notes)
        printf("\n%s\n", command->notes);
    printf("\nExample:\n");
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        printf("  %s\n", line);
}

/* --- parsing --- */

/* What is known so far while argv is walked. */
struct parser {
    const struct cli_command *commands; /* among which the next word is looked up */
    const struct cli_command *group, *command;
    struct cli_args *args;
    struct cli_args globals;
    char **next, **end;
};

static const char *full_name(const struct parser *parser, char *buf, size_t len)
{
    snprintf(buf, len, "fleximigrate%s%s%s%s", parser->group ? " " : "",
             parser->group ? parser->group->name : "", parser->command ? " " : "",
             parser->command ? parser->command->name : "");
    return buf;
}

static const struct cli_option *find_option(const struct cli_option *options, const char *name,
                                            size_t len, bool letter)
{
    for (; options && options->name; options++) {
        if (letter ? options->letter == name[0]
                   : strlen(options->name) == len && strncmp(options->name, name, len) == 0)
            return options;
    }
    return NULL;
}

static void give(struct cli_args *args, const struct cli_option *option, const char *value)
{
    args->given = fm_xrealloc(args->given, (args->given_count + 1) * sizeof(*args->given));
    args->given[args->given_count++] =
        (struct cli_given){.option = option, .value = value ? value : ""};
}

static int parse_option(struct parser *parser, const char *text, struct fm_error *err)
{
    bool letter = text[1] != '-';
    const char *name = letter ? text + 1 : text + 2;
    size_t len = letter ? 1 : strcspn(name, "=");
    const char *value = name[len] ? name + len + (name[len] == '=') : NULL;
    struct cli_args *args = parser->args;
    const struct cli_option *option = NULL;
    char command[128];

    if (parser->command)
        option = find_option(parser->command->options, name, len, letter);
    if (!option) {
        option = find_option(globals, name, len, letter);
        args = &parser->globals;
    }
    if (!option)
        return fm_error_set(err, FM_E_USAGE, "unknown option '%s'; see %s --help", text,
                            full_name(parser, command, sizeof(command)));
    if (!option->value && value)
        return fm_error_set(err, FM_E_USAGE, "option '--%s' takes no value", option->name);
    if (option->value && !value) {
        if (parser->next == parser->end)
            return fm_error_set(err, FM_E_USAGE, "option '--%s' needs a value: %s", option->name,
                                option->value);
        value = *parser->next++;
    }
    give(args, option, value);
    return 0;
}

static int parse_command(struct parser *parser, const char *word, struct fm_error *err)
{
    char name[128];

    for (const struct cli_command *c = parser->commands; c->name; c++) {
        if (!fm_streq(c->name, word))
            continue;
        if (c->commands) {
            parser->group = c;
            parser->commands = c->commands;
        } else {
            parser->command = c;
        }
        return 0;
    }
    return fm_error_set(err, FM_E_USAGE, "unknown command '%s'; see %s --help", word,
                        full_name(parser, name, sizeof(name)));
}

static int parse_all(struct parser *parser, struct fm_error *err)
{
    bool only_words = false;
    int ret = 0;

    while (ret == 0 && parser->next < parser->end) {
        const char *text = *parser->next++;

        if (!only_words && fm_streq(text, "--")) {
            only_words = true;
        } else if (!only_words && text[0] == '-' && text[1] != '\0') {
            ret = parse_option(parser, text, err);
        } else if (!parser->command) {
            ret = parse_command(parser, text, err);
        } else {
            fm_strv_add(&parser->args->words, text);
            /* `exec NAME -- CMD` and `exec NAME CMD` are the same. */
            if (parser->command->rest) {
                if (parser->next < parser->end && fm_streq(*parser->next, "--") && !only_words)
                    parser->next++;
                only_words = true;
            }
        }
    }
    return ret;
}

static const char *or_environment(const struct cli_args *args, const char *option,
                                  const char *variable)
{
    const char *value = cli_value(args, option);

    if (!value)
        value = getenv(variable);
    return value && value[0] ? value : NULL;
}

static void set_globals(const struct cli_args *args, struct cli *cli)
{
    const char *ca = or_environment(args, "ca", "FLEXIMIGRATE_CA");
    const char *cert = or_environment(args, "cert", "FLEXIMIGRATE_CERT");
    const char *key = or_environment(args, "key", "FLEXIMIGRATE_KEY");

    cli->json = cli_flag(args, "json");
    cli->quiet = cli_flag(args, "quiet");
    cli->remote.ca = ca ? ca : PKI_DIR "ca.pem";
    cli->remote.cert = cert ? cert : PKI_DIR "node.pem";
    cli->remote.key = key ? key : PKI_DIR "node.key";
    cli->remote.socket = or_environment(args, "socket", "FLEXIMIGRATE_SOCKET");
    /* A socket that is named on the command line wins over a host from the environment. */
    cli->remote.host = cli_value(args, "socket") && !cli_value(args, "host")
                           ? NULL
                           : or_environment(args, "host", "FLEXIMIGRATE_HOST");
}

static int check_words(const struct parser *parser, struct fm_error *err)
{
    const struct cli_command *command = parser->command;
    int count = (int)parser->args->words.count;
    char name[128];

    full_name(parser, name, sizeof(name));
    if (count < command->least)
        return fm_error_set(err, FM_E_USAGE, "too few arguments; usage: %s %s", name,
                            command->arguments);
    if (command->most >= 0 && count > command->most)
        return fm_error_set(err, FM_E_USAGE, "unexpected argument '%s'; see %s --help",
                            parser->args->words.items[command->most], name);
    return 0;
}

static int finish(struct parser *parser, const struct cli_command *commands, struct cli *cli,
                  struct fm_error *err)
{
    char name[128];

    set_globals(&parser->globals, cli);
    if (cli_flag(&parser->globals, "help")) {
        if (parser->command)
            print_command(parser->group, parser->command);
        else
            print_group(parser->group, parser->group ? parser->group->commands : commands);
        parser->command = NULL;
        return 0;
    }
    if (cli_flag(&parser->globals, "version")) {
        puts("fleximigrate " FM_VERSION);
        parser->command = NULL;
        return 0;
    }
    if (!parser->command)
        return fm_error_set(err, FM_E_USAGE, "no command is given; see %s --help",
                            full_name(parser, name, sizeof(name)));
    return check_words(parser, err);
}

int cli_parse(const struct cli_command *commands, int argc, char **argv, struct cli *cli,
              const struct cli_command **command, struct cli_args *args, struct fm_error *err)
{
    struct parser parser = {
        .commands = commands,
        .args = args,
        .next = argv + (argc > 0),
        .end = argv + argc,
    };
    int ret = parse_all(&parser, err);

    if (ret == 0)
        ret = finish(&parser, commands, cli, err);
    cli_args_free(&parser.globals);
    *command = parser.command;
    return ret;
}
