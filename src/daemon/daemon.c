#include "daemon/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/signalfd.h>

#include "api/server.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "daemon/followers.h"
#include "daemon/notify.h"
#include "migration/manager.h"

static const char *or_null(const char *text)
{
    return text[0] ? text : NULL;
}

static struct fm_manager *open_manager(const struct fm_config *config,
                                       const struct fm_followers *followers, struct fm_error *err)
{
    struct fm_manager_config manager = {
        .host = config->host,
        .state_dir = config->state_dir,
        .run_dir = config->run_dir,
        .pki_ca = config->pki.ca,
        .pki_cert = config->pki.cert,
        .pki_key = config->pki.key,
        .wire_address = config->listen.wire_address,
        .wire_port = (int)config->listen.wire_port,
        .api_port = (int)config->listen.api_port,
        .advertise = or_null(config->advertise),
        .max_concurrent = (int)config->limits.max_concurrent,
        .memory_reserve = config->limits.memory_reserve,
        .runc = config->container.runc,
        .runc_root = config->container.runc_root,
        .interposer_dir = config->container.interposer_dir,
        .shim = config->container.shim,
        .pager = config->container.pager,
        .cgroup_parent = config->container.cgroup_parent,
        .criu = config->container.criu,
        .bridge = config->network.bridge,
        .vxlan = config->network.vxlan,
        .subnet = config->network.subnet,
        .gateway = or_null(config->network.gateway),
        .vni = config->network.vni,
        .vxlan_port = (uint16_t)config->network.port,
        .mtu = (int)config->network.mtu,
        .fabric_peers = (const char *const *)config->network.peers.items,
        .relay_limit_us = config->network.relay_minutes * UINT64_C(60000000),
        .followers = followers->items,
        .follower_count = followers->count,
    };

    return fm_manager_open(&manager, err);
}

static struct fm_api_server *start_api(const struct fm_config *config, struct fm_manager *manager,
                                       struct fm_error *err)
{
    fm_autofree char *socket = fm_strf("%s/fleximigrated.sock", config->run_dir);
    struct fm_api_config api = {
        .host = config->host,
        .address = config->listen.api_port ? config->listen.api_address : NULL,
        .port = (int)config->listen.api_port,
        .ca = config->pki.ca,
        .cert = config->pki.cert,
        .key = config->pki.key,
        .socket_path = socket,
        .uids = config->api.uids,
        .uid_count = config->api.uid_count,
    };

    return fm_api_start(&api, manager, err);
}

/* The descriptor that stays locked as long as this daemon lives. */
static int lock_state(const char *dir, struct fm_error *err)
{
    fm_autofree char *path = fm_strf("%s/lock", dir);
    fm_autoclose int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0)
        return fm_error_errno(err, errno, "cannot open %s", path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return fm_error_set(err, FM_E_EXISTS, "another fleximigrated uses the state directory %s",
                            dir);
    return FM_MOVE_FD(fd);
}

/* SIGTERM and SIGINT become readable; SIGHUP and SIGPIPE are ignored. Threads inherit this. */
static int catch_signals(struct fm_error *err)
{
    sigset_t set;
    int fd;

    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    fd = signalfd(-1, &set, SFD_CLOEXEC);
    return fd >= 0 ? fd : fm_error_errno(err, errno, "signalfd");
}

static void on_event(const json_t *event, void *ctx)
{
    const int *wake_fd = ctx;
    const char *type = json_string_value(json_object_get(event, "type"));

    if (fm_streq(type, "transition"))
        eventfd_write(*wake_fd, 1);
}

static void show_status(struct fm_notifier *notifier, struct fm_manager *manager)
{
    int running = fm_manager_running(manager);

    fm_notifier_send(notifier, "STATUS=%d migration%s running", running, running == 1 ? "" : "s");
}

/* Blocks until a signal; keeps systemd's status line current. */
static int wait_for_signal(int signal_fd, int wake_fd, struct fm_notifier *notifier,
                           struct fm_manager *manager)
{
    struct pollfd fds[] = {
        {.fd = signal_fd, .events = POLLIN},
        {.fd = wake_fd, .events = POLLIN},
    };
    struct signalfd_siginfo info = {0};
    eventfd_t ignored;

    for (;;) {
        show_status(notifier, manager);
        if (poll(fds, FM_COUNT(fds), -1) < 0 && errno != EINTR)
            return 0;
        if (fds[0].revents && read(signal_fd, &info, sizeof(info)) == sizeof(info))
            return (int)info.ssi_signo;
        if (fds[1].revents)
            eventfd_read(wake_fd, &ignored);
    }
}

static int serve(const struct fm_config *config, int signal_fd, struct fm_manager *manager,
                 struct fm_notifier *notifier, struct fm_error *err)
{
    fm_autoclose int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct fm_api_server *api = start_api(config, manager, err);
    int subscription, signo;

    if (!api)
        return -(int)err->code;
    subscription = fm_manager_subscribe(manager, on_event, &wake_fd);
    fm_notifier_send(notifier, "READY=1");
    fm_info(FM_MIGRATION_MANAGER, "fleximigrated %s is ready on host %s.", FM_VERSION,
            config->host);
    signo = wait_for_signal(signal_fd, wake_fd, notifier, manager);

    fm_info(FM_MIGRATION_MANAGER, "Stopping on signal %s.", sigabbrev_np(signo));
    fm_notifier_send(notifier, "STOPPING=1\nSTATUS=stopping");
    if (subscription >= 0)
        fm_manager_unsubscribe(manager, subscription);
    fm_api_stop(api);
    return 0;
}

int fm_daemon_run(const struct fm_config *config, struct fm_error *err)
{
    fm_cleanup(fm_followers_close) struct fm_followers followers = {0};
    struct fm_notifier notifier;
    fm_autoclose int signal_fd = catch_signals(err);
    fm_autoclose int lock_fd = -1;
    struct fm_manager *manager;
    int ret;

    if (signal_fd < 0 || fm_mkdir_p(config->state_dir, 0700, err) < 0 ||
        fm_mkdir_p(config->run_dir, 0711, err) < 0)
        return -(int)err->code;
    lock_fd = lock_state(config->state_dir, err);
    if (lock_fd < 0)
        return lock_fd;

    ret = fm_followers_open(config->network.followers, &followers, err);
    if (ret < 0)
        return ret;
    fm_notifier_open(&notifier);
    manager = open_manager(config, &followers, err);
    ret = manager ? serve(config, signal_fd, manager, &notifier, err) : -(int)err->code;
    fm_manager_close(manager);
    fm_notifier_close(&notifier);
    if (ret == 0)
        fm_info(FM_MIGRATION_MANAGER, "Stopped.");
    return ret;
}
