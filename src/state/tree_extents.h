/* The pieces of a file that travel. */
#ifndef FM_STATE_TREE_EXTENTS_H
#define FM_STATE_TREE_EXTENTS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FM_TREE_EXTENTS_MAX 65536u /* a file in more pieces travels without its further gaps */

struct fm_tree_extent {
    off_t start;
    off_t end;
};

/* In their order, with gaps between them. {0} is empty. */
struct fm_tree_extents {
    struct fm_tree_extent *items;
    size_t count;
    size_t capacity;
};

void fm_tree_extents_clear(struct fm_tree_extents *e);
/* Behind the last one. */
void fm_tree_extents_add(struct fm_tree_extents *e, off_t start, off_t end);
/* Those of an open file that are no holes, instead of what was in there. */
void fm_tree_extents_find(struct fm_tree_extents *e, int fd, off_t size);
uint64_t fm_tree_extents_bytes(const struct fm_tree_extents *e);

#endif
