/* Modes with memory of special kinds: huge, locked, and out of reach. */
#include "memcheck.h"
#include "workload.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

#define HUGE_BYTES ((size_t)4 << 20)
#define RATE 100

/* ---- hugetlb --------------------------------------------------------------------------------- */

static struct mc_region huge_region(int fd, int flags, uint64_t key)
{
    void *base = mmap(NULL, HUGE_BYTES, PROT_READ | PROT_WRITE, flags, fd, 0);

    if (base == MAP_FAILED)
        mc_skip("no huge pages: %m; vm.nr_hugepages must be 6 or more");
    return mc_region_adopt(base, HUGE_BYTES / mc_page_size, key);
}

void mc_mode_hugetlb(void *argument)
{
    struct mc_region regions[3];
    int fd;

    (void)argument;
    mc_worker("hugetlb");
    regions[0] = huge_region(-1, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, 0);
    regions[1] = huge_region(-1, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, 0);
    fd = memfd_create("memcheck-huge", MFD_CLOEXEC | MFD_HUGETLB);
    if (fd < 0 || ftruncate(fd, (off_t)HUGE_BYTES) != 0)
        mc_skip("no memfd of huge pages: %m");
    regions[2] = huge_region(fd, MAP_SHARED, 0);
    mc_regions_run(regions, 3, RATE);
}

/* ---- mlock ----------------------------------------------------------------------------------- */

#define LOCKED 128 /* pages of each kind: all together below the usual limit of 8 MiB */
enum { BY_MLOCK, BY_FLAG, ON_FAULT, CYCLED, KINDS };

static uint64_t locked_kib(void)
{
    FILE *status = fopen("/proc/self/status", "re");
    char line[256];
    uint64_t kib = 0;

    mc_must(status != NULL, "/proc/self/status");
    while (fgets(line, sizeof(line), status))
        sscanf(line, "VmLck: %" SCNu64, &kib);
    fclose(status);
    return kib;
}

/* Locked on fault: only the first half has been touched, the rest is neither there nor locked yet.
 */
static struct mc_region half_touched(unsigned char **rest)
{
    unsigned char *base = mc_map((size_t)LOCKED * mc_page_size);

    if (mlock2(base, LOCKED * mc_page_size, MLOCK_ONFAULT) != 0)
        mc_skip("mlock2: %m");
    *rest = base + (size_t)LOCKED / 2 * mc_page_size;
    return mc_region_adopt(base, LOCKED / 2, 0);
}

static struct mc_region locked_by_flag(void)
{
    void *base = mmap(NULL, LOCKED * mc_page_size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);

    if (base == MAP_FAILED)
        mc_skip("MAP_LOCKED: %m");
    return mc_region_adopt(base, LOCKED, 0);
}

static void cycle(const struct mc_region *region, bool *locked)
{
    *locked = !*locked;
    if (*locked)
        mc_must(mlock(region->base, LOCKED * mc_page_size) == 0, "mlock");
    else
        mc_must(munlock(region->base, LOCKED * mc_page_size) == 0, "munlock");
}

/* The untouched rest is one page shorter after each round: zero until then, as it must be. */
static void touch_rest(unsigned char *rest, uint64_t round)
{
    uint64_t page = round % (LOCKED / 2);
    unsigned char *at = rest + page * mc_page_size;

    mc_block_check(at, mc_page_size, (uint64_t)(uintptr_t)at,
                   round < LOCKED / 2 ? 0 : round - LOCKED / 2 + 1);
    mc_block_fill(at, mc_page_size, (uint64_t)(uintptr_t)at, round + 1);
}

void mc_mode_mlock(void *argument)
{
    struct mc_region regions[KINDS];
    unsigned char *rest;
    bool cycled = false;
    uint64_t ticks = 0, rounds = 0;

    (void)argument;
    mc_worker("mlock");
    regions[BY_MLOCK] = mc_region_new(LOCKED);
    if (mlock(regions[BY_MLOCK].base, LOCKED * mc_page_size) != 0)
        mc_skip("mlock: %m");
    regions[BY_FLAG] = locked_by_flag();
    regions[ON_FAULT] = half_touched(&rest);
    regions[CYCLED] = mc_region_new(LOCKED);
    for (;; ticks++) {
        uint64_t expected = (uint64_t)LOCKED * mc_page_size / 1024 * (cycled ? 4 : 3);

        for (int i = 0; i < KINDS; i++) {
            mc_region_dirty(&regions[i], 1);
            mc_region_verify(&regions[i], 8);
        }
        if (regions[BY_MLOCK].next == 0) {
            touch_rest(rest, rounds++);
            mc_round();
        }
        if (locked_kib() != expected)
            mc_fail("%" PRIu64 " KiB are locked instead of %" PRIu64, locked_kib(), expected);
        if (ticks % 16 == 0)
            cycle(&regions[CYCLED], &cycled);
        mc_pause(20000);
    }
}

/* ---- protnone -------------------------------------------------------------------------------- */

#define HIDDEN 16
#define HIDDEN_PAGES 64

struct hidden {
    struct mc_region region;
    uint64_t due_us;
    bool write_only; /* instead of PROT_NONE */
};

static void protect(const struct hidden *hidden, int access)
{
    mc_must(mprotect(hidden->region.base, HIDDEN_PAGES * mc_page_size, access) == 0, "mprotect");
}

/* Content that nobody can read for up to two seconds, and is looked at in between. */
static void reveal(struct hidden *hidden)
{
    protect(hidden, PROT_READ);
    mc_region_check_all(&hidden->region);
    mc_count(HIDDEN_PAGES);
    protect(hidden, PROT_READ | PROT_WRITE);
    mc_region_dirty(&hidden->region, HIDDEN_PAGES / 4);
    protect(hidden, hidden->write_only ? PROT_WRITE : PROT_NONE);
    hidden->due_us = wl_now_us() + mc_random_below(2000000);
}

static void write_blindly(struct hidden *hidden)
{
    mc_region_fill(&hidden->region, mc_random_below(HIDDEN_PAGES));
}

void mc_mode_protnone(void *argument)
{
    static struct hidden all[HIDDEN];
    uint64_t revealed = 0;

    (void)argument;
    mc_worker("protnone");
    for (size_t i = 0; i < HIDDEN; i++) {
        all[i] = (struct hidden){.region = mc_region_new(HIDDEN_PAGES), .write_only = i % 4 == 3};
        reveal(&all[i]);
    }
    for (;;) {
        for (size_t i = 0; i < HIDDEN; i++) {
            if (all[i].write_only)
                write_blindly(&all[i]);
            if (wl_now_us() < all[i].due_us)
                continue;
            reveal(&all[i]);
            if (++revealed % HIDDEN == 0)
                mc_round();
        }
        mc_pause(10000);
    }
}
