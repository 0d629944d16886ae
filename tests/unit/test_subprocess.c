#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "scratch.h"

/* ---- fault ---- */

static void faults_act_on_their_passage(void **state)
{
    (void)state;
    fm_fault_arm("a=fail,b=fail:3");
    assert_true(fm_fault("a"));
    assert_false(fm_fault("a"));
    assert_false(fm_fault("b"));
    assert_false(fm_fault("b"));
    assert_true(fm_fault("b"));
    assert_false(fm_fault("b"));
    assert_false(fm_fault("c"));
    fm_fault_arm(NULL);
    assert_false(fm_fault("a"));
}

static void fault_kills(void **state)
{
    pid_t pid;
    int status;

    (void)state;
    fm_fault_arm("die=kill:2");
    pid = fork();
    if (pid == 0) {
        fm_fault("die");
        fm_fault("die");
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);

    fm_fault_arm("halt=stop");
    pid = fork();
    if (pid == 0) {
        fm_fault("halt");
        _exit(7);
    }
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    kill(pid, SIGCONT);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), 7);
    fm_fault_arm(NULL);
}

static void fault_runs_a_program_once(void **state)
{
    fm_autofree char *script = fm_strf("#!/bin/sh\necho \"$1\" >>%s\n", at("ran"));
    fm_autofree char *spec = fm_strf("x=run:%s", at("script"));
    fm_autofree char *text = NULL;

    (void)state;
    assert_int_equal(fm_file_write(at("script"), script, strlen(script), 0755, NULL), 0);
    fm_fault_arm(spec);
    assert_false(fm_fault("x"));
    assert_false(fm_fault("x"));
    fm_fault_arm(NULL);
    assert_int_equal(fm_file_read(at("ran"), 4096, &text, NULL, NULL), 0);
    assert_string_equal(text, "x\n");
}

static void faults_come_from_the_environment(void **state)
{
    static const char *const bad[] = {"a", "=fail", "a=explode", "a=fail:0", "a=run", "a=run:x"};
    int status;

    (void)state;
    for (size_t i = 0; i < FM_COUNT(bad); i++) { /* a misspelt fault must not pass silently */
        pid_t pid = fork();

        if (pid == 0) {
            int null = open("/dev/null", O_WRONLY);

            dup2(null, STDERR_FILENO);
            signal(SIGABRT, SIG_DFL);
            fm_fault_arm(bad[i]);
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

/* ---- subprocess ---- */

#define SHELL(script) ((const char *const[]){"sh", "-c", script, NULL})

static struct fm_subprocess_options shell(const char *const *argv)
{
    return (struct fm_subprocess_options){.argv = argv, .stdin_fd = -1};
}

static void subprocess_captures(void **state)
{
    struct fm_subprocess_options o = shell(SHELL("echo out; echo err >&2; exit 3"));
    fm_cleanup(fm_subprocess_result_clear) struct fm_subprocess_result r = {0};

    (void)state;
    assert_int_equal(fm_subprocess_run(&o, &r, NULL), 0);
    assert_int_equal(r.exit_code, 3);
    assert_string_equal(r.out, "out\n");
    assert_int_equal(r.out_len, 4);
    assert_string_equal(r.err, "err\n");
}

static void subprocess_captures_much(void **state)
{
    struct fm_subprocess_options o = shell(SHELL(
        "head -c 3000000 /dev/zero; head -c 300000 /dev/zero | tr '\\0' x >&2; echo end >&2"));
    fm_cleanup(fm_subprocess_result_clear) struct fm_subprocess_result r = {0};

    (void)state;
    assert_int_equal(fm_subprocess_run(&o, &r, NULL), 0);
    assert_int_equal(r.out_len, 3000000);
    assert_int_equal(strlen(r.err), 65536);
    assert_true(fm_ends_with(r.err, "xend\n"));
}

static void subprocess_reports_failures(void **state)
{
    struct fm_subprocess_options o = shell(SHELL("echo one >&2; echo 'no such thing' >&2; exit 1"));
    struct fm_error err = {0};
    fm_autofree char *out = NULL;

    (void)state;
    assert_int_equal(fm_subprocess_check(&o, &out, &err), -FM_E_FAILED);
    assert_string_equal(err.text, "'sh' failed with exit code 1: no such thing");
    assert_null(out);
    o = shell(SHELL("kill -9 $$"));
    assert_int_equal(fm_subprocess_check(&o, NULL, &err), -FM_E_FAILED);
    assert_non_null(strstr(err.text, "137"));
    o = shell((const char *const[]){"fm-no-such-program", NULL});
    assert_int_equal(fm_subprocess_run(&o, NULL, &err), -FM_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "fm-no-such-program"));
    o = shell((const char *const[]){"/tmp", NULL});
    assert_int_equal(fm_subprocess_run(&o, NULL, &err), -FM_E_IO);
    o = shell(SHELL("true"));
    o.cwd = "/none";
    assert_int_equal(fm_subprocess_run(&o, NULL, &err), -FM_E_NOT_FOUND);
    o = shell(SHELL("echo fine"));
    assert_int_equal(fm_subprocess_check(&o, &out, &err), 0);
    assert_string_equal(out, "fine\n");
}

static void subprocess_is_bounded(void **state)
{
    struct fm_subprocess_options o = shell(SHELL("echo begun; exec sleep 60"));
    fm_cleanup(fm_subprocess_result_clear) struct fm_subprocess_result r = {0};
    struct fm_error err = {0};
    uint64_t begin = fm_now_ms();

    (void)state;
    o.timeout_ms = 100;
    assert_int_equal(fm_subprocess_run(&o, &r, &err), -FM_E_TIMEOUT);
    assert_in_range(fm_now_ms() - begin, 100, 1900);
    assert_string_equal(r.out, "begun\n");
    assert_int_equal(r.exit_code, 128 + SIGTERM);
}

static void subprocess_that_ignores_sigterm_is_killed(void **state)
{
    struct fm_subprocess_options o = shell(SHELL("trap '' TERM; while :; do sleep 60; done"));
    struct fm_error err = {0};

    (void)state;
    o.timeout_ms = 50;
    o.new_session = true;
    assert_int_equal(fm_subprocess_run(&o, NULL, &err), -FM_E_TIMEOUT);
}

static void subprocess_does_not_wait_for_grandchildren(void **state)
{
    struct fm_subprocess_options o = shell(SHELL("sleep 3 & echo started"));
    fm_autofree char *out = NULL;
    uint64_t begin = fm_now_ms();

    (void)state;
    assert_int_equal(fm_subprocess_check(&o, &out, NULL), 0);
    assert_string_equal(out, "started\n");
    assert_true(fm_now_ms() - begin < 2500);
}

static void subprocess_gets_a_clean_slate(void **state)
{
    fm_autoclose int leak = fcntl(STDERR_FILENO, F_DUPFD, 100); /* not close-on-exec */
    fm_autoclose int kept = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 50);
    struct fm_subprocess_options o =
        shell(SHELL("cd /proc/self/fd; echo *; grep -E '^Sig(Blk|Ign)' /proc/self/status; echo "
                    "$FM_A $FM_B; pwd"));
    fm_autofree char *out = NULL;
    sigset_t blocked, old;

    (void)state;
    assert_true(leak >= 100 && kept >= 50);
    setenv("FM_A", "old", 1);
    setenv("FM_B", "same", 1);
    o.env = (const char *const[]){"FM_A=new", NULL};
    o.keep_fds = &kept;
    o.keep_fd_count = 1;
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, &old);
    assert_int_equal(fm_subprocess_check(&o, &out, NULL), 0);
    sigprocmask(SIG_SETMASK, &old, NULL);
    signal(SIGPIPE, SIG_DFL);
    /* grep adds nothing: `echo *` is the shell's own listing, with the directory it reads */
    assert_non_null(strstr(out, " 50\n"));
    assert_null(strstr(out, "100"));
    assert_non_null(strstr(out, "SigBlk:\t0000000000000000\n"));
    assert_non_null(strstr(out, "SigIgn:\t0000000000000000\n"));
    assert_non_null(strstr(out, "\nnew same\n"));
}

static void subprocess_uses_the_path_of_the_child(void **state)
{
    struct fm_subprocess_options o = shell((const char *const[]){"fm-own", NULL});
    fm_autofree char *path = fm_strf("PATH=/none:%s", scratch);
    fm_autofree char *out = NULL;

    (void)state;
    assert_int_equal(fm_file_write(at("fm-own"), "#!/bin/sh\necho mine\n", 20, 0755, NULL), 0);
    o.env = (const char *const[]){path, NULL};
    assert_int_equal(fm_subprocess_check(&o, &out, NULL), 0);
    assert_string_equal(out, "mine\n");
}

static void subprocess_starts_and_waits(void **state)
{
    struct fm_subprocess_options o = shell(SHELL("read x; exit 5"));
    fm_autoclose int pidfd = -1;
    struct fm_error err = {0};
    int ends[2], code = -1;
    uint64_t born;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    o.stdin_fd = ends[0];
    assert_int_equal(fm_subprocess_start(&o, false, &pid, &pidfd, &err), 0);
    born = fm_process_start_time(pid);
    assert_true(born > 0);
    assert_true(fm_process_is(pid, born));
    assert_false(fm_process_is(pid, born + 1));
    assert_int_equal(fm_subprocess_wait(pid, 20, &code, &err), -FM_E_TIMEOUT);
    close(ends[1]);
    assert_int_equal(poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, 10000), 1);
    assert_false(fm_process_is(pid, born)); /* a zombie is no process */
    assert_int_equal(fm_subprocess_wait(pid, 0, &code, &err), 0);
    assert_int_equal(code, 5);
    assert_int_equal(fm_process_start_time(pid), 0);
    close(ends[0]);
}

static void subprocess_detaches(void **state)
{
    struct fm_subprocess_options o = shell(SHELL("read x; exit 0"));
    fm_autoclose int pidfd = -1;
    struct fm_error err = {0};
    int ends[2];
    pid_t pid;

    (void)state;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    o.stdin_fd = ends[0];
    assert_int_equal(fm_subprocess_start(&o, true, &pid, &pidfd, &err), 0);
    assert_true(fm_process_start_time(pid) > 0);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), -1); /* not ours to reap */
    assert_int_equal(errno, ECHILD);
    close(ends[1]);
    assert_int_equal(poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, 10000), 1);
    close(ends[0]);
    o = shell((const char *const[]){"/tmp", NULL});
    assert_int_equal(fm_subprocess_start(&o, true, &pid, NULL, &err), -FM_E_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_act_on_their_passage),
        cmocka_unit_test(fault_kills),
        cmocka_unit_test(fault_runs_a_program_once),
        cmocka_unit_test(faults_come_from_the_environment),
        cmocka_unit_test(subprocess_captures),
        cmocka_unit_test(subprocess_captures_much),
        cmocka_unit_test(subprocess_reports_failures),
        cmocka_unit_test(subprocess_is_bounded),
        cmocka_unit_test(subprocess_that_ignores_sigterm_is_killed),
        cmocka_unit_test(subprocess_does_not_wait_for_grandchildren),
        cmocka_unit_test(subprocess_gets_a_clean_slate),
        cmocka_unit_test(subprocess_uses_the_path_of_the_child),
        cmocka_unit_test(subprocess_starts_and_waits),
        cmocka_unit_test(subprocess_detaches),
    };

    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
