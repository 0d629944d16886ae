/* The eight states of a migration and the transitions between them (paper, section on the Migration
 * Manager). Pure: no I/O. */
#ifndef FM_MIGRATION_FSM_H
#define FM_MIGRATION_FSM_H

#include <stdbool.h>

#include "base/error.h"

#define FM_STATES(X)                                                                               \
    X(PENDING, 1)                                                                                  \
    X(PLANNING, 2)                                                                                 \
    X(PREPARATION, 3)                                                                              \
    X(EXECUTION, 4)                                                                                \
    X(VERIFICATION, 5)                                                                             \
    X(COMPLETED, 6)                                                                                \
    X(FAILED, 7)                                                                                   \
    X(ROLLBACK, 8)

enum fm_state {
    FM_STATE_NONE = 0,
#define X(name, number) FM_STATE_##name = number,
    FM_STATES(X)
#undef X
};

const char *fm_state_text(enum fm_state state);   /* "PENDING" */
enum fm_state fm_state_by_text(const char *text); /* NONE when unknown */

struct fm_fsm {
    enum fm_state state;     /* NONE before the first transition */
    enum fm_state failed_in; /* where the first FAILED came from */
    bool final;
};

/* Allowed: NONE→PENDING→PLANNING→PREPARATION→EXECUTION→VERIFICATION→COMPLETED(final); any of the
 * first five →FAILED; FAILED→ROLLBACK once; ROLLBACK→FAILED(final); FAILED→final without ROLLBACK
 * only when it failed in PENDING or PLANNING. Anything else is FM_E_INVALID and changes nothing. */
int fm_fsm_to(struct fm_fsm *fsm, enum fm_state next, bool final, struct fm_error *err);

#endif
