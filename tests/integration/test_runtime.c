/* The runc runtime for real: containers from a busybox root, on this machine, with plain CRIU (no
 * interposer). Needs root, runc, CRIU and a static busybox; skips with the reason otherwise. The
 * shim's path comes from FM_TEST_SHIM, or is the one of the build (compile time). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "container/bundle.h"
#include "container/cgroup.h"
#include "container/container.h"
#include "container/image.h"
#include "container/runtime.h"

#ifndef FM_TEST_SHIM
#define FM_TEST_SHIM FM_LIBEXECDIR "/fleximigrate-shim"
#endif

#define DEADLINE_MS 10000

struct world {
    char *dir;
    char *parent;
    struct fm_runtime runtime;
    struct fm_image_store *store;
    struct fm_image image;
    struct fm_strv lower;
    struct fm_bundle_config bundles;
};

static struct world w;
static struct fm_error err;

#define assert_done(expression)                                                                    \
    do {                                                                                           \
        err = (struct fm_error){0};                                                                \
        int done_ret_ = (expression);                                                              \
        if (done_ret_ < 0)                                                                         \
            print_error("%s\n", err.text);                                                         \
        assert_int_equal(done_ret_, 0);                                                            \
    } while (0)

#define OPS w.runtime.ops
#define CTX w.runtime.ctx

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

static void open_runtime(const char *interposer)
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

static int set_up(void **state)
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

static int tear_down(void **state)
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

struct box {
    struct fm_container *c;
    struct fm_bundle b;
    char *data;   /* volume at /data */
    char *images; /* image_dir */
    char *work;
};

static struct box make_box(const char *name, const char *script)
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

static int run_box(const struct box *box)
{
    struct fm_runtime_run run = {box->c->name, box->b.bundle, box->b.log, box->b.exit};

    return OPS->run(CTX, &run, &err);
}

static void end_box(struct box *box)
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

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static char *read_text(const char *path)
{
    char *text = NULL;

    if (fm_file_read(path, 1 << 20, &text, NULL, NULL) < 0)
        return fm_xstrdup("");
    return text;
}

static bool wait_text(const char *path, const char *wanted)
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

/* The number in <data>/n, which `counting` below raises as fast as it can. */
static long count_of(const struct box *box)
{
    fm_autofree char *path = fm_strf("%s/n", box->data);

    for (int i = 0; i < 100; i++) {
        fm_autofree char *line = fm_file_line(path);

        if (line && *line)
            return atol(line);
    }
    return 0;
}

#define COUNTING "i=0; while :; do i=$((i+1)); echo $i > /data/n; done"
static const char counting[] = COUNTING;

static bool wait_count_above(const struct box *box, long n)
{
    uint64_t deadline = fm_now_ms() + DEADLINE_MS;

    while (count_of(box) <= n && fm_now_ms() < deadline)
        pause_ms(2);
    return count_of(box) > n;
}

/* A frozen writer may have truncated the file just before: what counts is that nothing changes. */
static bool stands_still(const struct box *box)
{
    fm_autofree char *path = fm_strf("%s/n", box->data);
    struct stat before, after;

    assert_int_equal(stat(path, &before), 0);
    pause_ms(100);
    assert_int_equal(stat(path, &after), 0);
    return before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
           before.st_mtim.tv_nsec == after.st_mtim.tv_nsec;
}

static struct fm_runtime_state state_of(const char *id)
{
    struct fm_runtime_state s;

    assert_done(OPS->state(CTX, id, &s, &err));
    return s;
}

static bool no_processes(const char *id)
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

/* ---- Tests ---- */

static void test_life(void **state)
{
    struct box box =
        make_box("life", "trap 'echo bye; exit 7' TERM; echo out; echo err >&2; echo x >/etc-less; "
                         "while :; do sleep 0.1; done");
    (void)state;

    assert_done(run_box(&box));
    assert_true(wait_text(box.b.log, "out\nerr\n"));

    struct fm_runtime_state s = state_of("life");
    assert_string_equal(s.status, "running");
    assert_true(s.init_pid > 1);
    assert_string_equal(s.bundle, box.b.bundle);

    json_auto_t *list = NULL;
    assert_done(OPS->list(CTX, &list, &err));
    assert_int_equal(json_array_size(list), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "id")), "life");
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "status")),
                        "running");

    fm_autofree pid_t *pids = NULL;
    size_t count = 0;
    assert_done(OPS->processes(CTX, "life", &pids, &count, &err));
    assert_true(count >= 1 && count <= 2);

    /* What it wrote is in the upper directory, and only that. */
    fm_autofree char *written = fm_strf("%s/etc-less", box.b.upper);
    assert_true(fm_file_exists(written));

    assert_done(OPS->kill(CTX, "life", SIGTERM, &err));
    assert_true(wait_text(box.b.exit, "7\n"));
    assert_true(wait_text(box.b.log, "bye\n"));
    assert_string_equal(state_of("life").status, "stopped");
    end_box(&box);
}

static void test_exec(void **state)
{
    struct box box = make_box("exec", "sleep 1000");
    int ends[2], null = open("/dev/null", O_RDWR | O_CLOEXEC), code = -1;
    char text[64] = "";
    (void)state;

    assert_done(run_box(&box));
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    const int fds[3] = {null, ends[1], null};
    assert_done(OPS->exec(CTX, "exec",
                          (const char *const[]){"sh", "-c", "echo hello; exit 5", NULL}, fds, &code,
                          &err));
    assert_int_equal(code, 5);
    assert_int_equal(read(ends[0], text, sizeof(text) - 1), 6);
    assert_string_equal(text, "hello\n");

    assert_int_equal(
        OPS->exec(CTX, "exec", (const char *const[]){"nothing-there", NULL}, fds, &code, &err),
        -FM_E_FAILED);
    assert_non_null(strstr(err.text, "nothing-there"));
    assert_int_equal(OPS->exec(CTX, "unknown", (const char *const[]){"sh", NULL}, fds, &code, &err),
                     -FM_E_NOT_FOUND);
    close(null);
    close(ends[0]);
    close(ends[1]);
    end_box(&box);
}

static void test_unknown(void **state)
{
    struct fm_runtime_state s;
    (void)state;

    assert_int_equal(OPS->state(CTX, "unknown", &s, &err), -FM_E_NOT_FOUND);
    assert_int_equal(OPS->kill(CTX, "unknown", SIGTERM, &err), -FM_E_NOT_FOUND);
    assert_int_equal(OPS->freeze(CTX, "unknown", true, &err), -FM_E_NOT_FOUND);
    assert_done(OPS->destroy_processes(CTX, "unknown", &err));
    assert_done(OPS->remove(CTX, "unknown", &err));
    assert_true(OPS->remove(CTX, "../etc", &err) < 0);
}

static void test_failing_start(void **state)
{
    struct box box = make_box("broken", "true");
    struct fm_runtime_state s;
    (void)state;

    json_t *args = json_object_get(json_object_get(box.c->config, "process"), "args");
    json_array_set_new(args, 0, json_string("/bin/nothing"));
    assert_done(fm_bundle_create(&w.bundles, box.c, &w.lower, NULL, &err));
    assert_int_equal(run_box(&box), -FM_E_FAILED);
    assert_non_null(strstr(err.text, "/bin/nothing"));
    assert_null(strchr(err.text, '\n'));
    fm_autofree char *log = read_text(box.b.log);
    assert_string_equal(log, ""); /* the runtime's words are not the container's */
    assert_int_equal(OPS->state(CTX, "broken", &s, &err), -FM_E_NOT_FOUND);
    end_box(&box);
}

static void test_freeze(void **state)
{
    struct box box = make_box("freeze", counting);
    (void)state;

    assert_done(run_box(&box));
    assert_true(wait_count_above(&box, 10));
    assert_done(OPS->freeze(CTX, "freeze", true, &err));
    assert_true(stands_still(&box));
    long before = count_of(&box);
    assert_done(OPS->freeze(CTX, "freeze", false, &err));
    assert_true(wait_count_above(&box, before + 10));

    assert_done(OPS->freeze(CTX, "freeze", true, &err));
    assert_done(OPS->destroy_processes(CTX, "freeze", &err));
    assert_true(stands_still(&box));
    assert_true(no_processes("freeze"));
    assert_true(wait_text(box.b.exit, "137\n"));
    end_box(&box);
}

/* As CRIU holds it: stopped by a tracer, which then is killed. */
static void test_freeze_traced(void **state)
{
    struct box box = make_box("traced", counting);
    int ready[2];
    char byte = 0;
    (void)state;

    assert_done(run_box(&box));
    assert_true(wait_count_above(&box, 10));
    pid_t init = state_of("traced").init_pid;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t tracer = fork();
    if (tracer == 0) {
        int status;
        if (ptrace(PTRACE_SEIZE, init, NULL, NULL) < 0 ||
            ptrace(PTRACE_INTERRUPT, init, NULL, NULL) < 0 ||
            waitpid(init, &status, __WALL) != init)
            _exit(1);
        if (write(ready[1], "r", 1) != 1)
            _exit(1);
        pause();
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_true(stands_still(&box));
    assert_done(OPS->freeze(CTX, "traced", true, &err));
    kill(tracer, SIGKILL);
    waitpid(tracer, NULL, 0);
    assert_true(stands_still(&box));

    /* It can be released … */
    long before = count_of(&box);
    assert_done(OPS->freeze(CTX, "traced", false, &err));
    assert_true(wait_count_above(&box, before + 10));
    /* … and killed without a last word. */
    assert_done(OPS->freeze(CTX, "traced", true, &err));
    assert_true(stands_still(&box));
    struct stat a, b;
    fm_autofree char *path = fm_strf("%s/n", box.data);
    assert_int_equal(stat(path, &a), 0);
    assert_done(OPS->destroy_processes(CTX, "traced", &err));
    assert_true(no_processes("traced"));
    assert_int_equal(stat(path, &b), 0);
    assert_memory_equal(&a.st_mtim, &b.st_mtim, sizeof(a.st_mtim));
    close(ready[0]);
    close(ready[1]);
    end_box(&box);
}

static void checkpoint_box(const struct box *box)
{
    struct fm_runtime_checkpoint checkpoint = {box->c->name, box->images, box->work};
    struct fm_runtime_job job;

    assert_done(OPS->checkpoint(CTX, &checkpoint, &job, &err));
    assert_true(job.pid > 1 && job.start_time > 0 && job.pidfd >= 0);
    assert_done(OPS->job_wait(CTX, &job, 20000, &err));
}

static int restore_box(const struct box *box, struct fm_runtime_job *job)
{
    struct fm_runtime_restore restore = {box->c->name, box->b.bundle, box->images,
                                         box->work,    box->b.log,    box->b.exit};

    assert_done(OPS->restore(CTX, &restore, job, &err));
    return OPS->job_wait(CTX, job, 20000, &err);
}

static void empty_dir(const char *dir)
{
    assert_done(fm_remove_tree(dir, &err));
    assert_done(fm_mkdir_p(dir, 0700, &err));
}

static void test_checkpoint_restore(void **state)
{
    struct box box =
        make_box("move", "trap 'echo bye; exit 9' TERM; i=0; "
                         "while :; do i=$((i+1)); echo o$i; echo e$i >&2; echo $i >/data/n; "
                         "sleep 0.02; done");
    struct fm_runtime_job job;
    struct fm_runtime_state s;
    (void)state;

    assert_done(run_box(&box));
    for (int hop = 0; hop < 2; hop++) {
        fm_autofree char *old_exit = NULL;

        assert_true(wait_count_above(&box, count_of(&box) + 3));
        checkpoint_box(&box);
        assert_int_equal(OPS->state(CTX, "move", &s, &err), -FM_E_NOT_FOUND);
        assert_true(wait_text(box.b.exit, "137\n"));
        long stopped_at = count_of(&box);
        fm_autofree char *before = read_text(box.b.log);

        assert_done(restore_box(&box, &job));
        assert_string_equal(state_of("move").status, "running");
        assert_true(wait_count_above(&box, stopped_at + 3));
        /* One log: the next line follows the last one. */
        fm_autofree char *next = fm_strf("o%ld\ne%ld\n", stopped_at + 2, stopped_at + 2);
        assert_true(wait_text(box.b.log, next));
        fm_autofree char *after = read_text(box.b.log);
        assert_memory_equal(before, after, strlen(before));
        assert_false(fm_file_exists(box.b.exit));
        empty_dir(box.images);
        empty_dir(box.work);
    }
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), code = -1;
    const int fds[3] = {null, null, null};
    assert_done(OPS->exec(CTX, "move", (const char *const[]){"true", NULL}, fds, &code, &err));
    assert_int_equal(code, 0);
    close(null);

    /* Restored by somebody who has long left: the shim still sees its end. */
    assert_done(OPS->kill(CTX, "move", SIGTERM, &err));
    assert_true(wait_text(box.b.exit, "9\n"));
    assert_true(wait_text(box.b.log, "bye\n"));
    end_box(&box);
}

static void test_restore_explained(void **state)
{
    struct box box = make_box("explained", counting);
    struct fm_runtime_job job;
    struct fm_runtime_state s;
    (void)state;

    assert_done(run_box(&box));
    assert_true(wait_count_above(&box, 3));
    checkpoint_box(&box);
    fm_autofree char *memory = fm_strf("%s/mm-1.img", box.images);
    assert_int_equal(truncate(memory, 20), 0);
    assert_int_equal(restore_box(&box, &job), -FM_E_FAILED);
    assert_int_equal(strncmp(err.text, "CRIU restore failed: ", 21), 0);
    assert_non_null(strstr(err.text, "restore.log)"));
    assert_null(strchr(err.text, '\n'));
    fm_autofree char *log = read_text(box.b.log);
    assert_string_equal(log, "");
    assert_int_equal(OPS->state(CTX, "explained", &s, &err), -FM_E_NOT_FOUND);
    assert_done(OPS->destroy_processes(CTX, "explained", &err));
    end_box(&box);
}

/* Half of the memory is missing: CRIU waits for ever. The attempt is given up, and nothing of it is
 * left; the root, which runc had mounted in its own directory, keeps its files. */
static void test_restore_given_up(void **state)
{
    struct box box = make_box("stuck", "echo kept >/kept; " COUNTING);
    struct fm_runtime_restore restore = {"stuck",  box.b.bundle, box.images,
                                         box.work, box.b.log,    box.b.exit};
    fm_autofree char *root_mount = fm_strf("%s/runc/stuck/criu-root", w.dir);
    fm_autofree char *kept = fm_strf("%s/kept", box.b.upper);
    fm_autofree char *log = fm_strf("%s/restore.log", box.work);
    struct fm_runtime_job job;
    (void)state;

    assert_done(run_box(&box));
    assert_true(wait_count_above(&box, 3));
    checkpoint_box(&box);
    fm_autofree char *pages = fm_strf("%s/pages-1.img", box.images);
    assert_int_equal(truncate(pages, 100), 0);
    assert_done(OPS->restore(CTX, &restore, &job, &err));
    assert_true(wait_text(log, "pie: "));
    assert_int_equal(OPS->job_wait(CTX, &job, 100, &err), -FM_E_TIMEOUT);
    assert_true(fm_is_mount_point(root_mount));

    OPS->job_kill(CTX, &job);
    assert_done(OPS->destroy_processes(CTX, "stuck", &err));
    assert_true(OPS->job_wait(CTX, &job, 5000, &err) < 0);
    assert_done(OPS->remove(CTX, "stuck", &err));
    assert_false(fm_is_mount_point(root_mount));
    assert_true(fm_file_exists(kept));
    assert_done(fm_remove_tree(box.work, &err)); /* refuses mounts */
    while (fm_process_is(job.pid,
                         job.start_time)) /* the shim goes by itself; the runner has a time limit */
        pause_ms(1);
    end_box(&box);
}

/* A CRIU that never answers, found first in PATH as the interposer will be. */
static void test_job_kill(void **state)
{
    struct box box = make_box("hang", counting);
    fm_autofree char *dir = fm_strf("%s/hanging", w.dir);
    fm_autofree char *criu = fm_strf("%s/criu", dir);
    fm_autofree char *mark = fm_strf("%s/pid", dir);
    fm_autofree char *script = fm_strf("#!/bin/sh\necho $$ > %s\nsleep 987 &\nwait\n", mark);
    fm_autofree char *empty = fm_strf("%s/empty", w.dir);
    struct fm_runtime_checkpoint checkpoint = {"hang", box.images, box.work};
    struct fm_runtime_job job;
    (void)state;

    assert_done(fm_mkdir_p(dir, 0755, &err));
    assert_done(fm_file_write(criu, script, strlen(script), 0755, &err));
    fm_runtime_runc_close(&w.runtime);
    open_runtime(dir);
    assert_done(run_box(&box));
    assert_true(wait_count_above(&box, 3));

    assert_done(OPS->checkpoint(CTX, &checkpoint, &job, &err));
    assert_true(wait_text(mark, "\n"));
    assert_int_equal(OPS->job_wait(CTX, &job, 50, &err), -FM_E_TIMEOUT);
    fm_autofree char *line = fm_file_line(mark);
    pid_t pid = (pid_t)atoi(line);
    assert_true(fm_process_start_time(pid) > 0);

    OPS->job_kill(CTX, &job);
    uint64_t deadline = fm_now_ms() + DEADLINE_MS;
    while (fm_process_start_time(pid) > 0 && fm_now_ms() < deadline)
        pause_ms(1);
    assert_true(fm_process_start_time(pid) == 0);
    assert_int_equal(OPS->job_wait(CTX, &job, 5000, &err), -FM_E_FAILED);
    assert_non_null(strstr(err.text, "signal 9"));

    /* The container knows nothing of it. */
    assert_string_equal(state_of("hang").status, "running");
    assert_true(wait_count_above(&box, count_of(&box) + 3));
    OPS->job_kill(CTX, &job); /* long gone: nothing happens */

    fm_runtime_runc_close(&w.runtime);
    open_runtime(empty);
    end_box(&box);
}

/* Whoever started it dies by SIGKILL: the container, its log and its exit status do not notice. */
static void test_survives_starter(void **state)
{
    struct box box = make_box("survivor", "trap 'exit 3' TERM; i=0; while :; do i=$((i+1)); echo "
                                          "line$i; echo $i >/data/n; sleep 0.02; done");
    int ready[2];
    char byte;
    (void)state;

    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t starter = fork();
    if (starter == 0) {
        if (run_box(&box) < 0 || write(ready[1], "r", 1) != 1)
            _exit(1);
        pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    kill(starter, SIGKILL);
    waitpid(starter, NULL, 0);
    close(ready[0]);
    long n = count_of(&box);
    fm_autofree char *later = fm_strf("line%ld\n", n + 5);
    assert_true(wait_text(box.b.log, later));
    assert_done(OPS->kill(CTX, "survivor", SIGTERM, &err));
    assert_true(wait_text(box.b.exit, "3\n"));
    end_box(&box);
}

/* Started by somebody else, with a cgroup elsewhere: found, frozen, and killed after runc forgot
 * it. */
static void test_found(void **state)
{
    struct box box = make_box("found", counting);
    fm_autofree char *path = fm_strf("%s/config.json", box.b.bundle);
    fm_autofree char *root = fm_strf("%s/runc", w.dir);
    fm_autofree char *elsewhere = fm_strf("%s/other/place", w.parent);
    (void)state;

    json_auto_t *config = fm_json_load(path, &err);
    assert_non_null(config);
    json_object_set_new(json_object_get(config, "linux"), "cgroupsPath", json_string(elsewhere));
    json_object_set_new(config, "annotations", json_pack("{s:s}", FM_LABEL_IMMOVABLE, "true"));
    assert_done(fm_json_save(path, config, &err));
    assert_done(run_box(&box));
    assert_true(wait_count_above(&box, 3));

    fm_autocontainer struct fm_container *c =
        fm_container_discover("found", box.b.bundle, state_of("found").init_pid, &err);
    if (!c)
        print_error("%s\n", err.text);
    assert_non_null(c);
    assert_true(c->found);
    assert_string_equal(c->command.items[0], "/bin/sh");
    assert_int_equal(c->volume_count, 1);
    assert_string_equal(c->volumes[0].target, "/data");
    assert_int_equal(c->memory_bytes, 64 << 20);
    assert_string_equal(json_string_value(json_object_get(c->labels, FM_LABEL_IMMOVABLE)), "true");

    assert_done(OPS->freeze(CTX, "found", true, &err));
    assert_true(stands_still(&box));
    assert_done(OPS->freeze(CTX, "found", false, &err));
    /* runc forgets it. */
    fm_autofree char *known = fm_strf("%s/found", root);
    assert_done(fm_remove_tree(known, &err));
    assert_done(OPS->destroy_processes(CTX, "found", &err));
    assert_true(stands_still(&box));
    assert_true(no_processes("found"));
    end_box(&box);
    fm_autofree char *other = fm_strf("%s/other", w.parent);
    struct fm_cgroup cg;
    assert_done(fm_cgroup_find(other, &cg, &err));
    assert_done(fm_cgroup_remove(&cg, 1000, &err));
    fm_cgroup_clear(&cg);
}

/* A container that forks all the time is gone, too. */
static void test_fork_storm(void **state)
{
    struct box box =
        make_box("storm", "while :; do (while :; do (echo x >/data/n); done) & sleep 0.01; done");
    (void)state;

    assert_done(run_box(&box));
    fm_autofree char *path = fm_strf("%s/n", box.data);
    assert_true(wait_text(path, "x"));
    pause_ms(200);
    assert_done(OPS->destroy_processes(CTX, "storm", &err));
    assert_true(no_processes("storm"));
    assert_true(stands_still(&box));
    end_box(&box);
}

static const char *missing_part(void)
{
    if (geteuid() != 0)
        return "it needs root";
    if (access("/bin/busybox", X_OK) < 0)
        return "/bin/busybox is missing (busybox-static)";
    return NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life),
        cmocka_unit_test(test_exec),
        cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_failing_start),
        cmocka_unit_test(test_freeze),
        cmocka_unit_test(test_freeze_traced),
        cmocka_unit_test(test_checkpoint_restore),
        cmocka_unit_test(test_restore_explained),
        cmocka_unit_test(test_restore_given_up),
        cmocka_unit_test(test_job_kill),
        cmocka_unit_test(test_survives_starter),
        cmocka_unit_test(test_found),
        cmocka_unit_test(test_fork_storm),
    };
    const char *missing = missing_part();

    if (missing) {
        printf("1..0 # SKIP %s\n", missing);
        return 77;
    }
    return cmocka_run_group_tests_name("runtime", tests, set_up, tear_down);
}
