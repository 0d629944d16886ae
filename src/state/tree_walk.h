/* The sending side's view of a file tree: what is there, and which of it has to travel. */
#ifndef FM_STATE_TREE_WALK_H
#define FM_STATE_TREE_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/text.h"

#define FM_TREE_NO_ITEM UINT32_MAX

/* One name of the tree. Item 0 is the root, whose name is ".". Depth first: everything below a
 * directory comes after it and before its next sibling; its directories come after its other
 * entries. */
struct fm_tree_item {
    char *name;
    uint32_t parent; /* index, FM_TREE_NO_ITEM for the root */
    bool directory : 1;
    bool mount_point : 1; /* what is mounted there stays out */
    bool socket : 1;      /* never travels: whoever bound it makes it again */
    bool selected : 1;    /* travels */
    bool moved : 1;       /* this directory may have had another name: all below it travels */
};

/* Two or more names of one file. */
struct fm_tree_link {
    dev_t dev;
    ino_t ino;
    uint32_t item;
    uint32_t
        first; /* the name that has travelled with the content; kept in the group's first link */
};

struct fm_tree {
    int root; /* O_PATH */
    struct fm_tree_item *items;
    uint32_t count;
    uint32_t capacity;
    struct fm_tree_link *links; /* sorted by inode */
    size_t link_count;
    size_t link_capacity;
};

struct fm_tree_filter {
    uint64_t changed_after_us;    /* 0: everything travels */
    const struct fm_strv *always; /* paths below the root that travel in any case; may be NULL */
};

/* Lists what is below `dir` and marks what travels. The tree may change meanwhile: what has gone is
 * left out. */
int fm_tree_walk(struct fm_tree *t, const char *dir, const struct fm_tree_filter *filter,
                 struct fm_error *err);
void fm_tree_clear(struct fm_tree *t);

/* "etc/passwd", "." for the root; the caller frees it. */
char *fm_tree_path(const struct fm_tree *t, uint32_t item);
/* The group of an inode's names: its first link, or NULL for a file with one name. */
struct fm_tree_link *fm_tree_link_group(const struct fm_tree *t, const struct stat *st);

/* Opens below a directory without leaving it, following a symbolic link or entering a mount. */
int fm_tree_open_beneath(int root, const char *path, int flags);
/* rm -rf of one name in an open directory; neither follows a link nor enters a mount. Missing is
 * fine. */
int fm_tree_remove(int dir, const char *name, struct fm_error *err);

#endif
