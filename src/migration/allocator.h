/* Resource Allocator: how many migrations run at a time, and what is promised to incoming
 * containers. */
#ifndef FM_MIGRATION_ALLOCATOR_H
#define FM_MIGRATION_ALLOCATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "migration/options.h"

/* ---- slots: a limit with a queue, highest priority first and in order of arrival within one ----
 */

#define FM_SLOTS_DEFAULT 3

struct fm_slots;

struct fm_slots *fm_slots_new(unsigned int limit); /* 0: FM_SLOTS_DEFAULT */
void fm_slots_free(struct fm_slots *slots);        /* nobody holds or waits; NULL is fine */

/* How one waiter is told to give up. All fields may be 0. */
struct fm_slots_wait {
    bool (*cancelled)(
        void *ctx); /* quick, called with a lock held; fm_slots_wake after it turned true */
    void *ctx;
    uint64_t deadline_ms; /* fm_now_ms() clock; 0: none */
};

/* Blocks until a slot is free and nobody with a better claim waits. FM_E_CANCELLED or FM_E_TIMEOUT:
 * no slot was taken. `wait` may be NULL. */
int fm_slots_acquire(struct fm_slots *slots, enum fm_priority priority,
                     const struct fm_slots_wait *wait, struct fm_error *err);
/* Takes a slot now, or FM_E_REFUSED with a line that says the limit: for incoming migrations, whose
 * queue is at their source. */
int fm_slots_try(struct fm_slots *slots, struct fm_error *err);
/* Takes a slot past limit and queue: recovery continues what was already running. */
void fm_slots_force(struct fm_slots *slots);
void fm_slots_release(struct fm_slots *slots);
/* Makes every waiter look at its `cancelled` again. */
void fm_slots_wake(struct fm_slots *slots);

size_t fm_slots_used(struct fm_slots *slots);
size_t fm_slots_waiting(struct fm_slots *slots);

/* ---- reservations: memory and disk that are promised, and not yet used ---- */

/* Head room over the measured need, for what grows until the container is here. */
#define FM_RESERVE_MARGIN_PERCENT 5
/* What a promise grows by at least: this, or a part of itself. */
#define FM_RESERVE_STEP (64ull << 20)
#define FM_RESERVE_STEP_PART 16

static inline uint64_t fm_with_margin(uint64_t bytes)
{
    uint64_t margin = bytes / 100 * FM_RESERVE_MARGIN_PERCENT;

    return bytes > UINT64_MAX - margin ? UINT64_MAX : bytes + margin; /* a peer's number */
}

struct fm_reservations;

/* `host` names this host in errors (copied); `memory_reserve` bytes are never promised. */
struct fm_reservations *fm_reservations_new(const char *host, uint64_t memory_reserve);
void fm_reservations_free(struct fm_reservations *reservations);

struct fm_reserve_request {
    const char *id; /* of the migration */
    const char *container;
    uint64_t memory, disk;                /* needed, without margin; bytes */
    uint64_t memory_available, disk_free; /* of this host, measured now; bytes */
};

/* Promises memory and disk (with margin) until released. A second call with the same id replaces
 * the first. FM_E_REFUSED when they do not fit beside what is already promised. */
int fm_reserve(struct fm_reservations *reservations, const struct fm_reserve_request *request,
               struct fm_error *err);
/* Promises `memory` bytes in all (no margin; `disk` does not matter) to an id that has less, a step
 * more where the host has it; *promised is what it has then. FM_E_NO_SPACE when the host has not as
 * much beside what is promised, to this id too: its pages lie in a page store, which is measured,
 * and will once more be the container's. FM_E_CANCELLED: nothing is promised to it any more. */
int fm_reserve_grow(struct fm_reservations *reservations, const struct fm_reserve_request *request,
                    uint64_t *promised, struct fm_error *err);
/* Promises exactly this, whatever the host has: recovery goes on with what was promised before. */
void fm_reserve_force(struct fm_reservations *reservations, const char *id, uint64_t memory,
                      uint64_t disk);
void fm_reserve_release(struct fm_reservations *reservations, const char *id); /* unknown is fine */

struct fm_reserved {
    size_t count;
    uint64_t memory, disk; /* with margin; bytes */
};
struct fm_reserved fm_reserved_total(struct fm_reservations *reservations);
struct fm_reserved fm_reserved_for(struct fm_reservations *reservations, const char *id);

#endif
