/* Tree print: what a small file tree looks like from outside, to tell cheaply that it has not
 * changed.
 */
#ifndef FM_CONTAINER_TREE_PRINT_H
#define FM_CONTAINER_TREE_PRINT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define FM_TREE_PRINT_MAX 10000 /* some 10 ms */

/* Of names, inodes, modes, sizes and times of change. Zeroed, it equals nothing. */
struct fm_tree_print {
    uint64_t hash;
    uint64_t entries;
    bool settled; /* the last change is so long ago that a later one has another time */
};
/* Does not look into what is mounted below `path`. Gives up (not settled) on a tree of more than
 * FM_TREE_PRINT_MAX names. */
int fm_tree_print_take(const char *path, struct fm_tree_print *print, struct fm_error *err);
/* True when nothing was written between the two, unless through a shared mapping. */
bool fm_tree_print_same(const struct fm_tree_print *before, const struct fm_tree_print *after);

#endif
