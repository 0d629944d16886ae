/* fleximigrate-shim: stands behind one container, so that the daemon may die without hurting it.
 *
 *   fleximigrate-shim [--status-fd N] --runtime-log F [--log F --exit F [--pid-file F]] -- PROGRAM
 * ARG…
 *
 * Runs PROGRAM (an OCI runtime that starts a container and leaves), tells its exit status on the
 * status descriptor as "exit N\n", then stays for as long as the container lives: it appends the
 * container's stdout and stderr to the log, reaps what is left to it, and writes the exit status of
 * the container's init. Without --log it only runs PROGRAM. Libc only, and no thread: it lives as
 * often as there are containers. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"

#define HOLD_SIZE 65536

struct shim {
    const char *pid_file;
    int status_fd;
    int runtime_log;
    int log;      /* -1 without a container */
    int exit_dir; /* a directory that was replaced meanwhile does not get our file */
    char exit_name[NAME_MAX + 1];
    int pipe; /* read end of the container's stdout and stderr, -1 at its end */
    int signals;
    sigset_t old_mask;
    pid_t runtime; /* 0 once it has ended */
    pid_t init;    /* from the pid file, 0: unknown */
    bool init_ended;
    /* What came before the runtime ended: its own error message when it fails, the container's
     * first words when it does not. */
    char held[HOLD_SIZE];
    size_t held_len;
    bool holding;
};

static int code_of(const siginfo_t *info)
{
    return info->si_code == CLD_EXITED ? info->si_status : 128 + info->si_status;
}

static void write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* a full disk must not stop the container */
        data += n;
        len -= (size_t)n;
    }
}

/* ---- Output ---- */

static void release_held(struct shim *s, int fd)
{
    write_all(fd, s->held, s->held_len);
    s->held_len = 0;
    s->holding = false;
}

/* True while there may be more at once. */
static bool copy_output(struct shim *s)
{
    char buf[HOLD_SIZE];
    ssize_t n = read(s->pipe, buf, sizeof(buf));

    if (n < 0)
        return errno == EINTR;
    if (n == 0) {
        close(s->pipe);
        s->pipe = -1;
        return false;
    }
    if (s->holding && s->held_len + (size_t)n > sizeof(s->held))
        release_held(s, s->log);
    if (s->holding) {
        memcpy(s->held + s->held_len, buf, (size_t)n);
        s->held_len += (size_t)n;
    } else {
        write_all(s->log, buf, (size_t)n);
    }
    return true;
}

static void drain_output(struct shim *s)
{
    while (s->pipe >= 0 && copy_output(s))
        ;
}

/* ---- Children ---- */

/* Numbers in the NSpid line of /proc/PID/status, and the last of them. */
static int pid_levels(pid_t pid, int *innermost)
{
    char path[64], line[256];
    int levels = 0;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    fm_autofclose FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f)) {
        char *rest = NULL;

        if (strncmp(line, "NSpid:", 6) != 0)
            continue;
        for (char *w = strtok_r(line + 6, " \t\n", &rest); w; w = strtok_r(NULL, " \t\n", &rest)) {
            *innermost = atoi(w);
            levels++;
        }
    }
    return levels;
}

/* Still a zombie: its pids can be read. */
static bool is_init(const struct shim *s, pid_t pid)
{
    int mine = 0, its = 0;
    int levels = pid_levels(pid, &its);

    return pid == s->init || (its == 1 && levels > pid_levels(getpid(), &mine));
}

static void read_pid_file(struct shim *s)
{
    fm_autofclose FILE *f = s->pid_file ? fopen(s->pid_file, "re") : NULL;
    int pid;

    if (f && fscanf(f, "%d", &pid) == 1 && pid > 1)
        s->init = pid;
}

static void runtime_ended(struct shim *s, const siginfo_t *info)
{
    char line[32];
    int len = snprintf(line, sizeof(line), "exit %d\n", code_of(info));
    bool failed = info->si_code == CLD_EXITED && info->si_status != 0;

    s->runtime = 0;
    if (s->log >= 0) {
        drain_output(s);
        release_held(s, failed ? s->runtime_log : s->log);
        read_pid_file(s);
    }
    if (s->status_fd >= 0) {
        write_all(s->status_fd, line, (size_t)len);
        close(s->status_fd);
        s->status_fd = -1;
    }
}

static void write_exit(const struct shim *s, int code)
{
    static const char temporary[] = ".exit.new";
    char line[32];
    int len = snprintf(line, sizeof(line), "%d\n", code);
    fm_autoclose int fd =
        openat(s->exit_dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);

    if (fd < 0)
        return;
    write_all(fd, line, (size_t)len);
    renameat(s->exit_dir, temporary, s->exit_dir, s->exit_name);
}

static void init_ended(struct shim *s, const siginfo_t *info)
{
    drain_output(s);
    if (s->holding)
        release_held(s, s->log);
    write_exit(s, code_of(info));
    s->init_ended = true;
}

/* False when no child is left. */
static bool reap(struct shim *s)
{
    for (;;) {
        siginfo_t info = {0};

        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 && errno == ECHILD)
            return false;
        if (info.si_pid == 0)
            return true;
        if (info.si_pid == s->runtime)
            runtime_ended(s, &info);
        else if (s->log >= 0 && is_init(s, info.si_pid))
            init_ended(s, &info);
        waitid(P_PID, (id_t)info.si_pid, &info, WEXITED | WNOHANG | __WALL);
    }
}

/* ---- Start ---- */

static void run_child(const struct shim *s, char *const *argv, int out)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (null >= 0 && dup2(null, 0) == 0 && dup2(out, 1) == 1 && dup2(out, 2) == 2) {
        sigprocmask(SIG_SETMASK, &s->old_mask, NULL);
        execvp(argv[0], argv);
    }
    dprintf(2, "cannot run '%s': %s\n", argv[0], strerror(errno));
    _exit(127);
}

static int start_runtime(struct shim *s, char *const *argv)
{
    int ends[2] = {-1, s->runtime_log};

    if (s->log >= 0) {
        if (pipe2(ends, O_CLOEXEC) < 0)
            return -1;
        fcntl(ends[0], F_SETFL, O_NONBLOCK); /* ours only: programs expect a blocking stdout */
        s->pipe = ends[0];
    }
    s->runtime = fork();
    if (s->runtime == 0)
        run_child(s, argv, ends[1]);
    if (s->log >= 0)
        close(ends[1]);
    return s->runtime < 0 ? -1 : 0;
}

/* Blocked, not ignored: what is ignored would be ignored in the container, too. */
static int hold_signals(struct shim *s)
{
    sigset_t held, child;

    sigemptyset(&held);
    sigaddset(&held, SIGCHLD);
    sigaddset(&held, SIGHUP);
    sigaddset(&held, SIGINT);
    sigaddset(&held, SIGTERM);
    sigaddset(&held, SIGPIPE);
    sigprocmask(SIG_BLOCK, &held, &s->old_mask);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    s->signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    return s->signals < 0 ? -1 : 0;
}

static int stay(struct shim *s)
{
    for (;;) {
        struct pollfd p[2] = {
            {.fd = s->signals, .events = POLLIN},
            {.fd = s->pipe, .events = POLLIN},
        };
        struct signalfd_siginfo drop;

        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return 1;
        if (p[1].revents)
            copy_output(s);
        while (read(s->signals, &drop, sizeof(drop)) > 0)
            ;
        if (!reap(s) || (s->init_ended && s->runtime == 0))
            break;
    }
    drain_output(s);
    return 0;
}

static int open_append(const char *path)
{
    return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0640);
}

static int open_exit(struct shim *s, const char *path)
{
    const char *slash = strrchr(path, '/');
    char dir[PATH_MAX];

    if (!slash || strlen(slash + 1) > NAME_MAX || (size_t)(slash - path) >= sizeof(dir))
        return -1;
    memcpy(dir, path, (size_t)(slash - path));
    dir[slash - path] = '\0';
    memcpy(s->exit_name, slash + 1, strlen(slash + 1) + 1);
    s->exit_dir = open(*dir ? dir : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return s->exit_dir < 0 ? -1 : 0;
}

/* Nobody may read our stderr: the daemon reads the status. */
static int complain(const struct shim *s, const char *what)
{
    const char *why = strerror(errno);

    fprintf(stderr, "fleximigrate-shim: %s: %s\n", what, why);
    if (s->status_fd >= 0)
        dprintf(s->status_fd, "error %s: %s\n", what, why);
    return 127;
}

static int usage(void)
{
    fputs("usage: fleximigrate-shim [--status-fd N] --runtime-log FILE [--log FILE --exit FILE "
          "[--pid-file FILE]] -- PROGRAM [ARGUMENT]...\n",
          stderr);
    return 2;
}

/* 0, or the exit code. */
static int parse(struct shim *s, int argc, char *argv[])
{
    static const struct option options[] = {
        {"log", required_argument, NULL, 'l'},         {"exit", required_argument, NULL, 'e'},
        {"pid-file", required_argument, NULL, 'p'},    {"status-fd", required_argument, NULL, 's'},
        {"runtime-log", required_argument, NULL, 'r'}, {0},
    };
    const char *log = NULL, *exit_path = NULL, *runtime_log = NULL;
    int c;

    while ((c = getopt_long(argc, argv, "+", options, NULL)) != -1) {
        if (c == 'l')
            log = optarg;
        else if (c == 'e')
            exit_path = optarg;
        else if (c == 'p')
            s->pid_file = optarg;
        else if (c == 's')
            s->status_fd = atoi(optarg);
        else if (c == 'r')
            runtime_log = optarg;
        else
            return usage();
    }
    if (optind >= argc || !runtime_log || !log != !exit_path)
        return usage();
    if (s->status_fd >= 0 && fcntl(s->status_fd, F_SETFD, FD_CLOEXEC) < 0)
        return complain(s, "status descriptor");
    s->runtime_log = open_append(runtime_log);
    if (s->runtime_log < 0)
        return complain(s, runtime_log);
    if (log && (s->log = open_append(log)) < 0)
        return complain(s, log);
    if (exit_path && open_exit(s, exit_path) < 0)
        return complain(s, exit_path);
    s->holding = log != NULL;
    return 0;
}

int main(int argc, char *argv[])
{
    static struct shim s = {
        .status_fd = -1,
        .runtime_log = -1,
        .log = -1,
        .exit_dir = -1,
        .pipe = -1,
        .signals = -1,
    };
    int code = parse(&s, argc, argv);

    if (code != 0)
        return code;
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 || hold_signals(&s) < 0 ||
        start_runtime(&s, argv + optind) < 0)
        return complain(&s, argv[optind]);
    _exit(stay(&s));
}
