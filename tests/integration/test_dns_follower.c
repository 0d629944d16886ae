/* The DNS manager against BIND and Knot: the same tests with both. Needs root. */
#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "dns_world.h"

enum step { READ, PREPARE, SWITCH_OVER, FINISH, UNDO };

static struct world world;
static struct fm_follower follower;

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

/* ---- moves ---- */

static struct fm_move move_of(const char *container, const char *old_ip, const char *new_ip,
                              const char *old_ip6, const char *new_ip6)
{
    return (struct fm_move){
        .migration = "0123456789ab",
        .container = container,
        .network = "default",
        .mac = "02:00:00:00:00:01",
        .old_ip = old_ip,
        .new_ip = new_ip,
        .old_ip6 = old_ip6,
        .new_ip6 = new_ip6,
        .source = "host-a",
        .destination = "host-b",
        .source_address = "192.0.2.1",
        .destination_address = "192.0.2.2",
    };
}

static const struct fm_move *web(void)
{
    static struct fm_move move;
    move = move_of("web", "10.0.0.5", "10.1.0.6", "fd00::5", "fd00:1::6");
    return &move;
}

static int try_step(enum step step, const struct fm_move *move, json_t **before,
                    struct fm_error *err)
{
    const struct fm_follower_ops *ops = follower.ops;
    *err = (struct fm_error){0};
    switch (step) {
    case READ:
        return ops->read(follower.ctx, move, before, err);
    case PREPARE:
        return ops->prepare(follower.ctx, move, *before, err);
    case SWITCH_OVER:
        return ops->switch_over(follower.ctx, move, *before, err);
    case FINISH:
        return ops->finish(follower.ctx, move, *before, err);
    case UNDO:
        return ops->undo(follower.ctx, move, *before, err);
    }
    return -1;
}

static void do_step(enum step step, const struct fm_move *move, json_t **before)
{
    struct fm_error err;
    if (try_step(step, move, before, &err) < 0)
        fail_msg("step %d: %s", (int)step, err.text);
}

static void fail_step(enum step step, const struct fm_move *move, json_t **before,
                      enum fm_code code, const char *expected)
{
    struct fm_error err;
    int rc = try_step(step, move, before, &err);
    print_message("    %s\n", err.text);
    assert_int_equal(rc, -(int)code);
    if (!strstr(err.text, expected))
        fail_msg("'%s' does not say '%s'", err.text, expected);
}

static json_t *read_move(const struct fm_move *move)
{
    json_t *before = NULL;
    do_step(READ, move, &before);
    assert_non_null(before);
    return before;
}

static void says(const char *name, const char *type, const char *expected)
{
    fm_autofree char *out = world_dig(name, type);
    if (!fm_streq(out, expected))
        fail_msg("%s %s is '%s', not '%s'", name, type, out, expected);
}

/* Knot keeps names in lower case. */
static const char *in_its_case(const char *text)
{
    static char lower[64];
    if (world.kind == WORLD_BIND)
        return text;
    for (size_t i = 0; i == 0 || lower[i - 1]; i++)
        lower[i] = (char)tolower((unsigned char)text[i]);
    return lower;
}

static void dump_is(const char *expected)
{
    fm_autofree char *now = world_dump();
    assert_string_equal(now, expected);
}

#define OLD_PTR "5.0.0.10.in-addr.arpa"
#define NEW_PTR "6.0.1.10.in-addr.arpa"
#define OLD_PTR6 "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa"
#define NEW_PTR6 "6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa"

/* ---- all goes well ---- */

static void a_name_follows_its_container(void **state)
{
    (void)state;
    json_t *before = read_move(web());
    says("web.example.test", "A", "300 10.0.0.5\n"); /* reading changes nothing */

    do_step(PREPARE, web(), &before);
    says("web.example.test", "A", "5 10.0.0.5\n");
    says("web.example.test", "AAAA", "5 fd00::5\n");
    says(OLD_PTR, "PTR", in_its_case("5 Web.example.test.\n"));
    says(OLD_PTR6, "PTR", "5 web.example.test.\n");
    says(NEW_PTR, "PTR", "");

    do_step(SWITCH_OVER, web(), &before);
    says("web.example.test", "A", "5 10.1.0.6\n");
    says("web.example.test", "AAAA", "5 fd00:1::6\n");
    says(OLD_PTR, "PTR", "");
    says(OLD_PTR6, "PTR", "");
    says(NEW_PTR, "PTR", "5 web.example.test.\n");
    says(NEW_PTR6, "PTR", "5 web.example.test.\n");

    do_step(FINISH, web(), &before);
    says("web.example.test", "A", "300 10.1.0.6\n");
    says("web.example.test", "AAAA", "400 fd00:1::6\n");
    says(OLD_PTR, "PTR", "");
    says(NEW_PTR, "PTR", "900 web.example.test.\n");
    says(NEW_PTR6, "PTR", "903 web.example.test.\n");
    json_decref(before);
}

static void every_step_can_be_undone_and_repeated(void **state)
{
    fm_autofree char *first = world_dump();

    (void)state;
    assert_non_null(strstr(first, in_its_case("Web.example.test.")));
    for (int last = READ; last <= FINISH; last++) {
        for (int times = 1; times <= 2; times++) {
            json_t *before = read_move(web());
            for (int step = PREPARE; step <= last; step++) {
                for (int i = 0; i < times; i++)
                    do_step((enum step)step, web(), &before);
            }
            fm_autofree char *changed = world_dump();
            assert_int_equal(strcmp(changed, first) == 0, last == READ);
            for (int i = 0; i < times; i++) {
                do_step(UNDO, web(), &before);
                dump_is(first);
            }
            json_decref(before);
        }
    }
}

/* A daemon dies after the update of one zone, before that of the next. */
static void a_step_done_by_half_is_completed_or_undone(void **state)
{
    fm_autofree char *first = world_dump();

    (void)state;
    for (int complete = 0; complete < 2; complete++) {
        json_t *before = read_move(web());
        do_step(PREPARE, web(), &before);
        world_nsupdate("example.test", "update delete web.example.test A\n"
                                       "update delete web.example.test AAAA\n"
                                       "update add web.example.test 5 A 10.1.0.6\n"
                                       "update add web.example.test 5 AAAA fd00:1::6");
        if (complete) {
            do_step(SWITCH_OVER, web(), &before);
            says(OLD_PTR, "PTR", "");
            says(NEW_PTR6, "PTR", "5 web.example.test.\n");
        }
        do_step(UNDO, web(), &before);
        dump_is(first);
        json_decref(before);
    }
}

static void the_neighbours_of_a_name_stay(void **state)
{
    fm_autofree char *first = world_dump();
    const struct fm_move move = move_of("pool", "10.0.0.20", "10.0.0.6", "", "");

    (void)state;
    json_t *before = read_move(&move);
    do_step(PREPARE, &move, &before);
    says("pool.example.test", "A", "5 10.0.0.20\n5 10.0.0.21\n5 10.0.0.22\n");
    do_step(SWITCH_OVER, &move, &before);
    do_step(FINISH, &move, &before);
    says("pool.example.test", "A", "600 10.0.0.21\n600 10.0.0.22\n600 10.0.0.6\n");
    says("20.0.0.10.in-addr.arpa", "PTR", "902 host20.example.test.\n");
    says("6.0.0.10.in-addr.arpa", "PTR", "902 pool.example.test.\n");
    do_step(UNDO, &move, &before);
    dump_is(first);
    json_decref(before);

    /* The new address has a name already: ours comes beside it. */
    const struct fm_move onto = move_of("pool", "10.0.0.20", "10.1.0.6", "", "");
    world_nsupdate("1.10.in-addr.arpa", "update add " NEW_PTR " 700 PTR neighbour.example.test.");
    fm_autofree char *second = world_dump();
    before = read_move(&onto);
    do_step(PREPARE, &onto, &before);
    says(NEW_PTR, "PTR", "5 neighbour.example.test.\n");
    do_step(SWITCH_OVER, &onto, &before);
    do_step(FINISH, &onto, &before);
    says(NEW_PTR, "PTR", "700 neighbour.example.test.\n700 pool.example.test.\n");
    do_step(UNDO, &onto, &before);
    dump_is(second);
    json_decref(before);
}

static void families_come_and_go(void **state)
{
    fm_autofree char *first = world_dump();
    const struct fm_move moves[] = {
        move_of("four", "10.0.0.8", "10.1.0.8", "", "fd00::10"), /* gains IPv6 */
        move_of("web", "10.0.0.5", "10.1.0.5", "fd00::5", ""),   /* loses it */
        move_of("four", "10.0.0.8", "", "", "fd00::10"),         /* changes to it */
        move_of("six", "fd00::8", "fd00::9", "", ""),            /* IPv6 in the first place */
        move_of("web", "10.0.0.5", "10.0.0.5", "fd00::5", "fd00::6"),
        move_of("four", "10.0.0.8", "10.1.0.8", "fd00::7", "fd00::9"), /* IPv6 not in the DNS */
        move_of("quick", "10.0.0.9", "192.0.2.9", "", ""), /* no reverse zone for the new one */
    };
    static const char *const expected[][4] = {
        {"four", "300 10.1.0.8\n", "300 fd00::10\n"},
        {"web", "300 10.1.0.5\n", ""},
        {"four", "", "300 fd00::10\n"},
        {"six", "", "300 fd00::9\n"},
        {"web", "300 10.0.0.5\n", "400 fd00::6\n"},
        {"four", "300 10.1.0.8\n", ""},
        {"quick", "2 192.0.2.9\n", ""},
    };

    (void)state;
    for (size_t i = 0; i < FM_COUNT(moves); i++) {
        fm_autofree char *name = fm_strf("%s.example.test", expected[i][0]);
        json_t *before = read_move(&moves[i]);
        for (int step = PREPARE; step <= FINISH; step++)
            do_step((enum step)step, &moves[i], &before);
        says(name, "A", expected[i][1]);
        says(name, "AAAA", expected[i][2]);
        do_step(UNDO, &moves[i], &before);
        dump_is(first);
        json_decref(before);
    }
}

static void a_large_set_goes_by_tcp(void **state)
{
    fm_autofree char *first = world_dump();
    const struct fm_move move = move_of("many", "10.0.2.30", "10.1.2.30", "", "");

    (void)state;
    json_t *before = read_move(&move);
    for (int step = PREPARE; step <= FINISH; step++)
        do_step((enum step)step, &move, &before);
    fm_autofree char *out = world_dig("many.example.test", "A");
    assert_non_null(strstr(out, "300 10.1.2.30\n"));
    assert_non_null(strstr(out, "300 10.0.2.31\n"));
    assert_null(strstr(out, "10.0.2.30"));
    do_step(UNDO, &move, &before);
    dump_is(first);
    json_decref(before);
}

/* ---- whom it does not concern ---- */

static void open_with(const struct fm_dns_config *config)
{
    struct fm_error err = {0};
    fm_dns_close(&follower);
    if (fm_dns_open(config, &follower, &err) < 0)
        fail_msg("%s", err.text);
}

static void names_that_lead_elsewhere_are_left_alone(void **state)
{
    const struct fm_move moves[] = {
        move_of("nobody", "10.0.0.5", "10.1.0.5", "", ""), /* no such name */
        move_of("web", "10.0.0.99", "10.1.0.5", "", ""),   /* another address */
        move_of("a..b", "10.0.0.5", "10.1.0.5", "", ""),   /* no name of the DNS */
        move_of("web", "10.0.0.5", "10.0.0.5", "", ""),    /* moves along */
        move_of("web", "10.0.0.5", "10.0.0.5", "fd00::5", "fd00::5"),
    };

    (void)state;
    for (size_t i = 0; i < FM_COUNT(moves); i++) {
        json_t *before = NULL;
        do_step(READ, &moves[i], &before);
        assert_null(before);
    }
}

static void a_configured_name_must_lead_to_its_container(void **state)
{
    static const struct fm_dns_name names[] = {
        {"redis-7", "web"}, {"other", "pool.example.test"}, {"none", "none"}, {"alias", "alias"}};
    struct fm_dns_config config = world_config();
    json_t *before = NULL;

    (void)state;
    config.names = names;
    config.name_count = FM_COUNT(names);
    open_with(&config);
    struct fm_move move = move_of("redis-7", "10.0.0.5", "10.1.0.6", "", "");
    before = read_move(&move);
    for (int step = PREPARE; step <= FINISH; step++)
        do_step((enum step)step, &move, &before);
    says("web.example.test", "A", "300 10.1.0.6\n");
    do_step(UNDO, &move, &before);
    json_decref(before);

    move = move_of("other", "10.0.0.5", "10.1.0.6", "", "");
    fail_step(READ, &move, &before, FM_E_REFUSED,
              "pool.example.test. has A 10.0.0.20 10.0.0.21 10.0.0.22");
    move = move_of("none", "10.0.0.5", "10.1.0.6", "", "");
    fail_step(READ, &move, &before, FM_E_REFUSED, "none.example.test. has A nothing");
    move = move_of("alias", "10.0.0.5", "10.1.0.6", "", "");
    fail_step(READ, &move, &before, FM_E_EXISTS, "alias.example.test. is an alias (CNAME)");
}

/* ---- somebody else's changes ---- */

static void a_change_of_somebody_else_stays_and_is_told(void **state)
{
    static const struct {
        enum step before;
        const char *zone, *change, *name, *type, *left, *error;
    } cases[] = {
        {PREPARE, "example.test", "update add web.example.test 300 A 10.9.9.9", "web.example.test",
         "A", "300 10.0.0.5\n300 10.9.9.9\n", "expected was 10.0.0.5"},
        {SWITCH_OVER, "example.test",
         "update delete web.example.test A\nupdate add web.example.test 60 A 10.9.9.9",
         "web.example.test", "A", "60 10.9.9.9\n",
         "web.example.test. A is now 10.9.9.9 with TTL 60, expected was 10.0.0.5"},
        {SWITCH_OVER, "example.test", "update delete web.example.test AAAA", "web.example.test",
         "AAAA", "", "AAAA is now nothing, expected was fd00::5"},
        {SWITCH_OVER, "1.10.in-addr.arpa", "update add " NEW_PTR " 700 PTR other.example.test.",
         NEW_PTR, "PTR", "700 other.example.test.\n",
         NEW_PTR ". PTR is now other.example.test. with TTL 700, expected was nothing"},
        {FINISH, "example.test", "update add web.example.test 5 A 10.9.9.9", "web.example.test",
         "A", "5 10.1.0.6\n5 10.9.9.9\n", "expected was 10.1.0.6"},
        {FINISH, "example.test",
         "update delete web.example.test A\nupdate add web.example.test 77 A 10.1.0.6",
         "web.example.test", "A", "77 10.1.0.6\n", "with TTL 77, expected was 10.1.0.6"},
    };

    (void)state;
    fm_autofree char *first = world_dump();
    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        json_t *before = read_move(web());
        for (int step = PREPARE; step < (int)cases[i].before; step++)
            do_step((enum step)step, web(), &before);
        world_nsupdate(cases[i].zone, cases[i].change);
        fail_step(cases[i].before, web(), &before, FM_E_REFUSED, cases[i].error);
        says(cases[i].name, cases[i].type, cases[i].left);

        /* What is left of ours goes back, theirs stays, also the second time. */
        fail_step(UNDO, web(), &before, FM_E_REFUSED, "somebody else has changed it");
        fail_step(UNDO, web(), &before, FM_E_REFUSED, cases[i].name);
        says(cases[i].name, cases[i].type, cases[i].left);
        says(OLD_PTR, "PTR", in_its_case("900 Web.example.test.\n"));
        if (!fm_streq(cases[i].type, "AAAA"))
            says("web.example.test", "AAAA", "400 fd00::5\n");

        /* They put it right, and undo has nothing to say any more. */
        fm_autofree char *wipe = fm_strf("update delete %s %s", cases[i].name, cases[i].type);
        world_nsupdate(cases[i].zone, wipe);
        if (fm_streq(cases[i].type, "A"))
            world_nsupdate(cases[i].zone, "update add web.example.test 300 A 10.0.0.5");
        if (fm_streq(cases[i].type, "AAAA"))
            world_nsupdate(cases[i].zone, "update add web.example.test 400 AAAA fd00::5");
        do_step(UNDO, web(), &before);
        dump_is(first);
        json_decref(before);
    }
}

static void a_wildcard_is_not_taken_for_a_record(void **state)
{
    const struct fm_move move = move_of("x.wild", "10.0.0.30", "10.1.0.6", "", "");
    fm_autofree char *first = world_dump();

    (void)state;
    json_t *before = read_move(&move);
    fail_step(PREPARE, &move, &before, FM_E_REFUSED, "a wildcard");
    do_step(UNDO, &move, &before);
    dump_is(first);
    json_decref(before);
}

/* ---- keys, rights and zones ---- */

static void sha512_works_too(void **state)
{
    struct fm_dns_config config = world_config();

    (void)state;
    config.key_name = WORLD_KEY512;
    config.secret = WORLD_SECRET512;
    config.algorithm = "hmac-sha512";
    open_with(&config);
    a_name_follows_its_container(state);
}

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
    open_with(&config);
    fail_step(READ, web(), &before, FM_E_AUTH,
              "DNS server 127.0.0.1 port 5300, zone example.test: it does not know the key "
              "'stranger.' with hmac-sha256, or does not allow it this (BADKEY)");
    assert_int_equal(fm_dns_check(&follower, &err), -FM_E_AUTH);

    config = world_config();
    config.algorithm = "hmac-sha512";
    open_with(&config);
    fail_step(READ, web(), &before, FM_E_AUTH, "with hmac-sha512, or");

    config = world_config();
    config.secret = WORLD_SECRET512;
    open_with(&config);
    fail_step(READ, web(), &before, FM_E_AUTH, "another secret for the key 'mover.' (BADSIG)");

    config = world_config();
    config.zone = "example.com";
    open_with(&config);
    fail_step(READ, web(), &before, FM_E_REFUSED, "zone example.com: it has not got this zone");

    config = world_config();
    config.zone = "sub.example.test";
    open_with(&config);
    fail_step(READ, web(), &before, FM_E_INVALID, "no zone that begins there");
    assert_int_equal(fm_dns_check(&follower, &err), -FM_E_INVALID);

    config = world_config();
    config.reverse_zones = wrong_reverse;
    open_with(&config);
    fail_step(READ, web(), &before, FM_E_REFUSED, "zone 10.in-addr.arpa: it has not got");
    assert_int_equal(fm_dns_check(&follower, &err), -FM_E_REFUSED);
    assert_null(before);
    dump_is(first);
}

/* The journal of a daemon whose server has lost a zone meanwhile. */
static void a_zone_that_is_gone_is_told(void **state)
{
    json_t *before = read_move(web());
    json_t *record = json_array_get(json_object_get(before, "records"), 0);

    (void)state;
    json_object_set_new(record, "zone", json_string("gone.test."));
    json_object_set_new(record, "name", json_string("web.gone.test."));
    fail_step(PREPARE, web(), &before, FM_E_INVALID,
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
    open_with(&config);
    json_t *before = read_move(web());
    struct fm_error err;
    assert_true(try_step(PREPARE, web(), &before, &err) < 0);
    print_message("    %s\n", err.text);
    assert_non_null(strstr(err.text, "'guest.'"));
    assert_non_null(strstr(err.text, "updates"));
    do_step(UNDO, web(), &before);
    dump_is(first);
    json_decref(before);
}

static void a_clock_that_differs_is_told(void **state)
{
    json_t *before = NULL;

    (void)state;
    clock_offset_s = 3600;
    fail_step(READ, web(), &before, FM_E_AUTH, "behind this host's, too much for the key");
    clock_offset_s = -3600;
    fail_step(READ, web(), &before, FM_E_AUTH, "(BADTIME): set both clocks");
    clock_offset_s = 200;
    do_step(READ, web(), &before);
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
    open_with(&config);
    json_t *before = read_move(web());
    do_step(PREPARE, web(), &before);
    world_stop(&world);
    uint64_t began_ms = fm_now_ms();
    fail_step(SWITCH_OVER, web(), &before, FM_E_UNREACHABLE,
              "DNS server 127.0.0.1 port 5300, zone example.test: nobody listens there");
    fail_step(UNDO, web(), &before, FM_E_UNREACHABLE, "nobody listens there");
    assert_in_range(fm_now_ms() - began_ms, 2990, 3500);

    world_start(&world, kind); /* with the zones of the beginning: as after an undo */
    do_step(UNDO, web(), &before);
    do_step(SWITCH_OVER, web(), &before);
    do_step(FINISH, web(), &before);
    says("web.example.test", "A", "300 10.1.0.6\n");
    json_decref(before);
}

static void updates_are_fast_and_seen_at_once(void **state)
{
    enum { ROUNDS = 50 };
    uint64_t switch_us = 0, undo_us = 0;

    (void)state;
    const struct fm_move move = move_of("web", "10.0.0.5", "10.1.0.6", "", "");
    struct fm_dns_config config = world_config();
    config.reverse_zones = NULL;
    open_with(&config);
    json_t *before = read_move(&move);
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t a = fm_now_us();
        do_step(SWITCH_OVER, &move, &before);
        uint64_t b = fm_now_us();
        json_t *now = NULL;
        struct fm_move back = move_of("web", "10.1.0.6", "10.0.0.5", "", "");
        do_step(READ, &back, &now); /* the very next query sees it */
        assert_non_null(now);
        json_decref(now);
        uint64_t c = fm_now_us();
        do_step(UNDO, &move, &before);
        undo_us += fm_now_us() - c;
        switch_us += b - a;
    }
    print_message("    one signed update: %.2f ms; undo, which reads before: %.2f ms\n",
                  (double)switch_us / ROUNDS / 1000, (double)undo_us / ROUNDS / 1000);
    json_decref(before);
}

/* ---- */

static int set_up(enum world_kind kind)
{
    struct fm_dns_config config = world_config();
    struct fm_error err = {0};
    world_start(&world, kind);
    return fm_dns_open(&config, &follower, &err);
}

static int set_up_bind(void **state)
{
    (void)state;
    return set_up(WORLD_BIND);
}

static int set_up_knot(void **state)
{
    (void)state;
    return set_up(WORLD_KNOT);
}

static int tear_down(void **state)
{
    (void)state;
    fm_dns_close(&follower);
    world_stop(&world);
    return 0;
}

#define BOTH(test)                                                                                 \
    {#test " (BIND)", test, set_up_bind, tear_down, NULL},                                         \
    {                                                                                              \
#test " (Knot)", test, set_up_knot, tear_down, NULL                                        \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(a_name_follows_its_container),
        BOTH(every_step_can_be_undone_and_repeated),
        BOTH(a_step_done_by_half_is_completed_or_undone),
        BOTH(the_neighbours_of_a_name_stay),
        BOTH(families_come_and_go),
        BOTH(a_large_set_goes_by_tcp),
        BOTH(names_that_lead_elsewhere_are_left_alone),
        BOTH(a_configured_name_must_lead_to_its_container),
        BOTH(a_change_of_somebody_else_stays_and_is_told),
        BOTH(a_wildcard_is_not_taken_for_a_record),
        BOTH(sha512_works_too),
        BOTH(each_wrong_setting_has_a_line_of_its_own),
        BOTH(a_zone_that_is_gone_is_told),
        BOTH(a_key_without_the_right_to_update_fails_the_preparation),
        BOTH(a_clock_that_differs_is_told),
        BOTH(a_server_that_dies_in_between_is_found_again),
        BOTH(updates_are_fast_and_seen_at_once),
    };

    world_init();
    return cmocka_run_group_tests_name("dns", tests, NULL, NULL);
}
