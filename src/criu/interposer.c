/* fleximigrate-criu: stands between an OCI runtime and CRIU.
 *
 * Started as `criu swrk FD` it looks at the first request. If a daemon listens beside the images
 * directory, every step of the dump or restore is reported to it and waits for its word; one for
 * which nobody listens is refused. For every other command the real CRIU takes this process over.
 * When the daemon, the runtime or this program dies, the next step of CRIU fails: a dump lets the
 * tasks run on, a restore kills what it had made. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
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
#include "criu/rpc.pb-c.h"
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
    char answer[4096];
    ssize_t n = recv(ip->daemon_fd, answer, sizeof(answer), 0);
    json_t *doc = n > 0 ? json_loadb(answer, (size_t)n, 0, NULL) : NULL;
    if (json_is_true(json_object_get(doc, "go")))
        return doc;
    json_decref(doc);
    return NULL;
}

/* Applies the daemon's changes. The strings that are put in belong to `set`, which outlives the
 * request. */
static void change_request(FmRpc__Options *opts, const json_t *set)
{
    const char *root = json_string_value(json_object_get(set, "root"));
    if (root)
        opts->root = fm_xstrdup(root);
    int level = (int)json_integer_value(json_object_get(set, "log_level"));
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
        opts->freeze_cgroup = NULL;
    }
    json_int_t ghost = json_integer_value(json_object_get(set, "ghost_limit"));
    if (ghost > 0) {
        opts->has_ghost_limit = true;
        opts->ghost_limit = (uint32_t)ghost;
    }
}

/* True when the container's network namespace is made and kept by somebody else: CRIU need not look
 * into it. */
static bool has_external_netns(const FmRpc__Options *opts)
{
    for (size_t i = 0; i < opts->n_external; i++)
        if (fm_starts_with(opts->external[i], "net["))
            return true;
    return false;
}

/* The library lies beside this program; without it the dump only takes longer. */
static void preload_no_conntrack(void)
{
    char path[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (len <= 0)
        return;
    path[len] = '\0';
    fm_autofree char *library = fm_strf("%s/libfleximigrate-no-conntrack.so", dirname(path));
    if (access(library, R_OK) == 0)
        setenv("LD_PRELOAD", library, 1);
}

/* Starts the real CRIU only now, after the runtime has put this process into the container's
 * cgroup. */
static pid_t start_criu(struct interposer *ip, bool no_conntrack)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        int fd = dup(pair[1]); /* without close-on-exec */
        fm_autofree char *number = fm_strf("%d", fd);
        close(ip->runtime_fd);
        if (no_conntrack)
            preload_no_conntrack();
        become_criu((char *[]){"criu", "swrk", number, NULL});
    }
    close(pair[1]);
    ip->criu_fd = pair[0];
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

/* The runtime's own reaction to a notification (runc writes its state there). */
static bool runtime_agrees(struct interposer *ip, const uint8_t *message, size_t len)
{
    if (send(ip->runtime_fd, message, len, MSG_NOSIGNAL) < 0)
        return false;
    fm_autofree uint8_t *buf = fm_xmalloc(MAX_MESSAGE);
    ssize_t n = receive(ip->runtime_fd, buf, 0);
    if (n <= 0)
        return false;
    FmRpc__Request *reply = fm_rpc__request__unpack(NULL, (size_t)n, buf);
    bool ok = reply && reply->has_notify_success && reply->notify_success;
    if (reply)
        fm_rpc__request__free_unpacked(reply, NULL);
    return ok;
}

static int handle_notification(struct interposer *ip, const FmRpc__Response *response,
                               const uint8_t *message, size_t len)
{
    const char *script =
        response->notify && response->notify->script ? response->notify->script : "other";
    json_auto_t *event = json_pack("{s:s}", "event", script);
    json_auto_t *answer = ask_daemon(ip, event);
    bool go = answer && runtime_agrees(ip, message, len);
    /* Behind post-restore CRIU cannot go back, and the daemon still has to switch the network. */
    ip->refused = ip->refused || (ip->released ? !answer : !go);
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
    char *runtime_freezer = opts->freeze_cgroup;
    char *runtime_root = opts->root;
    change_request(opts, json_object_get(answer, "set"));
    pid_t pid = start_criu(ip, ip->dump && has_external_netns(opts));
    int rc = pid < 0 ? -1 : send_request(ip, request);
    if (opts->root != runtime_root)
        free(opts->root);
    opts->root = runtime_root;
    opts->freeze_cgroup = runtime_freezer;
    return rc < 0 ? refuse(ip, request->type) : relay(ip);
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
    if (argc != 3 || strcmp(argv[1], "swrk") != 0)
        become_criu(argv);
    struct interposer ip = {
        .runtime_fd = atoi(argv[2]), .daemon_fd = -1, .criu_fd = -1, .criu_pidfd = -1};
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
