/* Tmpfs mounts of a container, moved by us instead of CRIU, which runs tar twice for each.
 *
 * Both hosts of a migration have them below the migration's directory, as <dir>/tmpfs/<index>: on
 * the source the container's own, on the destination new ones with the same options. */
#ifndef FM_CONTAINER_TMPFS_MOUNTS_H
#define FM_CONTAINER_TMPFS_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include "base/error.h"

struct fm_tmpfs_mount {
    char *target;  /* mount point in the container, absolute */
    char *source;  /* what it calls itself: "tmpfs", "shm" */
    char *options; /* of the file system, as mount(8) takes them: "size=65536k,mode=755" */
    uint64_t id;   /* of the mount on the source, in its mountinfo */
};

struct fm_tmpfs_mounts {
    struct fm_tmpfs_mount *items;
    size_t count;
};

/* Those of a running container that can be moved this way. Left to CRIU are: a file system that
 * this host has mounted as well, that `config` (OCI, may be NULL) binds there, that lies in a user
 * namespace of its own, of which only a part is mounted, and one that is covered by another mount.
 */
int fm_tmpfs_find(pid_t init, const json_t *config, struct fm_tmpfs_mounts *mounts,
                  struct fm_error *err);
void fm_tmpfs_clear(struct fm_tmpfs_mounts *mounts); /* frees; fine on a zeroed one */
/* FM_E_REFUSED when the container has mounted or unmounted one of them since. */
int fm_tmpfs_check(pid_t init, const struct fm_tmpfs_mounts *mounts, struct fm_error *err);

/* [{"target","source","options"}]; new reference. */
json_t *fm_tmpfs_to_json(const struct fm_tmpfs_mounts *mounts);
/* A missing list (NULL) is an empty one. Hostile input: FM_E_PROTOCOL. */
int fm_tmpfs_from_json(const json_t *doc, struct fm_tmpfs_mounts *mounts, struct fm_error *err);

/* <dir>/tmpfs/<index>; the caller frees it. */
char *fm_tmpfs_path(const char *dir, size_t index);
/* Source: the container's own mounts, without what is mounted on them, appear below `dir`. */
int fm_tmpfs_attach(pid_t init, const struct fm_tmpfs_mounts *mounts, const char *dir,
                    struct fm_error *err);
/* Destination: empty ones below `dir`. */
int fm_tmpfs_make(const struct fm_tmpfs_mounts *mounts, const char *dir, struct fm_error *err);
/* Destination, with the content complete: those become read-only that are so on the source. */
int fm_tmpfs_seal(const struct fm_tmpfs_mounts *mounts, const char *dir, struct fm_error *err);
/* Unmounts everything below <dir>/tmpfs, which must come before `dir` is removed. Missing is fine.
 */
int fm_tmpfs_detach(const char *dir, struct fm_error *err);

#endif
