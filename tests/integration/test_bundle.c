/* Cgroups and overlays without a runtime. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime_world.h"

/* One hierarchy alone, as on a host with only v1 or only v2. */
static void freeze_alone(const char *hierarchy, const char *file)
{
    fm_autofree char *dir = fm_strf("%s%s/alone", hierarchy, w.parent);
    fm_autofree char *below = fm_strf("%s/below", dir);
    fm_autofree char *probe = fm_strf("%s/%s", below, file);
    fm_autofree char *procs = fm_strf("%s/cgroup.procs", below);
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup cg = {0};
    struct box box = {.data = fm_strf("%s/data-alone", w.dir)};
    fm_autofree char *number = fm_strf("%s/n", box.data);
    fm_autofree pid_t *pids = NULL;
    size_t count = 0;

    if (fm_mkdir_p(below, 0755, NULL) < 0 || !fm_file_exists(probe)) {
        print_message("%s is not here\n", hierarchy);
        fm_remove_tree(dir, NULL);
        free(box.data);
        return;
    }
    assert_done(fm_mkdir_p(box.data, 0755, &err));
    fm_strv_add(&cg.dirs, dir);
    pid_t child = fork();
    if (child == 0) {
        for (unsigned long n = 1;; n++) {
            int fd = open(number, O_WRONLY | O_CREAT | O_TRUNC, 0600);

            if (fd < 0 || dprintf(fd, "%lu\n", n) < 0)
                _exit(1);
            close(fd);
        }
    }
    fm_autofree char *text = fm_strf("%d", (int)child);
    assert_done(fm_file_poke(procs, text, &err));
    assert_true(wait_count_above(&box, 10));
    assert_done(fm_cgroup_processes(&cg, &pids, &count, &err));
    assert_int_equal(count, 1);
    assert_int_equal(pids[0], child);
    assert_done(fm_cgroup_freeze(&cg, true, 2000, &err));
    assert_true(stands_still(&box));
    assert_done(fm_cgroup_freeze(&cg, false, 2000, &err));
    assert_true(wait_count_above(&box, count_of(&box) + 10));
    assert_true(fm_cgroup_remove(&cg, 50, &err) < 0); /* still busy */
    assert_done(fm_cgroup_freeze(&cg, true, 2000, &err));
    assert_done(fm_cgroup_kill(&cg, &err));
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_done(fm_cgroup_remove(&cg, 2000, &err));
    assert_false(fm_file_exists(dir));
    free(box.data);
}

static void test_cgroup_versions(void **state)
{
    (void)state;
    freeze_alone("/sys/fs/cgroup/freezer", "freezer.state");
    freeze_alone("/sys/fs/cgroup/unified", "cgroup.freeze");
    freeze_alone("/sys/fs/cgroup", "cgroup.freeze");
}

/* The host's own processes are never touched, whatever a record says. */
static void test_cgroup_of_ours(void **state)
{
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup cg = {0};
    (void)state;

    assert_done(fm_cgroup_find("", &cg, &err));
    assert_true(cg.dirs.count > 0);
    assert_int_equal(fm_cgroup_freeze(&cg, true, 100, &err), -FM_E_REFUSED);
    assert_int_equal(fm_cgroup_kill(&cg, &err), -FM_E_REFUSED);
}

static void write_file(const char *dir, const char *name, const char *text)
{
    fm_autofree char *path = fm_strf("%s/%s", dir, name);

    assert_done(fm_file_write(path, text, strlen(text), 0644, &err));
}

/* Layers in awkward directories, and more of them than fit into one page of mount options. */
static void test_overlay(void **state)
{
    fm_cleanup(fm_strv_free) struct fm_strv lower = {0};
    struct box box = make_box("overlay", "true");
    fm_autofree char *top = fm_strf("%s/top", box.b.rootfs);
    fm_autofree char *deep = fm_strf("%s/only-0", box.b.rootfs);
    fm_autofree char *config_path = fm_strf("%s/config.json", box.b.bundle);
    (void)state;

    for (int many = 0; many <= 100; many += 100) {
        assert_done(fm_bundle_unmount(&box.b, &err));
        fm_strv_free(&lower);
        for (int i = 0; i < 3 + many; i++) {
            fm_autofree char *dir = fm_strf("%s/lower a:b,c\\d-%d-%d-%s", w.dir, many, i,
                                            "a-name-as-long-as-a-digest-would-be-0123456789");
            fm_autofree char *only = fm_strf("only-%d", i);
            fm_autofree char *text = fm_strf("%d", i);

            assert_done(fm_mkdir_p(dir, 0755, &err));
            write_file(dir, "top", text);
            write_file(dir, only, text);
            fm_strv_add(&lower, dir);
        }
        assert_done(fm_bundle_mount(&box.b, &lower, &err));
        assert_done(fm_bundle_mount(&box.b, &lower, &err)); /* again: nothing to do */
        fm_autofree char *highest = fm_file_line(top);
        fm_autofree char *expected = fm_strf("%d", 2 + many);
        assert_string_equal(highest, expected);
        assert_true(fm_file_exists(deep));
    }
    /* Renaming a directory of a layer copies it: no path into the layers may stay in the upper
     * directory. */
    write_file(box.b.rootfs, "new", "written");
    fm_autofree char *upper_new = fm_strf("%s/new", box.b.upper);
    assert_true(fm_file_exists(upper_new));

    /* A second create takes over what is there. */
    assert_done(fm_bundle_create(&w.bundles, box.c, &lower, NULL, &err));
    json_auto_t *config = fm_json_load(config_path, &err);
    const char *root = json_string_value(json_object_get(json_object_get(config, "root"), "path"));
    assert_string_equal(root, box.b.rootfs);

    free(box.c->volumes[0].source);
    box.c->volumes[0].source = fm_xstrdup("/nothing/there");
    assert_int_equal(fm_bundle_create(&w.bundles, box.c, &lower, NULL, &err), -FM_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "/nothing/there"));

    /* Removed while somebody looks into it. */
    fm_autoclose int busy = open(box.b.rootfs, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(busy >= 0);
    end_box(&box);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cgroup_versions),
        cmocka_unit_test(test_cgroup_of_ours),
        cmocka_unit_test(test_overlay),
    };
    const char *missing = missing_part();

    if (missing) {
        printf("1..0 # SKIP %s\n", missing);
        return 77;
    }
    return cmocka_run_group_tests_name("bundle", tests, set_up, tear_down);
}
