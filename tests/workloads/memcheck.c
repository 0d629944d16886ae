/* Starts a process for each mode, prints how far all have come, and ends with 1 when one finds a
 * difference. */
#include "memcheck.h"
#include "workload.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define SLOTS 512
#define ROUNDS_BEFORE_CORRUPTION 3
#define FAULT_STACK (64 << 10)

struct mc_options mc_options = {
    .mib = 16, .rate = 500, .grow = 16, .seed = 1, .status_ms = 250, .directory = "/tmp"};
size_t mc_page_size;

static const struct mc_mode modes[] = {
    {"dirty", mc_mode_dirty, "one process, --mib of memory dirtied at --rate"},
    {"grow", mc_mode_grow, "--mib of memory, and --grow more at --rate once D/grow exists"},
    {"tree", mc_mode_tree, "50 processes that inherit from each other"},
    {"threads", mc_mode_threads, "eight threads with memory of their own and in common"},
    {"cow", mc_mode_cow, "memory shared by fork until written"},
    {"forkstorm", mc_mode_forkstorm,
     "children that live for milliseconds and verify what they inherit"},
    {"user", mc_mode_user, "a process of another user, not dumpable"},
    {"privileges", mc_mode_privileges, "no new privileges, no capabilities"},
    {"seccomp", mc_mode_seccomp, "a filter that kills for all but a few system calls"},
    {"remap", mc_mode_remap, "random mmap, munmap, mremap, mprotect and madvise"},
    {"reuse", mc_mode_reuse, "memory unmapped and mapped again, untouched: must be zero"},
    {"brk", mc_mode_brk, "a heap that grows and shrinks"},
    {"stack", mc_mode_stack, "deep recursion"},
    {"shared", mc_mode_shared, "shared anonymous memory of two processes"},
    {"memfd", mc_mode_memfd, "memfds, mapped at two addresses and read"},
    {"sysv", mc_mode_sysv, "System V shared memory, attached and not"},
    {"files", mc_mode_files, "files mapped private and shared, one of them unlinked"},
    {"tmpfs", mc_mode_tmpfs, "the same in /dev/shm"},
    {"kernel", mc_mode_kernel, "memory written by system calls and by another process"},
    {"hugetlb", mc_mode_hugetlb, "huge pages, when the host has some"},
    {"mlock", mc_mode_mlock, "mlock, MAP_LOCKED, on fault, and unlocked again"},
    {"protnone", mc_mode_protnone, "content behind PROT_NONE, and write-only memory"},
    {"idle", mc_mode_idle, "threads that sleep, no shorter than they asked to"},
};
#define MODES (sizeof(modes) / sizeof(*modes))

/* The one thing that all processes share. */
struct board {
    _Atomic uint32_t slots;
    _Atomic uint64_t errors;
    struct slot {
        _Atomic uint64_t rounds, pages;
        char mode[16];
        _Atomic bool skipped;
    } slot[SLOTS];
};
static struct board *board;
static __thread struct slot *own;
static __thread uint64_t random_state;

/* ---- workers --------------------------------------------------------------------------------- */

void mc_worker(const char *mode)
{
    uint32_t number = board->slots++;

    if (number >= SLOTS)
        mc_fail("more than %d workers", SLOTS);
    own = &board->slot[number];
    snprintf(own->mode, sizeof(own->mode), "%s", mode);
    random_state = mc_options.seed * SLOTS + number;
}

static bool is_broken(void)
{
    return mc_options.broken && strcmp(mc_options.broken, own->mode) == 0;
}

void mc_round(void)
{
    if (++own->rounds == ROUNDS_BEFORE_CORRUPTION && is_broken()) {
        struct mc_region region = mc_region_new(1);

        region.base[99] ^= 1;
        mc_region_check_all(&region);
    }
}

void mc_count(uint64_t pages)
{
    own->pages += pages;
}

/* One write, so that lines of several processes do not mix. */
static void say(const char *prefix, const char *format, va_list arguments)
{
    char line[512];
    int length = snprintf(line, sizeof(line), "%s %s, process %d: ", prefix, own ? own->mode : "?",
                          (int)getpid());

    length += vsnprintf(line + length, sizeof(line) - 1 - (size_t)length, format, arguments);
    if ((size_t)length > sizeof(line) - 2)
        length = sizeof(line) - 2;
    line[length] = '\n';
    if (write(STDOUT_FILENO, line, (size_t)length + 1) < 0)
        _exit(WL_EXIT_BAD);
}

void mc_fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    say("FAIL", format, arguments);
    va_end(arguments);
    board->errors++;
    _exit(WL_EXIT_BAD);
}

void mc_skip(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    say("SKIPPED", format, arguments);
    va_end(arguments);
    own->skipped = true;
    _exit(0);
}

/* On a stack of its own: the usual one may be what is broken. */
static void on_fault(int number, siginfo_t *info, void *context)
{
    const ucontext_t *at = context;

#if defined(__x86_64__)
    uint64_t ip = (uint64_t)at->uc_mcontext.gregs[REG_RIP],
             sp = (uint64_t)at->uc_mcontext.gregs[REG_RSP];
#elif defined(__aarch64__)
    uint64_t ip = at->uc_mcontext.pc, sp = at->uc_mcontext.sp;
#else
    uint64_t ip = 0, sp = (uint64_t)(uintptr_t)at;
#endif
    mc_fail("signal %d, code %d, at %p; instruction %#" PRIx64 ", stack %#" PRIx64, number,
            info->si_code, info->si_addr, ip, sp);
}

static void report_faults(void)
{
    const struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    const stack_t stack = {.ss_sp = mc_map(FAULT_STACK), .ss_size = FAULT_STACK};

    sigaltstack(&stack, NULL);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}

pid_t mc_spawn(void (*run)(void *), void *argument)
{
    pid_t pid = fork();

    mc_must(pid >= 0, "fork");
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    run(argument);
    _exit(0);
}

void mc_reap(void)
{
    int status;
    pid_t pid = waitpid(-1, &status, WNOHANG);

    if (pid > 0)
        mc_fail("its child %d has ended with status %#x", (int)pid, (unsigned)status);
}

void mc_pause(uint64_t us)
{
    const struct timespec time = {.tv_sec = (time_t)(us / 1000000),
                                  .tv_nsec = (long)(us % 1000000) * 1000};

    nanosleep(&time, NULL);
}

uint64_t mc_random(void)
{
    random_state += 0x9e3779b97f4a7c15;
    return wl_mix(random_state);
}

uint64_t mc_random_below(uint64_t end)
{
    return mc_random() % end;
}

/* ---- status ---------------------------------------------------------------------------------- */

/* The fewest rounds of a mode's workers, 0 before there is one; UINT64_MAX when it was skipped. */
static uint64_t rounds_of(const char *mode)
{
    uint64_t least = UINT64_MAX;
    bool started = false;

    for (uint32_t i = 0; i < board->slots && i < SLOTS; i++) {
        struct slot *slot = &board->slot[i];

        if (strcmp(slot->mode, mode) != 0)
            continue;
        started = true;
        if (!slot->skipped && slot->rounds < least)
            least = slot->rounds;
    }
    return started ? least : 0;
}

static void print_status(const struct mc_mode **chosen, size_t count)
{
    uint64_t pages = 0, least = UINT64_MAX;
    char line[1024];
    size_t length = 0;

    for (uint32_t i = 0; i < board->slots && i < SLOTS; i++)
        pages += board->slot[i].pages;
    for (size_t i = 0; i < count; i++) {
        uint64_t rounds = rounds_of(chosen[i]->name);

        least = rounds < least ? rounds : least;
        if (rounds != UINT64_MAX)
            length += (size_t)snprintf(line + length, sizeof(line) - length, " %s=%" PRIu64,
                                       chosen[i]->name, rounds);
    }
    printf("status rounds=%" PRIu64 " pages=%" PRIu64 " errors=%" PRIu64 "%.*s\n",
           least == UINT64_MAX ? 0 : least, pages, (uint64_t)board->errors, (int)length, line);
}

/* Every process that init gets to see die was a mode's, or an orphan. */
static void reap_all(void)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (status != 0 && board->errors++ == 0)
            printf("FAIL process %d has ended with status %#x\n", (int)pid, (unsigned)status);
    }
}

/* PID 1 of a container, mostly: its end is the end of all. */
static int watch(const struct mc_mode **chosen, size_t count, int stop_fd)
{
    struct pollfd stop = {.fd = stop_fd, .events = POLLIN};

    while (poll(&stop, 1, (int)mc_options.status_ms) <= 0) {
        reap_all();
        print_status(chosen, count);
        if (board->errors)
            return WL_EXIT_BAD;
    }
    return WL_EXIT_OK;
}

/* ---- the command line ------------------------------------------------------------------------ */

static void print_usage(void)
{
    fprintf(stderr, "usage: memcheck [options] [MODE…]\n"
                    "  --mib N --rate PAGES/S   of the modes dirty and grow (default 16, 500)\n"
                    "  --grow N                 MiB more in the mode grow (default 16)\n"
                    "  --seed N                 (default 1)\n"
                    "  --status-ms N            a line on stdout in this interval (default 250)\n"
                    "  --dir D                  for mapped files, and for grow (default /tmp)\n"
                    "  --break MODE             corrupts its own memory after a while\n"
                    "modes (default: all):\n");
    for (size_t i = 0; i < MODES; i++)
        fprintf(stderr, "  %-12s %s\n", modes[i].name, modes[i].what);
    exit(WL_EXIT_USAGE);
}

static const struct mc_mode *mode_of(const char *name)
{
    for (size_t i = 0; i < MODES; i++) {
        if (strcmp(modes[i].name, name) == 0)
            return &modes[i];
    }
    wl_die("there is no mode '%s'", name);
}

static void parse(int argc, char **argv)
{
    static const struct option known[] = {
        {"mib", required_argument, NULL, 'm'},       {"rate", required_argument, NULL, 'r'},
        {"grow", required_argument, NULL, 'g'},      {"seed", required_argument, NULL, 's'},
        {"status-ms", required_argument, NULL, 't'}, {"dir", required_argument, NULL, 'd'},
        {"break", required_argument, NULL, 'b'},     {0}};
    int option;

    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (option) {
        case 'm':
            mc_options.mib = wl_number("--mib", optarg);
            break;
        case 'r':
            mc_options.rate = wl_number("--rate", optarg);
            break;
        case 'g':
            mc_options.grow = wl_number("--grow", optarg);
            break;
        case 's':
            mc_options.seed = wl_number("--seed", optarg);
            break;
        case 't':
            mc_options.status_ms = wl_number("--status-ms", optarg);
            break;
        case 'd':
            mc_options.directory = optarg;
            break;
        case 'b':
            mc_options.broken = mode_of(optarg)->name;
            break;
        default:
            print_usage();
        }
    }
}

int main(int argc, char **argv)
{
    const struct mc_mode *chosen[MODES];
    size_t count = 0;
    int stop_fd;

    mc_page_size = (size_t)sysconf(_SC_PAGESIZE);
    board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED)
        wl_die("mmap: %s", strerror(errno));
    report_faults();
    if (argc > 1 && strcmp(argv[1], "--brief") == 0)
        return mc_brief_main();
    parse(argc, argv);
    setvbuf(stdout, NULL, _IOLBF, 4096);
    for (int i = optind; i < argc && count < MODES; i++)
        chosen[count++] = mode_of(argv[i]);
    for (size_t i = 0; optind == argc && i < MODES; i++)
        chosen[count++] = &modes[i];
    for (size_t i = 0; i < count; i++)
        mc_spawn(chosen[i]->run, NULL);
    stop_fd = wl_stop_signals();
    return watch(chosen, count, stop_fd);
}
