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

/* The file that an IMAGE frame announces; at its first mention it is a new one. */
static struct fm_image_file *announced_file(struct fm_restore_receiver *r,
                                            struct fm_connection *c, const struct fm_frame *frame,
                                            struct fm_error *err)
{
    const char *name = NULL;
    json_int_t offset = -1;

    json_auto_t *image = fm_frame_json(frame, err);
    if (!image)
        return NULL;
    if (json_unpack(image, "{s:s,s:I}", "name", &name, "offset", &offset) < 0 ||
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
    if (file)
        return file;
    if (r->files.count >= FM_IMAGE_FILES_MAX) {
        fm_error_set(err, FM_E_PROTOCOL, "more than %u image files", FM_IMAGE_FILES_MAX);
        return NULL;
    }
    return fm_image_files_add(&r->files, name, c);
}

static int open_file(struct fm_restore_receiver *r, struct fm_image_file *file)
{
    int flags = O_WRONLY | O_NOFOLLOW | O_CLOEXEC;

    if (file->announced)
        return openat(r->dir_fd, file->name, flags);
    file->announced = true;
    if (unlinkat(r->dir_fd, file->name, 0) < 0 && errno != ENOENT)
        return -1;
    return openat(r->dir_fd, file->name, flags | O_CREAT | O_EXCL, 0600);
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

int fm_restore_receive_image(struct fm_restore_receiver *r, struct fm_connection *c,
                             const struct fm_frame *frame, struct fm_error *err)
{
    struct fm_error why = {0};

    struct fm_image_file *file = announced_file(r, c, frame, &why);
    if (file) {
        file->stream.connection = c;
        fm_autoclose int fd = open_file(r, file);
        if (fd < 0)
            fm_error_errno(&why, errno, "cannot create %s/%s", r->dir, file->name);
        else
            receive_content(r, file, fd, &why);
    }
    if (why.code == FM_E_OK)
        return 0;
    if (err)
        *err = why;
    return -(int)why.code;
}

static int check_file(const struct fm_restore_receiver *r, const json_t *entry,
                      struct fm_image_file **file, struct fm_error *err)
{
    const char *name = NULL;
    const char *digest = NULL;
    json_int_t bytes = -1;
    char hex[FM_STREAM_DIGEST_SIZE];

    if (json_unpack((json_t *)entry, "{s:s,s:I,s:s}", "name", &name, "bytes", &bytes, "digest",
                    &digest) < 0 ||
        !fm_image_name_valid(name))
        return fm_error_set(err, FM_E_PROTOCOL, "the manifest of the images is malformed");
    *file = fm_image_files_find(&r->files, name);
    if (!*file)
        return fm_error_set(err, FM_E_CHECKSUM, "checksum mismatch: %s did not arrive", name);
    fm_stream_digest(&(*file)->stream, hex);
    if ((uint64_t)bytes != (*file)->stream.bytes || strcmp(digest, hex) != 0)
        return fm_error_set(err, FM_E_CHECKSUM,
                            "checksum mismatch: %s is not what the sender has (%" PRIu64
                            " bytes arrived of %" JSON_INTEGER_FORMAT ")",
                            name, (*file)->stream.bytes, bytes);
    return 0;
}

/* Every file that arrived must be named exactly once. */
static int check_manifest(struct fm_restore_receiver *r, const json_t *manifest,
                          struct fm_error *err)
{
    struct fm_image_file *file = NULL;

    if (!json_is_array(manifest))
        return fm_error_set(err, FM_E_PROTOCOL, "the manifest of the images is malformed");
    if (json_array_size(manifest) != r->files.count)
        return fm_error_set(err, FM_E_CHECKSUM,
                            "checksum mismatch: %zu image files arrived of %zu", r->files.count,
                            json_array_size(manifest));
    for (size_t i = 0; i < json_array_size(manifest); i++) {
        int rc = check_file(r, json_array_get(manifest, i), &file, err);
        if (rc < 0)
            return rc;
        if (!file->announced)
            return fm_error_set(err, FM_E_PROTOCOL, "the manifest names %s twice", file->name);
        file->announced = false;
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
