/* The DNS manager with wrong settings, and BIND and Knot that go away. Needs root. */
#include "dns_steps.h"

#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"

/* In the place of the C library's, for ldns too: this host's clock as the test wants it. */
static time_t clock_offset_s;

int gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
    struct timespec now;
    (void)tz;
    clock_gettime(CLOCK_REALTIME, &now);
    *tv = (struct timeval){now.tv_sec + clock_offset_s, now.tv_nsec / 1000};
    return 0;
}

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name) */
time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec += clock_offset_s;
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}

/* ---- keys, rights and zones ---- */

static void each_wrong_setting_has_a_line_of_its_own(void **state)
{
    static const char *const wrong_reverse[] = {"10.in-addr.arpa", NULL};
    fm_autofree char *first = world_dump();
    json_t *before = NULL;
    struct fm_error err = {0};

    (void)state;
    struct fm_dns_config config = world_config();
    assert_int_equal(fm_dns_check(&follower, &err), 0);

    config.key_name = "stranger";
    dns_open_with(&config);
    dns_fail_step(READ, dns_web(), &before, FM_E_AUTH,
                  "DNS server 127.0.0.1 port 5300, zone example.test: it does not know the key "
                  "'stranger.' with hmac-sha256, or does not allow it this (BADKEY)");
    assert_int_equal(fm_dns_check(&follower, &err), -FM_E_AUTH);

    config = world_config();
    config.algorithm = "hmac-sha512";
    dns_open_with(&config);
    dns_fail_step(READ, dns_web(), &before, FM_E_AUTH, "with hmac-sha512, or");

    config = world_config();
    config.secret = WORLD_SECRET512;
    dns_open_with(&config);
    dns_fail_step(READ, dns_web(), &before, FM_E_AUTH,
                  "another secret for the key 'mover.' (BADSIG)");

    config = world_config();
    config.zone = "example.com";
    dns_open_with(&config);
    dns_fail_step(READ, dns_web(), &before, FM_E_REFUSED,
                  "zone example.com: it has not got this zone");

    config = world_config();
    config.zone = "sub.example.test";
    dns_open_with(&config);
    dns_fail_step(READ, dns_web(), &before, FM_E_INVALID, "no zone that begins there");
    assert_int_equal(fm_dns_check(&follower, &err), -FM_E_INVALID);

    config = world_config();
    config.reverse_zones = wrong_reverse;
    dns_open_with(&config);
    dns_fail_step(READ, dns_web(), &before, FM_E_REFUSED, "zone 10.in-addr.arpa: it has not got");
    assert_int_equal(fm_dns_check(&follower, &err), -FM_E_REFUSED);
    assert_null(before);
    dns_dump_is(first);
}

/* The journal of a daemon whose server has lost a zone meanwhile. */
static void a_zone_that_is_gone_is_told(void **state)
{
    json_t *before = dns_read_move(dns_web());
    json_t *record = json_array_get(json_object_get(before, "records"), 0);

    (void)state;
    json_object_set_new(record, "zone", json_string("gone.test."));
    json_object_set_new(record, "name", json_string("web.gone.test."));
    dns_fail_step(
        PREPARE, dns_web(), &before, FM_E_INVALID,
        "zone gone.test: it is not this zone's primary server, or not for the key 'mover.' "
        "(NOTAUTH)");
    json_decref(before);
}

static void a_key_without_the_right_to_update_fails_the_preparation(void **state)
{
    struct fm_dns_config config = world_config();
    fm_autofree char *first = world_dump();

    (void)state;
    config.key_name = WORLD_GUEST;
    config.secret = WORLD_GUEST_SECRET;
    dns_open_with(&config);
    json_t *before = dns_read_move(dns_web());
    struct fm_error err;
    assert_true(dns_try_step(PREPARE, dns_web(), &before, &err) < 0);
    print_message("    %s\n", err.text);
    assert_non_null(strstr(err.text, "'guest.'"));
    assert_non_null(strstr(err.text, "updates"));
    dns_do_step(UNDO, dns_web(), &before);
    dns_dump_is(first);
    json_decref(before);
}

static void a_clock_that_differs_is_told(void **state)
{
    json_t *before = NULL;

    (void)state;
    clock_offset_s = 3600;
    dns_fail_step(READ, dns_web(), &before, FM_E_AUTH, "behind this host's, too much for the key");
    clock_offset_s = -3600;
    dns_fail_step(READ, dns_web(), &before, FM_E_AUTH, "(BADTIME): set both clocks");
    clock_offset_s = 200;
    dns_do_step(READ, dns_web(), &before);
    clock_offset_s = 0;
    json_decref(before);
}

/* ---- a server that goes away ---- */

static void a_server_that_dies_in_between_is_found_again(void **state)
{
    enum world_kind kind = world.kind;
    struct fm_dns_config config = world_config();

    (void)state;
    config.timeout_ms = 1500;
    dns_open_with(&config);
    json_t *before = dns_read_move(dns_web());
    dns_do_step(PREPARE, dns_web(), &before);
    world_stop(&world);
    uint64_t began_ms = fm_now_ms();
    dns_fail_step(SWITCH_OVER, dns_web(), &before, FM_E_UNREACHABLE,
                  "DNS server 127.0.0.1 port 5300, zone example.test: nobody listens there");
    dns_fail_step(UNDO, dns_web(), &before, FM_E_UNREACHABLE, "nobody listens there");
    assert_in_range(fm_now_ms() - began_ms, 2990, 3500);

    world_start(&world, kind); /* with the zones of the beginning: as after an undo */
    dns_do_step(UNDO, dns_web(), &before);
    dns_do_step(SWITCH_OVER, dns_web(), &before);
    dns_do_step(FINISH, dns_web(), &before);
    dns_says("web.example.test", "A", "300 10.1.0.6\n");
    json_decref(before);
}

static void updates_are_fast_and_seen_at_once(void **state)
{
    enum { ROUNDS = 50 };
    uint64_t switch_us = 0, undo_us = 0;

    (void)state;
    const struct fm_move move = dns_move_of("web", "10.0.0.5", "10.1.0.6", "", "");
    struct fm_dns_config config = world_config();
    config.reverse_zones = NULL;
    dns_open_with(&config);
    json_t *before = dns_read_move(&move);
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t a = fm_now_us();
        dns_do_step(SWITCH_OVER, &move, &before);
        uint64_t b = fm_now_us();
        json_t *now = NULL;
        struct fm_move back = dns_move_of("web", "10.1.0.6", "10.0.0.5", "", "");
        dns_do_step(READ, &back, &now); /* the very next query sees it */
        assert_non_null(now);
        json_decref(now);
        uint64_t c = fm_now_us();
        dns_do_step(UNDO, &move, &before);
        undo_us += fm_now_us() - c;
        switch_us += b - a;
    }
    print_message("    one signed update: %.2f ms; undo, which reads before: %.2f ms\n",
                  (double)switch_us / ROUNDS / 1000, (double)undo_us / ROUNDS / 1000);
    json_decref(before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(each_wrong_setting_has_a_line_of_its_own),
        BOTH(a_zone_that_is_gone_is_told),
        BOTH(a_key_without_the_right_to_update_fails_the_preparation),
        BOTH(a_clock_that_differs_is_told),
        BOTH(a_server_that_dies_in_between_is_found_again),
        BOTH(updates_are_fast_and_seen_at_once),
    };

    world_init();
    return cmocka_run_group_tests_name("dns settings", tests, NULL, NULL);
}
