/* Importing OCI layouts that the test makes with real blobs, and damaged or hostile ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/xattr.h>
#include <unistd.h>

#include "oci_fixture.h"

static const struct item base_items[] = {
    {"./", S_IFDIR, NULL, false},
    {"etc", S_IFDIR, NULL, false},
    {"etc/passwd", S_IFREG, "root", false},
    {"etc/group", S_IFREG, "group", false},
    {"old/file", S_IFREG, "old", false}, /* its directory is implied */
    {"link", S_IFLNK, "/etc/passwd", false},
    {"same", S_IFREG, "etc/passwd", true},
    {0},
};

static const struct item top_items[] = {
    {"etc/.wh.passwd", S_IFREG, "", false},   {"old", S_IFDIR, NULL, false},
    {"old/.wh..wh..opq", S_IFREG, "", false}, {"old/new", S_IFREG, "new", false},
    {".wh.link", S_IFREG, "", false}, /* replaced by a directory: hides what is below */
    {"link", S_IFDIR, NULL, false},           {"link/inside", S_IFREG, "in", false},
    {".wh..wh.plnk", S_IFDIR, NULL, false},   {0},
};

static char *good_layout(const char *name)
{
    char *layout = layout_dir(name);

    write_index(layout, json_pack("[o]", add_manifest(
                                             layout, architecture(),
                                             json_pack("[o, o]", add_layer(layout, 'g', base_items),
                                                       add_layer(layout, 'z', top_items)))));
    return layout;
}

/* ---- Layouts ---- */

static void assert_content(const struct fm_image *image, size_t i, const char *name,
                           const char *content)
{
    fm_autofree char *path = layer_path(image, i, name);
    fm_autofree char *text = NULL;

    assert_int_equal(fm_file_read(path, 4096, &text, NULL, &err), 0);
    assert_string_equal(text, content);
}

static void assert_whiteout(const struct fm_image *image, size_t i, const char *name)
{
    fm_autofree char *path = layer_path(image, i, name);
    struct stat st;

    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISCHR(st.st_mode));
    assert_int_equal(st.st_rdev, makedev(0, 0));
}

static void assert_opaque(const struct fm_image *image, size_t i, const char *name)
{
    fm_autofree char *path = layer_path(image, i, name);
    char value[4] = "";

    assert_int_equal(getxattr(path, "trusted.overlay.opaque", value, sizeof(value)), 1);
    assert_string_equal(value, "y");
}

static void assert_two_layers(const struct fm_image *image)
{
    struct stat st;

    assert_int_equal(image->layers.count, 2);
    assert_content(image, 0, "etc/passwd", "root");
    assert_content(image, 0, "same", "root");
    assert_content(image, 0, "old/file", "old");
    assert_content(image, 1, "old/new", "new");
    assert_whiteout(image, 1, "etc/passwd");
    assert_opaque(image, 1, "old");
    assert_opaque(image, 1, "link");
    assert_content(image, 1, "link/inside", "in");
    fm_autofree char *etc = layer_path(image, 0, "etc");
    assert_int_equal(stat(etc, &st), 0);
    assert_int_equal(st.st_uid, 7);
    assert_int_equal(st.st_gid, 8);
    assert_int_equal(st.st_mtim.tv_sec, 1234);
    const char *cmd = json_string_value(json_array_get(json_object_get(image->config, "Cmd"), 0));
    assert_string_equal(cmd, "/bin/run");
}

static void test_layout(void **state)
{
    fm_autofree char *layout = good_layout("web");
    auto_image image = {0}, again = {0};
    (void)state;

    assert_imported(layout, NULL, &image);
    assert_string_equal(image.name, "web");
    assert_two_layers(&image);
    assert_imported(layout, "second", &again);
    assert_int_equal(entries_in("layers"), 2);
    assert_int_equal(entries_in("manifests"), 2);
    assert_int_equal(entries_in("staging"), 0);
}

static void tar_layout(const char *layout, const char *archive, char filter)
{
    struct archive *a = archive_write_new();
    struct archive *disk = archive_read_disk_new();
    struct archive_entry *e;
    size_t skip = strlen(layout) + 1;

    archive_write_set_format_pax(a);
    if (filter == 'g')
        archive_write_add_filter_gzip(a);
    else if (filter == 'z')
        archive_write_add_filter_zstd(a);
    assert_int_equal(archive_write_open_filename(a, archive), ARCHIVE_OK);
    assert_int_equal(archive_read_disk_open(disk, layout), ARCHIVE_OK);
    while (archive_read_next_header(disk, &e) == ARCHIVE_OK) {
        fm_autofree char *text = NULL;
        size_t len = 0;

        archive_read_disk_descend(disk);
        if (archive_entry_filetype(e) != AE_IFREG)
            continue;
        assert_int_equal(fm_file_read(archive_entry_sourcepath(e), 1 << 20, &text, &len, &err), 0);
        fm_autofree char *name = fm_xstrdup(archive_entry_pathname(e) + skip);
        archive_entry_set_pathname(e, name);
        assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
        assert_int_equal(archive_write_data(a, text, len), len);
    }
    archive_write_close(a);
    archive_write_free(a);
    archive_read_free(disk);
}

static void test_archive(void **state)
{
    static const char filters[] = {'g', 'z', 0};
    fm_autofree char *layout = good_layout("l");
    (void)state;

    for (size_t i = 0; i < FM_COUNT(filters); i++) {
        fm_autofree char *archive = fm_strf("%s/my.web.tar%s", dir,
                                            filters[i] == 'g' ? ".gz"
                                            : filters[i]      ? ".zst"
                                                              : "");
        auto_image image = {0};

        tar_layout(layout, archive, filters[i]);
        assert_imported(archive, NULL, &image);
        assert_string_equal(image.name, "my.web");
        assert_two_layers(&image);
        /* Cut in the middle: refused (unless the layers are there already, the blobs are read). */
        struct stat st;
        assert_int_equal(stat(archive, &st), 0);
        assert_int_equal(truncate(archive, st.st_size / 3), 0);
        assert_refused(archive, FM_E_INVALID, "");
    }
    assert_int_equal(entries_in("staging"), 0);
}

/* Other platforms beside ours, ours in a nested index, tags. */
static void test_platforms(void **state)
{
    fm_autofree char *layout = layout_dir("multi");
    auto_image image = {0};
    (void)state;

    json_t *foreign =
        add_manifest(layout, "sparc", json_pack("[o]", add_layer(layout, 0, top_items)));
    json_object_set_new(foreign, "platform",
                        json_pack("{s:s, s:s}", "os", "linux", "architecture", "sparc"));
    json_t *ours =
        add_manifest(layout, architecture(), json_pack("[o]", add_layer(layout, 0, base_items)));
    json_object_set_new(ours, "platform",
                        json_pack("{s:s, s:s}", "os", "linux", "architecture", architecture()));
    json_t *nested = add_document(
        layout, json_pack("{s:i, s:[O, o]}", "schemaVersion", 2, "manifests", foreign, ours),
        INDEX);
    json_object_set_new(nested, "annotations",
                        json_pack("{s:s}", "org.opencontainers.image.ref.name", "v1"));
    write_index(layout, json_pack("[o, O]", foreign, nested));
    assert_imported(layout, NULL, &image);
    assert_content(&image, 0, "etc/passwd", "root");

    /* Two images for us: the tag decides. */
    json_t *second =
        add_manifest(layout, architecture(), json_pack("[o]", add_layer(layout, 0, top_items)));
    json_object_set_new(second, "annotations",
                        json_pack("{s:s}", "org.opencontainers.image.ref.name", "v2"));
    write_index(layout, json_pack("[o, o]", nested, second));
    assert_refused(layout, FM_E_USAGE, "several images (v1, v2");
    fm_autofree char *tagged = fm_strf("%s:v2", layout);
    auto_image chosen = {0};
    assert_imported(tagged, NULL, &chosen);
    assert_content(&chosen, 0, "old/new", "new");
    fm_autofree char *unknown = fm_strf("%s:v3", layout);
    assert_refused(unknown, FM_E_NOT_FOUND, "v3");

    json_t *only = add_manifest(layout, "sparc", json_pack("[o]", add_layer(layout, 0, top_items)));
    write_index(layout, json_pack("[o]", only)); /* no platform given: its configuration tells */
    assert_refused(layout, FM_E_REFUSED, "sparc");
    write_index(layout, json_array());
    assert_refused(layout, FM_E_NOT_FOUND, "no image for linux/");
}

/* ---- Damaged and hostile ---- */

/* Every blob in turn with one byte changed. */
static void test_corrupted_blob(void **state)
{
    fm_autofree char *layout = good_layout("bad");
    fm_autofree char *blobs = fm_strf("%s/blobs/sha256", layout);
    fm_autoclosedir DIR *d = opendir(blobs);
    const struct dirent *e;
    const struct fm_strv none = {0};
    int blobs_seen = 0;
    (void)state;

    while ((e = readdir(d))) {
        if (e->d_name[0] == '.')
            continue;
        fm_autofree char *path = fm_strf("%s/%s", blobs, e->d_name);
        fm_autoclose int fd = open(path, O_RDWR | O_CLOEXEC);
        char byte;
        struct fm_image image;

        assert_int_equal(pread(fd, &byte, 1, 20), 1);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, 20), 1);
        assert_true(fm_image_import(store, layout, NULL, &image, &err) < 0);
        assert_int_equal(err.code, FM_E_CHECKSUM);
        assert_true(entries_in("layers") <= 1); /* a good one may have been met first */
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, 20), 1);
        assert_int_equal(fm_image_store_prune(store, &none, &err), 0);
        blobs_seen++;
    }
    assert_int_equal(blobs_seen, 4);
    assert_int_equal(entries_in("staging"), 0);
    assert_int_equal(entries_in("manifests"), 0);
}

static void test_missing_blob(void **state)
{
    fm_autofree char *layout = good_layout("bad");
    fm_autofree char *blobs = fm_strf("%s/blobs/sha256", layout);
    (void)state;

    assert_int_equal(fm_remove_tree(blobs, &err), 0);
    assert_refused(layout, FM_E_NOT_FOUND, "lacks its part");
    fm_autofree char *index = fm_strf("%s/index.json", layout);
    write_text(index, "{\"manifests\":");
    assert_refused(layout, FM_E_INVALID, "index.json");
    write_text(index, "[]");
    assert_refused(layout, FM_E_NOT_FOUND, "no image");
    write_text(index, "{\"manifests\":[{\"mediaType\":\"" MANIFEST
                      "\",\"digest\":\"sha256:../../../../etc/passwd\"}]}");
    assert_refused(layout, FM_E_INVALID, "no sha256 digest");
}

/* None of these may leave the layer's directory; all are refused. */
static void test_hostile_layers(void **state)
{
    static const struct item up[] = {{"../outside", S_IFREG, "x", false}, {0}};
    static const struct item deep_up[] = {{"a/../../outside", S_IFREG, "x", false}, {0}};
    static const struct item through_link[] = {
        {"out", S_IFLNK, "/tmp", false}, {"out/fm-test-outside", S_IFREG, "x", false}, {0}};
    static const struct item relative_link[] = {
        {"out", S_IFLNK, "../..", false}, {"out/outside", S_IFDIR, NULL, false}, {0}};
    static const struct item hard_link[] = {{"h", S_IFREG, "../../../etc/passwd", true}, {0}};
    static const struct item hard_through[] = {
        {"e", S_IFLNK, "/etc", false}, {"h", S_IFREG, "e/passwd", true}, {0}};
    static const struct item whiteout_up[] = {{"a/.wh...", S_IFREG, "", false}, {0}};
    static const struct item whiteout_none[] = {{"a/.wh.", S_IFREG, "", false}, {0}};
    static const struct item disguise[] = {{"a", S_IFCHR, NULL, false}, {0}};
    static const struct item through_file[] = {
        {"f", S_IFREG, "x", false}, {"f/g", S_IFREG, "x", false}, {0}};
    static const struct item *const all[] = {up,        deep_up,      through_link, relative_link,
                                             hard_link, hard_through, whiteout_up,  whiteout_none,
                                             disguise,  through_file};
    fm_autofree char *outside = fm_strf("%s/store/staging/outside", dir);
    (void)state;

    for (size_t i = 0; i < FM_COUNT(all); i++) {
        fm_autofree char *name = fm_strf("hostile-%zu", i);
        fm_autofree char *layout = layout_dir(name);

        write_index(layout,
                    json_pack("[o]", add_manifest(layout, architecture(),
                                                  json_pack("[o]", add_layer(layout, 0, all[i])))));
        assert_refused(layout, FM_E_INVALID, "layer entry");
        assert_false(fm_file_exists(outside));
        assert_false(fm_file_exists("/tmp/fm-test-outside"));
    }
    assert_int_equal(entries_in("layers"), 0);
    assert_int_equal(entries_in("staging"), 0);
}

/* Absolute names are meant below the root; later entries replace earlier ones, and never through a
 * link. */
static void test_odd_layers(void **state)
{
    static const struct item items[] = {
        {"/abs//file", S_IFREG, "abs", false},
        {"twice", S_IFREG, "one", false},
        {"twice", S_IFREG, "two", false},
        {"l", S_IFLNK, "/etc/fm-test-target", false},
        {"l", S_IFREG, "mine", false},
        {"gone", S_IFREG, "here", false},
        {".wh.gone", S_IFREG, "", false}, /* the layer's own entry stays */
        {0},
    };
    fm_autofree char *layout = layout_dir("odd");
    auto_image image = {0};
    (void)state;

    write_index(layout,
                json_pack("[o]", add_manifest(layout, architecture(),
                                              json_pack("[o]", add_layer(layout, 0, items)))));
    assert_imported(layout, NULL, &image);
    assert_content(&image, 0, "abs/file", "abs");
    assert_content(&image, 0, "twice", "two");
    assert_content(&image, 0, "l", "mine");
    assert_content(&image, 0, "gone", "here");
    assert_false(fm_file_exists("/etc/fm-test-target"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_layout, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_archive, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_platforms, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_corrupted_blob, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_missing_blob, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_hostile_layers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_odd_layers, set_up, tear_down),
    };

    if (geteuid() != 0) {
        puts("1..0 # SKIP layers need root: devices, owners, trusted attributes");
        return 77;
    }
    return cmocka_run_group_tests_name("oci_layout", tests, NULL, NULL);
}
