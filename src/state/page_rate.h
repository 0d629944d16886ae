/* Page rate: how fast content goes while there is something to send. Idle time does not count. */
#ifndef FM_STATE_PAGE_RATE_H
#define FM_STATE_PAGE_RATE_H

#include <stdbool.h>
#include <stdint.h>

struct fm_page_rate {    /* {0} to begin with */
    unsigned int active; /* who has something to do */
    uint64_t since_us;   /* of the current stretch with somebody active */
    uint64_t window_us, window_bytes;
    double bytes_per_second;
};

/* Somebody begins or ends to be active. */
void fm_page_rate_active(struct fm_page_rate *r, bool active, uint64_t now_us);
void fm_page_rate_add(struct fm_page_rate *r, uint64_t bytes, uint64_t now_us);
/* 0 while nothing is known. */
double fm_page_rate_now(const struct fm_page_rate *r, uint64_t now_us);

#endif
