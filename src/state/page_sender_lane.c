#include "state/page_sender.h"

#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/fault.h"

#define NEAR (32u << 10)       /* that go with a page which a task waits for */
#define BATCHES_PER_SECOND 64u /* at least, below a rate limit */
#define PARTS 8u               /* of what waits: the most for one batch */
#define SMALL_BATCH (64u << 10)
#define GIVE_WAY_US 2000u /* to pages that tasks wait for: one of them wants the next one soon */

/* Until then, or until the lane is woken. */
static void sleep_until(struct fm_page_lane *lane, uint64_t us)
{
    struct timespec until = {.tv_sec = (time_t)(us / 1000000u),
                             .tv_nsec = (long)(us % 1000000u) * 1000};

    pthread_cond_timedwait(&lane->work, &lane->sender->lock, &until);
}

/* Until the rate limit allows another batch, somebody waits for a page, or it is over. */
static void await_allowance(struct fm_page_lane *lane)
{
    struct fm_page_sender *s = lane->sender;
    uint64_t begin = fm_now_us();

    while (!fm_page_sender_ended(s) && lane->wanted.count == 0 && fm_now_us() < s->due_us)
        sleep_until(lane, s->due_us);
    lane->waited_us = fm_now_us() - begin;
}

/* What nobody waits for goes slower while somebody waits for something: both need the processors.
 */
static void give_way(struct fm_page_lane *lane)
{
    struct fm_page_sender *s = lane->sender;
    uint64_t now = fm_now_us();

    if (s->serving && s->urgent && lane != s->urgent && now < s->urgent_us + GIVE_WAY_US)
        sleep_until(lane, now + GIVE_WAY_US);
}

static void charge(struct fm_page_sender *s, size_t bytes)
{
    uint64_t rate = s->options.bytes_per_second, now = fm_now_us();

    if (!rate)
        return;
    if (s->due_us < now)
        s->due_us = now;
    s->due_us += (uint64_t)((unsigned __int128)bytes * 1000000u / rate);
}

/* Small enough that the limit is kept evenly, that a wanted page does not wait for long, and that
 * the other side has something to do from early on until the end. */
static size_t batch_pages(const struct fm_page_lane *lane)
{
    const struct fm_page_sender *s = lane->sender;
    uint64_t page = fm_page_size(), rate = s->options.bytes_per_second;
    uint64_t bytes = s->serving ? FM_PAGE_SERVING_BATCH : fm_page_batch_max() * page;
    uint64_t part = lane->queue.bytes / PARTS;

    if (rate && rate / BATCHES_PER_SECOND < bytes)
        bytes = rate / BATCHES_PER_SECOND;
    if (part < SMALL_BATCH)
        part = SMALL_BATCH;
    if (part < bytes)
        bytes = part;
    return bytes <= page ? 1 : bytes / page;
}

static bool take_wanted(struct fm_page_lane *lane, struct fm_page_work *work)
{
    while (lane->wanted.count > 0) {
        struct fm_page_wanted w = lane->wanted.items[0];
        struct fm_page_lane *owner = fm_page_sender_lane(lane->sender, w.inner_pid, w.address);

        memmove(lane->wanted.items, lane->wanted.items + 1,
                --lane->wanted.count * sizeof(*lane->wanted.items));
        if (fm_page_queue_take_near(&owner->queue, w.inner_pid, w.address, NEAR, work))
            return true;
        fm_page_sender_want(&lane->sender->early, w);
    }
    return false;
}

/* The next thing to do; false when there is none any more. */
static bool next_work(struct fm_page_lane *lane, struct fm_page_work *work)
{
    struct fm_page_sender *s = lane->sender;

    for (;;) {
        if (lane->queue.first)
            await_allowance(lane);
        if (lane->queue.first)
            give_way(lane);
        if (fm_page_sender_ended(s))
            return false;
        if (take_wanted(lane, work) || fm_page_queue_take(&lane->queue, batch_pages(lane), work)) {
            pthread_cond_broadcast(&s->changed);
            fm_page_sender_active(lane, true);
            return true;
        }
        fm_page_sender_active(lane, lane->synced < s->barrier);
        pthread_cond_wait(&lane->work, &s->lock);
    }
}

static int send_barrier(struct fm_page_lane *lane, uint64_t barrier, struct fm_error *err)
{
    json_auto_t *doc = json_pack("{s:I}", "sequence", (json_int_t)barrier);

    fm_page_packer_end_round(lane->packer);
    return fm_connection_send_json(lane->connection, FM_FRAME_PAGES_SYNC, doc, err);
}

/* Of the calling thread. */
static uint64_t cpu_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static int send_packed(struct fm_page_lane *lane, const struct fm_page_packed *packed,
                       struct fm_error *err)
{
    if (fm_fault("pages.send"))
        fm_connection_shutdown(lane->connection);
    return fm_connection_send(lane->connection, FM_FRAME_PAGES, packed->payload, packed->len, err);
}

static int send_pages(struct fm_page_lane *lane, struct fm_page_work *work,
                      struct fm_page_stats *done, struct fm_error *err)
{
    uint64_t begin = fm_now_us(), begin_cpu = cpu_us(), read, encoded, sent;
    struct fm_page_packed packed;
    size_t asked = work->list.count;
    int ret;

    if (fm_pages_read(&work->list, fm_page_packer_room(lane->packer), work->frozen, err) < 0)
        return fm_error_result(err);
    done->vanished_pages = asked - work->list.count;
    done->pages = work->list.count;
    if (work->list.count == 0)
        return 0;
    read = fm_now_us();
    fm_page_packer_pack(lane->packer, work->inner_pid, &work->list, &packed);
    encoded = fm_now_us();
    ret = send_packed(lane, &packed, err);
    sent = fm_now_us();
    fm_page_packer_learn(lane->packer, &(struct fm_page_trip){
                                           .content = packed.content,
                                           .wire = packed.len,
                                           .total_us = sent - begin + lane->waited_us,
                                           .work_us = cpu_us() - begin_cpu,
                                       });
    done->zero_pages = packed.zero;
    done->delta_pages = packed.delta;
    done->normal_pages = packed.normal;
    done->compressed_pages = packed.compressed;
    done->wire_bytes = packed.len + FM_FRAME_HEADER_SIZE;
    done->read_us = read - begin;
    done->encode_us = encoded - read;
    done->send_us = sent - encoded;
    return ret;
}

static void add_stats(struct fm_page_stats *sum, const struct fm_page_stats *more)
{
    sum->pages += more->pages;
    sum->zero_pages += more->zero_pages;
    sum->delta_pages += more->delta_pages;
    sum->normal_pages += more->normal_pages;
    sum->compressed_pages += more->compressed_pages;
    sum->vanished_pages += more->vanished_pages;
    sum->wire_bytes += more->wire_bytes;
    sum->read_us += more->read_us;
    sum->encode_us += more->encode_us;
    sum->send_us += more->send_us;
}

void *fm_page_lane_send(void *arg)
{
    struct fm_page_lane *lane = arg;
    struct fm_page_sender *s = lane->sender;
    struct fm_page_work work;
    struct fm_error err = {0};

    pthread_mutex_lock(&s->lock);
    while (next_work(lane, &work)) {
        struct fm_page_stats done = {0};
        int ret;

        pthread_mutex_unlock(&s->lock);
        ret = work.barrier ? send_barrier(lane, work.barrier, &err)
                           : send_pages(lane, &work, &done, &err);
        pthread_mutex_lock(&s->lock);
        add_stats(&s->stats, &done);
        charge(s, done.wire_bytes);
        if (lane == s->urgent)
            fm_page_sender_give_way(s, 0);
        fm_page_rate_add(&s->rate, (done.pages - done.zero_pages) * fm_page_size(), fm_now_us());
        if (ret < 0)
            fm_page_sender_fail(s, &err);
    }
    fm_page_sender_active(lane, false);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}
