#include "state/page_squeeze.h"

#include <stdlib.h>
#include <zstd.h>

#include "base/text.h"

#define LEVEL 1
#define WINDOW_BYTES (2u << 20) /* of content: what one decision rests on */
#define SMALL 512u              /* bytes that are not worth the trouble */
#define WAITING 0.3             /* part of the time, from which the link may be what limits */
#define WORTH 0.85              /* of the time without, or it is not worth a trial's success */
#define WORSE 1.1               /* than the time without: then it ends */
#define BAD_RATIO 0.95
#define SKIP_MAX 64u     /* batches */
#define RETRY_US 200000u /* before another trial; doubled each time it fails */
#define RETRY_MAX_US 8000000u
#define RECHECK_US 2000000u /* how long a decision for compression is good */

/* Means over one window, in µs for each byte of content. */
struct cost {
    double total, work, ratio;
};

struct fm_page_squeeze {
    enum fm_compression compression;
    ZSTD_CCtx *zstd;
    bool on, trying;        /* auto: compressing; compressing one window to see */
    unsigned int skip, bad; /* batches to leave alone; how many bad ones in a row */
    struct fm_page_trip sum;
    double plain, squeezed; /* µs for each byte of content, lately; 0: not known */
    uint64_t retry_at_us, retry_us, recheck_at_us;
};

struct fm_page_squeeze *fm_page_squeeze_new(enum fm_compression compression)
{
    struct fm_page_squeeze *q = fm_xcalloc(1, sizeof(*q));

    q->compression = compression;
    q->retry_us = RETRY_US;
    if (compression != FM_COMPRESS_NONE && !(q->zstd = ZSTD_createCCtx()))
        abort();
    return q;
}

void fm_page_squeeze_free(struct fm_page_squeeze *q)
{
    if (!q)
        return;
    ZSTD_freeCCtx(q->zstd);
    free(q);
}

size_t fm_page_squeeze_room(size_t len)
{
    return ZSTD_compressBound(len);
}

bool fm_page_squeeze_on(const struct fm_page_squeeze *q)
{
    return q->compression == FM_COMPRESS_ZSTD || q->on || q->trying;
}

size_t fm_page_squeeze_try(struct fm_page_squeeze *q, const uint8_t *body, size_t len, uint8_t *out)
{
    size_t size;

    if (!fm_page_squeeze_on(q) || len < SMALL)
        return 0;
    if (q->skip > 0) {
        q->skip--;
        return 0;
    }
    size = ZSTD_compressCCtx(q->zstd, out, ZSTD_compressBound(len), body, len, LEVEL);
    if (!ZSTD_isError(size) && (double)size < (double)len * BAD_RATIO) {
        q->bad = 0;
        return size;
    }
    q->bad++;
    q->skip = q->bad < 6 ? 1u << q->bad : SKIP_MAX;
    return 0;
}

/* ---- auto ---- */

static double smooth(double mean, double now)
{
    return mean > 0 ? (mean + now) / 2 : now;
}

static bool waits(const struct cost *c)
{
    return c->total - c->work > WAITING * c->total;
}

static void give_up(struct fm_page_squeeze *q, uint64_t now_us)
{
    q->on = false;
    q->retry_at_us = now_us + q->retry_us;
    q->retry_us = q->retry_us * 2 < RETRY_MAX_US ? q->retry_us * 2 : RETRY_MAX_US;
}

/* A window without compression. When it waited for something, compression may be the better. */
static void after_plain(struct fm_page_squeeze *q, const struct cost *c, uint64_t now_us)
{
    q->plain = smooth(q->plain, c->total);
    q->trying = waits(c) && now_us >= q->retry_at_us;
}

/* The socket's buffer hides how slow the link is, so what counts is not how long the trial took but
 * how long such batches will take: our work, or their part of what the link needs without. */
static void after_trial(struct fm_page_squeeze *q, const struct cost *c, uint64_t now_us)
{
    double on_link = c->ratio * q->plain;

    q->trying = false;
    q->squeezed = c->work > on_link ? c->work : on_link;
    if (q->squeezed > WORTH * q->plain) {
        give_up(q, now_us);
        return;
    }
    q->on = true;
    q->retry_us = RETRY_US;
    q->recheck_at_us = now_us + RECHECK_US;
}

/* A window with compression. What it is without is measured again at times, when nothing waits for
 * the link any more. */
static void after_squeezed(struct fm_page_squeeze *q, const struct cost *c, uint64_t now_us)
{
    q->squeezed = smooth(q->squeezed, c->total);
    if (q->squeezed > WORSE * q->plain) {
        give_up(q, now_us);
    } else if (now_us >= q->recheck_at_us) {
        q->on = waits(c);
        q->plain = q->on ? q->plain : 0;
        q->recheck_at_us = now_us + RECHECK_US;
    }
}

void fm_page_squeeze_learn(struct fm_page_squeeze *q, const struct fm_page_trip *trip,
                           uint64_t now_us)
{
    struct cost c;

    if (q->compression != FM_COMPRESS_AUTO)
        return;
    q->sum.content += trip->content;
    q->sum.wire += trip->wire;
    q->sum.total_us += trip->total_us;
    q->sum.work_us += trip->work_us;
    if (q->sum.content < WINDOW_BYTES)
        return;
    c = (struct cost){
        .total = (double)q->sum.total_us / (double)q->sum.content,
        .work = (double)q->sum.work_us / (double)q->sum.content,
        .ratio = (double)q->sum.wire / (double)q->sum.content,
    };
    q->sum = (struct fm_page_trip){0};
    if (q->trying)
        after_trial(q, &c, now_us);
    else if (q->on)
        after_squeezed(q, &c, now_us);
    else
        after_plain(q, &c, now_us);
}
