/* Modes that change what is mapped: a model knows what every page must hold, or that it must not be
 * there. */
#include "memcheck.h"
#include "workload.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Of newer kernel headers than Debian 12's. */
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

#define ARENA ((size_t)2048) /* pages */
#define RANGE_MAX 48
#define HUGE ((size_t)2 << 20)
#define TOUCH_LATER_US 3000000 /* so that a hop falls between the change and the look at it */
#define EVENTS 6

struct event {
    const char *what;
    uint64_t us;
};

struct cell {
    uint64_t key;
    uint32_t version; /* 0: zeroes */
    bool mapped, guard;
    bool freed; /* by MADV_FREE: the content, or zeroes */
    int access; /* PROT_* */
    uint64_t untouched_until;
    struct event events[EVENTS]; /* the last ones, for whoever looks for the cause */
    unsigned event_count;
};

struct range {
    size_t start, count;
};

static struct cell *cells;
static unsigned char *arena;
static uint32_t last_version;
static bool has_guards = true;

static void *at(size_t page)
{
    return arena + page * mc_page_size;
}

static size_t bytes_of(struct range r)
{
    return r.count * mc_page_size;
}

static struct range some_range(void)
{
    struct range r = {.count = 1 + mc_random_below(RANGE_MAX)};

    r.start = mc_random_below(ARENA - r.count + 1);
    return r;
}

static bool is_mapped(struct range r)
{
    for (size_t i = r.start; i < r.start + r.count; i++) {
        if (!cells[i].mapped)
            return false;
    }
    return true;
}

/* ---- what the pages must hold ---------------------------------------------------------------- */

static sigjmp_buf fault_return;

static void on_fault(int signal_number)
{
    siglongjmp(fault_return, signal_number);
}

static bool can_read(size_t page)
{
    if (sigsetjmp(fault_return, 1))
        return false;
    (void)*(volatile unsigned char *)at(page);
    return true;
}

/* Writes what is there already. */
static bool can_write(size_t page)
{
    volatile unsigned char *byte = at(page);

    if (sigsetjmp(fault_return, 1))
        return false;
    *byte = *byte;
    return true;
}

static bool readable(const struct cell *c)
{
    return c->mapped && !c->guard && c->access & (PROT_READ | PROT_WRITE);
}

static bool writable(const struct cell *c)
{
    return c->mapped && !c->guard && c->access & PROT_WRITE;
}

static void note(struct range r, const char *what)
{
    for (size_t i = r.start; i < r.start + r.count; i++)
        cells[i].events[cells[i].event_count++ % EVENTS] = (struct event){what, wl_now_us()};
}

static void tell_events(size_t page)
{
    const struct cell *c = &cells[page];
    uint64_t now = wl_now_us();

    for (unsigned i = c->event_count > EVENTS ? c->event_count - EVENTS : 0; i < c->event_count;
         i++) {
        const struct event *event = &c->events[i % EVENTS];

        printf("%p: %s %" PRIu64 " us ago\n", at(page), event->what, now - event->us);
    }
}

static void check_content(size_t page)
{
    const struct cell *c = &cells[page];

    if (mc_block_matches(at(page), mc_page_size, c->key, c->version, false))
        return;
    if (c->freed && mc_block_matches(at(page), mc_page_size, c->key, c->version, true))
        return;
    tell_events(page);
    mc_block_check(at(page), mc_page_size, c->key, c->version);
}

static void check_page(size_t page, uint64_t now)
{
    const struct cell *c = &cells[page];

    if (readable(c) && now >= c->untouched_until)
        check_content(page);
}

/* What must not be reached, is not; a fault costs some microseconds, so this is for some pages
 * only. */
static void check_access(size_t page)
{
    const struct cell *c = &cells[page];

    if (!readable(c) && can_read(page))
        mc_fail("%p can be read, although it is %s", at(page),
                !c->mapped ? "not mapped"
                : c->guard ? "a guard"
                           : "PROT_NONE");
    if (readable(c) && !writable(c) && c->access == PROT_READ && can_write(page))
        mc_fail("%p can be written, although it is read-only", at(page));
}

static void set_zero(struct range r, bool untouched)
{
    uint64_t until = untouched ? wl_now_us() + mc_random_below(TOUCH_LATER_US) : 0;

    for (size_t i = r.start; i < r.start + r.count; i++) {
        cells[i].version = 0;
        cells[i].freed = false;
        cells[i].untouched_until = until;
    }
}

/* ---- changes --------------------------------------------------------------------------------- */

static void fill(struct range r)
{
    for (size_t i = r.start; i < r.start + r.count; i++) {
        struct cell *c = &cells[i];

        if (!writable(c))
            continue;
        check_page(i, wl_now_us());
        c->key = (uint64_t)(uintptr_t)at(i);
        c->version = ++last_version;
        note((struct range){i, 1}, "filled");
        c->freed = false;
        c->untouched_until = 0;
        mc_block_fill(at(i), mc_page_size, c->key, c->version);
    }
}

static int some_access(void)
{
    static const int kinds[] = {PROT_NONE, PROT_READ, PROT_WRITE, PROT_READ | PROT_WRITE,
                                PROT_READ | PROT_WRITE};

    return kinds[mc_random_below(sizeof(kinds) / sizeof(*kinds))];
}

static void map(struct range r)
{
    int access = some_access();
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;

    if (mc_random_below(4) == 0)
        flags |= MAP_POPULATE;
    mc_must(mmap(at(r.start), bytes_of(r), access, flags, -1, 0) != MAP_FAILED, "mmap");
    set_zero(r, mc_random_below(2));
    note(r, flags & MAP_POPULATE ? "mapped and populated" : "mapped");
    for (size_t i = r.start; i < r.start + r.count; i++) {
        cells[i].mapped = true;
        cells[i].guard = false;
        cells[i].access = access;
    }
}

static void unmap(struct range r)
{
    mc_must(munmap(at(r.start), bytes_of(r)) == 0, "munmap");
    set_zero(r, false);
    note(r, "unmapped");
    for (size_t i = r.start; i < r.start + r.count; i++)
        cells[i].mapped = false;
}

/* Unmapped and there again, before anybody could have looked. */
static void replace(struct range r)
{
    unmap(r);
    map(r);
}

static bool still_there(size_t page)
{
    unsigned char resident;

    return mincore(at(page), mc_page_size, &resident) == 0 || errno != ENOMEM;
}

/* The kernel moves mapping by mapping, and may stop in between. */
static void move_cells(struct range from, size_t to, bool all)
{
    for (size_t i = 0; i < from.count; i++) {
        bool moved = all || !still_there(from.start + i);

        if (moved) {
            cells[to + i] = cells[from.start + i];
            cells[from.start + i] = (struct cell){0};
            note((struct range){to + i, 1}, "moved here");
        } else {
            munmap(at(to + i), mc_page_size);
            cells[to + i] = (struct cell){0};
        }
    }
}

static void move(struct range from)
{
    size_t to;
    bool stays = mc_random_below(4) == 0; /* mapped, but empty */
    int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    struct cell before;

    if (stays) {
        /* Of several mappings some may have been emptied before it fails, and nobody could tell. */
        from.count = 1;
        flags |= MREMAP_DONTUNMAP;
    }
    to = mc_random_below(ARENA - from.count + 1);
    if (!is_mapped(from) || (to < from.start + from.count && from.start < to + from.count))
        return;
    before = cells[from.start];
    if (mremap(at(from.start), bytes_of(from), bytes_of(from), flags, at(to)) != MAP_FAILED) {
        move_cells(from, to, true);
        if (stays) {
            cells[from.start] = (struct cell){.mapped = true, .access = before.access};
            note(from, "moved away, still mapped");
        }
    } else if (stays) {
        munmap(at(to), bytes_of(from)); /* which it may have been already */
        cells[to] = (struct cell){0};
    } else {
        move_cells(from, to, false);
    }
}

static void protect(struct range r)
{
    int access = some_access();

    if (!is_mapped(r))
        return;
    mc_must(mprotect(at(r.start), bytes_of(r), access) == 0, "mprotect");
    note(r, "protected");
    for (size_t i = r.start; i < r.start + r.count; i++)
        cells[i].access = access;
}

static void discard(struct range r)
{
    if (!is_mapped(r))
        return;
    mc_must(madvise(at(r.start), bytes_of(r), MADV_DONTNEED) == 0, "MADV_DONTNEED");
    set_zero(r, mc_random_below(2));
    note(r, "discarded");
}

static void free_lazily(struct range r)
{
    if (!is_mapped(r) || madvise(at(r.start), bytes_of(r), MADV_FREE) != 0)
        return;
    note(r, "freed");
    for (size_t i = r.start; i < r.start + r.count; i++)
        cells[i].freed = true;
}

static void guard(struct range r)
{
    bool install = mc_random_below(2);

    if (!has_guards || !is_mapped(r))
        return;
    if (madvise(at(r.start), bytes_of(r), install ? MADV_GUARD_INSTALL : MADV_GUARD_REMOVE) != 0) {
        mc_must(errno == EINVAL, "MADV_GUARD_INSTALL");
        has_guards = false; /* before Linux 6.13 */
        return;
    }
    if (install)
        set_zero(r, false);
    note(r, install ? "guarded" : "not guarded any more");
    for (size_t i = r.start; i < r.start + r.count; i++)
        cells[i].guard = install;
}

/* No content changes by these, whether the kernel follows them or not. */
static void advise(struct range r)
{
    static const int kinds[] = {MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_COLLAPSE, MADV_COLD,
                                MADV_PAGEOUT,  MADV_MERGEABLE,  MADV_WILLNEED, MADV_RANDOM,
                                MADV_DONTDUMP, MADV_DONTFORK};

    if (is_mapped(r))
        madvise(at(r.start), bytes_of(r), kinds[mc_random_below(sizeof(kinds) / sizeof(*kinds))]);
    note(r, "advised");
}

static void map_huge(struct range unused)
{
    size_t pages = HUGE / mc_page_size;
    struct range r = {.count = pages};

    (void)unused;
    if (pages > ARENA)
        return;
    r.start = mc_random_below(ARENA / pages) * pages;
    map(r);
    mc_must(mprotect(at(r.start), HUGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
    madvise(at(r.start), HUGE, MADV_HUGEPAGE);
    for (size_t i = r.start; i < r.start + r.count; i++)
        cells[i].access = PROT_READ | PROT_WRITE;
    fill(r);
}

static void change_something(void)
{
    static const struct {
        unsigned weight;
        void (*change)(struct range);
    } changes[] = {{16, map},     {8, unmap},   {8, replace},     {12, move},
                   {10, protect}, {8, discard}, {6, free_lazily}, {6, guard},
                   {4, advise},   {60, fill},   {1, map_huge}};
    unsigned total = 0, pick;

    for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++)
        total += changes[i].weight;
    pick = (unsigned)mc_random_below(total);
    for (size_t i = 0;; i++) {
        if (pick < changes[i].weight) {
            changes[i].change(some_range());
            return;
        }
        pick -= changes[i].weight;
    }
}

static void catch_faults(void)
{
    struct sigaction action = {.sa_handler = on_fault};

    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}

void mc_mode_remap(void *argument)
{
    unsigned char *space;
    size_t next = 0;

    (void)argument;
    mc_worker("remap");
    cells = mc_map(ARENA * sizeof(*cells));
    space = mmap(NULL, ARENA * mc_page_size + HUGE, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mc_must(space != MAP_FAILED, "mmap");
    arena = (unsigned char *)(((uintptr_t)space + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    munmap(arena, ARENA * mc_page_size);
    catch_faults();
    for (;;) {
        uint64_t now = wl_now_us();

        change_something();
        for (int i = 0; i < 16; i++, next++)
            check_page(next % ARENA, now);
        check_access(mc_random_below(ARENA));
        mc_count(16);
        if (next % ARENA == 0)
            mc_round();
        mc_pause(2000);
    }
}

/* ---- reuse ----------------------------------------------------------------------------------- */

#define SLOTS 64
#define SLOT_PAGES 16

struct slot {
    unsigned char *base;
    uint32_t version; /* 0: mapped anew and not touched since */
    uint64_t due_us;
};

static void slot_renew(struct slot *slot)
{
    const size_t bytes = SLOT_PAGES * mc_page_size;
    const uint64_t kind = mc_random_below(4);

    if (kind == 0)
        mc_must(munmap(slot->base, bytes) == 0, "munmap");
    else if (kind == 1)
        mc_must(madvise(slot->base, bytes, MADV_DONTNEED) == 0, "MADV_DONTNEED");
    if (kind != 1)
        mc_must(mmap(slot->base, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED,
                "mmap");
    slot->version = 0;
}

static void slot_fill(struct slot *slot)
{
    slot->version = ++last_version;
    for (size_t i = 0; i < SLOT_PAGES; i++) {
        void *page = slot->base + i * mc_page_size;

        mc_block_fill(page, mc_page_size, (uint64_t)(uintptr_t)page, slot->version);
    }
}

static void slot_check(const struct slot *slot)
{
    for (size_t i = 0; i < SLOT_PAGES; i++) {
        const void *page = slot->base + i * mc_page_size;

        mc_block_check(page, mc_page_size, (uint64_t)(uintptr_t)page, slot->version);
    }
    mc_count(SLOT_PAGES);
}

void mc_mode_reuse(void *argument)
{
    static struct slot slots[SLOTS];

    (void)argument;
    mc_worker("reuse");
    for (size_t i = 0; i < SLOTS; i++)
        slots[i].base = mc_map(SLOT_PAGES * mc_page_size);
    for (size_t i = 0;; i++) {
        struct slot *slot = &slots[i % SLOTS];

        if (wl_now_us() >= slot->due_us) {
            slot_check(slot);
            if (slot->version)
                slot_renew(slot);
            else
                slot_fill(slot);
            slot->due_us = wl_now_us() + mc_random_below(slot->version ? 500000 : TOUCH_LATER_US);
        }
        if (i % SLOTS == SLOTS - 1) {
            mc_round();
            mc_pause(200000);
        }
    }
}

/* ---- brk ------------------------------------------------------------------------------------- */

#define HEAP_STEP 16
#define HEAP_MAX 1024

void mc_mode_brk(void *argument)
{
    uint32_t *version = mc_map(HEAP_MAX * sizeof(*version));
    size_t pages = 0, step = HEAP_STEP * mc_page_size;
    unsigned char *base;

    (void)argument;
    mc_worker("brk");
    base = sbrk(0);
    sbrk((intptr_t)(mc_page_size - (uintptr_t)base % mc_page_size));
    base = sbrk(0);
    for (;;) {
        bool grow = pages == 0 || (pages < HEAP_MAX && mc_random_below(2));

        mc_must(sbrk(grow ? (intptr_t)step : -(intptr_t)step) != (void *)-1, "sbrk");
        if (!grow)
            memset(&version[pages - HEAP_STEP], 0, HEAP_STEP * sizeof(*version));
        pages = grow ? pages + HEAP_STEP : pages - HEAP_STEP;
        for (size_t i = 0; i < pages; i++) {
            unsigned char *page = base + i * mc_page_size;

            /* The newest pages stay untouched for a while. */
            if (i + HEAP_STEP < pages || version[i])
                mc_block_check(page, mc_page_size, (uint64_t)(uintptr_t)page, version[i]);
            if (i + HEAP_STEP < pages && mc_random_below(8) == 0)
                mc_block_fill(page, mc_page_size, (uint64_t)(uintptr_t)page, ++version[i]);
        }
        mc_count(pages);
        mc_round();
        mc_pause(20000);
    }
}

/* ---- stack ----------------------------------------------------------------------------------- */

#define FRAME 4096
#define FRAMES_MAX 1200 /* of the usual 8 MiB */

/* Every frame is verified on the way back, some of them after a sleep in the depth. */
static __attribute__((noinline)) void descend(uint64_t depth, uint64_t version)
{
    _Alignas(uint64_t) unsigned char frame[FRAME];

    mc_block_fill(frame, sizeof(frame), depth, version);
    __asm__ volatile("" : : "r"(frame) : "memory");
    if (depth > 0)
        descend(depth - 1, version);
    if (mc_random_below(256) == 0 || depth == 0)
        mc_pause(mc_random_below(60000));
    mc_block_check(frame, sizeof(frame), depth, version);
}

void mc_mode_stack(void *argument)
{
    (void)argument;
    mc_worker("stack");
    for (uint64_t version = 1;; version++) {
        uint64_t depth = mc_random_below(FRAMES_MAX);

        descend(depth, version);
        mc_count(depth);
        mc_round();
    }
}
