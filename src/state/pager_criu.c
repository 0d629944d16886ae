#include "state/pager_worker.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"

/* As criu/uffd.c of CRIU 4.2 speaks: a stream of 32-bit numbers, each either the pid of a task in
 * its own pid namespace, followed by a byte that carries its userfaultfd, or a negative pid (a
 * zombie: it has no memory), or this: all tasks are restored and about to run. The init's byte
 * carries the container's deposit as well (criu/restore_aid.c). */
#define ALL_RESTORED 0x52535446

/* What stands where the next number goes; the byte with a descriptor overwrites one byte of it. */
#define NOTHING 0x7fa5a5a5

struct piece {
    ssize_t len;
    int fd;      /* -1: none */
    int deposit; /* -1: none */
    pid_t pid;   /* of the sender, in our namespace; 0: not told */
};

static void take_ancillary(struct msghdr *header, struct piece *p)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
        struct ucred credentials;

        if (c->cmsg_level != SOL_SOCKET)
            continue;
        if (c->cmsg_type == SCM_RIGHTS && c->cmsg_len >= CMSG_LEN(sizeof(int)))
            memcpy(&p->fd, CMSG_DATA(c), sizeof(int));
        if (c->cmsg_type == SCM_RIGHTS && c->cmsg_len >= CMSG_LEN(2 * sizeof(int)))
            memcpy(&p->deposit, CMSG_DATA(c) + sizeof(int), sizeof(int));
        if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len >= CMSG_LEN(sizeof(credentials))) {
            memcpy(&credentials, CMSG_DATA(c), sizeof(credentials));
            p->pid = credentials.pid;
        }
    }
}

/* A number, into the state, or the byte that carries a descriptor: the kernel never gives out both
 * at once. (With MSG_PEEK it does.) */
static int receive(struct fm_pager_state *state, struct piece *p)
{
    union {
        char space[CMSG_SPACE(2 * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov = {.iov_base = &state->lazy_number, .iov_len = sizeof(state->lazy_number)};
    struct msghdr header = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.space,
        .msg_controllen = sizeof(control.space),
    };

    *p = (struct piece){.fd = -1, .deposit = -1};
    p->len = recvmsg(state->lazy, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (p->len < 0)
        return -errno;
    take_ancillary(&header, p);
    return 0;
}

static bool is_byte(int32_t number)
{
    const int32_t nothing = NOTHING;

    return memcmp((const char *)&number + 1, (const char *)&nothing + 1, sizeof(number) - 1) == 0;
}

bool fm_pager_criu_lost(const struct fm_pager_state *state)
{
    return state->lazy_pid > 0 && state->lazy_number != NOTHING && is_byte(state->lazy_number);
}

static void hang_up(struct fm_pager_worker *w)
{
    int fd = w->state->lazy;

    epoll_ctl(w->epoll, EPOLL_CTL_DEL, fd, NULL);
    shutdown(fd, SHUT_RDWR); /* the daemon has a duplicate */
    w->state->lazy = -1;
    w->state->lazy_pid = 0;
    w->state->lazy_number = NOTHING;
    fm_cleanup_close(&fd);
    fm_pager_link_lazy(w);
}

static void refuse(struct fm_pager_worker *w, const char *what, int number)
{
    fm_pager_say("%s %d: CRIU's restore will fail", what, number);
    hang_up(w);
}

static void take_task(struct fm_pager_worker *w, struct piece *p)
{
    int32_t inner_pid = w->state->lazy_pid;
    int pidfd = p->pid > 0 ? pidfd_open(p->pid, 0) : -1;

    fm_pager_deposit_take(w, p->deposit, p->pid);
    if (inner_pid > 0 && fm_pager_task_add(w, inner_pid, p->fd, pidfd) == 0) {
        w->state->lazy_pid = 0;
        w->state->lazy_number = NOTHING;
        fm_pager_deposit_update(w);
        fm_pager_link_announce(w);
        return;
    }
    fm_cleanup_close(&p->fd);
    fm_cleanup_close(&pidfd);
    refuse(w, "cannot take process", inner_pid);
}

static void take_number(struct fm_pager_worker *w)
{
    int32_t number = w->state->lazy_number;

    if (number == ALL_RESTORED) {
        fm_pager_resume(w);
        fm_pager_link_status(w, true);
    } else if (number > 0) {
        w->state->lazy_pid = number;
    }
    w->state->lazy_number = NOTHING;
}

void fm_pager_criu_resume(struct fm_pager_worker *w, int orphan)
{
    struct piece p = {.len = 1, .fd = orphan, .deposit = -1};

    if (orphan >= 0)
        take_task(w, &p);
    else if (w->state->lazy_number != 0 && !is_byte(w->state->lazy_number))
        take_number(w);
}

void fm_pager_criu_read(struct fm_pager_worker *w)
{
    while (w->state->lazy >= 0 && !w->lost) {
        struct piece p;
        int ret;

        w->state->lazy_number = NOTHING;
        ret = receive(w->state, &p);
        if (ret == -EAGAIN || ret == -EINTR)
            return;
        if (ret < 0 || p.len == 0)
            hang_up(w);
        else if (p.fd >= 0)
            take_task(w, &p);
        else if (p.len == sizeof(w->state->lazy_number))
            take_number(w);
        else
            refuse(w, "CRIU sent half a number:", w->state->lazy_number);
    }
}

void fm_pager_criu_accept(struct fm_pager_worker *w)
{
    int fd = accept4(w->state->lazy_listen, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    if (w->state->resumed) {
        fm_cleanup_close(&fd);
        return;
    }
    /* Another attempt: what the one before has left is dead. */
    if (w->state->lazy >= 0)
        hang_up(w);
    fm_pager_tasks_drop_all(w);
    w->restored = false;
    w->state->lazy = fd;
    fm_pager_watch(w, fd, FM_PAGER_ON_LAZY, 0);
    fm_pager_link_lazy(w);
    fm_pager_criu_read(w);
}
