/* The DNS manager and servers that are dead, slow, or lie. Needs root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "cancel_at.h"
#include "dns_liar.h"
#include "dns_world.h"

#define TIMEOUT_MS 450 /* every step against a liar takes so long */
#define PATIENCE_MS 900
#define LIAR_TEXT "DNS server 127.0.0.1 port 5400, zone example.test: "

static struct world world;
static struct fm_follower honest, lying, patient; /* the latter asks the liar, too */
static pid_t liar;

static const struct fm_move web = {
    .migration = "0123456789ab",
    .container = "web",
    .network = "default",
    .mac = "02:00:00:00:00:01",
    .old_ip = "10.0.0.5",
    .new_ip = "10.1.0.6",
    .old_ip6 = "fd00::5",
    .new_ip6 = "fd00:1::6",
};

static void become(enum lie lie)
{
    if (liar)
        liar_stop(liar);
    liar = liar_start(lie);
}

static json_t *read_honestly(void)
{
    struct fm_error err = {0};
    json_t *before = NULL;
    if (honest.ops->read(honest.ctx, &web, &before, &err) < 0)
        fail_msg("%s", err.text);
    assert_non_null(before);
    return before;
}

/* Every step fails within the timeout with one line that says why, and has changed nothing. */
static void steps_fail(enum lie lie, enum fm_code code, const char *expected, bool early)
{
    fm_autofree char *first = world_dump();
    json_t *before = read_honestly();
    int (*const steps[])(void *, const struct fm_move *, const json_t *, struct fm_error *) = {
        lying.ops->prepare, lying.ops->switch_over, lying.ops->finish, lying.ops->undo};

    for (size_t i = 0; i <= FM_COUNT(steps); i++) {
        struct fm_error err = {0};
        json_t *unread = NULL;
        become(lie);
        uint64_t began_ms = fm_now_ms();
        int rc = i == 0 ? lying.ops->read(lying.ctx, &web, &unread, &err)
                        : steps[i - 1](lying.ctx, &web, before, &err);
        uint64_t took_ms = fm_now_ms() - began_ms;
        if (i == 0)
            print_message("    %s\n", err.text);
        assert_null(unread);
        if (rc != -(int)code || !strstr(err.text, expected) || strchr(err.text, '\n') ||
            strncmp(err.text, LIAR_TEXT, strlen(LIAR_TEXT)) != 0)
            fail_msg("step %zu: %d '%s' is not %d '%s'", i, rc, err.text, -(int)code, expected);
        assert_in_range(took_ms, early ? 0 : TIMEOUT_MS - 5, TIMEOUT_MS + 250);
        /* The liar asks the real server, which does its work: undo, honestly. */
        struct fm_error ignored = {0};
        assert_int_equal(honest.ops->undo(honest.ctx, &web, before, &ignored), 0);
    }
    json_decref(before);
    fm_autofree char *last = world_dump();
    assert_string_equal(last, first);
}

static void a_silent_server_is_a_timeout(void **state)
{
    (void)state;
    steps_fail(LIE_SILENCE, FM_E_TIMEOUT, "no answer within 45", false);
}

/* By UDP, and while it says nothing by TCP. */
static void a_wait_can_be_cancelled(void **state)
{
    (void)state;
    const enum lie lies[] = {LIE_SILENCE, LIE_TCP_SILENCE};
    json_t *before = read_honestly();
    for (size_t i = 0; i < 2 * FM_COUNT(lies); i++) {
        struct fm_error err = {0};
        struct fm_move move = web;
        json_t *unread = NULL;
        become(lies[i / 2]);
        uint64_t at_ms = fm_now_ms() + CANCEL_AFTER_MS;
        move.cancel = (struct fm_cancel){.check = cancel_at, .ctx = &at_ms};
        int rc = i % 2 ? lying.ops->read(lying.ctx, &move, &unread, &err)
                       : lying.ops->prepare(lying.ctx, &move, before, &err);
        uint64_t now_ms = fm_now_ms();
        if (rc != -FM_E_CANCELLED)
            fail_msg("%d '%s'", rc, err.text);
        assert_in_range(now_ms, at_ms, at_ms + CANCEL_GRACE_MS);
        assert_int_equal(honest.ops->undo(honest.ctx, &web, before, &err), 0);
    }
    json_decref(before);
}

static void garbage_is_no_answer(void **state)
{
    (void)state;
    steps_fail(LIE_GARBAGE, FM_E_PROTOCOL, "what it answered", false);
}

static void a_flood_of_garbage_ends_in_time(void **state)
{
    (void)state;
    steps_fail(LIE_FLOOD, FM_E_PROTOCOL, "what it answered", false);
}

static void the_answer_to_another_request_is_none(void **state)
{
    (void)state;
    steps_fail(LIE_OTHER_ID, FM_E_PROTOCOL, "belongs to another request", false);
}

static void a_forged_answer_is_found_out(void **state)
{
    (void)state;
    steps_fail(LIE_FORGED, FM_E_AUTH, "wrong signature for the key 'mover.'", false);
}

static void an_unsigned_answer_does_not_count(void **state)
{
    (void)state;
    steps_fail(LIE_UNSIGNED, FM_E_AUTH, "not signed with the key 'mover.'", false);
}

static void an_answer_signed_with_another_key_does_not_count(void **state)
{
    (void)state;
    steps_fail(LIE_OTHER_KEY, FM_E_AUTH, "wrong signature for the key 'mover.'", false);
}

static void a_request_spoilt_on_the_way_is_refused(void **state)
{
    (void)state;
    steps_fail(LIE_REQUEST_SPOILT, FM_E_AUTH, "another secret for the key 'mover.' (BADSIG)", true);
}

static void tcp_is_bounded_too(void **state)
{
    (void)state;
    steps_fail(LIE_CUT_OFF, FM_E_UNREACHABLE, "by TCP: Connection refused", true);
    steps_fail(LIE_TCP_CLOSE, FM_E_CLOSED, "closed the TCP connection", true);
    steps_fail(LIE_TCP_GARBAGE, FM_E_PROTOCOL, "what it answered", true);
    steps_fail(LIE_TCP_SILENCE, FM_E_TIMEOUT, "no answer within 45", false);
    steps_fail(LIE_TCP_HALF, FM_E_TIMEOUT, "no answer within 45", false);
}

/* ---- lies that are seen through ---- */

static void full_cycle(const struct fm_follower *follower)
{
    fm_autofree char *first = world_dump();
    struct fm_error err = {0};
    json_t *before = NULL;
    const struct fm_follower_ops *ops = follower->ops;

    if (ops->read(follower->ctx, &web, &before, &err) < 0 ||
        ops->prepare(follower->ctx, &web, before, &err) < 0 ||
        ops->switch_over(follower->ctx, &web, before, &err) < 0 ||
        ops->finish(follower->ctx, &web, before, &err) < 0)
        fail_msg("%s", err.text);
    fm_autofree char *a = world_dig("web.example.test", "A");
    assert_string_equal(a, "300 10.1.0.6\n");
    if (ops->undo(follower->ctx, &web, before, &err) < 0)
        fail_msg("%s", err.text);
    json_decref(before);
    fm_autofree char *last = world_dump();
    assert_string_equal(last, first);
}

static void among_noise_the_right_answer_counts(void **state)
{
    (void)state;
    become(LIE_NONE);
    full_cycle(&patient);
    become(LIE_NOISE);
    full_cycle(&patient);
}

/* The first request is done twice, because its answer was lost: the second time it finds its
 * prerequisite gone, and its work done. */
static void a_lost_answer_does_not_matter(void **state)
{
    json_t *before = read_honestly();
    struct fm_error err = {0};

    (void)state;
    int (*const steps[])(void *, const struct fm_move *, const json_t *, struct fm_error *) = {
        patient.ops->prepare, patient.ops->switch_over, patient.ops->finish, patient.ops->undo};
    for (size_t i = 0; i < FM_COUNT(steps); i++) {
        become(LIE_LOST_ANSWER);
        if (steps[i](patient.ctx, &web, before, &err) < 0)
            fail_msg("step %zu: %s", i, err.text);
    }
    json_decref(before);
}

static void a_slow_server_has_until_the_timeout(void **state)
{
    struct fm_error err = {0};
    json_t *before = read_honestly(), *unread = NULL;

    (void)state;
    become(LIE_LATE); /* 150 ms each: one zone's update is in time, three zones' are not */
    uint64_t began_ms = fm_now_ms();
    int rc = lying.ops->read(lying.ctx, &web, &unread, &err);
    print_message("    %s\n", err.text);
    assert_int_equal(rc, -FM_E_TIMEOUT);
    assert_null(unread);
    assert_in_range(fm_now_ms() - began_ms, TIMEOUT_MS - 5, TIMEOUT_MS + 250);

    struct fm_dns_config config = world_config();
    config.port = LIAR_PORT;
    config.timeout_ms = 20000;
    config.retries = 0;
    struct fm_follower slow = {0};
    assert_int_equal(fm_dns_open(&config, &slow, &err), 0);
    full_cycle(&slow);
    fm_dns_close(&slow);
    json_decref(before);
}

/* An old answer, with the id of the new request: its signature is over the old request's. */
static void a_replayed_answer_is_found_out(void **state)
{
    struct fm_error err = {0};
    json_t *unread = NULL;

    (void)state;
    become(LIE_REPLAY);
    assert_int_equal(lying.ops->read(lying.ctx, &web, &unread, &err), -FM_E_PROTOCOL);
    print_message("    %s\n", err.text); /* the first question was another one */
    assert_int_equal(fm_dns_check(&lying, &err), -FM_E_AUTH);
    print_message("    %s\n", err.text);
    assert_non_null(strstr(err.text, "wrong signature"));
}

/* ---- */

static int set_up(void **state)
{
    struct fm_dns_config config = world_config();
    struct fm_error err = {0};

    (void)state;
    world_start(&world, WORLD_BIND);
    if (fm_dns_open(&config, &honest, &err) < 0)
        return -1;
    config.port = LIAR_PORT;
    config.timeout_ms = PATIENCE_MS;
    if (fm_dns_open(&config, &patient, &err) < 0)
        return -1;
    config.timeout_ms = TIMEOUT_MS;
    return fm_dns_open(&config, &lying, &err);
}

static int tear_down(void **state)
{
    (void)state;
    if (liar)
        liar_stop(liar);
    liar = 0;
    fm_dns_close(&honest);
    fm_dns_close(&lying);
    fm_dns_close(&patient);
    world_stop(&world);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_silent_server_is_a_timeout),
        cmocka_unit_test(a_wait_can_be_cancelled),
        cmocka_unit_test(garbage_is_no_answer),
        cmocka_unit_test(a_flood_of_garbage_ends_in_time),
        cmocka_unit_test(the_answer_to_another_request_is_none),
        cmocka_unit_test(a_forged_answer_is_found_out),
        cmocka_unit_test(an_unsigned_answer_does_not_count),
        cmocka_unit_test(an_answer_signed_with_another_key_does_not_count),
        cmocka_unit_test(a_request_spoilt_on_the_way_is_refused),
        cmocka_unit_test(tcp_is_bounded_too),
        cmocka_unit_test(among_noise_the_right_answer_counts),
        cmocka_unit_test(a_lost_answer_does_not_matter),
        cmocka_unit_test(a_slow_server_has_until_the_timeout),
        cmocka_unit_test(a_replayed_answer_is_found_out),
    };

    world_init();
    return cmocka_run_group_tests_name("dns faults", tests, set_up, tear_down);
}
