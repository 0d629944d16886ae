/* Image files on the wire: what sender and receiver agree on.
 *
 * IMAGE {"name","offset"} DATA… DATA_END goes on with one file; "bytes" and "digest" at its end are
 * those of the file so far.
 *
 * IMAGE {"bundle":[{"name","bytes"},…]} DATA DATA_END brings whole small files, one after the other
 * in one DATA frame (none if all are empty): most images are small, and three frames for each would
 * cost more than their content. */
#ifndef FM_STATE_IMAGE_FILE_H
#define FM_STATE_IMAGE_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "state/stream.h"

/* Every thread has a file; the manifest must still fit into a frame. */
#define FM_IMAGE_FILES_MAX 16384u
#define FM_IMAGE_NAME_MAX 128u
#define FM_IMAGE_BUNDLED_MAX (256u << 10) /* a larger file travels on its own */

/* One path component of [A-Za-z0-9._-], without a leading dot. */
bool fm_image_name_valid(const char *name);

struct fm_image_file {
    char *name;
    struct fm_stream stream; /* how much of it has travelled, and its digest */
    bool announced;          /* an IMAGE frame was sent or received */
};

/* Files in the order in which they were first seen, found by name. */
struct fm_image_files {
    struct fm_image_file **items;
    size_t count;
    size_t capacity;
    json_t *index; /* name → position */
};

struct fm_image_file *fm_image_files_find(const struct fm_image_files *files, const char *name);
/* A new entry; the caller has checked that the name is valid and not there. */
struct fm_image_file *fm_image_files_add(struct fm_image_files *files, const char *name,
                                         struct fm_connection *c);
void fm_image_files_clear(struct fm_image_files *files);

#endif
