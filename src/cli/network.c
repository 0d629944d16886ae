/* fleximigrate network: the networks that containers are in. */
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/table.h"

static const struct cli_option none[] = {{NULL, 0, NULL, NULL}};
static const struct cli_option create_options[] = {
    {"subnet", 0, "SUBNET", "its addresses, such as 10.89.0.0/24 (needed)"},
    {"gateway", 0, "ADDRESS", "of every host in it, and the containers' way out"},
    {"subnet6", 0, "SUBNET", "IPv6 addresses beside those of --subnet"},
    {"gateway6", 0, "ADDRESS", "the gateway in --subnet6"},
    {"mode", 0, "MODE", "overlay (between the hosts; the default), or bridge or macvlan of yours"},
    {"parent", 0, "INTERFACE", "the bridge or interface that containers are on; not for overlay"},
    {"vni", 0, "N", "of an overlay, 1 to 16777215; a free one is chosen when not given"},
    {"mtu", 0, "N", "of containers; what the underlay allows when not given"},
    {NULL, 0, NULL, NULL},
};

/* --- list, show --- */

static const char *both(const json_t *row, const char *one, const char *other, char *buf,
                        size_t len)
{
    const char *first = json_string_value(json_object_get(row, one));
    const char *second = json_string_value(json_object_get(row, other));
    bool has_second = second && *second;

    snprintf(buf, len, "%s%s%s", first && *first ? first : "-", has_second ? ", " : "",
             has_second ? second : "");
    return buf;
}

static const char *subnets(const json_t *row, char *buf, size_t len)
{
    return both(row, "subnet", "subnet6", buf, len);
}

static const char *gateways(const json_t *row, char *buf, size_t len)
{
    return both(row, "gateway", "gateway6", buf, len);
}

static const char *addresses(const json_t *row, char *buf, size_t len)
{
    return both(row, "ip", "ip6", buf, len);
}

static const char *vni(const json_t *row, char *buf, size_t len)
{
    json_int_t number = json_integer_value(json_object_get(row, "vni"));

    snprintf(buf, len, number ? "%lld" : "-", (long long)number);
    return buf;
}

static const char *ports(const json_t *row, char *buf, size_t len)
{
    size_t used = 0, i;
    const json_t *port;

    snprintf(buf, len, "-");
    json_array_foreach(json_object_get(row, "publish"), i, port)
    {
        int n = snprintf(buf + used, len - used, "%s%s", i ? ", " : "", json_string_value(port));

        if (n < 0 || (size_t)n >= len - used)
            break;
        used += (size_t)n;
    }
    return buf;
}

static int list(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    static const struct cli_column columns[] = {
        {"NAME", "name", NULL},
        {"MODE", "mode", NULL},
        {"SUBNET", NULL, subnets},
        {"GATEWAY", NULL, gateways},
        {"VNI", NULL, vni},
        {"PARENT", "parent", NULL},
        {"CONTAINERS", "containers", NULL},
    };
    json_auto_t *reply = NULL;

    (void)args;
    if (cli_request(cli, "GET", "/v1/networks", NULL, &reply, err) < 0)
        return -(int)err->code;
    if (cli->json)
        cli_print_json(reply);
    else
        cli_table(columns, FM_COUNT(columns), reply);
    return 0;
}

static int show(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    static const char *const keys[] = {"name",     "mode", "subnet", "gateway", "subnet6",
                                       "gateway6", "vni",  "mtu",    "parent"};
    static const struct cli_column columns[] = {
        {"ADDRESS", NULL, addresses}, {"MAC", "mac", NULL},       {"OWNER", "owner", NULL},
        {"HOST", "host", NULL},       {"PUBLISHED", NULL, ports},
    };
    fm_autofree char *path = cli_path("networks", args->words.items[0], "");
    json_auto_t *reply = NULL;
    char buf[32];

    if (cli_request(cli, "GET", path, NULL, &reply, err) < 0)
        return -(int)err->code;
    if (cli->json) {
        cli_print_json(reply);
        return 0;
    }
    for (size_t i = 0; i < FM_COUNT(keys); i++)
        if (json_is_true(json_object_get(reply, keys[i])) ||
            json_integer_value(json_object_get(reply, keys[i])) ||
            json_string_length(json_object_get(reply, keys[i])))
            printf("%-10s %s\n", keys[i], cli_text(reply, keys[i], buf, sizeof(buf)));
    putchar('\n');
    cli_table(columns, FM_COUNT(columns), json_object_get(reply, "leases"));
    return 0;
}

/* --- create, remove --- */

static int set_number(json_t *body, const struct cli_args *args, const char *option, int64_t min,
                      int64_t max, struct fm_error *err)
{
    const char *text = cli_value(args, option);
    int64_t number;

    if (!text)
        return 0;
    if (fm_parse_int(text, min, max, &number, err) < 0) {
        fm_error_prefix(err, "--%s", option);
        return fm_error_recode(err, FM_E_USAGE);
    }
    json_object_set_new(body, option, json_integer(number));
    return 0;
}

static void print_warnings(const json_t *reply)
{
    size_t i;
    const json_t *warning;

    json_array_foreach(json_object_get(reply, "warnings"), i, warning)
        fprintf(stderr, "fleximigrate: warning: %s\n", json_string_value(warning));
}

static int create(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    static const char *const texts[] = {"subnet",   "gateway", "subnet6",
                                        "gateway6", "mode",    "parent"};
    json_auto_t *body = json_object();
    json_auto_t *reply = NULL;

    if (!cli_value(args, "subnet"))
        return fm_error_set(err, FM_E_USAGE,
                            "network create needs a subnet: --subnet 10.89.0.0/24");
    json_object_set_new(body, "name", json_string(args->words.items[0]));
    for (size_t i = 0; i < FM_COUNT(texts); i++)
        if (cli_value(args, texts[i]))
            json_object_set_new(body, texts[i], json_string(cli_value(args, texts[i])));
    if (set_number(body, args, "vni", 1, 16777215, err) < 0 ||
        set_number(body, args, "mtu", 576, 65535, err) < 0 ||
        cli_request(cli, "POST", "/v1/networks", body, &reply, err) < 0)
        return -(int)err->code;
    print_warnings(reply);
    if (cli->json)
        cli_print_json(reply);
    else
        cli_say(cli, "created network '%s'", args->words.items[0]);
    return 0;
}

static int remove_network(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    fm_autofree char *path = cli_path("networks", args->words.items[0], "");

    if (cli_request(cli, "DELETE", path, NULL, NULL, err) < 0)
        return -(int)err->code;
    if (cli->json)
        puts("{}");
    else
        cli_say(cli, "removed network '%s'", args->words.items[0]);
    return 0;
}

/* --- verify, repair --- */

/* Prints the lines of a report; the exit status says whether there are any. */
static int report(struct cli *cli, const json_t *reply, const char *key, const char *good)
{
    size_t i;
    const json_t *line;

    cli->exit_code = json_is_true(json_object_get(reply, "ok")) ? 0 : 1;
    if (cli->json) {
        cli_print_json(reply);
        return 0;
    }
    json_array_foreach(json_object_get(reply, key), i, line) puts(json_string_value(line));
    if (!cli->exit_code)
        cli_say(cli, "%s", good);
    return 0;
}

static int verify(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    json_auto_t *reply = NULL;

    (void)args;
    if (cli_request(cli, "GET", "/v1/networks/verify", NULL, &reply, err) < 0)
        return -(int)err->code;
    bool kernel = json_array_size(json_object_get(reply, "checked")) > 1;
    return report(cli, reply, "differences",
                  kernel ? "the kernel has what the registry says"
                         : "the registry agrees with itself; this host cannot read the kernel's "
                           "state");
}

static int repair(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    json_auto_t *reply = NULL;

    (void)args;
    if (cli_request(cli, "POST", "/v1/networks/repair", NULL, &reply, err) < 0)
        return -(int)err->code;
    return report(cli, reply, "problems", "this host is as the registry says");
}

const struct cli_command cli_network_commands[] = {
    {.name = "create",
     .summary = "make a network, on every host",
     .arguments = "NAME --subnet SUBNET",
     .options = create_options,
     .example =
         "fleximigrate network create shop --subnet 10.89.0.0/24 --gateway 10.89.0.1\n"
         "fleximigrate network create lan --mode macvlan --parent eth1 --subnet 192.0.2.0/24",
     .notes = "A host that cannot be reached learns of it when it is back.",
     .least = 1,
     .most = 1,
     .run = create},
    {.name = "list",
     .summary = "list the networks",
     .arguments = "",
     .options = none,
     .example = "fleximigrate network list",
     .run = list},
    {.name = "show",
     .summary = "show a network and who has which address in it",
     .arguments = "NAME",
     .options = none,
     .example = "fleximigrate network show default",
     .least = 1,
     .most = 1,
     .run = show},
    {.name = "remove",
     .summary = "remove a network that no container is in, on every host",
     .arguments = "NAME",
     .options = none,
     .example = "fleximigrate network remove shop",
     .least = 1,
     .most = 1,
     .run = remove_network},
    {.name = "verify",
     .summary = "compare this host's kernel with the registry",
     .arguments = "",
     .options = none,
     .example = "fleximigrate network verify",
     .notes = "Prints one line per difference. Exit status: 0 there is none; 1 there are some.",
     .run = verify},
    {.name = "repair",
     .summary = "make this host's kernel as the registry says",
     .arguments = "",
     .options = none,
     .example = "fleximigrate network repair",
     .notes = "Containers run on, and keep their connections. Exit status: 0 done; 1 some of it "
              "did not\n"
              "work, or differs all the same.",
     .run = repair},
    {.name = NULL},
};
