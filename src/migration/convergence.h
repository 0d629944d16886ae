/* Convergence: when pre-copy may freeze, and when more rounds do not help.
 *
 * expected freeze = what is dirtied while the last pages travel ÷ measured throughput + the fixed
 * cost of the last few migrations; the rule is QEMU's (docs/devel/migration). Rounds cannot lower
 * the fixed cost: when little else is left, it is time as well. */
#ifndef FM_MIGRATION_CONVERGENCE_H
#define FM_MIGRATION_CONVERGENCE_H

#include <stdint.h>

#include "migration/memory_interface.h"

/* Rounds that hardly send less than the one before, until they count as stuck. */
#define FM_CONVERGENCE_PATIENCE 3

enum fm_verdict {
    FM_VERDICT_FREEZE,   /* fits into max_downtime_ms */
    FM_VERDICT_SHORTEST, /* does not, but hardly gets shorter: its cost is not the pages' */
    FM_VERDICT_AGAIN,
    FM_VERDICT_STUCK, /* as fast as it gets: throttle, switch, or give up */
};

struct fm_convergence {
    double max_downtime_ms, fixed_ms;
    unsigned max_rounds;
    /* What it has seen. */
    unsigned rounds, hopeless;
    uint64_t last_dirty_bytes;
    double throughput;  /* bytes per second */
    double dirty_rate;  /* bytes per second */
    double expected_ms; /* of a freeze now */
};

/* After each round. */
enum fm_verdict fm_convergence_judge(struct fm_convergence *c, const struct fm_memory_round *round);
/* The container is slower from here on: gives the rounds a new chance. */
void fm_convergence_retry(struct fm_convergence *c);

#endif
