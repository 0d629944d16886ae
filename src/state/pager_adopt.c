#include "state/pager_worker.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/deposit.h"
#include "base/text.h"

#define DEPOSIT_MAX (1u << 20) /* items */

static int give_up(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static int give_up(const char *fmt, ...)
{
    fm_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = fm_vstrf(fmt, ap);
    va_end(ap);
    fm_pager_say("%s", text);
    return -1;
}

/* The descriptors in an inherited state are numbers of a dead process. */
static int adopt_state(struct fm_pager_worker *w, int daemon_fd)
{
    struct fm_error err = {0};

    if (fm_pager_state_lock(&w->maps, &err) < 0)
        return give_up("%s", err.text);
    w->state = w->maps.state;
    w->lazy_due = w->state->lazy >= 0 && !w->state->resumed;
    w->state->lazy_listen = w->state->lazy = w->state->control_listen = -1;
    w->state->deposit = -1;
    w->state->control = daemon_fd;
    for (uint32_t i = 0; i < w->state->slots; i++) {
        struct fm_pager_slot *slot = fm_pager_slot(&w->maps, i);

        if (!slot)
            return -1;
        slot->fd = slot->pidfd = -1;
        slot->held = false;
    }
    if (w->state->message.event == UFFD_EVENT_FORK)
        w->state->message.arg.fork.ufd = (uint32_t)-1;
    /* What had come and had not been passed on is gone: such a task would see zeroes. */
    if (fm_pager_criu_lost(w->state)) {
        return give_up("a userfaultfd was lost");
    }
    return 0;
}

static void adopt_task(struct fm_pager_worker *w, uint32_t number, uint64_t serial,
                       bool held_by_daemon, int *fds)
{
    struct fm_pager_slot *slot = fm_pager_slot(&w->maps, number);

    if (!slot || slot->kind != FM_PAGER_SLOT_TASK || slot->serial != serial || slot->fd >= 0)
        return;
    slot->fd = FM_MOVE_FD(fds[0]);
    slot->pidfd = FM_MOVE_FD(fds[1]);
    slot->held = held_by_daemon;
}

static int adopt(struct fm_pager_worker *w, const struct fm_pager_message *m, int *fds)
{
    if (m->what == FM_PAGER_HELD_STATE)
        return -1; /* comes first, and once */
    if (m->what == FM_PAGER_HELD_LISTEN)
        w->state->lazy_listen = FM_MOVE_FD(fds[0]);
    if (m->what == FM_PAGER_HELD_LAZY)
        w->state->lazy = FM_MOVE_FD(fds[0]);
    if (m->what == FM_PAGER_HELD_TASK)
        adopt_task(w, m->slot, m->serial, true, fds);
    for (int i = 0; i < FM_PAGER_FDS_MAX; i++)
        fm_cleanup_close(&fds[i]);
    return 0;
}

/* The slot of the child whose fork the worker was killed over; NULL: it had not come so far. */
static struct fm_pager_slot *child_in_hand(struct fm_pager_worker *w)
{
    for (uint32_t i = 0; i < w->state->slots; i++) {
        struct fm_pager_slot *slot = fm_pager_slot(&w->maps, i);

        if (slot->kind == FM_PAGER_SLOT_TASK && slot->born == w->state->event)
            return slot;
    }
    return NULL;
}

static void adopt_fork(struct fm_pager_worker *w, uint64_t event, int *fds)
{
    struct fm_pager_slot *child;

    if (w->state->message.event != UFFD_EVENT_FORK || w->state->event != event)
        return;
    child = child_in_hand(w);
    if (child && child->fd < 0)
        child->fd = FM_MOVE_FD(fds[0]);
    else if (!child)
        w->state->message.arg.fork.ufd = (uint32_t)FM_MOVE_FD(fds[0]);
}

/* The container may have put anything into its deposit: only what fits is taken. */
static void adopt_deposit(struct fm_pager_worker *w)
{
    fm_autoclose int deposit = fm_deposit_open(w->state->deposit_pid, w->state->deposit_inode);
    struct fm_deposit_item item = {0};
    int fds[FM_DEPOSIT_FDS_MAX];

    if (deposit < 0)
        return;
    fm_deposit_look_begin(deposit);
    for (unsigned int i = 0; i < DEPOSIT_MAX && fm_deposit_look_next(deposit, &item, fds); i++) {
        if (item.magic && fm_pager_is_userfaultfd(fds[0])) {
            if (item.slot == FM_DEPOSIT_FORK)
                adopt_fork(w, item.serial, fds);
            else
                adopt_task(w, item.slot, item.serial, false, fds);
        }
        for (int k = 0; k < FM_DEPOSIT_FDS_MAX; k++)
            fm_cleanup_close(&fds[k]);
    }
    fm_deposit_look_end(deposit);
}

/* Every task must have got its userfaultfd back, unless it was released already. */
static int check_adopted(struct fm_pager_worker *w)
{
    if (w->state->message.event == UFFD_EVENT_FORK && child_in_hand(w))
        w->state->message = (struct uffd_msg){0};
    if (w->state->message.event == UFFD_EVENT_FORK && (int)w->state->message.arg.fork.ufd < 0) {
        return give_up("the userfaultfd of a process that was forked was lost");
    }
    if (w->lazy_due && w->state->lazy < 0) {
        return give_up("the connection of CRIU was lost");
    }
    for (uint32_t i = 0; i < w->state->slots; i++) {
        const struct fm_pager_slot *slot = fm_pager_slot(&w->maps, i);

        if (slot->kind != FM_PAGER_SLOT_TASK || slot->fd >= 0)
            continue;
        if (slot->ended) {
            fm_pager_slot_release(&w->maps, i);
        } else {
            return give_up("process %d: its userfaultfd was lost", slot->inner_pid);
        }
    }
    return 0;
}

int fm_pager_take_over(struct fm_pager_worker *w, int daemon_fd)
{
    struct fm_error err = {0};

    for (;;) {
        struct fm_pager_message m;
        int fds[FM_PAGER_FDS_MAX];
        int ret = fm_pager_receive(daemon_fd, &m, fds, 0);

        if (ret <= 0)
            return give_up("the daemon gave up: %s", strerror(ret < 0 ? -ret : ECONNRESET));
        if (m.kind == FM_PAGER_BEGIN)
            break;
        if (m.kind == FM_PAGER_ARRIVED)
            continue; /* its bits are in the state, which we read later */
        if (m.kind == FM_PAGER_GIVE && !w->state && m.what == FM_PAGER_HELD_STATE)
            ret = fm_pager_state_open(&w->maps, fds[0], &err) < 0 ? give_up("%s", err.text)
                                                                  : adopt_state(w, daemon_fd);
        else
            ret = w->state && m.kind == FM_PAGER_GIVE ? adopt(w, &m, fds) : -1;
        if (ret < 0)
            return -1;
    }
    if (!w->state)
        return -1;
    adopt_deposit(w); /* what the daemon had not been given yet */
    return check_adopted(w);
}

int fm_pager_revive(struct fm_pager_worker *w, int daemon_fd)
{
    struct fm_error err = {0};

    if (fm_pager_state_find(&w->maps, w->store_dir, &err) < 0)
        return give_up("%s", err.text);
    if (adopt_state(w, daemon_fd) < 0)
        return -1;
    if (!w->state->resumed) {
        return give_up("CRIU had not restored all tasks yet");
    }
    adopt_deposit(w);
    return check_adopted(w);
}
