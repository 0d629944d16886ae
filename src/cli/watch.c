#include "cli/watch.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/live.h"

#define OPEN_TIMEOUT_MS 10000
#define TICK_MS 250         /* on a terminal, where the clock runs */
#define POLL_MS 500         /* of the document, when there are no events */
#define POLL_EVENTS_MS 2000 /* of the document, when there are */
#define PATIENCE_MS 30000   /* with a daemon that does not answer: it may be restarting */

struct cli_watcher {
    const struct cli *cli;
    struct fm_client *events, *requests;
    bool started;
    pthread_t thread;
    int wake_fd, signal_fd;
    pthread_mutex_t lock;
    /* under the lock */
    json_t *queue;
    bool open, ended;
};

/* A watch in progress. */
struct watch {
    struct cli_watcher *watcher;
    struct cli_live live;
    const char *id;
    bool may_cancel, asking, cancelled, left;
    uint64_t next_poll_ms, last_answer_ms;
    json_t *doc; /* the last one */
};

/* --- the subscriber's thread --- */

static int on_event(const char *type, const json_t *event, void *ctx)
{
    struct cli_watcher *watcher = ctx;

    pthread_mutex_lock(&watcher->lock);
    if (fm_streq(type, "open"))
        watcher->open = true;
    else
        json_array_append_new(watcher->queue, json_deep_copy(event));
    pthread_mutex_unlock(&watcher->lock);
    eventfd_write(watcher->wake_fd, 1);
    return 0;
}

static void *subscriber(void *arg)
{
    struct cli_watcher *watcher = arg;

    /* Why it ended does not matter: from then on the document is asked for more often. */
    (void)fm_client_events(watcher->events, "/v1/events", on_event, watcher, NULL);
    pthread_mutex_lock(&watcher->lock);
    watcher->ended = true;
    pthread_mutex_unlock(&watcher->lock);
    eventfd_write(watcher->wake_fd, 1);
    return NULL;
}

/* Blocks until the daemon has taken the subscription or it is clear that it will not. */
static void wait_until_open(struct cli_watcher *watcher)
{
    uint64_t deadline = fm_now_ms() + OPEN_TIMEOUT_MS;
    struct pollfd fd = {.fd = watcher->wake_fd, .events = POLLIN};
    bool settled = false;
    eventfd_t ignored;

    while (!settled && fm_now_ms() < deadline) {
        if (poll(&fd, 1, (int)(deadline - fm_now_ms())) > 0)
            eventfd_read(watcher->wake_fd, &ignored);
        pthread_mutex_lock(&watcher->lock);
        settled = watcher->open || watcher->ended;
        pthread_mutex_unlock(&watcher->lock);
    }
}

struct cli_watcher *cli_watch_open(const struct cli *cli, struct fm_error *err)
{
    struct cli_watcher *watcher = fm_xcalloc(1, sizeof(*watcher));
    sigset_t set;

    watcher->cli = cli;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_mutex_init(&watcher->lock, NULL);
    watcher->queue = json_array();
    watcher->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    watcher->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    watcher->events = cli_open(cli, err);
    watcher->requests = watcher->events ? cli_open(cli, err) : NULL;
    if (!watcher->requests) {
        cli_watch_close(watcher);
        return NULL;
    }
    watcher->started = pthread_create(&watcher->thread, NULL, subscriber, watcher) == 0;
    if (watcher->started)
        wait_until_open(watcher);
    return watcher;
}

void cli_watch_close(struct cli_watcher *watcher)
{
    if (!watcher)
        return;
    if (watcher->started) {
        fm_client_interrupt(watcher->events);
        pthread_join(watcher->thread, NULL);
    }
    fm_client_close(watcher->events);
    fm_client_close(watcher->requests);
    close(watcher->wake_fd);
    close(watcher->signal_fd);
    json_decref(watcher->queue);
    pthread_mutex_destroy(&watcher->lock);
    free(watcher);
}

/* --- what is shown --- */

/* Takes the events that wait; true when one of them changes the document. */
static bool take_events(struct watch *watch)
{
    struct cli_watcher *watcher = watch->watcher;
    json_auto_t *events = NULL;
    bool changed = false;
    eventfd_t ignored;
    json_t *event;
    size_t i;

    eventfd_read(watcher->wake_fd, &ignored);
    pthread_mutex_lock(&watcher->lock);
    events = watcher->queue;
    watcher->queue = json_array();
    pthread_mutex_unlock(&watcher->lock);
    json_array_foreach(events, i, event)
    {
        const char *type = json_string_value(json_object_get(event, "type"));

        if (!fm_streq(json_string_value(json_object_get(event, "migration")), watch->id))
            continue;
        if (fm_streq(type, "progress"))
            cli_live_progress(&watch->live, event);
        else
            changed = true;
    }
    return changed;
}

/* Asks for the document. A daemon that is gone for a moment is no failure. */
static int refresh(struct watch *watch, struct fm_error *err)
{
    fm_autofree char *path = cli_path("migrations", watch->id, "");
    json_t *doc = NULL;
    uint64_t now;
    int ret = fm_client_request(watch->watcher->requests, "GET", path, NULL, &doc, err);
    bool events;

    now = fm_now_ms();
    pthread_mutex_lock(&watch->watcher->lock);
    events = watch->watcher->open && !watch->watcher->ended;
    pthread_mutex_unlock(&watch->watcher->lock);
    watch->next_poll_ms = now + (events ? POLL_EVENTS_MS : POLL_MS);
    if (ret < 0) {
        bool gone = err->code == FM_E_UNREACHABLE || err->code == FM_E_CLOSED;

        return gone && now - watch->last_answer_ms < PATIENCE_MS ? 0 : ret;
    }
    watch->last_answer_ms = now;
    json_decref(watch->doc);
    watch->doc = doc;
    cli_live_document(&watch->live, doc);
    return 0;
}

/* --- ^C --- */

static void cancel(struct watch *watch)
{
    fm_autofree char *path = cli_path("migrations", watch->id, "");
    struct fm_error err = {0};

    watch->asking = watch->live.paused = false;
    watch->cancelled = true;
    cli_live_clear(&watch->live);
    if (fm_client_request(watch->watcher->requests, "DELETE", path, NULL, NULL, &err) < 0)
        fprintf(stderr, "fleximigrate: cannot cancel: %s\n", err.text);
    else
        fprintf(stderr, "fleximigrate: cancelling, the container runs on where it was\n");
}

static void on_interrupt(struct watch *watch)
{
    struct signalfd_siginfo info;
    bool person = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);

    if (read(watch->watcher->signal_fd, &info, sizeof(info)) != sizeof(info))
        return;
    if (!watch->may_cancel || watch->cancelled) {
        watch->left = true;
    } else if (!person || watch->asking) {
        cancel(watch);
    } else {
        cli_live_clear(&watch->live);
        fprintf(stderr, "\ncancel the migration? again ^C to cancel, or y: ");
        watch->asking = watch->live.paused = true;
    }
}

static void on_answer(struct watch *watch)
{
    char line[64] = "";
    ssize_t n = read(STDIN_FILENO, line, sizeof(line) - 1);

    watch->asking = watch->live.paused = false;
    if (n > 0 && (line[0] == 'y' || line[0] == 'Y'))
        cancel(watch);
}

/* --- the loop --- */

static int timeout_of(const struct watch *watch)
{
    uint64_t now = fm_now_ms();
    uint64_t left = watch->next_poll_ms > now ? watch->next_poll_ms - now : 0;

    return (int)(watch->live.terminal && left > TICK_MS ? TICK_MS : left);
}

static int step(struct watch *watch, struct fm_error *err)
{
    struct pollfd fds[] = {
        {.fd = watch->watcher->wake_fd, .events = POLLIN},
        {.fd = watch->watcher->signal_fd, .events = POLLIN},
        {.fd = watch->asking ? STDIN_FILENO : -1, .events = POLLIN},
    };
    bool changed;

    if (poll(fds, FM_COUNT(fds), timeout_of(watch)) < 0 && errno != EINTR)
        return fm_error_errno(err, errno, "poll");
    changed = take_events(watch);
    if (fds[1].revents)
        on_interrupt(watch);
    if (fds[2].revents)
        on_answer(watch);
    if (changed || fm_now_ms() >= watch->next_poll_ms)
        return refresh(watch, err);
    cli_live_draw(&watch->live);
    return 0;
}

/* True when the watch is over. */
static bool is_final(const json_t *doc)
{
    return json_is_true(json_object_get(doc, "final"));
}

int cli_watch_run(struct cli_watcher *watcher, const char *id, bool may_cancel, json_t **doc,
                  struct fm_error *err)
{
    struct watch watch = {
        .watcher = watcher, .id = id, .may_cancel = may_cancel, .last_answer_ms = fm_now_ms()};
    int ret;

    cli_live_open(&watch.live, watcher->cli);
    ret = refresh(&watch, err);
    while (ret == 0 && !is_final(watch.doc) && !watch.left)
        ret = step(&watch, err);
    cli_live_close(&watch.live);
    *doc = ret == 0 && is_final(watch.doc) ? json_incref(watch.doc) : NULL;
    json_decref(watch.doc);
    return ret;
}
