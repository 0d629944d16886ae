#include "state/pager_worker.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/deposit.h"
#include "state/inject.h"

#define REWRITE_US 20000u    /* a storm of forks must not keep us busy with it */
#define ITEMS_MAX (1u << 20) /* more than fit in: somebody puts in as fast as we take out */
#define CLOSE_ROUNDS 100
#define CLOSE_PAUSE_NS 10000000

/* ---- What is in it ---- */

static void empty(int fd)
{
    struct fm_deposit_item item;

    for (unsigned int i = 0; i < ITEMS_MAX && fm_deposit_drop(fd, &item); i++)
        ;
}

void fm_pager_deposit_forget(struct fm_pager_worker *w)
{
    int fd = w->state->deposit;

    w->state->deposit_pid = 0;
    w->state->deposit = -1;
    w->stale = false;
    for (size_t i = 0; i < w->task_count; i++)
        w->tasks[i]->kept = false;
    fm_cleanup_close(&fd);
}

/* What stays in there would keep the kernel asking for pages that nobody brings any more. */
static void give_up(struct fm_pager_worker *w, int error)
{
    fm_pager_say("the container cannot keep its userfaultfds: %s", strerror(-error));
    empty(w->state->deposit);
    fm_pager_deposit_forget(w);
}

static int put(struct fm_pager_worker *w, struct fm_pager_task *t)
{
    const struct fm_deposit_item item = {.slot = t->number, .serial = t->slot->serial};
    const int fds[FM_DEPOSIT_FDS_MAX] = {t->slot->fd, t->slot->pidfd};
    int ret = fm_deposit_put(w->state->deposit, &item, fds, t->slot->pidfd >= 0 ? 2 : 1);

    t->kept = ret == 0;
    return ret;
}

/* Everything once more behind a mark, and only then away with what lies before it: at no time is
 * anything missing. */
static int rewrite(struct fm_pager_worker *w)
{
    const struct fm_deposit_item mark = {.slot = FM_DEPOSIT_MARK, .serial = w->now_us};
    struct fm_deposit_item item = {0};
    int ret = fm_deposit_put(w->state->deposit, &mark, NULL, 0);

    for (size_t i = 0; i < w->task_count && ret == 0; i++) {
        w->tasks[i]->kept = false;
        if (!w->tasks[i]->ending)
            ret = put(w, w->tasks[i]);
    }
    for (unsigned int i = 0; i < ITEMS_MAX && ret == 0; i++) {
        if (!fm_deposit_drop(w->state->deposit, &item) ||
            (item.magic && item.slot == FM_DEPOSIT_MARK && item.serial == mark.serial))
            break;
    }
    w->stale = false;
    w->hurry = true; /* somebody waits for it */
    w->rewritten_us = w->now_us;
    return ret;
}

void fm_pager_deposit_fork(struct fm_pager_worker *w, int fd)
{
    const struct fm_deposit_item item = {.slot = FM_DEPOSIT_FORK, .serial = w->state->event};

    if (w->state->deposit >= 0 && fm_deposit_put(w->state->deposit, &item, &fd, 1) == 0)
        w->stale = true; /* it gets a slot at once */
}

void fm_pager_deposit_update(struct fm_pager_worker *w)
{
    int ret = 0;

    if (w->state->deposit < 0)
        return;
    for (size_t i = 0; i < w->task_count && ret == 0; i++) {
        if (!w->tasks[i]->kept && !w->tasks[i]->ending)
            ret = put(w, w->tasks[i]);
    }
    if (ret == 0 && w->stale && w->now_us - w->rewritten_us >= REWRITE_US)
        ret = rewrite(w);
    if (ret < 0)
        give_up(w, ret);
}

bool fm_pager_deposit_release(struct fm_pager_worker *w, struct fm_pager_task *t)
{
    if (t->kept)
        w->stale = true;
    return !t->kept || t->gone;
}

/* ---- Whose it is ---- */

void fm_pager_deposit_take(struct fm_pager_worker *w, int fd, pid_t init)
{
    if (fd < 0)
        return;
    fm_pager_deposit_forget(w);
    w->state->deposit_inode = fm_deposit_inode(fd);
    w->state->deposit_pid = init;
    w->state->deposit = fd;
}

void fm_pager_deposit_resume(struct fm_pager_worker *w)
{
    struct fm_pager_state *s = w->state;
    int ret;

    if (s->deposit < 0 && s->deposit_pid > 0)
        s->deposit = fm_deposit_open(s->deposit_pid, s->deposit_inode);
    if (s->deposit < 0)
        return;
    ret = rewrite(w); /* the one before us may have come half-way */
    if (ret < 0)
        give_up(w, ret);
}

/* ---- Its end ---- */

static bool has_it(pid_t pid, int number, uint64_t inode)
{
    char path[64], wanted[48], target[48];
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, number);
    snprintf(wanted, sizeof(wanted), "socket:[%" PRIu64 "]", inode);
    n = readlink(path, target, sizeof(target) - 1);
    target[n > 0 ? n : 0] = '\0';
    return strcmp(target, wanted) == 0;
}

/* In the init and in what it has forked since; true when nobody has it (any more). */
static bool close_everywhere(const struct fm_pager_worker *w, int number, struct fm_error *err)
{
    fm_autoclosedir DIR *proc = opendir("/proc");
    const struct dirent *entry;
    bool clean = true;

    while (proc && (entry = readdir(proc))) {
        pid_t pid = isdigit((unsigned char)entry->d_name[0]) ? atoi(entry->d_name) : 0;

        if (pid <= 1 || pid == getpid() || pid == getppid() || pid == w->keeper ||
            !has_it(pid, number, w->state->deposit_inode))
            continue;
        clean = false;
        fm_inject_close(pid, number, w->state->deposit, err);
    }
    return clean;
}

static int close_in_container(const struct fm_pager_worker *w)
{
    const struct timespec pause = {.tv_nsec = CLOSE_PAUSE_NS};
    int number = fm_deposit_number(w->state->deposit_pid, w->state->deposit_inode);
    struct fm_error err = {0};

    if (number < 0)
        return 0;
    for (int round = 0; round < CLOSE_ROUNDS; round++) {
        err = (struct fm_error){0};
        if (close_everywhere(w, number, &err))
            return 0;
        if (err.code)
            nanosleep(&pause, NULL);
    }
    fm_pager_say("descriptor %d stays open: %s", number, err.text);
    return 1;
}

/* By a process of its own: the tracer is a thread, and this process was not made for threads. */
void fm_pager_deposit_end(struct fm_pager_worker *w)
{
    pid_t helper;

    if (w->state->deposit < 0)
        return;
    empty(w->state->deposit);
    helper = fork();
    if (helper == 0)
        _exit(close_in_container(w));
    while (helper > 0 && waitpid(helper, NULL, 0) < 0 && errno == EINTR)
        ;
    fm_pager_deposit_forget(w);
}
