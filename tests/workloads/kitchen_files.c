/* Open files, locks, pending signals, and what a process is: ids, directory, umask, name. */
#include "kitchen_sink.h"
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define UNLINKED_SIZE (64 * 1024)
#define UNLINKED_OFFSET 12345
#define QUEUED_SIGNAL (SIGRTMIN + 5)
#define QUEUED 3

static int open_new(const char *path, int flags)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_TRUNC | flags, 0644);

    if (fd < 0)
        wl_die("%s: %s", path, strerror(errno));
    return fd;
}

/* ---- an unlinked open file ------------------------------------------------------------------ */

static int unlinked_fd;
static uint64_t unlinked_version;

static void unlinked_fill(uint64_t *words, uint64_t version)
{
    for (uint64_t i = 0; i < UNLINKED_SIZE / sizeof(*words); i++)
        words[i] = wl_mix(i ^ (i < 512 ? version << 32 : 0));
}

/* The first page changes with every tick, the rest stays. */
static void unlinked_tick(void)
{
    static uint64_t words[UNLINKED_SIZE / sizeof(uint64_t)];

    unlinked_fill(words, ++unlinked_version);
    if (pwrite(unlinked_fd, words, 4096, 0) != 4096)
        sink_fail("unlinked: write: %s", strerror(errno));
}

static void unlinked_start(void)
{
    static uint64_t words[UNLINKED_SIZE / sizeof(uint64_t)];
    char *path = sink_path("unlinked");

    unlinked_fd = open_new(path, 0);
    unlinked_fill(words, 0);
    if (pwrite(unlinked_fd, words, sizeof(words), 0) != (ssize_t)sizeof(words) || unlink(path))
        wl_die("%s: %s", path, strerror(errno));
    lseek(unlinked_fd, UNLINKED_OFFSET, SEEK_SET);
    free(path);
}

static void unlinked_verify(void)
{
    static uint64_t words[UNLINKED_SIZE / sizeof(uint64_t)], read_words[sizeof(words) / 8];
    struct stat status;

    unlinked_fill(words, unlinked_version);
    if (pread(unlinked_fd, read_words, sizeof(words), 0) != (ssize_t)sizeof(words) ||
        memcmp(words, read_words, sizeof(words)) != 0)
        sink_fail("unlinked: content differs");
    if (lseek(unlinked_fd, 0, SEEK_CUR) != UNLINKED_OFFSET)
        sink_fail("unlinked: the offset differs");
    if (fstat(unlinked_fd, &status) || status.st_nlink)
        sink_fail("unlinked: it has a name again");
}

static void unlinked_corrupt(void)
{
    if (pwrite(unlinked_fd, "x", 1, UNLINKED_SIZE - 1) != 1)
        perror("unlinked");
}

const struct subject subject_unlinked = {.name = "unlinked",
                                         .start = unlinked_start,
                                         .tick = unlinked_tick,
                                         .verify = unlinked_verify,
                                         .corrupt = unlinked_corrupt};

/* ---- a file that grows: the writable layer must come along ---------------------------------- */

static int append_fd;
static uint64_t appended;

static void append_start(void)
{
    char *path = sink_path("append");

    append_fd = open_new(path, O_APPEND);
    free(path);
}

static void append_tick(void)
{
    if (write(append_fd, &appended, sizeof(appended)) != (ssize_t)sizeof(appended))
        sink_fail("append: write: %s", strerror(errno));
    appended++;
}

static void append_verify(void)
{
    char *path = sink_path("append");
    FILE *in = fopen(path, "re");
    uint64_t value, expected = 0;

    while (in && fread(&value, sizeof(value), 1, in) == 1 && value == expected)
        expected++;
    if (!in || !feof(in) || expected != appended)
        sink_fail("append: %s holds %" PRIu64 " good records of %" PRIu64, path, expected,
                  appended);
    if (in)
        fclose(in);
    free(path);
}

static uint64_t append_progress(void)
{
    return appended;
}

static void append_corrupt(void)
{
    if (ftruncate(append_fd, 4))
        perror("append");
}

const struct subject subject_append = {.name = "append",
                                       .start = append_start,
                                       .tick = append_tick,
                                       .verify = append_verify,
                                       .progress = append_progress,
                                       .corrupt = append_corrupt};

/* ---- locks; the checker, another process, tries them ---------------------------------------- */

static char *flock_path, *fcntl_path;
static int flock_fd, fcntl_fd;

const char *locks_flock_path(void)
{
    return flock_path;
}

const char *locks_fcntl_path(void)
{
    return fcntl_path;
}

static void locks_start(void)
{
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10};

    flock_path = sink_path("flock");
    fcntl_path = sink_path("fcntl");
    flock_fd = open_new(flock_path, 0);
    fcntl_fd = open_new(fcntl_path, 0);
    if (flock(flock_fd, LOCK_EX | LOCK_NB) || fcntl(fcntl_fd, F_SETLK, &range))
        wl_die("cannot lock in %s: %s", sink_options.dir, strerror(errno));
}

static void locks_corrupt(void)
{
    flock(flock_fd, LOCK_UN);
}

const struct subject subject_locks = {
    .name = "locks", .start = locks_start, .corrupt = locks_corrupt};

/* ---- blocked signals that stay pending, with their values ----------------------------------- */

static void signals_send(void)
{
    raise(SIGUSR1);
    for (int i = 1; i <= QUEUED; i++)
        sigqueue(getpid(), QUEUED_SIGNAL, (union sigval){.sival_int = i});
}

static void signals_start(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, QUEUED_SIGNAL);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signals_send();
}

static int take_signal(int number, siginfo_t *info)
{
    struct timespec no_wait = {0};
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, number);
    return sigtimedwait(&set, info, &no_wait);
}

static void signals_verify(void)
{
    sigset_t blocked;
    siginfo_t info;

    sigprocmask(SIG_SETMASK, NULL, &blocked);
    if (!sigismember(&blocked, SIGUSR2) || sigismember(&blocked, SIGHUP))
        sink_fail("signals: the mask differs");
    if (take_signal(SIGUSR2, &info) > 0)
        sink_fail("signals: SIGUSR2 from nowhere");
    if (take_signal(SIGUSR1, &info) < 0)
        sink_fail("signals: the pending SIGUSR1 is gone");
    for (int i = 1; i <= QUEUED; i++) {
        if (take_signal(QUEUED_SIGNAL, &info) < 0 || info.si_value.sival_int != i ||
            info.si_pid != getpid())
            sink_fail("signals: queued signal %d is gone or changed", i);
    }
    if (take_signal(QUEUED_SIGNAL, &info) > 0)
        sink_fail("signals: one queued signal too many");
    signals_send();
}

static void signals_corrupt(void)
{
    siginfo_t info;

    take_signal(QUEUED_SIGNAL, &info);
}

const struct subject subject_signals = {.name = "signals",
                                        .start = signals_start,
                                        .verify = signals_verify,
                                        .corrupt = signals_corrupt};

/* ---- what the process is -------------------------------------------------------------------- */

struct self {
    pid_t pid, parent, group, session;
    uid_t user;
    gid_t team;
    mode_t mask;
    int nice;
    char directory[4096];
    char name[16];
};

static struct self self;

static void self_read(struct self *out)
{
    memset(out, 0, sizeof(*out));
    out->pid = getpid();
    out->parent = getppid();
    out->group = getpgrp();
    out->session = getsid(0);
    out->user = geteuid();
    out->team = getegid();
    out->mask = umask(0);
    umask(out->mask);
    out->nice = nice(0);
    prctl(PR_GET_NAME, out->name);
    if (!getcwd(out->directory, sizeof(out->directory)))
        sink_fail("self: getcwd: %s", strerror(errno));
}

static void self_start(void)
{
    umask(027);
    prctl(PR_SET_NAME, "kitchen-sink");
    if (chdir(sink_options.dir))
        wl_die("%s: %s", sink_options.dir, strerror(errno));
    self_read(&self);
}

static void self_verify(void)
{
    struct self now;

    self_read(&now);
    now.parent = self.parent; /* outside the container: may change */
    if (memcmp(&now, &self, sizeof(now)) != 0)
        sink_fail("self: pid, session, user, umask, nice, directory or name changed");
}

static void self_corrupt(void)
{
    umask(0);
}

const struct subject subject_self = {
    .name = "self", .start = self_start, .verify = self_verify, .corrupt = self_corrupt};
