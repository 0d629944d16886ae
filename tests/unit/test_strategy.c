#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/cleanup.h"
#include "migration/strategy.h"

static json_t *engine(const char *tracker, bool pager, bool skeleton)
{
    return json_pack("{s:s, s:s, s:b, s:s, s:b, s:s}", "tracker", tracker, "tracker_reason",
                     "no soft-dirty", "pager", (int)pager, "pager_reason", "no userfaultfd",
                     "skeleton", (int)skeleton, "skeleton_reason", "CRIU 3");
}

static char reason[256];

static enum fm_strategy choose(enum fm_strategy asked, json_t *here, json_t *there)
{
    json_auto_t *source = here, *destination = there;

    return fm_strategy_choose(asked, source, destination, reason, sizeof(reason));
}

static json_t *whole(void)
{
    return engine("pagemap-scan", true, true);
}

static void what_was_asked_for_is_done_where_everything_works(void **state)
{
    (void)state;
    assert_int_equal(choose(FM_STRATEGY_AUTO, whole(), whole()), FM_STRATEGY_PRE_COPY);
    for (enum fm_strategy s = FM_STRATEGY_COLD; s <= FM_STRATEGY_HYBRID; s++) {
        assert_int_equal(choose(s, whole(), whole()), s);
        assert_string_equal(reason, "");
    }
}

static void a_part_that_does_not_work_leaves_cold_and_is_named(void **state)
{
    (void)state;
    assert_int_equal(choose(FM_STRATEGY_PRE_COPY, engine("pagemap-scan", true, false), whole()),
                     FM_STRATEGY_COLD);
    assert_non_null(strstr(reason, "skeleton dump on the source: CRIU 3"));
    assert_int_equal(choose(FM_STRATEGY_AUTO, whole(), engine("pagemap-scan", false, true)),
                     FM_STRATEGY_COLD);
    assert_non_null(strstr(reason, "pager on the destination: no userfaultfd"));
    assert_int_equal(choose(FM_STRATEGY_POST_COPY, engine("none", false, true), whole()),
                     FM_STRATEGY_COLD);
}

static void without_a_tracker_only_post_copy_remains_for_those_who_asked_for_it(void **state)
{
    (void)state;
    assert_int_equal(choose(FM_STRATEGY_AUTO, engine("none", true, true), whole()),
                     FM_STRATEGY_COLD);
    assert_non_null(strstr(reason, "no soft-dirty"));
    assert_int_equal(choose(FM_STRATEGY_PRE_COPY, engine("none", true, true), whole()),
                     FM_STRATEGY_COLD);
    assert_int_equal(choose(FM_STRATEGY_HYBRID, engine("none", true, true), whole()),
                     FM_STRATEGY_POST_COPY);
    assert_int_equal(choose(FM_STRATEGY_POST_COPY, engine("none", true, true), whole()),
                     FM_STRATEGY_POST_COPY);
}

static void a_host_without_a_state_engine_gets_cold(void **state)
{
    (void)state;
    assert_int_equal(choose(FM_STRATEGY_AUTO, whole(), NULL), FM_STRATEGY_COLD);
    assert_non_null(strstr(reason, "no state engine"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_asked_for_is_done_where_everything_works),
        cmocka_unit_test(a_part_that_does_not_work_leaves_cold_and_is_named),
        cmocka_unit_test(without_a_tracker_only_post_copy_remains_for_those_who_asked_for_it),
        cmocka_unit_test(a_host_without_a_state_engine_gets_cold),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
