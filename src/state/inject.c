#include "state/inject.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "state/memory_map.h"
#include "state/thread_stop.h"

/* How long a thread may need to stop, and how long a call that we made may take. */
#define STOP_MS 100
#define WAIT_MS 20
#define CALL_MS 1000
#define ATTEMPTS 50

#define UFFD_USER_MODE_ONLY 1
#define PIDFD_THREAD O_EXCL /* 6.9 */
#define GET_RSEQ_CONFIGURATION 0x420f
#define GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211

/* A stopped thread. */
struct subject {
    pid_t pid, tid;
    fm_arch_regs before; /* its registers as it must go on with them */
    uint64_t syscall_ip;
    bool noted;   /* `before` is filled */
    bool at_exit; /* of a call of ours; else it stands where PTRACE_INTERRUPT stopped it */
};

static int gone(const struct subject *s, struct fm_error *err)
{
    return fm_error_set(err, FM_E_NOT_FOUND, "process %d has ended", (int)s->pid);
}

static bool is_syscall_stop(int status)
{
    return status >> 16 == 0 && WSTOPSIG(status) == (SIGTRAP | 0x80);
}

/* ---- registers ---- */

static bool read_memory(pid_t pid, uint64_t address, void *data, size_t len)
{
    struct iovec local = {data, len}, remote = {(void *)(uintptr_t)address, len};

    return process_vm_readv(pid, &local, 1, &remote, 1, 0) == (ssize_t)len;
}

/* Layouts of <linux/ptrace.h> and <linux/rseq.h>. */
struct rseq_configuration {
    uint64_t address;
    uint32_t size, signature, flags, pad;
};
struct rseq_section {
    uint32_t version, flags;
    uint64_t start, length, abort;
};

/* A restartable sequence is aborted by a stop. The kernel would see the address of our call, not
 * the one within the sequence, and let it go on half-way: so abort it here. */
static void abort_sequence(struct subject *s)
{
    struct rseq_configuration rseq = {0};
    struct rseq_section section = {0};
    uint64_t address = 0, *ip = fm_arch_ip(&s->before);

    if (ptrace(GET_RSEQ_CONFIGURATION, s->tid, sizeof(rseq), &rseq) < 0 || !rseq.address ||
        !read_memory(s->pid, rseq.address + 8, &address, sizeof(address)) || !address ||
        !read_memory(s->pid, address, &section, sizeof(section)))
        return;
    if (*ip - section.start < section.length)
        *ip = section.abort;
}

/* Where the thread stands is where it will go on. */
static int note_registers(struct subject *s, struct fm_error *err)
{
    const char *refusal;
    size_t len = 0;

    s->at_exit = s->noted = false;
    if (fm_thread_get_registers(s->tid, &s->before, &len) < 0)
        return gone(s, err);
    if ((refusal = fm_arch_refuses(&s->before, len)))
        return fm_error_set(err, FM_E_REFUSED, "process %d %s", (int)s->pid, refusal);
    fm_arch_hide_stop(&s->before);
    abort_sequence(s);
    s->noted = true;
    return 0;
}

/* ---- attaching ---- */

static bool has_seccomp(pid_t pid, pid_t tid)
{
    char path[64];
    fm_autofree char *text = NULL;
    const char *line;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/status", (int)pid, (int)tid);
    if (fm_file_read(path, 1u << 16, &text, NULL, NULL) < 0)
        return true;
    line = strstr(text, "\nSeccomp:");
    return line && strtol(line + strlen("\nSeccomp:"), NULL, 10) != 0;
}

static int seize(struct subject *s, struct fm_error *err)
{
    long options = PTRACE_O_TRACESYSGOOD;

    if (ptrace(PTRACE_SEIZE, s->tid, 0, options | PTRACE_O_SUSPEND_SECCOMP) == 0)
        return 0;
    if (errno == ESRCH)
        return gone(s, err);
    if (has_seccomp(s->pid, s->tid))
        return fm_error_set(err, FM_E_REFUSED,
                            "process %d has a seccomp filter, which cannot be suspended here",
                            (int)s->pid);
    if (ptrace(PTRACE_SEIZE, s->tid, 0, options) == 0)
        return 0;
    return fm_error_set(err, FM_E_REFUSED, "process %d cannot be traced: %s", (int)s->pid,
                        strerror(errno));
}

/* Calls that the program itself wants to see instead of the kernel (PR_SET_SYSCALL_USER_DISPATCH).
 */
static bool dispatches_calls(pid_t tid)
{
    uint64_t config[4] = {0};

    return ptrace(GET_SYSCALL_USER_DISPATCH_CONFIG, tid, sizeof(config), config) == 0 && config[0];
}

static int stop(struct subject *s, struct fm_error *err)
{
    enum fm_stop outcome;
    int rc = seize(s, err);

    if (rc < 0)
        return rc;
    if (ptrace(PTRACE_INTERRUPT, s->tid, 0, 0) < 0)
        return gone(s, err);
    outcome = fm_thread_wait_interrupted(s->tid, STOP_MS);
    if (outcome == FM_STOP_ENDED)
        return gone(s, err);
    if (outcome == FM_STOP_LATE)
        return fm_error_set(err, FM_E_TIMEOUT, "process %d does not stop", (int)s->pid);
    if (dispatches_calls(s->tid))
        return fm_error_set(err, FM_E_REFUSED, "process %d handles system calls itself",
                            (int)s->pid);
    return note_registers(s, err);
}

/* Lets it go on where it stood. */
static void release(struct subject *s)
{
    if (s->at_exit) {
        /* Only on its way through signal handling does the kernel restart a call that was
         * interrupted: so stop it there once more. */
        fm_thread_set_registers(s->tid, &s->before);
        ptrace(PTRACE_INTERRUPT, s->tid, 0, 0);
        ptrace(PTRACE_CONT, s->tid, 0, 0);
        if (fm_thread_wait_interrupted(s->tid, CALL_MS) != FM_STOP_DONE)
            return; /* ended, or our thread's end detaches it */
    } else if (s->noted) {
        fm_thread_set_registers(s->tid, &s->before);
    }
    ptrace(PTRACE_DETACH, s->tid, 0, 0);
}

/* ---- a call ---- */

/* A signal came before the call: it is delivered as if we were not here. */
static int deliver(struct subject *s, int signal, struct fm_error *err)
{
    fm_thread_set_registers(s->tid, &s->before);
    ptrace(PTRACE_INTERRUPT, s->tid, 0, 0);
    if (ptrace(PTRACE_CONT, s->tid, 0, (long)signal) < 0 ||
        fm_thread_wait_interrupted(s->tid, CALL_MS) != FM_STOP_DONE)
        return gone(s, err);
    return note_registers(s, err);
}

/* Runs to the next stop at a call's entry or exit. 1: a signal was delivered instead, begin again.
 * While its registers are ours, a thread that is frozen now must be waited for. */
static int run_to_call(struct subject *s, struct fm_error *err)
{
    enum fm_stop outcome;
    int status, rc;

    do {
        if (ptrace(PTRACE_SYSCALL, s->tid, 0, 0) < 0)
            return gone(s, err);
        do
            outcome = fm_thread_wait(s->tid, &status, CALL_MS);
        while (outcome == FM_STOP_LATE);
        if (outcome == FM_STOP_ENDED)
            return gone(s, err);
    } while (status >> 16); /* a group stop, say: it is taken up again when we leave */
    if (is_syscall_stop(status))
        return 0;
    rc = deliver(s, WSTOPSIG(status), err);
    return rc < 0 ? rc : 1;
}

static int call(struct subject *s, const struct fm_call *call, long *result, struct fm_error *err)
{
    for (int i = 0; i < ATTEMPTS; i++) {
        fm_arch_regs regs = s->before;
        size_t len;
        int rc;

        fm_arch_set_call(&regs, s->syscall_ip, call);
        if (fm_thread_set_registers(s->tid, &regs) < 0)
            return gone(s, err);
        rc = run_to_call(s, err);
        if (rc == 0)
            rc = run_to_call(s, err);
        if (rc < 0)
            return rc;
        if (rc > 0)
            continue;
        s->at_exit = true;
        if (fm_thread_get_registers(s->tid, &regs, &len) < 0)
            return gone(s, err);
        *result = fm_arch_result(&regs);
        return 0;
    }
    return fm_error_set(err, FM_E_TIMEOUT, "process %d gets signals all the time", (int)s->pid);
}

/* ---- an instruction for it ---- */

#define SEARCH_STEP (256u << 10)

/* 0: there is none. */
static uint64_t find_syscall_in(pid_t pid, uint64_t start, uint64_t end)
{
    fm_autofree uint8_t *code = fm_xmalloc(SEARCH_STEP);
    uint64_t found = 0;

    for (uint64_t at = start; at < end && !found; at += SEARCH_STEP) {
        size_t len = end - at < SEARCH_STEP ? end - at : SEARCH_STEP;
        size_t last = len - sizeof(fm_arch_syscall);

        if (!read_memory(pid, at, code, len))
            break;
        for (size_t i = 0; i <= last && !found; i += FM_ARCH_SYSCALL_ALIGN) {
            if (memcmp(code + i, fm_arch_syscall, sizeof(fm_arch_syscall)) == 0)
                found = at + i;
        }
    }
    return found;
}

static bool is_vdso(const struct fm_mapping *m)
{
    return m->line_len > 6 && memcmp(m->line + m->line_len - 6, "[vdso]", 6) == 0;
}

static int find_syscall(struct subject *s, struct fm_error *err)
{
    fm_cleanup(fm_memory_map_clear) struct fm_memory_map map = {0};
    int rc = fm_memory_map_read(s->pid, &map, err);

    if (rc < 0)
        return rc;
    /* The vdso has one and is small; any other code does as well. */
    for (int pass = 0; pass < 2 && !s->syscall_ip; pass++) {
        for (size_t i = 0; i < map.count && !s->syscall_ip; i++) {
            const struct fm_mapping *m = &map.items[i];

            if (m->traits[2] == 'x' && m->traits[0] == 'r' && is_vdso(m) == (pass == 0))
                s->syscall_ip = find_syscall_in(s->pid, m->start, m->end);
        }
    }
    return s->syscall_ip ? 0
                         : fm_error_set(err, FM_E_REFUSED,
                                        "process %d has no system call instruction", (int)s->pid);
}

/* It may have executed another program before it stopped: then nothing is where it was. */
static bool is_still_there(const struct subject *s)
{
    uint8_t code[sizeof(fm_arch_syscall)];

    return read_memory(s->pid, s->syscall_ip, code, sizeof(code)) &&
           memcmp(code, fm_arch_syscall, sizeof(code)) == 0;
}

static int find_syscall_again(struct subject *s, struct fm_error *err)
{
    if (is_still_there(s))
        return 0;
    s->syscall_ip = 0;
    return find_syscall(s, err);
}

/* ---- the thread to use ---- */

/* Runs, sleeps or is stopped: not dead, nor within an uninterruptible wait, as after vfork. */
static bool may_stop(pid_t pid, pid_t tid)
{
    return strchr("RSTI", fm_thread_state(pid, tid)) != NULL;
}

/* The first thread if it will do, since the process's descriptors are surely its own. 0: none will.
 */
static pid_t find_thread(pid_t pid)
{
    char path[32];

    if (may_stop(pid, pid))
        return pid;
    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    fm_autoclosedir DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);

        if (tid > 0 && may_stop(pid, tid))
            return tid;
    }
    return 0;
}

/* Most uninterruptible waits are short. */
static int choose_thread(struct subject *s, struct fm_error *err)
{
    uint64_t deadline = fm_now_ms() + WAIT_MS;

    while (!(s->tid = find_thread(s->pid))) {
        struct timespec t = {.tv_nsec = 500 * 1000};

        if (fm_now_ms() >= deadline)
            return fm_error_set(err, FM_E_TIMEOUT, "process %d has no thread that can stop now",
                                (int)s->pid);
        nanosleep(&t, NULL);
    }
    return 0;
}

/* ---- descriptors ---- */

static int open_pidfd(const struct subject *s)
{
    unsigned int flags = s->tid == s->pid ? 0 : PIDFD_THREAD;

    return (int)syscall(SYS_pidfd_open, s->tid, flags);
}

static int fetch(const struct subject *s, int number, struct fm_error *err)
{
    fm_autoclose int pidfd = open_pidfd(s);
    int fd = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);

    if (fd < 0)
        return fm_error_errno(err, errno, "cannot take a descriptor of process %d", (int)s->pid);
    return fd;
}

/* Another thread may have put something else there meanwhile. */
static int close_there(struct subject *s, int number, int ours, struct fm_error *err)
{
    struct fm_call close_call = {SYS_close, {(uint64_t)number, 0}};
    long result, same = 0;

    if (ours >= 0)
        same = syscall(SYS_kcmp, getpid(), s->tid, KCMP_FILE, ours, number);
    if (same > 0 || (same < 0 && errno == EBADF))
        return 0;
    return call(s, &close_call, &result, err);
}

static int take_userfaultfd(struct subject *s, struct fm_injected *result, struct fm_error *err)
{
    struct fm_call open_call = {SYS_userfaultfd, {O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY, 0}};
    long number = -1;
    int fd, rc = call(s, &open_call, &number, err);

    if (rc < 0)
        return rc;
    if (number < 0)
        return fm_error_set(err, FM_E_REFUSED, "process %d cannot open a userfaultfd: %s",
                            (int)s->pid, strerror((int)-number));
    fd = fetch(s, (int)number, err);
    rc = close_there(s, (int)number, fd, err);
    if (fd < 0)
        return fm_error_result(err);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    *result = (struct fm_injected){fd, (int)number};
    return 0;
}

/* ---- a thread for it ---- */

/* The tracer is a thread of its own: should the process not stop in time, only the thread's end
 * lets go of it. */
struct job {
    struct subject subject;
    struct fm_injected injected; /* result; or what is to be closed */
    bool closes;
    int rc;
    struct fm_error err;
};

static void do_job(struct job *j)
{
    struct subject *s = &j->subject;

    if ((j->rc = choose_thread(s, &j->err)) < 0 || (j->rc = find_syscall(s, &j->err)) < 0)
        return;
    j->rc = stop(s, &j->err);
    if (j->rc == 0)
        j->rc = find_syscall_again(s, &j->err);
    if (j->rc == 0 && j->closes)
        j->rc = close_there(s, j->injected.number, j->injected.fd, &j->err);
    else if (j->rc == 0)
        j->rc = take_userfaultfd(s, &j->injected, &j->err);
    release(s);
}

static void *run_job(void *arg)
{
    do_job(arg);
    return NULL;
}

static int run(struct job *j, struct fm_error *err)
{
    int rc = fm_run_as_tracer(run_job, j, err);

    if (rc < 0)
        return rc;
    if (j->rc < 0 && err)
        *err = j->err;
    return j->rc;
}

int fm_inject_userfaultfd(pid_t pid, struct fm_injected *result, struct fm_error *err)
{
    struct job j = {.subject.pid = pid};
    int rc = run(&j, err);

    *result = j.injected;
    return rc;
}

int fm_inject_close(pid_t pid, int number, int ours, struct fm_error *err)
{
    struct job j = {.subject.pid = pid, .injected = {ours, number}, .closes = true};

    return run(&j, err);
}
