/* fleximigrate run: starts a container. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "cli/cli.h"

const struct cli_option cli_run_options[] = {
    {"name", 0, "NAME", "the container's name (needed)"},
    {"image", 0, "IMAGE", "root directory, OCI layout or tar archive, or an imported image's name"},
    {"network", 0, "NETWORK", "the network that it is in; default when not given"},
    {"ip", 0, "ADDRESS", "its address there, kept for life; a free one with auto or --network"},
    {"ip6", 0, "ADDRESS", "its IPv6 address in a network of both families; else a free one"},
    {"publish", 'p', "PORT:PORT",
     "port of every host that leads to one of the container's; add /udp; may be given again"},
    {"mac", 0, "ADDRESS", "its link-layer address; made from the IP address when not given"},
    {"memory", 'm', "SIZE", "memory limit, such as 512MiB"},
    {"volume", 'v', "SRC:DST",
     "host directory to mount; add :ro, and :shared when both hosts see it"},
    {"env", 'e', "NAME=VALUE", "environment variable; may be given again"},
    {"label", 'l', "NAME=VALUE", "label; fleximigrate.immovable=true forbids migrations"},
    {"workdir", 'w', "DIR", "working directory inside"},
    {"user", 'u', "UID:GID", "user inside; 0:0 when not given"},
    {"health", 0, "CHECK",
     "http://:PORT/PATH, tcp://:PORT or cmd:COMMAND; asked after a migration"},
    {"depends", 0, "URL,TIME",
     "tcp://ADDRESS:PORT or http://ADDRESS/PATH that it needs, and how soon that must answer after "
     "a migration; may be given again"},
    {NULL, 0, NULL, NULL},
};

static void copy_text(json_t *body, const char *key, const struct cli_args *args,
                      const char *option)
{
    const char *value = cli_value(args, option);

    if (value)
        json_object_set_new(body, key, json_string(value));
}

static int add_labels(json_t *body, const struct cli_args *args, struct fm_error *err)
{
    json_auto_t *given = cli_values(args, "label");
    json_t *labels = json_object();
    const json_t *label;
    size_t i;

    json_object_set_new(body, "labels", labels);
    json_array_foreach(given, i, label)
    {
        fm_autofree char *name = fm_xstrdup(json_string_value(label));
        char *value = strchr(name, '=');

        if (!value || value == name)
            return fm_error_set(err, FM_E_USAGE, "label '%s' is not of the form NAME=VALUE", name);
        *value++ = '\0';
        json_object_set_new(labels, name, json_string(value));
    }
    return 0;
}

static int add_lists(json_t *body, const struct cli_args *args, struct fm_error *err)
{
    json_t *env = cli_values(args, "env"), *volumes = cli_values(args, "volume");
    json_t *depends = cli_values(args, "depends");
    json_t *publish = cli_values(args, "publish");
    json_t *command = json_array();

    for (size_t i = 0; i < args->words.count; i++)
        json_array_append_new(command, json_string(args->words.items[i]));
    json_object_set_new(body, "command", command);
    if (env)
        json_object_set_new(body, "env", env);
    if (volumes)
        json_object_set_new(body, "volumes", volumes);
    if (depends)
        json_object_set_new(body, "depends", depends);
    if (publish)
        json_object_set_new(body, "publish", publish);
    return add_labels(body, args, err);
}

/* An image that exists here is named by its full path, for the daemon has another working
 * directory. */
static int add_image(const struct cli *cli, json_t *body, const struct cli_args *args,
                     struct fm_error *err)
{
    const char *image = cli_value(args, "image");
    fm_autofree char *absolute = NULL;

    if (!image)
        return fm_error_set(err, FM_E_USAGE, "run needs an image: --image IMAGE");
    if (!cli->remote.host && strchr(image, '/')) {
        absolute = realpath(image, NULL);
        if (!absolute)
            return fm_error_set(err, FM_E_NOT_FOUND, "there is no image '%s'", image);
    }
    json_object_set_new(body, "image", json_string(absolute ? absolute : image));
    return 0;
}

static int add_memory(json_t *body, const struct cli_args *args, struct fm_error *err)
{
    const char *memory = cli_value(args, "memory");
    uint64_t bytes;

    if (!memory)
        return 0;
    if (fm_parse_size(memory, &bytes, err) < 0) {
        fm_error_prefix(err, "--memory");
        return fm_error_recode(err, FM_E_USAGE);
    }
    json_object_set_new(body, "memory_bytes", json_integer((json_int_t)bytes));
    return 0;
}

int cli_run(struct cli *cli, const struct cli_args *args, struct fm_error *err)
{
    json_auto_t *body = json_object();
    json_auto_t *reply = NULL;

    if (!cli_value(args, "name"))
        return fm_error_set(err, FM_E_USAGE, "run needs a name: --name NAME");
    copy_text(body, "name", args, "name");
    copy_text(body, "network", args, "network");
    copy_text(body, "ip", args, "ip");
    copy_text(body, "ip6", args, "ip6");
    copy_text(body, "mac", args, "mac");
    copy_text(body, "cwd", args, "workdir");
    copy_text(body, "user", args, "user");
    copy_text(body, "health", args, "health");
    if (add_image(cli, body, args, err) < 0 || add_memory(body, args, err) < 0 ||
        add_lists(body, args, err) < 0)
        return -(int)err->code;
    if (cli_request(cli, "POST", "/v1/containers", body, &reply, err) < 0)
        return -(int)err->code;
    if (cli->json)
        cli_print_json(reply);
    else
        cli_say(cli, "started '%s'", cli_value(args, "name"));
    return 0;
}
