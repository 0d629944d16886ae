/* Cancelling a wait from outside: whatever waits asks now and then whether it still should. */
#ifndef FM_BASE_CANCEL_H
#define FM_BASE_CANCEL_H

#include <stdint.h>

#include "base/error.h"

#define FM_CANCEL_LOOK_MS 40 /* between two questions */

struct fm_cancel {
    /* 0, or the reason to wait no longer. Called often, by the thread that waits. NULL: whoever
     * waits does so to the end. */
    int (*check)(void *ctx, struct fm_error *err);
    void *ctx;
};

static inline int fm_cancel_check(const struct fm_cancel *cancel, struct fm_error *err)
{
    return cancel->check ? cancel->check(cancel->ctx, err) : 0;
}

/* How much of a wait of `ms` may pass until the next question. */
static inline uint64_t fm_cancel_slice(const struct fm_cancel *cancel, uint64_t ms)
{
    return cancel->check && ms > FM_CANCEL_LOOK_MS ? FM_CANCEL_LOOK_MS : ms;
}

#endif
