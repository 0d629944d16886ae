/* The record of a container that somebody else started: read from what the runtime and the kernel
 * show. */
#include "container/container.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "container/check.h"
#include "container/oci_config.h"

#define MAX_VOLUMES 64

static json_t *get_path(const json_t *doc, const char *first, const char *second)
{
    return json_object_get(json_object_get(doc, first), second);
}

static void copy_list(const json_t *list, struct fm_strv *out)
{
    size_t i;
    json_t *item;

    json_array_foreach((json_t *)(uintptr_t)list, i, item)
    {
        if (json_is_string(item))
            fm_strv_add(out, json_string_value(item));
    }
}

static char *user_of(const json_t *process)
{
    json_int_t uid = json_integer_value(get_path(process, "user", "uid"));
    json_int_t gid = json_integer_value(get_path(process, "user", "gid"));

    return fm_strf("%lld:%lld", (long long)uid, (long long)gid);
}

/* Annotations are the only labels that an OCI configuration has. */
static json_t *labels_of(const json_t *config)
{
    json_t *labels = json_object();
    const char *key;
    json_t *value;

    json_object_foreach(json_object_get(config, "annotations"), key, value)
    {
        const char *text = json_string_value(value);

        if (fm_is_text(key, 255) && text && strlen(text) <= 4096)
            json_object_set(labels, key, value);
    }
    return labels;
}

/* ---- What cannot move ---- */

static int check_namespaces(const char *id, const json_t *config, struct fm_error *err)
{
    bool has_pid = false, has_mount = false;
    size_t i;
    json_t *namespace;

    json_array_foreach(get_path(config, "linux", "namespaces"), i, namespace)
    {
        const char *type = json_string_value(json_object_get(namespace, "type"));

        has_pid |= fm_streq(type, "pid");
        has_mount |= fm_streq(type, "mount");
        if (json_object_get(namespace, "path") && !fm_streq(type, "network"))
            return fm_error_set(err, FM_E_REFUSED,
                                "'%s' shares the %s namespace of another container: only both "
                                "together could move",
                                id, type ? type : "?");
        if (fm_streq(type, "user"))
            return fm_error_set(err, FM_E_REFUSED,
                                "'%s' has a user namespace, which cannot be moved: start it "
                                "without",
                                id);
    }
    if (!has_pid || !has_mount)
        return fm_error_set(err, FM_E_REFUSED,
                            "'%s' has no %s namespace of its own: its processes cannot be told "
                            "from the host's",
                            id, has_pid ? "mount" : "pid");
    return 0;
}

static int check_process(const char *id, const json_t *config, struct fm_error *err)
{
    const json_t *process = json_object_get(config, "process");

    if (!json_is_object(process))
        return fm_error_set(err, FM_E_INVALID, "'%s': its config.json has no process", id);
    if (json_is_true(json_object_get(process, "terminal")))
        return fm_error_set(err, FM_E_REFUSED,
                            "'%s' has a terminal, which stays on this host: run it without "
                            "(terminal: false)",
                            id);
    return 0;
}

/* ---- Volumes ---- */

static bool has_option(const json_t *mount, const char *wanted)
{
    size_t i;
    json_t *option;

    json_array_foreach(json_object_get(mount, "options"), i, option)
    {
        if (fm_streq(json_string_value(option), wanted))
            return true;
    }
    return false;
}

static int add_volume(struct fm_container *c, const char *bundle, const json_t *mount,
                      struct fm_error *err)
{
    const char *source = json_string_value(json_object_get(mount, "source"));
    const char *target = json_string_value(json_object_get(mount, "destination"));
    fm_autofree char *path =
        source && source[0] != '/' ? fm_strf("%s/%s", bundle, source) : fm_xstrdup(source);
    struct stat st;

    if (!path || !target || !fm_is_clean_path(target))
        return fm_error_set(err, FM_E_REFUSED, "'%s' has a bind mount that is not understood",
                            c->name);
    if (stat(path, &st) < 0)
        return fm_error_errno(err, errno, "'%s' mounts '%s'", c->name, path);
    if (!S_ISDIR(st.st_mode))
        return fm_error_set(err, FM_E_REFUSED,
                            "'%s' mounts the file '%s' at %s: only directories can move; copy it "
                            "into the container instead",
                            c->name, path, target);
    if (c->volume_count == MAX_VOLUMES)
        return fm_error_set(err, FM_E_REFUSED, "'%s' has more than %d bind mounts", c->name,
                            MAX_VOLUMES);
    c->volumes[c->volume_count++] = (struct fm_volume){
        .source = realpath(path, NULL),
        .target = fm_xstrdup(target),
        .read_only = has_option(mount, "ro"),
    };
    return 0;
}

static int read_volumes(struct fm_container *c, const char *bundle, struct fm_error *err)
{
    size_t i;
    json_t *mount;

    c->volumes = fm_xcalloc(MAX_VOLUMES, sizeof(*c->volumes));
    json_array_foreach(json_object_get(c->config, "mounts"), i, mount)
    {
        int ret = fm_oci_is_bind(mount) ? add_volume(c, bundle, mount, err) : 0;

        if (ret < 0)
            return ret;
    }
    return 0;
}

/* ---- What the kernel shows ---- */

/* Mounts made after the start are in no configuration, so the destination would not have them. */
static int check_extra_mount(const struct fm_container *c, const char *line, struct fm_error *err)
{
    char root[1024], point[1024];
    const char *tail = strstr(line, " - ");
    char type[64], source[1024];

    if (!tail || sscanf(line, "%*s %*s %*s %1023s %1023s", root, point) != 2 ||
        sscanf(tail, " - %63s %1023s", type, source) != 2)
        return 0;
    /* A piece of a disk which is neither the root nor one of the volumes. */
    if (source[0] != '/' || fm_streq(point, "/"))
        return 0;
    for (size_t i = 0; i < c->volume_count; i++) {
        const char *target = c->volumes[i].target;

        if (fm_starts_with(point, target) &&
            (point[strlen(target)] == '\0' || point[strlen(target)] == '/'))
            return 0;
    }
    return fm_error_set(err, FM_E_REFUSED,
                        "'%s' has '%s' of %s mounted at %s, which its configuration does not "
                        "mention: unmount it first",
                        c->name, root, source, point);
}

static int check_mounts(const struct fm_container *c, pid_t init_pid, struct fm_error *err)
{
    fm_autofree char *path = fm_strf("/proc/%d/mountinfo", (int)init_pid);
    fm_autofclose FILE *mounts = fopen(path, "re");
    fm_autofree char *line = NULL;
    size_t size = 0;
    int ret = 0;

    if (!mounts)
        return fm_error_errno(err, errno, "cannot read the mounts of '%s'", c->name);
    while (ret == 0 && getline(&line, &size, mounts) > 0)
        ret = check_extra_mount(c, line, err);
    return ret;
}

/* The bundle is known only here: the record names the root directory in full. */
static int complete_root(struct fm_container *c, const char *bundle, struct fm_error *err)
{
    json_t *root = json_object_get(c->config, "root");
    const char *path = json_string_value(json_object_get(root, "path"));

    if (!path)
        return fm_error_set(err, FM_E_INVALID, "'%s': its config.json names no root directory",
                            c->name);
    fm_autofree char *full = path[0] == '/' ? fm_xstrdup(path) : fm_strf("%s/%s", bundle, path);
    json_object_set_new(root, "path", json_string(full));
    return 0;
}

static int fill(struct fm_container *c, const char *bundle, pid_t init_pid, struct fm_error *err)
{
    const json_t *process = json_object_get(c->config, "process");
    const json_t *limit = json_object_get(
        get_path(json_object_get(c->config, "linux"), "resources", "memory"), "limit");
    int ret = check_process(c->name, c->config, err);

    if (ret == 0)
        ret = check_namespaces(c->name, c->config, err);
    if (ret == 0)
        ret = read_volumes(c, bundle, err);
    if (ret == 0 && init_pid > 0)
        ret = check_mounts(c, init_pid, err);
    if (ret == 0)
        ret = complete_root(c, bundle, err);
    if (ret < 0)
        return ret;
    copy_list(json_object_get(process, "args"), &c->command);
    copy_list(json_object_get(process, "env"), &c->env);
    c->cwd = fm_xstrdup(json_string_value(json_object_get(process, "cwd")));
    c->user = user_of(process);
    c->memory_bytes = json_integer_value(limit) > 0 ? (uint64_t)json_integer_value(limit) : 0;
    c->labels = labels_of(c->config);
    c->created_us = fm_realtime_us();
    return 0;
}

struct fm_container *fm_container_discover(const char *id, const char *bundle, pid_t init_pid,
                                           struct fm_error *err)
{
    fm_autocontainer struct fm_container *c = fm_xcalloc(1, sizeof(*c));
    fm_autofree char *path = fm_strf("%s/config.json", bundle);

    if (fm_check_name("container", id, err) < 0)
        return NULL;
    c->name = fm_xstrdup(id);
    c->runtime = fm_xstrdup("runc");
    c->found = true;
    c->config = fm_json_load(path, err);
    if (!c->config || fill(c, bundle, init_pid, err) < 0) {
        fm_error_prefix(err, "cannot take over '%s'", id);
        return NULL;
    }
    return FM_MOVE(c);
}
