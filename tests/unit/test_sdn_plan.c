/* What a move means for the switches, the flows that a controller lists, and the journal's form. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "network/sdn_flow.h"
#include "network/sdn_plan.h"

#define MAC "02:fd:0a:43:00:05"

static const char *const urls[] = {"http://127.0.0.1:8080", NULL};
static const struct fm_topology_switch switches[] = {
    {"left", 1}, {"middle", 0xffffffffffffffff}, {"right", 3}};
static const struct fm_topology_link links[] = {
    {"left", "middle", 2, 1, {.capacity_bps = 1000000}},
    {"middle", "right", 2, 2, {.capacity_bps = 1000000}},
};
static const struct fm_topology_host hosts[] = {
    {.name = "host-a", .at = "left", .port = 1},
    {.name = "host-b", .at = "right", .port = 1},
    {.name = "host-c", .at = "right", .port = 9},
};

static struct fm_sdn_config base_config(void)
{
    return (struct fm_sdn_config){
        .controllers = urls,
        .topology = {switches, FM_COUNT(switches), links, FM_COUNT(links), hosts, FM_COUNT(hosts)},
        .queue = -1,
        .meter = -1,
    };
}

static struct fm_move move_of(const char *from, const char *to)
{
    return (struct fm_move){.migration = "m1",
                            .container = "web",
                            .network = "lan",
                            .mac = "02:FD:0A:43:00:05",
                            .old_ip = "10.67.0.5",
                            .new_ip = "10.67.0.5",
                            .old_ip6 = "",
                            .new_ip6 = "",
                            .source = from,
                            .destination = to,
                            .source_address = "fd00::1",
                            .destination_address = "fd00::2"};
}

static void make(const struct fm_sdn_config *config, const struct fm_move *move,
                 struct fm_sdn_plan *plan)
{
    struct fm_sdn_settings settings;
    struct fm_error err = {0};
    int rc = fm_sdn_settings_take(config, &settings, &err);
    if (rc == 0)
        rc = fm_sdn_plan_make(&settings, move, plan, &err);
    if (rc < 0)
        fail_msg("%s", err.text);
    fm_sdn_settings_clear(&settings);
}

static void test_nearest_to_the_destination_first(void **state)
{
    (void)state;
    struct fm_sdn_config config = base_config();
    struct fm_move move = move_of("host-a", "host-b");
    struct fm_sdn_plan plan;
    make(&config, &move, &plan);
    assert_int_equal(plan.count, 3);
    static const struct {
        const char *name;
        uint32_t old_port, new_port;
        unsigned old_rank;
    } expected[] = {{"right", 2, 1, 2}, {"middle", 1, 2, 1}, {"left", 1, 2, 0}};
    for (unsigned i = 0; i < 3; i++) {
        assert_string_equal(plan.changes[i].name, expected[i].name);
        assert_int_equal(plan.changes[i].old_port, expected[i].old_port);
        assert_int_equal(plan.changes[i].new_port, expected[i].new_port);
        assert_int_equal(plan.changes[i].old_rank, expected[i].old_rank);
        assert_int_equal(plan.changes[i].new_rank, i);
    }
    assert_string_equal(json_string_value(json_object_get(plan.match, "dl_dst")), MAC);
    fm_sdn_plan_clear(&plan);

    /* Between two hosts on one switch the others need no change. */
    move = move_of("host-b", "host-c");
    make(&config, &move, &plan);
    assert_int_equal(plan.count, 1);
    assert_string_equal(plan.changes[0].name, "right");
    fm_sdn_plan_clear(&plan);
}

static void test_listed_ports_come_first(void **state)
{
    (void)state;
    static const struct fm_sdn_port ports[] = {{"host-x", "right", 5},
                                               {"host-x", "left", 6},
                                               {"host-y", "left", 7},
                                               {"host-y", "right", 5}};
    struct fm_sdn_config config = base_config();
    struct fm_move move = move_of("host-x", "host-y");
    struct fm_sdn_plan plan;
    config.ports = ports;
    config.port_count = FM_COUNT(ports);
    make(&config, &move, &plan);
    assert_int_equal(plan.count, 1); /* `right` sees both on port 5 */
    assert_string_equal(plan.changes[0].name, "left");
    assert_int_equal(plan.changes[0].old_port, 6);
    assert_int_equal(plan.changes[0].new_port, 7);
    assert_int_equal(plan.changes[0].old_rank, 1);
    fm_sdn_plan_clear(&plan);

    struct fm_sdn_settings settings;
    struct fm_error err = {0};
    config.port_count = 3; /* `right` sees only host-x */
    assert_int_equal(fm_sdn_settings_take(&config, &settings, &err), 0);
    assert_int_equal(fm_sdn_plan_make(&settings, &move, &plan, &err), -FM_E_INVALID);
    assert_non_null(strstr(err.text, "'right'"));
    fm_sdn_plan_clear(&plan);
    fm_sdn_settings_clear(&settings);
}

static void test_other_networks(void **state)
{
    (void)state;
    static const char *const networks[] = {"elsewhere", NULL};
    struct fm_sdn_config config = base_config();
    struct fm_move move = move_of("host-a", "host-b");
    struct fm_sdn_plan plan;
    config.networks = networks;
    make(&config, &move, &plan);
    assert_int_equal(plan.count, 0);
    fm_sdn_plan_clear(&plan);
}

static void test_bad_configuration(void **state)
{
    (void)state;
    static const struct fm_sdn_port unknown[] = {{"host-a", "nowhere", 1}};
    static const struct fm_sdn_port zero[] = {{"host-a", "left", 0}};
    static const struct fm_sdn_port twice[] = {{"host-a", "left", 1}, {"host-a", "left", 2}};
    static const char *const no_url[] = {"127.0.0.1:8080", NULL};
    static const char *const none[] = {NULL};
    struct fm_sdn_config bad[10];
    static const char *const words[FM_COUNT(bad)] = {
        "'nowhere'",  "port 0", "two ports",   "127.0.0.1:8080", "no SDN controller",
        "priority 1", "2^53",   "no switches", "between hosts",  "meter 4294901761"};
    for (size_t i = 0; i < FM_COUNT(bad); i++)
        bad[i] = base_config();
    bad[0].ports = unknown;
    bad[1].ports = zero;
    bad[2].ports = twice;
    bad[0].port_count = bad[1].port_count = 1;
    bad[2].port_count = 2;
    bad[3].controllers = no_url;
    bad[4].controllers = none;
    bad[5].priority = 1;
    bad[6].cookie = 1ULL << 53;
    bad[7].topology.switch_count = 0;
    bad[8].reserve_bps = 1;
    bad[9].meter = 0xffff0001;
    bad[8].topology.host_count = 1;
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct fm_follower follower;
        struct fm_error err = {0};
        assert_int_equal(fm_sdn_open(&bad[i], &follower, &err), -FM_E_INVALID);
        if (!strstr(err.text, words[i]))
            fail_msg("case %zu: %s", i, err.text);
        assert_null(follower.ctx);
    }
}

static void test_journal(void **state)
{
    (void)state;
    struct fm_sdn_config config = base_config();
    struct fm_move move = move_of("host-a", "host-b");
    struct fm_sdn_plan plan;
    struct fm_sdn_plan copy;
    struct fm_error err = {0};
    config.reserve_bps = 1000;
    config.queue = 3;
    make(&config, &move, &plan);
    assert_int_equal(plan.lane_count, 3);
    assert_string_equal(json_string_value(json_object_get(plan.lane_match, "ipv6_dst")), "fd00::2");
    struct fm_sdn_key key = {0, 20000, plan.match};
    plan.changes[1].settled = fm_sdn_flow_make(&key, plan.cookie, fm_sdn_actions(1));
    json_t *saved = fm_sdn_plan_save(&plan);
    assert_non_null(saved);
    assert_int_equal(fm_sdn_plan_load(saved, &copy, &err), 0);
    json_t *again = fm_sdn_plan_save(&copy);
    assert_true(json_equal(saved, again));
    assert_true(copy.changes[1].target.dpid == 0xffffffffffffffff);
    json_decref(again);
    fm_sdn_plan_clear(&copy);

    /* Every part is needed, and of its own type. */
    const char *name;
    json_t *value;
    json_t *whole = json_deep_copy(saved);
    json_object_foreach(whole, name, value)
    {
        json_t *broken = json_deep_copy(saved);
        json_object_set_new(broken, name, json_true());
        if (fm_sdn_plan_load(broken, &copy, &err) != -FM_E_INVALID)
            fail_msg("'%s' may be anything", name);
        json_decref(broken);
    }
    json_decref(whole);
    json_decref(saved);
    fm_sdn_plan_clear(&plan);
    assert_int_equal(fm_sdn_plan_load(NULL, &copy, &err), -FM_E_INVALID);
}

#define FLOW(more)                                                                                 \
    "{\"table_id\":0,\"priority\":7,\"cookie\":1,\"match\":{},\"actions\":[]" more "}"

static void test_listed_flows(void **state)
{
    (void)state;
    static const char good[] =
        "[{\"table_id\":0,\"priority\":9,\"cookie\":1.8446744073709552e19,\"packet_count\":5,"
        "\"match\":{\"eth_dst\":\"" MAC "\"},\"actions\":[\"OUTPUT:2\"]},"
        "{\"table_id\":0,\"priority\":9,\"cookie\":5,\"match\":{\"dl_dst\":\"" MAC "\"},"
        "\"actions\":[]}]";
    static const char *const bad[] = {
        "[5]",
        "[null]",
        "[{}]",
        "[{\"table_id\":0,\"priority\":7,\"cookie\":\"x\",\"match\":{},\"actions\":[]}]",
        "[{\"table_id\":0,\"priority\":70000,\"cookie\":1,\"match\":{},\"actions\":[]}]",
        "[{\"table_id\":-1,\"priority\":7,\"cookie\":1,\"match\":{},\"actions\":[]}]",
        "[{\"table_id\":0,\"priority\":7,\"cookie\":1,\"match\":[],\"actions\":[]}]",
        "[{\"table_id\":0,\"priority\":7,\"cookie\":1,\"match\":{},\"actions\":\"drop\"}]",
        "[" FLOW("") "," FLOW(",\"flags\":\"all\"") "]",
    };
    struct fm_error err = {0};
    json_t *flows = json_array();
    json_t *listed = json_loads(good, 0, NULL);
    assert_int_equal(fm_sdn_flows_take(listed, flows, &err), 0);
    json_decref(listed);
    assert_int_equal(json_array_size(flows), 1); /* two spellings of one place */
    json_t *match = json_pack("{s:s}", "dl_dst", MAC);
    struct fm_sdn_key key = {0, 9, match};
    const json_t *flow = fm_sdn_flow_find(flows, &key);
    assert_non_null(flow);
    assert_true(fm_sdn_flow_forwards(flow));
    assert_false(fm_sdn_flow_has_cookie(flow, FM_SDN_COOKIE));
    assert_null(json_object_get(flow, "packet_count"));
    key.priority = 8;
    assert_null(fm_sdn_flow_find(flows, &key));
    json_decref(match);
    json_decref(flows);
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        flows = json_array();
        listed = json_loads(bad[i], 0, NULL);
        assert_non_null(listed);
        if (fm_sdn_flows_take(listed, flows, &err) != -FM_E_PROTOCOL)
            fail_msg("taken: %s", bad[i]);
        json_decref(listed);
        json_decref(flows);
    }
}

static void test_entries(void **state)
{
    (void)state;
    static const char *const foreign[] = {"GROUP:1",          "OUTPUT:NORMAL", "OUTPUT:",
                                          "SET_FIELD: {a:b}", "OUTPUT:-1",     "OUTPUT:4294967296"};
    json_t *match = json_pack("{s:s}", "dl_dst", MAC);
    struct fm_sdn_key key = {0, 9, match};
    struct fm_error err = {0};
    json_t *flow = fm_sdn_flow_make(&key, 5, fm_sdn_lane_actions(6, 4, 2));
    json_t *entry = fm_sdn_flow_entry(flow, &err);
    json_t *wanted = json_pack("[{s:s s:i} {s:s s:i} {s:s s:i}]", "type", "METER", "meter_id", 6,
                               "type", "SET_QUEUE", "queue_id", 4, "type", "OUTPUT", "port", 2);
    assert_true(json_equal(json_object_get(entry, "actions"), wanted));
    assert_string_equal(json_string_value(json_object_get(entry, "cookie_mask")),
                        "0xffffffffffffffff");
    json_decref(wanted);
    json_decref(entry);
    json_decref(flow);
    for (size_t i = 0; i < FM_COUNT(foreign); i++) {
        flow = fm_sdn_flow_make(&key, 5, json_pack("[s]", foreign[i]));
        assert_null(fm_sdn_flow_entry(flow, &err));
        assert_int_equal(err.code, FM_E_INVALID);
        json_decref(flow);
    }
    json_decref(match);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nearest_to_the_destination_first),
        cmocka_unit_test(test_listed_ports_come_first),
        cmocka_unit_test(test_other_networks),
        cmocka_unit_test(test_bad_configuration),
        cmocka_unit_test(test_journal),
        cmocka_unit_test(test_listed_flows),
        cmocka_unit_test(test_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
