#include "container/oci_config.h"

#include <string.h>
#include <sys/resource.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "container/check.h"

#define DEFAULT_ENV_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define OPEN_FILES 16384

/* ---- The default ---- */

/* What containers usually get: enough to change users and bind low ports, nothing that reaches the
 * host. */
static json_t *capability_set(void)
{
    return json_pack("[s,s,s,s,s,s,s,s,s,s,s,s,s,s]", "CAP_AUDIT_WRITE", "CAP_CHOWN",
                     "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
                     "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID",
                     "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT");
}

static json_t *capabilities(bool root)
{
    json_t *c = json_pack("{s:o}", "bounding", capability_set());

    if (root) {
        json_object_set_new(c, "effective", capability_set());
        json_object_set_new(c, "permitted", capability_set());
    }
    return c;
}

static json_t *to_list(const struct fm_strv *v)
{
    json_t *list = json_array();

    for (size_t i = 0; i < v->count; i++)
        json_array_append_new(list, json_string(v->items[i]));
    return list;
}

static json_t *environment(const struct fm_strv *env)
{
    json_t *list = to_list(env);

    for (size_t i = 0; i < env->count; i++) {
        if (fm_starts_with(env->items[i], "PATH="))
            return list;
    }
    json_array_insert_new(list, 0, json_string(DEFAULT_ENV_PATH));
    return list;
}

static json_t *default_process(const struct fm_container *c, unsigned uid, unsigned gid)
{
    return json_pack("{s:b, s:{s:I, s:I}, s:o, s:o, s:s, s:o, s:[{s:s, s:i, s:i}], s:b}",
                     "terminal", 0, "user", "uid", (json_int_t)uid, "gid", (json_int_t)gid, "args",
                     to_list(&c->command), "env", environment(&c->env), "cwd",
                     c->cwd ? c->cwd : "/", "capabilities", capabilities(uid == 0), "rlimits",
                     "type", "RLIMIT_NOFILE", "hard", OPEN_FILES, "soft", OPEN_FILES,
                     "noNewPrivileges", 1);
}

static json_t *file_system(const char *type, const char *source, const char *target,
                           const char *options)
{
    fm_autofree char *copy = fm_xstrdup(options);
    json_t *list = json_array();
    char *rest = NULL;

    for (char *o = strtok_r(copy, ",", &rest); o; o = strtok_r(NULL, ",", &rest))
        json_array_append_new(list, json_string(o));
    return json_pack("{s:s, s:s, s:s, s:o}", "destination", target, "type", type, "source", source,
                     "options", list);
}

static json_t *volume_mount(const struct fm_volume *v)
{
    return file_system("bind", v->source, v->target,
                       v->read_only ? "bind,rprivate,ro" : "bind,rprivate,rw");
}

/* No /sys/fs/cgroup: each tmpfs costs the freeze some milliseconds, and few programs look there. */
static json_t *default_mounts(const struct fm_container *c)
{
    json_t *list = json_array();

    json_array_append_new(list, file_system("proc", "proc", "/proc", "nosuid,noexec,nodev"));
    json_array_append_new(
        list, file_system("tmpfs", "tmpfs", "/dev", "nosuid,strictatime,mode=755,size=65536k"));
    json_array_append_new(list,
                          file_system("devpts", "devpts", "/dev/pts",
                                      "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"));
    json_array_append_new(
        list, file_system("tmpfs", "shm", "/dev/shm", "nosuid,noexec,nodev,mode=1777,size=65536k"));
    json_array_append_new(list,
                          file_system("mqueue", "mqueue", "/dev/mqueue", "nosuid,noexec,nodev"));
    json_array_append_new(list, file_system("sysfs", "sysfs", "/sys", "nosuid,noexec,nodev,ro"));
    for (size_t i = 0; i < c->volume_count; i++)
        json_array_append_new(list, volume_mount(&c->volumes[i]));
    return list;
}

/* Refused with ENOSYS: io_uring because CRIU cannot dump it and programs then do without, the
 * others because they reach the kernel itself. */
static json_t *default_seccomp(void)
{
    json_t *names =
        json_pack("[s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s]", "io_uring_setup", "io_uring_enter",
                  "io_uring_register", "kexec_load", "kexec_file_load", "init_module",
                  "finit_module", "delete_module", "reboot", "swapon", "swapoff", "bpf",
                  "perf_event_open", "userfaultfd", "add_key", "request_key", "keyctl");

    return json_pack("{s:s, s:[{s:o, s:s, s:i}]}", "defaultAction", "SCMP_ACT_ALLOW", "syscalls",
                     "names", names, "action", "SCMP_ACT_ERRNO", "errnoRet", 38);
}

static json_t *default_linux(const struct fm_container *c)
{
    json_t *resources = json_pack("{s:[{s:b, s:s}]}", "devices", "allow", 0, "access", "rwm");

    if (c->memory_bytes)
        json_object_set_new(resources, "memory",
                            json_pack("{s:I}", "limit", (json_int_t)c->memory_bytes));
    return json_pack("{s:o, s:[{s:s},{s:s},{s:s},{s:s},{s:s}], s:o,"
                     " s:[s,s,s,s,s,s,s,s,s,s], s:[s,s,s,s,s]}",
                     "resources", resources, "namespaces", "type", "pid", "type", "ipc", "type",
                     "uts", "type", "mount", "type", "network", "seccomp", default_seccomp(),
                     "maskedPaths", "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
                     "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                     "/proc/sched_debug", "/sys/firmware", "/proc/scsi", "readonlyPaths",
                     "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger");
}

json_t *fm_oci_config_default(const struct fm_container *c, struct fm_error *err)
{
    unsigned uid, gid;

    if (c->command.count == 0) {
        fm_error_set(err, FM_E_USAGE,
                     "container '%s' has no command: name one, or use an image "
                     "that has one",
                     c->name);
        return NULL;
    }
    if (!fm_parse_user(c->user, &uid, &gid)) {
        fm_error_set(err, FM_E_USAGE, "user '%s' is not understood: use UID[:GID] in digits",
                     c->user);
        return NULL;
    }
    return json_pack("{s:s, s:o, s:{s:s, s:b}, s:s, s:o, s:o}", "ociVersion", "1.0.2", "process",
                     default_process(c, uid, gid), "root", "path", "rootfs", "readonly", 0,
                     "hostname", c->name, "mounts", default_mounts(c), "linux", default_linux(c));
}

/* ---- For this host ---- */

bool fm_oci_is_bind(const json_t *mount)
{
    const json_t *options = json_object_get(mount, "options");
    size_t i;
    json_t *option;

    if (fm_streq(json_string_value(json_object_get(mount, "type")), "bind"))
        return true;
    json_array_foreach((json_t *)(uintptr_t)options, i, option)
    {
        const char *name = json_string_value(option);

        if (fm_streq(name, "bind") || fm_streq(name, "rbind"))
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

/* File systems of the kernel's own; a "mount" of anything else could name a device of this host. */
static bool is_virtual(const char *type)
{
    static const char *const types[] = {"proc",   "sysfs",  "tmpfs",  "devpts",
                                        "mqueue", "cgroup", "cgroup2"};

    for (size_t i = 0; i < FM_COUNT(types); i++) {
        if (fm_streq(type, types[i]))
            return true;
    }
    return false;
}

static int localise_mounts(const struct fm_container *c, json_t *config, struct fm_error *err)
{
    size_t i;
    json_t *mount;

    json_array_foreach(json_object_get(config, "mounts"), i, mount)
    {
        const char *target = json_string_value(json_object_get(mount, "destination"));
        const char *type = json_string_value(json_object_get(mount, "type"));
        const struct fm_volume *volume = target ? volume_at(c, target) : NULL;

        if (fm_oci_is_bind(mount) && volume) {
            json_object_set_new(mount, "source", json_string(volume->source));
            continue;
        }
        if (fm_oci_is_bind(mount) || !target || !is_virtual(type))
            return fm_error_set(err, FM_E_REFUSED,
                                "container '%s' mounts %s (%s), which is not a volume of its "
                                "record",
                                c->name, target ? target : "something", type ? type : "bind");
    }
    return 0;
}

static int localise_namespaces(const struct fm_container *c, json_t *linux_part, const char *netns,
                               struct fm_error *err)
{
    json_t *list = json_object_get(linux_part, "namespaces");
    bool has_network = false;
    size_t i;
    json_t *namespace;

    json_array_foreach(list, i, namespace)
    {
        const char *type = json_string_value(json_object_get(namespace, "type"));
        bool network = fm_streq(type, "network");

        if (!network && json_object_get(namespace, "path"))
            return fm_error_set(err, FM_E_REFUSED,
                                "container '%s' shares the %s namespace of another: only both "
                                "together could move",
                                c->name, type ? type : "?");
        json_object_del(namespace, "path");
        if (network && netns)
            json_object_set_new(namespace, "path", json_string(netns));
        has_network |= network;
    }
    if (netns && !has_network)
        json_array_append_new(list, json_pack("{s:s, s:s}", "type", "network", "path", netns));
    return 0;
}

static const struct {
    const char *name;
    int resource;
} rlimits[] = {
    {"RLIMIT_AS", RLIMIT_AS},
    {"RLIMIT_CORE", RLIMIT_CORE},
    {"RLIMIT_CPU", RLIMIT_CPU},
    {"RLIMIT_DATA", RLIMIT_DATA},
    {"RLIMIT_FSIZE", RLIMIT_FSIZE},
    {"RLIMIT_LOCKS", RLIMIT_LOCKS},
    {"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK},
    {"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE},
    {"RLIMIT_NICE", RLIMIT_NICE},
    {"RLIMIT_NOFILE", RLIMIT_NOFILE},
    {"RLIMIT_NPROC", RLIMIT_NPROC},
    {"RLIMIT_RSS", RLIMIT_RSS},
    {"RLIMIT_RTPRIO", RLIMIT_RTPRIO},
    {"RLIMIT_RTTIME", RLIMIT_RTTIME},
    {"RLIMIT_SIGPENDING", RLIMIT_SIGPENDING},
    {"RLIMIT_STACK", RLIMIT_STACK},
};

static void cut(json_t *limit, const char *key, rlim_t hard)
{
    json_t *value = json_object_get(limit, key);

    if (hard <= INT64_MAX && json_is_integer(value) &&
        (uint64_t)json_integer_value(value) > (uint64_t)hard)
        json_object_set_new(limit, key, json_integer((json_int_t)hard));
}

/* Raising a hard limit needs a capability that a nested or restricted host has not. */
static void localise_rlimits(json_t *process)
{
    size_t i;
    json_t *limit;

    json_array_foreach(json_object_get(process, "rlimits"), i, limit)
    {
        const char *type = json_string_value(json_object_get(limit, "type"));
        struct rlimit ours;

        for (size_t k = 0; k < FM_COUNT(rlimits); k++) {
            if (!fm_streq(type, rlimits[k].name) || getrlimit(rlimits[k].resource, &ours) < 0)
                continue;
            cut(limit, "hard", ours.rlim_max);
            cut(limit, "soft", ours.rlim_max);
        }
    }
}

static void localise_root(const struct fm_container *c, json_t *config, const char *rootfs)
{
    json_t *root = json_object_get(config, "root");

    if (!json_is_object(root)) {
        root = json_object();
        json_object_set_new(config, "root", root);
    }
    json_object_set_new(root, "path", json_string(rootfs));
    if (json_object_del(config, "hooks") == 0)
        fm_warn(FM_CONTAINER_MANAGER,
                "Container '%s' has hooks, which are programs of the host it came from: left out.",
                c->name);
}

json_t *fm_oci_config_localise(const struct fm_container *c, const struct fm_oci_place *place,
                               struct fm_error *err)
{
    json_auto_t *config = json_deep_copy(c->config);
    json_t *linux_part = json_object_get(config, "linux");

    if (!json_is_object(linux_part) || !json_is_object(json_object_get(config, "process"))) {
        fm_error_set(err, FM_E_INVALID, "the OCI configuration of '%s' has no %s", c->name,
                     json_is_object(linux_part) ? "process" : "linux part");
        return NULL;
    }
    localise_root(c, config, place->rootfs);
    localise_rlimits(json_object_get(config, "process"));
    json_object_set_new(linux_part, "cgroupsPath", json_string(place->cgroup_path));
    if (localise_namespaces(c, linux_part, place->netns, err) < 0 ||
        localise_mounts(c, config, err) < 0)
        return NULL;
    return FM_MOVE(config);
}
