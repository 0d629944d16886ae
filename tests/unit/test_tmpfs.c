/* Tmpfs mounts that move with a container: which, described how, and whether they have changed. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "container/mountinfo.h"
#include "container/tmpfs_mounts.h"
#include "container/tree_print.h"
#include "scratch.h"

static void a_list_is_the_same_after_the_wire(void **state)
{
    (void)state;
    json_auto_t *doc =
        json_pack("[{s:s,s:s,s:s},{s:s,s:s,s:s}]", "target", "/dev/shm", "source", "shm", "options",
                  "rw,size=65536k,mode=1777", "target", "/mnt", "source", "x y", "options", "ro");
    struct fm_tmpfs_mounts mounts;
    assert_int_equal(fm_tmpfs_from_json(doc, &mounts, NULL), 0);
    assert_int_equal(mounts.count, 2);
    assert_string_equal(mounts.items[1].source, "x y");
    json_auto_t *again = fm_tmpfs_to_json(&mounts);
    assert_true(json_equal(doc, again));
    fm_tmpfs_clear(&mounts);
    assert_int_equal(fm_tmpfs_from_json(NULL, &mounts, NULL), 0);
    assert_int_equal(mounts.count, 0);
}

static void a_hostile_list_is_refused(void **state)
{
    static const char *const bad[] = {
        "[{}]",
        "[{\"target\":\"/a\",\"source\":\"t\"}]",
        "[{\"target\":\"a\",\"source\":\"t\",\"options\":\"rw\"}]",
        "[{\"target\":\"/\",\"source\":\"t\",\"options\":\"rw\"}]",
        "[{\"target\":\"/a]:/etc\",\"source\":\"t\",\"options\":\"rw\"}]",
        "[{\"target\":\"/a\",\"source\":\"t\",\"options\":\"rw,lowerdir=/etc\"}]",
        "[{\"target\":\"/a\",\"source\":\"t\",\"options\":7}]",
        "[7]",
    };
    (void)state;
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        json_auto_t *doc = json_loads(bad[i], 0, NULL);
        struct fm_tmpfs_mounts mounts;
        struct fm_error err = {0};
        assert_int_equal(fm_tmpfs_from_json(doc, &mounts, &err), -FM_E_PROTOCOL);
        assert_null(mounts.items);
    }
    json_auto_t *many = json_array();
    for (int i = 0; i < 300; i++)
        json_array_append_new(
            many, json_pack("{s:s,s:s,s:s}", "target", "/a", "source", "t", "options", "rw"));
    struct fm_tmpfs_mounts mounts;
    assert_int_equal(fm_tmpfs_from_json(many, &mounts, NULL), -FM_E_PROTOCOL);
}

/* What this host has mounted as well is not the container's alone. */
static void the_hosts_own_are_left_to_criu(void **state)
{
    (void)state;
    struct fm_tmpfs_mounts mounts;
    assert_int_equal(fm_tmpfs_find(getpid(), NULL, &mounts, NULL), 0);
    assert_int_equal(mounts.count, 0);
    fm_tmpfs_clear(&mounts);
}

static void a_mount_table_is_read(void **state)
{
    (void)state;
    fm_cleanup(fm_mountinfo_clear) struct fm_mountinfo info = {0};
    bool proc = false;
    char text[] = "a\\040b\\134c\\011";
    assert_int_equal(fm_mountinfo_read(0, &info, NULL), 0);
    for (size_t i = 0; i < info.count; i++)
        proc = proc || (fm_streq(info.items[i].target, "/proc") &&
                        fm_streq(info.items[i].type, "proc") && info.items[i].id > 0);
    assert_true(proc);
    fm_mountinfo_unescape(text);
    assert_string_equal(text, "a b\\c\t");
    struct fm_error err = {0};
    struct fm_mountinfo none;
    assert_true(fm_mountinfo_read(0x7ffffffe, &none, &err) < 0);
}

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

/* As soon as nothing has changed for some ticks of the kernel's clock. */
static struct fm_tree_print settled_print(const char *dir)
{
    struct fm_tree_print print;
    uint64_t deadline = fm_now_ms() + 5000;
    do {
        assert_int_equal(fm_tree_print_take(dir, &print, NULL), 0);
        assert_true(fm_now_ms() < deadline);
        usleep(5000);
    } while (!print.settled);
    return print;
}

static void a_print_tells_every_change(void **state)
{
    (void)state;
    fm_autofree char *dir = fm_strf("%s/tree", scratch);
    fm_autofree char *sub = fm_strf("%s/sub", dir);
    fm_autofree char *file = fm_strf("%s/file", sub);
    fm_autofree char *other = fm_strf("%s/other", dir);
    struct fm_tree_print before, after, fresh;
    assert_int_equal(mkdir(dir, 0755), 0);
    assert_int_equal(mkdir(sub, 0755), 0);
    write_file(file, "one");
    assert_int_equal(fm_tree_print_take(dir, &fresh, NULL), 0);
    assert_false(fresh.settled); /* the next change may have the same time */
    for (int change = 0; change < 7; change++) {
        before = settled_print(dir);
        assert_int_equal(fm_tree_print_take(dir, &after, NULL), 0);
        assert_true(fm_tree_print_same(&before, &after));
        switch (change) {
        case 0:
            write_file(file, "two");
            break;
        case 1:
            assert_int_equal(chmod(file, 0600), 0);
            break;
        case 2:
            assert_int_equal(rename(file, other), 0);
            break;
        case 3:
            assert_int_equal(symlink("x", file), 0);
            break;
        case 4:
            assert_int_equal(unlink(other), 0);
            break;
        case 5:
            assert_int_equal(chmod(sub, 0700), 0);
            break;
        default:
            assert_int_equal(chmod(dir, 0700), 0);
        }
        assert_int_equal(fm_tree_print_take(dir, &after, NULL), 0);
        if (fm_tree_print_same(&before, &after))
            fail_msg("change %d goes unnoticed", change);
    }
    struct fm_tree_print none = {0};
    after = settled_print(dir);
    assert_false(fm_tree_print_same(&none, &after));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_is_the_same_after_the_wire),
        cmocka_unit_test(a_hostile_list_is_refused),
        cmocka_unit_test(the_hosts_own_are_left_to_criu),
        cmocka_unit_test(a_mount_table_is_read),
        cmocka_unit_test(a_print_tells_every_change),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
