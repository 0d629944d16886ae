/* Page sender: what its files share. Private to them: page_sender.c opens, queues and waits,
 * page_sender_lane.c sends, page_sender_listen.c hears what the destination says. */
#ifndef FM_STATE_PAGE_SENDER_H
#define FM_STATE_PAGE_SENDER_H

#include <pthread.h>

#include "state/page_batch.h"
#include "state/page_queue.h"
#include "state/page_rate.h"
#include "state/page_stream.h"

#define FM_PAGE_SERVING_BATCH (128u << 10) /* bytes that a wanted page may have to wait for */

struct fm_page_wanted {
    pid_t inner_pid;
    uint64_t address;
};

struct fm_page_wanted_list {
    struct fm_page_wanted *items;
    size_t count;
};

/* One connection with its two threads: one sends, one hears the peer's answers and wishes. */
struct fm_page_lane {
    struct fm_page_sender *sender;
    struct fm_connection *connection;
    struct fm_page_packer *packer; /* the sending thread's, as what the rate limit cost it last */
    uint64_t waited_us;
    pthread_t thread, listener;
    bool started, listening;

    /* Below the sender's lock. */
    pthread_cond_t work;
    struct fm_page_queue queue;
    struct fm_page_wanted_list wanted;
    uint64_t synced; /* the last barrier that the peer answered */
    bool active;     /* has something to do, or waits for an answer */
};

struct fm_page_sender {
    struct fm_page_sender_options options;
    size_t count;
    struct fm_page_lane *lanes;
    struct fm_page_lane *urgent; /* one of them, for wanted pages only; or NULL */
    uint64_t urgent_us;          /* until then, or when it was used last: the others give way */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* for who adds or syncs */
    bool opened, stop, serving;
    struct fm_error error;            /* the first of any thread */
    uint64_t barrier;                 /* the last that was queued */
    uint64_t due_us;                  /* when the rate limit allows the next batch */
    bool added;                       /* something since */
    struct fm_page_wanted_list early; /* wanted, but not queued: not yet, or not any more */
    struct fm_page_stats stats;
    struct fm_page_rate rate;
};

/* With the lock held. */
bool fm_page_sender_ended(const struct fm_page_sender *s);
void fm_page_sender_wake_all(struct fm_page_sender *s);
/* Keeps the first error, and ends what waits. */
void fm_page_sender_fail(struct fm_page_sender *s, const struct fm_error *err);
void fm_page_sender_active(struct fm_page_lane *lane, bool active);
/* Appends; a list keeps the last few thousand. */
void fm_page_sender_want(struct fm_page_wanted_list *list, struct fm_page_wanted wanted);
/* What nobody waits for is slower for `us` microseconds, and a moment more. */
void fm_page_sender_give_way(struct fm_page_sender *s, uint64_t us);
/* A task waits for this page. */
void fm_page_sender_hurry(struct fm_page_sender *s, struct fm_page_wanted wanted);

/* The lane that a page always travels in. */
struct fm_page_lane *fm_page_sender_lane(struct fm_page_sender *s, pid_t inner_pid,
                                         uint64_t address);

/* The threads of a lane, which is their argument. */
void *fm_page_lane_send(void *arg);
void *fm_page_lane_listen(void *arg);

#endif
