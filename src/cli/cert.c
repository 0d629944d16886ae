/* fleximigrate cert: a small certificate authority. Needs no daemon. */
#include <stdio.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "cli/cli.h"
#include "wire/authority.h"
#include "wire/tls.h"

#define DEFAULT_DIR "/etc/fleximigrate/pki"
#define CA_DAYS 3650
#define DAYS 825
#define DAYS_MAX 36500

static const struct cli_option init_options[] = {
    {"dir", 0, "DIR", "where ca.pem and ca.key go; " DEFAULT_DIR " when not given"},
    {"name", 0, "NAME", "the authority's name; 'FlexiMigrate CA' when not given"},
    {"days", 0, "DAYS", "how long it is valid; 3650 when not given"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option issue_options[] = {
    {"role", 0, "ROLE", "node (a host), operator (may do all) or viewer (may look); needed"},
    {"address", 'a', "ADDRESS", "IP address or DNS name of the host; may be given again"},
    {"ca-dir", 0, "DIR", "where ca.pem and ca.key are; " DEFAULT_DIR " when not given"},
    {"out", 'o', "DIR", "where NAME.pem and NAME.key go; the working directory when not given"},
    {"days", 0, "DAYS", "how long it is valid; 825 when not given"},
    {NULL, 0, NULL, NULL},
};

/* Negative days make a certificate that has expired already: for tests of monitoring. */
static int parse_days(const struct cli_args *args, int fallback, int *days, struct fm_error *err)
{
    const char *text = cli_value(args, "days");
    int64_t value = fallback;

    if (text && fm_parse_int(text, -DAYS_MAX, DAYS_MAX, &value, err) < 0) {
        fm_error_prefix(err, "--days");
        return fm_error_recode(err, FM_E_USAGE);
    }
    *days = (int)value;
    return 0;
}

static int init(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    const char *dir = cli_value(args, "dir"), *name = cli_value(args, "name");
    int days;

    dir = dir ? dir : DEFAULT_DIR;
    if (parse_days(args, CA_DAYS, &days, err) < 0 || fm_mkdir_p(dir, 0755, err) < 0 ||
        fm_authority_init(dir, name ? name : "FlexiMigrate CA", days, err) < 0)
        return -(int)err->code;
    if (cli->json) {
        json_auto_t *doc = json_pack("{s:s}", "dir", dir);

        cli_print_json(doc);
    } else {
        cli_say(cli, "made %s/ca.pem, for every host, and %s/ca.key, which stays here", dir, dir);
    }
    return 0;
}

static void fill_addresses(const json_t *given, struct fm_strv *addresses)
{
    const json_t *address;
    size_t i;

    json_array_foreach(given, i, address) fm_strv_add(addresses, json_string_value(address));
}

static void say_issued(const struct cli *cli, const struct fm_certificate_request *request)
{
    json_auto_t *doc = NULL;

    if (!cli->json) {
        cli_say(cli, "made %s/%s.pem and %s/%s.key", request->out_dir, request->name,
                request->out_dir, request->name);
        if (fm_streq(request->role, FM_ROLE_NODE))
            cli_say(cli,
                    "install them on '%s' as %s/node.pem and node.key, with ca.pem beside them",
                    request->name, DEFAULT_DIR);
        return;
    }
    doc = json_pack("{s:s, s:s, s:s}", "name", request->name, "role", request->role, "dir",
                    request->out_dir);
    cli_print_json(doc);
}

static int issue(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    const char *ca_dir = cli_value(args, "ca-dir"), *out = cli_value(args, "out");
    struct fm_certificate_request request = {
        .name = args->words.items[0],
        .role = cli_value(args, "role"),
        .out_dir = out ? out : ".",
    };
    json_auto_t *given = cli_values(args, "address");
    struct fm_strv addresses = {0};
    int ret;

    if (!fm_streq(request.role, FM_ROLE_NODE) && !fm_streq(request.role, FM_ROLE_OPERATOR) &&
        !fm_streq(request.role, FM_ROLE_VIEWER))
        return fm_error_set(err, FM_E_USAGE, "issue needs --role node, operator or viewer");
    if (fm_streq(request.role, FM_ROLE_NODE) && !given)
        return fm_error_set(
            err, FM_E_USAGE,
            "a node's certificate names its addresses: give --address at least once");
    if (fm_check_name("certificate", request.name, err) < 0)
        return fm_error_recode(err, FM_E_USAGE);
    if (parse_days(args, DAYS, &request.days, err) < 0)
        return -(int)err->code;

    fill_addresses(given, &addresses);
    request.addresses = (const char *const *)addresses.items;
    request.address_count = addresses.count;
    ret = fm_mkdir_p(request.out_dir, 0755, err);
    if (ret == 0)
        ret = fm_authority_issue(ca_dir ? ca_dir : DEFAULT_DIR, &request, err);
    if (ret == 0)
        say_issued(cli, &request);
    fm_strv_free(&addresses);
    return ret;
}

const struct cli_command cli_cert_commands[] = {
    {.name = "init",
     .summary = "make an authority",
     .arguments = "",
     .options = init_options,
     .example = "fleximigrate cert init --dir ./pki",
     .run = init},
    {.name = "issue",
     .summary = "make a certificate and its key",
     .arguments = "NAME --role ROLE",
     .options = issue_options,
     .example = "fleximigrate cert issue host-b --role node --address 192.0.2.11 --ca-dir ./pki\n"
                "fleximigrate cert issue alice --role operator --ca-dir ./pki --out ~/fleximigrate",
     .least = 1,
     .most = 1,
     .run = issue},
    {.name = NULL},
};
