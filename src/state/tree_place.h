/* The receiving side of a file tree: puts archive entries below a directory, whatever they say. */
#ifndef FM_STATE_TREE_PLACE_H
#define FM_STATE_TREE_PLACE_H

#include <archive.h>
#include <archive_entry.h>
#include <stddef.h>
#include <time.h>

#include "base/error.h"

/* A directory whose children may still come; its times are set when it is left. */
struct fm_tree_entered {
    char *path;
    struct timespec times[2];
};

/* Every path is resolved from `root` by openat2, without "..", symbolic links and mounts, so that
 * no entry can lead out of it, whatever entries came before. */
struct fm_tree_placer {
    int root;
    int parent_fd; /* of the parent that was used last */
    char *parent;
    struct fm_tree_entered *entered; /* from the outermost to the innermost */
    size_t entered_count;
    size_t entered_capacity;
};

int fm_tree_placer_open(struct fm_tree_placer *p, const char *dir, struct fm_error *err);
/* Places one entry, with its data read from `a`. *path is its checked name ("." or "a/b"), which
 * belongs to the entry. An archive that is wrong is FM_E_PROTOCOL. */
int fm_tree_place(struct fm_tree_placer *p, struct archive *a, struct archive_entry *entry,
                  const char **path, struct fm_error *err);
/* Sets the times that are still due. */
int fm_tree_placer_finish(struct fm_tree_placer *p, struct fm_error *err);
void fm_tree_placer_clear(struct fm_tree_placer *p);

/* "a/b/c" from "./a/b/c/", "." from "./"; NULL when it is empty, absolute, or has a component "",
 * "." or "..". */
const char *fm_tree_check_path(char *path);

#endif
