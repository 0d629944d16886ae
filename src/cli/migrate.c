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
    {"strategy", 0, "STRATEGY", "auto or cold; auto when not given"},
    {"bandwidth", 0, "RATE", "upper limit, such as 1Gbit or 100MiB (per second)"},
    {"timeout", 0, "TIME", "give up and roll back after it; 300s when not given"},
    {"priority", 0, "PRIORITY",
     "low, normal or high, among those that wait; normal when not given"},
    {"dry-run", 0, NULL, "plan only: say whether it would be done"},
    {"detach", 'd', NULL, "print the migration's id and return at once"},
    {"max-downtime", 0, "TIME", "not available in this version"},
    {"parallel", 0, "N", "1; more is not available in this version"},
    {"auto-converge", 0, NULL, "not available in this version"},
    {"compress", 0, "METHOD", "auto or none; zstd is not available in this version"},
    {NULL, 0, NULL, NULL},
};

/* --- the request --- */

static int not_available(struct fm_error *err, const char *what, const char *instead)
{
    return fm_error_set(err, FM_E_REFUSED, "%s is not available in this version; %s", what,
                        instead);
}

static int set_strategy(json_t *body, const struct cli_args *args, struct fm_error *err)
{
    static const char *const later[] = {"pre-copy", "post-copy", "hybrid"};
    const char *strategy = cli_value(args, "strategy");

    if (!strategy)
        return 0;
    for (size_t i = 0; i < FM_COUNT(later); i++)
        if (fm_streq(strategy, later[i])) {
            fm_autofree char *what = fm_strf("strategy \"%s\"", strategy);

            return not_available(err, what, "use auto or cold");
        }
    if (!fm_streq(strategy, "auto") && !fm_streq(strategy, "cold"))
        return fm_error_set(err, FM_E_USAGE, "--strategy '%s' is unknown; use auto or cold",
                            strategy);
    json_object_set_new(body, "strategy", json_string(strategy));
    return 0;
}

static int refuse_later_options(const struct cli_args *args, struct fm_error *err)
{
    const char *compress = cli_value(args, "compress"), *parallel = cli_value(args, "parallel");

    if (fm_streq(cli_value(args, "to"), "auto"))
        return not_available(err, "choosing the destination (--to auto)", "name a host");
    if (cli_flag(args, "max-downtime"))
        return not_available(err, "--max-downtime", "leave it out");
    if (cli_flag(args, "auto-converge"))
        return not_available(err, "--auto-converge", "leave it out");
    if (compress && !fm_streq(compress, "auto") && !fm_streq(compress, "none"))
        return not_available(err, "--compress with a method", "use auto or none");
    if (parallel && !fm_streq(parallel, "1"))
        return not_available(err, "--parallel above 1", "leave it out");
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

static int set_limits(json_t *body, const struct cli_args *args, struct fm_error *err)
{
    const char *bandwidth = cli_value(args, "bandwidth"), *timeout = cli_value(args, "timeout");
    uint64_t value;

    if (bandwidth) {
        if (parse_rate(bandwidth, &value, err) < 0)
            return usage_of("--bandwidth", err);
        json_object_set_new(body, "bandwidth_bytes", json_integer((json_int_t)value));
    }
    if (timeout) {
        if (fm_parse_duration(timeout, &value, err) < 0)
            return usage_of("--timeout", err);
        json_object_set_new(body, "timeout_ms", json_integer((json_int_t)value));
    }
    return 0;
}

static json_t *make_request(const struct cli_args *args, struct fm_error *err)
{
    const char *to = cli_value(args, "to"), *from = cli_value(args, "from");
    const char *priority = cli_value(args, "priority");
    json_auto_t *body = json_object();

    if (!to) {
        fm_error_set(err, FM_E_USAGE, "migrate needs the destination: --to HOST");
        return NULL;
    }
    if (priority && !fm_streq(priority, "low") && !fm_streq(priority, "normal") &&
        !fm_streq(priority, "high")) {
        fm_error_set(err, FM_E_USAGE, "--priority '%s' is not low, normal or high", priority);
        return NULL;
    }
    if (refuse_later_options(args, err) < 0 || set_strategy(body, args, err) < 0 ||
        set_limits(body, args, err) < 0)
        return NULL;
    json_object_set_new(body, "container", json_string(args->words.items[0]));
    json_object_set_new(body, "destination", json_string(to));
    if (from)
        json_object_set_new(body, "source", json_string(from));
    if (priority)
        json_object_set_new(body, "priority", json_string(priority));
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
