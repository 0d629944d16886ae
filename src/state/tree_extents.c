#include "state/tree_extents.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/text.h"

void fm_tree_extents_clear(struct fm_tree_extents *e)
{
    free(e->items);
    *e = (struct fm_tree_extents){0};
}

void fm_tree_extents_add(struct fm_tree_extents *e, off_t start, off_t end)
{
    struct fm_tree_extent *last = e->count ? &e->items[e->count - 1] : NULL;

    if (last && (last->end == start || e->count == FM_TREE_EXTENTS_MAX)) {
        last->end = end;
        return;
    }
    if (e->count == e->capacity) {
        e->capacity = e->capacity ? e->capacity * 2 : 64;
        e->items = fm_xrealloc(e->items, e->capacity * sizeof(*e->items));
    }
    e->items[e->count++] = (struct fm_tree_extent){start, end};
}

void fm_tree_extents_find(struct fm_tree_extents *e, int fd, off_t size)
{
    off_t at = 0;

    e->count = 0;
    while (at < size && e->count < FM_TREE_EXTENTS_MAX - 1) {
        off_t start = lseek(fd, at, SEEK_DATA);
        if (start < 0 && errno == ENXIO) /* only a hole is left */
            return;
        off_t end = start < 0 ? -1 : lseek(fd, start, SEEK_HOLE);
        if (start >= size)
            return;
        if (end <= start) /* the file system cannot tell, or it was truncated just now */
            break;
        fm_tree_extents_add(e, start, end < size ? end : size);
        at = end;
    }
    if (at < size)
        fm_tree_extents_add(e, at, size);
}

uint64_t fm_tree_extents_bytes(const struct fm_tree_extents *e)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < e->count; i++)
        bytes += (uint64_t)(e->items[i].end - e->items[i].start);
    return bytes;
}
