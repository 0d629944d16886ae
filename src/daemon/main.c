/* fleximigrated: reads its options and its configuration, then runs. */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "criu/session.h"
#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/followers.h"
#include "migration/journal.h"

#define EXIT_USAGE 2

static const char help[] =
    "Usage: fleximigrated [--config FILE] [OPTION…]\n"
    "Migrates running containers to and from this host; serves the API that fleximigrate talks "
    "to.\n"
    "\n"
    "  --config FILE         configuration; default " FM_CONFIG_PATH ",\n"
    "                        then conf.d/*.yaml beside it\n"
    "  --check-config        check the configuration and exit\n"
    "  --log-level LEVEL     debug, info, warn or error; wins over the configuration\n"
    "  --log-format FORMAT   text or json; wins over the configuration\n"
    "  --fault-points        print the steps at which tests make it die (FLEXIMIGRATE_FAULT), and "
    "exit\n"
    "  --version             print the version and exit\n"
    "  --help                print this and exit\n"
    "\n"
    "Exit status: 0 after SIGTERM or SIGINT, 1 when it cannot start or run, 2 when the options or "
    "the\n"
    "configuration are wrong.\n"
    "\n"
    "Example: fleximigrated --config ./host-a.yaml --log-level debug\n";

struct options {
    const char *config, *log_level, *log_format;
    bool check;
};

static void print_fault_points(void)
{
#define X(name, text) puts("step." text);
    FM_STEPS(X)
#undef X
#define X(name, text) puts("criu." text);
    FM_SESSION_EVENTS(X)
#undef X
}

/* Returns an exit code, negative to go on. */
static int parse(int argc, char **argv, struct options *options)
{
    static const struct option known[] = {
        {"config", required_argument, NULL, 'c'},
        {"check-config", no_argument, NULL, 'n'},
        {"log-level", required_argument, NULL, 'l'},
        {"log-format", required_argument, NULL, 'f'},
        {"fault-points", no_argument, NULL, 'p'},
        {"version", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "c:h", known, NULL)) != -1) {
        switch (option) {
        case 'c':
            options->config = optarg;
            break;
        case 'n':
            options->check = true;
            break;
        case 'l':
            options->log_level = optarg;
            break;
        case 'f':
            options->log_format = optarg;
            break;
        case 'p':
            print_fault_points();
            return EXIT_SUCCESS;
        case 'v':
            puts("fleximigrated " FM_VERSION);
            return EXIT_SUCCESS;
        case 'h':
            fputs(help, stdout);
            return EXIT_SUCCESS;
        default:
            fputs("fleximigrated: see fleximigrated --help\n", stderr);
            return EXIT_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "fleximigrated: unexpected argument '%s'; see fleximigrated --help\n",
                argv[optind]);
        return EXIT_USAGE;
    }
    return -1;
}

static int load(const struct options *options, struct fm_config *config, struct fm_error *err)
{
    if (fm_config_load(options->config, config, err) < 0)
        return -(int)err->code;
    if (options->log_level && fm_log_level_parse(options->log_level, &config->log.level) < 0)
        return fm_error_set(err, FM_E_USAGE, "--log-level '%s' is not debug, info, warn or error",
                            options->log_level);
    if (options->log_format && fm_log_format_parse(options->log_format, &config->log.format) < 0)
        return fm_error_set(err, FM_E_USAGE, "--log-format '%s' is not text or json",
                            options->log_format);
    return 0;
}

/* What the configuration names as well. */
static int check(const struct fm_config *config, struct fm_error *err)
{
    struct fm_followers followers;
    int rc = fm_followers_open(config->network.followers, &followers, err);

    fm_followers_close(&followers);
    return rc;
}

static int run(const struct fm_config *config, struct fm_error *err)
{
    const char *file = config->log.file[0] ? config->log.file : NULL;

    if (fm_log_init(config->log.level, config->log.format, file, err) < 0)
        return -(int)err->code;
    return fm_daemon_run(config, err);
}

int main(int argc, char **argv)
{
    struct options options = {0};
    struct fm_config config = {0};
    struct fm_error err = {0};
    int code = parse(argc, argv, &options);

    if (code >= 0)
        return code;
    if (load(&options, &config, &err) < 0 || (options.check && check(&config, &err) < 0)) {
        fprintf(stderr, "fleximigrated: %s\n", err.text);
        code = EXIT_USAGE;
    } else if (options.check) {
        puts("configuration ok");
        code = EXIT_SUCCESS;
    } else if (run(&config, &err) < 0) {
        fprintf(stderr, "fleximigrated: %s\n", err.text);
        code = EXIT_FAILURE;
    } else {
        code = EXIT_SUCCESS;
    }
    fm_config_free(&config);
    return code;
}
