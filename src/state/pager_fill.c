#include "state/pager_worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/text.h"

#define FIRST_MOMENT_US 100000u

/* ---- The two ways of filling ---- */

enum outcome {
    PUT,      /* `done` bytes are in place */
    EXISTS,   /* something is there already */
    AGAIN,    /* the address space is changing: its events must be read first */
    UNMAPPED, /* nothing registered is there */
    NO_MEMORY,
    GONE, /* the whole address space */
    FAILED,
};

static enum outcome outcome_of(int64_t done, int error)
{
    if (done > 0)
        return PUT;
    switch (error) {
    case EEXIST:
        return EXISTS;
    case EAGAIN:
        return AGAIN;
    case ENOENT:
        return UNMAPPED;
    case ENOMEM:
        return NO_MEMORY;
    case ESRCH:
    case ENOSPC: /* older kernels */
        return GONE;
    default:
        return FAILED;
    }
}

/* A NULL `data` is zeroes. */
static enum outcome put_once(const struct fm_pager_task *t, uint64_t address, const void *data,
                             uint64_t len, uint64_t *done)
{
    struct uffdio_copy copy = {.dst = address, .src = (uintptr_t)data, .len = len};
    struct uffdio_zeropage zero = {.range = {.start = address, .len = len}};
    int64_t result;
    int ret;

    ret =
        data ? ioctl(t->slot->fd, UFFDIO_COPY, &copy) : ioctl(t->slot->fd, UFFDIO_ZEROPAGE, &zero);
    if (ret == 0) {
        *done = len;
        return PUT;
    }
    result = data ? copy.copy : zero.zeropage;
    *done = result > 0 ? (uint64_t)result : 0;
    return outcome_of(result, errno);
}

/* The kernel looks for changes under way before it looks for the mapping, and a change lasts until
 * its event was read: hence a mapping that was not there twice was not just being moved. */
static enum outcome put(struct fm_pager_task *t, uint64_t address, const void *data, uint64_t len,
                        uint64_t *done)
{
    enum outcome outcome;

    if (data && (len = fm_pager_before_guard(t, address, len)) == 0) {
        /* A guard, whose content is gone, unless it was just moved to where this page has been. As
         * zeroes do not overwrite one, the kernel tells which. */
        data = NULL;
        len = fm_pager_page();
    }
    outcome = put_once(t, address, data, len, done);
    return outcome == UNMAPPED ? put_once(t, address, data, len, done) : outcome;
}

static void wake(const struct fm_pager_task *t, uint64_t address)
{
    struct uffdio_range range = {.start = address, .len = fm_pager_page()};

    ioctl(t->slot->fd, UFFDIO_WAKE, &range);
}

void fm_pager_wake_all(const struct fm_pager_task *t)
{
    const uint64_t start = 1 << 16; /* the kernel refuses what lies below vm.mmap_min_addr */

    /* How large an address space may be differs; too much is refused. */
    for (unsigned int bits = 56; bits > 30; bits--) {
        struct uffdio_range range = {.start = start,
                                     .len = (1ull << bits) - fm_pager_page() - start};

        if (ioctl(t->slot->fd, UFFDIO_WAKE, &range) == 0)
            return;
    }
}

/* ---- Reading the store ---- */

/* What lies beyond the file's end, or in a hole, is zeroes. */
static int read_store(const struct fm_pager_task *t, uint64_t source, void *data, uint64_t len)
{
    uint64_t got = 0;

    while (got < len && t->file >= 0) {
        ssize_t n = pread(t->file, (char *)data + got, len - got, (off_t)(source + got));

        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            break;
        got += n > 0 ? (uint64_t)n : 0;
    }
    memset((char *)data + got, 0, len - got);
    return 0;
}

static bool is_zero(const unsigned char *page)
{
    return page[0] == 0 && memcmp(page, page + 1, fm_pager_page() - 1) == 0;
}

/* ---- Faults ---- */

static void put_off(struct fm_pager_worker *w, struct fm_pager_task *t, uint64_t address,
                    uint64_t since_us, bool waiting)
{
    if (w->fault_count == w->fault_capacity) {
        w->fault_capacity = w->fault_capacity ? 2 * w->fault_capacity : 64;
        w->faults = fm_xrealloc(w->faults, w->fault_capacity * sizeof(*w->faults));
    }
    w->faults[w->fault_count++] = (struct fm_pager_fault){t, address, since_us, waiting};
}

void fm_pager_faults_forget(struct fm_pager_worker *w, const struct fm_pager_task *t)
{
    size_t kept = 0;

    for (size_t i = 0; i < w->fault_count; i++) {
        if (w->faults[i].task != t)
            w->faults[kept++] = w->faults[i];
    }
    w->fault_count = kept;
}

static void served(struct fm_pager_worker *w, struct fm_pager_task *t, uint64_t address,
                   uint64_t since_us)
{
    uint64_t now = fm_now_us();

    t->in_order = address > t->wanted && address - t->wanted <= FM_PAGER_PIECE_BUSY;
    t->wanted = address;
    w->state->faults++;
    if (now - since_us > w->state->fault_us_max)
        w->state->fault_us_max = now - since_us;
    w->last_fault_us = now;
}

void fm_pager_fault_serve(struct fm_pager_worker *w, struct fm_pager_task *t, uint64_t address,
                          uint64_t since_us)
{
    const struct fm_pager_area *area;
    const uint64_t page = fm_pager_page();
    uint64_t number = 0, source = 0, done;
    bool due;

    if (t->gone)
        return;
    address &= ~(page - 1);
    area = fm_pager_area_find(t->slot, address);
    if (area) {
        number = area->first + (address - area->start) / page;
        source = area->source + (address - area->start);
    }
    due = area && fm_pager_bit(t->slot, number);
    if (due && fm_pager_bit(t->store, number)) {
        put_off(w, t, address, since_us, true);
        fm_pager_link_want(w, t->slot->inner_pid, source);
        return;
    }
    if (due && read_store(t, source, w->buffer, page) < 0) {
        fm_pager_lose(w, "cannot read the store of process %d", t->slot->inner_pid);
        return;
    }
    /* A page that is not due was never written, was discarded, or has come while this fault was on
     * its way; the kernel then says that it exists. */
    switch (put(t, address, due && !is_zero(w->buffer) ? w->buffer : NULL, page, &done)) {
    case EXISTS:
    case UNMAPPED: /* its waiter will see what that means */
        wake(t, address);
        /* fall through */
    case PUT:
        if (due)
            fm_pager_bits_clear(t->slot, number, 1);
        /* What is near is needed soon. */
        t->address = address & ~(uint64_t)(FM_PAGER_PIECE_BUSY - 1);
        served(w, t, address, since_us);
        return;
    case AGAIN:
    case NO_MEMORY:
        put_off(w, t, address, since_us, false);
        return;
    case GONE:
        t->gone = true;
        return;
    case FAILED:
        fm_pager_lose(w, "cannot fill memory of process %d: %s", t->slot->inner_pid,
                      strerror(errno));
        return;
    }
}

void fm_pager_faults_retry(struct fm_pager_worker *w, bool arrived)
{
    size_t count = w->fault_count;
    struct fm_pager_fault *old = w->faults;

    if (count == 0)
        return;
    w->faults = NULL;
    w->fault_count = w->fault_capacity = 0;
    for (size_t i = 0; i < count; i++) {
        if (old[i].task->gone)
            continue;
        if (old[i].waiting && !arrived)
            put_off(w, old[i].task, old[i].address, old[i].since_us, true);
        else
            fm_pager_fault_serve(w, old[i].task, old[i].address, old[i].since_us);
    }
    free(old);
}

/* ---- The background ---- */

/* Fills what was read into the buffer; leaves zeroes out: a page that nobody ever wrote. */
static enum outcome put_run(struct fm_pager_worker *w, struct fm_pager_task *t, uint64_t address,
                            uint64_t number, uint64_t len)
{
    const uint64_t page = fm_pager_page();
    uint64_t at = 0, most = len;

    while (at < len) {
        uint64_t first = number + at / page;
        uint64_t size = page, done = page;
        enum outcome outcome;

        if (is_zero(w->buffer + at)) {
            fm_pager_bits_clear(t->slot, first, 1);
            at += page;
            continue;
        }
        while (size < most && at + size < len && !is_zero(w->buffer + at + size))
            size += page;
        outcome = put(t, address + at, w->buffer + at, size, &done);
        if (outcome == UNMAPPED && size > page) {
            most = page; /* two mappings meet within this piece */
            continue;
        }
        if (outcome == EXISTS || outcome == UNMAPPED)
            done = page;
        else if (outcome != PUT)
            return outcome;
        fm_pager_bits_clear(t->slot, first, done / page);
        at += done;
    }
    return PUT;
}

/* The next pages of an area that can be filled, at most `max` bytes. */
static bool find_run(const struct fm_pager_task *t, const struct fm_pager_area *area, uint64_t from,
                     uint64_t max, uint64_t *number, uint64_t *len)
{
    const uint64_t page = fm_pager_page();
    const uint64_t end = area->first + (area->end - area->start) / page;
    uint64_t first = area->first + (from > area->start ? (from - area->start) / page : 0);
    uint64_t n = 1;

    first = fm_pager_bits_next(t->slot, t->store, first, end);
    if (first == end)
        return false;
    while (n < max / page && first + n < end && fm_pager_bit(t->slot, first + n) &&
           !fm_pager_bit(t->store, first + n))
        n++;
    *number = first;
    *len = n * page;
    return true;
}

/* From t->address to the end, then from the beginning. NULL: nothing can be filled. */
static const struct fm_pager_area *find_work(struct fm_pager_task *t, uint64_t max,
                                             uint64_t *number, uint64_t *len)
{
    uint32_t count;
    const struct fm_pager_area *areas = fm_pager_areas(t->slot, &count);

    for (int round = 0; round < 2; round++) {
        for (uint32_t i = fm_pager_area_index(t->slot, t->address); i < count; i++) {
            if (find_run(t, &areas[i], t->address, max, number, len))
                return &areas[i];
        }
        t->address = 0;
    }
    return NULL;
}

/* The next of the recent pages that can be filled; NULL: that was all of them. Somebody is about to
 * change the address space, or to wait for a page: few at a time. */
static const struct fm_pager_area *find_recent(struct fm_pager_task *t, uint64_t *number,
                                               uint64_t *len)
{
    const uint64_t max = FM_PAGER_PIECE_BUSY;

    for (; t->recent_next < t->recent.count; t->recent_next++) {
        const struct fm_pager_area *area;
        uint64_t start, end;

        fm_pager_ranges_at(&t->recent, t->recent_next, &start, &end);
        area = fm_pager_area_find(t->slot, start);
        if (!area || !find_run(t, area, start, end - start < max ? end - start : max, number, len))
            continue;
        if (area->start + (*number - area->first) * fm_pager_page() < end)
            return area;
    }
    return NULL;
}

static const struct fm_pager_area *find_next(struct fm_pager_worker *w, struct fm_pager_task *t,
                                             uint64_t *number, uint64_t *len)
{
    bool busy = w->now_us < w->last_fault_us + 2000;
    const struct fm_pager_area *area = find_recent(t, number, len);

    if (area || !w->state->resumed)
        return area;
    return find_work(t, busy ? FM_PAGER_PIECE_BUSY : FM_PAGER_PIECE, number, len);
}

static enum outcome push_task(struct fm_pager_worker *w, struct fm_pager_task *t)
{
    uint64_t number, len, offset;
    const struct fm_pager_area *area = find_next(w, t, &number, &len);
    enum outcome outcome;

    if (!area) {
        t->idle = true;
        if (fm_pager_bits_next(t->slot, NULL, 0, t->slot->pages) == t->slot->pages)
            t->slot->ended = 1;
        return AGAIN;
    }
    offset = (number - area->first) * fm_pager_page();
    if (read_store(t, area->source + offset, w->buffer, len) < 0) {
        fm_pager_lose(w, "cannot read the store of process %d", t->slot->inner_pid);
        return FAILED;
    }
    t->address = area->start + offset;
    outcome = put_run(w, t, t->address, number, len);
    if (outcome == PUT)
        t->address += len;
    return outcome;
}

void fm_pager_resume(struct fm_pager_worker *w)
{
    w->state->resumed = 1;
    w->resumed_us = w->now_us;
    for (size_t i = 0; i < w->task_count; i++)
        w->tasks[i]->idle = false;
}

bool fm_pager_is_first_moment(const struct fm_pager_worker *w)
{
    return w->now_us < w->resumed_us + FIRST_MOMENT_US;
}

/* Many have waited for the container: until they have their answers it gets what it asks for, and
 * what follows that when it asks in order. */
static bool must_wait(const struct fm_pager_worker *w, const struct fm_pager_task *t)
{
    return fm_pager_is_first_moment(w) && !t->in_order && t->recent_next == t->recent.count;
}

bool fm_pager_push(struct fm_pager_worker *w)
{
    bool work = false;

    if (!w->state->resumed && !w->restored)
        return false;
    if (w->state->resumed && fm_fault("pager.push"))
        fm_pager_lose(w, "it was told to fail");
    for (size_t tries = w->task_count; tries > 0; tries--) {
        struct fm_pager_task *t = w->tasks[w->next++ % w->task_count];

        if (t->idle || t->gone || t->slot->ended || must_wait(w, t))
            continue;
        switch (push_task(w, t)) {
        case PUT:
            w->stalled = 0;
            return true;
        case GONE:
            t->gone = true;
            break;
        case FAILED:
            fm_pager_lose(w, "cannot fill memory of process %d: %s", t->slot->inner_pid,
                          strerror(errno));
            return false;
        default: /* its events first; the others meanwhile */
            work = work || !t->idle;
        }
    }
    if (work)
        w->stalled++;
    return work;
}

/* Behind the last area a page can only be one of zeroes, if it is one at all. */
void fm_pager_probe_idle(struct fm_pager_worker *w)
{
    for (size_t i = 0; i < w->task_count; i++) {
        struct fm_pager_task *t = w->tasks[i];
        uint32_t count;
        const struct fm_pager_area *areas = fm_pager_areas(t->slot, &count);
        uint64_t done;

        if (t->idle && !t->gone && count > 0)
            t->gone = put_once(t, areas[count - 1].end, NULL, fm_pager_page(), &done) == GONE;
    }
}
