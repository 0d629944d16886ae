/* Preloaded into every CRIU that dumps: two things that it does not get right by itself.
 *
 * Waiting system calls. nanosleep, poll and futex with a time-out leave their rest in the kernel
 * when they are interrupted, where no dump finds it: CRIU lets them return EINTR, which no program
 * expects that was only stopped, and a sleep ends early. Here CRIU sees registers that say "start
 * this call again": it then waits for its whole time once more. A call that was interrupted before
 * has become restart_syscall, whose number says nothing; the instructions before it tell which one
 * it was.
 *
 * Limits. Reading those of another user's process needs CAP_SYS_RESOURCE, which root has not
 * everywhere. They are in /proc/PID/limits for everyone. */
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <unistd.h>

typedef long (*ptrace_fn)(int, ...);
typedef long (*syscall_fn)(long, ...);

long ptrace(enum __ptrace_request request, ...);
long syscall(long sysno, ...);

/* ---- Waiting system calls ---- */

/* CRIU's other back ends let the kernel restart calls, or do not restart any. */
#if defined(__x86_64__)
#define RESTART_ALL (-512)   /* -ERESTARTSYS: CRIU starts the call again */
#define RESTART_BLOCK (-516) /* -ERESTART_RESTARTBLOCK */

static bool can_start_again(long number)
{
    return number == SYS_nanosleep || number == SYS_clock_nanosleep || number == SYS_poll ||
           number == SYS_futex;
}

/* `mov $number, %eax; syscall`, as the C libraries and Go's runtime write it; -1 for anything else.
 */
static long number_before(pid_t pid, uint64_t ip)
{
    uint8_t code[7];
    struct iovec here = {.iov_base = code, .iov_len = sizeof(code)};
    struct iovec there = {.iov_base = (void *)(uintptr_t)(ip - sizeof(code)),
                          .iov_len = sizeof(code)};
    int32_t number;

    if (process_vm_readv(pid, &here, 1, &there, 1, 0) != (ssize_t)sizeof(code) || code[0] != 0xb8 ||
        code[5] != 0x0f || code[6] != 0x05)
        return -1;
    memcpy(&number, code + 1, sizeof(number));
    return number;
}

static void restart_whole_call(pid_t pid, struct user_regs_struct *regs)
{
    long number = (long)regs->orig_rax;

    if ((long)regs->rax != RESTART_BLOCK || number < 0)
        return;
    if (number == SYS_restart_syscall)
        number = number_before(pid, regs->rip);
    if (!can_start_again(number))
        return;
    regs->orig_rax = (unsigned long)number;
    regs->rax = (unsigned long)RESTART_ALL;
}

static void correct_registers(pid_t pid, long kind, const struct iovec *iov)
{
    if (kind == NT_PRSTATUS && iov->iov_len == sizeof(struct user_regs_struct))
        restart_whole_call(pid, iov->iov_base);
}
#else
static void correct_registers(pid_t pid, long kind, const struct iovec *iov)
{
    (void)pid, (void)kind, (void)iov;
}
#endif

/* As the C library does: all four are passed on, whatever the request takes. */
long ptrace(enum __ptrace_request request, ...)
{
    static ptrace_fn next;
    va_list arguments;

    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    if (!next)
        next = (ptrace_fn)dlsym(RTLD_NEXT, "ptrace");
    long result = next((int)request, pid, address, data);
    if (request == PTRACE_GETREGSET && result == 0)
        correct_registers(pid, (long)(uintptr_t)address, data);
    return result;
}

/* ---- Limits ---- */

/* proc(5): lines of "Max cpu time   unlimited   unlimited   seconds", in this order. */
static const char *const limit_names[] = {
    [RLIMIT_CPU] = "Max cpu time",
    [RLIMIT_FSIZE] = "Max file size",
    [RLIMIT_DATA] = "Max data size",
    [RLIMIT_STACK] = "Max stack size",
    [RLIMIT_CORE] = "Max core file size",
    [RLIMIT_RSS] = "Max resident set",
    [RLIMIT_NPROC] = "Max processes",
    [RLIMIT_NOFILE] = "Max open files",
    [RLIMIT_MEMLOCK] = "Max locked memory",
    [RLIMIT_AS] = "Max address space",
    [RLIMIT_LOCKS] = "Max file locks",
    [RLIMIT_SIGPENDING] = "Max pending signals",
    [RLIMIT_MSGQUEUE] = "Max msgqueue size",
    [RLIMIT_NICE] = "Max nice priority",
    [RLIMIT_RTPRIO] = "Max realtime priority",
    [RLIMIT_RTTIME] = "Max realtime timeout",
};
#define LIMITS (long)(sizeof(limit_names) / sizeof(*limit_names))

static uint64_t limit_value(const char *word)
{
    return strcmp(word, "unlimited") == 0 ? RLIM64_INFINITY : strtoull(word, NULL, 10);
}

static bool parse_limit(const char *line, const char *name, struct rlimit64 *limit)
{
    char soft[24], hard[24];
    const size_t length = strlen(name);

    if (strncmp(line, name, length) != 0 || sscanf(line + length, "%23s %23s", soft, hard) != 2)
        return false;
    limit->rlim_cur = limit_value(soft);
    limit->rlim_max = limit_value(hard);
    return true;
}

static bool read_limit(pid_t pid, long resource, struct rlimit64 *limit)
{
    char path[32], line[128];
    bool found = false;

    if (resource < 0 || resource >= LIMITS || !limit_names[resource])
        return false;
    snprintf(path, sizeof(path), "/proc/%d/limits", (int)pid);
    FILE *file = fopen(path, "re");
    while (file && !found && fgets(line, sizeof(line), file))
        found = parse_limit(line, limit_names[resource], limit);
    if (file)
        fclose(file);
    return found;
}

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name) */
long syscall(long sysno, ...)
{
    static syscall_fn next;
    long a[6];
    va_list arguments;

    va_start(arguments, sysno);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(arguments, long);
    va_end(arguments);
    if (!next)
        next = (syscall_fn)dlsym(RTLD_NEXT, "syscall");
    long result = next(sysno, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (result < 0 && errno == EPERM && sysno == SYS_prlimit64 && a[2] == 0 && a[3] != 0 &&
        read_limit((pid_t)a[0], a[1], (struct rlimit64 *)(uintptr_t)a[3]))
        return 0;
    return result;
}
