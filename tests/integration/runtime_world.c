/* The shim's path comes from FM_TEST_SHIM in the environment, or is the one of the build. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "runtime_world.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef FM_TEST_SHIM
#define FM_TEST_SHIM FM_LIBEXECDIR "/fleximigrate-shim"
#endif

struct world w;
struct fm_error err;

/* ---- The world ---- */

static void run_command(const char *const *argv)
{
    struct fm_subprocess_options o = {
        .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1, .timeout_ms = 60000};

    assert_done(fm_subprocess_check(&o, NULL, &err));
}

static void make_root(const char *root)
{
    fm_autofree char *bin = fm_strf("%s/bin", root);
    fm_autofree char *busybox = fm_strf("%s/bin/busybox", root);

    assert_done(fm_mkdir_p(bin, 0755, &err));
    run_command((const char *const[]){"cp", "/bin/busybox", busybox, NULL});
    run_command((const char *const[]){busybox, "--install", "-s", bin, NULL});
    /* --install links to the path it was called by. */
    fm_autoclosedir DIR *d = opendir(bin);
    struct dirent *e;
    while ((e = readdir(d))) {
        if (e->d_name[0] == '.' || strcmp(e->d_name, "busybox") == 0)
            continue;
        assert_int_equal(unlinkat(dirfd(d), e->d_name, 0), 0);
        assert_int_equal(symlinkat("/bin/busybox", dirfd(d), e->d_name), 0);
    }
    for (const char *const *p = (const char *const[]){"proc", "dev", "sys", "tmp", "data", NULL};
         *p; p++) {
        fm_autofree char *path = fm_strf("%s/%s", root, *p);
        assert_done(fm_mkdir_p(path, 0755, &err));
    }
}

void open_runtime(const char *interposer)
{
    fm_autofree char *root = fm_strf("%s/runc", w.dir);
    const char *shim = getenv("FM_TEST_SHIM");
    struct fm_runtime_config config = {
        .runc = "runc",
        .root = root,
        .interposer_dir = interposer,
        .shim = shim ? shim : FM_TEST_SHIM,
        .cgroup_parent = w.parent,
    };

    assert_done(fm_runtime_runc_open(&config, &w.runtime, &err));
}

int set_up(void **state)
{
    char template[] = "/tmp/fm-runtime.XXXXXX";
    (void)state;

    w.dir = fm_xstrdup(mkdtemp(template));
    w.parent = fm_strf("/fm-test-%d", (int)getpid());
    fm_autofree char *root = fm_strf("%s/root", w.dir);
    fm_autofree char *images = fm_strf("%s/images", w.dir);
    fm_autofree char *empty = fm_strf("%s/empty", w.dir);

    make_root(root);
    assert_done(fm_mkdir_p(empty, 0755, &err));
    open_runtime(empty);
    w.store = fm_image_store_open(images, &err);
    assert_non_null(w.store);
    assert_done(fm_image_import(w.store, root, "busybox", &w.image, &err));
    for (size_t i = 0; i < w.image.layers.count; i++) {
        fm_autofree char *dir = fm_image_layer_dir(w.store, w.image.layers.items[i], &err);
        fm_strv_add(&w.lower, dir);
    }
    w.bundles = (struct fm_bundle_config){.state_dir = w.dir, .cgroup_parent = w.parent};
    return 0;
}

static size_t cgroups_left(void)
{
    struct fm_cgroup cg;

    assert_done(fm_cgroup_find(w.parent, &cg, &err));
    size_t count = cg.dirs.count;
    fm_cgroup_clear(&cg);
    return count;
}

int tear_down(void **state)
{
    json_t *list = NULL;
    size_t i;
    json_t *c;
    (void)state;

    if (OPS && OPS->list(CTX, &list, NULL) == 0) {
        json_array_foreach(list, i, c)
            OPS->remove(CTX, json_string_value(json_object_get(c, "id")), NULL);
        json_decref(list);
    }
    fm_runtime_runc_close(&w.runtime);
    fm_image_clear(&w.image);
    fm_image_store_close(w.store);
    fm_strv_free(&w.lower);
    size_t left = cgroups_left();
    fm_error_set(&err, FM_E_OK, "%s", "");
    int ret = fm_remove_tree(w.dir, &err);
    if (ret < 0)
        print_error("%s\n", err.text);
    free(w.dir);
    free(w.parent);
    return ret < 0 || left > 0 ? -1 : 0;
}

/* ---- One container ---- */

struct box make_box(const char *name, const char *script)
{
    struct box box = {.c = fm_xcalloc(1, sizeof(*box.c))};

    box.data = fm_strf("%s/data-%s", w.dir, name);
    assert_done(fm_mkdir_p(box.data, 0755, &err));
    box.c->name = fm_xstrdup(name);
    box.c->runtime = fm_xstrdup("runc");
    fm_strv_add_all(&box.c->command, (const char *const[]){"/bin/sh", "-c", script, NULL});
    box.c->volumes = fm_xcalloc(1, sizeof(*box.c->volumes));
    box.c->volumes[0] = (struct fm_volume){fm_xstrdup(box.data), fm_xstrdup("/data"), false, false};
    box.c->volume_count = 1;
    box.c->memory_bytes = 64 << 20;
    assert_done(fm_bundle_create(&w.bundles, box.c, &w.lower, NULL, &err));
    fm_bundle_paths(&w.bundles, name, &box.b);
    box.images = fm_strf("%s/images-%s", w.dir, name);
    box.work = fm_strf("%s/work-%s", w.dir, name);
    assert_done(fm_mkdir_p(box.images, 0700, &err));
    assert_done(fm_mkdir_p(box.work, 0700, &err));
    return box;
}

int run_box(const struct box *box)
{
    struct fm_runtime_run run = {box->c->name, box->b.bundle, box->b.log, box->b.exit};

    return OPS->run(CTX, &run, &err);
}

void end_box(struct box *box)
{
    assert_done(OPS->remove(CTX, box->c->name, &err));
    assert_done(OPS->remove(CTX, box->c->name, &err)); /* a second time is fine */
    fm_autofree char *cgroup = fm_strf("%s/%s", w.parent, box->c->name);
    struct fm_cgroup cg;
    assert_done(fm_cgroup_find(cgroup, &cg, &err));
    assert_int_equal(cg.dirs.count, 0);
    assert_done(fm_bundle_remove(&box->b, &err));
    assert_false(fm_file_exists(box->b.dir));
    fm_container_free(box->c);
    free(box->data);
    free(box->images);
    free(box->work);
}

void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

char *read_text(const char *path)
{
    char *text = NULL;

    if (fm_file_read(path, 1 << 20, &text, NULL, NULL) < 0)
        return fm_xstrdup("");
    return text;
}

bool wait_text(const char *path, const char *wanted)
{
    uint64_t deadline = fm_now_ms() + DEADLINE_MS;

    while (fm_now_ms() < deadline) {
        fm_autofree char *text = read_text(path);

        if (strstr(text, wanted))
            return true;
        pause_ms(5);
    }
    return false;
}

long count_of(const struct box *box)
{
    fm_autofree char *path = fm_strf("%s/n", box->data);

    uint64_t deadline = fm_now_ms() + 500;

    /* Empty between the writer's truncation and its write. */
    while (fm_now_ms() < deadline) {
        fm_autofree char *line = fm_file_line(path);

        if (line && *line)
            return atol(line);
    }
    return 0;
}

bool wait_count_above(const struct box *box, long n)
{
    uint64_t deadline = fm_now_ms() + DEADLINE_MS;

    while (fm_now_ms() < deadline) {
        if (count_of(box) > n)
            return true;
        pause_ms(2);
    }
    return false;
}

/* A frozen writer may have truncated the file just before: what counts is that nothing changes. */
bool stands_still(const struct box *box)
{
    fm_autofree char *path = fm_strf("%s/n", box->data);
    struct stat before, after;

    assert_int_equal(stat(path, &before), 0);
    pause_ms(100);
    assert_int_equal(stat(path, &after), 0);
    return before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
           before.st_mtim.tv_nsec == after.st_mtim.tv_nsec;
}

struct fm_runtime_state state_of(const char *id)
{
    struct fm_runtime_state s;

    assert_done(OPS->state(CTX, id, &s, &err));
    return s;
}

bool no_processes(const char *id)
{
    uint64_t deadline = fm_now_ms() + DEADLINE_MS;
    size_t count = 1;

    while (count > 0 && fm_now_ms() < deadline) {
        fm_autofree pid_t *pids = NULL;

        if (OPS->processes(CTX, id, &pids, &count, NULL) < 0)
            return true;
    }
    return count == 0;
}

const char *missing_part(void)
{
    if (geteuid() != 0)
        return "it needs root";
    if (access("/bin/busybox", X_OK) < 0)
        return "/bin/busybox is missing (busybox-static)";
    return NULL;
}
