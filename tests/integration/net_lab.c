#include "net_lab.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "network/netns.h"

#define LAB_DIR "/mnt" /* a private tmpfs is mounted over it */

_Noreturn static void die(const char *what)
{
    fprintf(stderr, "net_lab: %s: %s\n", what, strerror(errno));
    exit(1);
}

void lab_sleep_ms(unsigned ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&t, &t) < 0 && errno == EINTR)
        ;
}

char *lab_sh(const char *netns, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fm_autofree char *command = fm_vstrf(fmt, ap);
    va_end(ap);
    fm_autofree char *enter = fm_strf("--net=%s", netns);
    const char *argv[] = {"nsenter", enter, "sh", "-ec", command, NULL};
    struct fm_subprocess_options options = {
        .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
    struct fm_error err = {0};
    char *out = NULL;
    if (fm_subprocess_check(&options, &out, &err) < 0) {
        fprintf(stderr, "net_lab: %s: %s\n", command, err.text);
        exit(1);
    }
    return out;
}

static void sh(const char *netns, const char *command)
{
    fm_autofree char *out = lab_sh(netns, "%s", command);
    (void)out;
}

struct socket_job {
    int domain, type, fd;
};

static int make_socket(void *ctx, struct fm_error *err)
{
    struct socket_job *job = ctx;
    job->fd = socket(job->domain, job->type | SOCK_CLOEXEC, 0);
    return job->fd < 0 ? fm_error_errno(err, errno, "socket") : 0;
}

int lab_socket(const char *netns, int domain, int type)
{
    struct socket_job job = {domain, type, -1};
    struct fm_error err = {0};
    if (fm_netns_run(netns, make_socket, &job, &err) < 0) {
        fprintf(stderr, "net_lab: %s\n", err.text);
        exit(1);
    }
    return job.fd;
}

void lab_init(void)
{
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("tmpfs", LAB_DIR, "tmpfs", 0, NULL) < 0)
        die("cannot make namespaces (root is needed)");
    signal(SIGPIPE, SIG_IGN);
    sh("/proc/self/ns/net", "ip link set lo up; ip link add ul0 type bridge; ip link set ul0 up");
}

const char *lab_run_dir(const struct lab_host *host)
{
    static char dirs[8][64];
    snprintf(dirs[host->number], sizeof(dirs[0]), LAB_DIR "/run%d", host->number);
    return dirs[host->number];
}

/* ---- the daemon of a host ---- */

struct daemon {
    struct lab_host *host;
    struct fm_network network;
    void *hold;
};

static int open_fabric(struct daemon *d, const struct lab_request *q, struct fm_error *err)
{
    fm_autofree char *bridge = fm_strf("fmbr%s", q->name);
    fm_autofree char *vxlan = fm_strf("fmvx%s", q->name);
    struct fm_fabric_config config = {
        .run_dir = lab_run_dir(d->host),
        .bridge = bridge,
        .vxlan = vxlan,
        .vni = q->number,
        .port = 4789,
        .underlay = d->host->address,
        .subnet = q->ip,
        .gateway = q->host[0] ? q->host : NULL,
    };
    return fm_fabric_open(&config, &d->network, err);
}

static int put_json(struct lab_reply *r, const json_t *json, struct fm_error *err)
{
    size_t len = json_dumpb(json, r->json, sizeof(r->json) - 1, JSON_COMPACT);
    return len < sizeof(r->json) ? 0 : fm_error_set(err, FM_E_FAILED, "too much for a reply");
}

static int describe(struct daemon *d, struct lab_reply *r, struct fm_error *err)
{
    json_auto_t *description = d->network.ops->describe(d->network.ctx, err);
    return description ? put_json(r, description, err) : fm_error_result(err);
}

static int serve(struct daemon *d, const struct lab_request *q, struct lab_reply *r,
                 struct fm_error *err)
{
    const struct fm_network_ops *ops = d->network.ops;
    void *ctx = d->network.ctx;
    const char *host = q->host[0] ? q->host : NULL;
    if (q->op == LAB_OPEN)
        return open_fabric(d, q, err);
    if (!ops)
        return fm_error_set(err, FM_E_FAILED, "no fabric is open");
    if (q->op != LAB_CLOSE && q->op != LAB_PEER && q->name[0]) {
        struct fm_endpoint_request request = {.network = q->network[0] ? q->network : NULL,
                                              .name = q->name,
                                              .ip = q->ip,
                                              .ip6 = q->ip6[0] ? q->ip6 : NULL};
        int rc = ops->endpoint(ctx, &request, &r->ep, err);
        if (rc < 0)
            return rc;
    }
    uint64_t started = fm_now_us();
    int rc = 0;
    switch (q->op) {
    case LAB_CLOSE:
        fm_fabric_close(&d->network, q->flag);
        break;
    case LAB_STAGE:
        rc = ops->stage(ctx, &r->ep, q->flag, err);
        break;
    case LAB_UNSTAGE:
        rc = ops->unstage(ctx, &r->ep, err);
        break;
    case LAB_ACTIVATE:
        rc = ops->activate(ctx, &r->ep, err);
        break;
    case LAB_DEACTIVATE:
        rc = ops->deactivate(ctx, &r->ep, err);
        break;
    case LAB_SET_REMOTE:
        rc = ops->set_remote(ctx, r->ep.network, r->ep.mac, host, err);
        break;
    case LAB_PEER:
        rc = ops->peer(ctx, q->host, q->flag, err);
        break;
    case LAB_HOLD_PREPARE: {
        struct fm_hold_limits limits = {.max_frames = q->number};
        rc = ops->hold_prepare(ctx, &r->ep, &limits, &d->hold, err);
        break;
    }
    case LAB_HOLD_ENGAGE:
        rc = ops->hold_engage(ctx, d->hold, err);
        break;
    case LAB_HOLD_RELEASE:
        rc = ops->hold_release_local(ctx, d->hold, err);
        break;
    case LAB_HOLD_FORWARD:
        rc = ops->hold_forward(ctx, d->hold, host, err);
        break;
    case LAB_HOLD_END:
        ops->hold_end(ctx, d->hold, &r->counters);
        d->hold = NULL;
        break;
    case LAB_INSPECT:
        rc = ops->inspect(ctx, (pid_t)q->number, &r->ep, &r->found, &r->host, err);
        break;
    case LAB_DEFINE:
        rc = ops->define(ctx, &q->spec, err);
        break;
    case LAB_UNDEFINE:
        rc = ops->undefine(ctx, q->network, err);
        break;
    case LAB_DESCRIBE:
        rc = describe(d, r, err);
        break;
    case LAB_NEIGHBOURS: {
        json_auto_t *list = NULL;
        rc = ops->neighbours(ctx, &r->ep, &list, err);
        if (rc == 0)
            rc = put_json(r, list, err);
        break;
    }
    case LAB_SET_NEIGHBOURS: {
        json_auto_t *list = json_loads(q->json, 0, NULL);
        rc = ops->set_neighbours(ctx, &r->ep, list, err);
        break;
    }
    default:
        break;
    }
    r->us = fm_now_us() - started;
    return rc;
}

static void daemon_main(struct lab_host *host, int control)
{
    struct daemon d = {.host = host};
    struct lab_request q;
    while (recv(control, &q, sizeof(q), 0) == (ssize_t)sizeof(q)) {
        struct lab_reply r = {0};
        struct fm_error err = {0};
        r.rc = serve(&d, &q, &r, &err);
        snprintf(r.text, sizeof(r.text), "%s", err.text);
        send(control, &r, sizeof(r), 0);
    }
    _exit(0);
}

static void start_daemon(struct lab_host *host)
{
    int pair[2];
    int ready[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ||
        pipe2(ready, O_CLOEXEC) < 0)
        die("socketpair");
    host->pid = fork();
    if (host->pid < 0)
        die("fork");
    if (host->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(pair[0]);
        int rc = host->netns_fd >= 0 ? setns(host->netns_fd, CLONE_NEWNET) : unshare(CLONE_NEWNET);
        if (rc < 0 || write(ready[1], "!", 1) != 1)
            die("cannot make a host's namespace");
        daemon_main(host, pair[1]);
    }
    close(pair[1]);
    close(ready[1]);
    host->control = pair[0];
    char byte;
    if (read(ready[0], &byte, 1) != 1)
        die("a host did not start");
    close(ready[0]);
}

void lab_host_start(struct lab_host *host, int number)
{
    *host = (struct lab_host){.number = number, .netns_fd = -1};
    snprintf(host->address, sizeof(host->address), "192.0.2.%d", number);
    start_daemon(host);
    fm_autofree char *path = fm_strf("/proc/%d/ns/net", (int)host->pid);
    host->netns_fd = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(host->netns, sizeof(host->netns), "/proc/%d/fd/%d", (int)getpid(), host->netns_fd);
    fm_autofree char *wire = fm_strf("ip link del u%d 2>/dev/null || true; ip link add u%d type "
                                     "veth peer name u netns %d; ip link set u%d master ul0 up",
                                     number, number, (int)host->pid, number);
    sh("/proc/self/ns/net", wire);
    fm_autofree char *address =
        fm_strf("ip link set lo up; ip addr add %s/24 dev u; ip link set u up", host->address);
    sh(host->netns, address);
}

void lab_host_kill(struct lab_host *host)
{
    kill(host->pid, SIGKILL);
    waitpid(host->pid, NULL, 0);
    close(host->control);
}

void lab_host_restart(struct lab_host *host)
{
    start_daemon(host);
}

void lab_host_stop(struct lab_host *host)
{
    lab_host_kill(host);
    fm_autofree char *unwire = fm_strf("ip link del u%d", host->number);
    sh("/proc/self/ns/net", unwire);
    fm_autofree char *unpin = fm_strf("cd %s/netns 2>/dev/null || exit 0; umount -l * 2>/dev/null "
                                      "|| true; rm -f *",
                                      lab_run_dir(host));
    sh("/proc/self/ns/net", unpin);
    close(host->netns_fd);
}

struct lab_reply lab_try(struct lab_host *host, struct lab_request request)
{
    struct lab_reply reply;
    if (send(host->control, &request, sizeof(request), 0) < 0 ||
        recv(host->control, &reply, sizeof(reply), 0) != (ssize_t)sizeof(reply))
        die("a host does not answer");
    return reply;
}

struct lab_reply lab_call(struct lab_host *host, struct lab_request request)
{
    struct lab_reply reply = lab_try(host, request);
    if (reply.rc < 0) {
        fprintf(stderr, "net_lab: host %d, call %d: %s\n", host->number, (int)request.op,
                reply.text);
        exit(1);
    }
    return reply;
}
