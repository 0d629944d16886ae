/* fleximigrate migrate: asks for a migration and follows it to its end. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/report.h"
#include "cli/watch.h"

const struct cli_option cli_migrate_options[] = {
    {"to", 0, "HOST", "the destination"},
    {"from", 0, "HOST", "the source, when it is not the host of the daemon that is asked"},
    {"strategy", 0, "STRATEGY", "auto, cold, pre-copy, post-copy or hybrid; auto when not given"},
    {"max-downtime", 0, "TIME", "freeze when it is expected to take less; 50ms when not given"},
    {"max-rounds", 0, "N", "of pre-copy; 30 when not given"},
    {"on-no-convergence", 0, "WAY",
     "freeze, hybrid or fail, when rounds do not help; hybrid for auto, else freeze"},
    {"auto-converge", 0, NULL, "throttle a container that writes faster than its pages travel"},
    {"compress", 0, "METHOD", "auto, zstd or none; auto (when the link is what limits)"},
    {"parallel", 0, "N", "connections that carry pages; 2 when not given"},
    {"delta-cache", 0, "SIZE", "of pages sent before, on the source; 32MiB when not given"},
    {"bandwidth", 0, "RATE", "upper limit, such as 1Gbit or 100MiB (per second)"},
    {"new-address", 0, "ADDRESS",
     "another address (or `auto`): TCP connections end, and DNS follows"},
    {"new-network", 0, "NETWORK", "move to another network, with --new-address"},
    {"timeout", 0, "TIME", "give up and roll back after it; 300s when not given"},
    {"priority", 0, "PRIORITY",
     "low, normal or high, among those that wait; normal when not given"},
    {"dry-run", 0, NULL, "plan only: say whether it would be done"},
    {"detach", 'd', NULL, "print the migration's id and return at once"},
    {NULL, 0, NULL, NULL},
};

/* --- the request --- */

static int not_available(struct fm_error *err, const char *what, const char *instead)
{
    return fm_error_set(err, FM_E_REFUSED, "%s is not available in this version; %s", what,
                        instead);
}

/* An option that is one of some words. */
struct choice {
    const char *option, *key;
    const char *words[6];
};

static const struct choice choices[] = {
    {"strategy", "strategy", {"auto", "cold", "pre-copy", "post-copy", "hybrid"}},
    {"on-no-convergence", "on_no_convergence", {"freeze", "hybrid", "fail"}},
    {"compress", "compress", {"auto", "zstd", "none"}},
    {"priority", "priority", {"low", "normal", "high"}},
};

static int set_choice(json_t *body, const struct cli_args *args, const struct choice *choice,
                      struct fm_error *err)
{
    const char *value = cli_value(args, choice->option);
    fm_autofree char *known = fm_xstrdup(choice->words[0]);

    if (!value)
        return 0;
    for (size_t i = 0; choice->words[i]; i++)
        if (fm_streq(value, choice->words[i])) {
            json_object_set_new(body, choice->key, json_string(value));
            return 0;
        }
    for (size_t i = 1; choice->words[i]; i++) {
        fm_autofree char *before = FM_MOVE(known);

        known = fm_strf("%s, %s", before, choice->words[i]);
    }
    return fm_error_set(err, FM_E_USAGE, "--%s '%s' is unknown; use one of: %s", choice->option,
                        value, known);
}

static int refuse_later_options(const struct cli_args *args, struct fm_error *err)
{
    if (fm_streq(cli_value(args, "to"), "auto"))
        return not_available(err, "choosing the destination (--to auto)", "name a host");
    return 0;
}

/* "1Gbit", "500mbit", "100MiB": bytes per second. */
static int parse_rate(const char *text, uint64_t *bytes, struct fm_error *err)
{
    static const struct {
        const char *unit;
        double bits;
    } units[] = {{"bit", 1}, {"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}};
    char *unit;
    double number = strtod(text, &unit);

    for (size_t i = 0; i < FM_COUNT(units); i++)
        if (unit != text && strcasecmp(unit, units[i].unit) == 0 && number > 0 && number < 1e9) {
            *bytes = (uint64_t)(number * units[i].bits / 8);
            return *bytes > 0 ? 0 : fm_error_set(err, FM_E_USAGE, "'%s' is less than 8 bit", text);
        }
    return fm_parse_size(text, bytes, err);
}

static int usage_of(const char *option, struct fm_error *err)
{
    fm_error_prefix(err, "%s", option);
    return fm_error_recode(err, FM_E_USAGE);
}

static int parse_count(const char *text, uint64_t *value, struct fm_error *err)
{
    int64_t number;

    if (fm_parse_int(text, 1, INT32_MAX, &number, err) < 0)
        return -(int)err->code;
    *value = (uint64_t)number;
    return 0;
}

static int set_limits(json_t *body, const struct cli_args *args, struct fm_error *err)
{
    static const struct {
        const char *option, *key;
        int (*parse)(const char *text, uint64_t *value, struct fm_error *err);
    } limits[] = {
        {"bandwidth", "bandwidth_bytes", parse_rate},
        {"timeout", "timeout_ms", fm_parse_duration},
        {"max-downtime", "max_downtime_ms", fm_parse_duration},
        {"max-rounds", "max_rounds", parse_count},
        {"parallel", "parallel", parse_count},
        {"delta-cache", "delta_cache_bytes", fm_parse_size},
    };

    for (size_t i = 0; i < FM_COUNT(limits); i++) {
        const char *text = cli_value(args, limits[i].option);
        fm_autofree char *name = fm_strf("--%s", limits[i].option);
        uint64_t value;

        if (!text)
            continue;
        if (limits[i].parse(text, &value, err) < 0)
            return usage_of(name, err);
        json_object_set_new(body, limits[i].key, json_integer((json_int_t)value));
    }
    return 0;
}

static json_t *make_request(const struct cli_args *args, struct fm_error *err)
{
    const char *to = cli_value(args, "to"), *from = cli_value(args, "from");
    json_auto_t *body = json_object();

    if (!to) {
        fm_error_set(err, FM_E_USAGE, "migrate needs the destination: --to HOST");
        return NULL;
    }
    for (size_t i = 0; i < FM_COUNT(choices); i++)
        if (set_choice(body, args, &choices[i], err) < 0)
            return NULL;
    if (refuse_later_options(args, err) < 0 || set_limits(body, args, err) < 0)
        return NULL;
    if (cli_flag(args, "auto-converge"))
        json_object_set_new(body, "auto_converge", json_true());
    json_object_set_new(body, "container", json_string(args->words.items[0]));
    json_object_set_new(body, "destination", json_string(to));
    if (from)
        json_object_set_new(body, "source", json_string(from));
    if (cli_value(args, "new-address"))
        json_object_set_new(body, "new_address", json_string(cli_value(args, "new-address")));
    if (cli_value(args, "new-network"))
        json_object_set_new(body, "new_network", json_string(cli_value(args, "new-network")));
    return FM_MOVE(body);
}

/* --- to its end --- */

static int detach(const struct cli *cli, const json_t *body, struct fm_error *err)
{
    json_auto_t *doc = NULL;

    if (cli_request(cli, "POST", "/v1/migrations", body, &doc, err) < 0)
        return -(int)err->code;
    if (cli->json)
        cli_print_json(doc);
    else
        puts(json_string_value(json_object_get(doc, "id")));
    return 0;
}

static int conclude(struct cli *cli, const json_t *doc, struct fm_error *err)
{
    int ret = cli_report_result(doc, err);

    if (cli->json)
        cli_print_json(doc);
    else if (ret == 0 && !cli->quiet)
        cli_report_short(doc);
    return ret;
}

static int follow(struct cli *cli, struct cli_watcher *watcher, const json_t *body,
                  struct fm_error *err)
{
    json_auto_t *started = NULL;
    json_auto_t *doc = NULL;
    const char *id;

    if (cli_request(cli, "POST", "/v1/migrations", body, &started, err) < 0)
        return -(int)err->code;
    id = json_string_value(json_object_get(started, "id"));
    if (!id)
        return fm_error_set(err, FM_E_PROTOCOL, "the daemon's answer names no migration");
    if (cli_watch_run(watcher, id, true, &doc, err) < 0) {
        fm_error_prefix(err, "the migration %s goes on unwatched", id);
        return -(int)err->code;
    }
    if (!doc)
        return fm_error_set(err, FM_E_CANCELLED,
                            "the roll-back goes on; 'fleximigrate migration watch %s' shows it",
                            id);
    return conclude(cli, doc, err);
}

int cli_migrate(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    json_auto_t *body = make_request(args, err);
    struct cli_watcher *watcher;
    int ret;

    if (!body)
        return -(int)err->code;
    if (cli_flag(args, "dry-run")) /* what would be asked first is the check */
        return cli_check(cli, args, err);
    if (cli_flag(args, "detach"))
        return detach(cli, body, err);
    watcher = cli_watch_open(cli, err);
    if (!watcher)
        return -(int)err->code;
    ret = follow(cli, watcher, body, err);
    cli_watch_close(watcher);
    return ret;
}
