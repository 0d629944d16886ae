/* Somebody who cancels a step at a given time. */
#ifndef FM_TESTS_CANCEL_AT_H
#define FM_TESTS_CANCEL_AT_H

#include "base/cancel.h"
#include "base/clock.h"

#define CANCEL_AFTER_MS 200
/* Looking takes its time on a machine that has other things to do. */
#define CANCEL_GRACE_MS 150

static inline int cancel_at(void *ctx, struct fm_error *err)
{
    const uint64_t *at_ms = ctx;
    return fm_now_ms() < *at_ms ? 0 : fm_error_set(err, FM_E_CANCELLED, "cancelled");
}

#endif
