/* Tracker: a process does not notice that a system call was injected into it. */
#include "tracked_inject.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/rseq.h>
#include <sys/time.h>

/* ---- signals ---- */

static volatile sig_atomic_t caught;
static struct board *handlers_board;

static void count_signal(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    caught++;
    handlers_board->value[1] += (uint64_t)info->si_value.sival_int;
}

static void catch (int signal)
{
    struct sigaction action = {.sa_sigaction = count_signal, .sa_flags = SA_SIGINFO};

    sigaction(signal, &action, NULL);
}

/* Wakes by signals only; a wake-up that gets lost hangs it. */
static void suspend_and_answer(struct board *b)
{
    sigset_t block, none;

    handlers_board = b;
    catch (SIGRTMIN);
    sigemptyset(&none);
    sigemptyset(&block);
    sigaddset(&block, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &block, NULL);
    b->reached = 1;
    for (;;) {
        sigsuspend(&none);
        b->value[0] = (uint64_t)caught;
    }
}

struct sender {
    pid_t pid;
    volatile struct board *board;
    volatile bool failed, ended;
};

#define SIGNALS 2000

static void *send_signals(void *arg)
{
    struct sender *s = arg;

    for (int i = 1; i <= SIGNALS && !s->failed; i++) {
        uint64_t deadline = fm_now_ms() + DEADLINE_MS;

        if (sigqueue(s->pid, SIGRTMIN, (union sigval){.sival_int = i}) < 0)
            s->failed = true;
        while (s->board->value[0] < (uint64_t)i && !s->failed)
            s->failed = fm_now_ms() > deadline;
    }
    s->ended = true;
    return NULL;
}

static void no_signal_and_no_wakeup_is_lost(void **state)
{
    pthread_t thread;
    struct child c;

    (void)state;
    child_start(&c, suspend_and_answer);
    await(&c, 1);
    struct sender s = {.pid = c.pid, .board = c.board};
    pthread_create(&thread, NULL, send_signals, &s);
    while (!s.ended)
        inject_once(c.pid, true);
    pthread_join(thread, NULL);
    assert_false(s.failed);
    assert_int_equal(c.board->value[0], SIGNALS);
    assert_int_equal(c.board->value[1], (uint64_t)SIGNALS * (SIGNALS + 1) / 2);
    child_end(&c);
}

static uint64_t churn(uint64_t x, int rounds)
{
    for (int i = 0; i < rounds; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    return x;
}

/* Computes in registers, while a timer interrupts it 5,000 times a second. */
static void compute_under_a_timer(struct board *b)
{
    struct itimerval often = {{0, 200}, {0, 200}};
    uint64_t x = 1;
    double y = 1;

    handlers_board = b;
    catch (SIGALRM);
    setitimer(ITIMER_REAL, &often, NULL);
    b->reached = 1;
    for (uint64_t i = 1;; i++) {
        x = churn(x, 1000);
        y += 0.5;
        b->value[2] = x;
        b->value[3] = (uint64_t)(y * 2);
        b->value[4] = i;
        if (b->step)
            break;
    }
    b->reached = 2;
    for (;;)
        pause();
}

static void registers_survive_under_signals(void **state)
{
    uint64_t x = 1;
    struct child c;

    (void)state;
    child_start(&c, compute_under_a_timer);
    await(&c, 1);
    inject_often(c.pid);
    c.board->step = 1;
    await(&c, 2);
    for (uint64_t i = 0; i < c.board->value[4]; i++)
        x = churn(x, 1000);
    assert_int_equal(c.board->value[2], x);
    assert_int_equal(c.board->value[3], c.board->value[4] + 2);
    child_end(&c);
}

/* ---- stopped, traced, filtered ---- */

static void count_on(struct board *b)
{
    b->reached = 1;
    for (;;)
        b->value[0]++;
}

static void a_stopped_process_stays_stopped(void **state)
{
    struct child c;
    int status;

    (void)state;
    child_start(&c, count_on);
    await(&c, 1);
    kill(c.pid, SIGSTOP);
    assert_int_equal(waitpid(c.pid, &status, WUNTRACED), c.pid);
    uint64_t before = c.board->value[0];
    inject_often(c.pid);
    await_state(c.pid, 'T');
    assert_int_equal(c.board->value[0], before);
    kill(c.pid, SIGCONT);
    while (c.board->value[0] == before)
        pause_us(100);
    child_end(&c);
}

static void a_traced_process_is_left_alone(void **state)
{
    struct child c;

    (void)state;
    child_start(&c, count_on);
    await(&c, 1);
    assert_int_equal(ptrace(PTRACE_SEIZE, c.pid, 0, 0), 0);
    inject_once(c.pid, false);
    ptrace(PTRACE_INTERRUPT, c.pid, 0, 0);
    waitpid(c.pid, NULL, 0);
    ptrace(PTRACE_DETACH, c.pid, 0, 0);
    inject_once(c.pid, true);
    child_end(&c);
}

/* Kills for anything but what this child does itself. */
static void live_under_a_filter(struct board *b)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_nanosleep, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_restart_syscall, 0, 1), /* any stop makes it */
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {FM_COUNT(filter), filter};

    if (b->flag)
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
    else
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
    b->reached = 1;
    for (;;) {
        b->value[0]++;
        if (!b->flag)
            pause_us(200);
    }
}

static void goes_on(const struct child *c)
{
    uint64_t before = c->board->value[0], deadline = fm_now_ms() + DEADLINE_MS;

    while (c->board->value[0] < before + 3) {
        if (fm_now_ms() > deadline)
            fail_msg("the child is dead");
        pause_us(100);
    }
}

static void a_seccomp_filter_does_not_kill(void **state)
{
    (void)state;
    for (int strict = 0; strict < 2; strict++) {
        struct child c;

        struct board *board = new_board();
        board->flag = strict;
        child_start_on(&c, board, live_under_a_filter, 0);
        await(&c, 1);
        inject_often(c.pid);
        goes_on(&c);
        child_end(&c);
    }
}

/* Without the right to suspend the filter: nothing is injected, everything is dirty. */
static void drop_admin_and_inject(pid_t pid)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct caps[2] = {0};

    if (syscall(SYS_capget, &header, caps) < 0)
        _exit(2);
    caps[0].effective &= ~(1u << CAP_SYS_ADMIN);
    if (syscall(SYS_capset, &header, caps) < 0)
        _exit(2);

    struct fm_error err = {0};
    struct fm_tracker *t = fm_tracker_open(FM_TRACKER_PAGEMAP_SCAN, &err);
    struct fm_memory_scan scan = {0};

    _exit(t && fm_tracker_round(t, &pid, 1, &scan, &err) == 0 && scan.count == 1 &&
                  !scan.items[0].tracked && scan.dirty_bytes == scan.present_bytes
              ? 0
              : 1);
}

static void a_filter_that_cannot_be_suspended_is_respected(void **state)
{
    struct child c;
    int status = 0;
    pid_t helper;

    (void)state;
    child_start(&c, live_under_a_filter);
    await(&c, 1);
    helper = fork();
    if (helper == 0)
        drop_admin_and_inject(c.pid);
    waitpid(helper, &status, 0);
    assert_int_equal(status, 0);
    goes_on(&c);
    child_end(&c);
}

/* ---- restartable sequences ---- */

#if defined(__x86_64__)

/* Spins within one sequence nearly all the time; counts how often it was aborted. */
static void spin_in_a_sequence(struct board *b)
{
    struct rseq *rseq = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    static struct rseq_cs section;

    if (__rseq_size == 0)
        _exit(1);
    for (;;) {
        uint64_t aborted = 0;

        b->value[1]++;
        __asm__ volatile(
            "leaq 1f(%%rip), %%rax\n\t"
            "movq %%rax, 8(%[section])\n\t"
            "leaq 2f(%%rip), %%rcx\n\t"
            "subq %%rax, %%rcx\n\t"
            "movq %%rcx, 16(%[section])\n\t"
            "leaq 4f(%%rip), %%rax\n\t"
            "movq %%rax, 24(%[section])\n\t"
            "movq %[section], %[pointer]\n\t"
            "movl $1, %[reached]\n\t"
            "1:\n\t"
            "movl $2000000000, %%eax\n\t"
            "3: decl %%eax\n\t"
            "jnz 3b\n\t"
            "2: jmp 5f\n\t"
            ".long 0x53053053\n\t"
            "4: movq $1, %[aborted]\n\t"
            "5:\n\t"
            : [aborted] "+m"(aborted), [pointer] "=m"(rseq->rseq_cs), [reached] "=m"(b->reached)
            : [section] "r"(&section)
            : "rax", "rcx", "memory", "cc");
        b->value[0] += aborted;
    }
}

static void a_restartable_sequence_is_aborted(void **state)
{
    struct child c;
    uint64_t begun;

    (void)state;
    child_start(&c, spin_in_a_sequence);
    await(&c, 1);
    begun = c.board->value[1];
    for (int i = 0; i < TIMES; i++) {
        uint64_t deadline = fm_now_ms() + DEADLINE_MS;

        inject_once(c.pid, true);
        while (c.board->value[1] == begun) {
            if (fm_now_ms() > deadline)
                fail_msg("the sequence went on half-way");
            pause_us(50);
        }
        begun = c.board->value[1];
    }
    assert_true(c.board->value[0] >= TIMES);
    child_end(&c);
}

#endif

/* ---- descriptors ---- */

static size_t userfaultfds_of(pid_t pid)
{
    fm_autofree char *path = fm_strf("/proc/%d/fd", (int)pid);
    fm_autoclosedir DIR *dir = opendir(path);
    size_t n = 0;

    for (struct dirent *e; dir && (e = readdir(dir));) {
        char target[64] = "";

        if (readlinkat(dirfd(dir), e->d_name, target, sizeof(target) - 1) > 0)
            n += strstr(target, "userfaultfd") != NULL;
    }
    return n;
}

static void *fork_on(void *arg)
{
    (void)arg;
    for (;;) {
        pid_t child = fork();

        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            pause_us(20000);
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
    return NULL;
}

static void fork_from_threads(struct board *b)
{
    pthread_t thread;

    for (int i = 0; i < 4; i++)
        pthread_create(&thread, NULL, fork_on, NULL);
    b->reached = 1;
    for (;;)
        pause();
}

static void nobody_keeps_a_descriptor_of_ours(void **state)
{
    struct child c;

    (void)state;
    child_start(&c, fork_from_threads);
    await(&c, 1);
    for (int i = 0; i < TIMES / 2; i++) {
        struct fm_tracker *t = open_tracker(FM_TRACKER_PAGEMAP_SCAN);

        for (int round = 0; round < 2; round++) {
            fm_cleanup(fm_memory_scan_clear) struct fm_memory_scan scan = {0};
            struct tree tree = tree_of(c.pid);

            scan_tree(t, &tree, false, &scan);
        }
        struct tree tree = freeze(c.pid);
        fm_cleanup(fm_memory_scan_clear) struct fm_memory_scan scan = {0};
        scan_tree(t, &tree, false, &scan);
        for (size_t p = 0; p < tree.count; p++)
            assert_int_equal(userfaultfds_of(tree.pids[p]), 0);
        thaw(&tree);
        fm_tracker_close(t);
    }
    child_end(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_signal_and_no_wakeup_is_lost),
        cmocka_unit_test(registers_survive_under_signals),
        cmocka_unit_test(a_stopped_process_stays_stopped),
        cmocka_unit_test(a_traced_process_is_left_alone),
        cmocka_unit_test(a_seccomp_filter_does_not_kill),
        cmocka_unit_test(a_filter_that_cannot_be_suspended_is_respected),
#if defined(__x86_64__)
        cmocka_unit_test(a_restartable_sequence_is_aborted),
#endif
        cmocka_unit_test(nobody_keeps_a_descriptor_of_ours),
        STOPPED_BY_SOFT_DIRTY(no_signal_and_no_wakeup_is_lost),
        STOPPED_BY_SOFT_DIRTY(registers_survive_under_signals),
        STOPPED_BY_SOFT_DIRTY(a_stopped_process_stays_stopped),
        STOPPED_BY_SOFT_DIRTY(a_traced_process_is_left_alone),
        STOPPED_BY_SOFT_DIRTY(a_seccomp_filter_does_not_kill),
    };

    if (fm_tracker_probe(FM_TRACKER_PAGEMAP_SCAN, NULL) < 0) {
        print_message("SKIPPED: no PAGEMAP_SCAN here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
