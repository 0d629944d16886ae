#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fakes/world.h"
#include "fakes/wrapped.h"

static char id[16];
static struct fm_error err;
static char told[1024]; /* "PENDING:MigrationManager …" as the events tell it */

static void hear(const json_t *event, void *ctx)
{
    const char *to = json_string_value(json_object_get(event, "to"));
    const char *component = json_string_value(json_object_get(event, "component"));
    size_t len = strlen(told);

    (void)ctx;
    if (to)
        snprintf(told + len, sizeof(told) - len, "%s%s:%s%s", len ? " " : "", to, component,
                 json_is_true(json_object_get(event, "final")) ? "." : "");
}

static int open_world(void **state)
{
    (void)state;
    world_open("redis");
    fm_events_subscribe(HOST_A->parts.events, hear, NULL);
    err = (struct fm_error){0};
    *told = '\0';
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

static void fail_at(const char *call)
{
    world.inject_what = call;
    world.injection = FAIL_BEFORE;
}

#define PENDING_ "PENDING:MigrationManager"
#define PLANNING_ " PLANNING:MigrationManager"
#define PREPARATION_ " PREPARATION:DecisionEngine"
#define EXECUTION_ " EXECUTION:NetworkManager"
#define VERIFICATION_ " VERIFICATION:StateSynchronizer"
#define ROLLED_BACK_ " ROLLBACK:MigrationManager FAILED:MigrationManager."

/* Runs it to its failure in a state: who tells what, in which order, in events and journal. */
static void assert_fails(enum fm_code code, const char *order)
{
    assert_int_equal(world_migrate(HOST_A, "redis", id, &err), -(int)code);
    assert_string_equal(told, order);
    world_settle();
    assert_well(HOST_A);
}

/* ---- the six scenarios ---- */

static void a_migration_succeeds(void **state)
{
    (void)state;
    assert_int_equal(world_migrate(HOST_A, "redis", id, &err), 0);
    assert_string_equal(told, PENDING_ PLANNING_ PREPARATION_ EXECUTION_ VERIFICATION_
                        " COMPLETED:MigrationManager.");
    assert_well(HOST_B);
    fm_autofree char *path = world_path(HOST_A, id);
    assert_string_equal(path, "PENDING>PLANNING>PREPARATION>EXECUTION>VERIFICATION>COMPLETED");
}

static void it_goes_there_and_back_and_there(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct host *from = i % 2 ? HOST_B : HOST_A;

        assert_int_equal(world_migrate(from, "redis", id, &err), 0);
        assert_well(other_host(from));
    }
}

static void an_offline_destination_fails_in_pending(void **state)
{
    (void)state;
    world_crash(HOST_B);
    assert_int_equal(world_migrate(HOST_A, "redis", id, &err), -FM_E_UNREACHABLE);
    assert_string_equal(told, PENDING_ " FAILED:MigrationManager" ROLLED_BACK_);
    world_settle();
    assert_well(HOST_A);
}

static void an_unknown_container_fails_in_pending(void **state)
{
    (void)state;
    assert_int_equal(world_migrate(HOST_A, "nobody", id, &err), -FM_E_NOT_FOUND);
    assert_string_equal(told, PENDING_ " FAILED:MigrationManager" ROLLED_BACK_);
    assert_well(HOST_A);
}

static void an_immovable_container_fails_in_planning(void **state)
{
    struct fm_store *store = &HOST_A->store;
    json_auto_t *doc = store->ops->get(store->ctx, "container", "redis", NULL);

    (void)state;
    json_object_set_new(doc, "labels", json_pack("{s:s}", FM_LABEL_IMMOVABLE, "true"));
    store->ops->put(store->ctx, "container", "redis", doc, NULL);
    assert_fails(FM_E_REFUSED, PENDING_ PLANNING_ " FAILED:DecisionEngine" ROLLED_BACK_);
}

static void a_taken_name_fails_in_planning(void **state)
{
    (void)state;
    copy_of(HOST_B, "redis")->exists = true; /* a dead one that somebody left */
    assert_int_equal(world_migrate(HOST_A, "redis", id, &err), -FM_E_REFUSED);
    assert_string_equal(told, PENDING_ PLANNING_ " FAILED:DecisionEngine" ROLLED_BACK_);
    assert_true(copy_of(HOST_B, "redis")->exists);
    assert_ptr_equal(world_where("redis"), HOST_A);
}

static void a_network_that_cannot_be_staged_fails_in_preparation(void **state)
{
    (void)state;
    fail_at("network.stage");
    assert_fails(FM_E_IO, PENDING_ PLANNING_ PREPARATION_ " FAILED:NetworkManager" ROLLED_BACK_);
}

static void a_corrupt_image_fails_in_execution(void **state)
{
    (void)state;
    fail_at("images.verify");
    assert_fails(FM_E_IO, PENDING_ PLANNING_ PREPARATION_ EXECUTION_
                 " FAILED:StateSynchronizer" ROLLED_BACK_);
}

static void a_sick_container_is_migrated_back(void **state)
{
    (void)state;
    world.unhealthy = true;
    assert_fails(FM_E_FAILED, PENDING_ PLANNING_ PREPARATION_ EXECUTION_ VERIFICATION_
                 " FAILED:ContainerManager" ROLLED_BACK_);
    json_auto_t *doc = world_document(HOST_A, id);
    json_auto_t *back = fm_journal_return_of(HOST_B->parts.journal, id, FM_ROLE_SOURCE);
    assert_string_equal(world_field(doc, "failed_in"), "VERIFICATION");
    assert_string_equal(world_field(back, "result"), "completed");
}

static void a_dead_container_is_restored_from_its_checkpoint(void **state)
{
    (void)state;
    world.unhealthy = world.dies = true;
    assert_fails(FM_E_FAILED, PENDING_ PLANNING_ PREPARATION_ EXECUTION_ VERIFICATION_
                 " FAILED:ContainerManager" ROLLED_BACK_);
    json_auto_t *doc = world_document(HOST_A, id);
    json_t *transitions = json_object_get(doc, "transitions");
    json_t *last = json_array_get(transitions, json_array_size(transitions) - 1);
    assert_non_null(strstr(world_field(last, "message"), "checkpoint that is"));
}

/* After the commit: the original does not run on, it is restored from the same images. */
static void a_destination_that_cannot_run_it_gives_it_up(void **state)
{
    (void)state;
    world.broken_on_b = "state.restore_resume";
    assert_fails(FM_E_FAILED, PENDING_ PLANNING_ PREPARATION_ EXECUTION_
                 " FAILED:StateSynchronizer" ROLLED_BACK_);
    assert_false(copy_of(HOST_A, "redis")->doomed);
}

static void a_resume_that_fails_once_is_tried_again(void **state)
{
    (void)state;
    fail_at("state.restore_resume");
    assert_int_equal(world_migrate(HOST_A, "redis", id, &err), 0);
    assert_well(HOST_B);
}

/* ---- cancel ---- */

struct cancel_case {
    const char *at, *path;
    bool too_late;
};

static const struct cancel_case cancel_cases[] = {
    {"runtime.state", "PENDING>FAILED>ROLLBACK>FAILED", false},
    {"facts.container", "PENDING>PLANNING>FAILED>ROLLBACK>FAILED", false},
    {"tree.receive", "PENDING>PLANNING>PREPARATION>FAILED>ROLLBACK>FAILED", false},
    {"network.hold_prepare", "PENDING>PLANNING>PREPARATION>FAILED>ROLLBACK>FAILED", false},
    {"ARM", "PENDING>PLANNING>PREPARATION>EXECUTION>FAILED>ROLLBACK>FAILED", false},
    {"network.hold_engage", "PENDING>PLANNING>PREPARATION>EXECUTION>FAILED>ROLLBACK>FAILED", false},
    {"FROZEN", "PENDING>PLANNING>PREPARATION>EXECUTION>FAILED>ROLLBACK>FAILED", false},
    {"COMMIT", "PENDING>PLANNING>PREPARATION>EXECUTION>VERIFICATION>COMPLETED", true},
    {"VERIFY", "PENDING>PLANNING>PREPARATION>EXECUTION>VERIFICATION>COMPLETED", true},
};

static void a_cancel_takes_effect_in_each_state(void **state)
{
    for (size_t i = 0; i < FM_COUNT(cancel_cases); i++) {
        const struct cancel_case *c = &cancel_cases[i];

        world.inject_what = c->at;
        world.injection = CANCEL;
        int rc = world_migrate(HOST_A, "redis", id, &err);
        world_settle();
        fm_autofree char *path = world_path(HOST_A, id);
        if (strcmp(path, c->path) != 0)
            fail_msg("cancelled at %s: %s", c->at, path);
        assert_int_equal(rc == 0, c->too_late);
        assert_well(c->too_late ? HOST_B : HOST_A);
        close_world(state);
        open_world(state);
    }
}

/* ---- the rest ---- */

static void a_check_touches_nothing(void **state)
{
    (void)state;
    struct on_host on = world_enter_host(HOST_A);
    json_auto_t *result = fm_coordinator_check(&HOST_A->parts, "redis", "host-b", &err);
    json_auto_t *none = fm_coordinator_check(&HOST_A->parts, "redis", "host-a", &err);
    world_leave_host(&on);
    assert_true(json_is_true(json_object_get(result, "ok")));
    assert_null(none);
    assert_int_equal(err.code, FM_E_INVALID);
    json_auto_t *migrations = fm_journal_list(HOST_A->parts.journal, 10, NULL);
    assert_int_equal(json_array_size(migrations), 0);
    *id = '\0';
    assert_well(HOST_A);
}

/* Looked at from inside the calls, while the source waits for the destination. */
static bool asked_for_attention, took_a_slot;
static void look_for_attention(const char *what)
{
    struct fm_migration *m = world.migrations[0];

    if (strcmp(what, "link.open") != 0 || asked_for_attention || !m || m->parts != &HOST_A->parts)
        return;
    asked_for_attention = m->needs_attention;
    took_a_slot = fm_slots_used(HOST_A->parts.slots) > 0;
}

static void come_back_when_it_shows(const char *what)
{
    look_for_attention(what);
    if (asked_for_attention)
        HOST_B->away = false;
}

static void a_commit_that_nobody_hears_asks_for_attention(void **state)
{
    (void)state;
    asked_for_attention = false;
    world.inject_what = "store.decide(commit)";
    world.injection = CRASH_OTHER; /* the destination, as the source decides */
    world.down_until_ms = 60000;
    world.at_call = look_for_attention;
    assert_int_equal(world_migrate(HOST_A, "redis", id, &err), 0);
    assert_true(asked_for_attention);
    assert_false(took_a_slot);
    world_settle();
    assert_well(HOST_B);
}

/* Others may go on with their work while it waits, for as long as that is. */
static void a_recovery_that_nobody_hears_takes_nobodys_turn(void **state)
{
    (void)state;
    asked_for_attention = false;
    world.inject_what = "store.decide(commit)";
    world.injection = CRASH_AFTER; /* the source, as it has decided */
    world_migrate(HOST_A, "redis", id, &err);
    HOST_B->away = true;
    world.at_call = come_back_when_it_shows;
    world_start(HOST_A);
    assert_true(asked_for_attention);
    assert_false(took_a_slot);
    world_settle();
    assert_well(HOST_B);
}

struct queued {
    const char *name;
    enum fm_priority priority;
    pthread_t thread;
    int rc;
};

static void *migrate_queued(void *arg)
{
    struct queued *q = arg;
    struct fm_error why = {0};
    struct on_host on = world_enter_host(HOST_A);
    struct fm_migration_options options = {.priority = q->priority,
                                           .timeout_ms = 60000,
                                           .preparation_timeout_ms = 60000,
                                           .execution_timeout_ms = 60000,
                                           .verification_timeout_ms = 60000};

    snprintf(options.container, sizeof(options.container), "%s", q->name);
    snprintf(options.destination, sizeof(options.destination), "host-b");
    struct fm_migration *m = fm_migration_new(&HOST_A->parts, &options, NULL, &why);
    q->rc = fm_coordinator_run(m, &why);
    fm_migration_free(m);
    world_leave_host(&on);
    return NULL;
}

/* Who began to be planned, in which order. */
static char order[128];
static void note_order(const json_t *event, void *ctx)
{
    const char *to = json_string_value(json_object_get(event, "to"));
    size_t len = strlen(order);

    (void)ctx;
    if (to && strcmp(to, "PLANNING") == 0)
        snprintf(order + len, sizeof(order) - len, "%s ",
                 json_string_value(json_object_get(event, "container")));
}

static void the_queue_goes_by_priority(void **state)
{
    struct queued q[] = {{.name = "redis", .priority = FM_PRIORITY_LOW},
                         {.name = "nginx", .priority = FM_PRIORITY_NORMAL},
                         {.name = "mysql", .priority = FM_PRIORITY_HIGH}};
    struct fm_slots *slots = HOST_A->parts.slots;

    (void)state;
    *order = '\0';
    world_add_container(HOST_A, "nginx");
    world_add_container(HOST_A, "mysql");
    fm_events_subscribe(HOST_A->parts.events, note_order, NULL);
    for (int i = 0; i < 3; i++)
        fm_slots_force(slots); /* all three are taken */
    for (size_t i = 0; i < FM_COUNT(q); i++) {
        assert_int_equal(__real_pthread_create(&q[i].thread, NULL, migrate_queued, &q[i]), 0);
        while (fm_slots_waiting(slots) != i + 1)
            sched_yield();
    }
    fm_slots_release(slots); /* one after the other */
    for (size_t i = 0; i < FM_COUNT(q); i++)
        pthread_join(q[i].thread, NULL);
    fm_slots_release(slots);
    fm_slots_release(slots);
    assert_string_equal(order, "mysql nginx redis ");
    for (size_t i = 0; i < FM_COUNT(q); i++)
        assert_ptr_equal(world_where(q[i].name), HOST_B);
}

/* With the hold itself: when it ends, and with the daemon that had it. */
static void the_hold_ends_in_the_journal(void **state)
{
    (void)state;
    assert_int_equal(world_migrate(HOST_A, "redis", id, &err), 0);
    assert_false(fm_journal_has(HOST_A->parts.journal, id, FM_STEP_HOLD, NULL));
    fail_at("network.hold_engage");
    assert_true(world_migrate(HOST_B, "redis", id, &err) < 0);
    assert_non_null(strstr(world.hit, "hold_engage"));
    assert_false(fm_journal_has(HOST_B->parts.journal, id, FM_STEP_HOLD, NULL));
    *world.hit = '\0';
    world.injection = CRASH_BEFORE;
    world_migrate(HOST_B, "redis", id, &err);
    assert_true(fm_journal_has(HOST_B->parts.journal, id, FM_STEP_HOLD, NULL));
    world_settle();
    assert_false(fm_journal_has(HOST_B->parts.journal, id, FM_STEP_HOLD, NULL));
    assert_well(HOST_B);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, open_world, close_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_migration_succeeds),
        TEST(it_goes_there_and_back_and_there),
        TEST(an_offline_destination_fails_in_pending),
        TEST(an_unknown_container_fails_in_pending),
        TEST(an_immovable_container_fails_in_planning),
        TEST(a_taken_name_fails_in_planning),
        TEST(a_network_that_cannot_be_staged_fails_in_preparation),
        TEST(a_corrupt_image_fails_in_execution),
        TEST(a_sick_container_is_migrated_back),
        TEST(a_dead_container_is_restored_from_its_checkpoint),
        TEST(a_destination_that_cannot_run_it_gives_it_up),
        TEST(a_resume_that_fails_once_is_tried_again),
        TEST(a_cancel_takes_effect_in_each_state),
        TEST(a_check_touches_nothing),
        TEST(a_commit_that_nobody_hears_asks_for_attention),
        TEST(a_recovery_that_nobody_hears_takes_nobodys_turn),
        TEST(the_queue_goes_by_priority),
        TEST(the_hold_ends_in_the_journal),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
