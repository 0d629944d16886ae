#include "state/pager_worker.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define STATUS_EVERY_US 50000u

static void hang_up(struct fm_pager_worker *w)
{
    int fd = w->state->control;

    if (fd < 0)
        return;
    epoll_ctl(w->epoll, EPOLL_CTL_DEL, fd, NULL);
    w->state->control = -1;
    fm_cleanup_close(&fd);
    /* Its duplicates went with it. */
    for (size_t i = 0; i < w->task_count; i++)
        w->tasks[i]->slot->held = w->tasks[i]->releasing = false;
    w->hurry = true;
    if (!w->state->resumed) {
        /* CRIU may have just said it. */
        fm_pager_criu_read(w);
        if (!w->state->resumed)
            w->ended = true;
    }
}

/* A full socket, or too many descriptors on their way, pass. Only a daemon that has closed its end
 * is gone, and the duplicates with it: what lies unread in the socket counts as a duplicate, too.
 */
static int tell(struct fm_pager_worker *w, const struct fm_pager_message *message, const int *fds,
                size_t count)
{
    int ret;

    if (w->state->control < 0)
        return -ENOTCONN;
    ret = fm_pager_send(w->state->control, message, fds, count, MSG_DONTWAIT);
    if (ret == -EPIPE || ret == -ECONNRESET || ret == -ENOTCONN)
        hang_up(w);
    return ret;
}

/* ---- What the daemon holds ---- */

static bool announce_task(struct fm_pager_worker *w, struct fm_pager_task *t)
{
    struct fm_pager_message m = {
        .kind = FM_PAGER_HOLD,
        .what = FM_PAGER_HELD_TASK,
        .slot = t->number,
        .serial = t->slot->serial,
    };
    int fds[2] = {t->slot->fd, t->slot->pidfd};

    if (t->slot->held || t->ending)
        return true;
    t->slot->held = true; /* first: whoever takes over must not believe that there are none */
    if (tell(w, &m, fds, t->slot->pidfd >= 0 ? 2 : 1) < 0)
        t->slot->held = false;
    return t->slot->held;
}

void fm_pager_link_announce(struct fm_pager_worker *w)
{
    for (size_t i = 0; i < w->task_count; i++) {
        if (!announce_task(w, w->tasks[i]))
            return;
    }
}

bool fm_pager_link_release(struct fm_pager_worker *w, struct fm_pager_task *t)
{
    struct fm_pager_message m = {
        .kind = FM_PAGER_RELEASE,
        .what = FM_PAGER_HELD_TASK,
        .slot = t->number,
        .serial = t->slot->serial,
    };

    if (t->slot->held && !t->releasing)
        t->releasing = tell(w, &m, NULL, 0) == 0;
    return !t->slot->held; /* hanging up makes it so */
}

void fm_pager_link_lazy(struct fm_pager_worker *w)
{
    struct fm_pager_message m = {.kind = FM_PAGER_HOLD, .what = FM_PAGER_HELD_LAZY};

    tell(w, &m, &w->state->lazy, w->state->lazy >= 0 ? 1 : 0);
}

void fm_pager_link_introduce(struct fm_pager_worker *w)
{
    struct fm_pager_message m = {.kind = FM_PAGER_HOLD, .what = FM_PAGER_HELD_STATE};

    tell(w, &m, &w->maps.fd, 1);
    m.what = FM_PAGER_HELD_LISTEN;
    tell(w, &m, &w->state->lazy_listen, 1);
    fm_pager_link_lazy(w);
    fm_pager_link_announce(w);
    fm_pager_link_status(w, true);
    m.kind = FM_PAGER_READY;
    tell(w, &m, NULL, 0);
}

void fm_pager_link_accept(struct fm_pager_worker *w)
{
    int fd = accept4(w->state->control_listen, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct ucred peer = {0};
    socklen_t len = sizeof(peer);

    if (fd < 0)
        return;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ||
        (peer.uid != 0 && peer.uid != geteuid())) {
        fm_cleanup_close(&fd);
        return;
    }
    if (w->state->control >= 0 && !w->state->resumed) { /* one that was given up still counts */
        fm_cleanup_close(&fd);
        return;
    }
    hang_up(w);
    w->state->control = fd;
    fm_pager_watch(w, fd, FM_PAGER_ON_CONTROL, 0);
    fm_pager_link_introduce(w);
    fm_pager_faults_retry(w, true); /* a new daemon does not know what they wait for */
}

/* ---- What it is told, and tells ---- */

void fm_pager_link_want(struct fm_pager_worker *w, int32_t inner_pid, uint64_t source)
{
    struct fm_pager_message m = {.kind = FM_PAGER_WANT, .inner_pid = inner_pid, .address = source};

    tell(w, &m, NULL, 0);
}

static struct fm_pager_status status_of(struct fm_pager_worker *w)
{
    uint64_t due = 0, missing = 0;

    for (size_t i = 0; i < w->task_count; i++) {
        const struct fm_pager_task *t = w->tasks[i];

        if (t->gone || t->slot->ended)
            continue;
        due += fm_pager_bits_count(t->slot);
        missing += fm_pager_bits_count_both(t->slot, t->store);
    }
    return (struct fm_pager_status){
        .total_bytes = w->state->total_bytes,
        .filled_bytes = w->state->total_bytes - due * fm_pager_page(),
        .missing_bytes = missing * fm_pager_page(),
        .faults = w->state->faults,
        .fault_us_max = w->state->fault_us_max,
        .processes = w->task_count,
        .resumed = w->state->resumed,
        .done = w->state->done,
    };
}

/* As far as it can have changed by itself. */
static bool same(const struct fm_pager_status *a, const struct fm_pager_status *b)
{
    return a->total_bytes == b->total_bytes && a->filled_bytes == b->filled_bytes &&
           a->missing_bytes == b->missing_bytes && a->faults == b->faults &&
           a->processes == b->processes;
}

void fm_pager_link_status(struct fm_pager_worker *w, bool at_once)
{
    struct fm_pager_message m = {.kind = FM_PAGER_STATUS};

    if (w->state->control < 0 || (!at_once && w->now_us - w->sent_us < STATUS_EVERY_US))
        return;
    m.status = status_of(w);
    w->sent_us = w->now_us;
    if (!at_once && same(&m.status, &w->sent))
        return;
    if (tell(w, &m, NULL, 0) == 0)
        w->sent = m.status;
}

static void on_released(struct fm_pager_worker *w, const struct fm_pager_message *m)
{
    struct fm_pager_task *t = fm_pager_task_of(w, m->slot);

    if (t && t->slot->serial == m->serial && t->releasing)
        t->slot->held = false;
}

static void on_message(struct fm_pager_worker *w, const struct fm_pager_message *m)
{
    switch (m->kind) {
    case FM_PAGER_RELEASED:
        on_released(w, m);
        return;
    case FM_PAGER_ARRIVED:
        for (size_t i = 0; i < w->task_count; i++)
            w->tasks[i]->idle = false;
        fm_pager_faults_retry(w, true);
        return;
    case FM_PAGER_RESTORED:
        w->restored = true;
        return;
    case FM_PAGER_END:
        w->ended = true;
        return;
    default:
        return;
    }
}

void fm_pager_link_read(struct fm_pager_worker *w)
{
    while (w->state->control >= 0 && !w->ended && !w->lost) {
        struct fm_pager_message m;
        int fds[FM_PAGER_FDS_MAX];
        int ret = fm_pager_receive(w->state->control, &m, fds, MSG_DONTWAIT);

        if (ret == -EAGAIN)
            return;
        if (ret <= 0) {
            hang_up(w);
            return;
        }
        for (int i = 0; i < FM_PAGER_FDS_MAX; i++)
            fm_cleanup_close(&fds[i]);
        on_message(w, &m);
    }
}
