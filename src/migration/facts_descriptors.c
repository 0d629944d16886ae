#include "migration/facts.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"

#define UNLINKED_FILE_MAX (512u << 20) /* what a checkpoint may hold of one */

/* One open descriptor. */
struct descriptor {
    pid_t pid;
    const char *who;
    int fd;
    const char *target; /* of the link in /proc/PID/fd */
};

/* ---- anonymous kernel objects ---- */

/* What CRIU 4.1 restores (documentation of CRIU, "What can be checkpointed"). */
static bool is_dumpable_object(const char *name)
{
    static const char *const names[] = {"[eventfd",   "[eventpoll]", "inotify",
                                        "[fanotify]", "[signalfd]",  "[timerfd]"};

    for (size_t i = 0; i < FM_COUNT(names); i++) {
        if (fm_starts_with(name, names[i]))
            return true;
    }
    return false;
}

static const struct object {
    const char *name, *check, *what, *cure;
} objects[] = {
    {"[io_uring]", "io-uring", "an io_uring",
     "switch io_uring off in the program's settings, or forbid it by a seccomp profile"},
    {"[userfaultfd]", "userfaultfd", "a userfaultfd",
     "configure the program not to use userfaultfd"},
    {"[perf_event]", "perf-event", "a performance counter", "end the profiler"},
    {"bpf-prog", "bpf", "a loaded BPF program", "unload the BPF program"},
    {"bpf_link", "bpf", "an attached BPF program", "unload the BPF program"},
    {"bpf-link", "bpf", "an attached BPF program", "unload the BPF program"},
    {"btf", "bpf", "BPF type information", "unload the BPF program"},
    {"kvm-", "kvm", "a virtual machine", "migrate the virtual machine with its own tools"},
    {"seccomp notify", "seccomp-notify", "a seccomp listener",
     "run its clients without a seccomp supervisor"},
    {"[landlock-ruleset]", "landlock", "an open Landlock ruleset",
     "wait until the program has applied it"},
};

/* Hash and array maps are dumped when CRIU was built with libbpf; others never. */
static void check_bpf_map(struct fm_survey *survey, const struct descriptor *d, const char *info)
{
    long long type = fm_proc_number(d->pid, info, "map_type", 0);

    fm_survey_obstacle(
        survey, "bpf-map", type == 1 || type == 2 ? FM_MAY_STOP : FM_STOPS,
        "let the program close its BPF maps", "%s holds a BPF map of type %lld, which CRIU %s",
        d->who, type, type == 1 || type == 2 ? "dumps only when built with libbpf" : "cannot dump");
}

static void check_pidfd(struct fm_survey *survey, const struct descriptor *d, const char *info)
{
    long long pid = fm_proc_number(d->pid, info, "Pid", -1);

    if (pid < 0 || fm_survey_has_pid(survey, (pid_t)pid))
        return;
    fm_survey_obstacle(survey, "pidfd", FM_STOPS, "let the program close it",
                       "%s holds a pidfd of process %lld, which is not in the container", d->who,
                       pid);
}

static void check_object(struct fm_survey *survey, const struct descriptor *d)
{
    const char *name = d->target + strlen("anon_inode:");
    fm_autofree char *info = fm_strf("fdinfo/%d", d->fd);

    if (is_dumpable_object(name))
        return;
    if (fm_starts_with(name, "[pidfd]")) {
        check_pidfd(survey, d, info);
        return;
    }
    if (fm_streq(name, "bpf-map")) {
        check_bpf_map(survey, d, info);
        return;
    }
    for (size_t i = 0; i < FM_COUNT(objects); i++) {
        if (!fm_starts_with(name, objects[i].name))
            continue;
        fm_survey_obstacle(survey, objects[i].check, FM_STOPS, objects[i].cure,
                           "%s uses %s, which CRIU cannot dump", d->who, objects[i].what);
        return;
    }
    fm_survey_obstacle(survey, "kernel-object", FM_MAY_STOP,
                       "configure the program not to use this kernel interface",
                       "%s holds the kernel object %s, which CRIU probably cannot dump", d->who,
                       name);
}

/* ---- sockets ---- */

static bool is_one_of(const char *name, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (fm_streq(names[i], name))
            return true;
    }
    return false;
}

/* Protocol names as the kernel's struct proto has them. */
static bool is_dumpable_protocol(const char *protocol)
{
    static const char *const names[] = {
        "TCP",  "TCPv6",  "UDP",    "UDPv6", "UDP-Lite",    "UDPLITEv6",  "RAW",     "RAWv6",
        "PING", "PINGv6", "PACKET", "UNIX",  "UNIX-STREAM", "UNIX-DGRAM", "NETLINK",
    };

    return is_one_of(protocol, names, FM_COUNT(names));
}

static const char *protocol_cure(const char *protocol)
{
    if (fm_starts_with(protocol, "MPTCP"))
        return "switch Multipath TCP off; for Go programs set GODEBUG=multipathtcp=0";
    return "configure the program to use TCP, UDP or Unix sockets";
}

static void note_socket(json_t *set, const char *target)
{
    fm_autofree char *inode = fm_xstrdup(target + strlen("socket:["));

    inode[strcspn(inode, "]")] = '\0';
    json_object_set_new(set, inode, json_true());
}

/* The kernel tells the protocol of any socket as an extended attribute of its inode: nothing is
 * opened for it. */
static void check_socket(struct fm_survey *survey, const struct descriptor *d)
{
    fm_autofree char *path = fm_strf("/proc/%d/fd/%d", d->pid, d->fd);
    char protocol[64] = "";

    if (getxattr(path, "system.sockprotoname", protocol, sizeof(protocol) - 1) <= 0)
        return;
    if (fm_starts_with(protocol, "UNIX"))
        note_socket(survey->unix_sockets, d->target);
    else if (fm_streq(protocol, "NETLINK"))
        note_socket(survey->netlink_sockets, d->target);
    if (!is_dumpable_protocol(protocol))
        fm_survey_obstacle(survey, "socket", FM_STOPS, protocol_cure(protocol),
                           "%s has a socket of the protocol %s, which CRIU cannot dump", d->who,
                           protocol);
}

/* ---- files ---- */

static const char *stdio_name(int fd)
{
    static const char *const names[] = {"standard input", "standard output", "standard error"};

    return fd < 3 ? names[fd] : NULL;
}

/* Every file must be reachable through a mount of the container, or the restore could not open it.
 */
static void check_mount(struct fm_survey *survey, const struct descriptor *d)
{
    fm_autofree char *info = fm_strf("fdinfo/%d", d->fd);
    fm_autofree char *mount = fm_proc_field(d->pid, info, "mnt_id");
    const char *stdio = stdio_name(d->fd);

    if (!mount || json_object_get(survey->mount_ids, mount))
        return;
    if (stdio)
        fm_survey_obstacle(
            survey, "external-stdio", FM_STOPS,
            "start the container with pipes or /dev/null, as `fleximigrate run` does",
            "the %s of %s is %s of the host, outside the container", stdio, d->who, d->target);
    else
        fm_survey_obstacle(survey, "external-file", FM_STOPS, "let the program close it",
                           "%s has %s of the host open (descriptor %d), outside the container",
                           d->who, d->target, d->fd);
}

/* Device numbers: Documentation/admin-guide/devices.txt of the kernel. */
static bool is_dumpable_device(dev_t device)
{
    enum { MEMORY = 1, TTY = 4, CONSOLE = 5, MISC = 10, PTY_FIRST = 128, PTY_LAST = 143 };
    enum { MISC_TUN = 200, MISC_AUTOFS = 235 };
    unsigned int number = major(device);

    if (number == MISC)
        return minor(device) == MISC_TUN || minor(device) == MISC_AUTOFS;
    return number == MEMORY || number == TTY || number == CONSOLE ||
           (number >= PTY_FIRST && number <= PTY_LAST);
}

/* Such a file exists nowhere but in the checkpoint, and its size there is limited. */
static void check_unlinked(struct fm_survey *survey, const struct descriptor *d,
                           const struct stat *st)
{
    char size[32];

    if (!S_ISREG(st->st_mode) || st->st_nlink > 0 ||
        (uint64_t)st->st_blocks * 512 <= UNLINKED_FILE_MAX)
        return;
    fm_survey_obstacle(survey, "unlinked-file", FM_STOPS, "let the program close it",
                       "%s has a removed file of %s open (descriptor %d), too large for a "
                       "checkpoint",
                       d->who, fm_format_size((uint64_t)st->st_blocks * 512, size, sizeof(size)),
                       d->fd);
}

/* CRIU would have to give it that name again, in the container's own files and before their eyes.
 */
static void check_lost_name(struct fm_survey *survey, const struct descriptor *d,
                            const struct stat *st)
{
    size_t len = strlen(d->target) - strlen(" (deleted)");

    if (S_ISREG(st->st_mode) && st->st_nlink > 0 && fm_ends_with(d->target, " (deleted)"))
        fm_survey_obstacle(survey, "lost-name", FM_STOPS,
                           "let the program close it, and open it by a name that it has",
                           "%s has a file open (descriptor %d) whose name %.*s was removed, and "
                           "which has others",
                           d->who, d->fd, (int)len, d->target);
}

static void check_file(struct fm_survey *survey, const struct descriptor *d)
{
    fm_autofree char *path = fm_strf("/proc/%d/fd/%d", d->pid, d->fd);
    struct stat st;

    if (stat(path, &st) < 0)
        return;
    if (S_ISBLK(st.st_mode) || (S_ISCHR(st.st_mode) && !is_dumpable_device(st.st_rdev)))
        fm_survey_obstacle(survey, "device", FM_STOPS,
                           "configure the program not to use the device",
                           "%s has the device %s open, which CRIU cannot dump", d->who, d->target);
    else
        check_mount(survey, d);
    check_unlinked(survey, d, &st);
    check_lost_name(survey, d, &st);
}

/* "net:[4026531840]" */
static bool is_namespace(const char *target)
{
    static const char *const kinds[] = {"mnt:[", "net:[",  "pid:[",  "ipc:[",
                                        "uts:[", "user:[", "time:[", "cgroup:["};

    for (size_t i = 0; i < FM_COUNT(kinds); i++) {
        if (fm_starts_with(target, kinds[i]))
            return true;
    }
    return false;
}

static void check_namespace(struct fm_survey *survey, const struct descriptor *d)
{
    if (json_object_get(survey->namespaces, d->target))
        return;
    fm_survey_obstacle(survey, "external-namespace", FM_STOPS, "let the program close it",
                       "%s holds the namespace %s, in which no process of the container lives",
                       d->who, d->target);
}

/* ---- all of a process ---- */

static void check_descriptor(struct fm_survey *survey, const struct descriptor *d)
{
    if (fm_starts_with(d->target, "anon_inode:"))
        check_object(survey, d);
    else if (fm_starts_with(d->target, "socket:["))
        check_socket(survey, d);
    else if (is_namespace(d->target))
        check_namespace(survey, d);
    else if (fm_starts_with(d->target, "/secretmem"))
        fm_survey_obstacle(survey, "secret-memory", FM_STOPS,
                           "configure the program not to use memfd_secret",
                           "%s uses secret memory, which nobody else can read", d->who);
    else if (d->target[0] == '/' && !fm_starts_with(d->target, "/memfd:"))
        check_file(survey, d);
}

void fm_survey_descriptors(struct fm_survey *survey, pid_t pid, const char *who)
{
    fm_autofree char *path = fm_strf("/proc/%d/fd", pid);
    fm_autoclosedir DIR *dir = opendir(path);
    struct dirent *entry;

    if (!dir) {
        if (errno != ENOENT && errno != ESRCH)
            fm_survey_obstacle(survey, "not-readable", FM_MAY_STOP, "run the daemon as root",
                               "cannot look into %s: %s", who, strerror(errno));
        return;
    }
    while ((entry = readdir(dir))) {
        fm_autofree char *link = fm_strf("fd/%s", entry->d_name);
        fm_autofree char *target = entry->d_name[0] == '.' ? NULL : fm_proc_link(pid, link);

        if (target)
            check_descriptor(
                survey, &(struct descriptor){
                            .pid = pid, .who = who, .fd = atoi(entry->d_name), .target = target});
    }
}
