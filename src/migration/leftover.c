#include "migration/leftover.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "base/text.h"

static bool cmdline_names(pid_t pid, const char *dir)
{
    fm_autofree char *path = fm_strf("/proc/%d/cmdline", (int)pid);
    fm_autofree char *data = NULL;
    size_t len = 0;
    if (fm_file_read(path, 1 << 20, &data, &len, NULL) < 0)
        return false;
    return memmem(data, len, dir, strlen(dir)) != NULL;
}

static bool holds_open(pid_t pid, const char *dir)
{
    fm_autofree char *path = fm_strf("/proc/%d/fd", (int)pid);
    fm_autoclosedir DIR *fds = opendir(path);
    size_t len = strlen(dir);
    for (struct dirent *e; fds && (e = readdir(fds));) {
        char target[PATH_MAX];
        ssize_t n = readlinkat(dirfd(fds), e->d_name, target, sizeof(target) - 1);
        if (n > 0 && (size_t)n >= len && strncmp(target, dir, len) == 0)
            return true;
    }
    return false;
}

/* The shim of a restored container has the runtime's command line in its own, and lives as long as
 * the container; a pager is ended by the one who has started it, or started anew. */
static bool is_spared(pid_t pid)
{
    fm_autofree char *path = fm_strf("/proc/%d/comm", (int)pid);
    fm_autofree char *comm = fm_file_line(path);
    return comm && (fm_starts_with(comm, "fleximigrate-sh") || fm_starts_with(comm, "fm-pager"));
}

static bool shares(pid_t pid, const char *kind)
{
    fm_autofree char *path = fm_strf("/proc/%d/ns/%s", (int)pid, kind);
    fm_autofree char *own_path = fm_strf("/proc/self/ns/%s", kind);
    struct stat its, own;
    return stat(path, &its) == 0 && stat(own_path, &own) == 0 && its.st_ino == own.st_ino;
}

/* Where hosts share a machine, as a test's do, `dir` is a directory of each of them. */
static bool is_of_this_host(pid_t pid)
{
    return shares(pid, "mnt") || shares(pid, "net");
}

/* The next process with a trace of `dir`, or 0. */
static pid_t find_one(const char *dir)
{
    fm_autoclosedir DIR *proc = opendir("/proc");
    for (struct dirent *e; proc && (e = readdir(proc));) {
        pid_t pid = (pid_t)atoi(e->d_name);
        if (pid <= 1 || pid == getpid() || is_spared(pid))
            continue;
        if ((cmdline_names(pid, dir) || holds_open(pid, dir)) && is_of_this_host(pid))
            return pid;
    }
    return 0;
}

/* Blocks until the process is gone or the deadline has passed. */
static bool wait_gone(pid_t pid, uint64_t deadline)
{
    fm_autoclose int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0)
        return true;
    uint64_t now = fm_now_ms();
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    return poll(&p, 1, now >= deadline ? 0 : (int)(deadline - now)) > 0;
}

int fm_leftover_end(const char *dir, uint64_t grace_ms, struct fm_error *err)
{
    uint64_t grace = fm_now_ms() + grace_ms;
    uint64_t deadline = grace + 10000;
    for (pid_t pid; (pid = find_one(dir)) != 0;) {
        if (wait_gone(pid, grace))
            continue;
        if (fm_now_ms() >= deadline)
            return fm_error_set(err, FM_E_TIMEOUT,
                                "process %d of an earlier migration does not end", (int)pid);
        kill(pid, SIGKILL);
        wait_gone(pid, deadline);
    }
    return 0;
}
