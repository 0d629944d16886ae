/* Checkpoint and restore through runc with plain CRIU (no interposer): the log goes on, failures
 * are explained, attempts that hang are given up without a trace. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime_world.h"

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
    assert_done(OPS->exec(CTX, "move", (const char *const[]){"true", NULL}, fds, 0, &code, &err));
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
    struct box box = make_box("explained", COUNTING);
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

/* A network namespace that stays without a process, as the network manager makes it. */
static ino_t make_netns(const char *path)
{
    struct stat st;

    assert_done(fm_file_write(path, "", 0, 0600, &err));
    pid_t child = fork();
    if (child == 0)
        _exit(unshare(CLONE_NEWNET) == 0 &&
                      mount("/proc/self/ns/net", path, NULL, MS_BIND, NULL) == 0
                  ? 0
                  : 1);
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(stat(path, &st), 0);
    return st.st_ino;
}

static ino_t netns_of(pid_t pid)
{
    fm_autofree char *path = fm_strf("/proc/%d/ns/net", (int)pid);
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return st.st_ino;
}

/* The destination's namespace has another name and is another one. */
static void test_other_netns(void **state)
{
    struct box box = make_box("netns", COUNTING);
    fm_autofree char *here = fm_strf("%s/netns-here", w.dir);
    fm_autofree char *there = fm_strf("%s/netns-there", w.dir);
    ino_t here_inode = make_netns(here), there_inode = make_netns(there);
    struct fm_runtime_job job;
    (void)state;

    assert_done(fm_bundle_create(&w.bundles, box.c, &w.lower, here, &err));
    assert_done(run_box(&box));
    assert_true(wait_count_above(&box, 3));
    assert_true(netns_of(state_of("netns").init_pid) == here_inode);
    checkpoint_box(&box);
    assert_done(fm_bundle_create(&w.bundles, box.c, &w.lower, there, &err));
    assert_done(restore_box(&box, &job));
    assert_true(netns_of(state_of("netns").init_pid) == there_inode);
    assert_true(wait_count_above(&box, count_of(&box) + 3));
    end_box(&box);
    assert_int_equal(umount2(here, MNT_DETACH), 0);
    assert_int_equal(umount2(there, MNT_DETACH), 0);
}

/* A CRIU that never answers, found first in PATH as the interposer will be. */
static void test_job_kill(void **state)
{
    struct box box = make_box("hang", COUNTING);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checkpoint_restore), cmocka_unit_test(test_restore_explained),
        cmocka_unit_test(test_restore_given_up),   cmocka_unit_test(test_job_kill),
        cmocka_unit_test(test_other_netns),
    };
    const char *missing = missing_part();

    if (missing) {
        printf("1..0 # SKIP %s\n", missing);
        return 77;
    }
    return cmocka_run_group_tests_name("runtime_criu", tests, set_up, tear_down);
}
