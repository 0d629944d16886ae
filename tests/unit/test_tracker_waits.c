/* Tracker: a process that waits in a system call goes on waiting when it is stopped for a moment.
 */
#include "tracked_inject.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/time.h>

/* ---- calls that wait ---- */

/* Each says in value[0] what came of it: OK, or an errno. */
enum { UNDECIDED = 0, OK = 1000, WRONG = 1001 };

static int pipe_ends[2];

static void conclude(struct board *b, bool right, int error)
{
    b->value[0] = right ? OK : error ? (uint64_t)error : WRONG;
    for (;;)
        pause();
}

static void wait_in_read(struct board *b)
{
    char c;

    b->reached = 1;
    ssize_t n = read(pipe_ends[0], &c, 1);
    conclude(b, n == 1 && c == 'x', errno);
}

static void wait_in_poll(struct board *b)
{
    struct pollfd p = {.fd = pipe_ends[0], .events = POLLIN};

    b->reached = 1;
    int n = poll(&p, 1, -1);
    conclude(b, n == 1, errno);
}

static void wait_in_epoll(struct board *b)
{
    struct epoll_event e = {.events = EPOLLIN};
    int ep = epoll_create1(0);

    epoll_ctl(ep, EPOLL_CTL_ADD, pipe_ends[0], &e);
    b->reached = 1;
    int n = epoll_wait(ep, &e, 1, -1);
    conclude(b, n == 1, errno);
}

static void wait_in_select(struct board *b)
{
    fd_set set;

    FD_ZERO(&set);
    FD_SET(pipe_ends[0], &set);
    b->reached = 1;
    int n = select(pipe_ends[0] + 1, &set, NULL, NULL, NULL);
    conclude(b, n == 1, errno);
}

static void wait_in_futex(struct board *b)
{
    b->reached = 1;
    long n = syscall(SYS_futex, &b->flag, 0 /* FUTEX_WAIT */, 0, NULL);
    conclude(b, n == 0, errno);
}

static void wait_in_semop(struct board *b)
{
    struct sembuf down = {.sem_op = -1};

    b->reached = 1;
    int n = semop((int)b->value[1], &down, 1);
    conclude(b, n == 0, errno);
}

static void wait_in_sigtimedwait(struct board *b)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    b->reached = 1;
    int n = sigwaitinfo(&set, NULL);
    conclude(b, n == SIGUSR1, errno);
}

static void wait_in_waitpid(struct board *b)
{
    pid_t child = fork();
    char c;

    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(read(pipe_ends[0], &c, 1) == 1 ? 7 : 8);
    }
    b->reached = 1;
    int status = 0;
    pid_t n = waitpid(child, &status, 0);
    conclude(b, n == child && WEXITSTATUS(status) == 7, errno);
}

static void wait_in_recv_with_timeout(struct board *b)
{
    struct timeval timeout = {.tv_sec = 100};
    int pair[2];
    char c;

    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(read(pipe_ends[0], &c, 1) == 1 && write(pair[1], &c, 1) == 1 ? 0 : 1);
    }
    b->reached = 1;
    ssize_t n = recv(pair[0], &c, 1, 0);
    conclude(b, n == 1, errno);
}

static void wake_by_pipe(const struct child *c)
{
    (void)c;
    assert_int_equal(write(pipe_ends[1], "x", 1), 1);
}

static void wake_by_futex(const struct child *c)
{
    syscall(SYS_futex, &c->board->flag, 1 /* FUTEX_WAKE */, 1);
}

static void wake_by_sem(const struct child *c)
{
    struct sembuf up = {.sem_op = 1};

    assert_int_equal(semop((int)c->board->value[1], &up, 1), 0);
}

static void wake_by_signal(const struct child *c)
{
    kill(c->pid, SIGUSR1);
}

static void stays_in(child_main wait, void (*wake)(const struct child *c))
{
    struct child c;
    int sem = semget(IPC_PRIVATE, 1, 0600);

    assert_int_equal(pipe(pipe_ends), 0);
    struct board *board = new_board();
    board->value[1] = (uint64_t)sem;
    child_start_on(&c, board, wait, 0);
    await(&c, 1);
    await_state(c.pid, 'S');
    inject_often(c.pid);
    assert_int_equal(c.board->value[0], UNDECIDED);
    await_state(c.pid, 'S'); /* a futex has no memory of who was woken before */
    wake(&c);
    for (uint64_t end = fm_now_ms() + DEADLINE_MS; !c.board->value[0] && fm_now_ms() < end;)
        pause_us(100);
    assert_int_equal(c.board->value[0], OK);
    child_end(&c);
    semctl(sem, 0, IPC_RMID);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

static void waiting_calls_go_on_waiting(void **state)
{
    (void)state;
    stays_in(wait_in_read, wake_by_pipe);
    stays_in(wait_in_poll, wake_by_pipe);
    stays_in(wait_in_epoll, wake_by_pipe);
    stays_in(wait_in_select, wake_by_pipe);
    stays_in(wait_in_futex, wake_by_futex);
    stays_in(wait_in_semop, wake_by_sem);
    stays_in(wait_in_sigtimedwait, wake_by_signal);
    stays_in(wait_in_waitpid, wake_by_pipe);
    stays_in(wait_in_recv_with_timeout, wake_by_pipe);
}

static void sleep_half_a_second(struct board *b)
{
    struct timespec t = {.tv_nsec = 500 * 1000 * 1000};
    uint64_t since = fm_now_us();

    b->reached = 1;
    int rc = nanosleep(&t, NULL);
    b->value[1] = fm_now_us() - since;
    b->value[0] = rc == 0 ? OK : (uint64_t)errno;
    b->reached = 2;
    pause();
}

static void a_sleep_keeps_its_length(void **state)
{
    struct child c;

    (void)state;
    child_start(&c, sleep_half_a_second);
    await(&c, 1);
    while (c.board->reached < 2)
        inject_once(c.pid, true);
    assert_int_equal(c.board->value[0], OK);
    assert_true(c.board->value[1] >= 500 * 1000);
    assert_true(c.board->value[1] < 800 * 1000); /* from its start each time, it would not end */
    child_end(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(waiting_calls_go_on_waiting),
        cmocka_unit_test(a_sleep_keeps_its_length),
        STOPPED_BY_SOFT_DIRTY(waiting_calls_go_on_waiting),
        STOPPED_BY_SOFT_DIRTY(a_sleep_keeps_its_length),
    };

    if (fm_tracker_probe(FM_TRACKER_PAGEMAP_SCAN, NULL) < 0) {
        print_message("SKIPPED: no PAGEMAP_SCAN here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
