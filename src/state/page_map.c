#include "state/page_map.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/text.h"

#define CHUNK_PAGES 8192u
#define WORD_BITS 64u

struct fm_page_map_chunk {
    uint64_t number; /* of its first page, divided by CHUNK_PAGES */
    uint32_t count;  /* of bits that are set */
    uint64_t words[CHUNK_PAGES / WORD_BITS];
};

void fm_page_map_clear(struct fm_page_map *m)
{
    for (size_t i = 0; i < m->slot_count; i++)
        free(m->slots[i]);
    free(m->slots);
    *m = (struct fm_page_map){0};
}

/* The slot that holds the chunk, or the free one where it belongs. The table is never full. */
static size_t slot_of(const struct fm_page_map *m, uint64_t number)
{
    size_t i = (size_t)(number * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (m->slot_count - 1);

    while (m->slots[i] && m->slots[i]->number != number)
        i = (i + 1) & (m->slot_count - 1);
    return i;
}

static struct fm_page_map_chunk *find(const struct fm_page_map *m, uint64_t number)
{
    return m->slot_count ? m->slots[slot_of(m, number)] : NULL;
}

static void grow(struct fm_page_map *m)
{
    struct fm_page_map larger = {.slot_count = m->slot_count ? m->slot_count * 2 : 16};

    larger.slots = fm_xcalloc(larger.slot_count, sizeof(void *));
    larger.chunk_count = m->chunk_count;
    for (size_t i = 0; i < m->slot_count; i++)
        if (m->slots[i])
            larger.slots[slot_of(&larger, m->slots[i]->number)] = m->slots[i];
    free(m->slots);
    *m = larger;
}

static struct fm_page_map_chunk *find_or_add(struct fm_page_map *m, uint64_t number)
{
    struct fm_page_map_chunk *c = find(m, number);

    if (c)
        return c;
    if (m->chunk_count * 2 >= m->slot_count)
        grow(m);
    c = fm_xcalloc(1, sizeof(*c));
    c->number = number;
    m->slots[slot_of(m, number)] = c;
    m->chunk_count++;
    return c;
}

enum change { SET, CLEAR, LOOK };

/* Bits [first, end) of one chunk; returns how many differ from what they become. */
static uint32_t change_chunk(struct fm_page_map_chunk *c, uint32_t first, uint32_t end,
                             enum change change)
{
    uint32_t changed = 0;

    while (first < end) {
        uint32_t bit = first % WORD_BITS;
        uint32_t n = WORD_BITS - bit < end - first ? WORD_BITS - bit : end - first;
        uint64_t mask = (n == WORD_BITS ? UINT64_MAX : (UINT64_C(1) << n) - 1) << bit;
        uint64_t *word = &c->words[first / WORD_BITS];
        uint64_t hits = (change == CLEAR ? *word : ~*word) & mask;

        changed += (uint32_t)__builtin_popcountll(hits);
        if (change != LOOK)
            *word ^= hits;
        first += n;
    }
    return changed;
}

uint64_t fm_page_map_set(struct fm_page_map *m, uint64_t first, uint64_t end)
{
    uint64_t changed = 0;

    for (uint64_t next; first < end; first = next) {
        struct fm_page_map_chunk *c = find_or_add(m, first / CHUNK_PAGES);
        uint64_t base = first - first % CHUNK_PAGES;
        uint32_t n;

        next = base + CHUNK_PAGES < end ? base + CHUNK_PAGES : end;
        n = change_chunk(c, (uint32_t)(first - base), (uint32_t)(next - base), SET);
        c->count += n;
        changed += n;
    }
    return changed;
}

uint64_t fm_page_map_unset_count(const struct fm_page_map *m, uint64_t first, uint64_t end)
{
    uint64_t unset = 0;

    for (uint64_t next; first < end; first = next) {
        struct fm_page_map_chunk *c = find(m, first / CHUNK_PAGES);
        uint64_t base = first - first % CHUNK_PAGES;

        next = base + CHUNK_PAGES < end ? base + CHUNK_PAGES : end;
        unset += c ? change_chunk(c, (uint32_t)(first - base), (uint32_t)(next - base), LOOK)
                   : next - first;
    }
    return unset;
}

/* Clearing may cover terabytes (a foreign batch says so): then the chunks are walked instead. */
static uint64_t clear_in_chunk(struct fm_page_map_chunk *c, uint64_t first, uint64_t end)
{
    uint64_t base = c->number * CHUNK_PAGES;
    uint64_t from = first > base ? first : base;
    uint64_t to = end < base + CHUNK_PAGES ? end : base + CHUNK_PAGES;
    uint32_t n;

    if (from >= to || c->count == 0)
        return 0;
    n = change_chunk(c, (uint32_t)(from - base), (uint32_t)(to - base), CLEAR);
    c->count -= n;
    return n;
}

uint64_t fm_page_map_clear_bits(struct fm_page_map *m, uint64_t first, uint64_t end)
{
    uint64_t changed = 0;
    bool wide = (end - first) / CHUNK_PAGES > m->chunk_count;

    for (size_t i = 0; wide && i < m->slot_count; i++)
        if (m->slots[i])
            changed += clear_in_chunk(m->slots[i], first, end);
    for (uint64_t at = first / CHUNK_PAGES; !wide && at * CHUNK_PAGES < end; at++) {
        struct fm_page_map_chunk *c = find(m, at);

        changed += c ? clear_in_chunk(c, first, end) : 0;
    }
    return changed;
}
