#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "scratch.h"

static void files_read_and_write(void **state)
{
    fm_autofree char *data = NULL;
    fm_autofree char *proc = NULL;
    fm_autofree char *line = NULL;
    struct fm_error err = {0};
    struct stat st;
    size_t len;

    (void)state;
    assert_int_equal(fm_file_write(at("a"), "one\ntwo\n", 8, 0640, &err), 0);
    assert_int_equal(stat(at("a"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    assert_int_equal(fm_file_read(at("a"), 8, &data, &len, &err), 0);
    assert_int_equal(len, 8);
    assert_string_equal(data, "one\ntwo\n");
    line = fm_file_line(at("a"));
    assert_string_equal(line, "one");
    free(FM_MOVE(data));
    assert_int_equal(fm_file_read(at("a"), 7, &data, &len, &err), -FM_E_INVALID);
    assert_null(data);
    assert_int_equal(fm_file_read(at("none"), 7, &data, &len, &err), -FM_E_NOT_FOUND);
    assert_null(fm_file_line(at("none")));
    assert_int_equal(fm_file_read("/proc/self/stat", 65536, &proc, &len, &err), 0);
    assert_true(len > 10);
    assert_int_equal(fm_file_poke(at("a"), "X", &err), 0);
    assert_int_equal(fm_file_poke(at("none"), "X", &err), -FM_E_NOT_FOUND);
    assert_int_equal(fm_file_write(at("none/x"), "", 0, 0600, &err), -FM_E_NOT_FOUND);
    assert_int_equal(fm_file_write(scratch, "", 0, 0600, &err), -FM_E_IO); /* a directory */
}

static void json_names_the_place_of_an_error(void **state)
{
    json_auto_t *doc = json_pack("{s:i,s:s}", "a", 1, "b", "x");
    json_auto_t *back = NULL;
    fm_autofree char *expected = fm_strf("%s:2:", at("bad.json"));
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_json_save(at("a.json"), doc, &err), 0);
    back = fm_json_load(at("a.json"), &err);
    assert_true(json_equal(doc, back));
    assert_int_equal(fm_file_write(at("bad.json"), "{\n  oops\n}", 10, 0600, &err), 0);
    assert_null(fm_json_load(at("bad.json"), &err));
    assert_int_equal(err.code, FM_E_INVALID);
    assert_true(fm_starts_with(err.text, expected));
    assert_null(fm_json_load(at("none.json"), &err));
    assert_int_equal(err.code, FM_E_NOT_FOUND);
}

static void copies_reach_the_end(void **state)
{
    fm_autoclose int in = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    fm_autoclose int out = open(at("maps"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    fm_autoclose int again = -1, target = -1;
    uint64_t copied = 0, second = 0;
    struct stat st;

    (void)state;
    assert_int_equal(fm_copy_fd(in, out, &copied, NULL), 0);
    assert_true(copied > 100);
    again = open(at("maps"), O_RDONLY | O_CLOEXEC);
    target = open(at("maps2"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_int_equal(fm_copy_fd(again, target, &second, NULL), 0);
    assert_int_equal(second, copied);
    assert_int_equal(fstat(target, &st), 0);
    assert_int_equal(st.st_size, (off_t)copied);
    assert_int_equal(fm_copy_fd(in, -1, NULL, NULL), 0); /* nothing left to copy */
    lseek(again, 0, SEEK_SET);
    assert_true(fm_copy_fd(again, -1, NULL, NULL) < 0);
}

static void trees_are_made_measured_and_removed(void **state)
{
    struct fm_error err = {0};
    uint64_t bytes = 0;

    (void)state;
    assert_int_equal(fm_mkdir_p(at("t/a/b//c/"), 0755, &err), 0);
    assert_int_equal(fm_mkdir_p(at("t/a"), 0755, &err), 0);
    assert_int_equal(fm_file_write(at("t/a/f"), "x", 1, 0600, &err), 0);
    assert_int_equal(fm_mkdir_p(at("t/a/f/g"), 0755, &err), -FM_E_IO);
    assert_int_equal(fm_mkdir_p(at("t/a/f"), 0755, &err), -FM_E_IO);
    assert_int_equal(fm_tree_size(at("t"), &bytes, &err), 0);
    assert_true(bytes >= 512);
    assert_int_equal(fm_tree_size(at("none"), &bytes, &err), -FM_E_NOT_FOUND);
    assert_int_equal(fm_disk_free(at("none/none"), &bytes, &err), 0);
    assert_true(bytes > 0);

    /* Links are removed, not followed. */
    assert_int_equal(fm_file_write(at("kept"), "x", 1, 0600, &err), 0);
    assert_int_equal(symlink("../../kept", at("t/a/link")), 0);
    assert_int_equal(symlink(scratch, at("t/up")), 0);
    assert_int_equal(fm_remove_tree(at("t"), &err), 0);
    assert_false(fm_file_exists(at("t")));
    assert_true(fm_file_exists(at("kept")));
    assert_int_equal(fm_remove_tree(at("t"), &err), 0);
    assert_int_equal(symlink(scratch, at("link")), 0);
    assert_int_equal(fm_remove_tree(at("link"), &err), 0);
    assert_true(fm_file_exists(at("kept")));
}

static void deep_trees_are_removed(void **state)
{
    struct rlimit files, few;
    struct fm_error err = {0};
    int dir;

    (void)state;
    assert_int_equal(fm_mkdir_p(at("deep"), 0755, &err), 0);
    dir = open(at("deep"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 250; i++) { /* beyond PATH_MAX */
        int child;

        assert_int_equal(mkdirat(dir, "a-directory-far-down", 0755), 0);
        assert_int_equal(mkdirat(dir, "empty", 0755), 0);
        child = openat(dir, "a-directory-far-down", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(child >= 0);
        close(dir);
        dir = child;
    }
    close(dir);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    few = (struct rlimit){.rlim_cur = 32, .rlim_max = files.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    assert_int_equal(fm_remove_tree(at("deep"), &err), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    assert_false(fm_file_exists(at("deep")));
}

static void mounts_stop_a_removal(void **state)
{
    struct fm_error err = {0};
    int ret;

    (void)state;
    assert_int_equal(fm_mkdir_p(at("m/mounted here"), 0755, &err), 0);
    assert_int_equal(fm_file_write(at("m/first"), "x", 1, 0600, &err), 0);
    assert_false(fm_is_mount_point(at("m/mounted here")));
    if (mount("none", at("m/mounted here"), "tmpfs", 0, NULL) < 0) {
        print_message("skipped: mounting needs CAP_SYS_ADMIN\n");
        skip();
    }
    assert_true(fm_is_mount_point(at("m/mounted here")));
    assert_int_equal(fm_file_write(at("m/mounted here/x"), "x", 1, 0600, &err), 0);
    ret = fm_remove_tree(at("m"), &err);
    assert_int_equal(ret, -FM_E_REFUSED);
    assert_non_null(strstr(err.text, "mounted here' is still mounted; unmount it first"));
    assert_int_equal(fm_remove_tree(at("m/mounted here"), &err), -FM_E_REFUSED);
    assert_true(fm_file_exists(at("m/first")));
    assert_true(fm_file_exists(at("m/mounted here/x")));
    assert_int_equal(umount2(at("m/mounted here"), MNT_DETACH), 0);
    assert_int_equal(fm_remove_tree(at("m"), &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_read_and_write),
        cmocka_unit_test(json_names_the_place_of_an_error),
        cmocka_unit_test(copies_reach_the_end),
        cmocka_unit_test(trees_are_made_measured_and_removed),
        cmocka_unit_test(deep_trees_are_removed),
        cmocka_unit_test(mounts_stop_a_removal),
    };

    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
