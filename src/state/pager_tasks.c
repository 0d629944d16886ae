#include "state/pager_worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"

#define GAP_PAGES 512u /* shorter ones do not end an area: a bit is less than an area */
#define MESSAGES_AT_ONCE 64

/* ---- Stores ---- */

/* Sets the bits of the ranges of `f`, which lie within the areas of `areas`. */
static void set_ranges(struct fm_pager_slot *slot, const struct fm_pager_ranges *f)
{
    uint64_t start, end;

    for (size_t i = 0; i < f->count; i++) {
        fm_pager_ranges_at(f, i, &start, &end);
        while (start < end) {
            uint32_t count;
            const struct fm_pager_area *areas = fm_pager_areas(slot, &count);
            uint32_t at = fm_pager_area_index(slot, start);
            uint64_t low, high;

            if (at == count || areas[at].start >= end)
                break;
            low = areas[at].start > start ? areas[at].start : start;
            high = areas[at].end < end ? areas[at].end : end;
            fm_pager_bits_set(slot, areas[at].first + (low - areas[at].start) / fm_pager_page(),
                              (high - low) / fm_pager_page());
            start = high;
        }
    }
}

static int add_areas(struct fm_pager_slot *slot, const struct fm_pager_ranges *present)
{
    uint64_t first = 0, last = 0, start, end;

    for (size_t i = 0; i < present->count; i++) {
        fm_pager_ranges_at(present, i, &start, &end);
        if (last && start - last > GAP_PAGES * fm_pager_page()) {
            if (fm_pager_area_add(slot, first, last) < 0)
                return -FM_E_NO_SPACE;
            last = 0;
        }
        if (!last)
            first = start;
        last = end;
    }
    return last ? fm_pager_area_add(slot, first, last) : 0;
}

/* Slots of a store and of its first task, complete but for their kinds. */
static int load(struct fm_pager_worker *w, int32_t inner_pid, struct fm_pager_slot *store,
                struct fm_pager_slot *task, struct fm_error *err)
{
    fm_cleanup(fm_pager_ranges_clear) struct fm_pager_ranges present = {0};
    fm_cleanup(fm_pager_ranges_clear) struct fm_pager_ranges missing = {0};

    if (fm_pager_ranges_read(&present, w->store_dir, inner_pid, "present", err) < 0)
        return fm_error_result(err);
    if (fm_pager_ranges_read(&missing, w->store_dir, inner_pid, "missing", err) < 0) {
        if (err->code != FM_E_NOT_FOUND)
            return fm_error_result(err);
        *err = (struct fm_error){0};
    }
    if (add_areas(store, &present) < 0 || add_areas(task, &present) < 0 ||
        fm_pager_bits_reserve(store) < 0 || fm_pager_bits_reserve(task) < 0)
        return fm_error_set(err, FM_E_NO_SPACE, "too much memory, or no room to keep track of it");
    set_ranges(store, &missing);
    set_ranges(task, &present);
    store->inner_pid = inner_pid;
    store->fd = store->pidfd = -1;
    task->inner_pid = inner_pid;
    task->total = fm_pager_bits_count(task);
    return 0;
}

/* ---- Tasks ---- */

struct fm_pager_task *fm_pager_task_of(struct fm_pager_worker *w, uint32_t slot)
{
    for (size_t i = 0; i < w->task_count; i++) {
        if (w->tasks[i]->number == slot)
            return w->tasks[i];
    }
    return NULL;
}

static int open_pages(struct fm_pager_worker *w, const struct fm_pager_slot *slot)
{
    fm_autofree char *path = fm_strf("%s/%d.pages", w->store_dir, slot->inner_pid);

    for (size_t i = 0; i < w->task_count; i++) {
        if (w->tasks[i]->slot->store == slot->store)
            return w->tasks[i]->file < 0 ? -1 : fcntl(w->tasks[i]->file, F_DUPFD_CLOEXEC, 3);
    }
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* The worker's own view of a task whose slot is complete. */
static struct fm_pager_task *attach(struct fm_pager_worker *w, uint32_t number)
{
    struct fm_pager_slot *slot = fm_pager_slot(&w->maps, number);
    struct fm_pager_task *t = fm_xcalloc(1, sizeof(*t));

    t->number = number;
    t->slot = slot;
    t->store = fm_pager_slot(&w->maps, slot->store);
    t->pagemap = -1;
    t->file = open_pages(w, slot);
    if (t->file < 0 && slot->total > 0)
        fm_pager_lose(w, "cannot open the store of process %d: %s", slot->inner_pid,
                      strerror(errno));
    if (!t->store || fm_pager_watch(w, slot->fd, FM_PAGER_ON_TASK, number) < 0)
        fm_pager_lose(w, "cannot watch process %d", slot->inner_pid);
    if (w->task_count == w->task_capacity) {
        w->task_capacity = w->task_capacity ? 2 * w->task_capacity : 16;
        w->tasks = fm_xrealloc(w->tasks, w->task_capacity * sizeof(struct fm_pager_task *));
    }
    w->tasks[w->task_count++] = t;
    return t;
}

static void count_in(struct fm_pager_worker *w, struct fm_pager_slot *slot)
{
    slot->serial = ++w->state->serial;
    w->state->total_bytes += slot->total * fm_pager_page();
}

int fm_pager_task_add(struct fm_pager_worker *w, int32_t inner_pid, int fd, int pidfd)
{
    struct fm_error err = {0};
    uint32_t store_number = fm_pager_slot_allocate(&w->maps);
    struct fm_pager_slot *store = fm_pager_slot(&w->maps, store_number);
    struct fm_pager_slot *task;
    uint32_t number;

    if (!store)
        return -1;
    fm_pager_slot_set_kind(store, FM_PAGER_SLOT_STORE); /* taken; without a pid nobody finds it */
    number = fm_pager_slot_allocate(&w->maps);
    task = fm_pager_slot(&w->maps, number);
    if (!task)
        return -1;
    if (load(w, inner_pid, store, task, &err) < 0) {
        fm_pager_say("process %d: %s", inner_pid, err.text);
        fm_pager_slot_release(&w->maps, store_number);
        return -1;
    }
    task->store = store_number;
    task->fd = fd;
    task->pidfd = pidfd;
    count_in(w, task);
    fm_pager_slot_set_kind(task, FM_PAGER_SLOT_TASK);
    /* A hint only: without it the background begins somewhere else. */
    fm_pager_ranges_read(&attach(w, number)->recent, w->store_dir, inner_pid, "recent", &err);
    return 0;
}

static void drop(struct fm_pager_worker *w, struct fm_pager_task *t)
{
    int fd = t->slot->fd, pidfd = t->slot->pidfd;

    epoll_ctl(w->epoll, EPOLL_CTL_DEL, fd, NULL);
    fm_pager_faults_forget(w, t);
    fm_pager_slot_release(&w->maps, t->number);
    fm_cleanup_close(&fd); /* wakes whoever still waits; the kernel asks no more */
    fm_cleanup_close(&pidfd);
    fm_cleanup_close(&t->file);
    fm_cleanup_close(&t->pagemap);
    fm_pager_ranges_clear(&t->recent);
    free(t);
}

void fm_pager_tasks_drop_all(struct fm_pager_worker *w)
{
    for (size_t i = 0; i < w->task_count; i++)
        drop(w, w->tasks[i]);
    w->task_count = 0;
    for (uint32_t i = 0; i < w->state->slots; i++)
        fm_pager_slot_release(&w->maps, i);
    fm_pager_deposit_forget(w);
    w->state->total_bytes = 0;
}

void fm_pager_tasks_reap(struct fm_pager_worker *w)
{
    size_t kept = 0;

    for (size_t i = 0; i < w->task_count; i++) {
        struct fm_pager_task *t = w->tasks[i];

        t->ending = w->state->resumed && (t->slot->ended || t->gone);
        t->slot->ended = t->ending;
        if (t->ending && fm_pager_link_release(w, t) && fm_pager_deposit_release(w, t))
            drop(w, t);
        else
            w->tasks[kept++] = t;
    }
    w->task_count = kept;
}

/* ---- What happens to an address space ---- */

static void on_fork(struct fm_pager_worker *w, const struct fm_pager_slot *parent, int fd)
{
    uint32_t number;
    struct fm_pager_slot *child;

    for (uint32_t i = 0; i < w->state->slots; i++) {
        const struct fm_pager_slot *slot = fm_pager_slot(&w->maps, i);

        if (slot && slot->kind == FM_PAGER_SLOT_TASK && slot->fd == fd)
            return; /* the one before us had come as far as that */
    }
    number = fm_pager_slot_allocate(&w->maps);
    child = fm_pager_slot(&w->maps, number);
    if (!child) {
        fm_pager_lose(w, "too many processes were forked");
        return;
    }
    if (fm_pager_slot_copy(child, parent) < 0) {
        fm_pager_lose(w, "no room to keep track of a process that was forked");
        return;
    }
    child->fd = fd;
    child->pidfd = -1;
    child->born = w->state->event;
    count_in(w, child);
    fm_pager_slot_set_kind(child, FM_PAGER_SLOT_TASK);
    attach(w, number);
    fm_pager_deposit_update(w);
    fm_pager_link_announce(w);
}

/* Faults that were put off may mean something else now. */
static void reconsider(struct fm_pager_worker *w, struct fm_pager_task *t)
{
    for (size_t i = 0; i < w->fault_count; i++) {
        if (w->faults[i].task == t)
            w->faults[i].waiting = false;
    }
    t->idle = false;
}

static void expect_unmap(struct fm_pager_task *t, uint64_t start, uint64_t end)
{
    uint64_t *entry = t->moved[t->moves++ % FM_PAGER_MOVES];

    entry[0] = start;
    entry[1] = end;
}

/* After mremap the kernel reports that the old place was unmapped. By then another thread may have
 * moved something else there, which must stay. */
static bool expected_unmap(struct fm_pager_task *t, uint64_t start, uint64_t end)
{
    for (unsigned int i = 0; i < FM_PAGER_MOVES; i++) {
        if (t->moved[i][0] == start && t->moved[i][1] == end && end) {
            t->moved[i][0] = t->moved[i][1] = 0;
            return true;
        }
    }
    return false;
}

static void apply(struct fm_pager_worker *w, struct fm_pager_task *t, const struct uffd_msg *m)
{
    switch (m->event) {
    case UFFD_EVENT_FORK:
        on_fork(w, t->slot, (int)m->arg.fork.ufd);
        return;
    case UFFD_EVENT_REMAP:
        if (fm_pager_areas_move(t->slot, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len,
                                w->state->event) < 0)
            fm_pager_lose(w, "process %d has too many mappings", t->slot->inner_pid);
        expect_unmap(t, m->arg.remap.from, m->arg.remap.from + m->arg.remap.len);
        reconsider(w, t);
        return;
    case UFFD_EVENT_UNMAP:
        if (expected_unmap(t, m->arg.remove.start, m->arg.remove.end))
            return;
        /* fall through */
    case UFFD_EVENT_REMOVE:
        fm_pager_bits_drop(t->slot, m->arg.remove.start, m->arg.remove.end);
        reconsider(w, t);
        return;
    default:
        return;
    }
}

void fm_pager_task_read(struct fm_pager_worker *w, struct fm_pager_task *t)
{
    struct fm_pager_state *state = w->state;
    int fd = t->slot->fd;

    for (int i = 0; i < MESSAGES_AT_ONCE && !w->lost; i++) {
        ssize_t n;

        state->message = (struct uffd_msg){0};
        state->event_slot = t->number;
        state->event++;
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        n = read(fd, &state->message, sizeof(state->message));
        if (n < 0 && errno == EINTR)
            continue;
        if (n != sizeof(state->message)) {
            if (n < 0 && errno != EAGAIN) /* a fork stays in the queue until there is room */
                fm_pager_say("process %d: cannot read its events: %s", t->slot->inner_pid,
                             strerror(errno));
            return;
        }
        if (state->message.event == UFFD_EVENT_PAGEFAULT)
            fm_pager_fault_serve(w, t, state->message.arg.pagefault.address, w->now_us);
        if (state->message.event == UFFD_EVENT_FORK)
            fm_pager_deposit_fork(w, (int)state->message.arg.fork.ufd);
        if (state->message.event != UFFD_EVENT_PAGEFAULT)
            apply(w, t, &state->message);
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        state->message = (struct uffd_msg){0};
    }
}

/* ---- Taking over ---- */

/* The one before us was killed with an event in its hands. */
static void finish_event(struct fm_pager_worker *w)
{
    struct fm_pager_task *t = fm_pager_task_of(w, w->state->event_slot);

    if (t && w->state->message.event)
        apply(w, t, &w->state->message);
    w->state->message = (struct uffd_msg){0};
}

int fm_pager_tasks_resume(struct fm_pager_worker *w)
{
    for (uint32_t i = 0; i < w->state->slots; i++) {
        const struct fm_pager_slot *slot = fm_pager_slot(&w->maps, i);

        if (!slot)
            return -1;
        if (slot->kind == FM_PAGER_SLOT_TASK)
            attach(w, i);
    }
    finish_event(w);
    /* The faults that it had read but not served come again. */
    for (size_t i = 0; i < w->task_count; i++)
        fm_pager_wake_all(w->tasks[i]);
    return w->lost ? -1 : 0;
}
