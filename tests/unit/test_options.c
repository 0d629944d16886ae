#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "migration/options.h"
#include "migration/stats.h"

static int parse(const char *json, struct fm_migration_options *options, struct fm_error *err)
{
    json_auto_t *doc = json_loads(json, JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);

    assert_non_null(doc);
    return fm_migration_options_from_json(doc, options, err);
}

static void a_short_request_gets_the_defaults(void **state)
{
    struct fm_migration_options o;
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(parse("{\"container\":\"redis\",\"destination\":\"host-b\"}", &o, &err), 0);
    assert_string_equal(o.container, "redis");
    assert_string_equal(o.destination, "host-b");
    assert_string_equal(o.source, "");
    assert_int_equal(o.strategy, FM_STRATEGY_AUTO);
    assert_int_equal(o.priority, FM_PRIORITY_NORMAL);
    assert_int_equal(o.bandwidth_bytes, 0);
    assert_int_equal(o.timeout_ms, 300000);
    assert_int_equal(o.preparation_timeout_ms, 120000);
    assert_int_equal(o.execution_timeout_ms, 60000);
    assert_int_equal(o.verification_timeout_ms, 30000);
    assert_false(o.dry_run);
}

static void every_option_survives_the_way_through_json(void **state)
{
    static const char request[] =
        "{\"container\":\"redis\",\"destination\":\"host-b\",\"source\":\"host-a\",\"strategy\":"
        "\"cold\",\"priority\":\"high\",\"bandwidth_bytes\":125000000,\"timeout_ms\":1000,"
        "\"preparation_timeout_ms\":2000,\"execution_timeout_ms\":3000,"
        "\"verification_timeout_ms\":4000,\"max_downtime_ms\":30,\"max_rounds\":7,\"new_network\":"
        "\"blue\",\"new_address\":\"10.89.0.7\",\"parallel\":4,"
        "\"delta_cache_bytes\":0,\"compress\":\"zstd\",\"on_no_convergence\":\"fail\","
        "\"auto_converge\":true,\"dry_run\":true}";
    struct fm_migration_options o;
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(parse(request, &o, &err), 0);
    assert_int_equal(o.priority, FM_PRIORITY_HIGH);
    assert_int_equal(o.verification_timeout_ms, 4000);
    json_auto_t *back = fm_migration_options_to_json(&o);
    json_auto_t *given = json_loads(request, 0, NULL);
    assert_true(json_equal(back, given));
}

static void bad_requests_are_refused_by_name(void **state)
{
    static const struct {
        const char *json, *named;
    } requests[] = {
        {"[]", "object"},
        {"7", "object"},
        {"{}", "'container'"},
        {"{\"container\":\"redis\"}", "'destination'"},
        {"{\"container\":7,\"destination\":\"b\"}", "'container'"},
        {"{\"container\":\"../x\",\"destination\":\"b\"}", "container"},
        {"{\"container\":\"\",\"destination\":\"b\"}", "container"},
        {"{\"container\":\"a\\u0000b\",\"destination\":\"b\"}", "'container'"},
        {"{\"container\":\"a\",\"destination\":\"a b\"}", "destination"},
        {"{\"container\":\"a\",\"destination\":\"b\",\"source\":\"b\"}", "both 'b'"},
        {"{\"container\":\"a\",\"destination\":\"b\",\"source\":null}", "'source'"},
        {"{\"container\":\"a\",\"destination\":\"b\",\"bandwith\":1}", "'bandwith'"},
        {"{\"container\":\"a\",\"destination\":\"b\",\"strategy\":\"warm\"}", "auto, cold"},
        {"{\"container\":\"a\",\"destination\":\"b\",\"priority\":2}", "'priority'"},
        {"{\"container\":\"a\",\"destination\":\"b\",\"timeout_ms\":\"1\"}", "'timeout_ms'"},
        {"{\"container\":\"a\",\"destination\":\"b\",\"timeout_ms\":1.5}", "'timeout_ms'"},
        {"{\"container\":\"a\",\"destination\":\"b\",\"timeout_ms\":0}", "'timeout_ms'"},
        {"{\"container\":\"a\",\"destination\":\"b\",\"execution_timeout_ms\":86400001}",
         "'execution_timeout_ms'"},
        {"{\"container\":\"a\",\"destination\":\"b\",\"bandwidth_bytes\":-1}", "'bandwidth_bytes'"},
        {"{\"container\":\"a\",\"destination\":\"b\",\"dry_run\":1}", "'dry_run'"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        struct fm_migration_options o = {.container = "untouched"};
        struct fm_error err = {0};

        assert_int_equal(parse(requests[i].json, &o, &err), -FM_E_INVALID);
        assert_int_equal(err.code, FM_E_INVALID);
        if (!strstr(err.text, requests[i].named))
            fail_msg("%s: '%s' does not name %s", requests[i].json, err.text, requests[i].named);
        assert_string_equal(o.container, "untouched");
    }
}

static void a_name_of_64_characters_is_too_long(void **state)
{
    char name[65];
    struct fm_migration_options o;
    struct fm_error err = {0};

    (void)state;
    memset(name, 'a', 64);
    name[64] = '\0';
    json_auto_t *doc = json_pack("{s:s, s:s}", "container", name, "destination", "b");
    assert_int_equal(fm_migration_options_from_json(doc, &o, &err), -FM_E_INVALID);
    json_object_set_new(doc, "container", json_string(name + 1));
    assert_int_equal(fm_migration_options_from_json(doc, &o, &err), 0);
    assert_string_equal(o.container, name + 1);
}

static void stats_keep_their_units(void **state)
{
    struct fm_migration_stats stats = {.freeze_ms = 12.5, .wire_bytes = UINT64_C(5) << 32};
    json_auto_t *doc = fm_migration_stats_to_json(&stats);

    (void)state;
    assert_true(json_real_value(json_object_get(doc, "freeze_ms")) == 12.5);
    assert_int_equal(json_integer_value(json_object_get(doc, "wire_bytes")), UINT64_C(5) << 32);
    assert_true(json_is_integer(json_object_get(doc, "held_frames")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_short_request_gets_the_defaults),
        cmocka_unit_test(every_option_survives_the_way_through_json),
        cmocka_unit_test(bad_requests_are_refused_by_name),
        cmocka_unit_test(a_name_of_64_characters_is_too_long),
        cmocka_unit_test(stats_keep_their_units),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
