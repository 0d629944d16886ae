#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "migration/fsm.h"

/* Walks "1 2 7 8 7!" ('!' is final) and fails where the machine refuses. */
static int walk(struct fm_fsm *fsm, const char *path, struct fm_error *err)
{
    for (const char *at = path; *at; at++) {
        if (*at < '1' || *at > '8')
            continue;
        if (fm_fsm_to(fsm, (enum fm_state)(*at - '0'), at[1] == '!', err) < 0)
            return -1;
    }
    return 0;
}

static void the_paths_of_the_paper_are_allowed(void **state)
{
    static const struct {
        const char *path;
        enum fm_state end, failed_in;
    } paths[] = {
        {"1 2 3 4 5 6!", FM_STATE_COMPLETED, FM_STATE_NONE},
        {"1 7!", FM_STATE_FAILED, FM_STATE_PENDING},
        {"1 7 8 7!", FM_STATE_FAILED, FM_STATE_PENDING},
        {"1 7 7!", FM_STATE_FAILED, FM_STATE_PENDING},
        {"1 2 7!", FM_STATE_FAILED, FM_STATE_PLANNING},
        {"1 2 7 8 7!", FM_STATE_FAILED, FM_STATE_PLANNING},
        {"1 2 3 7 8 7!", FM_STATE_FAILED, FM_STATE_PREPARATION},
        {"1 2 3 4 7 8 7!", FM_STATE_FAILED, FM_STATE_EXECUTION},
        {"1 2 3 4 5 7 8 7!", FM_STATE_FAILED, FM_STATE_VERIFICATION},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        struct fm_fsm fsm = {0};
        struct fm_error err = {0};

        assert_int_equal(walk(&fsm, paths[i].path, &err), 0);
        assert_int_equal(fsm.state, paths[i].end);
        assert_int_equal(fsm.failed_in, paths[i].failed_in);
        assert_true(fsm.final);
    }
}

static void other_paths_are_refused_and_change_nothing(void **state)
{
    static const struct {
        const char *allowed;
        enum fm_state next;
        bool final;
    } steps[] = {
        {"", FM_STATE_PLANNING, false},
        {"", FM_STATE_FAILED, true},
        {"", FM_STATE_NONE, false},
        {"1", FM_STATE_PENDING, false},
        {"1", FM_STATE_PREPARATION, false},
        {"1", FM_STATE_PLANNING, true},
        {"1", FM_STATE_ROLLBACK, false},
        {"1 2 3", FM_STATE_PLANNING, false},
        {"1 2 3", FM_STATE_FAILED, true},
        {"1 2 3 4", FM_STATE_COMPLETED, true},
        {"1 2 3 4 5", FM_STATE_COMPLETED, false},
        {"1 2 3 7", FM_STATE_FAILED, true},
        {"1 2 3 7", FM_STATE_FAILED, false},
        {"1 2 3 7", FM_STATE_EXECUTION, false},
        {"1 2 3 7", FM_STATE_ROLLBACK, true},
        {"1 2 3 7 8", FM_STATE_ROLLBACK, false},
        {"1 2 3 7 8", FM_STATE_FAILED, false},
        {"1 2 3 7 8", FM_STATE_COMPLETED, true},
        {"1 2 3 7 8 7!", FM_STATE_ROLLBACK, false},
        {"1 7!", FM_STATE_ROLLBACK, false},
        {"1 2 3 4 5 6!", FM_STATE_FAILED, true},
        {"1 2 3 4 5 6!", FM_STATE_PENDING, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        struct fm_fsm fsm = {0};
        struct fm_fsm before;
        struct fm_error err = {0};

        assert_int_equal(walk(&fsm, steps[i].allowed, &err), 0);
        before = fsm;
        assert_int_equal(fm_fsm_to(&fsm, steps[i].next, steps[i].final, &err), -FM_E_INVALID);
        assert_non_null(strstr(err.text, fm_state_text(steps[i].next)));
        assert_int_equal(fsm.state, before.state);
        assert_int_equal(fsm.failed_in, before.failed_in);
        assert_int_equal(fsm.final, before.final);
    }
}

/* Whatever is tried, it ends: no sequence of transitions is longer than eight, and no state follows
 * a final one. */
static int longest_from(struct fm_fsm fsm)
{
    int longest = 0;

    for (int next = 0; next <= 8; next++) {
        for (int final = 0; final <= 1; final++) {
            struct fm_fsm copy = fsm;
            int length;

            if (fm_fsm_to(&copy, (enum fm_state)next, final, NULL) < 0)
                continue;
            assert_false(fsm.final);
            length = 1 + longest_from(copy);
            longest = length > longest ? length : longest;
        }
    }
    return longest;
}

static void every_migration_ends(void **state)
{
    (void)state;
    assert_int_equal(longest_from((struct fm_fsm){0}), 8);
}

static void states_have_their_names(void **state)
{
    (void)state;
    assert_string_equal(fm_state_text(FM_STATE_PENDING), "PENDING");
    assert_string_equal(fm_state_text(FM_STATE_ROLLBACK), "ROLLBACK");
    for (int i = 1; i <= 8; i++)
        assert_int_equal(fm_state_by_text(fm_state_text((enum fm_state)i)), i);
    assert_int_equal(fm_state_by_text("pending"), FM_STATE_NONE);
    assert_int_equal(fm_state_by_text(NULL), FM_STATE_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_paths_of_the_paper_are_allowed),
        cmocka_unit_test(other_paths_are_refused_and_change_nothing),
        cmocka_unit_test(every_migration_ends),
        cmocka_unit_test(states_have_their_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
