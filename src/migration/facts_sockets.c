#include "migration/facts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"

/* ---- a socket of another network namespace ---- */

struct visit {
    pid_t pid;
    int fd;
};

/* Entering a namespace changes the thread that does it, so a thread of its own does, and ends. */
static void *open_diag_there(void *arg)
{
    struct visit *visit = arg;
    fm_autofree char *path = fm_strf("/proc/%d/ns/net", visit->pid);
    fm_autoclose int ns = open(path, O_RDONLY | O_CLOEXEC);

    if (ns >= 0 && setns(ns, CLONE_NEWNET) == 0)
        visit->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    return NULL;
}

static int open_diag(pid_t pid)
{
    struct visit visit = {.pid = pid, .fd = -1};
    pthread_t thread;

    if (pthread_create(&thread, NULL, open_diag_there, &visit) != 0)
        return -1;
    pthread_join(thread, NULL);
    return visit.fd;
}

/* ---- Unix sockets: sock_diag(7), unix_diag ---- */

static int ask_for_unix_sockets(int fd)
{
    struct {
        struct nlmsghdr header;
        struct unix_diag_req body;
    } request = {
        .header = {.nlmsg_len = sizeof(request),
                   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .body = {.sdiag_family = AF_UNIX,
                 .udiag_states = UINT32_MAX,
                 .udiag_show = UDIAG_SHOW_PEER},
    };

    return send(fd, &request, sizeof(request), 0) == (ssize_t)sizeof(request) ? 0 : -errno;
}

/* The inode of the peer, 0 without one. */
static uint32_t peer_of(const struct nlmsghdr *message)
{
    const struct unix_diag_msg *body = NLMSG_DATA(message);
    const struct rtattr *at = (const struct rtattr *)(body + 1);
    int left = (int)NLMSG_PAYLOAD(message, sizeof(*body));
    uint32_t peer = 0;

    for (; RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        if (at->rta_type == UNIX_DIAG_PEER && RTA_PAYLOAD(at) >= sizeof(peer))
            memcpy(&peer, RTA_DATA(at), sizeof(peer));
    }
    return peer;
}

static bool holds(const json_t *set, uint32_t inode)
{
    char key[16];

    snprintf(key, sizeof(key), "%" PRIu32, inode);
    return json_object_get(set, key) != NULL;
}

static void check_unix_socket(struct fm_survey *survey, const struct nlmsghdr *message)
{
    const struct unix_diag_msg *body = NLMSG_DATA(message);
    uint32_t peer;

    if (message->nlmsg_len < NLMSG_LENGTH(sizeof(*body)) ||
        !holds(survey->unix_sockets, body->udiag_ino))
        return;
    peer = peer_of(message);
    if (peer == 0 || holds(survey->unix_sockets, peer))
        return;
    fm_survey_obstacle(survey, "external-socket", FM_STOPS,
                       "end the connection, or run the container without the socket it goes to "
                       "(a mounted docker.sock, /dev/log, …)",
                       "the container has a Unix socket connected to a process outside of it "
                       "(socket %" PRIu32 ")",
                       body->udiag_ino);
}

/* Returns false after the last message. */
static bool read_unix_sockets(struct fm_survey *survey, int fd)
{
    char buffer[32768] __attribute__((aligned(NLMSG_ALIGNTO)));
    ssize_t received = recv(fd, buffer, sizeof(buffer), 0);
    int left = (int)received;

    if (received <= 0)
        return received < 0 && errno == EINTR;
    for (const struct nlmsghdr *at = (const void *)buffer; NLMSG_OK(at, (unsigned int)left);
         at = NLMSG_NEXT(at, left)) {
        if (at->nlmsg_type == NLMSG_DONE || at->nlmsg_type == NLMSG_ERROR)
            return false;
        if (at->nlmsg_type == SOCK_DIAG_BY_FAMILY)
            check_unix_socket(survey, at);
    }
    return true;
}

static void check_unix_sockets(struct fm_survey *survey)
{
    fm_autoclose int fd = -1;

    if (json_object_size(survey->unix_sockets) == 0)
        return;
    fd = open_diag(survey->root);
    if (fd < 0 || ask_for_unix_sockets(fd) < 0)
        return;
    while (read_unix_sockets(survey, fd))
        ;
}

/* ---- netlink ---- */

/* /proc/net/netlink: sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode */
static void check_netlink_sockets(struct fm_survey *survey)
{
    fm_autofree char *path = fm_strf("/proc/%d/net/netlink", survey->root);
    fm_autofclose FILE *f = NULL;
    fm_autofree char *line = NULL;
    size_t size = 0;

    if (json_object_size(survey->netlink_sockets) == 0)
        return;
    f = fopen(path, "re");
    while (f && getline(&line, &size, f) > 0) {
        unsigned int waiting;
        uint32_t inode;

        if (sscanf(line, "%*s %*s %*s %*s %u %*s %*s %*s %*s %" SCNu32, &waiting, &inode) != 2 ||
            waiting == 0 || !holds(survey->netlink_sockets, inode))
            continue;
        fm_survey_obstacle(
            survey, "netlink-data", FM_MAY_STOP, "try again when the program has read them",
            "a netlink socket (%" PRIu32 ") holds unread messages, which CRIU cannot dump", inode);
    }
}

void fm_survey_sockets(struct fm_survey *survey)
{
    check_unix_sockets(survey);
    check_netlink_sockets(survey);
}
