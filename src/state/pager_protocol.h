/* Control socket of a pager (SOCK_SEQPACKET): fixed messages, some with descriptors. */
#ifndef FM_STATE_PAGER_PROTOCOL_H
#define FM_STATE_PAGER_PROTOCOL_H

#include <stddef.h>
#include <stdint.h>

#include "state/pager.h"

#define FM_PAGER_PROTOCOL 1u
#define FM_PAGER_LAZY_SOCKET "lazy-pages.socket"
#define FM_PAGER_DONE_FILE "done" /* in the store: a pager has come to its end; its figures */
#define FM_PAGER_FDS_MAX 2

enum fm_pager_kind {
    /* pager → daemon */
    FM_PAGER_READY = 1, /* it listens */
    FM_PAGER_HOLD,      /* with descriptors: keep duplicates */
    FM_PAGER_RELEASE,   /* close those of this holding, answer RELEASED */
    FM_PAGER_STATUS,
    FM_PAGER_WANT, /* a task waits for this page of the store */
    FM_PAGER_LOST, /* it cannot go on; the tasks were killed */
    /* daemon → pager */
    FM_PAGER_RELEASED = 32,
    FM_PAGER_GIVE,    /* to one that takes over: what HOLD brought */
    FM_PAGER_BEGIN,   /* that was all of them */
    FM_PAGER_ARRIVED, /* bits of a store were cleared */
    FM_PAGER_END,
    FM_PAGER_RESTORED, /* the tasks' memory is laid out */
};

/* What is held: `what` of HOLD, RELEASE, GIVE. */
enum fm_pager_holding {
    FM_PAGER_HELD_STATE,  /* the memfd */
    FM_PAGER_HELD_LISTEN, /* lazy-pages.socket */
    FM_PAGER_HELD_LAZY,   /* the connection of CRIU */
    FM_PAGER_HELD_TASK,   /* userfaultfd, and pidfd when known; `slot` */
};

struct fm_pager_message {
    uint32_t version;
    uint32_t kind;
    uint32_t what;
    uint32_t slot;
    int32_t inner_pid;
    uint32_t unused;
    uint64_t address; /* of WANT */
    uint64_t serial;  /* of the task, for what is held: a slot is used again */
    struct fm_pager_status status;
};

/* Never blocks when `flags` has MSG_DONTWAIT. 0 or negative errno. */
int fm_pager_send(int socket, const struct fm_pager_message *message, const int *fds, size_t count,
                  int flags);
/* 1: a message; fds[] that did not come are -1. 0: the other end has closed. Negative errno;
 * -EPROTO for what is no message of this version. */
int fm_pager_receive(int socket, struct fm_pager_message *message, int fds[FM_PAGER_FDS_MAX],
                     int flags);

/* Opens and binds (or connects to) a Unix socket, however long its path. `type` as for socket(2).
 * Negative errno. */
int fm_pager_listen(const char *path, int type);
int fm_pager_connect(const char *path, int type);

#endif
