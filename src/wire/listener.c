#include "wire/connection.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"
#include "wire/socket.h"

#define MAX_SERVED 256u
#define RETRY_MS 100 /* when there are no descriptors or threads to be had */

struct fm_listener {
    int fd;
    int stop; /* eventfd */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    unsigned int served; /* calls of `serve` that run, under `lock` */
    void (*serve)(int fd, void *ctx);
    void *ctx;
};

struct call {
    struct fm_listener *listener;
    int fd;
};

static void end_call(struct fm_listener *l)
{
    pthread_mutex_lock(&l->lock);
    if (--l->served == 0)
        pthread_cond_broadcast(&l->idle);
    pthread_mutex_unlock(&l->lock);
}

static void *run_call(void *arg)
{
    fm_autofree struct call *call = arg;

    call->listener->serve(call->fd, call->listener->ctx);
    end_call(call->listener);
    return NULL;
}

/* All signals are for the main thread. */
static int start_thread(pthread_t *thread, void *(*run)(void *), void *arg)
{
    sigset_t all, old;
    int ret;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    ret = pthread_create(thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return ret;
}

static bool begin_call(struct fm_listener *l)
{
    bool room;

    pthread_mutex_lock(&l->lock);
    room = l->served < MAX_SERVED;
    if (room)
        l->served++;
    pthread_mutex_unlock(&l->lock);
    return room;
}

/* Takes the descriptor over. */
static void serve_in_thread(struct fm_listener *l, int fd)
{
    struct call *call = fm_xmalloc(sizeof(*call));
    pthread_t thread;

    *call = (struct call){.listener = l, .fd = fd};
    if (!begin_call(l)) {
        fm_warn(FM_MIGRATION_MANAGER, "Turned a connection away: %u are open.", MAX_SERVED);
    } else if (start_thread(&thread, run_call, call) != 0) {
        end_call(l);
        fm_warn(FM_MIGRATION_MANAGER, "Turned a connection away: no thread for it.");
    } else {
        pthread_detach(thread);
        return;
    }
    close(fd);
    free(call);
}

static void *accept_all(void *arg)
{
    struct fm_listener *l = arg;
    struct pollfd p[2] = {{.fd = l->stop, .events = POLLIN}, {.fd = l->fd, .events = POLLIN}};

    for (;;) {
        int fd;

        if (poll(p, 2, -1) < 0)
            continue;
        if (p[0].revents)
            return NULL;
        fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            serve_in_thread(l, fd);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
            (void)poll(p, 1, RETRY_MS);
    }
}

static void free_listener(struct fm_listener *l)
{
    fm_cleanup_close(&l->fd);
    fm_cleanup_close(&l->stop);
    pthread_cond_destroy(&l->idle);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

struct fm_listener *fm_listener_start(const char *address, int port,
                                      void (*serve)(int fd, void *ctx), void *ctx,
                                      struct fm_error *err)
{
    struct fm_listener *l = fm_xcalloc(1, sizeof(*l));
    int ret;

    l->serve = serve;
    l->ctx = ctx;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->idle, NULL);
    l->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->fd = fm_socket_listen(address, port, err);
    ret = l->fd < 0 ? -1 : 0;
    if (ret == 0 && l->stop < 0)
        ret = fm_error_errno(err, errno, "cannot make an eventfd");
    if (ret == 0 && start_thread(&l->thread, accept_all, l) != 0)
        ret = fm_error_set(err, FM_E_FAILED, "cannot start a thread to accept connections");
    if (ret < 0) {
        free_listener(l);
        return NULL;
    }
    return l;
}

int fm_listener_port(const struct fm_listener *l)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address);

    if (getsockname(l->fd, (struct sockaddr *)&address, &len) < 0)
        return 0;
    if (address.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
    return ntohs(((struct sockaddr_in *)&address)->sin_port);
}

void fm_listener_stop(struct fm_listener *l)
{
    if (!l)
        return;
    (void)eventfd_write(l->stop, 1);
    pthread_join(l->thread, NULL);
    pthread_mutex_lock(&l->lock);
    while (l->served > 0)
        pthread_cond_wait(&l->idle, &l->lock);
    pthread_mutex_unlock(&l->lock);
    free_listener(l);
}
