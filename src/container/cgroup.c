#include "container/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"

#define MAX_DEPTH 32
#define KILL_FREEZE_MS 1000
#define KILL_ROUNDS 100

void fm_cgroup_clear(struct fm_cgroup *cg)
{
    fm_strv_free(&cg->dirs);
}

/* ---- Finding ---- */

/* Field 5 of a mountinfo line is the mount point; the type follows " - ". */
static char *cgroup_mount_point(const char *line)
{
    const char *type = strstr(line, " - ");
    char point[1024];

    if (!type || !fm_starts_with(type + 3, "cgroup"))
        return NULL;
    if (sscanf(line, "%*s %*s %*s %*s %1023s", point) != 1)
        return NULL;
    return fm_xstrdup(point);
}

int fm_cgroup_find(const char *path, struct fm_cgroup *cg, struct fm_error *err)
{
    fm_autofclose FILE *mounts = fopen("/proc/self/mountinfo", "re");
    fm_autofree char *line = NULL;
    size_t size = 0;

    *cg = (struct fm_cgroup){0};
    if (!mounts)
        return fm_error_errno(err, errno, "cannot read /proc/self/mountinfo");
    while (getline(&line, &size, mounts) > 0) {
        fm_autofree char *point = cgroup_mount_point(line);
        fm_autofree char *dir = point ? fm_strf("%s%s", point, path) : NULL;

        if (dir && fm_file_exists(dir))
            fm_strv_add(&cg->dirs, dir);
    }
    return 0;
}

/* ---- Processes ---- */

struct pid_list {
    pid_t *items;
    size_t count;
};

static bool has_pid(const struct pid_list *list, pid_t pid)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->items[i] == pid)
            return true;
    }
    return false;
}

static void add_pid(struct pid_list *list, pid_t pid)
{
    if (has_pid(list, pid))
        return;
    list->items = fm_xrealloc(list->items, (list->count + 1) * sizeof(*list->items));
    list->items[list->count++] = pid;
}

static void read_procs(const char *dir, struct pid_list *list)
{
    fm_autofree char *path = fm_strf("%s/cgroup.procs", dir);
    fm_autofclose FILE *procs = fopen(path, "re");
    int pid;

    /* 0 stands for a process outside of our pid namespace. */
    while (procs && fscanf(procs, "%d", &pid) == 1) {
        if (pid > 0)
            add_pid(list, pid);
    }
}

typedef void (*dir_fn)(const char *dir, void *ctx);

/* Calls fn for the directories below and then for `dir` itself. */
static void walk(const char *dir, int depth, dir_fn fn, void *ctx)
{
    fm_autoclosedir DIR *d = opendir(dir);
    const struct dirent *entry;

    while (d && depth < MAX_DEPTH && (entry = readdir(d))) {
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.') {
            fm_autofree char *child = fm_strf("%s/%s", dir, entry->d_name);

            walk(child, depth + 1, fn, ctx);
        }
    }
    fn(dir, ctx);
}

static void collect_procs(const char *dir, void *ctx)
{
    read_procs(dir, ctx);
}

static struct pid_list processes_in(const char *dir)
{
    struct pid_list list = {0};

    walk(dir, 0, collect_procs, &list);
    return list;
}

static bool has_file(const char *dir, const char *name)
{
    fm_autofree char *path = fm_strf("%s/%s", dir, name);

    return fm_file_exists(path);
}

static const char *dir_with(const struct fm_cgroup *cg, const char *name)
{
    for (size_t i = 0; i < cg->dirs.count; i++) {
        if (has_file(cg->dirs.items[i], name))
            return cg->dirs.items[i];
    }
    return NULL;
}

static bool is_populated(const char *dir)
{
    struct pid_list list = processes_in(dir);

    free(list.items);
    return list.count > 0;
}

int fm_cgroup_processes(const struct fm_cgroup *cg, pid_t **pids, size_t *count,
                        struct fm_error *err)
{
    struct pid_list list = {0};

    if (cg->dirs.count == 0)
        return fm_error_set(err, FM_E_NOT_FOUND, "the container has no cgroup");
    for (size_t i = 0; i < cg->dirs.count; i++)
        walk(cg->dirs.items[i], 0, collect_procs, &list);
    *pids = list.items;
    *count = list.count;
    return 0;
}

/* ---- Freezing ---- */

static void pause_briefly(void)
{
    struct timespec t = {.tv_nsec = 200000};

    nanosleep(&t, NULL);
}

static int poke(const char *dir, const char *name, const char *text, struct fm_error *err)
{
    fm_autofree char *path = fm_strf("%s/%s", dir, name);

    return fm_file_poke(path, text, err);
}

static bool v1_is(const char *dir, const char *want)
{
    fm_autofree char *path = fm_strf("%s/freezer.state", dir);
    fm_autofree char *state = fm_file_line(path);

    return fm_streq(state, want);
}

static bool v2_is(const char *dir, const char *want)
{
    fm_autofree char *path = fm_strf("%s/cgroup.events", dir);
    fm_autofree char *events = NULL;

    return fm_file_read(path, 4096, &events, NULL, NULL) == 0 && strstr(events, want);
}

struct freezer {
    const char *dir;
    const char *file;
    const char *word[2]; /* thawed, frozen: what is written */
    const char *seen[2]; /* and what is read when it is so */
    bool (*is)(const char *dir, const char *want);
};

static struct freezer v1_freezer(const char *dir)
{
    return (struct freezer){
        dir, "freezer.state", {"THAWED", "FROZEN"}, {"THAWED", "FROZEN"}, v1_is,
    };
}

static struct freezer v2_freezer(const char *dir)
{
    return (struct freezer){
        dir, "cgroup.freeze", {"0", "1"}, {"frozen 0", "frozen 1"}, v2_is,
    };
}

/* Neither freezer tells v1 readers of a change, so the state is read again until it is there. */
static int set_freezer(const struct freezer *f, bool frozen, uint64_t timeout_ms,
                       struct fm_error *err)
{
    uint64_t deadline = fm_now_ms() + timeout_ms;
    int ret = poke(f->dir, f->file, f->word[frozen], err);

    while (ret == 0 && !f->is(f->dir, f->seen[frozen])) {
        if (fm_now_ms() >= deadline)
            return fm_error_set(
                err, FM_E_TIMEOUT,
                "cgroup '%s' is not %s after %llu ms: a process hangs in the kernel", f->dir,
                frozen ? "frozen" : "thawed", (unsigned long long)timeout_ms);
        pause_briefly();
        /* v1 may stay in FREEZING until it is told again. */
        if (f->is == v1_is)
            ret = poke(f->dir, f->file, f->word[frozen], err);
    }
    return ret;
}

/* Whichever was used to freeze, both are thawed. */
static int thaw(const char *v1, const char *v2, uint64_t timeout_ms, struct fm_error *err)
{
    int ret = 0;

    if (v2) {
        struct freezer f = v2_freezer(v2);

        ret = set_freezer(&f, false, timeout_ms, err);
    }
    if (v1) {
        struct freezer f = v1_freezer(v1);
        int last = set_freezer(&f, false, timeout_ms, err);

        ret = ret < 0 ? ret : last;
    }
    return ret;
}

/* Whatever led here: we must not stop ourselves, nor the host with us. */
static int check_not_ours(const struct fm_cgroup *cg, struct fm_error *err)
{
    for (size_t i = 0; i < cg->dirs.count; i++) {
        struct pid_list list = processes_in(cg->dirs.items[i]);
        bool ours = has_pid(&list, getpid());

        free(list.items);
        if (ours)
            return fm_error_set(err, FM_E_REFUSED,
                                "cgroup '%s' is not of the container alone: this program is in it",
                                cg->dirs.items[i]);
    }
    return 0;
}

int fm_cgroup_freeze(const struct fm_cgroup *cg, bool frozen, uint64_t timeout_ms,
                     struct fm_error *err)
{
    const char *v1 = dir_with(cg, "freezer.state");
    const char *v2 = dir_with(cg, "cgroup.freeze");
    struct freezer f;

    if (frozen && check_not_ours(cg, err) < 0)
        return -FM_E_REFUSED;
    if (!v1 && !v2)
        return fm_error_set(err, FM_E_NOT_FOUND, "the container has no cgroup that can be frozen");
    if (!frozen)
        return thaw(v1, v2, timeout_ms, err);
    f = v1 && (!v2 || is_populated(v1) || !is_populated(v2)) ? v1_freezer(v1) : v2_freezer(v2);
    return set_freezer(&f, true, timeout_ms, err);
}

/* ---- Killing and removing ---- */

static void kill_list(const struct pid_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        fm_autoclose int pidfd = pidfd_open(list->items[i], 0);

        if (pidfd >= 0)
            pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
    }
}

/* Without cgroup.kill, what could not be frozen may fork meanwhile: look again until nobody is new.
 */
static void kill_by_pid(const char *dir)
{
    size_t before = 0;

    for (int round = 0; round < KILL_ROUNDS; round++) {
        struct pid_list list = processes_in(dir);

        kill_list(&list);
        free(list.items);
        if (list.count <= before)
            return;
        before = list.count;
    }
}

int fm_cgroup_kill(const struct fm_cgroup *cg, struct fm_error *err)
{
    const char *v1 = dir_with(cg, "freezer.state");
    const char *v2 = dir_with(cg, "cgroup.freeze");

    if (check_not_ours(cg, err) < 0)
        return -FM_E_REFUSED;
    if (v1 || v2)
        fm_cgroup_freeze(cg, true, KILL_FREEZE_MS, NULL);
    for (size_t i = 0; i < cg->dirs.count; i++) {
        const char *dir = cg->dirs.items[i];

        if (!has_file(dir, "cgroup.kill") || poke(dir, "cgroup.kill", "1", NULL) < 0)
            kill_by_pid(dir);
    }
    if (v1 || v2)
        return thaw(v1, v2, KILL_FREEZE_MS, err);
    return 0;
}

struct removal {
    uint64_t deadline;
    char busy[512];
    int failure;
};

static void remove_dir(const char *dir, void *ctx)
{
    struct removal *r = ctx;

    while (rmdir(dir) < 0 && errno != ENOENT) {
        if (errno != EBUSY || fm_now_ms() >= r->deadline) {
            r->failure = errno;
            snprintf(r->busy, sizeof(r->busy), "%s", dir);
            return;
        }
        pause_briefly();
    }
}

int fm_cgroup_remove(const struct fm_cgroup *cg, uint64_t timeout_ms, struct fm_error *err)
{
    struct removal r = {.deadline = fm_now_ms() + timeout_ms};

    for (size_t i = 0; i < cg->dirs.count; i++)
        walk(cg->dirs.items[i], 0, remove_dir, &r);
    if (r.failure)
        return fm_error_errno(err, r.failure, "cannot remove the cgroup '%s'", r.busy);
    return 0;
}
