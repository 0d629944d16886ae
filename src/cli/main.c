/* fleximigrate: finds the command and runs it. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/cli.h"

static const struct cli_command commands[] = {
    {
        .name = "migrate",
        .summary = "move a running container to another host",
        .arguments = "CONTAINER --to HOST",
        .options = cli_migrate_options,
        .example = "fleximigrate migrate redis --to host-b\n"
                   "fleximigrate migrate redis --to host-b --bandwidth 1Gbit --detach",
        .notes =
            "Exit status: 0 it runs on the destination; 3 no such container or host; 4 refused\n"
            "before anything was done; 5 failed and rolled back: it runs on where it was.",
        .least = 1,
        .most = 1,
        .run = cli_migrate,
    },
    {
        .name = "check",
        .summary = "say whether a container could move, and what would have to change",
        .arguments = "CONTAINER --to HOST",
        .options = cli_check_options,
        .example = "fleximigrate check redis --to host-b",
        .notes = "Exit status: 0 it could; 4 it could not.",
        .least = 1,
        .most = 1,
        .run = cli_check,
    },
    {
        .name = "run",
        .summary = "start a container",
        .arguments = "--name NAME --image IMAGE [--] COMMAND [ARG…]",
        .options = cli_run_options,
        .example = "fleximigrate run --name redis --image ./rootfs --ip 10.88.0.5 -- redis-server",
        .least = 0,
        .most = -1,
        .rest = true,
        .run = cli_run,
    },
    {
        .name = "container",
        .summary = "list, inspect, use, stop and remove containers",
        .commands = cli_container_commands,
    },
    {
        .name = "host",
        .summary = "list, inspect, add, remove and cordon hosts",
        .commands = cli_host_commands,
    },
    {
        .name = "migration",
        .summary = "list, inspect, watch and cancel migrations",
        .commands = cli_migration_commands,
    },
    {
        .name = "network",
        .summary = "make, list, inspect, remove, verify and repair networks",
        .commands = cli_network_commands,
    },
    {
        .name = "cert",
        .summary = "a small certificate authority for those who have none",
        .commands = cli_cert_commands,
    },
    {.name = NULL},
};

int main(int argc, char **argv)
{
    struct cli cli = {0};
    struct cli_args args = {0};
    struct fm_error err = {0};
    const struct cli_command *command = NULL;
    int ret;

    signal(SIGPIPE, SIG_IGN);
    ret = cli_parse(commands, argc, argv, &cli, &command, &args, &err);
    if (ret == 0 && command)
        ret = command->run(&cli, &args, &err);
    cli_args_free(&args);
    if (fflush(stdout) != 0 && ret == 0)
        ret = fm_error_set(&err, FM_E_IO, "cannot write to the standard output");
    if (ret == 0)
        return cli.exit_code;
    fprintf(stderr, "fleximigrate: %s\n", err.text);
    return fm_code_exit(err.code);
}
