/* Witnesses: who is asked after a move, and what each kind of answer means. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "migration/witness.h"

#define HOSTS 6
#define IP "10.88.0.5/16"
#define IP6 "fd00:88::5/64"

/* A host as it sees the container: what its look for an address ends with. */
static struct host {
    char name[64];
    enum fm_code open, v4, v6;
    unsigned asked4, asked6;
} hosts[HOSTS];

static struct fm_components parts;
static struct fm_migration m;
static struct fm_error err;

/* ---- what is around it ---- */

static json_t *list_hosts(void *ctx, const char *kind, struct fm_error *e)
{
    json_t *list = json_array();

    (void)ctx;
    (void)e;
    assert_string_equal(kind, "host");
    for (int i = 0; i < HOSTS; i++)
        if (*hosts[i].name)
            json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:i}", "name", hosts[i].name,
                                                  "address", "192.0.2.1", "wire_port", 7441,
                                                  "api_port", 7440));
    return list;
}

static int reach(void *ctx, const char *network, const char *ip, const char *mac,
                 uint64_t *latency_us, struct fm_error *e)
{
    struct host *h = ctx;
    bool is_v6 = strchr(ip, ':') != NULL;
    enum fm_code code = is_v6 ? h->v6 : h->v4;

    assert_string_equal(network, "default");
    assert_string_equal(ip, is_v6 ? IP6 : IP);
    assert_string_equal(mac, "02:00:00:00:00:05");
    is_v6 ? h->asked6++ : h->asked4++;
    *latency_us = is_v6 ? 900 : 100;
    return code ? fm_error_set(e, code, "%s sees %s: %s", h->name, ip, fm_code_text(code)) : 0;
}

static const struct fm_network_ops network_ops = {.reach = reach};

static struct fm_link *open_link(void *ctx, const struct fm_host *host, uint64_t rate,
                                 uint64_t timeout_ms, struct fm_error *e)
{
    (void)ctx;
    (void)rate;
    (void)timeout_ms;
    for (int i = 0; i < HOSTS; i++) {
        if (!fm_streq(hosts[i].name, host->name))
            continue;
        if (!hosts[i].open)
            return (struct fm_link *)&hosts[i];
        fm_error_set(e, hosts[i].open, "no way to %s", host->name);
    }
    return NULL;
}

static void close_link(struct fm_link *link)
{
    (void)link;
}

/* The other host answers as it does in a daemon. */
static json_t *call(struct fm_link *link, int type, const json_t *body, uint64_t timeout_ms,
                    struct fm_error *e)
{
    struct fm_components there = {.network = {.ops = &network_ops, .ctx = link}};

    (void)type;
    (void)timeout_ms;
    return fm_witness_answer(&there, body, e);
}

static const struct fm_link_ops link_ops = {.open = open_link, .close = close_link, .call = call};
static const struct fm_store_ops store_ops = {.list = list_hosts};

static struct host *add_host(const char *name)
{
    for (int i = 0; i < HOSTS; i++) {
        if (*hosts[i].name)
            continue;
        snprintf(hosts[i].name, sizeof(hosts[i].name), "%s", name);
        return &hosts[i];
    }
    fail_msg("too many hosts");
    return NULL;
}

/* From host a, which is asked as the last one, to host b; c, d, e and f may be witnesses. */
static int set_up(void **state)
{
    (void)state;
    memset(hosts, 0, sizeof(hosts));
    err = (struct fm_error){0};
    parts = (struct fm_components){.host = "a",
                                   .store = {.ops = &store_ops},
                                   .links = {.ops = &link_ops},
                                   .network = {.ops = &network_ops, .ctx = add_host("a")}};
    m = (struct fm_migration){.parts = &parts, .has_endpoint = true};
    snprintf(m.options.container, sizeof(m.options.container), "web");
    snprintf(m.destination.name, sizeof(m.destination.name), "b");
    m.endpoint = (struct fm_endpoint){
        .network = "default", .ip = IP, .ip6 = IP6, .mac = "02:00:00:00:00:05"};
    add_host("b");
    return 0;
}

static void assert_said(const char *part)
{
    assert_int_equal(fm_witness_ask(&m, &err), -FM_E_FAILED);
    if (!strstr(err.text, part))
        fail_msg("'%s' does not say '%s'", err.text, part);
}

/* ---- tests ---- */

static void both_addresses_are_asked_for(void **state)
{
    (void)state;
    struct host *c = add_host("c");
    assert_int_equal(fm_witness_ask(&m, &err), 0);
    assert_int_equal(c->asked4, 1);
    assert_int_equal(c->asked6, 1);
    assert_int_equal(hosts[0].asked4 + hosts[1].asked4, 0); /* source and destination */
    m.endpoint.ip6[0] = '\0';
    assert_int_equal(fm_witness_ask(&m, &err), 0);
    assert_int_equal(c->asked6, 1);
}

static void one_address_of_two_is_not_enough(void **state)
{
    (void)state;
    struct host *c = add_host("c"), *d = add_host("d");
    c->v6 = d->v6 = FM_E_UNREACHABLE;
    assert_said("host 'd' does not find 'web': d sees fd00:88::5/64");
    c->v6 = d->v6 = FM_E_OK;
    c->v4 = d->v4 = FM_E_FAILED; /* somebody else answers */
    assert_said("host 'd' does not find 'web': d sees 10.88.0.5/16");
}

/* An interface that is down, a network that is not there: the next host is asked. */
static void who_cannot_tell_does_not_count(void **state)
{
    static const enum fm_code codes[] = {FM_E_REFUSED, FM_E_NOT_FOUND, FM_E_IO, FM_E_PROTOCOL};

    (void)state;
    struct host *c = add_host("c"), *d = add_host("d"), *e = add_host("e"), *f = add_host("f");
    for (size_t i = 0; i < FM_COUNT(codes); i++) {
        f->asked4 = 0;
        c->v4 = d->v4 = codes[i];
        c->v6 = d->v6 = FM_E_OK;
        e->v4 = FM_E_OK;
        e->v6 = codes[i];
        assert_int_equal(fm_witness_ask(&m, &err), 0);
        assert_int_equal(f->asked4, 1); /* the fourth one */
    }
    f->v4 = FM_E_UNREACHABLE; /* alone: the source is asked as well */
    assert_int_equal(fm_witness_ask(&m, &err), 0);
    assert_int_equal(hosts[0].asked6, 1);
    hosts[0].v6 = FM_E_UNREACHABLE;
    assert_said("host 'f' does not find 'web'");
    hosts[0].v6 = FM_E_REFUSED; /* and does not know better */
    assert_said("host 'f' does not find 'web'");
}

static void nobody_can_tell(void **state)
{
    (void)state;
    add_host("c")->open = FM_E_UNREACHABLE;
    add_host("d")->v4 = FM_E_REFUSED;
    hosts[0].v4 = FM_E_REFUSED;
    assert_int_equal(fm_witness_ask(&m, &err), 0);
    hosts[0].v4 = FM_E_UNREACHABLE;
    assert_said("host 'a' does not find 'web'");
}

static void one_that_finds_it_is_enough(void **state)
{
    (void)state;
    add_host("c")->v4 = FM_E_UNREACHABLE;
    add_host("d")->v6 = FM_E_UNREACHABLE;
    struct host *e = add_host("e");
    assert_int_equal(fm_witness_ask(&m, &err), 0);
    assert_int_equal(e->asked6, 1);
    e->v6 = FM_E_UNREACHABLE; /* three are enough */
    struct host *f = add_host("f");
    assert_said("host 'e' does not find 'web'");
    assert_int_equal(f->asked4, 0);
}

static void questions_are_checked(void **state)
{
    static const char *const bad[] = {"{}", "{\"network\":\"default\",\"ip\":\"10.88.0.5/16\"}",
                                      "{\"network\":\"default\",\"mac\":\"x\"}",
                                      "{\"network\":7,\"ip\":\"x\",\"mac\":\"x\"}"};

    (void)state;
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        json_auto_t *body = json_loads(bad[i], 0, NULL);
        json_auto_t *answer = fm_witness_answer(&parts, body, &err);
        assert_null(answer);
        assert_int_equal(err.code, FM_E_PROTOCOL);
    }
    json_auto_t *old = json_pack("{s:s, s:s, s:s}", "network", "default", "ip", IP, "mac",
                                 "02:00:00:00:00:05"); /* one that asks for one address */
    json_auto_t *answer = fm_witness_answer(&parts, old, &err);
    assert_int_equal(json_integer_value(json_object_get(answer, "latency_us")), 100);
    json_object_set_new(old, "ip6", json_string(IP6));
    json_auto_t *slower = fm_witness_answer(&parts, old, &err);
    assert_int_equal(json_integer_value(json_object_get(slower, "latency_us")), 900);
}

#define TEST(function) cmocka_unit_test_setup(function, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(both_addresses_are_asked_for),   TEST(one_address_of_two_is_not_enough),
        TEST(who_cannot_tell_does_not_count), TEST(nobody_can_tell),
        TEST(one_that_finds_it_is_enough),    TEST(questions_are_checked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
