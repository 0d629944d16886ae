#include "state/memory.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"

uint64_t fm_page_size(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

void fm_ranges_clear(struct fm_ranges *r)
{
    free(r->items);
    *r = (struct fm_ranges){0};
}

static void make_room(struct fm_ranges *r)
{
    if (r->count < r->capacity)
        return;
    r->capacity = r->capacity ? r->capacity * 2 : 16;
    r->items = fm_xrealloc(r->items, r->capacity * sizeof(*r->items));
}

void fm_ranges_append(struct fm_ranges *r, uint64_t start, uint64_t end)
{
    if (start >= end)
        return;
    if (r->count > 0 && r->items[r->count - 1].end == start) {
        r->items[r->count - 1].end = end;
        return;
    }
    make_room(r);
    r->items[r->count++] = (struct fm_range){start, end};
}

uint64_t fm_ranges_bytes(const struct fm_ranges *r)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < r->count; i++)
        bytes += r->items[i].end - r->items[i].start;
    return bytes;
}

size_t fm_ranges_find(const struct fm_ranges *r, uint64_t address)
{
    size_t low = 0, high = r->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (r->items[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool fm_ranges_contain(const struct fm_ranges *r, uint64_t address)
{
    size_t i = fm_ranges_find(r, address);

    return i < r->count && r->items[i].start <= address;
}

/* Puts a second range behind the i-th. */
static void insert_after(struct fm_ranges *r, size_t i, struct fm_range range)
{
    make_room(r);
    memmove(&r->items[i + 2], &r->items[i + 1], (r->count - i - 1) * sizeof(*r->items));
    r->items[i + 1] = range;
    r->count++;
}

void fm_ranges_subtract(struct fm_ranges *r, uint64_t start, uint64_t end)
{
    size_t first = fm_ranges_find(r, start), last;

    if (start >= end || first == r->count)
        return;
    if (r->items[first].start < start) {
        struct fm_range tail = {end, r->items[first].end};

        r->items[first].end = start;
        if (tail.start < tail.end) {
            insert_after(r, first, tail);
            return;
        }
        first++;
    }
    for (last = first; last < r->count && r->items[last].end <= end; last++)
        ;
    if (last < r->count && r->items[last].start < end)
        r->items[last].start = end;
    if (last > first) {
        memmove(&r->items[first], &r->items[last], (r->count - last) * sizeof(*r->items));
        r->count -= last - first;
    }
}

void fm_memory_scan_clear(struct fm_memory_scan *scan)
{
    for (size_t i = 0; i < scan->count; i++) {
        fm_ranges_clear(&scan->items[i].mapped);
        fm_ranges_clear(&scan->items[i].present);
        fm_ranges_clear(&scan->items[i].dirty);
    }
    free(scan->items);
    *scan = (struct fm_memory_scan){0};
}
