/* A process with a trait, for the tests of what preflight sees in it. */
#ifndef FM_TEST_SUBJECT_H
#define FM_TEST_SUBJECT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/text.h"
#include "migration/preflight.h"

#define MIB (1024 * 1024)

/* ---- a process that stands still for the test ---- */

enum { READY = '+', MISSING = '-' }; /* what it reports; MISSING: this kernel has no such thing */

struct subject {
    pid_t pid;
    int report; /* read end */
    int life;   /* write end: it ends when this is closed */
};

struct trait {
    char (*set_up)(int inherited); /* in the subject; returns READY or MISSING */
    int inherited;                 /* a descriptor it keeps, or -1 */
    bool keep_stdio;               /* else it opens /dev/null of its own mount namespace */
    bool keep_namespaces;          /* else it gets its own, as a container's init */
};

#define OWN_NAMESPACES (CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)

static inline void close_all_but(int a, int b, int c)
{
    for (int fd = 3; fd < 256; fd++) {
        if (fd != a && fd != b && fd != c)
            close(fd);
    }
}

static inline void open_stdio(void)
{
    int null = open("/dev/null", O_RDWR);

    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    close(null);
}

static inline void be_subject(const struct trait *trait, int report, int life)
{
    char c;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!trait->keep_namespaces && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        _exit(1);
    close_all_but(report, life, trait->inherited);
    if (!trait->keep_stdio)
        open_stdio();
    c = trait->set_up ? trait->set_up(trait->inherited) : READY;
    if (write(report, &c, 1) == 1 && read(life, &c, 1) == 0)
        _exit(0);
    _exit(1);
}

static inline char subject_start(struct subject *s, const struct trait *trait)
{
    int report[2], life[2];
    char c = 0;

    assert_int_equal(pipe2(report, O_CLOEXEC) | pipe2(life, O_CLOEXEC), 0);
    s->pid = (pid_t)syscall(SYS_clone, (trait->keep_namespaces ? 0 : OWN_NAMESPACES) | SIGCHLD, 0,
                            0, 0, 0);
    assert_true(s->pid >= 0);
    if (s->pid == 0)
        be_subject(trait, report[1], life[0]);
    close(report[1]);
    close(life[0]);
    s->report = report[0];
    s->life = life[1];
    assert_int_equal(read(s->report, &c, 1), 1);
    return c;
}

static inline void subject_end(struct subject *s)
{
    close(s->life);
    close(s->report);
    waitpid(s->pid, NULL, 0);
}

/* ---- looking at it ---- */

static char test_name[] = "subject";
static struct fm_container container = {.name = test_name};

static inline const json_t *obstacle_of(const json_t *needs, const char *check)
{
    const json_t *obstacle;
    size_t i;

    json_array_foreach(json_object_get(needs, "obstacles"), i, obstacle)
    {
        if (fm_streq(json_string_value(json_object_get(obstacle, "check")), check))
            return obstacle;
    }
    return NULL;
}

static inline const char *text_of(const json_t *obstacle, const char *key)
{
    return json_string_value(json_object_get(obstacle, key));
}

static inline void fail_with(const json_t *needs, const char *what)
{
    char *dump = json_dumps(json_object_get(needs, "obstacles"), JSON_INDENT(1));

    print_error("%s: %s\n", what, dump);
    free(dump);
    fail();
}

static inline json_t *needs_of(const pid_t *pids, size_t count)
{
    struct fm_error err = {0};
    json_t *needs = fm_facts_container(&container, pids, count, &err);

    if (!needs)
        fail_msg("%s", err.text);
    return needs;
}

/* Exactly this obstacle is found, with its cure and this word in the message. */
static inline void expect_only(const json_t *needs, const char *check, const char *severity,
                               const char *word)
{
    const json_t *obstacle = obstacle_of(needs, check);

    if (!obstacle || json_array_size(json_object_get(needs, "obstacles")) != 1)
        fail_with(needs, check);
    assert_string_equal(text_of(obstacle, "severity"), severity);
    if (!strstr(text_of(obstacle, "message"), word))
        fail_with(needs, word);
    assert_true(strlen(text_of(obstacle, "cure")) > 0);
}

static inline void expect_trait(const struct trait *trait, const char *check, const char *severity,
                                const char *word)
{
    struct subject s;
    char report = subject_start(&s, trait);

    if (report == READY) {
        json_auto_t *needs = needs_of(&s.pid, 1);

        expect_only(needs, check, severity, word);
    }
    subject_end(&s);
    if (report == MISSING)
        skip();
    assert_int_equal(report, READY);
}

#endif
