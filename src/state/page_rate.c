#include "state/page_rate.h"

#define WINDOW_US 100000u
#define ENOUGH_US 1000u /* for a first guess */

/* Brings the window's time up to date; a full one becomes part of the mean. */
static void advance(struct fm_page_rate *r, uint64_t now_us)
{
    double lately;

    if (r->active > 0)
        r->window_us += now_us - r->since_us;
    r->since_us = now_us;
    if (r->window_us < WINDOW_US)
        return;
    lately = (double)r->window_bytes * 1e6 / (double)r->window_us;
    r->bytes_per_second = r->bytes_per_second > 0 ? (r->bytes_per_second + lately) / 2 : lately;
    r->window_us = r->window_bytes = 0;
}

void fm_page_rate_active(struct fm_page_rate *r, bool active, uint64_t now_us)
{
    advance(r, now_us);
    if (active)
        r->active++;
    else
        r->active--;
}

void fm_page_rate_add(struct fm_page_rate *r, uint64_t bytes, uint64_t now_us)
{
    r->window_bytes += bytes;
    advance(r, now_us);
}

double fm_page_rate_now(const struct fm_page_rate *r, uint64_t now_us)
{
    uint64_t us = r->window_us + (r->active > 0 ? now_us - r->since_us : 0);

    if (r->bytes_per_second > 0 || us < ENOUGH_US)
        return r->bytes_per_second;
    return (double)r->window_bytes * 1e6 / (double)us;
}
