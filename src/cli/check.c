/* fleximigrate check: the preflight of a migration. */
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/cli.h"

const struct cli_option cli_check_options[] = {
    {"to", 0, "HOST", "the destination"},
    {NULL, 0, NULL, NULL},
};

static void print_findings(const struct cli *cli, const json_t *findings)
{
    const json_t *finding;
    size_t i;

    json_array_foreach(findings, i, finding)
    {
        const char *cure = json_string_value(json_object_get(finding, "cure"));
        const char *severity = json_string_value(json_object_get(finding, "severity"));
        bool good = json_is_true(json_object_get(finding, "ok"));
        char check[64], message[256];

        if (good && cli->quiet)
            continue;
        printf("%-8s %-16s %s\n",
               good       ? "ok"
               : severity ? severity
                          : "error",
               cli_text(finding, "check", check, sizeof(check)),
               cli_text(finding, "message", message, sizeof(message)));
        if (!good && cure && cure[0])
            printf("%-25s → %s\n", "", cure);
    }
}

int cli_check(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    const char *container = args->words.items[0];
    const char *to = cli_value(args, "to");
    fm_autofree char *destination = to ? fm_client_escape(to) : NULL;
    fm_autofree char *suffix = NULL;
    fm_autofree char *path = NULL;
    json_auto_t *reply = NULL;

    if (!to)
        return fm_error_set(err, FM_E_USAGE, "check needs the destination: --to HOST");
    suffix = fm_strf("/check?to=%s", destination);
    path = cli_path("containers", container, suffix);
    if (cli_request(cli, "GET", path, NULL, &reply, err) < 0)
        return -(int)err->code;
    if (cli->json)
        cli_print_json(reply);
    else
        print_findings(cli, json_object_get(reply, "findings"));
    if (!json_is_true(json_object_get(reply, "ok"))) {
        cli->exit_code = fm_code_exit(FM_E_REFUSED);
        if (!cli->json)
            cli_say(cli, "'%s' cannot move to '%s' until the errors above are cured", container,
                    to);
    } else if (!cli->json) {
        cli_say(cli, "'%s' can move to '%s'", container, to);
    }
    return 0;
}
