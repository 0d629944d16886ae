#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

static uint64_t read_clock(clockid_t id)
{
    struct timespec now;

    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static uint64_t system_monotonic_us(void *ctx)
{
    (void)ctx;
    return read_clock(CLOCK_MONOTONIC);
}

static uint64_t system_realtime_us(void *ctx)
{
    (void)ctx;
    return read_clock(CLOCK_REALTIME);
}

const struct fm_clock *fm_clock_system(void)
{
    static const struct fm_clock clock = {
        .monotonic_us = system_monotonic_us,
        .realtime_us = system_realtime_us,
    };

    return &clock;
}

uint64_t fm_now_us(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t fm_now_ms(void)
{
    return read_clock(CLOCK_MONOTONIC) / 1000u;
}

uint64_t fm_realtime_us(void)
{
    return read_clock(CLOCK_REALTIME);
}

char *fm_format_time(uint64_t realtime_us, char *buf, size_t len)
{
    time_t seconds = (time_t)(realtime_us / 1000000u);
    unsigned int ms = (unsigned int)(realtime_us / 1000u % 1000u);
    struct tm tm;
    char date[24];

    if (!gmtime_r(&seconds, &tm) || !strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm))
        snprintf(date, sizeof(date), "%" PRIu64, realtime_us / 1000000u);
    snprintf(buf, len, "%s.%03uZ", date, ms);
    return buf;
}
