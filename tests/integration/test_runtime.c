/* The runc runtime for real: containers from a busybox root, on this machine.
 * Needs root, runc and a static busybox; skips with the reason otherwise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime_world.h"

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
                          (const char *const[]){"sh", "-c", "echo hello; exit 5", NULL}, fds, 0,
                          &code, &err));
    assert_int_equal(code, 5);
    assert_int_equal(read(ends[0], text, sizeof(text) - 1), 6);
    assert_string_equal(text, "hello\n");

    assert_int_equal(
        OPS->exec(CTX, "exec", (const char *const[]){"nothing-there", NULL}, fds, 0, &code, &err),
        -FM_E_FAILED);
    assert_non_null(strstr(err.text, "nothing-there"));
    assert_int_equal(
        OPS->exec(CTX, "unknown", (const char *const[]){"sh", NULL}, fds, 0, &code, &err),
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
    struct box box = make_box("freeze", COUNTING);
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
    struct box box = make_box("traced", COUNTING);
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
    struct box box = make_box("found", COUNTING);
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
    if (!c) {
        fail_msg("%s", err.text);
        return;
    }
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life),
        cmocka_unit_test(test_exec),
        cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_failing_start),
        cmocka_unit_test(test_freeze),
        cmocka_unit_test(test_freeze_traced),
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
