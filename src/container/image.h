/* Images: layers by digest in a store; imported from a root directory, an OCI layout or its tar. */
#ifndef FM_CONTAINER_IMAGE_H
#define FM_CONTAINER_IMAGE_H

#include <stdbool.h>

#include <jansson.h>

#include "base/error.h"
#include "base/text.h"

struct fm_image_store;
struct fm_image_store *fm_image_store_open(const char *dir, struct fm_error *err);
void fm_image_store_close(struct fm_image_store *s);

struct fm_image {
    char *name;
    struct fm_strv layers; /* "sha256:…", lowest first */
    json_t *config; /* OCI image config's "config" object: Entrypoint, Cmd, Env, WorkingDir, User;
                       may be empty */
};
void fm_image_clear(struct fm_image *image);

/* Imports what `path` is: a directory with index.json + oci-layout is an OCI layout, any other
 * directory a root file system (one layer, digest over its content and metadata), a file a tar
 * (optionally gzip or zstd) of an OCI layout (also docker-archive is not needed). Layers land as
 * overlayfs lower directories: whiteouts converted (character device 0:0, opaque xattr).
 * Half-imported layers never show up (made beside, renamed). `name` NULL: derived from the path.
 * Already imported: cheap. */
int fm_image_import(struct fm_image_store *s, const char *path, const char *name,
                    struct fm_image *image, struct fm_error *err);

/* The image that was imported under `name`; FM_E_NOT_FOUND when there is none or a layer was
 * pruned. */
int fm_image_load(struct fm_image_store *s, const char *name, struct fm_image *image,
                  struct fm_error *err);

bool fm_image_has_layer(struct fm_image_store *s, const char *digest);
/* <store>/layers/<hex>; the caller frees it. Digest is checked to be well formed. */
char *fm_image_layer_dir(struct fm_image_store *s, const char *digest, struct fm_error *err);
/* For a layer that arrives over the wire: a fresh directory to fill, then made final by commit (or
 * thrown away). */
int fm_image_layer_stage(struct fm_image_store *s, const char *digest, char **dir,
                         struct fm_error *err);
int fm_image_layer_commit(struct fm_image_store *s, const char *digest, const char *dir,
                          struct fm_error *err);
/* Removes staging directories that a crash left. */
int fm_image_store_sweep(struct fm_image_store *s, struct fm_error *err);
/* Removes layers that no name in `used` (digests) mentions. */
int fm_image_store_prune(struct fm_image_store *s, const struct fm_strv *used,
                         struct fm_error *err);

#endif
