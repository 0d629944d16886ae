/* Files and directories: whole-file reads, atomic writes, trees, locks. */
#ifndef FM_BASE_FILE_H
#define FM_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include "base/error.h"

/* Reads a whole file (also from /proc and /sys) of at most `max` bytes. The caller frees *data,
 * which has a NUL after *len bytes. */
int fm_file_read(const char *path, size_t max, char **data, size_t *len, struct fm_error *err);
/* Reads the first line without its newline; the caller frees it; NULL when it cannot be read. */
char *fm_file_line(const char *path);
/* Writes to an existing file in one write(2), as /proc, /sys and cgroup files want it. */
int fm_file_poke(const char *path, const char *text, struct fm_error *err);
/* Replaces a file atomically (temporary name, fsync, rename) with the given mode. */
int fm_file_write(const char *path, const void *data, size_t len, mode_t mode,
                  struct fm_error *err);
bool fm_file_exists(const char *path);

/* JSON document ↔ file; errors name path, line and column. */
json_t *fm_json_load(const char *path, struct fm_error *err);
int fm_json_save(const char *path, const json_t *doc, struct fm_error *err);

/* mkdir -p with the mode for the directories that are made. */
int fm_mkdir_p(const char *path, mode_t mode, struct fm_error *err);
/* rm -rf that never crosses a mount point and never follows a symbolic link. Missing is fine. */
int fm_remove_tree(const char *path, struct fm_error *err);
/* Bytes of all regular files below a directory (allocated size), for reservations. */
int fm_tree_size(const char *path, uint64_t *bytes, struct fm_error *err);
/* Bytes that the file system of `path` (or of its nearest existing parent) has free. */
int fm_disk_free(const char *path, uint64_t *bytes, struct fm_error *err);
/* Copies all of in_fd to out_fd (copy_file_range, sendfile or read/write). */
int fm_copy_fd(int in_fd, int out_fd, uint64_t *copied, struct fm_error *err);

/* Full reads and writes on blocking descriptors. fm_read_full returns the bytes read (less only at
 * end of file) or negative. */
ssize_t fm_read_full(int fd, void *buf, size_t len);
int fm_write_full(int fd, const void *buf, size_t len);

/* True when `path` is a mount point in this process's mount namespace. */
bool fm_is_mount_point(const char *path);

#endif
