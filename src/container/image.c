#include "container/image.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/file.h"
#include "container/check.h"
#include "container/layer.h"
#include "container/oci_layout.h"

/* <dir>/layers/<hex>/   <dir>/manifests/<name>.json   <dir>/staging/<random>/ */
struct fm_image_store {
    char *layers;
    char *manifests;
    char *staging;
};

struct fm_image_store *fm_image_store_open(const char *dir, struct fm_error *err)
{
    struct fm_image_store *s = fm_xcalloc(1, sizeof(*s));

    s->layers = fm_strf("%s/layers", dir);
    s->manifests = fm_strf("%s/manifests", dir);
    s->staging = fm_strf("%s/staging", dir);
    if (fm_mkdir_p(s->layers, 0700, err) < 0 || fm_mkdir_p(s->manifests, 0700, err) < 0 ||
        fm_mkdir_p(s->staging, 0700, err) < 0) {
        fm_error_prefix(err, "image store");
        fm_image_store_close(s);
        return NULL;
    }
    return s;
}

void fm_image_store_close(struct fm_image_store *s)
{
    if (!s)
        return;
    free(s->layers);
    free(s->manifests);
    free(s->staging);
    free(s);
}

void fm_image_clear(struct fm_image *image)
{
    free(image->name);
    fm_strv_free(&image->layers);
    json_decref(image->config);
    *image = (struct fm_image){0};
}

/* ---- Layers ---- */

char *fm_image_layer_dir(struct fm_image_store *s, const char *digest, struct fm_error *err)
{
    if (!fm_is_digest(digest)) {
        fm_error_set(err, FM_E_INVALID, "'%.100s' is no sha256 digest", digest ? digest : "");
        return NULL;
    }
    return fm_strf("%s/%s", s->layers, digest + strlen("sha256:"));
}

bool fm_image_has_layer(struct fm_image_store *s, const char *digest)
{
    fm_autofree char *dir = fm_image_layer_dir(s, digest, NULL);

    return dir && fm_file_exists(dir);
}

static char *make_staging(struct fm_image_store *s, mode_t mode, struct fm_error *err)
{
    fm_autofree char *id = fm_random_id();
    fm_autofree char *dir = fm_strf("%s/%s", s->staging, id);

    if (mkdir(dir, mode) < 0 || chmod(dir, mode) < 0) {
        fm_error_errno(err, errno, "cannot make '%s'", dir);
        return NULL;
    }
    return FM_MOVE(dir);
}

int fm_image_layer_stage(struct fm_image_store *s, const char *digest, char **dir,
                         struct fm_error *err)
{
    if (!fm_is_digest(digest))
        return fm_error_set(err, FM_E_INVALID, "'%.100s' is no sha256 digest",
                            digest ? digest : "");
    *dir = make_staging(s, 0755, err);
    return *dir ? 0 : -FM_E_IO;
}

/* Everything below is on disk before the name is: a layer that is there is whole, also after a
 * power cut. */
static int sync_tree(const char *dir, struct fm_error *err)
{
    fm_autoclose int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || syncfs(fd) < 0)
        return fm_error_errno(err, errno, "cannot sync '%s'", dir);
    return 0;
}

int fm_image_layer_commit(struct fm_image_store *s, const char *digest, const char *dir,
                          struct fm_error *err)
{
    fm_autofree char *final = fm_image_layer_dir(s, digest, err);
    int ret;

    if (!final)
        return -FM_E_INVALID;
    if (fm_fault("image.commit"))
        return fm_error_set(err, FM_E_FAILED, "cannot keep the layer: injected fault");
    ret = sync_tree(dir, err);
    if (ret < 0)
        return ret;
    if (rename(dir, final) == 0)
        return 0;
    /* Somebody else was faster with the same content. */
    if (errno == EEXIST || errno == ENOTEMPTY)
        return fm_remove_tree(dir, err);
    return fm_error_errno(err, errno, "cannot keep the layer %s", digest);
}

/* ---- Manifests ---- */

static char *manifest_path(struct fm_image_store *s, const char *name)
{
    return fm_strf("%s/%s.json", s->manifests, name);
}

static int save_manifest(struct fm_image_store *s, const struct fm_image *image,
                         struct fm_error *err)
{
    fm_autofree char *path = manifest_path(s, image->name);
    json_t *layers = json_array();

    for (size_t i = 0; i < image->layers.count; i++)
        json_array_append_new(layers, json_string(image->layers.items[i]));
    json_auto_t *doc = json_pack("{s:s, s:o, s:O}", "name", image->name, "layers", layers, "config",
                                 image->config);
    return fm_json_save(path, doc, err);
}

int fm_image_load(struct fm_image_store *s, const char *name, struct fm_image *image,
                  struct fm_error *err)
{
    fm_autofree char *path = manifest_path(s, name);
    int ret = fm_check_name("image", name, err);
    size_t i;
    json_t *layer;

    *image = (struct fm_image){0};
    if (ret < 0)
        return ret;
    if (!fm_file_exists(path))
        return fm_error_set(err, FM_E_NOT_FOUND, "there is no image '%s' on this host: import it",
                            name);
    json_auto_t *doc = fm_json_load(path, err);
    if (!doc)
        return -FM_E_INVALID;
    json_array_foreach(json_object_get(doc, "layers"), i, layer)
    {
        const char *digest = json_string_value(layer);

        if (fm_image_has_layer(s, digest)) {
            fm_strv_add(&image->layers, digest);
            continue;
        }
        fm_image_clear(image);
        return fm_error_set(err, FM_E_NOT_FOUND, "image '%s' has lost a layer: import it again",
                            name);
    }
    image->name = fm_xstrdup(name);
    image->config = json_incref(json_object_get(doc, "config"));
    return 0;
}

/* ---- Import ---- */

/* "/images/my redis.tar.gz" → "my-redis". */
static char *derive_name(const char *path)
{
    static const char *const endings[] = {".gz", ".zst", ".tgz", ".tar", ".oci"};
    fm_autofree char *copy = fm_xstrdup(path);
    size_t len = strlen(copy);
    char *name;

    while (len > 1 && copy[len - 1] == '/')
        copy[--len] = '\0';
    name = strrchr(copy, '/') ? strrchr(copy, '/') + 1 : copy;
    for (size_t i = 0; i < FM_COUNT(endings); i++) {
        if (fm_ends_with(name, endings[i]) && strlen(name) > strlen(endings[i]))
            name[strlen(name) - strlen(endings[i])] = '\0';
    }
    for (char *p = name; *p; p++) {
        if (!isalnum((unsigned char)*p) && !strchr("_.-", *p))
            *p = '-';
    }
    while (*name && !isalnum((unsigned char)*name))
        name++;
    return *name ? fm_xstrndup(name, 63) : fm_xstrdup("image");
}

static int import_root(struct fm_image_store *s, const char *root, struct fm_image *image,
                       struct fm_error *err)
{
    char digest[FM_DIGEST_SIZE];
    fm_autofree char *dir = NULL;
    int ret = fm_layer_digest_tree(root, digest, err);

    if (ret == 0 && !fm_image_has_layer(s, digest)) {
        dir = make_staging(s, 0755, err);
        ret = dir ? fm_layer_copy_tree(root, dir, digest, err) : -(int)err->code;
        if (ret == 0)
            ret = fm_image_layer_commit(s, digest, dir, err);
        if (ret < 0 && dir)
            fm_remove_tree(dir, NULL);
    }
    if (ret < 0)
        return ret;
    fm_strv_add(&image->layers, digest);
    image->config = json_object();
    return 0;
}

static int import_layer(struct fm_image_store *s, const char *layout, const char *digest,
                        struct fm_error *err)
{
    fm_autoclose int blob = -1;
    fm_autofree char *dir = NULL;
    int ret;

    if (fm_image_has_layer(s, digest))
        return 0;
    blob = fm_oci_blob_open(layout, digest, err);
    if (blob < 0)
        return blob;
    dir = make_staging(s, 0755, err);
    ret = dir ? fm_layer_unpack(blob, dir, err) : -(int)err->code;
    if (ret == 0)
        ret = fm_image_layer_commit(s, digest, dir, err);
    if (ret < 0 && dir)
        fm_remove_tree(dir, NULL);
    return ret;
}

static void cleanup_oci_image(struct fm_oci_image *image)
{
    fm_oci_image_clear(image);
}

static int import_layout(struct fm_image_store *s, const char *layout, const char *tag,
                         struct fm_image *image, struct fm_error *err)
{
    fm_cleanup(cleanup_oci_image) struct fm_oci_image parts = {0};
    int ret = fm_oci_layout_read(layout, tag, &parts, err);

    for (size_t i = 0; ret == 0 && i < parts.layers.count; i++)
        ret = import_layer(s, layout, parts.layers.items[i], err);
    if (ret < 0)
        return ret;
    image->layers = parts.layers;
    parts.layers = (struct fm_strv){0};
    image->config = FM_MOVE(parts.config);
    return 0;
}

static int import_archive(struct fm_image_store *s, const char *path, const char *tag,
                          struct fm_image *image, struct fm_error *err)
{
    fm_autofree char *dir = make_staging(s, 0700, err);
    int ret;

    if (!dir)
        return -(int)err->code;
    ret = fm_oci_archive_unpack(path, dir, err);
    if (ret == 0)
        ret = import_layout(s, dir, tag, image, err);
    fm_remove_tree(dir, NULL);
    return ret;
}

/* PATH, or PATH:TAG when only the part before the last colon is there. */
static int locate(const char *given, char **path, char **tag, struct stat *st, struct fm_error *err)
{
    char *colon;

    *path = fm_xstrdup(given);
    *tag = NULL;
    if (stat(*path, st) == 0)
        return 0;
    colon = strrchr(*path, ':');
    if (errno == ENOENT && colon && colon > *path && colon[1]) {
        *colon = '\0';
        *tag = fm_xstrdup(colon + 1);
        if (stat(*path, st) == 0)
            return 0;
    }
    return fm_error_errno(err, ENOENT, "cannot import '%s'", given);
}

int fm_image_import(struct fm_image_store *s, const char *path, const char *name,
                    struct fm_image *image, struct fm_error *err)
{
    fm_autofree char *file = NULL;
    fm_autofree char *tag = NULL;
    struct fm_error own = {0};
    struct stat st;
    int ret;

    if (!err)
        err = &own;
    ret = locate(path, &file, &tag, &st, err);
    *image = (struct fm_image){0};
    if (ret == 0 && name)
        ret = fm_check_name("image", name, err);
    if (ret < 0)
        return ret;
    image->name = name ? fm_xstrdup(name) : derive_name(file);
    if (S_ISREG(st.st_mode))
        ret = import_archive(s, file, tag, image, err);
    else if (!S_ISDIR(st.st_mode))
        ret = fm_error_set(err, FM_E_INVALID, "it is neither a directory nor an archive");
    else if (fm_is_oci_layout(file))
        ret = import_layout(s, file, tag, image, err);
    else if (fm_streq(file, "/"))
        ret = fm_error_set(err, FM_E_INVALID, "the host's own root is no image");
    else
        ret = import_root(s, file, image, err);
    if (ret == 0)
        ret = save_manifest(s, image, err);
    if (ret < 0) {
        fm_image_clear(image);
        return fm_error_prefix(err, "cannot import '%s'", path);
    }
    return 0;
}

/* ---- Housekeeping ---- */

static int remove_children(const char *dir, bool (*keep)(const char *name, const void *ctx),
                           const void *ctx, struct fm_error *err)
{
    fm_autoclosedir DIR *d = opendir(dir);
    const struct dirent *entry;
    int ret = 0;

    if (!d)
        return fm_error_errno(err, errno, "cannot list '%s'", dir);
    while (ret == 0 && (entry = readdir(d))) {
        if (entry->d_name[0] == '.' || (keep && keep(entry->d_name, ctx)))
            continue;
        fm_autofree char *path = fm_strf("%s/%s", dir, entry->d_name);
        ret = fm_remove_tree(path, err);
    }
    return ret;
}

int fm_image_store_sweep(struct fm_image_store *s, struct fm_error *err)
{
    return remove_children(s->staging, NULL, NULL, err);
}

static bool is_used(const char *hex, const void *ctx)
{
    const struct fm_strv *used = ctx;

    for (size_t i = 0; i < used->count; i++) {
        if (fm_is_digest(used->items[i]) && fm_streq(used->items[i] + strlen("sha256:"), hex))
            return true;
    }
    return false;
}

/* A manifest that lost a layer describes nothing. */
static bool is_whole(const char *file, const void *ctx)
{
    struct fm_image_store *s = (struct fm_image_store *)(uintptr_t)ctx;
    fm_autofree char *name = fm_xstrndup(file, strlen(file) - strlen(".json"));
    struct fm_image image;
    bool whole = fm_ends_with(file, ".json") && fm_image_load(s, name, &image, NULL) == 0;

    if (whole)
        fm_image_clear(&image);
    return whole;
}

int fm_image_store_prune(struct fm_image_store *s, const struct fm_strv *used, struct fm_error *err)
{
    int ret = remove_children(s->layers, is_used, used, err);

    return ret < 0 ? ret : remove_children(s->manifests, is_whole, s, err);
}
