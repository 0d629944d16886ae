#include "base/fault.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/subprocess.h"
#include "base/text.h"

enum action { ACTION_FAIL, ACTION_KILL, ACTION_STOP, ACTION_RUN };

struct fault {
    struct fault *next;
    char *point;
    enum action action;
    char *program;       /* of ACTION_RUN */
    unsigned long count; /* the passage to act on */
    unsigned long passed;
};

/* NOT_READ until the first passage: then the environment decides. */
enum { NOT_READ, UNARMED, ARMED };
static atomic_int state = NOT_READ;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct fault *faults; /* under `lock` */

/* A misspelt fault would make a test pass for nothing. */
static void reject(const char *entry)
{
    fprintf(stderr,
            "ERROR: FLEXIMIGRATE_FAULT: cannot read '%s'; write point=fail|kill|stop[:count] or "
            "point=run:/path\n",
            entry);
    abort();
}

static unsigned long parse_count(const char *entry, const char *text)
{
    int64_t count = 1;

    if (text && fm_parse_int(text, 1, INT32_MAX, &count, NULL) < 0)
        reject(entry);
    return (unsigned long)count;
}

static struct fault *parse_entry(const char *entry)
{
    const char *equals = strchr(entry, '=');
    const char *word = equals ? equals + 1 : "";
    const char *colon = strchr(word, ':');
    size_t len = colon ? (size_t)(colon - word) : strlen(word);
    struct fault *f = fm_xcalloc(1, sizeof(*f));

    if (!equals || equals == entry)
        reject(entry);
    f->count = 1;
    if (len == 3 && strncmp(word, "run", len) == 0 && colon && colon[1] == '/') {
        f->action = ACTION_RUN;
        f->program = fm_xstrdup(colon + 1);
    } else {
        if (len == 4 && strncmp(word, "fail", len) == 0)
            f->action = ACTION_FAIL;
        else if (len == 4 && strncmp(word, "kill", len) == 0)
            f->action = ACTION_KILL;
        else if (len == 4 && strncmp(word, "stop", len) == 0)
            f->action = ACTION_STOP;
        else
            reject(entry);
        f->count = parse_count(entry, colon ? colon + 1 : NULL);
    }
    f->point = fm_xstrndup(entry, (size_t)(equals - entry));
    return f;
}

static void forget_all(void)
{
    while (faults) {
        struct fault *next = faults->next;

        free(faults->point);
        free(faults->program);
        free(faults);
        faults = next;
    }
}

/* Under `lock`. */
static void arm(const char *spec)
{
    fm_autofree char *list = fm_xstrdup(spec ? spec : "");
    char *rest = NULL;

    forget_all();
    for (char *entry = strtok_r(list, ",", &rest); entry; entry = strtok_r(NULL, ",", &rest)) {
        struct fault *f = parse_entry(fm_trim(entry));

        f->next = faults;
        faults = f;
    }
    atomic_store(&state, faults ? ARMED : UNARMED);
}

void fm_fault_arm(const char *spec)
{
    pthread_mutex_lock(&lock);
    arm(spec);
    pthread_mutex_unlock(&lock);
}

static void run_program(const char *program, const char *point)
{
    const struct fm_subprocess_options options = {
        .argv = (const char *const[]){program, point, NULL},
        .stdin_fd = -1,
        .stdout_fd = STDERR_FILENO,
        .stderr_fd = STDERR_FILENO,
    };
    struct fm_subprocess_result result = {0};
    struct fm_error err = {0};

    if (fm_subprocess_run(&options, &result, &err) < 0)
        fprintf(stderr, "ERROR: fault point %s: %s\n", point, err.text);
    fm_subprocess_result_clear(&result);
}

/* The lock is not held while a program runs or this process is stopped. */
static bool act(enum action action, const char *program, const char *point)
{
    switch (action) {
    case ACTION_FAIL:
        return true;
    case ACTION_KILL:
        kill(getpid(), SIGKILL);
        pause();
        return true;
    case ACTION_STOP:
        kill(getpid(), SIGSTOP);
        return false;
    case ACTION_RUN:
        run_program(program, point);
        return false;
    }
    return false;
}

static bool pass(const char *point)
{
    fm_autofree char *program = NULL;
    enum action action = ACTION_FAIL;
    bool due = false;

    pthread_mutex_lock(&lock);
    if (atomic_load(&state) == NOT_READ)
        arm(getenv("FLEXIMIGRATE_FAULT"));
    for (struct fault *f = faults; f; f = f->next) {
        if (strcmp(f->point, point) != 0 || ++f->passed != f->count)
            continue;
        due = true;
        action = f->action;
        free(program);
        program = fm_xstrdup(f->program);
    }
    pthread_mutex_unlock(&lock);
    return due && act(action, program, point);
}

bool fm_fault(const char *point)
{
    if (atomic_load_explicit(&state, memory_order_relaxed) == UNARMED)
        return false;
    return pass(point);
}
