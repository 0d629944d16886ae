/* Reading an OCI image layout: which manifest is for this machine, what it consists of, every blob
 * verified. Format: OCI image specification, "Image Layout", "Image Index", "Image Manifest". */
#ifndef FM_CONTAINER_OCI_LAYOUT_H
#define FM_CONTAINER_OCI_LAYOUT_H

#include <stdbool.h>

#include <jansson.h>

#include "base/error.h"
#include "base/text.h"

struct fm_oci_image {
    struct fm_strv layers; /* digests of the archives, lowest first */
    json_t *config;        /* the image configuration's "config"; an object */
};
void fm_oci_image_clear(struct fm_oci_image *image);

/* A directory with index.json and oci-layout. */
bool fm_is_oci_layout(const char *dir);
/* `tag` NULL: there must be only one image for this machine. */
int fm_oci_layout_read(const char *dir, const char *tag, struct fm_oci_image *image,
                       struct fm_error *err);
/* Opens a blob, verified against its digest, at its start. Returns the descriptor or negative. */
int fm_oci_blob_open(const char *dir, const char *digest, struct fm_error *err);

/* Unpacks the tar (plain, gzip, zstd) of a layout into the empty directory `dir`; anything else in
 * it is left out. */
int fm_oci_archive_unpack(const char *path, const char *dir, struct fm_error *err);

#endif
