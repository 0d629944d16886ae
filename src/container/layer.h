/* Filling a layer's directory: from an OCI layer archive, or from a root file system on disk. */
#ifndef FM_CONTAINER_LAYER_H
#define FM_CONTAINER_LAYER_H

#include "base/error.h"
#include "container/digest.h"

/* Unpacks a tar (plain, gzip, zstd) into the empty directory `dir` in overlayfs terms: a whiteout
 * becomes a character device 0:0, an opaque mark the attribute trusted.overlay.opaque. Hostile
 * input: no entry leaves `dir`, none goes through a symbolic link. Format: OCI image specification,
 * "Image Layer Filesystem Changeset". */
int fm_layer_unpack(int archive_fd, const char *dir, struct fm_error *err);

/* A digest over the content and metadata (not times: the same tree made twice is one layer) of a
 * root file system. */
int fm_layer_digest_tree(const char *root, char digest[FM_DIGEST_SIZE], struct fm_error *err);
/* Copies a root file system with owners, modes, times, extended attributes, hard links and devices
 * into the empty directory `dir`; the digest is of what was copied (it may have changed since it
 * was digested alone). */
int fm_layer_copy_tree(const char *root, const char *dir, char digest[FM_DIGEST_SIZE],
                       struct fm_error *err);

#endif
