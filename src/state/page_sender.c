#include "state/page_sender.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/text.h"

#define LANES_MAX 64u
#define WANTED_MAX 4096u
#define BLOCK (256u << 10)  /* neighbours that travel over one connection */
#define QUEUE_RANGES 65536u /* that wait, before adding waits */
#define PIECE_RANGES 8192u  /* added at once */
#define RESTORE_US 50000u   /* about as long as the destination restores, which needs few pages */

/* ---- State, with the lock held ---- */

bool fm_page_sender_ended(const struct fm_page_sender *s)
{
    return s->stop || s->error.code;
}

void fm_page_sender_wake_all(struct fm_page_sender *s)
{
    for (size_t i = 0; i < s->count; i++)
        pthread_cond_signal(&s->lanes[i].work);
    pthread_cond_broadcast(&s->changed);
}

/* Nothing goes over the other connections any more: the destination has to see that they are lost.
 */
void fm_page_sender_fail(struct fm_page_sender *s, const struct fm_error *err)
{
    if (!fm_page_sender_ended(s)) {
        s->error = *err;
        for (size_t i = 0; i < s->count; i++)
            fm_connection_shutdown(s->lanes[i].connection);
    }
    fm_page_sender_wake_all(s);
}

void fm_page_sender_active(struct fm_page_lane *lane, bool active)
{
    if (lane->active != active)
        fm_page_rate_active(&lane->sender->rate, active, fm_now_us());
    lane->active = active;
}

void fm_page_sender_want(struct fm_page_wanted_list *list, struct fm_page_wanted wanted)
{
    if (!list->items)
        list->items = fm_xcalloc(WANTED_MAX, sizeof(*list->items));
    if (list->count == WANTED_MAX) /* the oldest was probably sent long ago */
        memmove(list->items, list->items + 1, --list->count * sizeof(*list->items));
    list->items[list->count++] = wanted;
}

void fm_page_sender_give_way(struct fm_page_sender *s, uint64_t us)
{
    uint64_t until = fm_now_us() + us;

    s->urgent_us = until > s->urgent_us ? until : s->urgent_us;
}

void fm_page_sender_hurry(struct fm_page_sender *s, struct fm_page_wanted wanted)
{
    struct fm_page_lane *lane =
        s->urgent ? s->urgent : fm_page_sender_lane(s, wanted.inner_pid, wanted.address);

    fm_page_sender_want(s->serving ? &lane->wanted : &s->early, wanted);
    fm_page_sender_give_way(s, 0);
    pthread_cond_signal(&lane->work);
}

/* Pages that were wanted before they were queued; those that were sent already fail once more. */
static void retry_early(struct fm_page_sender *s)
{
    for (size_t i = 0; s->serving && i < s->early.count; i++)
        fm_page_sender_hurry(s, s->early.items[i]);
    s->early.count = s->serving ? 0 : s->early.count;
}

/* The lanes that pages are queued in. */
static size_t bulk_lanes(const struct fm_page_sender *s)
{
    return s->urgent ? s->count - 1 : s->count;
}

/* A page always travels over the same connection. */
struct fm_page_lane *fm_page_sender_lane(struct fm_page_sender *s, pid_t inner_pid,
                                         uint64_t address)
{
    uint64_t block = address / BLOCK + (uint64_t)inner_pid * UINT64_C(0x10001);
    uint64_t hash = block * UINT64_C(0x9e3779b97f4a7c15);
    size_t bulk = bulk_lanes(s);

    return &s->lanes[bulk > 1 ? (hash >> 32) % bulk : 0];
}

/* ---- Opening and closing ---- */

static void init_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

static int start_lane(struct fm_page_lane *lane, struct fm_error *err)
{
    int ret = pthread_create(&lane->thread, NULL, fm_page_lane_send, lane);

    lane->started = ret == 0;
    if (ret == 0) {
        pthread_setname_np(lane->thread, "fm-pages");
        ret = pthread_create(&lane->listener, NULL, fm_page_lane_listen, lane);
    }
    lane->listening = ret == 0;
    return ret ? fm_error_errno(err, ret, "cannot start a thread that sends pages") : 0;
}

/* Who waits for a page waits for its compression as well: only who asks for that has it. */
static struct fm_page_packer *new_packer(const struct fm_page_lane *lane)
{
    const struct fm_page_sender *s = lane->sender;
    const struct fm_page_sender_options *o = &s->options;

    return lane == s->urgent
               ? fm_page_packer_new(
                     o->compression == FM_COMPRESS_ZSTD ? FM_COMPRESS_ZSTD : FM_COMPRESS_NONE, 0)
               : fm_page_packer_new(o->compression, o->delta_cache_bytes / bulk_lanes(s));
}

struct fm_page_sender *fm_page_sender_open(struct fm_connection *const *connections, size_t count,
                                           const struct fm_page_sender_options *options,
                                           struct fm_error *err)
{
    struct fm_page_sender *s;

    if (count < 1 || count > LANES_MAX) {
        fm_error_set(err, FM_E_INVALID, "pages need 1 to %u connections", LANES_MAX);
        return NULL;
    }
    s = fm_xcalloc(1, sizeof(*s));
    s->options = *options;
    s->count = count;
    s->lanes = fm_xcalloc(count, sizeof(*s->lanes));
    s->urgent = options->urgent_connection && count > 1 ? &s->lanes[count - 1] : NULL;
    pthread_mutex_init(&s->lock, NULL);
    init_cond(&s->changed);
    for (size_t i = 0; i < count; i++) {
        s->lanes[i] = (struct fm_page_lane){.sender = s, .connection = connections[i]};
        s->lanes[i].packer = new_packer(&s->lanes[i]);
        init_cond(&s->lanes[i].work);
    }
    for (size_t i = 0; i < count; i++) {
        if (start_lane(&s->lanes[i], err) < 0) {
            fm_page_sender_close(s);
            return NULL;
        }
    }
    pthread_mutex_lock(&s->lock);
    s->opened = true;
    pthread_mutex_unlock(&s->lock);
    return s;
}

static void join_lane(struct fm_page_lane *lane)
{
    if (lane->started)
        pthread_join(lane->thread, NULL);
    if (lane->listening)
        pthread_join(lane->listener, NULL);
}

static void clear_lane(struct fm_page_lane *lane)
{
    if (lane->sender->opened)
        fm_connection_close(lane->connection);
    fm_page_packer_free(lane->packer);
    fm_page_queue_clear(&lane->queue);
    free(lane->wanted.items);
    pthread_cond_destroy(&lane->work);
}

void fm_page_sender_close(struct fm_page_sender *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    fm_page_sender_wake_all(s);
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < s->count; i++)
        fm_connection_shutdown(s->lanes[i].connection);
    for (size_t i = 0; i < s->count; i++) /* all of them, since any may wake any */
        join_lane(&s->lanes[i]);
    for (size_t i = 0; i < s->count; i++)
        clear_lane(&s->lanes[i]);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s->early.items);
    free(s->lanes);
    free(s);
}

/* ---- Adding and waiting ---- */

static int ended_error(const struct fm_page_sender *s, struct fm_error *err)
{
    if (s->error.code && err)
        *err = s->error;
    return s->error.code ? -(int)s->error.code
                         : fm_error_set(err, FM_E_CLOSED, "the stream of pages is closed");
}

static size_t queued_ranges(const struct fm_page_sender *s)
{
    size_t sum = 0;

    for (size_t i = 0; i < s->count; i++)
        sum += s->lanes[i].queue.range_count;
    return sum;
}

/* Hands the pieces, one list for each lane, to the lanes. */
static int queue_pieces(struct fm_page_sender *s, pid_t pid, pid_t inner_pid, bool frozen,
                        struct fm_ranges *pieces, struct fm_error *err)
{
    int ret = 0;

    pthread_mutex_lock(&s->lock);
    while (!frozen && !fm_page_sender_ended(s) && queued_ranges(s) > QUEUE_RANGES)
        pthread_cond_wait(&s->changed, &s->lock);
    if (fm_page_sender_ended(s))
        ret = ended_error(s, err);
    for (size_t i = 0; i < s->count; i++) {
        if (ret == 0 && pieces[i].count > 0) {
            fm_page_queue_add(&s->lanes[i].queue, pid, inner_pid, frozen, &pieces[i]);
            pthread_cond_signal(&s->lanes[i].work);
            s->added = true;
        }
        fm_ranges_clear(&pieces[i]);
    }
    retry_early(s);
    pthread_mutex_unlock(&s->lock);
    return ret;
}

int fm_page_sender_add(struct fm_page_sender *s, pid_t pid, pid_t inner_pid,
                       const struct fm_ranges *ranges, bool frozen, struct fm_error *err)
{
    struct fm_ranges pieces[LANES_MAX] = {0};
    size_t waiting = 0;

    for (size_t i = 0; i < ranges->count; i++) {
        uint64_t at = ranges->items[i].start, end = ranges->items[i].end;

        for (uint64_t next; at < end; at = next) {
            size_t lane = (size_t)(fm_page_sender_lane(s, inner_pid, at) - s->lanes);

            next = at - at % BLOCK + BLOCK < end ? at - at % BLOCK + BLOCK : end;
            fm_ranges_append(&pieces[lane], at, next);
            if (++waiting < PIECE_RANGES)
                continue;
            waiting = 0;
            if (queue_pieces(s, pid, inner_pid, frozen, pieces, err) < 0)
                return fm_error_result(err);
        }
    }
    return queue_pieces(s, pid, inner_pid, frozen, pieces, err);
}

static bool all_synced(const struct fm_page_sender *s, uint64_t barrier)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->lanes[i].synced < barrier)
            return false;
    return true;
}

static void queue_barrier(struct fm_page_sender *s)
{
    s->barrier++;
    s->added = false;
    for (size_t i = 0; i < s->count; i++) {
        fm_page_queue_add_barrier(&s->lanes[i].queue, s->barrier);
        pthread_cond_signal(&s->lanes[i].work);
    }
}

int fm_page_sender_sync(struct fm_page_sender *s, uint64_t timeout_ms, struct fm_error *err)
{
    uint64_t deadline = fm_now_ms() + timeout_ms, barrier;
    struct timespec until = {.tv_sec = (time_t)(deadline / 1000u),
                             .tv_nsec = (long)(deadline % 1000u) * 1000000};
    int waited = 0, ret = 0;

    pthread_mutex_lock(&s->lock);
    if (s->added || all_synced(s, s->barrier)) /* else the wait of the call before goes on */
        queue_barrier(s);
    barrier = s->barrier;
    while (!fm_page_sender_ended(s) && !all_synced(s, barrier) && waited != ETIMEDOUT)
        waited = timeout_ms ? pthread_cond_timedwait(&s->changed, &s->lock, &until)
                            : pthread_cond_wait(&s->changed, &s->lock);
    if (fm_page_sender_ended(s))
        ret = ended_error(s, err);
    else if (!all_synced(s, barrier))
        ret = fm_error_set(err, FM_E_TIMEOUT, "the destination has not stored all pages in time");
    pthread_mutex_unlock(&s->lock);
    return ret;
}

int fm_page_sender_serve(struct fm_page_sender *s, struct fm_error *err)
{
    int ret;

    pthread_mutex_lock(&s->lock);
    s->serving = true;
    fm_page_sender_give_way(s, RESTORE_US);
    for (size_t i = 0; i < s->count; i++)
        fm_connection_set_backlog(s->lanes[i].connection, FM_PAGE_SERVING_BATCH);
    retry_early(s);
    fm_page_sender_wake_all(s);
    ret = fm_page_sender_ended(s) ? ended_error(s, err) : 0;
    pthread_mutex_unlock(&s->lock);
    return ret;
}

void fm_page_sender_stats(struct fm_page_sender *s, struct fm_page_stats *stats)
{
    pthread_mutex_lock(&s->lock);
    *stats = s->stats;
    stats->bytes_per_second = fm_page_rate_now(&s->rate, fm_now_us());
    pthread_mutex_unlock(&s->lock);
}
