/* fleximigrate-criu: stands between an OCI runtime and CRIU.
 *
 * Started as `criu swrk FD` it looks at the first request. If a daemon listens beside the images
 * directory, every step of the dump or restore is reported to it and waits for its word; one for
 * which nobody listens is refused. For every other command the real CRIU takes this process over.
 * When the daemon, the runtime or this program dies, the next step of CRIU fails: a dump lets the
 * tasks run on, a restore kills what it had made. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/text.h"
#include "criu/breakpoints.h"
#include "criu/preload.h"
#include "criu/rpc.pb-c.h"
#include "criu/selftest.h"
#include "criu/session.h"

#define MAX_MESSAGE (1 << 20)
#define CG_IGNORE 0
#define NETWORK_LOCK_SKIP 3

/* The three conversations and what was learnt from them. */
struct interposer {
    int runtime_fd; /* the runtime's socket */
    int daemon_fd;  /* the daemon's, -1 when it is gone */
    int criu_fd;    /* our end towards the real CRIU */
    int criu_pidfd;
    int hold_fd;          /* our end towards a CRIU that is held, -1 otherwise */
    int unread;           /* answers of the runtime that nobody has waited for yet */
    const json_t *events; /* that the daemon wants to hear of; NULL: all */
    bool runtime_hooks;   /* run by the runtime at setup-namespaces */
    bool dump;
    bool released; /* behind post-restore: the tasks will run, whoever dies */
    bool refused;  /* somebody went away or said no: every further step is refused */
};

static const char *real_criu(void)
{
    const char *path = getenv("FLEXIMIGRATE_CRIU");
    return path ? path : "/usr/local/sbin/criu";
}

_Noreturn static void become_criu(char **argv)
{
    argv[0] = (char *)real_criu();
    execv(real_criu(), argv);
    fprintf(stderr, "fleximigrate-criu: cannot run %s: %s\n", real_criu(), strerror(errno));
    _exit(127);
}

static ssize_t receive(int fd, void *buf, int flags)
{
    ssize_t n;
    do
        n = recv(fd, buf, MAX_MESSAGE, flags);
    while (n < 0 && errno == EINTR);
    return n;
}

/* The runtime's descriptors are numbers in its own table; CRIU opens them through its peer, which
 * is us. */
static int adopt_directory(int runtime_fd, int number)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    if (getsockopt(runtime_fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return -1;
    fm_autofree char *path = fm_strf("/proc/%d/fd/%d", (int)peer.pid, number);
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Connects to the daemon that listens beside the images directory; -1 when there is none. */
static int find_daemon(int images_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char dir[sizeof(address.sun_path)] = "";
    fm_autofree char *link = fm_strf("/proc/self/fd/%d", images_fd);
    ssize_t len = readlink(link, dir, sizeof(dir) - 1);
    if (len <= 0 || (size_t)len >= sizeof(dir) - 1)
        return -1;
    char *slash = strrchr(dir, '/');
    if (!slash)
        return -1;
    *slash = '\0';
    int n = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", dir, FM_CRIU_SOCKET);
    if (n < 0 || (size_t)n >= sizeof(address.sun_path))
        return -1;
    fm_autoclose int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return -1;
    return FM_MOVE_FD(fd);
}

/* Reports an event and waits for the daemon's word. The runtime's end counts as a refusal too, as
 * long as there is a way back: there is nobody left who would take the result. Returns the answer,
 * or NULL when it is no. */
static json_t *ask_daemon(struct interposer *ip, const json_t *event)
{
    fm_autofree char *text = json_dumps(event, JSON_COMPACT);
    if (ip->refused || send(ip->daemon_fd, text, strlen(text), MSG_NOSIGNAL) < 0)
        return NULL;
    struct pollfd fds[2] = {{.fd = ip->daemon_fd, .events = POLLIN},
                            {.fd = ip->released ? -1 : ip->runtime_fd, .events = POLLRDHUP}};
    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        continue;
    if (!(fds[0].revents & POLLIN))
        return NULL;
    fm_autofree char *answer = fm_xmalloc(MAX_MESSAGE);
    ssize_t n = recv(ip->daemon_fd, answer, MAX_MESSAGE, 0);
    json_t *doc = n > 0 ? json_loadb(answer, (size_t)n, 0, NULL) : NULL;
    if (json_is_true(json_object_get(doc, "go")))
        return doc;
    json_decref(doc);
    return NULL;
}

static bool has_external(const FmRpc__Options *opts, const char *prefix)
{
    for (size_t i = 0; i < opts->n_external; i++)
        if (fm_starts_with(opts->external[i], prefix))
            return true;
    return false;
}

/* What the runtime says of a mount goes before what we say. */
static void add_mounts(FmRpc__Options *opts, const json_t *mounts)
{
    size_t i;
    json_t *mount;
    size_t most = opts->n_external + json_array_size(mounts);
    opts->external = fm_xrealloc(opts->external, (most + 1) * sizeof(*opts->external));
    json_array_foreach(mounts, i, mount)
    {
        const char *target = json_string_value(json_object_get(mount, "target"));
        const char *source = json_string_value(json_object_get(mount, "source"));
        fm_autofree char *key = fm_strf("mnt[%s]:", target ? target : "");
        if (target && source && !has_external(opts, key))
            opts->external[opts->n_external++] = fm_strf("%s%s", key, source);
    }
}

static void set_string(char **field, const char *text)
{
    if (!text)
        return;
    free(*field);
    *field = fm_xstrdup(text);
}

/* Applies the daemon's changes. What is put in belongs to the request, as if it had been unpacked.
 * FLEXIMIGRATE_CRIU_LOG=4 in the daemon's environment asks CRIU for all that it can tell. */
static void change_request(FmRpc__Options *opts, const json_t *set)
{
    set_string(&opts->root, json_string_value(json_object_get(set, "root")));
    const char *wanted = getenv("FLEXIMIGRATE_CRIU_LOG");
    int level = wanted ? atoi(wanted) : (int)json_integer_value(json_object_get(set, "log_level"));
    if (level) {
        opts->has_log_level = true;
        opts->log_level = level;
    }
    if (json_is_true(json_object_get(set, "skip_network_lock"))) {
        opts->has_network_lock = true;
        opts->network_lock = NETWORK_LOCK_SKIP;
    }
    if (json_is_true(json_object_get(set, "ignore_cgroups"))) {
        opts->has_manage_cgroups_mode = true;
        opts->manage_cgroups_mode = CG_IGNORE;
        /* CRIU polls a v1 freezer in steps of 100 ms; seizing the tasks is enough. */
        free(opts->freeze_cgroup);
        opts->freeze_cgroup = NULL;
    }
    json_int_t ghost = json_integer_value(json_object_get(set, "ghost_limit"));
    if (ghost > 0) {
        opts->has_ghost_limit = true;
        opts->ghost_limit = (uint32_t)ghost;
    }
    if (json_is_true(json_object_get(set, "lazy_pages"))) {
        opts->has_lazy_pages = true;
        opts->lazy_pages = true;
    }
    if (json_is_true(json_object_get(set, "tcp_close"))) {
        opts->has_tcp_close = true;
        opts->tcp_close = true;
    }
    if (json_is_true(json_object_get(set, "skip_in_flight"))) {
        opts->has_tcp_skip_in_flight = true;
        opts->tcp_skip_in_flight = true;
    }
    add_mounts(opts, json_object_get(set, "mounts"));
}

/* The inode number of a network namespace that is made and kept by somebody else,
 * "net[4026532552]:…"; NULL: there is none. The caller frees it. */
static char *external_net(const FmRpc__Options *opts)
{
    for (size_t i = 0; i < opts->n_external; i++)
        if (fm_starts_with(opts->external[i], "net["))
            return fm_xstrndup(opts->external[i] + 4, strspn(opts->external[i] + 4, "0123456789"));
    return NULL;
}

/* What CRIU is executed with. */
static bool prepare_criu(const struct interposer *ip, const FmRpc__Options *opts, const json_t *set,
                         int hold_fd)
{
    fm_autofree char *net = ip->dump ? external_net(opts) : NULL;
    struct fm_preload preload = {.dump = ip->dump, .external_net = net, .hold_fd = hold_fd};
    if (ip->dump)
        preload.filter_dir = json_string_value(json_object_get(set, "filter_dir"));
    else
        preload.lazy = json_is_true(json_object_get(set, "lazy_pages"));
    return fm_preload(&preload);
}

/* A pair of connected sockets; the second one stays open in CRIU. */
static int make_pair(int *ours, int *theirs)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -1;
    *ours = pair[0];
    *theirs = dup(pair[1]); /* without close-on-exec */
    close(pair[1]);
    return *theirs < 0 ? -1 : 0;
}

/* Starts the real CRIU only now, after the runtime has put this process into the container's
 * cgroup. */
static pid_t start_criu(struct interposer *ip, const FmRpc__Options *opts, const json_t *set)
{
    int fd = -1, hold_fd = -1;
    if (make_pair(&ip->criu_fd, &fd) < 0 ||
        (json_is_true(json_object_get(set, "hold")) && make_pair(&ip->hold_fd, &hold_fd) < 0) ||
        !prepare_criu(ip, opts, set, hold_fd))
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        fm_autofree char *number = fm_strf("%d", fd);
        close(ip->runtime_fd);
        become_criu((char *[]){"criu", "swrk", number, NULL});
    }
    close(fd);
    if (hold_fd >= 0)
        close(hold_fd);
    ip->criu_pidfd = pid < 0 ? -1 : pidfd_open(pid, 0);
    return pid;
}

static int send_request(struct interposer *ip, const FmRpc__Request *request)
{
    size_t len = fm_rpc__request__get_packed_size(request);
    fm_autofree uint8_t *buf = fm_xmalloc(len + 1);
    fm_rpc__request__pack(request, buf);
    return send(ip->criu_fd, buf, len, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* Reads what the runtime has answered so far; false when it refuses. */
static bool runtime_agreed(struct interposer *ip)
{
    fm_autofree uint8_t *buf = fm_xmalloc(MAX_MESSAGE);
    bool ok = true;
    for (; ip->unread > 0; ip->unread--) {
        ssize_t n = receive(ip->runtime_fd, buf, 0);
        FmRpc__Request *reply = n > 0 ? fm_rpc__request__unpack(NULL, (size_t)n, buf) : NULL;
        ok = ok && reply && reply->has_notify_success && reply->notify_success;
        if (reply)
            fm_rpc__request__free_unpacked(reply, NULL);
        if (n <= 0)
            return false;
    }
    return ok;
}

static bool tell_runtime(struct interposer *ip, const uint8_t *message, size_t len)
{
    if (send(ip->runtime_fd, message, len, MSG_NOSIGNAL) < 0)
        return false;
    ip->unread++;
    return true;
}

/* When the runtime hears of a notification, and when its reaction must be over. */
enum manner {
    ASIDE,  /* it does nothing, or nothing that CRIU's next steps need: its answer is read later */
    BESIDE, /* it works while the daemon decides, and is waited for */
    BEHIND, /* only after the daemon has agreed, and is waited for */
};

/* What runc does: hooks of the configuration at setup-namespaces; its record of the container at
 * post-restore, which goes again when the restore is undone; its record of the checkpoint at
 * post-dump. */
static enum manner manner_of(const struct interposer *ip, const char *script)
{
    static const char *const aside[] = {
        "network-lock",   "query-ext-files", "pre-restore", "post-setup-namespaces",
        "network-unlock", "pre-resume",      "post-resume"};
    for (size_t i = 0; i < sizeof(aside) / sizeof(*aside); i++)
        if (strcmp(script, aside[i]) == 0)
            return ASIDE;
    if (strcmp(script, "setup-namespaces") == 0 && !ip->runtime_hooks)
        return ASIDE;
    return strcmp(script, "post-restore") == 0 ? BESIDE : BEHIND;
}

static bool is_wanted(const struct interposer *ip, const char *script)
{
    size_t i;
    json_t *item;
    json_array_foreach(ip->events, i, item)
    {
        if (strcmp(json_string_value(item), script) == 0)
            return true;
    }
    return ip->events == NULL;
}

/* What the daemon need not hear of goes on as long as it and the runtime are there. */
static bool is_watched(const struct interposer *ip)
{
    struct pollfd fds[2] = {{.fd = ip->daemon_fd, .events = POLLRDHUP},
                            {.fd = ip->released ? -1 : ip->runtime_fd, .events = POLLRDHUP}};
    return !ip->refused && poll(fds, 2, 0) == 0;
}

static bool daemon_agrees(struct interposer *ip, const char *script)
{
    if (!is_wanted(ip, script))
        return is_watched(ip);
    json_auto_t *event = json_pack("{s:s}", "event", script);
    json_auto_t *answer = ask_daemon(ip, event);
    return answer != NULL;
}

/* False when the daemon or the runtime says no. */
static bool settle_notification(struct interposer *ip, const char *script, const uint8_t *message,
                                size_t len)
{
    enum manner manner = manner_of(ip, script);
    bool told = manner == BEHIND || tell_runtime(ip, message, len);
    bool go = daemon_agrees(ip, script);
    if (manner == BEHIND)
        told = go && tell_runtime(ip, message, len);
    bool agreed = told && (manner == ASIDE || runtime_agreed(ip));
    /* Behind post-restore CRIU cannot go back, and the daemon still has to switch the network. */
    return go && (agreed || ip->released);
}

static int handle_notification(struct interposer *ip, const FmRpc__Response *response,
                               const uint8_t *message, size_t len)
{
    const char *script =
        response->notify && response->notify->script ? response->notify->script : "other";
    bool go = settle_notification(ip, script, message, len);
    ip->refused = ip->refused || !go;
    ip->released = ip->released || (go && strcmp(script, "post-restore") == 0);
    FmRpc__Request reply = FM_RPC__REQUEST__INIT;
    reply.type = FM_RPC__REQUEST_TYPE__NOTIFY;
    reply.has_notify_success = true;
    reply.notify_success = go;
    return send_request(ip, &reply);
}

static int handle_result(struct interposer *ip, const FmRpc__Response *response,
                         const uint8_t *message, size_t len)
{
    json_auto_t *event =
        json_pack("{s:s, s:b, s:i, s:s}", "event", "result", "success", (int)response->success,
                  "pid", response->restore ? response->restore->pid : 0, "message",
                  response->cr_errmsg ? response->cr_errmsg : "");
    fm_autofree char *text = json_dumps(event, JSON_COMPACT);
    if (text)
        send(ip->daemon_fd, text, strlen(text), MSG_NOSIGNAL);
    runtime_agreed(ip); /* it reads in the order in which it answers */
    send(ip->runtime_fd, message, len, MSG_NOSIGNAL);
    return response->success ? 0 : 1;
}

/* What CRIU forked, such as tasks of an unfinished restore, may hold its end of the socket open:
 * the end of the process counts. */
static ssize_t receive_from_criu(struct interposer *ip, uint8_t *buf)
{
    struct pollfd fds[2] = {{.fd = ip->criu_fd, .events = POLLIN},
                            {.fd = ip->criu_pidfd, .events = POLLIN}};
    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        continue;
    return fds[0].revents & POLLIN ? receive(ip->criu_fd, buf, 0) : 0;
}

/* Passes CRIU's messages on until its result. */
static int relay(struct interposer *ip)
{
    fm_autofree uint8_t *buf = fm_xmalloc(MAX_MESSAGE);
    for (;;) {
        ssize_t n = receive_from_criu(ip, buf);
        if (n <= 0)
            return 1; /* CRIU died; the runtime sees our end */
        FmRpc__Response *response = fm_rpc__response__unpack(NULL, (size_t)n, buf);
        if (!response)
            return 1;
        bool last = response->type != FM_RPC__REQUEST_TYPE__NOTIFY;
        int rc = last ? handle_result(ip, response, buf, (size_t)n)
                      : handle_notification(ip, response, buf, (size_t)n);
        fm_rpc__response__free_unpacked(response, NULL);
        if (last || rc < 0)
            return rc;
    }
}

/* Refuses a request in CRIU's own words, so that the runtime fails as with CRIU. */
static int refuse(struct interposer *ip, int type)
{
    FmRpc__Response response = FM_RPC__RESPONSE__INIT;
    response.type = type;
    response.success = false;
    response.cr_errmsg = "refused by the FlexiMigrate daemon";
    uint8_t buf[256];
    size_t len = fm_rpc__response__pack(&response, buf);
    send(ip->runtime_fd, buf, len, MSG_NOSIGNAL);
    return 1;
}

/* CRIU has started up and waits; so does this until the daemon says that the images are there. What
 * else CRIU says, or its end, is left to the relay. */
static void release_held(struct interposer *ip)
{
    struct pollfd fds[3] = {{.fd = ip->hold_fd, .events = POLLIN},
                            {.fd = ip->criu_fd, .events = POLLIN},
                            {.fd = ip->criu_pidfd, .events = POLLIN}};
    char byte = 'g';
    while (poll(fds, 3, -1) < 0 && errno == EINTR)
        continue;
    if ((fds[0].revents & POLLIN) && recv(ip->hold_fd, &byte, 1, 0) == 1) {
        json_auto_t *event = json_pack("{s:s}", "event", "held");
        json_auto_t *answer = ask_daemon(ip, event);
        ip->refused = ip->refused || !answer;
        if (answer)
            send(ip->hold_fd, &byte, 1, MSG_NOSIGNAL);
    }
    close(ip->hold_fd); /* the end of a CRIU that was not let go */
    ip->hold_fd = -1;
}

static int interpose(struct interposer *ip, FmRpc__Request *request, int images_fd)
{
    FmRpc__Options *opts = request->opts;
    json_auto_t *event = json_pack("{s:s, s:b, s:i}", "event", "request", "dump", (int)ip->dump,
                                   "pid", opts->has_pid ? opts->pid : 0);
    json_auto_t *answer = ask_daemon(ip, event);
    if (!answer || fm_fault("interposer.request"))
        return refuse(ip, request->type);
    opts->images_dir_fd = images_fd;
    if (opts->has_work_dir_fd)
        opts->work_dir_fd = adopt_directory(ip->runtime_fd, opts->work_dir_fd);
    const json_t *set = json_object_get(answer, "set");
    ip->events = json_object_get(set, "events");
    ip->runtime_hooks = json_is_true(json_object_get(set, "runtime_hooks"));
    change_request(opts, set);
    fm_autoclose int hooks = fm_breakpoints_prepare(); /* until CRIU has ended */
    (void)hooks;
    pid_t pid = start_criu(ip, opts, set);
    int rc = pid < 0 ? -1 : send_request(ip, request);
    if (rc < 0)
        return refuse(ip, request->type);
    if (ip->hold_fd >= 0)
        release_held(ip);
    return relay(ip);
}

/* The runtime's request, left in the socket; NULL when it is none that a daemon would care for. */
static FmRpc__Request *peek_request(int fd, uint8_t *buf)
{
    ssize_t n = receive(fd, buf, MSG_PEEK);
    FmRpc__Request *request = n > 0 ? fm_rpc__request__unpack(NULL, (size_t)n, buf) : NULL;
    if (request && request->opts &&
        (request->type == FM_RPC__REQUEST_TYPE__DUMP ||
         request->type == FM_RPC__REQUEST_TYPE__RESTORE))
        return request;
    if (request)
        fm_rpc__request__free_unpacked(request, NULL);
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], FM_SELFTEST_COMMAND) == 0)
        return fm_selftest(real_criu(), argv[2]);
    if (argc != 3 || strcmp(argv[1], "swrk") != 0)
        become_criu(argv);
    struct interposer ip = {.runtime_fd = atoi(argv[2]),
                            .daemon_fd = -1,
                            .criu_fd = -1,
                            .criu_pidfd = -1,
                            .hold_fd = -1};
    fm_autofree uint8_t *buf = fm_xmalloc(MAX_MESSAGE);
    FmRpc__Request *request = peek_request(ip.runtime_fd, buf);
    int images_fd = request ? adopt_directory(ip.runtime_fd, request->opts->images_dir_fd) : -1;
    if (images_fd >= 0)
        ip.daemon_fd = find_daemon(images_fd);
    int rc = 1;
    if (request) {
        receive(ip.runtime_fd, buf, 0); /* what was only looked at */
        ip.dump = request->type == FM_RPC__REQUEST_TYPE__DUMP;
        /* With nobody to hold it, a dump would end its container and a restore would run. */
        rc = ip.daemon_fd >= 0 ? interpose(&ip, request, images_fd) : refuse(&ip, request->type);
        fm_rpc__request__free_unpacked(request, NULL);
    } else {
        become_criu(argv); /* what is left open closes at the exec */
    }
    return rc == 0 ? 0 : 1;
}
