#include "state/page_cache.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/text.h"

#define WAYS 4u
#define SEEN_BITS (UINT64_C(1) << 22) /* hashed: two pages in one bit only cost a copy */
#define STALE 2u /* rounds without use, before another page may have the place */

struct slot {
    uint64_t address;
    pid_t inner_pid; /* 0: free */
    uint32_t round;  /* the last that sent it */
    bool again;      /* was sent more than once */
};

struct fm_page_cache {
    size_t page_size, set_count;
    uint32_t round;
    struct slot *slots;
    uint8_t *pages, *seen; /* mapped: what is never used costs nothing */
};

static void *map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

struct fm_page_cache *fm_page_cache_new(uint64_t bytes, size_t page_size)
{
    struct fm_page_cache *c;
    size_t sets = (size_t)(bytes / (page_size * WAYS));

    if (sets == 0)
        return NULL;
    c = fm_xcalloc(1, sizeof(*c));
    c->page_size = page_size;
    c->set_count = sets;
    c->slots = fm_xcalloc(sets * WAYS, sizeof(*c->slots));
    c->pages = map(sets * WAYS * page_size);
    c->seen = map(SEEN_BITS / 8);
    if (!c->pages || !c->seen) { /* it can be done without */
        fm_page_cache_free(c);
        return NULL;
    }
    return c;
}

void fm_page_cache_free(struct fm_page_cache *c)
{
    if (!c)
        return;
    if (c->pages)
        munmap(c->pages, c->set_count * WAYS * c->page_size);
    if (c->seen)
        munmap(c->seen, SEEN_BITS / 8);
    free(c->slots);
    free(c);
}

static uint64_t hash_of(const struct fm_page_cache *c, pid_t inner_pid, uint64_t address)
{
    uint64_t number = address / c->page_size + ((uint64_t)inner_pid << 40);

    number *= UINT64_C(0x9e3779b97f4a7c15);
    return number ^ number >> 29;
}

static struct slot *set_of(struct fm_page_cache *c, uint64_t hash)
{
    return &c->slots[hash % c->set_count * WAYS];
}

static uint8_t *page_of(struct fm_page_cache *c, const struct slot *slot)
{
    return c->pages + (size_t)(slot - c->slots) * c->page_size;
}

static struct slot *find(struct fm_page_cache *c, pid_t inner_pid, uint64_t address)
{
    struct slot *set = set_of(c, hash_of(c, inner_pid, address));

    for (size_t i = 0; i < WAYS; i++)
        if (set[i].inner_pid == inner_pid && set[i].address == address)
            return &set[i];
    return NULL;
}

uint8_t *fm_page_cache_find(struct fm_page_cache *c, pid_t inner_pid, uint64_t address)
{
    struct slot *slot = find(c, inner_pid, address);

    if (!slot)
        return NULL;
    slot->round = c->round;
    slot->again = true;
    return page_of(c, slot);
}

/* Whether the page was sent before, as far as one hashed bit can say. */
static bool see(struct fm_page_cache *c, uint64_t hash)
{
    uint64_t bit = hash >> 8 & (SEEN_BITS - 1);
    uint8_t mask = (uint8_t)(1u << (bit & 7));
    bool seen = c->seen[bit >> 3] & mask;

    c->seen[bit >> 3] |= mask;
    return seen;
}

static bool may_go(const struct fm_page_cache *c, const struct slot *slot)
{
    return c->round - slot->round >= (slot->again ? STALE : 1);
}

/* A slot that is free, or that a page which is sent again may have; NULL: none. */
static struct slot *room_for(struct fm_page_cache *c, struct slot *set, bool again)
{
    struct slot *found = NULL;

    for (size_t i = 0; i < WAYS; i++) {
        if (!set[i].inner_pid)
            return &set[i];
        if (again && may_go(c, &set[i]) && (!found || set[i].round < found->round))
            found = &set[i];
    }
    return found;
}

void fm_page_cache_offer(struct fm_page_cache *c, pid_t inner_pid, uint64_t address,
                         const uint8_t *page)
{
    uint64_t hash = hash_of(c, inner_pid, address);
    bool again = see(c, hash);
    struct slot *slot = room_for(c, set_of(c, hash), again);

    if (!slot)
        return;
    *slot = (struct slot){address, inner_pid, c->round, again};
    memcpy(page_of(c, slot), page, c->page_size);
}

void fm_page_cache_end_round(struct fm_page_cache *c)
{
    c->round++;
}

void fm_page_cache_drop(struct fm_page_cache *c, pid_t inner_pid, uint64_t address)
{
    struct slot *slot = find(c, inner_pid, address);

    if (slot)
        slot->inner_pid = 0;
}
