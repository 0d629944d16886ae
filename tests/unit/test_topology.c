/* Ways through a topology of switches, and what is reserved on them. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "network/topology.h"

/* a─s1: the direct way s1─s4 is slow and wide, the one over s2 fast and narrow, the one over s3
 * neither. b─s4. s5 and c are apart. */
static const char square[] =
    "{\"switches\":[{\"name\":\"s1\",\"dpid\":1},{\"name\":\"s2\",\"dpid\":2},"
    "{\"name\":\"s3\",\"dpid\":3},{\"name\":\"s4\",\"dpid\":4},{\"name\":\"s5\",\"dpid\":5}],"
    "\"links\":["
    "{\"a\":\"s1\",\"port_a\":14,\"b\":\"s4\",\"port_b\":41,\"latency_ms\":10,"
    "\"capacity_bps\":10000},"
    "{\"a\":\"s1\",\"port_a\":12,\"b\":\"s2\",\"port_b\":21,\"latency_ms\":1,"
    "\"capacity_bps\":1000,\"loss\":0.1},"
    "{\"a\":\"s2\",\"port_a\":24,\"b\":\"s4\",\"port_b\":42,\"latency_ms\":1.5,"
    "\"capacity_bps\":2000,\"loss\":0.5},"
    "{\"a\":\"s4\",\"port_a\":43,\"b\":\"s3\",\"port_b\":34,\"latency_ms\":2,"
    "\"capacity_bps\":5000},"
    "{\"a\":\"s1\",\"port_a\":13,\"b\":\"s3\",\"port_b\":31,\"latency_ms\":2,"
    "\"capacity_bps\":4000}],"
    "\"hosts\":[{\"name\":\"a\",\"switch\":\"s1\",\"port\":1},"
    "{\"name\":\"b\",\"switch\":\"s4\",\"port\":1},{\"name\":\"c\",\"switch\":\"s5\",\"port\":1}]}";

static struct fm_topology *load(const char *text, struct fm_error *err)
{
    json_t *document = json_loads(text, 0, NULL);
    assert_non_null(document);
    struct fm_topology *t = fm_topology_load(document, err);
    json_decref(document);
    return t;
}

static struct fm_topology *load_square(void)
{
    struct fm_error err = {0};
    struct fm_topology *t = load(square, &err);
    if (!t)
        fail_msg("%s", err.text);
    return t;
}

static void assert_path(const struct fm_path *path, const char *const *names)
{
    size_t count = 0;
    for (; names[count]; count++) {
        assert_true(count < path->count);
        assert_string_equal(path->hops[count].name, names[count]);
    }
    assert_int_equal(path->count, count);
}

static void test_shortest_and_widest(void **state)
{
    (void)state;
    static const char *const fast[] = {"s1", "s2", "s4", NULL};
    static const char *const wide[] = {"s1", "s4", NULL};
    static const char *const between[] = {"s1", "s3", "s4", NULL};
    struct fm_topology *t = load_square();
    struct fm_path_request request = {.from = "a", .to = "b"};
    struct fm_path path;
    struct fm_error err = {0};

    assert_int_equal(fm_topology_path(t, &request, &path, &err), 0);
    assert_path(&path, fast);
    assert_int_equal(path.hops[0].dpid, 1);
    assert_int_equal(path.hops[0].in_port, 1);
    assert_int_equal(path.hops[0].out_port, 12);
    assert_int_equal(path.hops[1].in_port, 21);
    assert_int_equal(path.hops[1].out_port, 24);
    assert_int_equal(path.hops[2].in_port, 42);
    assert_int_equal(path.hops[2].out_port, 1);
    assert_true(path.latency_ms > 2.49 && path.latency_ms < 2.51);
    assert_true(path.loss > 0.549 && path.loss < 0.551);
    assert_int_equal(path.bottleneck_bps, 1000);
    fm_path_clear(&path);

    request.order = FM_PATH_WIDEST;
    assert_int_equal(fm_topology_path(t, &request, &path, &err), 0);
    assert_path(&path, wide);
    assert_int_equal(path.bottleneck_bps, 10000);
    fm_path_clear(&path);

    request.order = FM_PATH_LATENCY;
    request.free_bps = 3000;
    assert_int_equal(fm_topology_path(t, &request, &path, &err), 0);
    assert_path(&path, between);
    fm_path_clear(&path);

    /* The way back goes over the same links. */
    request = (struct fm_path_request){.from = "b", .to = "a"};
    assert_int_equal(fm_topology_path(t, &request, &path, &err), 0);
    assert_int_equal(path.hops[0].in_port, 1);
    assert_int_equal(path.hops[0].out_port, 42);
    assert_int_equal(path.hops[2].out_port, 1);
    fm_path_clear(&path);
    fm_topology_close(t);
}

static void test_no_way(void **state)
{
    (void)state;
    static const struct {
        struct fm_path_request request;
        int rc;
        const char *word;
    } cases[] = {
        {{.from = "a", .to = "c"}, -FM_E_UNREACHABLE, "'c'"},
        {{.from = "a", .to = "nobody"}, -FM_E_NOT_FOUND, "'nobody'"},
        {{.from = "s1", .to = "b"}, -FM_E_NOT_FOUND, "'s1'"},
        {{.from = "a", .to = "a"}, -FM_E_INVALID, "'a'"},
        {{.from = "a", .to = "b", .free_bps = 10001}, -FM_E_NO_SPACE, "at most 10000"},
    };
    struct fm_topology *t = load_square();
    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        struct fm_error err = {0};
        struct fm_path path;
        assert_int_equal(fm_topology_path(t, &cases[i].request, &path, &err), cases[i].rc);
        if (!strstr(err.text, cases[i].word))
            fail_msg("%s", err.text);
        assert_null(path.hops);
    }
    fm_topology_close(t);
}

static void test_routes(void **state)
{
    (void)state;
    struct fm_topology *t = load_square();
    for (int order = FM_PATH_LATENCY; order <= FM_PATH_WIDEST; order++) {
        struct fm_route *routes;
        size_t count;
        struct fm_error err = {0};
        assert_int_equal(
            fm_topology_routes(t, "b", (enum fm_path_order)order, &routes, &count, &err), 0);
        assert_int_equal(count, 4); /* s5 has no way there */
        assert_string_equal(routes[0].name, "s4");
        assert_int_equal(routes[0].port, 1);
        assert_int_equal(routes[0].distance, 0);
        for (size_t i = 1; i < count; i++) {
            assert_true(routes[i].distance >= routes[i - 1].distance);
            if (routes[i].dpid == 1)
                assert_int_equal(routes[i].port, order == FM_PATH_LATENCY ? 12 : 14);
            if (routes[i].dpid == 2)
                assert_int_equal(routes[i].port, 24);
        }
        free(routes);
    }
    fm_topology_close(t);
}

static void test_reservations(void **state)
{
    (void)state;
    static const char *const wide[] = {"s1", "s4", NULL};
    static const char *const between[] = {"s1", "s3", "s4", NULL};
    struct fm_topology *t = load_square();
    struct fm_path_request request = {
        .from = "a", .to = "b", .order = FM_PATH_WIDEST, .free_bps = 4000};
    struct fm_path path;
    struct fm_error err = {0};
    for (int again = 0; again < 2; again++) { /* the same id reserves once */
        assert_int_equal(fm_topology_reserve(t, "m1", &request, &path, &err), 0);
        assert_path(&path, wide);
        assert_int_equal(path.bottleneck_bps, 6000);
        fm_path_clear(&path);
    }
    assert_false(fm_topology_is_shared(t, "m1", "a", "b"));
    assert_int_equal(fm_topology_reserve(t, "m2", &request, &path, &err), 0);
    assert_path(&path, wide);
    fm_path_clear(&path);
    assert_true(fm_topology_is_shared(t, "m1", "a", "b"));
    assert_false(fm_topology_is_shared(t, "m1", "b", "a"));
    assert_int_equal(fm_topology_reserve(t, "m3", &request, &path, &err), 0);
    assert_path(&path, between);
    fm_path_clear(&path);
    assert_int_equal(fm_topology_reserve(t, "m4", &request, &path, &err), -FM_E_NO_SPACE);
    assert_null(path.hops);

    /* The other direction has capacity of its own. */
    struct fm_path_request back = {
        .from = "b", .to = "a", .order = FM_PATH_WIDEST, .free_bps = 10000};
    assert_int_equal(fm_topology_reserve(t, "m5", &back, &path, &err), 0);
    fm_path_clear(&path);

    assert_true(fm_topology_release(t, "m1"));
    assert_false(fm_topology_release(t, "m1"));
    assert_int_equal(fm_topology_reserve(t, "m4", &request, &path, &err), 0);
    assert_path(&path, wide);
    fm_path_clear(&path);
    fm_topology_close(t);
}

static void test_bad_documents(void **state)
{
    (void)state;
#define SWITCHES "\"switches\":[{\"name\":\"s1\",\"dpid\":1},{\"name\":\"s2\",\"dpid\":2}]"
#define LINK(more) "\"links\":[{\"a\":\"s1\",\"port_a\":1,\"b\":\"s2\",\"port_b\":1" more "}]"
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"[]", "object"},
        {"{\"switches\":{}}", "switches"},
        {"{\"switches\":[{\"name\":\"s1\"}]}", "dpid"},
        {"{\"switches\":[{\"name\":\"s1\",\"dpid\":-1}]}", "dpid"},
        {"{\"switches\":[{\"name\":\"s 1\",\"dpid\":1}]}", "s 1"},
        {"{\"switches\":[{\"name\":\"s1\",\"dpid\":1},{\"name\":\"s1\",\"dpid\":2}]}", "twice"},
        {"{\"switches\":[{\"name\":\"s1\",\"dpid\":1},{\"name\":\"s2\",\"dpid\":1}]}", "dpid"},
        {"{" SWITCHES "," LINK(",\"latency_ms\":-1") "}", "latency_ms -1"},
        {"{" SWITCHES "," LINK(",\"capacity_bps\":-5") "}", "capacity_bps -5"},
        {"{" SWITCHES "," LINK(",\"loss\":1") "}", "loss 1"},
        {"{" SWITCHES "," LINK(",\"loss\":-0.1") "}", "loss"},
        {"{" SWITCHES "," LINK(",\"loss\":\"much\"") "}", "loss"},
        {"{" SWITCHES ",\"links\":[{\"a\":\"s1\",\"port_a\":1,\"b\":\"s9\",\"port_b\":1}]}",
         "unknown switch 's9'"},
        {"{" SWITCHES ",\"links\":[{\"a\":\"s1\",\"port_a\":1,\"b\":\"s1\",\"port_b\":2}]}",
         "itself"},
        {"{" SWITCHES ",\"links\":[{\"a\":\"s1\",\"port_a\":0,\"b\":\"s2\",\"port_b\":2}]}",
         "port"},
        {"{" SWITCHES ",\"links\":[{\"a\":\"s1\",\"b\":\"s2\",\"port_b\":2}]}", "link 1"},
        {"{" SWITCHES "," LINK("") ",\"hosts\":[{\"name\":\"a\",\"switch\":\"s1\",\"port\":1}]}",
         "taken"},
        {"{" SWITCHES ",\"hosts\":[{\"name\":\"a\",\"switch\":\"s7\",\"port\":1}]}", "'s7'"},
        {"{" SWITCHES ",\"hosts\":[{\"name\":\"a\",\"switch\":\"s1\",\"port\":1},"
         "{\"name\":\"a\",\"switch\":\"s2\",\"port\":1}]}",
         "twice"},
    };
    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        struct fm_error err = {0};
        assert_null(load(cases[i].text, &err));
        assert_int_equal(err.code, FM_E_INVALID);
        if (!strstr(err.text, cases[i].word))
            fail_msg("%s: %s", cases[i].text, err.text);
    }
}

/* A grid of 8 × 8 switches with ties everywhere: whoever follows the routes arrives. */
static void test_routes_never_loop(void **state)
{
    (void)state;
    enum { SIDE = 8, COUNT = SIDE * SIDE };
    static char names[COUNT][8];
    struct fm_topology_switch switches[COUNT];
    struct fm_topology_link links[2 * COUNT];
    size_t link_count = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof(names[i]), "s%u", i);
        switches[i] = (struct fm_topology_switch){names[i], i};
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        const struct fm_topology_line line = {.latency_ms = i % 3, .capacity_bps = 1000 * (i % 2)};
        if (i % SIDE + 1 < SIDE)
            links[link_count++] = (struct fm_topology_link){names[i], names[i + 1], 10, 11, line};
        if (i + SIDE < COUNT)
            links[link_count++] =
                (struct fm_topology_link){names[i], names[i + SIDE], 20, 21, line};
    }
    struct fm_topology_host host = {.name = "h", .at = "s27", .port = 1};
    struct fm_topology_config config = {switches, COUNT, links, link_count, &host, 1};
    struct fm_error err = {0};
    struct fm_topology *t = fm_topology_open(&config, &err);
    assert_non_null(t);
    for (int order = FM_PATH_LATENCY; order <= FM_PATH_WIDEST; order++) {
        struct fm_route *routes;
        size_t count;
        assert_int_equal(
            fm_topology_routes(t, "h", (enum fm_path_order)order, &routes, &count, &err), 0);
        assert_int_equal(count, COUNT);
        uint32_t port_of[COUNT] = {0};
        for (size_t i = 0; i < count; i++)
            port_of[routes[i].dpid] = routes[i].port;
        for (uint32_t start = 0; start < COUNT; start++) {
            uint32_t at = start;
            unsigned steps = 0;
            while (port_of[at] != 1) {
                uint32_t port = port_of[at];
                at = port == 10 ? at + 1 : port == 11 ? at - 1 : port == 20 ? at + SIDE : at - SIDE;
                assert_true(at < COUNT && ++steps <= COUNT);
            }
            assert_int_equal(at, 27);
        }
        free(routes);
    }
    fm_topology_close(t);
}

static void *reserve_and_release(void *arg)
{
    struct fm_topology *t = arg;
    char id[32];
    snprintf(id, sizeof(id), "m%lx", (unsigned long)pthread_self());
    for (int i = 0; i < 200; i++) {
        struct fm_path_request request = {.from = "a", .to = "b", .free_bps = 2500};
        struct fm_path path;
        struct fm_error err = {0};
        if (fm_topology_reserve(t, id, &request, &path, &err) == 0)
            fm_topology_release(t, id);
        fm_path_clear(&path);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct fm_topology *t = load_square();
    pthread_t threads[4];
    for (size_t i = 0; i < FM_COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reserve_and_release, t), 0);
    for (size_t i = 0; i < FM_COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    struct fm_path_request request = {.from = "a", .to = "b", .order = FM_PATH_WIDEST};
    struct fm_path path;
    struct fm_error err = {0};
    assert_int_equal(fm_topology_path(t, &request, &path, &err), 0);
    assert_int_equal(path.bottleneck_bps, 10000);
    fm_path_clear(&path);
    fm_topology_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shortest_and_widest),
        cmocka_unit_test(test_no_way),
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_reservations),
        cmocka_unit_test(test_bad_documents),
        cmocka_unit_test(test_routes_never_loop),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
