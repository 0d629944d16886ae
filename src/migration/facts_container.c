#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "migration/facts.h"
#include "migration/preflight.h"

#define SHARED_MEMORY_WORTH_A_WALK_KIB                                                             \
    (4 * 1024) /* below, counting it twice costs less than smaps */

/* ---- who is init ---- */

/* "4711 12 1" → 3 levels, 1 in the innermost */
static void read_levels(pid_t pid, int *levels, long *innermost)
{
    fm_autofree char *text = fm_proc_field(pid, "status", "NSpid");
    char *rest = text;
    char *word;

    *levels = 0;
    *innermost = 0;
    while (rest && (word = strsep(&rest, " \t"))) {
        if (!*word)
            continue;
        ++*levels;
        *innermost = strtol(word, NULL, 10);
    }
}

static bool is_in(const pid_t *pids, size_t count, pid_t pid)
{
    for (size_t i = 0; i < count; i++) {
        if (pids[i] == pid)
            return true;
    }
    return false;
}

/* Without a pid namespace of its own: the one whose parent is elsewhere. */
static pid_t find_topmost(const pid_t *pids, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!is_in(pids, count, (pid_t)fm_proc_number(pids[i], "status", "PPid", 0)))
            return pids[i];
    }
    return pids[0];
}

/* Pid 1 of the outermost namespace. */
static pid_t find_root(const pid_t *pids, size_t count)
{
    pid_t root = 0;
    int best = 0;

    for (size_t i = 0; i < count; i++) {
        int levels;
        long innermost;

        read_levels(pids[i], &levels, &innermost);
        if (innermost == 1 && (root == 0 || levels < best)) {
            root = pids[i];
            best = levels;
        }
    }
    return root ? root : find_topmost(pids, count);
}

/* ---- memory ---- */

/* KiB. Shared memory is divided among those who map it; the rest is counted as each process has it.
 */
static uint64_t resident_kib(pid_t pid)
{
    long long shared = fm_proc_number(pid, "status", "RssShmem", 0);

    if (shared > SHARED_MEMORY_WORTH_A_WALK_KIB)
        shared = fm_proc_number(pid, "smaps_rollup", "Pss_Shmem", shared);
    return (uint64_t)(shared + fm_proc_number(pid, "status", "RssAnon", 0) +
                      fm_proc_number(pid, "status", "VmSwap", 0));
}

static void add_memory(json_t *needs, const pid_t *pids, size_t count)
{
    uint64_t kib = 0, huge_kib = 0;

    for (size_t i = 0; i < count; i++) {
        kib += resident_kib(pids[i]);
        huge_kib += (uint64_t)fm_proc_number(pids[i], "status", "HugetlbPages", 0);
    }
    json_object_set_new(needs, "memory_bytes", json_integer((json_int_t)(kib * 1024)));
    json_object_set_new(needs, "hugepages_bytes", json_integer((json_int_t)(huge_kib * 1024)));
}

/* ---- mounts and files ---- */

struct mount {
    const char *target;
    const char *type;
    const char *options; /* of the file system */
};

/* Kernel documentation, filesystems/proc: 36 35 98:0 /root /mnt rw,noatime master:1 - ext3
 * /dev/root rw,errors=continue. Cuts `line` into pieces. */
static bool parse_mount(char *line, struct mount *mount)
{
    char *separator = strstr(line, " - ");
    char *rest = line;
    const char *field = NULL;

    if (!separator)
        return false;
    *separator = '\0';
    for (int i = 0; i < 5; i++)
        field = strsep(&rest, " ");
    rest = fm_trim(separator + 3);
    mount->target = field;
    mount->type = strsep(&rest, " ");
    strsep(&rest, " ");
    mount->options = rest;
    return mount->target && mount->type && mount->options;
}

static bool is_bind(const json_t *mount)
{
    const json_t *option;
    size_t i;

    if (fm_streq(json_string_value(json_object_get(mount, "type")), "bind"))
        return true;
    json_array_foreach(json_object_get(mount, "options"), i, option)
    {
        if (fm_streq(json_string_value(option), "bind") ||
            fm_streq(json_string_value(option), "rbind"))
            return true;
    }
    return false;
}

static const struct fm_volume *volume_at(const struct fm_container *c, const char *target)
{
    for (size_t i = 0; i < c->volume_count; i++) {
        if (fm_streq(c->volumes[i].target, target))
            return &c->volumes[i];
    }
    return NULL;
}

/* A copied volume needs nothing on the destination; all other bind mounts need their source. */
static json_t *mounts_needed(const struct fm_container *c)
{
    json_t *mounts = json_array();
    const json_t *mount;
    size_t i;

    json_array_foreach(json_object_get(c->config, "mounts"), i, mount)
    {
        const char *source = json_string_value(json_object_get(mount, "source"));
        const char *target = json_string_value(json_object_get(mount, "destination"));

        if (source && target && is_bind(mount) && !volume_at(c, target))
            json_array_append_new(mounts, json_pack("{s:s, s:s, s:s, s:b}", "source", source,
                                                    "target", target, "type", "bind", "copied", 0));
    }
    for (i = 0; i < c->volume_count; i++)
        json_array_append_new(mounts,
                              json_pack("{s:s, s:s, s:s, s:b}", "source", c->volumes[i].source,
                                        "target", c->volumes[i].target, "type", "bind", "copied",
                                        !c->volumes[i].shared));
    return mounts;
}

static json_t *devices_needed(const struct fm_container *c)
{
    const json_t *devices = json_object_get(json_object_get(c->config, "linux"), "devices");
    json_t *needed = json_array();
    json_t *device;
    size_t i;

    json_array_foreach((json_t *)(uintptr_t)devices, i, device)
    {
        if (json_is_string(json_object_get(device, "path")))
            json_array_append(needed, device);
    }
    return needed;
}

static bool is_configured_mount(const struct fm_container *c, const char *target)
{
    const json_t *mount;
    size_t i;

    json_array_foreach(json_object_get(c->config, "mounts"), i, mount)
    {
        if (fm_streq(json_string_value(json_object_get(mount, "destination")), target))
            return true;
    }
    return volume_at(c, target) != NULL;
}

/* Mounts that the configuration names are made anew by the runtime; what the container mounted
 * itself is CRIU's business, and CRIU knows these. */
static bool is_dumpable_filesystem(const char *type)
{
    static const char *const types[] = {
        "proc",    "sysfs",   "devtmpfs", "tmpfs",       "devpts",  "mqueue",
        "cgroup",  "cgroup2", "pstore",   "securityfs",  "debugfs", "tracefs",
        "overlay", "autofs",  "fusectl",  "binfmt_misc",
    };

    for (size_t i = 0; i < FM_COUNT(types); i++) {
        if (fm_streq(types[i], type))
            return true;
    }
    return false;
}

static uint64_t directory_size(const char *path)
{
    uint64_t bytes = 0;

    return path && fm_tree_size(path, &bytes, NULL) == 0 ? bytes : 0;
}

/* The writable layer: the overlay's upper directory, or the whole root directory of a found
 * container. */
static uint64_t layer_size(const struct fm_container *c, const struct mount *root)
{
    const char *at = fm_streq(root->type, "overlay") ? strstr(root->options, "upperdir=") : NULL;
    fm_autofree char *upper = NULL;

    if (at) {
        at += strlen("upperdir=");
        upper = fm_xstrndup(at, strcspn(at, ","));
        return directory_size(upper);
    }
    return c->image ? 0
                    : directory_size(json_string_value(
                          json_object_get(json_object_get(c->config, "root"), "path")));
}

static void survey_mounts(struct fm_survey *survey, json_t *needs)
{
    const struct fm_container *c = survey->container;
    fm_autofree char *path = fm_strf("/proc/%d/mountinfo", survey->root);
    fm_autofclose FILE *f = fopen(path, "re");
    fm_autofree char *line = NULL;
    uint64_t bytes = 0;
    struct mount mount;
    size_t size = 0;

    while (f && getline(&line, &size, f) > 0) {
        if (!parse_mount(line, &mount))
            continue;
        if (fm_streq(mount.target, "/"))
            bytes = layer_size(c, &mount);
        else if (c->config && !is_dumpable_filesystem(mount.type) &&
                 !is_configured_mount(c, mount.target))
            fm_survey_obstacle(survey, "mount", FM_MAY_STOP,
                               "unmount it, or let the container's configuration mount it",
                               "the container has mounted a %s file system on %s by itself",
                               mount.type, mount.target);
    }
    for (size_t i = 0; i < c->volume_count; i++)
        bytes += c->volumes[i].shared ? 0 : directory_size(c->volumes[i].source);
    json_object_set_new(needs, "disk_bytes", json_integer((json_int_t)bytes));
    json_object_set_new(needs, "mounts", mounts_needed(c));
    json_object_set_new(needs, "devices", devices_needed(c));
}

/* ---- security, terminal, clocks ---- */

/* "docker-default (enforce)", "unconfined", or an SELinux label with its colons. */
static void add_lsm(json_t *needs, pid_t root)
{
    fm_autofree char *path = fm_strf("/proc/%d/attr/current", root);
    fm_autofree char *label = fm_file_line(path);
    const char *lsm = "";
    char *mode = label ? strstr(label, " (") : NULL;

    if (mode)
        *mode = '\0';
    if (label && *label && !fm_streq(label, "unconfined") && !fm_streq(label, "kernel"))
        lsm = strchr(label, ':') && !mode ? "selinux" : "apparmor";
    json_object_set_new(needs, "lsm", json_string(lsm));
    json_object_set_new(needs, "lsm_profile", json_string(*lsm ? label : ""));
}

static void check_terminal(struct fm_survey *survey)
{
    const json_t *process = json_object_get(survey->container->config, "process");

    if (json_is_true(json_object_get(process, "terminal")))
        fm_survey_obstacle(survey, "terminal", FM_STOPS,
                           "run the container without a terminal (process.terminal: false)",
                           "the container runs on a terminal of this host");
}

json_t *fm_facts_container(const struct fm_container *container, const pid_t *pids, size_t count,
                           struct fm_error *err)
{
    json_auto_t *needs = json_object();
    struct fm_survey survey = {
        .container = container,
        .pids = pids,
        .count = count,
    };

    if (count == 0) {
        fm_error_set(err, FM_E_REFUSED,
                     "container '%s' has no running process; start it, or remove it and run it on "
                     "the destination",
                     container->name);
        return NULL;
    }
    survey.root = find_root(pids, count);
    survey.obstacles = json_array();
    survey.mount_ids = json_object();
    survey.namespaces = json_object();
    survey.unix_sockets = json_object();
    survey.netlink_sockets = json_object();

    json_object_set_new(needs, "processes", json_integer((json_int_t)count));
    json_object_set_new(needs, "time_ns",
                        json_boolean(!fm_proc_same_namespace(survey.root, 0, "time")));
    add_memory(needs, pids, count);
    add_lsm(needs, survey.root);
    survey_mounts(&survey, needs);
    check_terminal(&survey);
    fm_survey_processes(&survey);
    fm_survey_sockets(&survey);

    json_object_set_new(needs, "obstacles", survey.obstacles);
    json_decref(survey.mount_ids);
    json_decref(survey.namespaces);
    json_decref(survey.unix_sockets);
    json_decref(survey.netlink_sockets);
    return json_incref(needs);
}
