#include "migration/facts.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"

#define OBSTACLES_MAX 100 /* nobody reads more, and thousands of sockets may share one fault */

/* ---- helpers on /proc ---- */

char *fm_proc_link(pid_t pid, const char *entry)
{
    fm_autofree char *path = fm_strf("/proc/%d/%s", pid, entry);
    char target[4096];
    ssize_t len = readlink(path, target, sizeof(target) - 1);

    return len < 0 ? NULL : fm_xstrndup(target, (size_t)len);
}

char *fm_proc_field(pid_t pid, const char *file, const char *name)
{
    fm_autofree char *path = fm_strf("/proc/%d/%s", pid, file);
    fm_autofclose FILE *f = fopen(path, "re");
    fm_autofree char *line = NULL;
    size_t size = 0;
    size_t len = strlen(name);

    while (f && getline(&line, &size, f) > 0) {
        if (strncmp(line, name, len) == 0 && line[len] == ':')
            return fm_xstrdup(fm_trim(line + len + 1));
    }
    return NULL;
}

long long fm_proc_number(pid_t pid, const char *file, const char *name, long long missing)
{
    fm_autofree char *text = fm_proc_field(pid, file, name);

    return text ? strtoll(text, NULL, 10) : missing;
}

char *fm_proc_who(pid_t pid)
{
    fm_autofree char *path = fm_strf("/proc/%d/comm", pid);
    fm_autofree char *name = fm_file_line(path);

    return fm_strf("process %d (%s)", pid, name ? name : "?");
}

bool fm_proc_same_namespace(pid_t a, pid_t b, const char *kind)
{
    fm_autofree char *path_a =
        a ? fm_strf("/proc/%d/ns/%s", a, kind) : fm_strf("/proc/self/ns/%s", kind);
    fm_autofree char *path_b =
        b ? fm_strf("/proc/%d/ns/%s", b, kind) : fm_strf("/proc/self/ns/%s", kind);
    struct stat st_a, st_b;

    return stat(path_a, &st_a) == 0 && stat(path_b, &st_b) == 0 && st_a.st_ino == st_b.st_ino &&
           st_a.st_dev == st_b.st_dev;
}

bool fm_survey_has_pid(const struct fm_survey *survey, pid_t pid)
{
    for (size_t i = 0; i < survey->count; i++) {
        if (survey->pids[i] == pid)
            return true;
    }
    return false;
}

static bool is_known(const json_t *obstacles, const char *message)
{
    const json_t *obstacle;
    size_t i;

    json_array_foreach(obstacles, i, obstacle)
    {
        if (fm_streq(json_string_value(json_object_get(obstacle, "message")), message))
            return true;
    }
    return false;
}

void fm_survey_obstacle(struct fm_survey *survey, const char *check, const char *severity,
                        const char *cure, const char *fmt, ...)
{
    fm_autofree char *message = NULL;
    va_list ap;

    va_start(ap, fmt);
    message = fm_vstrf(fmt, ap);
    va_end(ap);
    /* A path may hold any bytes; JSON wants UTF-8. */
    for (char *c = message; *c; c++) {
        if (*c & 0x80 || (unsigned char)*c < ' ')
            *c = '?';
    }
    if (json_array_size(survey->obstacles) >= OBSTACLES_MAX || is_known(survey->obstacles, message))
        return;
    json_array_append_new(survey->obstacles,
                          json_pack("{s:s, s:s, s:s, s:s}", "check", check, "severity", severity,
                                    "message", message, "cure", cure));
}

/* ---- namespaces ---- */

static void note_namespaces(struct fm_survey *survey, pid_t pid)
{
    static const char *const kinds[] = {"mnt", "net",  "pid",  "ipc",
                                        "uts", "user", "time", "cgroup"};

    for (size_t i = 0; i < FM_COUNT(kinds); i++) {
        fm_autofree char *entry = fm_strf("ns/%s", kinds[i]);
        fm_autofree char *link = fm_proc_link(pid, entry);

        if (link)
            json_object_set_new(survey->namespaces, link, json_true());
    }
}

static void note_mounts(struct fm_survey *survey, pid_t pid)
{
    fm_autofree char *path = fm_strf("/proc/%d/mountinfo", pid);
    fm_autofclose FILE *f = fopen(path, "re");
    fm_autofree char *line = NULL;
    size_t size = 0;

    while (f && getline(&line, &size, f) > 0) {
        line[strcspn(line, " ")] = '\0';
        json_object_set_new(survey->mount_ids, line, json_true());
    }
}

/* One level of each of these is all that CRIU restores; network and mount namespaces may be nested.
 */
static void check_nested(struct fm_survey *survey, pid_t pid, const char *who)
{
    static const char *const kinds[] = {"pid", "user", "ipc", "uts", "time"};

    for (size_t i = 0; i < FM_COUNT(kinds); i++) {
        fm_autofree char *path = fm_strf("/proc/%d/ns/%s", pid, kinds[i]);

        if (!fm_file_exists(path) || fm_proc_same_namespace(pid, survey->root, kinds[i]))
            continue;
        fm_survey_obstacle(
            survey, "nested-namespace", FM_STOPS,
            "stop what made it; a container inside this one can be migrated by itself",
            "%s lives in a nested %s namespace, which CRIU cannot dump", who, kinds[i]);
    }
}

/* The shared ones cannot move: pids would clash, connections would stay. */
static void check_shared_with_host(struct fm_survey *survey)
{
    static const struct {
        const char *kind, *check, *severity, *what;
    } kinds[] = {
        {"net", "host-network", FM_STOPS, "network"},
        {"pid", "host-pid", FM_STOPS, "pid"},
        {"ipc", "host-ipc", FM_MAY_STOP, "IPC"},
    };

    for (size_t i = 0; i < FM_COUNT(kinds); i++) {
        if (!fm_proc_same_namespace(survey->root, 0, kinds[i].kind) &&
            !fm_proc_same_namespace(survey->root, 1, kinds[i].kind))
            continue;
        fm_survey_obstacle(survey, kinds[i].check, kinds[i].severity,
                           "run the container with a namespace of its own",
                           "the container shares the host's %s namespace", kinds[i].what);
    }
}

/* Interfaces that the kernel puts into every new network namespace. */
static bool is_fallback_interface(const char *name)
{
    static const char *const names[] = {"lo",   "tunl0",   "gre0",    "gretap0", "erspan0",
                                        "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"};

    for (size_t i = 0; i < FM_COUNT(names); i++) {
        if (fm_streq(names[i], name))
            return true;
    }
    return false;
}

/* The one interface with the container's address is made anew by the destination; nobody makes
 * others. */
static void check_interfaces(struct fm_survey *survey)
{
    fm_autofree char *path = fm_strf("/proc/%d/net/dev", survey->root);
    fm_autofclose FILE *f = NULL;
    fm_autofree char *line = NULL;
    size_t size = 0;
    size_t expected = survey->container->ip ? 1 : 0;
    size_t found = 0;

    if (fm_proc_same_namespace(survey->root, 0, "net"))
        return;
    f = fopen(path, "re");
    while (f && getline(&line, &size, f) > 0) {
        char *colon = strchr(line, ':');

        if (!colon)
            continue;
        *colon = '\0';
        if (is_fallback_interface(fm_trim(line)) || ++found <= expected)
            continue;
        fm_survey_obstacle(survey, "interface", FM_STOPS,
                           "run it with one network interface, by `fleximigrate run --ip`",
                           "the container's interface '%s' is not managed by FlexiMigrate", line);
    }
}

/* ---- one process ---- */

static void check_tracer(struct fm_survey *survey, pid_t pid, const char *who)
{
    long long tracer = fm_proc_number(pid, "status", "TracerPid", 0);

    if (tracer == 0)
        return;
    fm_survey_obstacle(survey, "traced", FM_STOPS, "end the debugger or tracer",
                       "%s is traced by process %lld, so CRIU cannot", who, tracer);
}

/* Only what is below the container's init is dumped. */
static bool is_below_root(const struct fm_survey *survey, pid_t pid)
{
    for (size_t i = 0; i <= survey->count && fm_survey_has_pid(survey, pid); i++) {
        if (pid == survey->root)
            return true;
        pid = (pid_t)fm_proc_number(pid, "status", "PPid", 0);
    }
    return false;
}

static void check_directory(struct fm_survey *survey, pid_t pid, const char *who)
{
    fm_autofree char *directory = fm_proc_link(pid, "cwd");

    if (!directory || !fm_ends_with(directory, " (deleted)"))
        return;
    fm_survey_obstacle(survey, "deleted-directory", FM_MAY_STOP,
                       "let the program change to a directory that exists",
                       "%s works in a directory that was removed", who);
}

/* ---- mappings ---- */

struct mapping {
    const char *range; /* "7f00-7f01" */
    const char *path;  /* "" for anonymous memory */
};

static bool is_device_mapping(pid_t pid, const struct mapping *mapping)
{
    fm_autofree char *path = NULL;
    struct stat st;

    if (!fm_starts_with(mapping->path, "/dev/") || fm_starts_with(mapping->path, "/dev/zero"))
        return false;
    path = fm_strf("/proc/%d/map_files/%s", pid, mapping->range);
    return stat(path, &st) == 0 && S_ISCHR(st.st_mode);
}

static void check_mapping(struct fm_survey *survey, pid_t pid, const char *who,
                          const struct mapping *mapping)
{
    if (fm_starts_with(mapping->path, "anon_inode:"))
        fm_survey_obstacle(survey, "kernel-mapping", FM_STOPS,
                           "configure the program not to use this kernel interface",
                           "%s has mapped %s, which CRIU cannot dump", who,
                           mapping->path + strlen("anon_inode:"));
    else if (fm_streq(mapping->path, "[uprobes]"))
        fm_survey_obstacle(survey, "uprobes", FM_STOPS, "end the tracing with uprobes",
                           "%s is traced with uprobes", who);
    else if (fm_starts_with(mapping->path, "/secretmem"))
        fm_survey_obstacle(survey, "secret-memory", FM_STOPS,
                           "configure the program not to use memfd_secret",
                           "%s uses secret memory, which nobody else can read", who);
    else if (fm_starts_with(mapping->path, "/SYSV") &&
             fm_proc_same_namespace(survey->root, 0, "ipc"))
        fm_survey_obstacle(survey, "host-ipc-memory", FM_STOPS,
                           "run the container with an IPC namespace of its own",
                           "%s uses System V shared memory of the host", who);
    else if (is_device_mapping(pid, mapping))
        fm_survey_obstacle(
            survey, "device-mapping", FM_STOPS, "configure the program not to use the device",
            "%s has mapped the device %s, which CRIU cannot dump", who, mapping->path);
}

/* proc(5): "start-end perms offset device inode   path" */
static void check_mappings(struct fm_survey *survey, pid_t pid, const char *who)
{
    fm_autofree char *path = fm_strf("/proc/%d/maps", pid);
    fm_autofclose FILE *f = fopen(path, "re");
    fm_autofree char *line = NULL;
    size_t size = 0;

    while (f && getline(&line, &size, f) > 0) {
        int at = 0;

        line[strcspn(line, "\n")] = '\0';
        if (sscanf(line, "%*s %*s %*s %*s %*s %n", &at) < 0 || at == 0 || !line[at])
            continue;
        line[strcspn(line, " ")] = '\0';
        check_mapping(survey, pid, who, &(struct mapping){.range = line, .path = line + at});
    }
}

/* CRIU refuses a queue that is not empty, and forgets an empty one that nobody has open. Where it
 * is mounted elsewhere, the dump says so. */
static void check_message_queues(struct fm_survey *survey)
{
    fm_autofree char *path = fm_strf("/proc/%d/root/dev/mqueue", survey->root);
    fm_autoclosedir DIR *dir = opendir(path);
    const struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        if (entry->d_name[0] != '.')
            fm_survey_obstacle(
                survey, "message-queue", FM_STOPS, "let the program remove it (mq_unlink)",
                "the POSIX message queue /%s exists, which CRIU cannot dump", entry->d_name);
    }
}

/* A mapping that is sealed (mseal, Linux 6.10) is an ordinary one after the restore. */
static void check_seals(struct fm_survey *survey, pid_t pid, const char *who)
{
    fm_autofree char *path = fm_strf("/proc/%d/smaps", pid);
    fm_autofclose FILE *f = fopen(path, "re");
    fm_autofree char *line = NULL;
    size_t size = 0;

    while (f && getline(&line, &size, f) > 0) {
        if (!fm_starts_with(line, "VmFlags:") || !strstr(line, " sl"))
            continue;
        fm_survey_obstacle(survey, "sealed-memory", FM_MAY_STOP,
                           "configure the program not to use mseal, if it relies on it",
                           "%s has sealed memory, which will not be sealed any more", who);
        return;
    }
}

/* Its other threads run on: it is no process that has ended. */
static bool has_lost_its_main_thread(pid_t pid)
{
    fm_autofree char *state = fm_proc_field(pid, "status", "State");

    return state && state[0] == 'Z' && fm_proc_number(pid, "status", "Threads", 0) > 1;
}

static bool is_gone(pid_t pid)
{
    fm_autofree char *state = fm_proc_field(pid, "status", "State");

    return !state || state[0] == 'Z' || state[0] == 'X';
}

static void check_process(struct fm_survey *survey, pid_t pid)
{
    fm_autofree char *who = fm_proc_who(pid);

    if (!is_below_root(survey, pid)) {
        fm_survey_obstacle(survey, "exec", FM_MAY_STOP, "wait until it has ended, or end it",
                           "%s was started into the container from outside and does not move "
                           "with it",
                           who);
        return;
    }
    check_nested(survey, pid, who);
    check_tracer(survey, pid, who);
    check_directory(survey, pid, who);
    check_mappings(survey, pid, who);
    check_seals(survey, pid, who);
    fm_survey_descriptors(survey, pid, who);
}

/* What is found out about a process that ends meanwhile is not true: its namespaces go first. */
static void survey_process(struct fm_survey *survey, pid_t pid)
{
    size_t found = json_array_size(survey->obstacles);

    if (has_lost_its_main_thread(pid)) {
        fm_autofree char *who = fm_proc_who(pid);

        fm_survey_obstacle(survey, "main-thread", FM_STOPS,
                           "let the program's main thread stay until its others have ended",
                           "the main thread of %s has ended before its others, which CRIU cannot "
                           "dump",
                           who);
    }
    if (is_gone(pid))
        return;
    check_process(survey, pid);
    if (!is_gone(pid))
        return;
    while (json_array_size(survey->obstacles) > found)
        json_array_remove(survey->obstacles, found);
}

void fm_survey_processes(struct fm_survey *survey)
{
    for (size_t i = 0; i < survey->count; i++) {
        note_namespaces(survey, survey->pids[i]);
        if (i == 0 || !fm_proc_same_namespace(survey->pids[i], survey->pids[i - 1], "mnt"))
            note_mounts(survey, survey->pids[i]);
    }
    check_shared_with_host(survey);
    check_interfaces(survey);
    check_message_queues(survey);
    for (size_t i = 0; i < survey->count; i++)
        survey_process(survey, survey->pids[i]);
}
