#include "base/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"

extern char **environ;

/* ---- Between fork and exec ---- */

/* All that the child needs, made before the fork: it may only use what is async-signal-safe. */
struct launch {
    const char *program;
    char *const *argv;
    char *const *env;
    const char *cwd;
    int stdio[3];
    const int *keep_fds; /* ascending */
    size_t keep_fd_count;
    bool new_session;
    bool die_with_parent;
    bool detach;
    pid_t parent;
    volatile pid_t pid;   /* result: the program's process */
    volatile int failure; /* result: errno, 0 when the program runs */
};

static void close_others(const struct launch *l)
{
    unsigned int next = 3;

    for (size_t i = 0; i < l->keep_fd_count; i++) {
        unsigned int keep = (unsigned int)l->keep_fds[i];

        if (keep < next)
            continue;
        if (keep > next)
            close_range(next, keep - 1, 0);
        fcntl(l->keep_fds[i], F_SETFD, 0);
        next = keep + 1;
    }
    close_range(next, ~0u, 0);
}

static int place_stdio(const struct launch *l)
{
    int high[3];

    /* Out of the way first: any of the three may stand where another has to go. */
    for (int i = 0; i < 3; i++) {
        high[i] = fcntl(l->stdio[i], F_DUPFD_CLOEXEC, 3);
        if (high[i] < 0)
            return -1;
    }
    for (int i = 0; i < 3; i++) {
        if (dup2(high[i], i) < 0)
            return -1;
    }
    for (int i = 0; i < 3; i++)
        close(high[i]);
    return 0;
}

static void reset_signals(void)
{
    /* All zeroes is SIG_DFL. Past glibc's wrapper, which leaves its own two signals alone; a parent
     * that is no C program (make) may have them ignored. */
    static const char action[64] __attribute__((aligned(8)));
    sigset_t none;

    for (int sig = 1; sig < NSIG; sig++)
        syscall(SYS_rt_sigaction, sig, action, NULL, (size_t)(NSIG - 1) / 8);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void become_program(struct launch *l)
{
    reset_signals();
    if (l->new_session)
        setsid();
    if (l->die_with_parent) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != l->parent)
            _exit(127);
    }
    if (place_stdio(l) == 0 && (!l->cwd || chdir(l->cwd) == 0)) {
        close_others(l);
        execve(l->program, l->argv, l->env);
    }
    l->failure = errno;
    _exit(127);
}

/* The child shares our memory until it execs or exits (vfork), and so reports through *l. */
static __attribute__((noinline)) pid_t spawn(struct launch *l)
{
    pid_t pid = vfork();

    if (pid == 0)
        become_program(l);
    if (pid < 0)
        l->failure = errno;
    return pid;
}

/* What the process in between reports before it ends. */
struct report {
    pid_t pid;
    int failure;
};

/* The process in between is a real fork, so that only one level of vfork shares our stack; it and
 * the program are told apart by a pipe that carries the program's pid. */
static pid_t spawn_detached(struct launch *l)
{
    struct report report = {.failure = ECHILD};
    int ends[2];
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) < 0) {
        l->failure = errno;
        return -1;
    }
    pid = _Fork();
    if (pid == 0) {
        report.pid = spawn(l);
        report.failure = l->failure;
        _exit(write(ends[1], &report, sizeof(report)) == sizeof(report) ? 0 : 127);
    }
    if (pid < 0)
        report.failure = errno;
    close(ends[1]);
    while (pid > 0 && read(ends[0], &report, sizeof(report)) < 0 && errno == EINTR)
        ;
    close(ends[0]);
    l->pid = report.pid;
    l->failure = report.failure;
    return pid;
}

static int reap(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return -1;
    }
    return status;
}

/* Signals are held meanwhile: a handler of ours must not run in the child. */
static void launch(struct launch *l)
{
    sigset_t all, old;
    pid_t child;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    child = l->detach ? spawn_detached(l) : spawn(l);
    if (child > 0 && (l->detach || l->failure))
        reap(child);
    if (!l->detach)
        l->pid = child;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* ---- Before the fork ---- */

static bool same_variable(const char *a, const char *b)
{
    size_t len = strcspn(a, "=");

    return strncmp(a, b, len) == 0 && b[len] == '=';
}

static void merge_environment(struct fm_strv *env, const char *const *changes)
{
    for (char **e = environ; e && *e; e++) {
        bool replaced = false;

        for (const char *const *c = changes; c && *c && !replaced; c++)
            replaced = same_variable(*c, *e);
        if (!replaced)
            fm_strv_add(env, *e);
    }
    fm_strv_add_all(env, changes);
    if (!env->items)
        env->items = fm_xcalloc(1, sizeof(*env->items));
}

static const char *variable(const struct fm_strv *env, const char *name)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < env->count; i++) {
        if (strncmp(env->items[i], name, len) == 0 && env->items[i][len] == '=')
            return env->items[i] + len + 1;
    }
    return NULL;
}

/* execvp is not async-signal-safe and knows only our PATH. */
static char *find_program(const char *name, const char *path)
{
    fm_autofree char *list = fm_xstrdup(path ? path : "/usr/sbin:/usr/bin:/sbin:/bin");
    char *rest = NULL;

    if (strchr(name, '/'))
        return fm_xstrdup(name);
    for (char *dir = strtok_r(list, ":", &rest); dir; dir = strtok_r(NULL, ":", &rest)) {
        fm_autofree char *file = fm_strf("%s/%s", dir, name);

        if (access(file, X_OK) == 0)
            return FM_MOVE(file);
    }
    return NULL;
}

static int compare_ints(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;

    return (x > y) - (x < y);
}

static int *sorted_fds(const int *fds, size_t count)
{
    int *sorted = fm_xcalloc(count, sizeof(*sorted));

    if (count > 0) {
        memcpy(sorted, fds, count * sizeof(*sorted));
        qsort(sorted, count, sizeof(*sorted), compare_ints);
    }
    return sorted;
}

int fm_spawn(const struct fm_subprocess_options *o, const int stdio[3], bool detach, pid_t *pid,
             struct fm_error *err)
{
    fm_cleanup(fm_strv_free) struct fm_strv env = {0};
    fm_autofree int *keep = sorted_fds(o->keep_fds, o->keep_fd_count);
    fm_autofree char *program = NULL;
    struct launch l;

    merge_environment(&env, o->env);
    program = find_program(o->argv[0], variable(&env, "PATH"));
    if (!program)
        return fm_error_set(err, FM_E_NOT_FOUND, "cannot run '%s': not found in PATH; install it",
                            o->argv[0]);
    l = (struct launch){
        .program = program,
        .argv = (char *const *)(uintptr_t)o->argv,
        .env = env.items,
        .cwd = o->cwd,
        .stdio = {stdio[0], stdio[1], stdio[2]},
        .keep_fds = keep,
        .keep_fd_count = o->keep_fd_count,
        .new_session = o->new_session,
        .die_with_parent = o->die_with_parent && !detach,
        .detach = detach,
        .parent = getpid(),
    };
    launch(&l);
    if (l.failure)
        return fm_error_errno(err, l.failure, "cannot run '%s'", o->argv[0]);
    *pid = l.pid;
    return 0;
}
