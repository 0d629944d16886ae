/* Which extended attributes travel with a file. */
#ifndef FM_STATE_TREE_XATTR_H
#define FM_STATE_TREE_XATTR_H

#include <stdbool.h>

/* Those of the file itself; not labels that the host's policy gives, nor overlayfs's notes on the
 * inodes and file handles of this very file system. */
bool fm_tree_xattr_travels(const char *name);

#define FM_TREE_XATTR_MAX 65536 /* size of a value and of a list; the kernel's limit */

/* A name for a descriptor, also an O_PATH one, that path-based calls accept: "/proc/self/fd/N". It
 * leads to the very inode, symbolic links included. */
struct fm_fd_path {
    char text[32];
};
struct fm_fd_path fm_fd_path(int fd);

#endif
