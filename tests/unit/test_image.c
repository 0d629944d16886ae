/* The image store: root directories, staging, pruning. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fault.h"
#include "image_store.h"

/* ---- Root directories ---- */

static char *make_root(const char *name)
{
    char *root = fm_strf("%s/%s", dir, name);
    fm_autofree char *bin = fm_strf("%s/usr/bin", root);
    fm_autofree char *tool = fm_strf("%s/usr/bin/tool", root);
    fm_autofree char *same = fm_strf("%s/usr/bin/same", root);
    fm_autofree char *link = fm_strf("%s/bin", root);
    fm_autofree char *null = fm_strf("%s/null", root);
    fm_autofree char *fifo = fm_strf("%s/fifo", root);

    assert_int_equal(fm_mkdir_p(bin, 0755, &err), 0);
    write_text(tool, "#!/bin/sh\n");
    assert_int_equal(chown(tool, 12, 34), 0);
    assert_int_equal(chmod(tool, 04755), 0);
    assert_int_equal(setxattr(tool, "user.note", "n", 1, 0), 0);
    assert_int_equal(utimensat(AT_FDCWD, tool, (struct timespec[2]){{1000, 5}, {1000, 5}}, 0), 0);
    assert_int_equal(link == NULL || symlink("usr/bin", link), 0);
    assert_int_equal(linkat(AT_FDCWD, tool, AT_FDCWD, same, 0), 0);
    assert_int_equal(mknod(null, S_IFCHR | 0666, makedev(1, 3)), 0);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    return root;
}

static void test_root(void **state)
{
    fm_autofree char *root = make_root("my root");
    auto_image image = {0};
    struct stat tool, same, st;
    char text[16] = "";
    (void)state;

    assert_imported(root, NULL, &image);
    assert_string_equal(image.name, "my-root");
    assert_int_equal(image.layers.count, 1);
    assert_true(json_is_object(image.config));
    fm_autofree char *tool_path = layer_path(&image, 0, "usr/bin/tool");
    fm_autofree char *same_path = layer_path(&image, 0, "usr/bin/same");
    fm_autofree char *bin_path = layer_path(&image, 0, "bin");
    fm_autofree char *null_path = layer_path(&image, 0, "null");
    assert_int_equal(stat(tool_path, &tool), 0);
    assert_int_equal(stat(same_path, &same), 0);
    assert_int_equal(tool.st_ino, same.st_ino);
    assert_int_equal(tool.st_uid, 12);
    assert_int_equal(tool.st_gid, 34);
    assert_int_equal(tool.st_mode, S_IFREG | 04755);
    assert_int_equal(tool.st_mtim.tv_sec, 1000);
    assert_int_equal(tool.st_mtim.tv_nsec, 5);
    assert_int_equal(getxattr(tool_path, "user.note", text, sizeof(text)), 1);
    assert_int_equal(readlink(bin_path, text, sizeof(text)), 7);
    assert_int_equal(stat(null_path, &st), 0);
    assert_int_equal(st.st_rdev, makedev(1, 3));

    /* Again, and from a copy made at another time: the same layer. */
    auto_image again = {0};
    fm_autofree char *other = make_root("other");
    assert_imported(other, "other", &again);
    assert_string_equal(again.layers.items[0], image.layers.items[0]);
    assert_int_equal(entries_in("layers"), 1);
    assert_int_equal(entries_in("staging"), 0);

    auto_image loaded = {0}, none = {0};
    assert_int_equal(fm_image_load(store, "my-root", &loaded, &err), 0);
    assert_string_equal(loaded.layers.items[0], image.layers.items[0]);
    assert_int_equal(fm_image_load(store, "unknown", &none, &err), -FM_E_NOT_FOUND);
    assert_true(fm_image_load(store, "../x", &none, &err) < 0);
}

/* Any change of content or metadata is another layer. */
static void test_root_changes(void **state)
{
    fm_autofree char *root = make_root("root");
    fm_autofree char *tool = fm_strf("%s/usr/bin/tool", root);
    fm_autofree char *extra = fm_strf("%s/usr/extra", root);
    auto_image before = {0};
    (void)state;

    assert_imported(root, NULL, &before);
    for (int change = 0; change < 5; change++) {
        auto_image after = {0};

        if (change == 0)
            assert_int_equal(chmod(tool, 0700), 0);
        else if (change == 1)
            assert_int_equal(chown(tool, 1, 1), 0);
        else if (change == 2)
            assert_int_equal(setxattr(tool, "user.note", "m", 1, 0), 0);
        else if (change == 3)
            assert_int_equal(mkdir(extra, 0755), 0);
        else
            assert_int_equal(truncate(tool, 3), 0);
        assert_imported(root, NULL, &after);
        assert_string_not_equal(after.layers.items[0], before.layers.items[0]);
        fm_image_clear(&before);
        before = after;
        after = (struct fm_image){0};
    }
}

static void test_refused_paths(void **state)
{
    fm_autofree char *file = fm_strf("%s/file", dir);
    struct fm_image image;
    (void)state;

    assert_refused("/nothing/there", FM_E_NOT_FOUND, "/nothing/there");
    assert_refused("/dev/null", FM_E_INVALID, "neither");
    assert_refused("/", FM_E_INVALID, "own root");
    write_text(file, "no tar");
    assert_refused(file, FM_E_INVALID, "archive");
    write_text(file, "");
    assert_refused(file, FM_E_INVALID, "");
    assert_true(fm_image_import(store, dir, "../name", &image, &err) < 0);
}

/* ---- The store ---- */

static void test_stage_and_prune(void **state)
{
    static const char digest[] =
        "sha256:1111111111111111111111111111111111111111111111111111111111111111";
    fm_autofree char *root = make_root("root");
    fm_autofree char *staged = NULL, *late = NULL, *file = NULL, *final = NULL;
    auto_image image = {0}, none = {0};
    struct fm_strv used = {0};
    (void)state;

    assert_false(fm_image_has_layer(store, digest));
    assert_int_equal(fm_image_layer_stage(store, digest, &staged, &err), 0);
    assert_int_equal(fm_image_layer_stage(store, digest, &late, &err), 0);
    file = fm_strf("%s/f", staged);
    write_text(file, "x");
    assert_false(fm_image_has_layer(store, digest));

    fm_fault_arm("image.commit=fail");
    assert_true(fm_image_layer_commit(store, digest, staged, &err) < 0);
    fm_fault_arm(NULL);
    assert_false(fm_image_has_layer(store, digest));
    assert_int_equal(fm_image_layer_commit(store, digest, staged, &err), 0);
    assert_true(fm_image_has_layer(store, digest));
    /* The second to arrive changes nothing. */
    assert_int_equal(fm_image_layer_commit(store, digest, late, &err), 0);
    assert_false(fm_file_exists(late));
    final = fm_image_layer_dir(store, digest, &err);
    fm_autofree char *kept = fm_strf("%s/f", final);
    assert_true(fm_file_exists(kept));

    free(staged);
    staged = NULL;
    assert_int_equal(fm_image_layer_stage(store, digest, &staged, &err), 0);
    assert_int_equal(fm_image_store_sweep(store, &err), 0);
    assert_false(fm_file_exists(staged));

    assert_imported(root, "r", &image);
    fm_strv_add(&used, digest);
    fm_strv_add(&used, "garbage");
    assert_int_equal(fm_image_store_prune(store, &used, &err), 0);
    assert_true(fm_image_has_layer(store, digest));
    assert_false(fm_image_has_layer(store, image.layers.items[0]));
    assert_int_equal(fm_image_load(store, "r", &none, &err), -FM_E_NOT_FOUND);
    assert_int_equal(entries_in("manifests"), 0);
    fm_strv_free(&used);

    assert_null(fm_image_layer_dir(store, "sha256:../../etc", &err));
    assert_null(fm_image_layer_dir(store, NULL, &err));
    assert_true(fm_image_layer_stage(store, "md5:1", &staged, &err) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_root, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_root_changes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refused_paths, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stage_and_prune, set_up, tear_down),
    };

    if (geteuid() != 0) {
        puts("1..0 # SKIP layers need root: devices, owners, trusted attributes");
        return 77;
    }
    return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
