/* Followers that do not hear the end of a migration: they are told again, until it is done or
 * somebody has told them something newer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "fakes/world.h"

#define NAMES (&world.notices[0])
#define BALANCER (&world.notices[1])

static char id[16], events[512];
static struct fm_error err;

static void hear(const json_t *event, void *ctx)
{
    size_t len = strlen(events);

    (void)ctx;
    if (strcmp(world_field((json_t *)(uintptr_t)event, "type"), "followers") == 0)
        snprintf(events + len, sizeof(events) - len, "%s;",
                 world_field((json_t *)(uintptr_t)event, "message"));
}

static int open_world(void **state)
{
    (void)state;
    world_open("redis");
    world_exchange(); /* both know its lease */
    fm_events_subscribe(HOST_A->parts.events, hear, NULL);
    err = (struct fm_error){0};
    *events = '\0';
    return 0;
}

static int close_world(void **state)
{
    (void)state;
    world_close();
    return 0;
}

static void assert_well(const struct host *where)
{
    const char *wrong = world_wrong("redis", id, where);

    if (wrong)
        fail_msg("%s", wrong);
}

/* What the daemon of host a does when the time has come. */
static void retry_on_a(void)
{
    json_auto_t *ids = fm_journal_left(HOST_A->parts.journal, NULL, UINT64_MAX);
    struct on_host on = world_enter_host(HOST_A);
    json_t *entry;
    size_t i;

    json_array_foreach(ids, i, entry)
    {
        struct fm_migration *m = fm_migration_load(&HOST_A->parts, json_string_value(entry), &err);
        assert_non_null(m);
        fm_coordinator_retry(m);
        fm_migration_free(m);
    }
    world_leave_host(&on);
}

/* The names of those that are left, and nothing else is. */
static void assert_left(const char *names, int attempts)
{
    json_auto_t *doc = world_document(HOST_A, id);
    const json_t *left = json_object_get(doc, "followers_left");
    char text[128] = "";
    json_t *name;
    size_t i;

    json_array_foreach(json_object_get(left, "followers"), i, name)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s ", json_string_value(name));
    assert_string_equal(text, names);
    assert_int_equal(json_integer_value(json_object_get(left, "attempts")), attempts);
    assert_int_equal(json_is_true(json_object_get(doc, "needs_attention")), *names != '\0');
}

static size_t due_in_ms(uint64_t ms)
{
    json_auto_t *ids = fm_journal_left(HOST_A->parts.journal, NULL, fm_realtime_us() + ms * 1000);

    return json_array_size(ids);
}

static void one_that_is_deaf_at_the_end_is_told_later(void **state)
{
    (void)state;
    BALANCER->deaf_to_end = true;
    assert_int_equal(world_migrate(HOST_A, "redis", id, &err), 0);
    assert_left("balancer ", 1);
    assert_false(NAMES->prepared);
    assert_true(BALANCER->prepared);
    assert_int_equal(due_in_ms(0), 0);
    assert_int_equal(due_in_ms(1000), 1);
    retry_on_a();
    assert_left("balancer ", 2);
    assert_int_equal(due_in_ms(1000), 0); /* later each time … */
    assert_int_equal(due_in_ms(2000), 1);
    for (int i = 0; i < 20; i++)
        retry_on_a();
    assert_int_equal(due_in_ms(59000), 0); /* … up to a minute */
    assert_int_equal(due_in_ms(60000), 1);
    assert_left("balancer ", 22);
    BALANCER->deaf_to_end = false;
    *events = '\0';
    retry_on_a();
    assert_left("", 0);
    assert_string_equal(events, "All followers are done with it.;");
    assert_int_equal(due_in_ms(1000000), 0);
    assert_well(HOST_B);
}

static void it_is_not_forgotten_with_the_daemon(void **state)
{
    (void)state;
    NAMES->deaf_to_end = true;
    assert_int_equal(world_migrate(HOST_A, "redis", id, &err), 0);
    world_restart(HOST_A);
    assert_left("names ", 2);
    NAMES->deaf_to_end = false;
    world_restart(HOST_A);
    assert_left("", 0);
    assert_well(HOST_B);
}

/* The balancer is taken back first. */
static void names_go_deaf(const char *what)
{
    if (strcmp(what, "follower.undo") == 0)
        NAMES->deaf_to_end = true;
}

static void roll_back_with_deaf_names(void)
{
    world.inject_what = "follower.switch";
    world.injection = FAIL_BEFORE;
    world.at_call = names_go_deaf;
    assert_true(world_migrate(HOST_A, "redis", id, &err) < 0);
    world.at_call = NULL;
    world_settle();
    assert_left("names ", 1);
}

static void one_that_was_undone_is_not_undone_again(void **state)
{
    (void)state;
    roll_back_with_deaf_names();
    assert_string_equal(BALANCER->at, "host-a");
    snprintf(BALANCER->at, sizeof(BALANCER->at), "somebody else's");
    world_restart(HOST_A);
    retry_on_a();
    assert_string_equal(BALANCER->at, "somebody else's");
    NAMES->deaf_to_end = false;
    retry_on_a();
    assert_left("", 0);
    assert_string_equal(NAMES->at, "host-a");
    assert_string_equal(BALANCER->at, "somebody else's");
    snprintf(BALANCER->at, sizeof(BALANCER->at), "host-a");
    assert_well(HOST_A);
}

static void a_later_migration_tells_it_first(void **state)
{
    (void)state;
    roll_back_with_deaf_names();
    assert_true(NAMES->prepared);
    NAMES->deaf_to_end = false;
    assert_int_equal(world_migrate(HOST_A, "redis", id, &err), 0);
    assert_well(HOST_B);
}

/* It has told nobody: what is left is still right. */
static void a_later_migration_that_failed_supersedes_nothing(void **state)
{
    char first[16];

    (void)state;
    roll_back_with_deaf_names();
    memcpy(first, id, sizeof(first));
    NAMES->deaf_to_all = true;
    assert_true(world_migrate(HOST_A, "redis", id, &err) < 0);
    NAMES->deaf_to_all = NAMES->deaf_to_end = false;
    world_restart(HOST_A);
    assert_well(HOST_A);
    memcpy(id, first, sizeof(id));
    assert_left("", 0);
}

/* What another host has told them since is not to be undone. */
static void it_is_superseded_by_a_later_move(void **state)
{
    (void)state;
    BALANCER->deaf_to_end = true;
    assert_int_equal(world_migrate(HOST_A, "redis", id, &err), 0);
    assert_left("balancer ", 1);
    BALANCER->prepared = BALANCER->deaf_to_end = false; /* somebody has helped it */
    char back[16];
    assert_int_equal(world_migrate(HOST_B, "redis", back, &err), 0);
    *events = '\0';
    retry_on_a();
    assert_left("", 0);
    assert_string_equal(BALANCER->at, "host-a");
    assert_well(HOST_A);
}

static void one_that_guards_itself_is_told_all_the_same(void **state)
{
    (void)state;
    NAMES->deaf_to_end = true;
    assert_int_equal(world_migrate(HOST_A, "redis", id, &err), 0);
    NAMES->prepared = NAMES->deaf_to_end = false;
    char back[16];
    assert_int_equal(world_migrate(HOST_B, "redis", back, &err), 0);
    unsigned int told = NAMES->told;
    retry_on_a();
    assert_int_equal(NAMES->told, told + 1);
    assert_left("", 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, open_world, close_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(one_that_is_deaf_at_the_end_is_told_later),
        TEST(it_is_not_forgotten_with_the_daemon),
        TEST(one_that_was_undone_is_not_undone_again),
        TEST(a_later_migration_tells_it_first),
        TEST(a_later_migration_that_failed_supersedes_nothing),
        TEST(it_is_superseded_by_a_later_move),
        TEST(one_that_guards_itself_is_told_all_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
