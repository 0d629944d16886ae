#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "migration/policy.h"

static char redis[] = "redis";

static int decide(json_t *labels, bool is_cordoned, struct fm_error *err)
{
    struct fm_container container = {.name = redis, .labels = labels};
    struct fm_policy_request request = {
        .container = &container,
        .source = "host-a",
        .destination = "host-b",
        .destination_cordoned = is_cordoned,
    };
    int rc = fm_policy_decide(&request, err);

    json_decref(labels);
    return rc;
}

static void an_ordinary_container_may_move(void **state)
{
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(decide(NULL, false, &err), 0);
    assert_int_equal(decide(json_pack("{s:s}", "tier", "critical"), false, &err), 0);
    assert_int_equal(decide(json_pack("{s:s}", FM_LABEL_IMMOVABLE, "false"), false, &err), 0);
    assert_int_equal(err.code, FM_E_OK);
}

static void an_immovable_container_stays(void **state)
{
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(decide(json_pack("{s:s}", FM_LABEL_IMMOVABLE, "true"), false, &err),
                     -FM_E_REFUSED);
    assert_non_null(strstr(err.text, "'redis'"));
    assert_non_null(strstr(err.text, "fleximigrate.immovable=true"));
    assert_non_null(strstr(err.text, "without this label"));
}

static void a_cordoned_host_takes_nothing_and_names_the_cure(void **state)
{
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(decide(NULL, true, &err), -FM_E_REFUSED);
    assert_non_null(strstr(err.text, "host 'host-b' is cordoned"));
    assert_non_null(strstr(err.text, "`fleximigrate host uncordon host-b`"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_ordinary_container_may_move),
        cmocka_unit_test(an_immovable_container_stays),
        cmocka_unit_test(a_cordoned_host_takes_nothing_and_names_the_cure),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
