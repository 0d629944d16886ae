/* What differs by processor when a thread is stopped or made to call: its registers. */
#ifndef FM_STATE_INJECT_ARCH_H
#define FM_STATE_INJECT_ARCH_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/user.h>

/* Of the kernel's, never seen by programs: the call goes on after the stop. */
#define ERESTARTNOHAND 514

struct fm_call {
    long number;
    uint64_t argument[2];
};

/* Calls which answer EINTR for a mere stop, and which lose nothing when they are made again. */
static inline bool fm_arch_is_a_wait(long number)
{
    switch (number) {
#ifdef SYS_epoll_wait
    case SYS_epoll_wait:
#endif
    case SYS_epoll_pwait:
    case 441: /* epoll_pwait2 */
    case SYS_rt_sigtimedwait:
    case SYS_semop:
    case SYS_semtimedop:
    case SYS_io_getevents:
    case SYS_read:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_accept:
    case SYS_accept4:
        return true;
    default:
        return false;
    }
}

#if defined(__x86_64__)

typedef struct user_regs_struct fm_arch_regs;
static const uint8_t fm_arch_syscall[] = {0x0f, 0x05};
#define FM_ARCH_SYSCALL_ALIGN 1

static inline uint64_t *fm_arch_ip(fm_arch_regs *r)
{
    return (uint64_t *)&r->rip;
}

/* Why these registers do not do; NULL: they do. */
static inline const char *fm_arch_refuses(const fm_arch_regs *r, size_t len)
{
    return len != sizeof(*r) || r->cs != 0x33 ? "is a 32-bit program" : NULL;
}

/* A call that our stop made fail with EINTR is made again, as other calls are. True when it was. */
static inline bool fm_arch_hide_stop(fm_arch_regs *r)
{
    if ((long)r->orig_rax < 0 || (long)r->rax != -EINTR || !fm_arch_is_a_wait((long)r->orig_rax))
        return false;
    r->rax = (uint64_t)-ERESTARTNOHAND;
    return true;
}

static inline void fm_arch_set_call(fm_arch_regs *r, uint64_t ip, const struct fm_call *call)
{
    r->rip = ip;
    r->rax = (uint64_t)call->number;
    r->orig_rax = UINT64_MAX; /* no call is being restarted */
    r->rdi = call->argument[0];
    r->rsi = call->argument[1];
}

static inline long fm_arch_result(const fm_arch_regs *r)
{
    return (long)r->rax;
}

#elif defined(__aarch64__)

/* Never run so far: no such machine was at hand. */
typedef struct user_regs_struct fm_arch_regs;
static const uint8_t fm_arch_syscall[] = {0x01, 0x00, 0x00, 0xd4}; /* svc #0 */
#define FM_ARCH_SYSCALL_ALIGN 4

static inline uint64_t *fm_arch_ip(fm_arch_regs *r)
{
    return (uint64_t *)&r->pc;
}

/* Here the kernel sets a restart up before the stop, so that the kind of restart cannot be told
 * from the registers: a sleep would begin again from its whole length. */
static inline const char *fm_arch_refuses(const fm_arch_regs *r, size_t len)
{
    if (len != sizeof(*r) || (r->pstate & 0x10))
        return "is a 32-bit program";
    return r->regs[8] == SYS_nanosleep || r->regs[8] == SYS_clock_nanosleep ? "sleeps" : NULL;
}

static inline bool fm_arch_hide_stop(fm_arch_regs *r)
{
    (void)r; /* the arguments of the call are gone: an EINTR stays one */
    return false;
}

static inline void fm_arch_set_call(fm_arch_regs *r, uint64_t ip, const struct fm_call *call)
{
    r->pc = ip;
    r->regs[8] = (uint64_t)call->number;
    r->regs[0] = call->argument[0];
    r->regs[1] = call->argument[1];
}

static inline long fm_arch_result(const fm_arch_regs *r)
{
    return (long)r->regs[0];
}

#else

/* Another processor: refused. */
typedef struct user_regs_struct fm_arch_regs;
static const uint8_t fm_arch_syscall[] = {0};
#define FM_ARCH_SYSCALL_ALIGN 1

static inline uint64_t *fm_arch_ip(fm_arch_regs *r)
{
    return (uint64_t *)(void *)r;
}

static inline const char *fm_arch_refuses(const fm_arch_regs *r, size_t len)
{
    (void)r;
    (void)len;
    return "runs on a processor whose registers are not known here";
}

static inline bool fm_arch_hide_stop(fm_arch_regs *r)
{
    (void)r;
    return false;
}

static inline void fm_arch_set_call(fm_arch_regs *r, uint64_t ip, const struct fm_call *call)
{
    (void)r;
    (void)ip;
    (void)call;
}

static inline long fm_arch_result(const fm_arch_regs *r)
{
    (void)r;
    return -ENOSYS;
}

#endif

#endif
