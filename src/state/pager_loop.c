#include "state/pager_worker.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"

#define READY_MAX 64
#define STATUS_MS 50
#define PROBE_MS 1000
#define DEPOSIT_MS 10
#define LINGER_US 60
#define SPIN_TURNS 200 /* so often at once, before it waits a millisecond between turns */

void fm_pager_say(const char *fmt, ...)
{
    fm_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = fm_vstrf(fmt, ap);
    va_end(ap);
    fprintf(stderr, "fleximigrate-pager[%d]: %s\n", (int)getpid(), text);
}

void fm_pager_lose(struct fm_pager_worker *w, const char *fmt, ...)
{
    fm_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = fm_vstrf(fmt, ap);
    va_end(ap);
    if (!w->lost)
        fm_pager_say("%s; the container is killed, restore it again", text);
    w->lost = true;
}

int fm_pager_watch(struct fm_pager_worker *w, int fd, enum fm_pager_source source, uint32_t slot)
{
    struct epoll_event event = {
        .events = EPOLLIN,
        .data.u64 = (uint64_t)source << 32 | slot,
    };

    return fd < 0 ? -1 : epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &event);
}

/* ---- Descriptors that the one before us left ---- */

bool fm_pager_is_userfaultfd(int fd)
{
    char path[64], target[64];
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    n = readlink(path, target, sizeof(target) - 1);
    target[n > 0 ? n : 0] = '\0';
    return fm_streq(target, "anon_inode:[userfaultfd]");
}

static bool is_known(struct fm_pager_worker *w, int fd)
{
    const struct fm_pager_state *s = w->state;

    if (fd <= 2 || fd == w->maps.fd || fd == s->lazy_listen || fd == s->lazy ||
        fd == s->control_listen || fd == s->control || fd == s->deposit)
        return true;
    if (s->message.event == UFFD_EVENT_FORK && fd == (int)s->message.arg.fork.ufd)
        return true;
    for (uint32_t i = 0; i < s->slots; i++) {
        const struct fm_pager_slot *slot = fm_pager_slot(&w->maps, i);

        if (slot && slot->kind == FM_PAGER_SLOT_TASK && (slot->fd == fd || slot->pidfd == fd))
            return true;
    }
    return false;
}

/* Closes what nobody knows, but for a task's descriptor that was received and not yet noted. */
static void sweep(struct fm_pager_worker *w, int *orphan)
{
    fm_autoclosedir DIR *dir = opendir("/proc/self/fd");
    const struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        int fd = atoi(entry->d_name);

        if (fd == dirfd(dir) || is_known(w, fd))
            continue;
        if (*orphan < 0 && w->state->lazy_pid > 0 && fm_pager_is_userfaultfd(fd))
            *orphan = fd;
        else
            close(fd);
    }
}

/* ---- The loop ---- */

static void watch_all(struct fm_pager_worker *w)
{
    int keeper = pidfd_open(w->keeper, 0);

    w->keeper_gone = keeper < 0 || getppid() != w->keeper;
    fm_pager_watch(w, w->state->lazy_listen, FM_PAGER_ON_LAZY_LISTEN, 0);
    fm_pager_watch(w, w->state->lazy, FM_PAGER_ON_LAZY, 0);
    fm_pager_watch(w, w->state->control_listen, FM_PAGER_ON_CONTROL_LISTEN, 0);
    fm_pager_watch(w, w->state->control, FM_PAGER_ON_CONTROL, 0);
    fm_pager_watch(w, keeper, FM_PAGER_ON_KEEPER, 0);
}

static int take_up(struct fm_pager_worker *w)
{
    int orphan = -1;

    sweep(w, &orphan);
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->now_us = fm_now_us();
    if (w->epoll < 0) {
        fm_pager_lose(w, "cannot start: %s", strerror(errno));
        return -1;
    }
    watch_all(w);
    if (fm_pager_tasks_resume(w) < 0)
        return -1;
    fm_pager_deposit_resume(w);
    fm_pager_criu_resume(w, orphan);
    fm_pager_link_introduce(w);
    return 0;
}

static void dispatch(struct fm_pager_worker *w, uint64_t data)
{
    struct fm_pager_task *t;

    switch ((enum fm_pager_source)(data >> 32)) {
    case FM_PAGER_ON_TASK:
        t = fm_pager_task_of(w, (uint32_t)data);
        if (t)
            fm_pager_task_read(w, t);
        return;
    case FM_PAGER_ON_LAZY_LISTEN:
        fm_pager_criu_accept(w);
        return;
    case FM_PAGER_ON_LAZY:
        fm_pager_criu_read(w);
        return;
    case FM_PAGER_ON_CONTROL_LISTEN:
        fm_pager_link_accept(w);
        return;
    case FM_PAGER_ON_CONTROL:
        fm_pager_link_read(w);
        return;
    case FM_PAGER_ON_KEEPER:
        w->keeper_gone = true;
        return;
    }
}

static bool faults_due(const struct fm_pager_worker *w)
{
    for (size_t i = 0; i < w->fault_count; i++) {
        if (!w->faults[i].waiting)
            return true;
    }
    return false;
}

static int timeout_for(struct fm_pager_worker *w, bool work)
{
    if (w->hurry)
        return 0;
    if (work || faults_due(w)) {
        if (w->stalled == 0)
            return 0;
        if (w->stalled < SPIN_TURNS) {
            sched_yield(); /* to the task whose change of address space is under way */
            return 0;
        }
        return 1;
    }
    if (w->stale)
        return DEPOSIT_MS;
    if (w->state->resumed && w->task_count > 0)
        return w->state->control >= 0 || fm_pager_is_first_moment(w) ? STATUS_MS : PROBE_MS;
    return -1;
}

/* Who got a page often wants another one at once. To sleep until then takes both of them longer
 * than the page itself: a processor that idles has to be woken for either. */
static int linger(struct fm_pager_worker *w, struct epoll_event *ready)
{
    int n = 0;

    while (n == 0 && fm_now_us() - w->last_fault_us < LINGER_US) {
        n = epoll_wait(w->epoll, ready, READY_MAX, 0);
        if (n == 0)
            sched_yield();
    }
    return n;
}

static int await(struct fm_pager_worker *w, struct epoll_event *ready, bool work)
{
    int ms = timeout_for(w, work);
    int n = w->lingers && !w->hurry ? linger(w, ready) : 0;

    return n ? n : epoll_wait(w->epoll, ready, READY_MAX, ms);
}

static int processors(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : CPU_SETSIZE;
}

static bool all_done(const struct fm_pager_worker *w)
{
    return w->state->resumed && w->task_count == 0;
}

static void turn(struct fm_pager_worker *w, bool *work)
{
    struct epoll_event ready[READY_MAX];
    int n = await(w, ready, *work);

    w->hurry = false;
    w->now_us = fm_now_us();
    for (int i = 0; i < n && !w->lost; i++)
        dispatch(w, ready[i].data.u64);
    fm_pager_tasks_reap(w);
    if (faults_due(w)) {
        fm_pager_faults_retry(w, false);
        w->stalled = faults_due(w) ? w->stalled + 1 : 0;
    }
    *work = fm_pager_push(w);
    if (w->now_us - w->probed_us > PROBE_MS * 1000u) {
        fm_pager_probe_idle(w);
        w->probed_us = w->now_us;
    }
    fm_pager_tasks_reap(w);
    fm_pager_deposit_update(w);
    fm_pager_link_announce(w);
    fm_pager_link_status(w, false);
}

/* For a daemon that looks for us later. */
static void leave_note(const struct fm_pager_worker *w)
{
    fm_autofree char *path = fm_strf("%s/" FM_PAGER_DONE_FILE, w->store_dir);
    fm_autofree char *text = fm_strf("%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", w->state->total_bytes,
                                     w->state->faults, w->state->fault_us_max);
    struct fm_error err = {0};

    if (fm_file_write(path, text, strlen(text), 0600, &err) < 0)
        fm_pager_say("%s", err.text);
}

static void say_figures(const struct fm_pager_worker *w)
{
    struct rusage used;

    getrusage(RUSAGE_SELF, &used);
    fm_pager_say("done: %" PRIu64 " MiB, %" PRIu64 " faults, the longest %" PRIu64
                 " us; processor: user %ld ms, system %ld ms",
                 w->state->total_bytes >> 20, w->state->faults, w->state->fault_us_max,
                 used.ru_utime.tv_sec * 1000 + used.ru_utime.tv_usec / 1000,
                 used.ru_stime.tv_sec * 1000 + used.ru_stime.tv_usec / 1000);
}

enum fm_pager_exit fm_pager_work(struct fm_pager_worker *w)
{
    bool work = false;

    w->lingers = processors() > 1;
    w->buffer = aligned_alloc(fm_pager_page(), FM_PAGER_PIECE);
    if (!w->buffer || take_up(w) < 0)
        return FM_PAGER_EXIT_LOST;
    while (!w->ended && !w->lost && !w->keeper_gone && !all_done(w))
        turn(w, &work);
    if (all_done(w)) {
        fm_pager_deposit_end(w);
        w->state->done = 1;
        leave_note(w);
        fm_pager_link_status(w, true);
        say_figures(w);
        return FM_PAGER_EXIT_DONE;
    }
    if (w->ended && w->task_count == 0)
        return FM_PAGER_EXIT_DONE;
    if (w->lost || w->ended)
        return FM_PAGER_EXIT_LOST;
    return FM_PAGER_EXIT_ORPHAN;
}

void fm_pager_forget(struct fm_pager_worker *w)
{
    for (size_t i = 0; i < w->task_count; i++) {
        fm_cleanup_close(&w->tasks[i]->file);
        fm_pager_ranges_clear(&w->tasks[i]->recent);
        free(w->tasks[i]);
    }
    free(w->tasks);
    free(w->faults);
    free(w->buffer);
    fm_cleanup_close(&w->epoll);
    *w = (struct fm_pager_worker){
        .maps = w->maps,
        .state = w->state,
        .store_dir = w->store_dir,
        .work_dir = w->work_dir,
        .control_path = w->control_path,
        .epoll = -1,
    };
}
