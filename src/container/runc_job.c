#include "container/runc_job.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "container/mounts.h"

#define LOG_MAX (64u << 20)
#define KILL_WAIT_MS 2000

/* ---- Start ---- */

int fm_runc_job_start(const struct fm_runc_job_spec *spec, struct fm_runtime_job *job,
                      struct fm_error *err)
{
    fm_cleanup(fm_strv_free) struct fm_strv argv = {0};
    fm_autoclose int status_read = -1, status_write = -1;
    int ends[2];
    int ret;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return fm_error_errno(err, errno, "cannot make a pipe");
    status_read = ends[0];
    status_write = ends[1];

    fm_strv_add(&argv, spec->shim);
    fm_strv_addf(&argv, "--status-fd=%d", status_write);
    fm_strv_addf(&argv, "--runtime-log=%s", spec->log);
    if (spec->container_log) {
        fm_strv_addf(&argv, "--log=%s", spec->container_log);
        fm_strv_addf(&argv, "--exit=%s", spec->exit_path);
        fm_strv_addf(&argv, "--pid-file=%s.pid", spec->exit_path);
    }
    fm_strv_add(&argv, "--");
    fm_strv_add_all(&argv, spec->argv);

    struct fm_subprocess_options options = {
        .argv = (const char *const *)argv.items,
        .env = spec->env,
        .cwd = "/",
        .stdin_fd = -1,
        .stdout_fd = -1,
        .stderr_fd = -1,
        .new_session = true,
        .keep_fds = &status_write,
        .keep_fd_count = 1,
    };
    *job = (struct fm_runtime_job){.pidfd = -1};
    ret = fm_subprocess_start(&options, true, &job->pid, NULL, err);
    if (ret < 0)
        return ret;
    job->start_time = fm_process_start_time(job->pid);
    job->pidfd = FM_MOVE_FD(status_read);
    snprintf(job->log, sizeof(job->log), "%s", spec->log);
    return 0;
}

/* ---- Reasons ---- */

char *fm_runc_log_error(const char *text)
{
    fm_autofree char *copy = fm_xstrdup(text ? text : "");
    char *found = NULL;
    char *rest = NULL;

    for (char *line = strtok_r(copy, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        json_auto_t *record = json_loads(line, 0, NULL);
        const char *level = json_string_value(json_object_get(record, "level"));
        const char *msg = json_string_value(json_object_get(record, "msg"));

        if (!msg || (!fm_streq(level, "error") && !fm_streq(level, "fatal")))
            continue;
        free(found);
        found = fm_xstrdup(msg);
    }
    return found;
}

/* "(00.04)   12: Error (criu/mount.c:99): mnt: text" → "mnt: text". */
static const char *criu_message(const char *line)
{
    const char *error = strstr(line, "Error (");
    const char *text = error ? strstr(error, "): ") : NULL;

    return text ? text + 3 : NULL;
}

/* Said by every failed run, or without consequence. */
static bool is_telling(const char *message)
{
    static const char *const noise[] = {
        "rlimit: Can't setup RLIMIT_NOFILE for self",
        "Unable to open the sysfs file system",
        "Restoring FAILED",
        "Dumping FAILED",
    };

    for (size_t i = 0; i < FM_COUNT(noise); i++) {
        if (fm_starts_with(message, noise[i]))
            return false;
    }
    return true;
}

/* The parent's word on a child that has said itself what was wrong. */
static bool is_obituary(const char *message)
{
    return strstr(message, " exited, status=") || strstr(message, " killed by signal ");
}

char *fm_criu_log_error(const char *text)
{
    fm_autofree char *copy = fm_xstrdup(text ? text : "");
    const char *last[2] = {NULL, NULL};
    char *rest = NULL;

    for (char *line = strtok_r(copy, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        const char *message = criu_message(line);

        if (!message || !is_telling(message) || fm_streq(message, last[1]) ||
            (last[1] && is_obituary(message)))
            continue;
        last[0] = last[1];
        last[1] = message;
    }
    if (!last[1])
        return NULL;
    return last[0] ? fm_strf("%s; %s", last[0], last[1]) : fm_xstrdup(last[1]);
}

static char *read_log(const char *path)
{
    char *text = NULL;

    if (fm_file_read(path, LOG_MAX, &text, NULL, NULL) < 0)
        return NULL;
    return text;
}

static char *beside(const char *path, const char *name)
{
    const char *slash = strrchr(path, '/');

    return fm_strf("%.*s/%s", slash ? (int)(slash - path) : 1, slash ? path : ".", name);
}

/* checkpoint, restore or run: the log's name says it. */
static const char *job_verb(const struct fm_runtime_job *job)
{
    if (strstr(job->log, "checkpoint"))
        return "checkpoint";
    return strstr(job->log, "restore") ? "restore" : "run";
}

static int explain_failure(const struct fm_runtime_job *job, int code, struct fm_error *err)
{
    const char *verb = job_verb(job);
    fm_autofree char *criu_path =
        beside(job->log, fm_streq(verb, "checkpoint") ? "dump.log" : "restore.log");
    fm_autofree char *criu_text = fm_streq(verb, "run") ? NULL : read_log(criu_path);
    fm_autofree char *criu_error = fm_criu_log_error(criu_text);
    fm_autofree char *text = read_log(job->log);
    fm_autofree char *error = fm_runc_log_error(text);

    if (criu_error)
        return fm_error_set(err, FM_E_FAILED, "CRIU %s failed: %s (log: %s)",
                            fm_streq(verb, "checkpoint") ? "dump" : "restore", criu_error,
                            criu_path);
    if (error)
        return fm_error_set(err, FM_E_FAILED, "the runtime's %s failed: %s (log: %s)", verb, error,
                            job->log);
    if (code > 128)
        return fm_error_set(err, FM_E_FAILED, "the runtime's %s was killed by signal %d (log: %s)",
                            verb, code - 128, job->log);
    return fm_error_set(err, FM_E_FAILED, "the runtime's %s failed with exit code %d (log: %s)",
                        verb, code, job->log);
}

/* ---- End ---- */

static int read_status(struct fm_runtime_job *job, struct fm_error *err)
{
    char line[512];
    ssize_t n = fm_read_full(job->pidfd, line, sizeof(line) - 1);
    int code;

    close(job->pidfd);
    job->pidfd = -1;
    line[n > 0 ? n : 0] = '\0';
    if (fm_starts_with(line, "error "))
        return fm_error_set(err, FM_E_FAILED, "the container's shim cannot start: %s", line + 6);
    if (sscanf(line, "exit %d", &code) != 1)
        return fm_error_set(err, FM_E_FAILED,
                            "the container's shim (process %d) ended before the runtime's %s did",
                            (int)job->pid, job_verb(job));
    return code == 0 ? 0 : explain_failure(job, code, err);
}

int fm_runc_job_wait(struct fm_runtime_job *job, uint64_t timeout_ms, struct fm_error *err)
{
    uint64_t deadline = fm_now_ms() + timeout_ms;
    struct pollfd p = {.fd = job->pidfd, .events = POLLIN};

    if (job->pidfd < 0)
        return fm_error_set(err, FM_E_FAILED, "the runtime's job has been waited for already");
    for (;;) {
        uint64_t now = fm_now_ms();
        int left = timeout_ms ? (int)(deadline > now ? deadline - now : 0) : -1;
        int n = poll(&p, 1, left);

        if (n > 0)
            return read_status(job, err);
        if (n == 0 && timeout_ms && fm_now_ms() >= deadline)
            return fm_error_set(err, FM_E_TIMEOUT,
                                "the runtime's %s has not ended after %" PRIu64 " ms (log: %s)",
                                job_verb(job), timeout_ms, job->log);
    }
}

/* ---- Death ---- */

struct process {
    pid_t pid, parent;
    char state;
    bool below; /* a descendant of the shim */
};

struct process_list {
    struct process *items;
    size_t count;
};

static void cleanup_processes(struct process_list *list)
{
    free(list->items);
}

static bool read_process(pid_t pid, struct process *process)
{
    fm_autofree char *path = fm_strf("/proc/%d/stat", (int)pid);
    fm_autofree char *line = fm_file_line(path);
    const char *rest = line ? strrchr(line, ')') : NULL;
    int parent;

    if (!rest || sscanf(rest, ") %c %d", &process->state, &parent) != 2)
        return false;
    process->pid = pid;
    process->parent = parent;
    process->below = false;
    return true;
}

static struct process_list read_processes(void)
{
    fm_autoclosedir DIR *proc = opendir("/proc");
    struct process_list list = {0};
    const struct dirent *entry;

    while (proc && (entry = readdir(proc))) {
        struct process process;

        if (!isdigit((unsigned char)entry->d_name[0]) ||
            !read_process((pid_t)atoi(entry->d_name), &process))
            continue;
        list.items = fm_xrealloc(list.items, (list.count + 1) * sizeof(*list.items));
        list.items[list.count++] = process;
    }
    return list;
}

static bool is_below(const struct process_list *list, pid_t pid)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->items[i].pid == pid)
            return list->items[i].below;
    }
    return false;
}

/* A parent may have any number: repeat until nobody is new. */
static void mark_descendants(struct process_list *list, pid_t root)
{
    bool changed = true;

    while (changed) {
        changed = false;
        for (size_t i = 0; i < list->count; i++) {
            struct process *p = &list->items[i];

            if (p->below || (p->parent != root && !is_below(list, p->parent)))
                continue;
            p->below = true;
            changed = true;
        }
    }
}

/* The innermost pid namespace tells a container's task from the programs that made it. */
static ino_t pid_namespace(pid_t pid)
{
    fm_autofree char *path = fm_strf("/proc/%d/ns/pid", (int)pid);
    char target[64];
    ssize_t n = readlink(path, target, sizeof(target) - 1);
    unsigned long inode = 0;

    target[n > 0 ? n : 0] = '\0';
    sscanf(target, "pid:[%lu]", &inode);
    return inode;
}

static bool kill_one(const struct process *p)
{
    fm_autoclose int pidfd = pidfd_open(p->pid, 0);
    struct process now;

    /* The pidfd is of the process that still has this parent: not of a successor of its number. */
    if (pidfd < 0 || !read_process(p->pid, &now) || now.parent != p->parent)
        return false;
    return pidfd_send_signal(pidfd, SIGKILL, NULL, 0) == 0;
}

/* The number of processes that were alive. */
static size_t kill_helpers(const struct fm_runtime_job *job)
{
    fm_cleanup(cleanup_processes) struct process_list list = read_processes();
    ino_t ours = pid_namespace(job->pid);
    size_t alive = 0;

    mark_descendants(&list, job->pid);
    for (size_t i = 0; i < list.count; i++) {
        const struct process *p = &list.items[i];

        if (!p->below || p->state == 'Z' || p->state == 'X' || pid_namespace(p->pid) != ours)
            continue;
        kill_one(p);
        alive++;
    }
    return alive;
}

/* CRIU keeps some mounts in its work directory, which it cannot take down any more. */
static void unmount_leavings(const struct fm_runtime_job *job)
{
    fm_autofree char *dir = beside(job->log, "");

    if (job->log[0] == '/' && strlen(dir) > 1)
        dir[strlen(dir) - 1] = '\0';
    if (job->log[0] == '/')
        fm_unmount_below(dir, NULL);
}

void fm_runc_job_kill(struct fm_runtime_job *job)
{
    uint64_t deadline = fm_now_ms() + KILL_WAIT_MS;
    const struct timespec step = {.tv_nsec = 1000000};

    /* What a killed parent leaves behind comes to the shim, and so is found in the next round. */
    while (fm_process_is(job->pid, job->start_time) && kill_helpers(job) > 0 &&
           fm_now_ms() < deadline)
        nanosleep(&step, NULL);
    unmount_leavings(job);
}
