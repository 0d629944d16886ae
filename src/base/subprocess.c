#include "base/subprocess.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/spawn.h"
#include "base/text.h"

#define OUT_MAX (64u << 20)
#define ERR_MAX (64u << 10)
#define KILL_AFTER_MS 2000u

static int open_null(struct fm_error *err)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (fd < 0)
        fm_error_errno(err, errno, "cannot open /dev/null");
    return fd;
}

int fm_subprocess_start(const struct fm_subprocess_options *options, bool detach, pid_t *pid,
                        int *pidfd, struct fm_error *err)
{
    fm_autoclose int null = open_null(err);
    int ret;

    if (null < 0)
        return -FM_E_IO;
    const int stdio[3] = {
        options->stdin_fd >= 0 ? options->stdin_fd : null,
        options->stdout_fd > 0 ? options->stdout_fd : null,
        options->stderr_fd > 0 ? options->stderr_fd : null,
    };
    ret = fm_spawn(options, stdio, detach, pid, err);
    if (ret < 0 || !pidfd)
        return ret;
    *pidfd = pidfd_open(*pid, 0);
    if (*pidfd >= 0)
        return 0;
    ret = fm_error_errno(err, errno, "cannot watch '%s'", options->argv[0]);
    if (!detach) { /* a detached one has ended and been reaped already */
        kill(*pid, SIGKILL);
        waitpid(*pid, NULL, 0);
    }
    return ret;
}

/* ---- Waiting ---- */

/* Milliseconds for poll(2) until a deadline; `deadline` 0 means none. */
static int poll_timeout(uint64_t deadline)
{
    uint64_t now = fm_now_ms();

    if (!deadline)
        return -1;
    if (deadline <= now)
        return 0;
    return deadline - now > 3600000u ? 3600000 : (int)(deadline - now);
}

static int collect(int pidfd, int *exit_code)
{
    siginfo_t info = {0};

    while (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    *exit_code = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
    return 0;
}

int fm_subprocess_wait(pid_t pid, uint64_t timeout_ms, int *exit_code, struct fm_error *err)
{
    fm_autoclose int pidfd = pidfd_open(pid, 0);
    uint64_t deadline = timeout_ms ? fm_now_ms() + timeout_ms : 0;
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    int code = 0;
    int ret;

    if (pidfd < 0)
        return fm_error_errno(err, errno, "cannot wait for process %d", (int)pid);
    while (poll(&p, 1, poll_timeout(deadline)) <= 0) {
        if (deadline && fm_now_ms() >= deadline)
            return fm_error_set(err, FM_E_TIMEOUT, "process %d still runs after %" PRIu64 " ms",
                                (int)pid, timeout_ms);
    }
    ret = collect(pidfd, &code);
    if (ret < 0)
        return fm_error_errno(err, -ret, "cannot wait for process %d", (int)pid);
    if (exit_code)
        *exit_code = code;
    return 0;
}

/* ---- Run to the end ---- */

struct capture {
    int fd; /* our end, -1 when it is not captured or has ended */
    char *data;
    size_t len;
    size_t size;
    size_t keep; /* only so many last bytes are kept; 0: all */
};

static void capture_room(struct capture *c)
{
    if (c->keep && c->len > 2 * c->keep) {
        memmove(c->data, c->data + c->len - c->keep, c->keep);
        c->len = c->keep;
    }
    if (c->size - c->len < 4096) {
        c->size = c->size ? c->size * 2 : 8192;
        c->data = fm_xrealloc(c->data, c->size);
    }
}

/* Takes what is there now. Negative errno only for trouble; the end closes the descriptor. */
static int capture_read(struct capture *c)
{
    while (c->fd >= 0) {
        ssize_t n;

        capture_room(c);
        n = read(c->fd, c->data + c->len, c->size - c->len - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        if (n == 0) {
            close(c->fd);
            c->fd = -1;
        }
        c->len += (size_t)n;
        if (!c->keep && c->len > OUT_MAX)
            return -EFBIG;
    }
    return 0;
}

static char *capture_take(struct capture *c, size_t *len)
{
    size_t skip;

    capture_room(c);
    skip = c->keep && c->len > c->keep ? c->len - c->keep : 0;
    memmove(c->data, c->data + skip, c->len - skip);
    c->data[c->len - skip] = '\0';
    if (len)
        *len = c->len - skip;
    return FM_MOVE(c->data);
}

struct run {
    struct capture out, err;
    int pidfd;
    bool group; /* signals go to the whole group that it leads */
    pid_t pid;
};

static void cleanup_run(struct run *r)
{
    fm_cleanup_close(&r->out.fd);
    fm_cleanup_close(&r->err.fd);
    fm_cleanup_close(&r->pidfd);
    free(r->out.data);
    free(r->err.data);
}

static void send_signal(const struct run *r, int sig)
{
    if (r->group)
        kill(-r->pid, sig); /* not reaped yet: the group is ours */
    else
        pidfd_send_signal(r->pidfd, sig, NULL, 0);
}

static int poll_slice(uint64_t deadline, const struct fm_cancel *cancel)
{
    int left = poll_timeout(deadline);

    return (int)fm_cancel_slice(cancel, left < 0 ? INT_MAX : (uint64_t)left);
}

/* 0: it ended. -ETIMEDOUT, -ECANCELED with err, or what went wrong with its output. */
static int watch(struct run *r, uint64_t deadline, const struct fm_cancel *cancel,
                 struct fm_error *err)
{
    for (;;) {
        struct pollfd p[3] = {
            {.fd = r->pidfd, .events = POLLIN},
            {.fd = r->out.fd, .events = POLLIN},
            {.fd = r->err.fd, .events = POLLIN},
        };
        int n = poll(p, 3, poll_slice(deadline, cancel));
        int ret = n < 0 ? 0 : capture_read(&r->out);

        if (ret == 0 && n >= 0)
            ret = capture_read(&r->err);
        if (ret < 0)
            return ret;
        /* Somebody else may keep the pipes open for ever: what it wrote before its end is read. */
        if (n > 0 && p[0].revents)
            return 0;
        if (deadline && fm_now_ms() >= deadline)
            return -ETIMEDOUT;
        if (fm_cancel_check(cancel, err) < 0)
            return -ECANCELED;
    }
}

static void terminate(struct run *r)
{
    const struct fm_cancel nobody = {0};

    send_signal(r, SIGTERM);
    if (watch(r, fm_now_ms() + KILL_AFTER_MS, &nobody, NULL) == 0)
        return;
    send_signal(r, SIGKILL);
    watch(r, 0, &nobody, NULL);
}

static int finish(struct run *r, const struct fm_subprocess_options *o, int *exit_code,
                  struct fm_error *err)
{
    struct fm_error why = {0};
    int ret = watch(r, o->timeout_ms ? fm_now_ms() + o->timeout_ms : 0, &o->cancel, &why);
    int ended;

    if (ret < 0)
        terminate(r);
    ended = collect(r->pidfd, exit_code);
    if (ret == -ETIMEDOUT)
        return fm_error_set(err, FM_E_TIMEOUT,
                            "'%s' did not end within %" PRIu64 " ms; it was killed", o->argv[0],
                            o->timeout_ms);
    if (ret == -ECANCELED)
        return fm_error_set(err, why.code, "'%s' was ended: %s", o->argv[0], why.text);
    if (ret == 0)
        ret = ended;
    return ret < 0 ? fm_error_errno(err, -ret, "cannot follow '%s'", o->argv[0]) : 0;
}

static int make_pipe(struct capture *c, int *theirs, struct fm_error *err)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0)
        return fm_error_errno(err, errno, "cannot make a pipe");
    c->fd = ends[0];
    *theirs = ends[1];
    /* Only our end: the program expects a blocking one. */
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0)
        return fm_error_errno(err, errno, "cannot make a pipe");
    return 0;
}

static int start_run(struct run *r, const struct fm_subprocess_options *o, struct fm_error *err)
{
    fm_autoclose int null = open_null(err);
    fm_autoclose int their_out = -1, their_err = -1;
    int ret;

    if (null < 0)
        return -FM_E_IO;
    if (o->stdout_fd <= 0 && make_pipe(&r->out, &their_out, err) < 0)
        return -FM_E_IO;
    if (o->stderr_fd <= 0 && make_pipe(&r->err, &their_err, err) < 0)
        return -FM_E_IO;
    const int stdio[3] = {
        o->stdin_fd >= 0 ? o->stdin_fd : null,
        their_out >= 0 ? their_out : o->stdout_fd,
        their_err >= 0 ? their_err : o->stderr_fd,
    };
    ret = fm_spawn(o, stdio, false, &r->pid, err);
    if (ret < 0)
        return ret;
    r->pidfd = pidfd_open(r->pid, 0);
    if (r->pidfd < 0) {
        ret = fm_error_errno(err, errno, "cannot watch '%s'", o->argv[0]);
        kill(r->pid, SIGKILL);
        waitpid(r->pid, NULL, 0);
    }
    return ret;
}

int fm_subprocess_run(const struct fm_subprocess_options *options,
                      struct fm_subprocess_result *result, struct fm_error *err)
{
    fm_cleanup(cleanup_run) struct run r = {
        .out = {.fd = -1},
        .err = {.fd = -1, .keep = ERR_MAX},
        .pidfd = -1,
        .group = options->new_session,
    };
    bool has_out = options->stdout_fd <= 0;
    bool has_err = options->stderr_fd <= 0;
    int exit_code = 0;
    int ret;

    if (result)
        *result = (struct fm_subprocess_result){0};
    ret = start_run(&r, options, err);
    if (ret < 0)
        return ret;
    ret = finish(&r, options, &exit_code, err);
    if (result) {
        result->exit_code = exit_code;
        result->out = has_out ? capture_take(&r.out, &result->out_len) : NULL;
        result->err = has_err ? capture_take(&r.err, NULL) : NULL;
    }
    return ret;
}

void fm_subprocess_result_clear(struct fm_subprocess_result *r)
{
    free(r->out);
    free(r->err);
    *r = (struct fm_subprocess_result){0};
}

/* The last line that is not empty: programs say there what stopped them. */
static const char *last_line(char *text)
{
    char *line;

    fm_trim(text);
    line = strrchr(text, '\n');
    return line ? line + 1 : text;
}

int fm_subprocess_check(const struct fm_subprocess_options *options, char **out,
                        struct fm_error *err)
{
    fm_cleanup(fm_subprocess_result_clear) struct fm_subprocess_result result = {0};
    const char *why;
    int ret;

    if (out)
        *out = NULL;
    ret = fm_subprocess_run(options, &result, err);
    if (ret < 0)
        return ret;
    if (result.exit_code == 0) {
        if (out)
            *out = FM_MOVE(result.out);
        return 0;
    }
    why = result.err ? last_line(result.err) : "";
    if (!*why && result.out)
        why = last_line(result.out);
    if (*why)
        return fm_error_set(err, FM_E_FAILED, "'%s' failed with exit code %d: %s", options->argv[0],
                            result.exit_code, why);
    return fm_error_set(err, FM_E_FAILED, "'%s' failed with exit code %d", options->argv[0],
                        result.exit_code);
}
