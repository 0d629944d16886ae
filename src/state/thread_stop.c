#include "state/thread_stop.h"

#include <dirent.h>
#include <elf.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"

#define STOP_MS 100
#define ATTEMPTS 50

/* ---- one thread ---- */

/* A stop takes some 10 µs as a rule. Yielding could cost a whole time slice of somebody else's. */
static void nap(uint64_t waited_us)
{
    struct timespec t = {.tv_nsec = waited_us < 1000 ? 10 * 1000 : 500 * 1000};

    if (waited_us < 150)
        sched_yield();
    else
        nanosleep(&t, NULL);
}

enum fm_stop fm_thread_wait(pid_t tid, int *status, uint64_t timeout_ms)
{
    uint64_t since = fm_now_us(), waited = 0;

    for (; waited < timeout_ms * 1000; waited = fm_now_us() - since) {
        pid_t r = waitpid(tid, status, __WALL | WNOHANG);

        if (r < 0 && errno != EINTR)
            return FM_STOP_ENDED;
        if (r == tid)
            return WIFSTOPPED(*status) ? FM_STOP_DONE : FM_STOP_ENDED;
        nap(waited);
    }
    return FM_STOP_LATE;
}

enum fm_stop fm_thread_wait_interrupted(pid_t tid, uint64_t timeout_ms)
{
    for (int i = 0; i < ATTEMPTS; i++) {
        int status;
        enum fm_stop stop = fm_thread_wait(tid, &status, timeout_ms);

        if (stop != FM_STOP_DONE || status >> 16 == PTRACE_EVENT_STOP)
            return stop;
        if (ptrace(PTRACE_CONT, tid, 0, status >> 16 ? 0 : (long)WSTOPSIG(status)) < 0)
            return FM_STOP_ENDED;
    }
    return FM_STOP_LATE;
}

int fm_thread_get_registers(pid_t tid, fm_arch_regs *regs, size_t *len)
{
    struct iovec iov = {regs, sizeof(*regs)};

    if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &iov) < 0)
        return -errno;
    *len = iov.iov_len;
    return 0;
}

int fm_thread_set_registers(pid_t tid, fm_arch_regs *regs)
{
    struct iovec iov = {regs, sizeof(*regs)};

    return ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &iov) < 0 ? -errno : 0;
}

char fm_thread_state(pid_t pid, pid_t tid)
{
    char path[64];
    fm_autofree char *line = NULL;
    const char *rest;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", (int)pid, (int)tid);
    line = fm_file_line(path);
    rest = line ? strrchr(line, ')') : NULL;
    return rest && rest[1] == ' ' ? rest[2] : 'X';
}

/* ---- all threads of a process ---- */

struct stopped {
    pid_t pid;
    pid_t *tids;
    size_t count;
    fm_stopped_work work;
    void *ctx;
    int rc;
    struct fm_error err;
};

static bool has(const struct stopped *s, pid_t tid)
{
    for (size_t i = 0; i < s->count; i++) {
        if (s->tids[i] == tid)
            return true;
    }
    return false;
}

/* 0 as well when it has ended meanwhile. */
static int begin_stop(struct stopped *s, pid_t tid)
{
    if (strchr("ZX", fm_thread_state(s->pid, tid)))
        return 0;
    if (ptrace(PTRACE_SEIZE, tid, 0, 0) < 0)
        return errno == ESRCH
                   ? 0
                   : fm_error_set(&s->err, FM_E_REFUSED, "process %d cannot be traced: %s",
                                  (int)s->pid, strerror(errno));
    ptrace(PTRACE_INTERRUPT, tid, 0, 0);
    s->tids = fm_xrealloc(s->tids, (s->count + 1) * sizeof(*s->tids));
    s->tids[s->count++] = tid;
    return 0;
}

static int begin_stops(struct stopped *s)
{
    char path[32];
    int rc = 0;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)s->pid);
    fm_autoclosedir DIR *dir = opendir(path);
    if (!dir)
        return fm_error_set(&s->err, FM_E_NOT_FOUND, "process %d has ended", (int)s->pid);
    for (struct dirent *e; rc == 0 && (e = readdir(dir));) {
        pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);

        if (tid > 0 && !has(s, tid))
            rc = begin_stop(s, tid);
    }
    return rc;
}

/* A thread that is still running may make another: until none is new. */
static int stop_all(struct stopped *s)
{
    size_t stopped = 0;

    do {
        int rc = begin_stops(s);

        if (rc < 0)
            return rc;
        if (stopped == s->count)
            return 0;
        for (; stopped < s->count; stopped++) {
            if (fm_thread_wait_interrupted(s->tids[stopped], STOP_MS) == FM_STOP_LATE)
                return fm_error_set(&s->err, FM_E_TIMEOUT, "process %d does not stop", (int)s->pid);
        }
    } while (true);
}

static void resume_all(struct stopped *s)
{
    for (size_t i = 0; i < s->count; i++) {
        fm_arch_regs regs = {0};
        size_t len = 0;

        if (fm_thread_get_registers(s->tids[i], &regs, &len) == 0 && !fm_arch_refuses(&regs, len) &&
            fm_arch_hide_stop(&regs))
            fm_thread_set_registers(s->tids[i], &regs);
        ptrace(PTRACE_DETACH, s->tids[i], 0, 0);
    }
}

struct tracer {
    void *(*run)(void *);
    void *arg;
};

static void *run_tracer(void *arg)
{
    const struct tracer *t = arg;

    prctl(PR_SET_TIMERSLACK, 1L); /* naps as short as they say */
    return t->run(t->arg);
}

static void *run_stopped(void *arg)
{
    struct stopped *s = arg;

    s->rc = stop_all(s);
    if (s->rc == 0)
        s->rc = s->work(s->ctx, &s->err);
    resume_all(s);
    return NULL;
}

int fm_process_while_stopped(pid_t pid, fm_stopped_work work, void *ctx, struct fm_error *err)
{
    struct stopped s = {.pid = pid, .work = work, .ctx = ctx};
    int rc = fm_run_as_tracer(run_stopped, &s, err);

    free(s.tids);
    if (rc < 0)
        return rc;
    if (s.rc < 0 && err)
        *err = s.err;
    return s.rc;
}

int fm_run_as_tracer(void *(*run)(void *), void *arg, struct fm_error *err)
{
    pthread_t thread;
    struct tracer tracer = {run, arg};
    sigset_t all, before;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&thread, NULL, run_tracer, &tracer);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return fm_error_errno(err, rc, "cannot start a thread");
    pthread_join(thread, NULL);
    return 0;
}
