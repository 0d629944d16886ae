/*
 * The process tree: a pipeline in a process group of its own as a shell makes it, a checker at the
 * end of a socket pair that tries the parent's locks and shares memory with it, and a zombie.
 */
#include "kitchen_sink.h"
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FIRST_KEPT_FD 200
#define ZOMBIE_STATUS 42

/* A child keeps stdio, `in` and `out`; it dies with its parent. */
static pid_t fork_child(int *in, int *out)
{
    pid_t parent = getpid();
    pid_t child = fork();
    sigset_t none;

    if (child < 0)
        wl_die("fork: %s", strerror(errno));
    if (child > 0)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (in)
        *in = fcntl(*in, F_DUPFD, FIRST_KEPT_FD);
    if (out)
        *out = fcntl(*out, F_DUPFD, FIRST_KEPT_FD);
    close_range(STDERR_FILENO + 1, FIRST_KEPT_FD - 1, 0);
    return 0;
}

static _Noreturn void child_fail(const char *what)
{
    dprintf(STDERR_FILENO, "FAIL %s\n", what);
    _exit(1);
}

/* waitid without reaping, so that it can be asked again. */
static bool child_ended(pid_t pid, siginfo_t *info)
{
    memset(info, 0, sizeof(*info));
    return waitid(P_PID, (id_t)pid, info, WEXITED | WNOHANG | WNOWAIT) == 0 && info->si_pid == pid;
}

static void verify_alive(const char *name, pid_t pid)
{
    siginfo_t info;

    if (child_ended(pid, &info) || kill(pid, 0))
        sink_fail("%s: child %d is gone", name, (int)pid);
}

/* ---- generator | filter | parent ------------------------------------------------------------ */

struct numbered {
    uint64_t number;
    uint64_t proof;
};

static pid_t generator, filter;
static uint64_t pipeline_count;
static struct watch *pipeline_watch;

static _Noreturn void generate(int out)
{
    const struct timespec pause = {.tv_nsec = 5000000};

    for (uint64_t number = 0;; number++) {
        if (write(out, &number, sizeof(number)) != (ssize_t)sizeof(number))
            child_fail("generator: write");
        nanosleep(&pause, NULL);
    }
}

static _Noreturn void filter_numbers(int in, int out)
{
    for (uint64_t expected = 0;; expected++) {
        struct numbered item;

        if (read(in, &item.number, sizeof(item.number)) != (ssize_t)sizeof(item.number) ||
            item.number != expected)
            child_fail("filter: numbers out of order");
        item.proof = wl_mix(item.number);
        if (write(out, &item, sizeof(item)) != (ssize_t)sizeof(item))
            child_fail("filter: write");
    }
}

static void pipeline_read(struct watch *watch, uint32_t events)
{
    struct numbered item;
    ssize_t got = read(watch->fd, &item, sizeof(item));

    (void)events;
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got != (ssize_t)sizeof(item)) {
        sink_fail("pipeline: it ended");
        sink_unwatch(watch);
    } else if (item.number != pipeline_count++ || item.proof != wl_mix(item.number)) {
        sink_fail("pipeline: number %" PRIu64 " came as the %" PRIu64 "th", item.number,
                  pipeline_count);
    }
}

static void pipeline_start(void)
{
    int first[2], second[2];

    if (pipe2(first, O_CLOEXEC) || pipe2(second, O_CLOEXEC))
        wl_die("pipe: %s", strerror(errno));
    generator = fork_child(NULL, &first[1]);
    if (generator == 0)
        generate(first[1]);
    filter = fork_child(&first[0], &second[1]);
    if (filter == 0)
        filter_numbers(first[0], second[1]);
    setpgid(generator, generator);
    setpgid(filter, generator);
    close(first[0]);
    close(first[1]);
    close(second[1]);
    fcntl(second[0], F_SETFL, O_NONBLOCK);
    pipeline_watch = sink_watch(second[0], EPOLLIN, pipeline_read, NULL);
}

static void pipeline_verify(void)
{
    verify_alive("generator", generator);
    verify_alive("filter", filter);
    if (getpgid(generator) != generator || getpgid(filter) != generator)
        sink_fail("pipeline: its process group changed");
}

static uint64_t pipeline_progress(void)
{
    return pipeline_count;
}

static void pipeline_corrupt(void)
{
    kill(filter, SIGKILL);
}

const struct subject subject_pipeline = {.name = "pipeline",
                                         .start = pipeline_start,
                                         .verify = pipeline_verify,
                                         .progress = pipeline_progress,
                                         .corrupt = pipeline_corrupt};

/* ---- the checker ---------------------------------------------------------------------------- */

struct question {
    uint64_t number;
};

struct finding {
    uint64_t number;
    char problem[64]; /* empty: none */
};

static pid_t checker;
static uint64_t questions, findings;
static struct watch *checker_watch;

static const char *flock_problem(void)
{
    int fd = open(locks_flock_path(), O_RDWR | O_CLOEXEC);
    bool held = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;

    if (fd >= 0)
        close(fd);
    return held ? "" : "locks: flock is not held";
}

static const char *fcntl_problem(void)
{
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 5, .l_len = 1};
    int fd = open(locks_fcntl_path(), O_RDWR | O_CLOEXEC);
    bool held = fd >= 0 && fcntl(fd, F_GETLK, &range) == 0 && range.l_type == F_WRLCK &&
                range.l_pid == getppid() && range.l_start == 0 && range.l_len == 10;

    if (fd >= 0)
        close(fd);
    return held ? "" : "locks: the record lock is not held";
}

static const char *find_problem(struct memory_shared *shared, pid_t parent)
{
    const char *problem = "";

    if (getppid() != parent)
        return "checker: another parent";
    if (!memory_shared_step(shared))
        return "checker: shared memory differs";
    if (locks_enabled())
        problem = flock_problem();
    if (locks_enabled() && !problem[0])
        problem = fcntl_problem();
    return problem;
}

static _Noreturn void check_for_ever(int socket, struct memory_shared *shared, pid_t parent)
{
    struct question question;

    while (recv(socket, &question, sizeof(question), 0) == (ssize_t)sizeof(question)) {
        struct finding finding = {.number = question.number};

        strncpy(finding.problem, find_problem(shared, parent), sizeof(finding.problem) - 1);
        if (send(socket, &finding, sizeof(finding), MSG_NOSIGNAL) != (ssize_t)sizeof(finding))
            child_fail("checker: send");
    }
    child_fail("checker: its socket ended");
}

static void checker_read(struct watch *watch, uint32_t events)
{
    struct finding finding;
    ssize_t got = recv(watch->fd, &finding, sizeof(finding), MSG_DONTWAIT);

    (void)events;
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got != (ssize_t)sizeof(finding)) {
        sink_fail("checker: it ended");
        checker_watch = NULL;
        sink_unwatch(watch);
        return;
    }
    if (finding.number != findings++)
        sink_fail("checker: answers out of order");
    if (finding.problem[0])
        sink_fail("%s", finding.problem);
}

static void checker_start(void)
{
    struct memory_shared *shared = memory_shared();
    pid_t parent = getpid();
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        wl_die("socketpair: %s", strerror(errno));
    checker = fork_child(&ends[1], NULL);
    if (checker == 0)
        check_for_ever(ends[1], shared, parent);
    close(ends[1]);
    checker_watch = sink_watch(ends[0], EPOLLIN, checker_read, NULL);
}

static void checker_tick(void)
{
    struct question question = {.number = questions};

    if (checker_watch && send(checker_watch->fd, &question, sizeof(question),
                              MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof(question))
        questions++;
    if (!memory_shared_step(memory_shared()))
        sink_fail("checker: shared memory differs in the parent");
}

static void checker_verify(void)
{
    verify_alive("checker", checker);
}

static uint64_t checker_progress(void)
{
    return findings;
}

static void checker_corrupt(void)
{
    kill(checker, SIGSTOP);
}

const struct subject subject_checker = {.name = "checker",
                                        .start = checker_start,
                                        .tick = checker_tick,
                                        .verify = checker_verify,
                                        .progress = checker_progress,
                                        .corrupt = checker_corrupt};

/* ---- a child that has ended and is not reaped ----------------------------------------------- */

static pid_t zombie;

static void zombie_start(void)
{
    siginfo_t info;

    zombie = fork_child(NULL, NULL);
    if (zombie == 0)
        _exit(ZOMBIE_STATUS);
    waitid(P_PID, (id_t)zombie, &info, WEXITED | WNOWAIT);
}

static void zombie_verify(void)
{
    siginfo_t info;

    if (!child_ended(zombie, &info) || info.si_code != CLD_EXITED ||
        info.si_status != ZOMBIE_STATUS)
        sink_fail("zombie: it or its exit status is gone");
}

static void zombie_corrupt(void)
{
    waitpid(zombie, NULL, 0);
}

const struct subject subject_zombie = {
    .name = "zombie", .start = zombie_start, .verify = zombie_verify, .corrupt = zombie_corrupt};
