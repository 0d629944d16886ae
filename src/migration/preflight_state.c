#include "migration/preflight.h"

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

static json_int_t number(const json_t *doc, const char *key)
{
    return json_integer_value(json_object_get(doc, key));
}

static json_t *missing_sources(const json_t *needs)
{
    json_t *missing = json_array();
    const json_t *mount;
    size_t i;

    json_array_foreach(json_object_get(needs, "mounts"), i, mount)
    {
        const char *source = fm_json_text(mount, "source");

        if (*source && !json_is_true(json_object_get(mount, "copied")) && !fm_file_exists(source))
            json_array_append_new(missing, json_string(source));
    }
    return missing;
}

/* The runtime makes the node by its numbers, so a driver for these is what counts. */
static bool has_device(const json_t *device)
{
    const char *type = fm_json_text(device, "type");
    fm_autofree char *path = NULL;

    if (fm_streq(type, "p"))
        return true;
    path = fm_strf("/sys/dev/%s/%" JSON_INTEGER_FORMAT ":%" JSON_INTEGER_FORMAT,
                   fm_streq(type, "b") ? "block" : "char", number(device, "major"),
                   number(device, "minor"));
    return fm_file_exists(path) || fm_file_exists(fm_json_text(device, "path"));
}

static json_t *missing_devices(const json_t *needs)
{
    json_t *missing = json_array();
    const json_t *device;
    size_t i;

    json_array_foreach(json_object_get(needs, "devices"), i, device)
    {
        if (!has_device(device))
            json_array_append_new(missing, json_string(fm_json_text(device, "path")));
    }
    return missing;
}

json_t *fm_preflight_destination_state(const struct fm_container *container, const json_t *needs,
                                       bool container_exists, bool address_in_use, bool cordoned)
{
    return json_pack("{s:s, s:b, s:b, s:b, s:o, s:o}", "container", container->name,
                     "container_exists", container_exists, "address_in_use", address_in_use,
                     "cordoned", cordoned, "missing_sources", missing_sources(needs),
                     "missing_devices", missing_devices(needs));
}
