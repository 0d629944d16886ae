#include "state/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "state/image_file.h"

struct fm_restore_receiver {
    char *dir;
    int dir_fd;
    uint64_t max_bytes;
    uint64_t bytes;
    struct fm_image_files files;
};

struct fm_restore_receiver *fm_restore_receive_begin(const char *dir, uint64_t max_bytes,
                                                     struct fm_error *err)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        fm_error_errno(err, errno, "cannot open image directory %s", dir);
        return NULL;
    }
    struct fm_restore_receiver *r = fm_xcalloc(1, sizeof(*r));
    r->dir = fm_xstrdup(dir);
    r->dir_fd = fd;
    r->max_bytes = max_bytes;
    return r;
}

void fm_restore_receive_abort(struct fm_restore_receiver *r)
{
    if (!r)
        return;
    fm_image_files_clear(&r->files);
    close(r->dir_fd);
    free(r->dir);
    free(r);
}

static struct fm_image_file *add_file(struct fm_restore_receiver *r, const char *name,
                                      struct fm_error *err)
{
    if (r->files.count >= FM_IMAGE_FILES_MAX) {
        fm_error_set(err, FM_E_PROTOCOL, "more than %u image files", FM_IMAGE_FILES_MAX);
        return NULL;
    }
    return fm_image_files_add(&r->files, name, NULL);
}

/* The file that an IMAGE frame goes on with; at its first mention it is a new one. */
static struct fm_image_file *announced_file(struct fm_restore_receiver *r, const json_t *image,
                                            struct fm_error *err)
{
    const char *name = NULL;
    json_int_t offset = -1;

    if (json_unpack((json_t *)image, "{s:s,s:I}", "name", &name, "offset", &offset) < 0 ||
        !fm_image_name_valid(name)) {
        fm_error_set(err, FM_E_PROTOCOL, "IMAGE frame without a usable name and offset");
        return NULL;
    }
    struct fm_image_file *file = fm_image_files_find(&r->files, name);
    uint64_t arrived = file ? file->stream.bytes : 0;
    if (offset < 0 || (uint64_t)offset != arrived) {
        fm_error_set(err, FM_E_PROTOCOL,
                     "%s goes on at %" JSON_INTEGER_FORMAT ", but %" PRIu64 " bytes have arrived",
                     name, offset, arrived);
        return NULL;
    }
    return file ? file : add_file(r, name, err);
}

static int open_file(struct fm_restore_receiver *r, struct fm_image_file *file)
{
    int flags = O_WRONLY | O_NOFOLLOW | O_CLOEXEC;

    if (file->announced)
        return openat(r->dir_fd, file->name, flags);
    file->announced = true;
    flags |= O_CREAT | O_EXCL;
    int fd = openat(r->dir_fd, file->name, flags, 0600);
    if (fd < 0 && errno == EEXIST && unlinkat(r->dir_fd, file->name, 0) == 0)
        fd = openat(r->dir_fd, file->name, flags, 0600);
    return fd;
}

static int write_at(int fd, const uint8_t *data, size_t len, uint64_t at)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        data += n;
        len -= (size_t)n;
        at += (uint64_t)n;
    }
    return 0;
}

static int receive_content(struct fm_restore_receiver *r, struct fm_image_file *file, int fd,
                           struct fm_error *err)
{
    const void *data;
    size_t len;

    for (;;) {
        uint64_t at = file->stream.bytes;
        int rc = fm_stream_recv(&file->stream, at + (r->max_bytes - r->bytes), &data, &len, err);
        if (rc < 0 || len == 0)
            return rc;
        r->bytes += len;
        if (write_at(fd, data, len, at) < 0)
            return fm_error_errno(err, errno, "cannot write %s/%s", r->dir, file->name);
    }
}

static int receive_file(struct fm_restore_receiver *r, struct fm_connection *c, const json_t *image,
                        struct fm_error *err)
{
    struct fm_image_file *file = announced_file(r, image, err);

    if (!file)
        return -(int)err->code;
    file->stream.connection = c;
    fm_autoclose int fd = open_file(r, file);
    if (fd < 0)
        return fm_error_errno(err, errno, "cannot create %s/%s", r->dir, file->name);
    return receive_content(r, file, fd, err);
}

/* --- bundles
 * ----------------------------------------------------------------------------------------- */

/* Whole files only, none of which has been mentioned before. *total: their bytes together. */
static int check_bundle(const struct fm_restore_receiver *r, const json_t *bundle, size_t *total,
                        struct fm_error *err)
{
    const char *name = NULL;
    json_int_t bytes = -1;

    *total = 0;
    for (size_t i = 0; i < json_array_size(bundle); i++) {
        json_t *entry = json_array_get(bundle, i);
        if (json_unpack(entry, "{s:s,s:I}", "name", &name, "bytes", &bytes) < 0 ||
            !fm_image_name_valid(name) || bytes < 0 || bytes > FM_IMAGE_BUNDLED_MAX ||
            *total + (size_t)bytes > FM_STREAM_CHUNK)
            return fm_error_set(err, FM_E_PROTOCOL, "IMAGE frame with an unusable bundle");
        if (fm_image_files_find(&r->files, name))
            return fm_error_set(err, FM_E_PROTOCOL, "%s arrives a second time", name);
        *total += (size_t)bytes;
    }
    return 0;
}

static int write_bundled(struct fm_restore_receiver *r, const char *name, const uint8_t *data,
                         size_t len, struct fm_error *err)
{
    if (fm_image_files_find(&r->files, name))
        return fm_error_set(err, FM_E_PROTOCOL, "%s is twice in one bundle", name);
    struct fm_image_file *file = add_file(r, name, err);
    if (!file)
        return -(int)err->code;
    fm_autoclose int fd = open_file(r, file);
    if (fd < 0 || write_at(fd, data, len, 0) < 0)
        return fm_error_errno(err, errno, "cannot write %s/%s", r->dir, name);
    fm_stream_account(&file->stream, data, len);
    r->bytes += len;
    return 0;
}

static int write_bundle(struct fm_restore_receiver *r, const json_t *bundle, const uint8_t *data,
                        struct fm_error *err)
{
    for (size_t i = 0; i < json_array_size(bundle); i++) {
        json_t *entry = json_array_get(bundle, i);
        size_t len = (size_t)json_integer_value(json_object_get(entry, "bytes"));
        int rc =
            write_bundled(r, json_string_value(json_object_get(entry, "name")), data, len, err);
        if (rc < 0)
            return rc;
        data += len;
    }
    return 0;
}

static int receive_bundle_stream(struct fm_restore_receiver *r, struct fm_stream *stream,
                                 const json_t *bundle, size_t total, struct fm_error *err)
{
    const void *data = "";
    size_t len = 0;

    int rc = total > 0 ? fm_stream_recv(stream, r->max_bytes - r->bytes, &data, &len, err) : 0;
    if (rc == 0 && len != total)
        rc = fm_error_set(err, FM_E_PROTOCOL, "a bundle of %zu bytes where %zu were announced", len,
                          total);
    if (rc == 0)
        rc = write_bundle(r, bundle, data, err);
    if (rc == 0)
        rc = fm_stream_recv(stream, UINT64_MAX, &data, &len, err);
    if (rc == 0 && len != 0)
        rc = fm_error_set(err, FM_E_PROTOCOL, "a bundle of more bytes than were announced");
    return rc;
}

static int receive_bundle(struct fm_restore_receiver *r, struct fm_connection *c,
                          const json_t *bundle, struct fm_error *err)
{
    struct fm_stream stream;
    size_t total;

    int rc = check_bundle(r, bundle, &total, err);
    if (rc < 0)
        return rc;
    fm_stream_init(&stream, c);
    rc = receive_bundle_stream(r, &stream, bundle, total, err);
    fm_stream_clear(&stream);
    return rc;
}

/* --- the interface
 * ----------------------------------------------------------------------------------- */

int fm_restore_receive_image(struct fm_restore_receiver *r, struct fm_connection *c,
                             const struct fm_frame *frame, struct fm_error *err)
{
    struct fm_error why = {0};
    int rc;

    json_auto_t *image = fm_frame_json(frame, &why);
    const json_t *bundle = json_object_get(image, "bundle");
    if (!image)
        rc = -(int)why.code;
    else if (bundle)
        rc = receive_bundle(r, c, bundle, &why);
    else
        rc = receive_file(r, c, image, &why);
    if (rc < 0 && err)
        *err = why;
    return rc;
}

static int check_file(const struct fm_restore_receiver *r, const json_t *entry,
                      struct fm_error *err)
{
    const char *name = NULL;
    const char *digest = NULL;
    json_int_t bytes = -1;
    char hex[FM_STREAM_DIGEST_SIZE];

    if (json_unpack((json_t *)entry, "{s:s,s:I,s:s}", "name", &name, "bytes", &bytes, "digest",
                    &digest) < 0 ||
        !fm_image_name_valid(name))
        return fm_error_set(err, FM_E_PROTOCOL, "the manifest of the images is malformed");
    struct fm_image_file *file = fm_image_files_find(&r->files, name);
    if (!file)
        return fm_error_set(err, FM_E_CHECKSUM, "checksum mismatch: %s did not arrive", name);
    fm_stream_digest(&file->stream, hex);
    if ((uint64_t)bytes != file->stream.bytes || strcmp(digest, hex) != 0)
        return fm_error_set(err, FM_E_CHECKSUM,
                            "checksum mismatch: %s is not what the sender has (%" PRIu64
                            " bytes arrived of %" JSON_INTEGER_FORMAT ")",
                            name, file->stream.bytes, bytes);
    if (!file->announced)
        return fm_error_set(err, FM_E_PROTOCOL, "the manifest names %s twice", name);
    file->announced = false;
    return 0;
}

/* Every file that arrived must be named exactly once. */
static int check_manifest(const struct fm_restore_receiver *r, const json_t *manifest,
                          struct fm_error *err)
{
    if (!json_is_array(manifest))
        return fm_error_set(err, FM_E_PROTOCOL, "the manifest of the images is malformed");
    if (json_array_size(manifest) != r->files.count)
        return fm_error_set(err, FM_E_CHECKSUM, "checksum mismatch: %zu image files arrived of %zu",
                            r->files.count, json_array_size(manifest));
    for (size_t i = 0; i < json_array_size(manifest); i++) {
        int rc = check_file(r, json_array_get(manifest, i), err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int fm_restore_receive_finish(struct fm_restore_receiver *r, const json_t *manifest,
                              uint64_t *bytes, struct fm_error *err)
{
    int rc = check_manifest(r, manifest, err);

    if (rc == 0 && bytes)
        *bytes = r->bytes;
    fm_restore_receive_abort(r);
    return rc;
}
