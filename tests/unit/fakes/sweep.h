/* Sweep: the same migration again and again, each time with something going wrong one call later.
 */
#ifndef FM_TESTS_SWEEP_H
#define FM_TESTS_SWEEP_H

#include "fakes/world.h"

struct sweep {
    enum injection injection;
    bool linger, unhealthy, dies; /* as in struct world */
    const char *strategy;
    /* It gets another one there; "auto" for any. Both have a network "blue", 10.99.0.0/24. */
    const char *new_address, *new_network;
    bool publish;        /* a port, too */
    const char *from;    /* not before this call; NULL: from the first one */
    unsigned int offset; /* calls after it that are left out */
    unsigned int stride; /* calls that are left out between two cases */
    /* One more failure: this many calls into the recovery (0: none). */
    unsigned int again_after;
    enum injection again;
};

/* Runs it over all calls and fails the test with the first cases that end badly. After a case that
 * asks for attention the daemons are restarted, and then nothing may be left to do. */
void sweep_all(const struct sweep *sweep);
/* One case; NULL when it ended well, else what is wrong. *done: the migration has fewer calls. */
const char *sweep_case(const struct sweep *sweep, unsigned int at, bool *done);

#endif
