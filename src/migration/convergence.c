#include "migration/convergence.h"

/* A round that sends more than this part of what the one before sent does not help. */
#define SHRINKS 0.8
/* When this part of the fixed cost is all that more rounds could spare, they are not worth it. */
#define NEGLIGIBLE 0.1
/* A time too short to tell anything of a rate. */
#define MEASURABLE_US 1000

static void measure(struct fm_convergence *c, const struct fm_memory_round *round)
{
    if (round->send_us >= MEASURABLE_US && round->dirty_bytes > 0) {
        double now = (double)round->dirty_bytes * 1e6 / (double)round->send_us;
        /* A small round is mostly round trip: it must not count as a slow link. */
        c->throughput = now > c->throughput || round->dirty_bytes > c->last_dirty_bytes / 4
                            ? now
                            : c->throughput;
    }
    if (round->interval_us > 0)
        c->dirty_rate = (double)round->dirty_bytes * 1e6 / (double)round->interval_us;
}

/* What is written while this round's pages travel has to travel in the freeze. */
static double pages_ms(const struct fm_convergence *c, const struct fm_memory_round *round)
{
    double travel_s = (double)(round->send_us + round->scan_us) / 1e6;
    double left = c->rounds > 1 ? c->dirty_rate * travel_s : (double)round->dirty_bytes;
    if (left > (double)round->present_bytes)
        left = (double)round->present_bytes;
    return c->throughput > 0 ? left / c->throughput * 1000 : 0;
}

enum fm_verdict fm_convergence_judge(struct fm_convergence *c, const struct fm_memory_round *round)
{
    c->rounds++;
    measure(c, round);
    double pages = pages_ms(c, round);
    c->expected_ms = c->fixed_ms + pages;
    bool shrinks = (double)round->dirty_bytes < SHRINKS * (double)c->last_dirty_bytes;
    c->hopeless = c->rounds > 2 && !shrinks ? c->hopeless + 1 : 0;
    c->last_dirty_bytes = round->dirty_bytes;
    /* The first round says nothing of the rate at which the container writes. */
    if (c->rounds > 1 && c->expected_ms <= c->max_downtime_ms)
        return FM_VERDICT_FREEZE;
    if (c->rounds > 1 && pages <= NEGLIGIBLE * c->fixed_ms)
        return FM_VERDICT_SHORTEST;
    if (c->hopeless >= FM_CONVERGENCE_PATIENCE || c->rounds >= c->max_rounds)
        return FM_VERDICT_STUCK;
    return FM_VERDICT_AGAIN;
}

void fm_convergence_retry(struct fm_convergence *c)
{
    c->hopeless = 0;
    c->last_dirty_bytes = UINT64_MAX;
}
