/* Modes that differ in who has the memory: processes, threads, users, short lives. */
#include "memcheck.h"
#include "workload.h"

#include <errno.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define RATE 200 /* pages per second, where it does not matter much */

static uint64_t pages_of(uint64_t bytes)
{
    return bytes / mc_page_size;
}

void mc_mode_dirty(void *argument)
{
    struct mc_region region;

    (void)argument;
    mc_worker("dirty");
    region = mc_region_new(pages_of(mc_options.mib << 20));
    mc_regions_run(&region, 1, mc_options.rate);
}

/* ---- grow ------------------------------------------------------------------------------------ */

#define GROW_TICK_US 2000

static void add_page(struct mc_region *region)
{
    mc_region_fill(region, region->pages++);
}

void mc_mode_grow(void *argument)
{
    const uint64_t first = pages_of(mc_options.mib << 20);
    const uint64_t most = first + pages_of(mc_options.grow << 20);
    const uint64_t per_tick = mc_options.rate * GROW_TICK_US / 1000000 + 1;
    struct mc_region region = {.base = mc_map(most * mc_page_size),
                               .version = mc_map(most * sizeof(*region.version))};
    char sign[256];

    (void)argument;
    mc_worker("grow");
    snprintf(sign, sizeof(sign), "%s/grow", mc_options.directory);
    while (region.pages < first)
        add_page(&region);
    for (bool grows = false;; mc_pause(GROW_TICK_US)) {
        grows = grows || access(sign, F_OK) == 0;
        for (uint64_t i = 0; grows && i < per_tick && region.pages < most; i++)
            add_page(&region);
        mc_region_dirty(&region, 1);
        if (mc_region_verify(&region, 512))
            mc_round();
    }
}

/* ---- tree: init's child, 7 below it, 6 below each of these: 50 ------------------------------- */

#define TREE_CHILDREN 7
#define TREE_GRANDCHILDREN 6

struct tree {
    int depth;
    struct mc_region inherited;
};

static void tree_main(void *argument)
{
    struct tree tree = *(struct tree *)argument;
    int children = tree.depth == 0 ? TREE_CHILDREN : tree.depth == 1 ? TREE_GRANDCHILDREN : 0;
    struct mc_region regions[2] = {tree.inherited};

    mc_worker("tree");
    if (tree.depth == 1)
        setsid();
    mc_region_check_all(&regions[0]);
    mc_region_dirty(&regions[0], regions[0].pages / 8);
    tree.depth++;
    tree.inherited = regions[0];
    for (int i = 0; i < children; i++)
        mc_spawn(tree_main, &tree);
    regions[1] = mc_region_new(pages_of(256 << 10));
    mc_regions_run(regions, 2, 20);
}

void mc_mode_tree(void *argument)
{
    struct tree tree = {.inherited = mc_region_new(pages_of(1 << 20))};

    (void)argument;
    tree_main(&tree);
}

/* ---- threads --------------------------------------------------------------------------------- */

#define THREADS 8

static pthread_mutex_t common_lock = PTHREAD_MUTEX_INITIALIZER;
static struct mc_region common;
static __thread uint64_t thread_number = 1;

static void *thread_main(void *argument)
{
    const uint64_t number = (uint64_t)(uintptr_t)argument;
    struct mc_region mine;

    mc_worker("threads");
    mine = mc_region_new(pages_of(1 << 20));
    thread_number = wl_mix(number);
    for (;;) {
        mc_region_dirty(&mine, 1);
        if (mc_region_verify(&mine, mine.pages / 64 + 1))
            mc_round();
        pthread_mutex_lock(&common_lock);
        mc_region_dirty(&common, 1);
        mc_region_verify(&common, 4);
        pthread_mutex_unlock(&common_lock);
        if (thread_number != wl_mix(number))
            mc_fail("data of thread %d has changed", (int)number);
        mc_pause(5000);
    }
    return NULL;
}

void mc_mode_threads(void *argument)
{
    pthread_t thread;

    (void)argument;
    common = mc_region_new(pages_of(1 << 20));
    for (uintptr_t i = 1; i < THREADS; i++) {
        if (pthread_create(&thread, NULL, thread_main, (void *)i))
            mc_fail("pthread_create");
    }
    thread_main(NULL);
}

/* ---- cow: the same memory in a parent, two children and a grandchild, who all write to it ---- */

static void cow_leaf(void *argument)
{
    mc_worker("cow");
    mc_regions_run(argument, 1, RATE / 4);
}

static void cow_child(void *argument)
{
    mc_worker("cow");
    mc_region_dirty(argument, 64);
    mc_spawn(cow_leaf, argument);
    mc_regions_run(argument, 1, RATE / 8);
}

void mc_mode_cow(void *argument)
{
    struct mc_region region;

    (void)argument;
    mc_worker("cow");
    region = mc_region_new(pages_of(4 << 20));
    mc_spawn(cow_leaf, &region);
    mc_spawn(cow_child, &region);
    mc_regions_run(&region, 1, RATE / 4);
}

/* ---- forkstorm ------------------------------------------------------------------------------- */

#define STORM 6

static void storm_grandchild(void *argument)
{
    mc_pause(mc_random_below(30000));
    mc_region_check_all(argument);
}

/* All that it inherited is right at its birth and at its end, with its own changes in it. */
static void storm_child(void *argument)
{
    struct mc_region *region = argument;
    char *brief[] = {(char *)(uintptr_t) "memcheck", (char *)(uintptr_t) "--brief", NULL};
    int status = 0;
    pid_t pid;

    mc_region_check_all(region);
    mc_region_dirty(region, 16);
    mc_pause(mc_random_below(50000));
    if (mc_random_below(4) == 0) {
        pid = mc_spawn(storm_grandchild, region);
        mc_must(waitpid(pid, &status, 0) == pid && status == 0, "a grandchild");
    }
    mc_region_check_all(region);
    if (mc_random_below(8) == 0) {
        execv("/proc/self/exe", brief);
        mc_fail("execv: %m");
    }
}

int mc_brief_main(void)
{
    struct mc_region region = mc_region_new(64);

    for (int i = 0; i < 4; i++) {
        mc_region_dirty(&region, 16);
        mc_region_check_all(&region);
        mc_pause(5000);
    }
    return 0;
}

void mc_mode_forkstorm(void *argument)
{
    struct mc_region region;
    int running = 0, status;
    pid_t pid;

    (void)argument;
    mc_worker("forkstorm");
    region = mc_region_new(pages_of(2 << 20));
    for (;;) {
        for (; running < STORM; running++) {
            mc_spawn(storm_child, &region);
            mc_random(); /* the next child has other numbers */
        }
        mc_region_dirty(&region, 4);
        if (mc_region_verify(&region, region.pages / 32 + 1))
            mc_round();
        for (; (pid = waitpid(-1, &status, WNOHANG)) > 0; running--) {
            if (status)
                mc_fail("child %d has ended with status %#x", (int)pid, (unsigned)status);
        }
        mc_pause(10000);
    }
}

/* ---- other users and fewer rights ------------------------------------------------------------ */

#define USER 1234

void mc_mode_user(void *argument)
{
    struct mc_region region;

    (void)argument;
    mc_worker("user");
    region = mc_region_new(pages_of(2 << 20));
    mc_must(setgroups(0, NULL) == 0 && setgid(USER) == 0 && setuid(USER) == 0, "setuid");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_DUMPABLE, 0);
    mc_regions_run(&region, 1, RATE);
}

static void privileges_leaf(void *argument)
{
    mc_worker("privileges");
    mc_regions_run(argument, 1, RATE / 4);
}

void mc_mode_privileges(void *argument)
{
    struct mc_region region;

    (void)argument;
    mc_worker("privileges");
    region = mc_region_new(pages_of(1 << 20));
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    for (int capability = 0; capability <= 63; capability++)
        prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    mc_must(setgid(USER + 1) == 0 && setuid(USER + 1) == 0, "setuid");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    mc_spawn(privileges_leaf, &region);
    mc_regions_run(&region, 1, RATE / 4);
}

/* ---- seccomp: whoever makes this process call anything else kills it ------------------------- */

#if defined(__x86_64__)
#define FILTER_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define FILTER_ARCH AUDIT_ARCH_AARCH64
#endif

static void seccomp_confine(void)
{
#ifdef FILTER_ARCH
    static const unsigned allowed[] = {
        SYS_read,  SYS_write,      SYS_nanosleep, SYS_clock_nanosleep, SYS_clock_gettime,
        SYS_exit,  SYS_exit_group, SYS_getpid,    SYS_restart_syscall, SYS_rt_sigreturn,
        SYS_futex, SYS_wait4,      SYS_madvise,
    };
    const size_t count = sizeof(allowed) / sizeof(*allowed);
    struct sock_filter code[4 + sizeof(allowed) / sizeof(*allowed) + 2];
    size_t n = 0;

    code[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, FILTER_ARCH, 1, 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    code[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < count; i++)
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i],
                                                 (unsigned char)(count - i), 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);

    const struct sock_fprog program = {.len = (unsigned short)n, .filter = code};

    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    mc_must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "PR_SET_SECCOMP");
#else
    mc_skip("no filter for this architecture");
#endif
}

static void seccomp_leaf(void *argument)
{
    mc_worker("seccomp");
    mc_regions_run(argument, 1, RATE / 4);
}

void mc_mode_seccomp(void *argument)
{
    struct mc_region region;

    (void)argument;
    mc_worker("seccomp");
    region = mc_region_new(pages_of(2 << 20));
    mc_spawn(seccomp_leaf, &region);
    seccomp_confine();
    mc_regions_run(&region, 1, RATE);
}
