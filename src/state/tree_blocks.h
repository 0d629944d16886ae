/* What the receiver of a file tree has of its large files: sums of their blocks as they were sent.
 * With them the next pass sends the blocks that differ, and no others.
 *
 * One object serves all trees of a migration, one pass after the other; it locks nothing. */
#ifndef FM_STATE_TREE_BLOCKS_H
#define FM_STATE_TREE_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/error.h"
#include "state/tree_extents.h"

#define FM_TREE_BLOCK_SIZE (128u << 10)
#define FM_TREE_BLOCKS_FROM (256u << 10) /* smaller files travel whole */

struct fm_tree_blocks; /* of all trees */
struct fm_tree_file;   /* of one file; valid until it is forgotten */

/* Takes `max_bytes` of memory at most; what does not fit is not remembered. */
struct fm_tree_blocks *fm_tree_blocks_new(uint64_t max_bytes);
void fm_tree_blocks_free(struct fm_tree_blocks *b); /* NULL is fine */
uint64_t fm_tree_blocks_bytes(const struct fm_tree_blocks *b);

/* Begins a pass of the tree of this name, which all functions below are about. `whole`: nothing of
 * what it brought before counts. */
void fm_tree_blocks_begin(struct fm_tree_blocks *b, const char *tree, bool whole);
/* This name is still there, and no directory. */
void fm_tree_blocks_keep(struct fm_tree_blocks *b, const char *path);
/* The receiver removes what was not kept since the pass began. */
void fm_tree_blocks_drop_others(struct fm_tree_blocks *b);
/* Something else takes this name at the receiver; `below`: where a directory was. */
void fm_tree_blocks_forget(struct fm_tree_blocks *b, const char *path, bool below);
/* Nobody knows how far the pass came. */
void fm_tree_blocks_forget_all(struct fm_tree_blocks *b);

/* NULL when this file was not sent under this name. */
struct fm_tree_file *fm_tree_blocks_find(struct fm_tree_blocks *b, const char *path,
                                         const struct stat *st);
/* It travels whole; takes the place of what was known. NULL: it cannot be remembered. */
struct fm_tree_file *fm_tree_blocks_start(struct fm_tree_blocks *b, const char *path,
                                          const struct stat *st);
off_t fm_tree_file_size(const struct fm_tree_file *f); /* as it was sent */

/* Adds what differs in the file as it is now, `size` bytes with content only in the `data`
 * extents. Beyond the size that was sent the receiver will have zeroes. */
int fm_tree_file_compare(const struct fm_tree_file *f, int fd, off_t size,
                         const struct fm_tree_extents *data, unsigned threads,
                         struct fm_tree_extents *differing, struct fm_error *err);
/* The receiver will cut it or fill it with zeroes. False: no room; the file is forgotten. */
bool fm_tree_blocks_resize(struct fm_tree_blocks *b, struct fm_tree_file *f, off_t size);
/* These bytes travel (NULL: zeroes). Each stretch begins with a block, and ends with one or with
 * the file; within it the bytes come in order. */
void fm_tree_blocks_sent(struct fm_tree_blocks *b, struct fm_tree_file *f, off_t at,
                         const void *data, size_t len);

#endif
