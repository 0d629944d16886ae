/* Time: one clock behind function pointers, so that tests bring their own. */
#ifndef FM_BASE_CLOCK_H
#define FM_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

struct fm_clock {
    uint64_t (*monotonic_us)(void *ctx); /* never goes back */
    uint64_t (*realtime_us)(void *ctx);  /* since the epoch */
    void *ctx;
};

/* The system's clock; never NULL, never freed. */
const struct fm_clock *fm_clock_system(void);

/* Shorthands for the system's clock. */
uint64_t fm_now_us(void);      /* CLOCK_MONOTONIC */
uint64_t fm_now_ms(void);      /* CLOCK_MONOTONIC */
uint64_t fm_realtime_us(void); /* CLOCK_REALTIME */

/* RFC 3339 in UTC with milliseconds ("2026-01-31T12:00:00.123Z"); buf holds 32 bytes at least. */
char *fm_format_time(uint64_t realtime_us, char *buf, size_t len);

#endif
