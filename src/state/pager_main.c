/* fleximigrate-pager: fills the memory of a restored container from the page store.
 *
 *   fleximigrate-pager --store DIR --work DIR --control PATH --daemon-fd N [--resume | --revive]
 *
 * Two processes that share their descriptors: a worker (pager_loop.c), and a keeper that replaces
 * it when it is killed; a worker whose keeper was killed becomes a keeper itself. As long as one of
 * the two or the daemon lives, the tasks wait for their pages instead of seeing zeroes, and so they
 * do when all three are dead and the container has kept its deposit.
 *
 * --resume: the daemon gives what it holds of a pager that has died. --revive: nobody holds
 * anything any more. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "state/pager_kill.h"
#include "state/pager_worker.h"

#define HASTY_US 200000u /* a worker that lives no longer has failed at what it found */
#define HASTY_MAX 20

struct options {
    const char *store, *work, *control;
    int daemon_fd;
    bool resume, revive;
};

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option known[] = {
        {"store", required_argument, NULL, 's'},
        {"work", required_argument, NULL, 'w'},
        {"control", required_argument, NULL, 'c'},
        {"daemon-fd", required_argument, NULL, 'd'},
        {"resume", no_argument, NULL, 'r'},
        {"revive", no_argument, NULL, 'v'},
        {0},
    };
    int c;

    *o = (struct options){.daemon_fd = -1};
    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        if (c == 's')
            o->store = optarg;
        else if (c == 'w')
            o->work = optarg;
        else if (c == 'c')
            o->control = optarg;
        else if (c == 'd')
            o->daemon_fd = atoi(optarg);
        else if (c == 'r')
            o->resume = true;
        else if (c == 'v')
            o->revive = true;
        else
            return -1;
    }
    return o->store && o->work && o->control && o->daemon_fd > 2 ? 0 : -1;
}

/* ---- Setting up ---- */

static void harden(void)
{
    struct rlimit files;
    FILE *f;

    setpriority(PRIO_PROCESS, 0, -10); /* a container waits for it, and not for long */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, SIG_IGN); /* it ends when its work is done, or when the daemon says so */
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    f = fopen("/proc/self/oom_score_adj", "we"); /* not permitted everywhere */
    if (f) {
        fputs("-1000", f);
        fclose(f);
    }
}

static int fail(const char *what, int error)
{
    fm_pager_say("%s: %s", what, strerror(error));
    return -1;
}

static int listen_anew(struct fm_pager_worker *w)
{
    fm_autofree char *lazy = fm_strf("%s/" FM_PAGER_LAZY_SOCKET, w->work_dir);
    int on = 1;

    if (w->state->lazy_listen < 0) {
        w->state->lazy_listen = fm_pager_listen(lazy, SOCK_STREAM);
        if (w->state->lazy_listen < 0)
            return fail("cannot listen for CRIU", -w->state->lazy_listen);
        /* Every message says whose it is: the task itself sends its userfaultfd. */
        setsockopt(w->state->lazy_listen, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
    }
    w->state->control_listen = fm_pager_listen(w->control_path, SOCK_SEQPACKET);
    if (w->state->control_listen < 0)
        return fail("cannot listen for daemons", -w->state->control_listen);
    return 0;
}

static int begin(struct fm_pager_worker *w, int daemon_fd)
{
    struct fm_error err = {0};

    if (fm_pager_state_create(&w->maps, w->store_dir, &err) < 0 ||
        fm_pager_state_lock(&w->maps, &err) < 0) {
        fm_pager_say("%s", err.text);
        return -1;
    }
    w->state = w->maps.state;
    w->state->control = daemon_fd;
    return 0;
}

static int start(struct fm_pager_worker *w, const struct options *o)
{
    if (o->resume)
        return fm_pager_take_over(w, o->daemon_fd);
    return o->revive ? fm_pager_revive(w, o->daemon_fd) : begin(w, o->daemon_fd);
}

/* ---- Keeper and worker ---- */

/* With our descriptors, not with our memory: what the worker receives stays open without it. */
static pid_t fork_sharing_descriptors(void)
{
    return (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
}

/* Returns in the worker with 0, in the keeper never. */
static void keep(struct fm_pager_worker *w)
{
    pid_t self = getpid();
    int hasty = 0;

    prctl(PR_SET_NAME, "fm-pager-keeper");
    for (;;) {
        uint64_t start = fm_now_us();
        pid_t worker = fork_sharing_descriptors();
        int status = 0;

        if (worker == 0) {
            prctl(PR_SET_NAME, "fm-pager");
            w->keeper = self;
            return;
        }
        if (worker < 0)
            fm_pager_say("cannot start a worker: %s", strerror(errno));
        while (worker > 0 && waitpid(worker, &status, 0) < 0 && errno == EINTR)
            ;
        if (worker > 0 && WIFEXITED(status) && WEXITSTATUS(status) == FM_PAGER_EXIT_DONE)
            _exit(0);
        hasty = fm_now_us() - start < HASTY_US ? hasty + 1 : 0;
        if (worker < 0 || WIFEXITED(status) || hasty > HASTY_MAX)
            break;
        fm_pager_say("the worker was killed by signal %d; another goes on", WTERMSIG(status));
    }
    fm_pager_kill_tasks(&w->maps);
    if (w->state->control >= 0)
        fm_pager_send(w->state->control, &(struct fm_pager_message){.kind = FM_PAGER_LOST}, NULL, 0,
                      MSG_DONTWAIT);
    _exit(FM_PAGER_EXIT_LOST);
}

static void clean_up(struct fm_pager_worker *w)
{
    fm_autofree char *lazy = fm_strf("%s/" FM_PAGER_LAZY_SOCKET, w->work_dir);

    unlink(lazy);
    unlink(w->control_path);
}

int main(int argc, char **argv)
{
    struct fm_pager_worker w = {.epoll = -1, .maps = {.fd = -1}};
    struct options o;
    int ret;

    if (parse(argc, argv, &o) < 0) {
        fprintf(stderr, "usage: fleximigrate-pager --store DIR --work DIR --control PATH "
                        "--daemon-fd N [--resume | --revive]\n");
        return 2;
    }
    harden();
    fcntl(o.daemon_fd, F_SETFD, FD_CLOEXEC);
    w.store_dir = o.store;
    w.work_dir = o.work;
    w.control_path = o.control;
    ret = start(&w, &o);
    if (ret < 0 || listen_anew(&w) < 0) {
        fm_pager_send(o.daemon_fd, &(struct fm_pager_message){.kind = FM_PAGER_LOST}, NULL, 0, 0);
        return FM_PAGER_EXIT_LOST;
    }
    for (;;) {
        keep(&w);
        ret = fm_pager_work(&w);
        if (ret != FM_PAGER_EXIT_ORPHAN)
            break;
        fm_pager_say("the keeper was killed; another takes its place");
        fm_pager_forget(&w);
    }
    if (ret == FM_PAGER_EXIT_DONE ||
        w.ended) /* else the socket shows a later daemon that it died */
        clean_up(&w);
    _exit(ret);
}
