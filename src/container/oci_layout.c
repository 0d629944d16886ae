#include "container/oci_layout.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "container/check.h"
#include "container/digest.h"

#define MAX_DOCUMENT (4u << 20)
#define MAX_NESTING 4
#define MAX_LAYERS 128
#define TAG "org.opencontainers.image.ref.name"

void fm_oci_image_clear(struct fm_oci_image *image)
{
    fm_strv_free(&image->layers);
    json_decref(image->config);
    image->config = NULL;
}

bool fm_is_oci_layout(const char *dir)
{
    fm_autofree char *index = fm_strf("%s/index.json", dir);
    fm_autofree char *mark = fm_strf("%s/oci-layout", dir);

    return fm_file_exists(index) && fm_file_exists(mark);
}

/* ---- Blobs ---- */

int fm_oci_blob_open(const char *dir, const char *digest, struct fm_error *err)
{
    fm_autofree char *path = NULL;
    fm_autoclose int fd = -1;
    char found[FM_DIGEST_SIZE];
    struct stat st;
    int ret;

    if (!fm_is_digest(digest))
        return fm_error_set(err, FM_E_INVALID, "'%.100s' is no sha256 digest",
                            digest ? digest : "");
    path = fm_strf("%s/blobs/sha256/%s", dir, digest + strlen("sha256:"));
    fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return fm_error_errno(err, errno, "the image lacks its part %s", digest);
    if (!S_ISREG(st.st_mode))
        return fm_error_set(err, FM_E_INVALID, "the image's part %s is no file", digest);
    ret = fm_digest_fd(fd, found, NULL, err);
    if (ret < 0)
        return fm_error_prefix(err, "the image's part %s", digest);
    if (!fm_streq(found, digest))
        return fm_error_set(err, FM_E_CHECKSUM,
                            "the image is damaged: part %s has the digest %s; copy it again",
                            digest, found);
    if (lseek(fd, 0, SEEK_SET) < 0)
        return fm_error_errno(err, errno, "cannot read '%s'", path);
    return FM_MOVE_FD(fd);
}

/* A verified JSON object. */
static json_t *load_document(const char *dir, const char *digest, struct fm_error *err)
{
    fm_autoclose int fd = fm_oci_blob_open(dir, digest, err);
    fm_autofree char *text = NULL;
    json_error_t where;
    struct stat st;
    json_t *doc;

    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) < 0 || st.st_size > MAX_DOCUMENT) {
        fm_error_set(err, FM_E_INVALID, "the image's part %s is too large for a document", digest);
        return NULL;
    }
    text = fm_xmalloc((size_t)st.st_size + 1);
    if (fm_read_full(fd, text, (size_t)st.st_size) != st.st_size) {
        fm_error_set(err, FM_E_IO, "the image's part %s cannot be read", digest);
        return NULL;
    }
    doc = json_loadb(text, (size_t)st.st_size, 0, &where);
    if (json_is_object(doc))
        return doc;
    json_decref(doc);
    fm_error_set(err, FM_E_INVALID, "the image's part %s is no JSON object (line %d, column %d)",
                 digest, doc ? 1 : where.line, doc ? 1 : where.column);
    return NULL;
}

/* ---- Choosing the manifest ---- */

static const char *our_architecture(void)
{
    static const char *const names[][2] = {
        {"x86_64", "amd64"},    {"aarch64", "arm64"}, {"armv7l", "arm"},      {"i686", "386"},
        {"ppc64le", "ppc64le"}, {"s390x", "s390x"},   {"riscv64", "riscv64"},
    };
    struct utsname machine;

    if (uname(&machine) == 0) {
        for (size_t i = 0; i < FM_COUNT(names); i++) {
            if (fm_streq(machine.machine, names[i][0]))
                return names[i][1];
        }
    }
    return "unknown";
}

static const char *text_at(const json_t *doc, const char *key)
{
    return json_string_value(json_object_get(doc, key));
}

static bool is_for_us(const json_t *descriptor)
{
    const json_t *platform = json_object_get(descriptor, "platform");

    if (!json_is_object(platform))
        return true; /* the image's configuration decides */
    return fm_streq(text_at(platform, "os"), "linux") &&
           fm_streq(text_at(platform, "architecture"), our_architecture());
}

static bool has_tag(const json_t *descriptor, const char *tag)
{
    return !tag || fm_streq(text_at(json_object_get(descriptor, "annotations"), TAG), tag);
}

static bool is_index(const char *media_type)
{
    return fm_streq(media_type, "application/vnd.oci.image.index.v1+json") ||
           fm_streq(media_type, "application/vnd.docker.distribution.manifest.list.v2+json");
}

static bool is_manifest(const char *media_type)
{
    return fm_streq(media_type, "application/vnd.oci.image.manifest.v1+json") ||
           fm_streq(media_type, "application/vnd.docker.distribution.manifest.v2+json");
}

/* The first fitting descriptor. More than one with different content is refused at the top
 * (`only`). */
static const json_t *choose(const json_t *index, const char *tag, bool only, struct fm_error *err)
{
    const json_t *chosen = NULL;
    size_t i;
    json_t *d;

    json_array_foreach(json_object_get(index, "manifests"), i, d)
    {
        const char *type = text_at(d, "mediaType");

        if ((!is_index(type) && !is_manifest(type)) || !is_for_us(d) || !has_tag(d, tag))
            continue;
        if (chosen && only && !fm_streq(text_at(d, "digest"), text_at(chosen, "digest"))) {
            fm_error_set(err, FM_E_USAGE,
                         "it holds several images (%s, %s, …): name one as PATH:TAG",
                         text_at(json_object_get(chosen, "annotations"), TAG) ?: "untagged",
                         text_at(json_object_get(d, "annotations"), TAG) ?: "untagged");
            return NULL;
        }
        if (!chosen)
            chosen = d;
    }
    if (!chosen)
        fm_error_set(err, FM_E_NOT_FOUND, "it holds no image for linux/%s%s%s", our_architecture(),
                     tag ? " with the tag " : "", tag ? tag : "");
    return chosen;
}

/* The manifest itself (a new reference), through nested indexes. */
static json_t *find_manifest(const char *dir, const char *tag, struct fm_error *err)
{
    fm_autofree char *path = fm_strf("%s/index.json", dir);
    json_t *doc = fm_json_load(path, err);

    for (int level = 0; doc; level++) {
        const json_t *d = choose(doc, level == 0 ? tag : NULL, level == 0, err);
        bool done = d && is_manifest(text_at(d, "mediaType"));
        json_t *next = NULL;

        if (d && level < MAX_NESTING)
            next = load_document(dir, text_at(d, "digest"), err);
        else if (d)
            fm_error_set(err, FM_E_INVALID, "its indexes are nested too deep");
        json_decref(doc);
        doc = next;
        if (done)
            break;
    }
    return doc;
}

/* ---- What it consists of ---- */

static int read_layers(const json_t *manifest, struct fm_strv *layers, struct fm_error *err)
{
    const json_t *list = json_object_get(manifest, "layers");
    size_t i;
    json_t *layer;

    if (json_array_size(list) == 0 || json_array_size(list) > MAX_LAYERS)
        return fm_error_set(err, FM_E_INVALID, "its manifest has %zu layers (1 to %d are possible)",
                            json_array_size(list), MAX_LAYERS);
    json_array_foreach((json_t *)(uintptr_t)list, i, layer)
    {
        const char *digest = text_at(layer, "digest");
        const char *type = text_at(layer, "mediaType");

        if (!fm_is_digest(digest) || !type || !strstr(type, "tar") || strstr(type, "encrypted"))
            return fm_error_set(err, FM_E_INVALID, "its layer %zu (%.100s) cannot be used", i + 1,
                                type ? type : "no type");
        fm_strv_add(layers, digest);
    }
    return 0;
}

static int check_platform(const json_t *config, struct fm_error *err)
{
    const char *os = text_at(config, "os");
    const char *architecture = text_at(config, "architecture");

    if ((os && !fm_streq(os, "linux")) ||
        (architecture && !fm_streq(architecture, our_architecture())))
        return fm_error_set(err, FM_E_REFUSED, "it is for %.40s/%.40s, this host is linux/%s",
                            os ? os : "linux", architecture ? architecture : "?",
                            our_architecture());
    return 0;
}

static int read_parts(const char *dir, const json_t *manifest, struct fm_oci_image *image,
                      struct fm_error *err)
{
    json_auto_t *config =
        load_document(dir, text_at(json_object_get(manifest, "config"), "digest"), err);
    int ret = config ? check_platform(config, err) : -(int)err->code;

    if (ret == 0)
        ret = read_layers(manifest, &image->layers, err);
    if (ret < 0)
        return ret;
    if (json_is_object(json_object_get(config, "config")))
        image->config = json_incref(json_object_get(config, "config"));
    else
        image->config = json_object();
    return 0;
}

int fm_oci_layout_read(const char *dir, const char *tag, struct fm_oci_image *image,
                       struct fm_error *err)
{
    struct fm_error own = {0};
    int ret;

    *image = (struct fm_oci_image){0};
    if (!err)
        err = &own;
    json_auto_t *manifest = find_manifest(dir, tag, err);
    ret = manifest ? read_parts(dir, manifest, image, err) : -(int)err->code;
    if (ret < 0)
        fm_oci_image_clear(image);
    return ret;
}
