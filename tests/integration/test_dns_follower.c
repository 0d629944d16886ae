/* The DNS manager against BIND and Knot: the same tests with both. Needs root. */
#include "dns_steps.h"

#include <pthread.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

/* ---- all goes well ---- */

static void a_name_follows_its_container(void **state)
{
    (void)state;
    json_t *before = dns_read_move(dns_web());
    dns_says("web.example.test", "A", "300 10.0.0.5\n"); /* reading changes nothing */

    dns_do_step(PREPARE, dns_web(), &before);
    dns_says("web.example.test", "A", "5 10.0.0.5\n");
    dns_says("web.example.test", "AAAA", "5 fd00::5\n");
    dns_says(OLD_PTR, "PTR", dns_in_its_case("5 Web.example.test.\n"));
    dns_says(OLD_PTR6, "PTR", "5 web.example.test.\n");
    dns_says(NEW_PTR, "PTR", "");

    dns_do_step(SWITCH_OVER, dns_web(), &before);
    dns_says("web.example.test", "A", "5 10.1.0.6\n");
    dns_says("web.example.test", "AAAA", "5 fd00:1::6\n");
    dns_says(OLD_PTR, "PTR", "");
    dns_says(OLD_PTR6, "PTR", "");
    dns_says(NEW_PTR, "PTR", "5 web.example.test.\n");
    dns_says(NEW_PTR6, "PTR", "5 web.example.test.\n");

    dns_do_step(FINISH, dns_web(), &before);
    dns_says("web.example.test", "A", "300 10.1.0.6\n");
    dns_says("web.example.test", "AAAA", "400 fd00:1::6\n");
    dns_says(OLD_PTR, "PTR", "");
    dns_says(NEW_PTR, "PTR", "900 web.example.test.\n");
    dns_says(NEW_PTR6, "PTR", "903 web.example.test.\n");
    json_decref(before);
}

static void every_step_can_be_undone_and_repeated(void **state)
{
    fm_autofree char *first = world_dump();

    (void)state;
    assert_non_null(strstr(first, dns_in_its_case("Web.example.test.")));
    for (int last = READ; last <= FINISH; last++) {
        for (int times = 1; times <= 2; times++) {
            json_t *before = dns_read_move(dns_web());
            for (int step = PREPARE; step <= last; step++) {
                for (int i = 0; i < times; i++)
                    dns_do_step((enum step)step, dns_web(), &before);
            }
            fm_autofree char *changed = world_dump();
            assert_int_equal(strcmp(changed, first) == 0, last == READ);
            for (int i = 0; i < times; i++) {
                dns_do_step(UNDO, dns_web(), &before);
                dns_dump_is(first);
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
        json_t *before = dns_read_move(dns_web());
        dns_do_step(PREPARE, dns_web(), &before);
        world_nsupdate("example.test", "update delete web.example.test A\n"
                                       "update delete web.example.test AAAA\n"
                                       "update add web.example.test 5 A 10.1.0.6\n"
                                       "update add web.example.test 5 AAAA fd00:1::6");
        if (complete) {
            dns_do_step(SWITCH_OVER, dns_web(), &before);
            dns_says(OLD_PTR, "PTR", "");
            dns_says(NEW_PTR6, "PTR", "5 web.example.test.\n");
        }
        dns_do_step(UNDO, dns_web(), &before);
        dns_dump_is(first);
        json_decref(before);
    }
}

static void the_neighbours_of_a_name_stay(void **state)
{
    fm_autofree char *first = world_dump();
    const struct fm_move move = dns_move_of("pool", "10.0.0.20", "10.0.0.6", "", "");

    (void)state;
    json_t *before = dns_read_move(&move);
    dns_do_step(PREPARE, &move, &before);
    dns_says("pool.example.test", "A", "5 10.0.0.20\n5 10.0.0.21\n5 10.0.0.22\n");
    dns_do_step(SWITCH_OVER, &move, &before);
    dns_do_step(FINISH, &move, &before);
    dns_says("pool.example.test", "A", "600 10.0.0.21\n600 10.0.0.22\n600 10.0.0.6\n");
    dns_says("20.0.0.10.in-addr.arpa", "PTR", "902 host20.example.test.\n");
    dns_says("6.0.0.10.in-addr.arpa", "PTR", "902 pool.example.test.\n");
    dns_do_step(UNDO, &move, &before);
    dns_dump_is(first);
    json_decref(before);

    /* The new address has a name already: ours comes beside it. */
    const struct fm_move onto = dns_move_of("pool", "10.0.0.20", "10.1.0.6", "", "");
    world_nsupdate("1.10.in-addr.arpa", "update add " NEW_PTR " 700 PTR neighbour.example.test.");
    fm_autofree char *second = world_dump();
    before = dns_read_move(&onto);
    dns_do_step(PREPARE, &onto, &before);
    dns_says(NEW_PTR, "PTR", "5 neighbour.example.test.\n");
    dns_do_step(SWITCH_OVER, &onto, &before);
    dns_do_step(FINISH, &onto, &before);
    dns_says(NEW_PTR, "PTR", "700 neighbour.example.test.\n700 pool.example.test.\n");
    dns_do_step(UNDO, &onto, &before);
    dns_dump_is(second);
    json_decref(before);
}

static void families_come_and_go(void **state)
{
    fm_autofree char *first = world_dump();
    const struct fm_move moves[] = {
        dns_move_of("four", "10.0.0.8", "10.1.0.8", "", "fd00::10"), /* gains IPv6 */
        dns_move_of("web", "10.0.0.5", "10.1.0.5", "fd00::5", ""),   /* loses it */
        dns_move_of("four", "10.0.0.8", "", "", "fd00::10"),         /* changes to it */
        dns_move_of("six", "fd00::8", "fd00::9", "", ""),            /* IPv6 in the first place */
        dns_move_of("web", "10.0.0.5", "10.0.0.5", "fd00::5", "fd00::6"),
        dns_move_of("four", "10.0.0.8", "10.1.0.8", "fd00::7", "fd00::9"), /* IPv6 not in the DNS */
        dns_move_of("quick", "10.0.0.9", "192.0.2.9", "", ""), /* no reverse zone for the new one */
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
        json_t *before = dns_read_move(&moves[i]);
        for (int step = PREPARE; step <= FINISH; step++)
            dns_do_step((enum step)step, &moves[i], &before);
        dns_says(name, "A", expected[i][1]);
        dns_says(name, "AAAA", expected[i][2]);
        dns_do_step(UNDO, &moves[i], &before);
        dns_dump_is(first);
        json_decref(before);
    }
}

static void a_large_set_goes_by_tcp(void **state)
{
    fm_autofree char *first = world_dump();
    const struct fm_move move = dns_move_of("many", "10.0.2.30", "10.1.2.30", "", "");

    (void)state;
    json_t *before = dns_read_move(&move);
    for (int step = PREPARE; step <= FINISH; step++)
        dns_do_step((enum step)step, &move, &before);
    fm_autofree char *out = world_dig("many.example.test", "A");
    assert_non_null(strstr(out, "300 10.1.2.30\n"));
    assert_non_null(strstr(out, "300 10.0.2.31\n"));
    assert_null(strstr(out, "10.0.2.30"));
    dns_do_step(UNDO, &move, &before);
    dns_dump_is(first);
    json_decref(before);
}

static void sha512_works_too(void **state)
{
    struct fm_dns_config config = world_config();

    (void)state;
    config.key_name = WORLD_KEY512;
    config.secret = WORLD_SECRET512;
    config.algorithm = "hmac-sha512";
    dns_open_with(&config);
    a_name_follows_its_container(state);
}

/* ---- whom it does not concern ---- */

static void names_that_lead_elsewhere_are_left_alone(void **state)
{
    const struct fm_move moves[] = {
        dns_move_of("nobody", "10.0.0.5", "10.1.0.5", "", ""), /* no such name */
        dns_move_of("web", "10.0.0.99", "10.1.0.5", "", ""),   /* another address */
        dns_move_of("a..b", "10.0.0.5", "10.1.0.5", "", ""),   /* no name of the DNS */
        dns_move_of("web", "10.0.0.5", "10.0.0.5", "", ""),    /* moves along */
        dns_move_of("web", "10.0.0.5", "10.0.0.5", "fd00::5", "fd00::5"),
    };

    (void)state;
    for (size_t i = 0; i < FM_COUNT(moves); i++) {
        json_t *before = NULL;
        dns_do_step(READ, &moves[i], &before);
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
    dns_open_with(&config);
    struct fm_move move = dns_move_of("redis-7", "10.0.0.5", "10.1.0.6", "", "");
    before = dns_read_move(&move);
    for (int step = PREPARE; step <= FINISH; step++)
        dns_do_step((enum step)step, &move, &before);
    dns_says("web.example.test", "A", "300 10.1.0.6\n");
    dns_do_step(UNDO, &move, &before);
    json_decref(before);

    move = dns_move_of("other", "10.0.0.5", "10.1.0.6", "", "");
    dns_fail_step(READ, &move, &before, FM_E_REFUSED,
                  "pool.example.test. has A 10.0.0.20 10.0.0.21 10.0.0.22");
    move = dns_move_of("none", "10.0.0.5", "10.1.0.6", "", "");
    dns_fail_step(READ, &move, &before, FM_E_REFUSED, "none.example.test. has A nothing");
    move = dns_move_of("alias", "10.0.0.5", "10.1.0.6", "", "");
    dns_fail_step(READ, &move, &before, FM_E_EXISTS, "alias.example.test. is an alias (CNAME)");
}

/* ---- somebody else's changes ---- */

static void a_change_of_somebody_else_stays_and_is_told(void **state)
{
    static const struct {
        enum step before;
        const char *zone, *change, *name, *type, *left, *error;
    } cases[] = {
        {PREPARE, "example.test",
         "update delete web.example.test A\nupdate add web.example.test 300 A 10.9.9.9",
         "web.example.test", "A", "300 10.9.9.9\n", "expected was 10.0.0.5"},
        {SWITCH_OVER, "example.test",
         "update delete web.example.test A\nupdate add web.example.test 60 A 10.9.9.9",
         "web.example.test", "A", "60 10.9.9.9\n",
         "web.example.test. A is now 10.9.9.9 with TTL 60, expected was 10.0.0.5"},
        {SWITCH_OVER, "example.test", "update delete web.example.test AAAA", "web.example.test",
         "AAAA", "", "AAAA is now nothing, expected was fd00::5"},
        {SWITCH_OVER, "1.10.in-addr.arpa", "update add " NEW_PTR " 700 PTR other.example.test.",
         NEW_PTR, "PTR", "700 other.example.test.\n",
         NEW_PTR ". PTR is now other.example.test. with TTL 700, expected was nothing"},
        {FINISH, "example.test",
         "update delete web.example.test A 10.1.0.6\nupdate add web.example.test 5 A 10.9.9.9",
         "web.example.test", "A", "5 10.9.9.9\n", "expected was 10.1.0.6"},
        {FINISH, "example.test",
         "update delete web.example.test A\nupdate add web.example.test 77 A 10.1.0.6",
         "web.example.test", "A", "77 10.1.0.6\n", "with TTL 77, expected was 10.1.0.6"},
    };

    (void)state;
    fm_autofree char *first = world_dump();
    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        json_t *before = dns_read_move(dns_web());
        for (int step = PREPARE; step < (int)cases[i].before; step++)
            dns_do_step((enum step)step, dns_web(), &before);
        world_nsupdate(cases[i].zone, cases[i].change);
        dns_fail_step(cases[i].before, dns_web(), &before, FM_E_REFUSED, cases[i].error);
        dns_says(cases[i].name, cases[i].type, cases[i].left);

        /* What is left of ours goes back, theirs stays, also the second time. */
        dns_fail_step(UNDO, dns_web(), &before, FM_E_REFUSED, "somebody else has changed it");
        dns_fail_step(UNDO, dns_web(), &before, FM_E_REFUSED, cases[i].name);
        dns_says(cases[i].name, cases[i].type, cases[i].left);
        dns_says(OLD_PTR, "PTR", dns_in_its_case("900 Web.example.test.\n"));
        if (!fm_streq(cases[i].type, "AAAA"))
            dns_says("web.example.test", "AAAA", "400 fd00::5\n");

        /* They put it right, and undo has nothing to say any more. */
        fm_autofree char *wipe = fm_strf("update delete %s %s", cases[i].name, cases[i].type);
        world_nsupdate(cases[i].zone, wipe);
        if (fm_streq(cases[i].type, "A"))
            world_nsupdate(cases[i].zone, "update add web.example.test 300 A 10.0.0.5");
        if (fm_streq(cases[i].type, "AAAA"))
            world_nsupdate(cases[i].zone, "update add web.example.test 400 AAAA fd00::5");
        dns_do_step(UNDO, dns_web(), &before);
        dns_dump_is(first);
        json_decref(before);
    }
}

/* Somebody adds and removes addresses of others at every point: they stay so, ours follows. */
static void changes_beside_ours_stay(void **state)
{
    fm_autofree char *first = world_dump();
    const struct fm_move move = dns_move_of("pool", "10.0.0.20", "10.1.0.20", "", "");

    (void)state;
    for (int at = PREPARE; at <= UNDO; at++) {
        json_t *before = dns_read_move(&move);
        for (int step = PREPARE; step <= UNDO; step++) {
            if (step == at)
                world_nsupdate("example.test", "update delete pool.example.test A 10.0.0.22\n"
                                               "update add pool.example.test 5 A 10.9.9.9");
            dns_do_step((enum step)step, &move, &before);
            if (step == FINISH && at <= FINISH)
                dns_says("pool.example.test", "A", "600 10.0.0.21\n600 10.1.0.20\n600 10.9.9.9\n");
        }
        dns_says("pool.example.test", "A", "600 10.0.0.20\n600 10.0.0.21\n600 10.9.9.9\n");
        json_decref(before);
        world_nsupdate("example.test", "update delete pool.example.test A 10.9.9.9\n"
                                       "update add pool.example.test 600 A 10.0.0.22");
        dns_dump_is(first);
    }
}

/* ---- two containers with one name ---- */

/* The steps of one of them, as letters. */
static const char *const courses[] = {"RPSF", "RPSU", "RPU", "RPSFU"};

struct mover {
    struct fm_follower *follower;
    struct fm_move move;
    json_t *before;
    const char *course;
};

static bool is_undone(const char *course)
{
    return strchr(course, 'U') != NULL;
}

static void do_next(struct mover *m)
{
    static const char letters[] = "RPSFU";
    struct fm_follower own = follower;

    follower = *m->follower;
    dns_do_step((enum step)(strchr(letters, *m->course++) - letters), &m->move, &m->before);
    follower = own;
}

/* One order of two moves' steps: bit n of `order` says whose turn the n-th is. */
static void follow(const char *const course[2], struct fm_follower *const followers[2],
                   unsigned order)
{
    struct mover movers[] = {
        {followers[0], dns_move_of("pool", "10.0.0.20", "10.1.0.20", "", ""), NULL, course[0]},
        {followers[1], dns_move_of("pool", "10.0.0.21", "10.1.0.21", "", ""), NULL, course[1]},
    };
    movers[1].move.migration = "another";
    for (size_t left = strlen(course[0]) + strlen(course[1]); left > 0; left--, order >>= 1)
        do_next(&movers[order & 1]);
    fm_autofree char *expected =
        fm_strf("600 10.0.0.22\n%s%s", is_undone(course[0]) ? "" : "600 10.1.0.20\n",
                is_undone(course[1]) ? "" : "600 10.1.0.21\n");
    fm_autofree char *whole = fm_strf("%s%s%s", is_undone(course[0]) ? "600 10.0.0.20\n" : "",
                                      is_undone(course[1]) ? "600 10.0.0.21\n" : "", expected);
    dns_says("pool.example.test", "A", whole);
    dns_says("20.0.1.10.in-addr.arpa", "PTR",
             is_undone(course[0]) ? "" : "902 pool.example.test.\n");
    for (int i = 0; i < 2; i++) {
        if (!is_undone(course[i]))
            dns_do_step(UNDO, &movers[i].move, &movers[i].before);
        json_decref(movers[i].before);
    }
}

static bool is_order_of(unsigned order, const char *const course[2])
{
    size_t all = strlen(course[0]) + strlen(course[1]);
    return (unsigned)__builtin_popcount(order) == strlen(course[1]) && order >> all == 0;
}

/* Every n-th of them. */
static void follow_in_any_order(struct fm_follower *const followers[2], size_t kinds, unsigned nth)
{
    fm_autofree char *first = world_dump();
    unsigned orders = 0, known = 0;

    for (size_t i = 0; i < kinds * kinds; i++) {
        const char *const course[] = {courses[i / kinds], courses[i % kinds]};
        for (unsigned order = 0; order < 1u << 10; order++) {
            if (!is_order_of(order, course) || known++ % nth)
                continue;
            follow(course, followers, order);
            orders++;
        }
        dns_dump_is(first);
    }
    printf("  %u orders\n", orders);
}

static void containers_that_share_a_name_move_in_any_order(void **state)
{
    (void)state;
    follow_in_any_order((struct fm_follower *const[]){&follower, &follower}, 3, 17);
}

/* Of two daemons: the second one does not know that a TTL is low for a while only. */
static void two_daemons_share_a_name(void **state)
{
    struct fm_dns_config config = world_config();
    struct fm_follower other = {0};
    struct fm_error err;

    (void)state;
    assert_int_equal(fm_dns_open(&config, &other, &err), 0);
    follow_in_any_order((struct fm_follower *const[]){&follower, &other}, 2, 13);
    fm_dns_close(&other);
}

/* At the same moment, again and again. */
struct racer {
    pthread_t thread;
    struct fm_follower *follower;
    struct fm_move there, back;
    struct fm_error err;
    int rc;
};

static int run_move(const struct fm_follower *f, const struct fm_move *move, struct fm_error *err)
{
    json_t *before = NULL;
    int rc = f->ops->read(f->ctx, move, &before, err);
    if (rc == 0)
        rc = before ? f->ops->prepare(f->ctx, move, before, err)
                    : fm_error_set(err, FM_E_FAILED, "it does not concern the DNS");
    if (rc == 0)
        rc = f->ops->switch_over(f->ctx, move, before, err);
    if (rc == 0)
        rc = f->ops->finish(f->ctx, move, before, err);
    json_decref(before);
    return rc;
}

static void *race(void *arg)
{
    struct racer *r = arg;
    for (int i = 0; r->rc == 0 && i < 8; i++) {
        r->rc = run_move(r->follower, &r->there, &r->err);
        if (r->rc == 0)
            r->rc = run_move(r->follower, &r->back, &r->err);
    }
    if (r->rc == 0)
        r->rc = run_move(r->follower, &r->there, &r->err);
    return NULL;
}

/* Three at a time; the caller frees what the name has then. */
static char *run_race(struct fm_follower *const followers[3])
{
    static const char *const ips[][2] = {
        {"10.0.0.20", "10.1.0.20"}, {"10.0.0.21", "10.1.0.21"}, {"10.0.0.22", "10.1.0.22"}};
    static const char *const ids[] = {"a", "b", "c"};
    struct racer racers[3] = {0};

    for (int i = 0; i < 3; i++) {
        struct racer *r = &racers[i];
        r->follower = followers[i];
        r->there = dns_move_of("pool", ips[i][0], ips[i][1], "", "");
        r->back = dns_move_of("pool", ips[i][1], ips[i][0], "", "");
        r->there.migration = r->back.migration = ids[i];
        assert_int_equal(pthread_create(&r->thread, NULL, race, r), 0);
    }
    for (int i = 0; i < 3; i++)
        pthread_join(racers[i].thread, NULL);
    for (int i = 0; i < 3; i++)
        if (racers[i].rc < 0)
            fail_msg("%s: %s", ids[i], racers[i].err.text);
    return world_dig("pool.example.test", "A");
}

static void moves_at_the_same_moment_do_not_meet(void **state)
{
    struct fm_dns_config config = world_config();
    struct fm_follower other = {0};
    struct fm_error err;

    (void)state;
    fm_autofree char *one =
        run_race((struct fm_follower *const[]){&follower, &follower, &follower});
    assert_string_equal(one, "600 10.1.0.20\n600 10.1.0.21\n600 10.1.0.22\n");
    world_stop(&world);
    world_start(&world, WORLD_BIND);

    /* Of several daemons only the addresses are sure: a prerequisite cannot hold a TTL. */
    assert_int_equal(fm_dns_open(&config, &other, &err), 0);
    fm_autofree char *several =
        run_race((struct fm_follower *const[]){&follower, &follower, &other});
    fm_dns_close(&other);
    assert_non_null(strstr(several, " 10.1.0.20\n"));
    assert_non_null(strstr(several, " 10.1.0.21\n"));
    assert_non_null(strstr(several, " 10.1.0.22\n"));
    assert_null(strstr(several, " 10.0."));
}

static void a_wildcard_is_not_taken_for_a_record(void **state)
{
    const struct fm_move move = dns_move_of("x.wild", "10.0.0.30", "10.1.0.6", "", "");
    fm_autofree char *first = world_dump();

    (void)state;
    json_t *before = dns_read_move(&move);
    dns_fail_step(PREPARE, &move, &before, FM_E_REFUSED, "a wildcard");
    dns_do_step(UNDO, &move, &before);
    dns_dump_is(first);
    json_decref(before);
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
        BOTH(changes_beside_ours_stay),
        {"containers_that_share_a_name_move_in_any_order (BIND)",
         containers_that_share_a_name_move_in_any_order, dns_set_up_bind, dns_tear_down, NULL},
        {"two_daemons_share_a_name (BIND)", two_daemons_share_a_name, dns_set_up_bind,
         dns_tear_down, NULL},
        {"moves_at_the_same_moment_do_not_meet (BIND)", moves_at_the_same_moment_do_not_meet,
         dns_set_up_bind, dns_tear_down, NULL},
        BOTH(a_wildcard_is_not_taken_for_a_record),
        BOTH(sha512_works_too),
    };

    world_init();
    return cmocka_run_group_tests_name("dns", tests, NULL, NULL);
}
