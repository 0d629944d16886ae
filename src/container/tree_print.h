/* Tree print: what a small file tree looks like from outside, to tell cheaply that it has not changed.
 */
#ifndef FM_CONTAINER_TREE_PRINT_H
#define FM_CONTAINER_TREE_PRINT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Of names, inodes, modes, sizes and times of change. */
struct fm_tree_print {
    uint64_t hash;
    bool settled;  /* the last change is so long ago that a later one has another time */
    bool has_data; /* a regular file that is not empty */
};
/* Does not look into what is mounted below `path`. */
int fm_tree_print_take(const char *path, struct fm_tree_print *print, struct fm_error *err);
/* True when nothing was written between the two, unless through a shared mapping. */
bool fm_tree_print_same(const struct fm_tree_print *before, const struct fm_tree_print *after);

#endif
