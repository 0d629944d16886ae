#include "migration/fsm.h"

#include "base/text.h"

const char *fm_state_text(enum fm_state state)
{
    switch (state) {
    case FM_STATE_NONE:
        return "NONE";
#define X(name, number)                                                                            \
    case FM_STATE_##name:                                                                          \
        return #name;
        FM_STATES(X)
#undef X
    }
    return "NONE";
}

enum fm_state fm_state_by_text(const char *text)
{
#define X(name, number)                                                                            \
    if (fm_streq(text, #name))                                                                     \
        return FM_STATE_##name;
    FM_STATES(X)
#undef X
    return FM_STATE_NONE;
}

static bool is_working(enum fm_state state)
{
    return state >= FM_STATE_PENDING && state <= FM_STATE_VERIFICATION;
}

/* Nothing but reservations was made in these. */
static bool leaves_nothing_behind(enum fm_state state)
{
    return state == FM_STATE_PENDING || state == FM_STATE_PLANNING;
}

static bool may_fail(const struct fm_fsm *fsm, bool final)
{
    if (fsm->state == FM_STATE_ROLLBACK)
        return final;
    if (fsm->state == FM_STATE_FAILED)
        return final && leaves_nothing_behind(fsm->failed_in);
    return is_working(fsm->state) && (!final || leaves_nothing_behind(fsm->state));
}

static bool allowed(const struct fm_fsm *fsm, enum fm_state next, bool final)
{
    if (fsm->final)
        return false;
    switch (next) {
    case FM_STATE_NONE:
        return false;
    case FM_STATE_FAILED:
        return may_fail(fsm, final);
    case FM_STATE_ROLLBACK:
        return fsm->state == FM_STATE_FAILED && !final;
    case FM_STATE_COMPLETED:
        return fsm->state == FM_STATE_VERIFICATION && final;
    case FM_STATE_PENDING:
    case FM_STATE_PLANNING:
    case FM_STATE_PREPARATION:
    case FM_STATE_EXECUTION:
    case FM_STATE_VERIFICATION:
        return (int)next == (int)fsm->state + 1 && !final;
    }
    return false;
}

int fm_fsm_to(struct fm_fsm *fsm, enum fm_state next, bool final, struct fm_error *err)
{
    if (!allowed(fsm, next, final))
        return fm_error_set(err, FM_E_INVALID, "a migration cannot go from %s%s to %s%s",
                            fm_state_text(fsm->state), fsm->final ? " (final)" : "",
                            fm_state_text(next), final ? " (final)" : "");
    if (next == FM_STATE_FAILED && is_working(fsm->state))
        fsm->failed_in = fsm->state;
    fsm->state = next;
    fsm->final = final;
    return 0;
}
