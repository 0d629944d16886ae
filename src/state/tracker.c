#include "state/tracker.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/text.h"
#include "state/direct_io.h"
#include "state/inject.h"
#include "state/tracker_backend.h"

const char *fm_tracker_text(enum fm_tracker_kind kind)
{
    static const char *const texts[] = {
#define X(name, text) text,
        FM_TRACKERS(X)
#undef X
    };

    return (size_t)kind < FM_COUNT(texts) ? texts[kind] : "unknown";
}

/* ---- the processes it knows ---- */

static void detach(struct fm_tracker *t, struct fm_tracked *p)
{
    if (p->attached)
        t->backend->detach(p);
    p->attached = p->shared = p->foreign = false;
}

static void forget(struct fm_tracker *t, struct fm_tracked *p)
{
    detach(t, p);
    fm_memory_map_clear(&p->noted);
    fm_memory_map_clear(&p->shown);
    free(p);
}

struct fm_tracker *fm_tracker_open(enum fm_tracker_kind kind, struct fm_error *err)
{
    static const struct fm_tracker_backend *const backends[] = {
        [FM_TRACKER_PAGEMAP_SCAN] = &fm_tracker_pagemap,
        [FM_TRACKER_SOFT_DIRTY] = &fm_tracker_soft_dirty,
    };
    struct fm_tracker *t;

    if ((size_t)kind >= FM_COUNT(backends)) {
        fm_error_set(err, FM_E_INVALID, "no memory tracker has the number %d", (int)kind);
        return NULL;
    }
    t = fm_xcalloc(1, sizeof(*t));
    t->kind = kind;
    t->small_bytes = FM_TRACKER_SMALL_BYTES;
    t->backend = backends[kind];
    t->tells_guards = fm_tracker_kernel_tells_guards();
    fm_page_walkers_open(&t->walkers);
    if (kind == FM_TRACKER_PAGEMAP_SCAN && !t->walkers.readers[0].scans) {
        fm_tracker_close(t);
        fm_error_set(err, FM_E_REFUSED, "the kernel has no PAGEMAP_SCAN (Linux 6.7)");
        return NULL;
    }
    return t;
}

void fm_tracker_close(struct fm_tracker *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->count; i++)
        forget(t, t->items[i]);
    free(t->items);
    fm_tracker_unwatch_maps(t);
    fm_page_walkers_close(&t->walkers);
    free(t);
}

struct fm_tracked *fm_tracker_find(struct fm_tracker *t, pid_t pid)
{
    for (size_t i = 0; i < t->count; i++) {
        if (t->items[i]->pid == pid)
            return t->items[i];
    }
    return NULL;
}

static struct fm_tracked *add(struct fm_tracker *t, pid_t pid, uint64_t start_time)
{
    struct fm_tracked *p = fm_xcalloc(1, sizeof(*p));

    p->pid = pid;
    p->start_time = start_time;
    p->uffd = p->number = -1;
    t->items = fm_xrealloc(t->items, (t->count + 1) * sizeof(void *));
    return t->items[t->count++] = p;
}

int fm_tracker_see(struct fm_tracker *t, pid_t pid, struct fm_tracked **found, struct fm_error *err)
{
    struct fm_tracked *p = fm_tracker_find(t, pid);
    struct fm_process_status status = {0};
    uint64_t start_time = 0;
    int rc = fm_process_status_start(pid, &start_time, err);

    *found = NULL;
    if (rc == 0 && !p)
        rc = fm_process_status_read(pid, &status, err);
    if (rc == -FM_E_NOT_FOUND || status.is_thread)
        return 0;
    if (rc < 0)
        return rc;
    /* Another process may have the pid of one that ended. */
    if (p && p->start_time != start_time) {
        detach(t, p);
        fm_memory_map_clear(&p->shown);
        fm_memory_map_clear(&p->noted);
        p->start_time = start_time;
        p->reported = false;
    }
    if (!p)
        p = add(t, pid, start_time);
    p->seen = t->round;
    p->answer = NULL;
    *found = p;
    return 0;
}

static int see_all(struct fm_tracker *t, const pid_t *pids, size_t count, struct fm_error *err)
{
    size_t kept = 0;
    int rc = 0;

    t->round++;
    for (size_t i = 0; i < count && rc == 0; i++) {
        struct fm_tracked *p;

        rc = fm_tracker_see(t, pids[i], &p, err);
    }
    for (size_t i = 0; i < t->count; i++) {
        if (t->items[i]->seen == t->round)
            t->items[kept++] = t->items[i];
        else
            forget(t, t->items[i]);
    }
    t->count = kept;
    return rc;
}

/* ---- processes that share memory, after vfork or clone(CLONE_VM) ---- */

bool fm_tracked_share(const struct fm_tracked *a, const struct fm_tracked *b, int what)
{
    return syscall(SYS_kcmp, a->pid, b->pid, what, 0, 0) == 0;
}

bool fm_tracker_has_sharer(const struct fm_tracker *t, const struct fm_tracked *p)
{
    for (size_t i = 0; i < t->count; i++) {
        if (t->items[i] != p && fm_tracked_share(t->items[i], p, KCMP_VM))
            return true;
    }
    return false;
}

/* One of this round's that has the same memory: two userfaultfds cannot watch it. */
static struct fm_tracked *find_sharer(struct fm_tracker *t, const struct fm_tracked *p)
{
    for (size_t i = 0; i < t->count; i++) {
        if (t->items[i] != p && t->items[i]->answer && fm_tracked_share(t->items[i], p, KCMP_VM))
            return t->items[i];
    }
    return NULL;
}

static void copy_ranges(struct fm_ranges *to, const struct fm_ranges *from)
{
    for (size_t i = 0; i < from->count; i++)
        fm_ranges_append(to, from->items[i].start, from->items[i].end);
}

static void copy_answer(struct fm_tracked *p, const struct fm_tracked *sharer,
                        struct fm_process_memory *answer)
{
    const struct fm_process_memory *from = sharer->answer;
    bool known = p->reported && p->shared && from->tracked;

    answer->tracked = from->tracked;
    copy_ranges(&answer->mapped, &from->mapped);
    copy_ranges(&answer->present, &from->present);
    copy_ranges(&answer->dirty, known ? &from->dirty : &from->present);
    p->shared = true;
}

/* A child that was forked while its parent had our userfaultfd has it, too. */
static void close_strays(struct fm_tracker *t, const struct fm_tracked *p)
{
    for (size_t i = 0; i < t->count; i++) {
        const struct fm_tracked *other = t->items[i];

        if (other != p && other->uffd >= 0 &&
            syscall(SYS_kcmp, getpid(), p->pid, KCMP_FILE, other->uffd, other->number) == 0)
            fm_inject_close(p->pid, other->number, other->uffd, NULL);
    }
}

/* ---- one process ---- */

void fm_tracked_fill_mapped(const struct fm_memory_map *map, struct fm_ranges *mapped)
{
    for (size_t i = 0; i < map->count; i++) {
        if (fm_mapping_is_movable(&map->items[i]))
            fm_ranges_append(mapped, map->items[i].start, map->items[i].end);
    }
}

int fm_tracker_walk(struct fm_tracker_visit *v, enum fm_pagemap_mode mode)
{
    struct fm_process_memory *answer = v->answer;

    fm_ranges_clear(&answer->present);
    fm_ranges_clear(&answer->dirty);
    return fm_page_walk(&v->tracker->walkers, v->pagemap, mode, &answer->mapped, &answer->present,
                        &answer->dirty);
}

static void attach(struct fm_tracker *t, struct fm_tracked *p)
{
    p->attached = t->backend->attach(p, &t->refusal) == 0;
    if (!p->attached)
        fm_debug(FM_STATE_SYNCHRONIZER, "Process %d is not tracked: %s.", (int)p->pid,
                 t->refusal.text);
}

/* -ESTALE: nothing that was attached is this process's any more. */
static int track(struct fm_tracker *t, struct fm_tracker_visit *v)
{
    struct fm_tracked *p = v->process;
    bool fresh = !p->attached;
    int rc;

    if (fresh)
        attach(t, p);
    if (!p->attached)
        return -ESTALE;
    rc = t->backend->round(v);
    /* What is being read directly now was told as written; it is to be copied when it is there. */
    if (rc == 0 && fm_direct_io_settle(p->pid, NULL) < 0)
        rc = -EBUSY;
    if (rc == 0)
        return 0;
    detach(t, p);
    if (rc != -ESTALE || fresh)
        return -ESTALE;
    fm_ranges_clear(&v->answer->present);
    fm_ranges_clear(&v->answer->dirty);
    return track(t, v);
}

static int visit_running(struct fm_tracker *t, struct fm_tracker_visit *v)
{
    struct fm_tracked *p = v->process;

    if (fm_direct_io_is_asynchronous(v->map))
        detach(t, p);
    else if (t->backend && track(t, v) == 0)
        return 0;
    return fm_tracker_walk(v, FM_PAGEMAP_EVERYTHING);
}

static int visit_frozen(struct fm_tracker *t, struct fm_tracker_visit *v)
{
    const struct fm_tracked *p = v->process;

    return p->attached && !p->foreign ? t->backend->final(v) : fm_tracker_walk(v, FM_PAGEMAP_STILL);
}

int fm_tracker_read_map(pid_t pid, const struct fm_process_status *status,
                        struct fm_memory_map *map, struct fm_error *err)
{
    return status->locked_bytes ? fm_memory_map_read_flags(pid, map, err)
                                : fm_memory_map_read(pid, map, err);
}

/* 1: it has ended or is a zombie. */
static int visit(struct fm_tracker *t, struct fm_tracked *p, bool frozen,
                 struct fm_process_memory *answer, struct fm_error *err)
{
    struct fm_process_status status;
    fm_cleanup(fm_memory_map_clear) struct fm_memory_map map = {0};
    fm_autoclose int pagemap = fm_pagemap_open(p->pid);
    struct fm_tracker_visit v = {t, p, frozen ? &p->shown : &map, pagemap, answer};
    int rc = fm_process_status_read(p->pid, &status, err);

    if (rc == 0 && status.has_memory)
        rc = frozen ? fm_tracker_show_maps(t, p, &status, err)
                    : fm_tracker_read_map(p->pid, &status, &map, err);
    if (rc == 0 && frozen && !status.has_memory && status.threads > 1)
        return fm_error_set(err, FM_E_REFUSED,
                            "the first thread of process %d has ended while others go on, which "
                            "CRIU cannot dump: end the process",
                            (int)p->pid);
    if (rc == -FM_E_NOT_FOUND || (rc == 0 && (!status.has_memory || v.map->count == 0)))
        return 1;
    if (rc < 0)
        return rc;
    if (pagemap < 0)
        return fm_error_errno(err, -pagemap, "cannot read '/proc/%d/pagemap'", (int)p->pid);
    answer->pid = p->pid;
    answer->inner_pid = status.inner_pid;
    fm_tracked_fill_mapped(v.map, &answer->mapped);
    rc = frozen ? visit_frozen(t, &v) : visit_running(t, &v);
    if (rc == -ESRCH)
        return 1;
    if (rc < 0)
        return fm_error_errno(err, -rc, "cannot read the pages of process %d", (int)p->pid);
    answer->tracked = p->attached;
    p->shared = false;
    return 0;
}

/* ---- a round ---- */

static void clear_answer(struct fm_process_memory *answer)
{
    fm_ranges_clear(&answer->mapped);
    fm_ranges_clear(&answer->present);
    fm_ranges_clear(&answer->dirty);
}

static int answer_one(struct fm_tracker *t, struct fm_tracked *p, bool frozen,
                      struct fm_memory_scan *scan, struct fm_error *err)
{
    struct fm_process_memory *answer = &scan->items[scan->count];
    struct fm_tracked *sharer = p->attached ? NULL : find_sharer(t, p);
    struct fm_process_status status;
    int rc;

    *answer = (struct fm_process_memory){0};
    if (fm_fault(frozen ? "tracker.final" : "tracker.round"))
        return fm_error_set(err, FM_E_IO, "fault injected");
    if (sharer) {
        rc = fm_process_status_read(p->pid, &status, err);
        answer->pid = p->pid;
        answer->inner_pid = status.inner_pid;
        sharer->shown_flags_hold = false; /* this one may have changed them */
        if (rc == 0)
            copy_answer(p, sharer, answer);
    } else {
        rc = visit(t, p, frozen, answer, err);
    }
    if (rc != 0)
        clear_answer(answer);
    if (rc > 0 || rc == -FM_E_NOT_FOUND) {
        detach(t, p); /* should it be there next time, then as a new one */
        p->reported = false;
        return 0;
    }
    if (rc < 0)
        return rc;
    p->answer = answer;
    p->reported = true;
    scan->present_bytes += fm_ranges_bytes(&answer->present);
    scan->dirty_bytes += fm_ranges_bytes(&answer->dirty);
    scan->count++;
    return 0;
}

/* Those whose memory is watched come first: others may share it. */
static int answer_all(struct fm_tracker *t, bool frozen, struct fm_memory_scan *scan,
                      struct fm_error *err)
{
    int rc = 0;

    for (size_t i = 0; i < t->count && rc == 0; i++) {
        if (t->items[i]->attached)
            rc = answer_one(t, t->items[i], frozen, scan, err);
    }
    for (size_t i = 0; i < t->count && rc == 0; i++) {
        struct fm_tracked *p = t->items[i];

        if (p->answer || p->attached)
            continue;
        if (!frozen && !p->reported)
            close_strays(t, p);
        rc = answer_one(t, p, frozen, scan, err);
    }
    return rc;
}

static int scan_all(struct fm_tracker *t, const pid_t *pids, size_t count, bool frozen,
                    struct fm_memory_scan *scan, struct fm_error *err)
{
    uint64_t since = fm_now_us();
    int rc;

    *scan = (struct fm_memory_scan){0};
    rc = see_all(t, pids, count, err);
    scan->items = fm_xcalloc(t->count + 1, sizeof(*scan->items));
    if (rc == 0)
        rc = answer_all(t, frozen, scan, err);
    scan->walk_us = fm_now_us() - since;
    if (rc == 0)
        return 0;
    /* What was protected and not told would be lost: begin anew with everything. */
    for (size_t i = 0; i < t->count; i++)
        detach(t, t->items[i]);
    fm_memory_scan_clear(scan);
    return fm_error_prefix(err, "cannot tell what the container has written");
}

int fm_tracker_round(struct fm_tracker *t, const pid_t *pids, size_t count,
                     struct fm_memory_scan *scan, struct fm_error *err)
{
    return scan_all(t, pids, count, false, scan, err);
}

int fm_tracker_final(struct fm_tracker *t, const pid_t *pids, size_t count,
                     struct fm_memory_scan *scan, struct fm_error *err)
{
    return scan_all(t, pids, count, true, scan, err);
}
