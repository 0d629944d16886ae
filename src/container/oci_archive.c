#include "container/oci_layout.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "container/check.h"

#define READ_STEP (256u << 10)

static void cleanup_archive(struct archive **a)
{
    archive_read_free(*a);
}

/* The three kinds of file that a layout has; NULL for everything else. */
static const char *layout_path(const char *name)
{
    static const char blobs[] = "blobs/sha256/";

    if (!name)
        return NULL;
    while (fm_starts_with(name, "./"))
        name += 2;
    if (fm_streq(name, "oci-layout") || fm_streq(name, "index.json"))
        return name;
    if (!fm_starts_with(name, blobs))
        return NULL;
    fm_autofree char *digest = fm_strf("sha256:%s", name + strlen(blobs));
    return fm_is_digest(digest) ? name : NULL;
}

static int write_file(struct archive *a, const char *path, struct fm_error *err)
{
    fm_autoclose int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0)
        return fm_error_errno(err, errno, "cannot write '%s'", path);
    if (archive_read_data_into_fd(a, fd) != ARCHIVE_OK)
        return fm_error_set(err, archive_errno(a) == ENOSPC ? FM_E_NO_SPACE : FM_E_INVALID,
                            "the archive is damaged: %s", archive_error_string(a));
    return 0;
}

static int unpack(struct archive *a, const char *dir, struct fm_error *err)
{
    struct archive_entry *entry;
    int status;

    while ((status = archive_read_next_header(a, &entry)) == ARCHIVE_OK || status == ARCHIVE_WARN) {
        const char *name = layout_path(archive_entry_pathname(entry));
        int ret = 0;

        if (name && archive_entry_filetype(entry) == S_IFREG && !archive_entry_hardlink(entry)) {
            fm_autofree char *path = fm_strf("%s/%s", dir, name);

            ret = write_file(a, path, err);
        }
        if (ret < 0)
            return ret;
    }
    if (status == ARCHIVE_EOF)
        return 0;
    return fm_error_set(err, FM_E_INVALID, "the archive is damaged: %s", archive_error_string(a));
}

int fm_oci_archive_unpack(const char *path, const char *dir, struct fm_error *err)
{
    fm_autofree char *blobs = fm_strf("%s/blobs/sha256", dir);
    fm_cleanup(cleanup_archive) struct archive *a = archive_read_new();
    int ret = fm_mkdir_p(blobs, 0700, err);

    if (ret < 0)
        return ret;
    archive_read_support_format_tar(a);
    archive_read_support_filter_gzip(a);
    archive_read_support_filter_zstd(a);
    if (archive_read_open_filename(a, path, READ_STEP) != ARCHIVE_OK)
        return fm_error_set(err, FM_E_INVALID, "it is no tar archive: %s", archive_error_string(a));
    ret = unpack(a, dir, err);
    if (ret == 0 && !fm_is_oci_layout(dir))
        ret = fm_error_set(err, FM_E_INVALID,
                           "it is no OCI image archive (no index.json); convert it: skopeo copy "
                           "docker-archive:FILE oci-archive:NEW");
    return ret;
}
