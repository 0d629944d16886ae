/* OCI image layouts made from lists of archive entries, with real blobs. */
#ifndef FM_TESTS_OCI_FIXTURE_H
#define FM_TESTS_OCI_FIXTURE_H

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>

#include <archive.h>
#include <archive_entry.h>

#include "container/digest.h"
#include "image_store.h"

#define INDEX "application/vnd.oci.image.index.v1+json"
#define MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define LAYER_TAR "application/vnd.oci.image.layer.v1.tar"
#define LAYER_GZIP LAYER_TAR "+gzip"
#define LAYER_ZSTD LAYER_TAR "+zstd"

struct item {
    const char *path;
    mode_t type;
    const char *content; /* of a file; target of a link */
    bool hard;
};

static inline void add_item(struct archive *a, const struct item *item)
{
    struct archive_entry *e = archive_entry_new();
    bool file = item->type == S_IFREG && !item->hard;

    archive_entry_set_pathname(e, item->path);
    archive_entry_set_perm(e, item->type == S_IFDIR ? 0755 : 0644);
    archive_entry_set_uid(e, 7);
    archive_entry_set_gid(e, 8);
    archive_entry_set_mtime(e, 1234, 0);
    archive_entry_set_filetype(e, item->type);
    archive_entry_set_size(e, file ? (la_int64_t)strlen(item->content) : 0);
    if (item->hard)
        archive_entry_set_hardlink(e, item->content);
    else if (item->type == S_IFLNK)
        archive_entry_set_symlink(e, item->content);
    else if (item->type == S_IFCHR)
        archive_entry_set_rdev(e, makedev(0, 0));
    assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
    if (file && *item->content)
        assert_true(archive_write_data(a, item->content, strlen(item->content)) > 0);
    archive_entry_free(e);
}

/* Writes a tar; 'g' gzip, 'z' zstd, 0 plain. */
static inline void write_tar(const char *path, char filter, const struct item *items)
{
    struct archive *a = archive_write_new();

    archive_write_set_format_pax(a);
    if (filter == 'g')
        archive_write_add_filter_gzip(a);
    else if (filter == 'z')
        archive_write_add_filter_zstd(a);
    assert_int_equal(archive_write_open_filename(a, path), ARCHIVE_OK);
    for (; items->path; items++)
        add_item(a, items);
    assert_int_equal(archive_write_close(a), ARCHIVE_OK);
    archive_write_free(a);
}

static inline char *layout_dir(const char *name)
{
    char *layout = fm_strf("%s/%s", dir, name);
    fm_autofree char *blobs = fm_strf("%s/blobs/sha256", layout);
    fm_autofree char *mark = fm_strf("%s/oci-layout", layout);

    assert_int_equal(fm_mkdir_p(blobs, 0755, &err), 0);
    write_text(mark, "{\"imageLayoutVersion\":\"1.0.0\"}");
    return layout;
}

/* Moves a file among the blobs; returns its descriptor. */
static inline json_t *add_blob(const char *layout, const char *file, const char *type)
{
    char digest[FM_DIGEST_SIZE];
    uint64_t bytes;
    fm_autoclose int fd = open(file, O_RDONLY | O_CLOEXEC);

    assert_int_equal(fm_digest_fd(fd, digest, &bytes, &err), 0);
    fm_autofree char *path = fm_strf("%s/blobs/sha256/%s", layout, digest + 7);
    assert_int_equal(rename(file, path), 0);
    return json_pack("{s:s, s:s, s:I}", "mediaType", type, "digest", digest, "size",
                     (json_int_t)bytes);
}

static inline json_t *add_document(const char *layout, json_t *doc, const char *type)
{
    fm_autofree char *file = fm_strf("%s/new", layout);
    fm_autofree char *text = json_dumps(doc, 0);

    json_decref(doc);
    write_text(file, text);
    return add_blob(layout, file, type);
}

static inline json_t *add_layer(const char *layout, char filter, const struct item *items)
{
    fm_autofree char *file = fm_strf("%s/new", layout);

    write_tar(file, filter, items);
    return add_blob(layout, file,
                    filter == 'g'   ? LAYER_GZIP
                    : filter == 'z' ? LAYER_ZSTD
                                    : LAYER_TAR);
}

static inline const char *architecture(void)
{
    struct utsname u;

    uname(&u);
    return strcmp(u.machine, "x86_64") == 0    ? "amd64"
           : strcmp(u.machine, "aarch64") == 0 ? "arm64"
                                               : "riscv64";
}

static inline json_t *add_manifest(const char *layout, const char *arch, json_t *layers)
{
    json_t *config =
        add_document(layout,
                     json_pack("{s:s, s:s, s:{s:[s], s:s}}", "os", "linux", "architecture", arch,
                               "config", "Cmd", "/bin/run", "WorkingDir", "/srv"),
                     "application/vnd.oci.image.config.v1+json");

    return add_document(layout,
                        json_pack("{s:i, s:s, s:o, s:o}", "schemaVersion", 2, "mediaType", MANIFEST,
                                  "config", config, "layers", layers),
                        MANIFEST);
}

static inline void write_index(const char *layout, json_t *manifests)
{
    fm_autofree char *path = fm_strf("%s/index.json", layout);
    json_auto_t *index = json_pack("{s:i, s:o}", "schemaVersion", 2, "manifests", manifests);

    assert_int_equal(fm_json_save(path, index, &err), 0);
}

#endif
