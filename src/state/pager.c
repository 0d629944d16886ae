#include "state/pager.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "state/pager_state.h"

#define START_TIMEOUT_MS 10000u
#define END_TIMEOUT_MS 5000u
#define RESTARTS_MAX 20 /* in a row, without a task more filled */

/* Duplicates of what a task needs. */
struct holding {
    uint32_t slot;
    uint64_t serial;
    int fds[FM_PAGER_FDS_MAX]; /* userfaultfd, pidfd (-1: not known) */
};

/* Pages that came before the pager knew of their process; or one that is wanted. */
struct arrival {
    pid_t inner_pid;
    uint64_t start, end;
};

struct fm_pager {
    char *program, *store_dir, *work_dir, *control_path, *log;
    int control; /* -1: the pager has closed it */
    int listen, lazy;
    struct holding *holdings;
    size_t holding_count, holding_capacity;
    struct fm_pager_status status;
    bool ready, changed, lost;
    unsigned int restarts;
    uint64_t filled_at_restart;
    fm_pager_want want;
    void *want_ctx;
    struct arrival *wanted; /* a page each, not asked for yet */
    size_t wanted_count, wanted_capacity;
    /* Under `lock`: fm_pager_arrived comes from other threads. */
    pthread_mutex_t lock;
    struct fm_pager_maps maps; /* fd -1: not yet */
    struct arrival *arrivals;
    size_t arrival_count, arrival_capacity;
};

static struct fm_pager *make(const struct fm_pager_spec *spec)
{
    struct fm_pager *p = fm_xcalloc(1, sizeof(*p));

    p->program = fm_xstrdup(spec->program);
    p->store_dir = fm_xstrdup(spec->store_dir);
    p->work_dir = fm_xstrdup(spec->work_dir);
    p->control_path = fm_xstrdup(spec->control);
    p->log = fm_xstrdup(spec->log);
    p->control = p->listen = p->lazy = p->maps.fd = -1;
    pthread_mutex_init(&p->lock, NULL);
    return p;
}

static void close_holding(struct holding *h)
{
    for (int i = 0; i < FM_PAGER_FDS_MAX; i++) {
        fm_cleanup_close(&h->fds[i]);
        h->fds[i] = -1;
    }
}

static void destroy(struct fm_pager *p)
{
    for (size_t i = 0; i < p->holding_count; i++)
        close_holding(&p->holdings[i]);
    free(p->holdings);
    free(p->arrivals);
    free(p->wanted);
    fm_pager_state_close(&p->maps);
    fm_cleanup_close(&p->control);
    fm_cleanup_close(&p->listen);
    fm_cleanup_close(&p->lazy);
    pthread_mutex_destroy(&p->lock);
    free(p->program);
    free(p->store_dir);
    free(p->work_dir);
    free(p->control_path);
    free(p->log);
    free(p);
}

/* ---- What is held ---- */

static struct holding *holding_of(struct fm_pager *p, uint32_t slot)
{
    for (size_t i = 0; i < p->holding_count; i++) {
        if (p->holdings[i].slot == slot)
            return &p->holdings[i];
    }
    return NULL;
}

static void hold_task(struct fm_pager *p, const struct fm_pager_message *m, int *fds)
{
    struct holding *h = holding_of(p, m->slot);

    if (!h) {
        if (p->holding_count == p->holding_capacity) {
            p->holding_capacity = p->holding_capacity ? 2 * p->holding_capacity : 16;
            p->holdings = fm_xrealloc(p->holdings, p->holding_capacity * sizeof(*p->holdings));
        }
        h = &p->holdings[p->holding_count++];
        *h = (struct holding){.fds = {-1, -1}};
    }
    close_holding(h); /* a worker that takes over announces again */
    h->slot = m->slot;
    h->serial = m->serial;
    for (int i = 0; i < FM_PAGER_FDS_MAX; i++)
        h->fds[i] = FM_MOVE_FD(fds[i]);
}

static void hold_state(struct fm_pager *p, int *fd)
{
    struct fm_error err = {0};

    pthread_mutex_lock(&p->lock);
    if (!p->maps.state && fm_pager_state_open(&p->maps, FM_MOVE_FD(*fd), &err) < 0) {
        fm_pager_state_close(&p->maps);
        fm_warn(FM_STATE_SYNCHRONIZER, "Pager: %s.", err.text);
    }
    pthread_mutex_unlock(&p->lock);
}

static void replace(int *held, int *fd)
{
    fm_cleanup_close(held);
    *held = FM_MOVE_FD(*fd);
}

static void hold(struct fm_pager *p, const struct fm_pager_message *m, int *fds)
{
    if (m->what == FM_PAGER_HELD_STATE)
        hold_state(p, &fds[0]);
    else if (m->what == FM_PAGER_HELD_LISTEN)
        replace(&p->listen, &fds[0]);
    else if (m->what == FM_PAGER_HELD_LAZY)
        replace(&p->lazy, &fds[0]);
    else if (m->what == FM_PAGER_HELD_TASK)
        hold_task(p, m, fds);
}

static void release(struct fm_pager *p, const struct fm_pager_message *m)
{
    struct fm_pager_message answer = *m;
    struct holding *h = holding_of(p, m->slot);

    if (h && h->serial == m->serial) {
        close_holding(h);
        *h = p->holdings[--p->holding_count];
    }
    answer.kind = FM_PAGER_RELEASED;
    fm_pager_send(p->control, &answer, NULL, 0, 0);
}

/* ---- Pages that arrive, and those that are wanted ---- */

static void append(struct arrival **items, size_t *count, size_t *capacity, struct arrival a)
{
    if (*count == *capacity) {
        *capacity = *capacity ? 2 * *capacity : 64;
        *items = fm_xrealloc(*items, *capacity * sizeof(**items));
    }
    (*items)[(*count)++] = a;
}

static bool note_arrival(struct fm_pager *p, const struct arrival *a)
{
    uint32_t number = p->maps.state ? fm_pager_store_find(&p->maps, a->inner_pid) : UINT32_MAX;
    struct fm_pager_slot *store = number == UINT32_MAX ? NULL : fm_pager_slot(&p->maps, number);

    if (store)
        fm_pager_bits_drop(store, a->start, a->end);
    return store != NULL;
}

/* Those that came too early; true when there were some. */
static bool note_early_arrivals(struct fm_pager *p)
{
    size_t kept = 0, count = p->arrival_count;

    for (size_t i = 0; i < count; i++) {
        if (!note_arrival(p, &p->arrivals[i]))
            p->arrivals[kept++] = p->arrivals[i];
    }
    p->arrival_count = kept;
    return kept < count;
}

/* When the socket is full, others are in it already that wake the pager; a hint may be lost. */
static void poke(struct fm_pager *p, enum fm_pager_kind kind)
{
    if (p->control >= 0)
        fm_pager_send(p->control, &(struct fm_pager_message){.kind = kind}, NULL, 0, MSG_DONTWAIT);
}

void fm_pager_arrived(struct fm_pager *p, pid_t inner_pid, uint64_t start, uint64_t end)
{
    struct arrival a = {inner_pid, start, end};

    pthread_mutex_lock(&p->lock);
    if (!note_arrival(p, &a))
        append(&p->arrivals, &p->arrival_count, &p->arrival_capacity, a);
    poke(p, FM_PAGER_ARRIVED);
    pthread_mutex_unlock(&p->lock);
}

void fm_pager_restored(struct fm_pager *p)
{
    pthread_mutex_lock(&p->lock);
    poke(p, FM_PAGER_RESTORED);
    pthread_mutex_unlock(&p->lock);
}

void fm_pager_set_want(struct fm_pager *p, fm_pager_want want, void *ctx)
{
    p->want = want;
    p->want_ctx = ctx;
}

/* Those from before there was somebody to ask wait until there is. */
static void ask(struct fm_pager *p)
{
    if (!p->want)
        return;
    for (size_t i = 0; i < p->wanted_count; i++)
        p->want(p->want_ctx, p->wanted[i].inner_pid, p->wanted[i].start);
    p->wanted_count = 0;
}

/* ---- Messages ---- */

static void handle(struct fm_pager *p, const struct fm_pager_message *m, int *fds)
{
    switch (m->kind) {
    case FM_PAGER_READY:
        p->ready = true;
        break;
    case FM_PAGER_HOLD:
        hold(p, m, fds);
        break;
    case FM_PAGER_RELEASE:
        release(p, m);
        break;
    case FM_PAGER_STATUS:
        p->status = m->status;
        p->changed = true;
        break;
    case FM_PAGER_WANT:
        append(&p->wanted, &p->wanted_count, &p->wanted_capacity,
               (struct arrival){m->inner_pid, m->address, 0});
        break;
    case FM_PAGER_LOST:
        p->lost = true;
        break;
    default:
        break;
    }
    for (int i = 0; i < FM_PAGER_FDS_MAX; i++)
        fm_cleanup_close(&fds[i]);
    pthread_mutex_lock(&p->lock);
    if (note_early_arrivals(p))
        poke(p, FM_PAGER_ARRIVED);
    pthread_mutex_unlock(&p->lock);
}

static void hang_up(struct fm_pager *p)
{
    pthread_mutex_lock(&p->lock);
    fm_cleanup_close(&p->control);
    p->control = -1;
    pthread_mutex_unlock(&p->lock);
}

/* Takes the messages that are there. */
static void read_messages(struct fm_pager *p)
{
    while (p->control >= 0) {
        struct fm_pager_message m;
        int fds[FM_PAGER_FDS_MAX];
        int ret = fm_pager_receive(p->control, &m, fds, MSG_DONTWAIT);

        if (ret == -EAGAIN)
            return;
        if (ret <= 0)
            hang_up(p);
        else
            handle(p, &m, fds);
    }
}

static void poll_control(struct fm_pager *p, uint64_t deadline_ms)
{
    struct pollfd entry = {.fd = p->control, .events = POLLIN};
    uint64_t now = fm_now_ms();

    if (p->control >= 0 && now < deadline_ms)
        poll(&entry, 1, deadline_ms - now > 60000 ? 60000 : (int)(deadline_ms - now));
}

static int wait_ready(struct fm_pager *p, struct fm_error *err)
{
    uint64_t deadline = fm_now_ms() + START_TIMEOUT_MS;

    p->ready = false;
    for (;;) {
        read_messages(p);
        if (p->ready)
            return 0;
        if (p->control < 0)
            return fm_error_set(err, FM_E_FAILED, "the pager ended at once (log: %s)", p->log);
        if (fm_now_ms() >= deadline)
            return fm_error_set(err, FM_E_TIMEOUT, "the pager does not answer (log: %s)", p->log);
        poll_control(p, deadline);
    }
}

/* ---- Starting ---- */

/* `how`: an option more, or NULL. */
static int spawn(struct fm_pager *p, const char *how, struct fm_error *err)
{
    fm_autoclose int log = open(p->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    fm_autoclose int theirs = -1;
    char number[16];
    const char *argv[12];
    size_t n = 0;
    int pair[2];
    pid_t pid;

    if (log < 0)
        return fm_error_errno(err, errno, "cannot open '%s'", p->log);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return fm_error_errno(err, errno, "cannot make a socket for the pager");
    theirs = pair[1];
    pthread_mutex_lock(&p->lock);
    replace(&p->control, &pair[0]);
    pthread_mutex_unlock(&p->lock);
    snprintf(number, sizeof(number), "%d", theirs);
    const char *arguments[] = {p->program,  "--store",       p->store_dir,  "--work", p->work_dir,
                               "--control", p->control_path, "--daemon-fd", number};
    for (; n < FM_COUNT(arguments); n++)
        argv[n] = arguments[n];
    argv[n++] = how;
    argv[n] = NULL;
    const struct fm_subprocess_options options = {
        .argv = argv,
        .stdin_fd = -1,
        .stdout_fd = log,
        .stderr_fd = log,
        .new_session = true,
        .keep_fds = &theirs,
        .keep_fd_count = 1,
    };
    return fm_subprocess_start(&options, true, &pid, NULL, err);
}

struct fm_pager *fm_pager_start(const struct fm_pager_spec *spec, struct fm_error *err)
{
    struct fm_pager *p = make(spec);
    fm_autofree char *note = fm_strf("%s/" FM_PAGER_DONE_FILE, spec->store_dir);

    unlink(note); /* of an earlier one */
    if (spawn(p, NULL, err) == 0 && wait_ready(p, err) == 0)
        return p;
    destroy(p);
    return NULL;
}

/* One that has come to its end while no daemon was there. */
static bool find_done(struct fm_pager *p)
{
    fm_autofree char *path = fm_strf("%s/" FM_PAGER_DONE_FILE, p->store_dir);
    fm_autofree char *line = fm_file_line(path);
    struct fm_pager_status *s = &p->status;

    if (!line || sscanf(line, "%" SCNu64 " %" SCNu64 " %" SCNu64, &s->total_bytes, &s->faults,
                        &s->fault_us_max) != 3)
        return false;
    s->filled_bytes = s->total_bytes;
    s->resumed = s->done = true;
    return true;
}

/* Nobody is left of the earlier one: the container has kept what a new one needs, or not. */
static int revive(struct fm_pager *p, struct fm_error *err)
{
    *err = (struct fm_error){0};
    if (spawn(p, "--revive", err) < 0 || wait_ready(p, err) < 0)
        return fm_error_result(err);
    fm_warn(FM_STATE_SYNCHRONIZER,
            "The pager and its keeper have died with their daemon; another one goes on with what "
            "the container has kept.");
    return 0;
}

struct fm_pager *fm_pager_find(const struct fm_pager_spec *spec, struct fm_error *err)
{
    struct fm_pager *p = make(spec);
    struct fm_error why = {0};

    p->control = fm_pager_connect(spec->control, SOCK_SEQPACKET);
    if (p->control >= 0 && wait_ready(p, err) == 0)
        return p;
    /* It may have ended just now. */
    if (find_done(p))
        return p;
    if (p->control == -ENOENT)
        fm_error_set(err, FM_E_NOT_FOUND, "no pager at '%s'", spec->control);
    else if (revive(p, &why) == 0)
        return p;
    else
        fm_error_set(err, FM_E_FAILED, "the pager at '%s' has died (log: %s)", spec->control,
                     spec->log);
    p->control = -1;
    destroy(p);
    return NULL;
}

/* ---- When it dies ---- */

static int give_fd(struct fm_pager *p, enum fm_pager_holding what, int fd)
{
    struct fm_pager_message m = {.kind = FM_PAGER_GIVE, .what = what};

    return fd < 0 ? 0 : fm_pager_send(p->control, &m, &fd, 1, 0);
}

static int give_task(struct fm_pager *p, const struct holding *h)
{
    struct fm_pager_message m = {
        .kind = FM_PAGER_GIVE,
        .what = FM_PAGER_HELD_TASK,
        .slot = h->slot,
        .serial = h->serial,
    };

    return fm_pager_send(p->control, &m, h->fds, h->fds[1] >= 0 ? 2 : 1, 0);
}

static int give_all(struct fm_pager *p)
{
    int ret = give_fd(p, FM_PAGER_HELD_STATE, p->maps.fd);

    if (ret == 0)
        ret = give_fd(p, FM_PAGER_HELD_LISTEN, p->listen);
    if (ret == 0)
        ret = give_fd(p, FM_PAGER_HELD_LAZY, p->lazy);
    for (size_t i = 0; i < p->holding_count && ret == 0; i++)
        ret = give_task(p, &p->holdings[i]);
    if (ret == 0)
        ret = fm_pager_send(p->control, &(struct fm_pager_message){.kind = FM_PAGER_BEGIN}, NULL, 0,
                            0);
    return ret;
}

/* May leave another dead one behind. */
static int restart(struct fm_pager *p, struct fm_error *err)
{
    int ret;

    if (p->status.filled_bytes > p->filled_at_restart)
        p->restarts = 0;
    p->filled_at_restart = p->status.filled_bytes;
    if (p->lost || !p->maps.state || ++p->restarts > RESTARTS_MAX)
        return fm_error_set(err, FM_E_FAILED, "the pager has died (log: %s)", p->log);
    fm_warn(FM_STATE_SYNCHRONIZER, "The pager has died; starting another one.");
    if (spawn(p, "--resume", err) < 0)
        return fm_error_result(err);
    ret = give_all(p);
    if (ret < 0) {
        hang_up(p);
        return 0; /* was killed as well: the next one */
    }
    ret = wait_ready(p, err);
    return p->control < 0 ? 0 : ret;
}

/* Its tasks would go on with zeroes once our duplicates are closed. */
static void kill_tasks(struct fm_pager *p)
{
    for (size_t i = 0; i < p->holding_count; i++) {
        if (p->holdings[i].fds[1] >= 0)
            pidfd_send_signal(p->holdings[i].fds[1], SIGKILL, NULL, 0);
    }
}

/* ---- The life of one ---- */

int fm_pager_wait(struct fm_pager *p, uint64_t timeout_ms, struct fm_pager_status *status,
                  struct fm_error *err)
{
    uint64_t deadline = fm_now_ms() + timeout_ms;
    int ret = 0;

    while (ret == 0) {
        read_messages(p);
        ask(p);
        if (p->control < 0 && !p->status.done) {
            ret = restart(p, err);
            continue;
        }
        if (p->changed || p->status.done || fm_now_ms() >= deadline)
            break;
        poll_control(p, deadline);
    }
    p->changed = false;
    if (status)
        *status = p->status;
    return ret < 0 ? fm_error_recode(err, FM_E_FAILED) : 0;
}

void fm_pager_end(struct fm_pager *p)
{
    uint64_t deadline = fm_now_ms() + END_TIMEOUT_MS;

    if (!p)
        return;
    read_messages(p);
    if (p->control >= 0)
        fm_pager_send(p->control, &(struct fm_pager_message){.kind = FM_PAGER_END}, NULL, 0,
                      MSG_DONTWAIT);
    while (p->control >= 0 && fm_now_ms() < deadline) {
        poll_control(p, deadline);
        read_messages(p);
    }
    if (!p->status.done)
        kill_tasks(p);
    destroy(p);
}

void fm_pager_leave(struct fm_pager *p)
{
    struct fm_error err = {0};

    if (!p)
        return;
    if (fm_pager_wait(p, 0, NULL, &err) < 0)
        kill_tasks(p);
    destroy(p);
}
