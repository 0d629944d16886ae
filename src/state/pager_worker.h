/* The working process of fleximigrate-pager: one loop, no threads.
 *
 * It shares its descriptors with its keeper (pager_main.c), and what it must not forget lies in
 * pager_state.h; so it may be killed at any point, and another one goes on. */
#ifndef FM_STATE_PAGER_WORKER_H
#define FM_STATE_PAGER_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "state/pager_ranges.h"
#include "state/pager_state.h"

#define FM_PAGER_PIECE (128u << 10)     /* the most that is filled at once while nobody waits */
#define FM_PAGER_PIECE_BUSY (16u << 10) /* the same, while faults come */

#define FM_PAGER_MOVES 32u

/* How a working process ends. */
enum fm_pager_exit {
    FM_PAGER_EXIT_DONE = 0,   /* all is in place, or it was told to end */
    FM_PAGER_EXIT_ORPHAN = 1, /* the keeper has died: become one */
    FM_PAGER_EXIT_LOST = 3,   /* the tasks cannot be served any more: they must be killed */
};

/* Who is ready, in epoll's data: the source, and for a task its slot. */
enum fm_pager_source {
    FM_PAGER_ON_TASK,
    FM_PAGER_ON_LAZY_LISTEN,
    FM_PAGER_ON_LAZY,
    FM_PAGER_ON_CONTROL_LISTEN,
    FM_PAGER_ON_CONTROL,
    FM_PAGER_ON_KEEPER,
};

struct fm_pager_task {
    uint32_t number; /* of its slot */
    struct fm_pager_slot *slot;
    const struct fm_pager_slot *store;
    int file;         /* the store's pages; shared with forked ones, -1 when there is none */
    int pagemap;      /* -1: not opened yet; -2: guards cannot be told */
    uint64_t address; /* the background goes on here */
    struct fm_pager_ranges recent; /* once these are filled; sent by CRIU: none for forked ones */
    size_t recent_next;
    uint64_t wanted;                   /* the last fault */
    bool in_order;                     /* it was just behind the one before it */
    bool idle;                         /* the background has nothing to do for now */
    bool gone;                         /* its memory is no more */
    bool ending;                       /* nothing is left to be done for it */
    bool releasing;                    /* the daemon was asked to close its duplicates */
    bool kept;                         /* its userfaultfd is in the container's deposit */
    uint64_t moved[FM_PAGER_MOVES][2]; /* ranges whose unmapping mremap has still to report */
    unsigned int moves;
};

/* A fault that could not be served at once. */
struct fm_pager_fault {
    struct fm_pager_task *task;
    uint64_t address;
    uint64_t since_us;
    bool waiting; /* for a page that is not in the store yet */
};

struct fm_pager_worker {
    struct fm_pager_maps maps;
    struct fm_pager_state *state; /* of maps */
    const char *store_dir, *work_dir, *control_path;
    pid_t keeper; /* whose child it is */
    int epoll;
    struct fm_pager_task **tasks;
    size_t task_count, task_capacity;
    size_t next; /* the task whose turn it is */
    struct fm_pager_fault *faults;
    size_t fault_count, fault_capacity;
    uint64_t now_us;     /* when this turn of the loop began to look */
    uint64_t resumed_us; /* 0: before this worker */
    uint64_t last_fault_us;
    bool lingers; /* between faults: its tasks have another processor */
    uint64_t probed_us;
    unsigned int stalled;  /* turns in a row in which nothing could be done though there is work */
    unsigned char *buffer; /* FM_PAGER_PIECE */
    struct fm_pager_status sent; /* last status that the daemon was told */
    uint64_t sent_us;
    uint64_t rewritten_us; /* when the deposit was */
    bool stale;            /* something is in the deposit that must not stay there */
    bool lazy_due;         /* taking over: CRIU was connected */
    bool hurry;            /* do not wait for events: something has changed meanwhile */
    bool restored;         /* the tasks' memory is laid out, and they wait for their resume */
    bool keeper_gone, ended, lost;
};

/* Writes a line to the log. */
void fm_pager_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The tasks cannot be served any more. */
void fm_pager_lose(struct fm_pager_worker *w, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

int fm_pager_watch(struct fm_pager_worker *w, int fd, enum fm_pager_source source, uint32_t slot);
bool fm_pager_is_userfaultfd(int fd);

/* pager_tasks.c: who is being filled, and what happens to their address spaces. */
struct fm_pager_task *fm_pager_task_of(struct fm_pager_worker *w, uint32_t slot);
/* Takes a userfaultfd over from CRIU; `fd` and `pidfd` become the task's. */
int fm_pager_task_add(struct fm_pager_worker *w, int32_t inner_pid, int fd, int pidfd);
/* Takes up the tasks of a state, as a worker starts. */
int fm_pager_tasks_resume(struct fm_pager_worker *w);
/* Reads and serves what the kernel has to say about a task. */
void fm_pager_task_read(struct fm_pager_worker *w, struct fm_pager_task *t);
/* Lets go of those for which nothing is left to be done, once the daemon has closed its duplicates:
 * until then their faults must be served, for an open duplicate keeps the kernel asking. */
void fm_pager_tasks_reap(struct fm_pager_worker *w);
void fm_pager_tasks_drop_all(struct fm_pager_worker *w);

/* pager_fill.c: pages into memory. */
void fm_pager_fault_serve(struct fm_pager_worker *w, struct fm_pager_task *t, uint64_t address,
                          uint64_t since_us);
/* Tries again those that are put off; `arrived`: also those that wait for pages. */
void fm_pager_faults_retry(struct fm_pager_worker *w, bool arrived);
void fm_pager_faults_forget(struct fm_pager_worker *w, const struct fm_pager_task *t);
/* The tasks are about to run: from here on all of it is filled. */
void fm_pager_resume(struct fm_pager_worker *w);
/* Just after the resume: little is filled that nobody waits for. */
bool fm_pager_is_first_moment(const struct fm_pager_worker *w);
/* Fills one piece in the background. False when there is nothing to do for now. */
bool fm_pager_push(struct fm_pager_worker *w);
/* Notices those tasks that have ended while there was nothing to fill. */
void fm_pager_probe_idle(struct fm_pager_worker *w);
/* Wakes whoever waits anywhere in the task: its fault comes again. */
void fm_pager_wake_all(const struct fm_pager_task *t);

/* pager_guard.c: how many of these bytes lie before the first guard page. */
uint64_t fm_pager_before_guard(struct fm_pager_task *t, uint64_t address, uint64_t len);

/* pager_criu.c: lazy-pages.socket. */
void fm_pager_criu_accept(struct fm_pager_worker *w);
void fm_pager_criu_read(struct fm_pager_worker *w);
/* Goes on with what the worker before us had received; `orphan`: a userfaultfd that it had not
 * noted yet, or -1. */
void fm_pager_criu_resume(struct fm_pager_worker *w, int orphan);
/* Had it received a userfaultfd that it had not noted? */
bool fm_pager_criu_lost(const struct fm_pager_state *state);

/* pager_link.c: the daemon. */
void fm_pager_link_accept(struct fm_pager_worker *w);
void fm_pager_link_read(struct fm_pager_worker *w);
void fm_pager_link_introduce(struct fm_pager_worker *w); /* all that the daemon is to hold */
void fm_pager_link_lazy(struct fm_pager_worker *w); /* CRIU's connection, or that it is closed */
void fm_pager_link_announce(struct fm_pager_worker *w); /* tasks that it does not hold yet */
void fm_pager_link_want(struct fm_pager_worker *w, int32_t inner_pid, uint64_t source);
void fm_pager_link_status(struct fm_pager_worker *w, bool at_once);
/* Asks the daemon to close its duplicates; true when it has none (any more). */
bool fm_pager_link_release(struct fm_pager_worker *w, struct fm_pager_task *t);

/* pager_deposit.c: what the container's init keeps in case that we, our keeper and the daemon are
 * killed at once. Without a deposit all of these do nothing. */
/* The init has made one; `fd` becomes the state's. */
void fm_pager_deposit_take(struct fm_pager_worker *w, int fd, pid_t init);
/* Finds it again as a worker starts. */
void fm_pager_deposit_resume(struct fm_pager_worker *w);
/* A child's userfaultfd, as soon as it is there: the child may run already. */
void fm_pager_deposit_fork(struct fm_pager_worker *w, int fd);
/* Puts in who is new, and takes out for whom nothing is left to be done. */
void fm_pager_deposit_update(struct fm_pager_worker *w);
/* True when a task is not in it (any more); else it soon will not be. */
bool fm_pager_deposit_release(struct fm_pager_worker *w, struct fm_pager_task *t);
void fm_pager_deposit_forget(struct fm_pager_worker *w); /* its container is dead */
void fm_pager_deposit_end(struct fm_pager_worker *w);    /* closes it in the container as well */

/* pager_adopt.c: taking over from one that has died. 0, or -1 and a line in the log when something
 * is lost without which its tasks would see zeroes. */
int fm_pager_take_over(struct fm_pager_worker *w, int daemon_fd); /* the daemon gives what it has */
int fm_pager_revive(struct fm_pager_worker *w, int daemon_fd);    /* from the deposit alone */

/* pager_loop.c */
enum fm_pager_exit fm_pager_work(struct fm_pager_worker *w);
/* Back to how it was before fm_pager_work. */
void fm_pager_forget(struct fm_pager_worker *w);

#endif
