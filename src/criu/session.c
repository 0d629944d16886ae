#include "criu/session.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"

struct fm_session {
    int listen_fd;
    int fd; /* the interposer's connection, -1 before it came */
    struct sockaddr_un address;
};

static const char *const event_texts[] = {
#define X(name, text) text,
    FM_SESSION_EVENTS(X)
#undef X
};

const char *fm_session_event_text(enum fm_session_event_type type)
{
    return event_texts[type];
}

static enum fm_session_event_type event_by_text(const char *text)
{
    for (size_t i = 0; i < FM_COUNT(event_texts); i++)
        if (fm_streq(text, event_texts[i]))
            return (enum fm_session_event_type)i;
    return FM_SESSION_OTHER;
}

struct fm_session *fm_session_listen(const char *dir, struct fm_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int len = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", dir, FM_CRIU_SOCKET);
    if (len < 0 || (size_t)len >= sizeof(address.sun_path)) {
        fm_error_set(err, FM_E_INVALID,
                     "path of the CRIU socket in %s is too long: use a shorter state_dir", dir);
        return NULL;
    }
    fm_autoclose int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        fm_error_errno(err, errno, "cannot make a unix socket");
        return NULL;
    }
    unlink(address.sun_path);
    /* The directory is root's alone, and the peer's uid is checked. */
    int rc = bind(fd, (struct sockaddr *)&address, sizeof(address));
    if (rc < 0 || listen(fd, 1) < 0) {
        fm_error_errno(err, errno, "cannot listen at %s", address.sun_path);
        return NULL;
    }
    struct fm_session *s = fm_xcalloc(1, sizeof(*s));
    s->listen_fd = FM_MOVE_FD(fd);
    s->fd = -1;
    s->address = address;
    return s;
}

void fm_session_close(struct fm_session *s)
{
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    close(s->listen_fd);
    unlink(s->address.sun_path);
    free(s);
}

/* Waits until `fd` is readable. A runtime that has ended counts only when nothing is left to read.
 */
static int wait_readable(int fd, int ended_fd, uint64_t deadline, struct fm_error *err)
{
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = ended_fd, .events = POLLIN}};
    for (;;) {
        int timeout = -1;
        if (deadline) {
            uint64_t now = fm_now_ms();
            timeout = now >= deadline ? 0 : (int)(deadline - now);
        }
        int n = poll(fds, 2, timeout);
        if (n < 0 && errno != EINTR)
            return fm_error_errno(err, errno, "cannot wait for CRIU");
        if (n < 0)
            continue;
        if (fds[0].revents)
            return 0;
        if (fds[1].revents)
            return fm_error_set(err, FM_E_CLOSED, "the runtime ended");
        if (n == 0)
            return fm_error_set(err, FM_E_TIMEOUT, "CRIU did not answer in time");
    }
}

static int accept_interposer(struct fm_session *s, int ended_fd, uint64_t deadline,
                             struct fm_error *err)
{
    int rc = wait_readable(s->listen_fd, ended_fd, deadline, err);
    if (rc < 0)
        return rc;
    s->fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (s->fd < 0)
        return fm_error_errno(err, errno, "cannot accept the interposer's connection");
    struct ucred who;
    socklen_t len = sizeof(who);
    if (getsockopt(s->fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0 || who.uid != geteuid()) {
        close(s->fd);
        s->fd = -1;
        return fm_error_set(err, FM_E_AUTH, "somebody else connected to the CRIU socket");
    }
    return 0;
}

static void decode_event(const json_t *doc, struct fm_session_event *event)
{
    *event = (struct fm_session_event){.type = FM_SESSION_OTHER};
    event->type = event_by_text(json_string_value(json_object_get(doc, "event")));
    event->dump = json_is_true(json_object_get(doc, "dump"));
    event->pid = (pid_t)json_integer_value(json_object_get(doc, "pid"));
    event->success = json_is_true(json_object_get(doc, "success"));
    const char *message = json_string_value(json_object_get(doc, "message"));
    snprintf(event->message, sizeof(event->message), "%s", message ? message : "");
}

int fm_session_next(struct fm_session *s, int ended_fd, uint64_t timeout_ms,
                    struct fm_session_event *event, struct fm_error *err)
{
    uint64_t deadline = timeout_ms ? fm_now_ms() + timeout_ms : 0;
    int rc = 0;
    if (s->fd < 0)
        rc = accept_interposer(s, ended_fd, deadline, err);
    if (rc == 0)
        rc = wait_readable(s->fd, ended_fd, deadline, err);
    if (rc < 0)
        return rc;
    char text[4096];
    ssize_t n = recv(s->fd, text, sizeof(text), 0);
    if (n < 0)
        return fm_error_errno(err, errno, "cannot read from the interposer");
    if (n == 0)
        return fm_error_set(err, FM_E_CLOSED, "the interposer went away");
    json_auto_t *doc = json_loadb(text, (size_t)n, 0, NULL);
    if (!json_is_object(doc))
        return fm_error_set(err, FM_E_PROTOCOL, "the interposer sent something that is no event");
    decode_event(doc, event);
    return 0;
}

static json_t *encode_mounts(const struct fm_session_request *r)
{
    json_t *list = json_array();
    for (size_t i = 0; i < r->mount_count; i++)
        json_array_append_new(list, json_pack("{s:s, s:s}", "target", r->mounts[i].target, "source",
                                              r->mounts[i].source));
    return list;
}

static json_t *encode_events(const struct fm_session_request *r)
{
    json_t *list = json_array();
    for (size_t i = 0; i < r->event_count; i++)
        json_array_append_new(list, json_string(event_texts[r->events[i]]));
    return list;
}

static json_t *encode_request(const struct fm_session_request *r)
{
    json_t *set = json_object();
    if (r->root)
        json_object_set_new(set, "root", json_string(r->root));
    if (r->log_level)
        json_object_set_new(set, "log_level", json_integer(r->log_level));
    if (r->skip_network_lock)
        json_object_set_new(set, "skip_network_lock", json_true());
    if (r->ignore_cgroups)
        json_object_set_new(set, "ignore_cgroups", json_true());
    if (r->ghost_limit)
        json_object_set_new(set, "ghost_limit", json_integer(r->ghost_limit));
    if (r->filter_dir)
        json_object_set_new(set, "filter_dir", json_string(r->filter_dir));
    if (r->lazy_pages)
        json_object_set_new(set, "lazy_pages", json_true());
    if (r->tcp_close)
        json_object_set_new(set, "tcp_close", json_true());
    if (r->skip_in_flight)
        json_object_set_new(set, "skip_in_flight", json_true());
    if (r->events)
        json_object_set_new(set, "events", encode_events(r));
    if (r->runtime_hooks)
        json_object_set_new(set, "runtime_hooks", json_true());
    if (r->hold)
        json_object_set_new(set, "hold", json_true());
    if (r->mount_count)
        json_object_set_new(set, "mounts", encode_mounts(r));
    return set;
}

int fm_session_answer(struct fm_session *s, bool go, const struct fm_session_request *request,
                      struct fm_error *err)
{
    json_auto_t *doc = json_pack("{s:b}", "go", go);
    if (request)
        json_object_set_new(doc, "set", encode_request(request));
    fm_autofree char *text = json_dumps(doc, JSON_COMPACT);
    if (s->fd < 0 || send(s->fd, text, strlen(text), MSG_NOSIGNAL) < 0)
        return fm_error_set(err, FM_E_CLOSED, "the interposer went away");
    return 0;
}
