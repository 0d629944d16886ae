/* The command line: a table of commands, each with its own table of options, one file per command.
 */
#ifndef FM_CLI_CLI_H
#define FM_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "base/error.h"
#include "base/text.h"
#include "client/client.h"

/* What every command gets: the options that come before or after any command. */
struct cli {
    bool json, quiet;
    struct fm_client_options remote; /* where the daemon is */
    int exit_code;                   /* set by a command that ends with a code but no error */
};

struct cli_option {
    const char *name;  /* without the dashes; NULL ends a table */
    char letter;       /* 0: none */
    const char *value; /* what --help calls its value; NULL: a flag */
    const char *help;
};

struct cli_args;

struct cli_command {
    const char *name; /* NULL ends a table */
    const char *summary;
    const char *arguments; /* for --help: "CONTAINER --to HOST" */
    const struct cli_option *options;
    const char *example; /* lines, each a full command */
    const char *notes;   /* more for --help; may be NULL */
    int least, most;     /* positional arguments; most < 0: any number */
    bool rest;           /* options end at the first positional argument */
    int (*run)(struct cli *cli, const struct cli_args *args, struct fm_error *err);
    const struct cli_command *commands; /* a group: `run` is NULL */
};

struct cli_given {
    const struct cli_option *option;
    const char *value;
};

/* What was given to a command. Strings belong to argv. */
struct cli_args {
    struct cli_given *given;
    size_t given_count;
    struct fm_strv words; /* positional */
};

/* The last value given for an option, NULL when it was not. Flags: "". */
const char *cli_value(const struct cli_args *args, const char *name);
bool cli_flag(const struct cli_args *args, const char *name);
/* Every value of an option as a JSON array of strings; NULL when there is none. */
json_t *cli_values(const struct cli_args *args, const char *name);
void cli_args_free(struct cli_args *args);

/* Finds the command that argv names and what it is given, with the global options stored in *cli.
 * *command is NULL when --help or --version was answered. Errors are FM_E_USAGE. */
int cli_parse(const struct cli_command *commands, int argc, char **argv, struct cli *cli,
              const struct cli_command **command, struct cli_args *args, struct fm_error *err);

/* --- for the commands --- */

struct fm_client *cli_open(const struct cli *cli, struct fm_error *err);
static inline void cli_close(struct fm_client **client)
{
    fm_client_close(*client);
}
#define cli_autoclient __attribute__((cleanup(cli_close))) struct fm_client

/* One request on a connection of its own. `reply` may be NULL. */
int cli_request(const struct cli *cli, const char *method, const char *path, const json_t *body,
                json_t **reply, struct fm_error *err);
/* "/v1/containers/NAME" + suffix, NAME encoded; the caller frees it. */
char *cli_path(const char *collection, const char *name, const char *suffix);
/* Prints a document for machines. */
void cli_print_json(const json_t *doc);
/* Prints a line for people, unless --quiet. */
void cli_say(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The text of a key, "-" when it has none; numbers and booleans are written out into buf. */
const char *cli_text(const json_t *doc, const char *key, char *buf, size_t len);

/* --- the commands --- */

extern const struct cli_option cli_migrate_options[], cli_check_options[], cli_run_options[];
extern const struct cli_command cli_container_commands[], cli_host_commands[],
    cli_migration_commands[], cli_network_commands[], cli_cert_commands[];

#define CLI_HANDLER(name)                                                                          \
    int name(struct cli *cli, const struct cli_args *args, struct fm_error *err)
CLI_HANDLER(cli_migrate);
CLI_HANDLER(cli_check);
CLI_HANDLER(cli_run);

#endif
