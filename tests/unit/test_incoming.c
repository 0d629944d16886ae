#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "fakes/world.h"

#define ID "0123456789ab"

static struct fm_error err;
static struct fm_conversation talk; /* of host a with host b */

static int open_world(void **state)
{
    (void)state;
    world_open("redis");
    talk = (struct fm_conversation){.service = &HOST_B->peers, .peer = "host-a"};
    return 0;
}

static int close_world(void **state)
{
    (void)state;
    world_close();
    return 0;
}

/* ---- the source, by hand ---- */

/* 0, or the code of the refusal. `fields` is stolen. */
static int ask(enum fm_frame_type type, json_t *fields)
{
    json_auto_t *body = fields ? fields : json_object();
    struct on_host on = world_enter_host(HOST_B);

    err = (struct fm_error){0};
    if (!json_object_get(body, "migration"))
        json_object_set_new(body, "migration", json_string(ID));
    json_auto_t *answer = fm_peer_answer(&talk, type, body, &err);
    world_leave_host(&on);
    return answer ? 0 : (int)err.code;
}

static json_t *preparation(void)
{
    struct fm_host self = {
        .name = "host-a", .address = "192.0.2.1", .wire_port = 7441, .api_port = 7440};

    return json_pack("{s:o, s:o, s:{s:i}}", "container",
                     HOST_A->store.ops->get(HOST_A->store.ctx, "container", "redis", NULL),
                     "source", fm_host_to_json(&self), "needs", "memory_bytes", 4096);
}

static json_t *named(const char *name)
{
    return json_pack("{s:s}", "name", name);
}

/* The images of the frozen original. */
static json_t *frozen(void)
{
    struct copy *original = copy_of(HOST_A, "redis");
    fm_autofree char *dir = fm_strf("%s/" ID, HOST_B->migrations_dir);

    original->frozen = true;
    images_at(HOST_B, dir, true)->version = original->version;
    return json_pack("{s:[], s:[]}", "manifest", "neighbours");
}

static void source_decides(bool want_commit)
{
    struct on_host on = world_enter_host(HOST_A);
    bool commit;

    HOST_A->parts.store.ops->decide(&world.hosts[0], ID, want_commit, &commit, &err);
    world_leave_host(&on);
}

/* A migration that the source's journal knows, and has not decided. */
static void source_begins(void)
{
    json_auto_t *doc = json_pack("{s:s, s:s, s:b}", "id", ID, "state", "EXECUTION", "final", 0);
    struct on_host on = world_enter_host(HOST_A);

    fm_journal_create(HOST_A->parts.journal, ID, FM_ROLE_SOURCE, doc, NULL);
    world_leave_host(&on);
}

static struct fm_incoming *incoming(void)
{
    return fm_incoming_find(HOST_B->incoming, ID, NULL);
}

/* Brings it to a stage. */
static void advance(enum fm_stage stage)
{
    assert_int_equal(ask(FM_FRAME_PREPARE, preparation()), 0);
    assert_int_equal(ask(FM_FRAME_TREE, named("layer:" WORLD_LAYER)), 0);
    assert_int_equal(ask(FM_FRAME_TREE, named("upper")), 0);
    if (stage >= FM_STAGE_ARMED)
        assert_int_equal(ask(FM_FRAME_ARM, NULL), 0);
    if (stage >= FM_STAGE_READY)
        assert_int_equal(ask(FM_FRAME_FROZEN, frozen()), 0);
    if (stage >= FM_STAGE_COMMITTED)
        source_decides(true);
    if (stage >= FM_STAGE_COMMITTED)
        assert_int_equal(ask(FM_FRAME_COMMIT, NULL), 0);
    if (stage >= FM_STAGE_DONE) {
        assert_int_equal(ask(FM_FRAME_VERIFY, NULL), 0);
        assert_int_equal(ask(FM_FRAME_COMPLETE, NULL), 0);
    }
    assert_int_equal(incoming()->stage, stage);
}

static void orphan(void)
{
    struct on_host on = world_enter_host(HOST_B);

    fm_incoming_orphaned(incoming());
    world_leave_host(&on);
}

static void assert_nothing_left(void)
{
    struct port *port = port_of(HOST_B, "redis");
    fm_autofree char *bundle = fm_strf("%s/containers/redis", HOST_B->state_dir);
    fm_autofree char *dir = fm_strf("%s/" ID, HOST_B->migrations_dir);

    assert_false(copy_of(HOST_B, "redis")->exists);
    assert_false(port->staged);
    assert_false(fm_file_exists(bundle));
    assert_false(fm_file_exists(dir));
    assert_int_equal(fm_reserved_total(HOST_B->parts.reservations).count, 0);
    assert_int_equal(fm_slots_used(HOST_B->parts.slots_in), 0);
    assert_string_equal(world.violation, "");
}

static void assert_runs_on_b(void)
{
    world_check();
    assert_true(copy_runs(copy_of(HOST_B, "redis")));
    assert_true(port_of(HOST_B, "redis")->active);
    assert_string_equal(world.violation, "");
}

/* ---- the stages ---- */

static void each_stage_follows_the_one_before(void **state)
{
    (void)state;
    advance(FM_STAGE_DONE);
    assert_runs_on_b();
    json_auto_t *doc = world_document(HOST_B, ID);
    assert_true(json_is_true(json_object_get(doc, "final")));
}

/* What may not be asked in a stage is refused and changes nothing. */
static void requests_out_of_order_are_refused(void **state)
{
    static const struct {
        enum fm_stage stage;
        enum fm_frame_type wrong[4];
    } cases[] = {
        {FM_STAGE_PREPARING,
         {FM_FRAME_FROZEN, FM_FRAME_COMMIT, FM_FRAME_VERIFY, FM_FRAME_COMPLETE}},
        {FM_STAGE_ARMED, {FM_FRAME_ARM, FM_FRAME_COMMIT, FM_FRAME_VERIFY, FM_FRAME_COMPLETE}},
        {FM_STAGE_READY, {FM_FRAME_ARM, FM_FRAME_FROZEN, FM_FRAME_VERIFY, FM_FRAME_COMPLETE}},
        {FM_STAGE_RUNNING, {FM_FRAME_ARM, FM_FRAME_FROZEN, FM_FRAME_ABORT, FM_FRAME_TREE}},
    };

    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        advance(cases[i].stage);
        for (int k = 0; k < 4; k++) {
            enum fm_frame_type type = cases[i].wrong[k];
            int code = ask(type, type == FM_FRAME_TREE ? named("upper") : NULL);

            assert_int_equal(code, type == FM_FRAME_ABORT ? FM_E_REFUSED : FM_E_PROTOCOL);
            assert_int_equal(incoming()->stage, cases[i].stage);
        }
        close_world(state);
        open_world(state);
    }
}

static void trees_that_do_not_belong_to_it_are_refused(void **state)
{
    (void)state;
    advance(FM_STAGE_PREPARING);
    assert_int_equal(ask(FM_FRAME_TREE, named("layer:sha256:beef")), FM_E_PROTOCOL);
    assert_int_equal(ask(FM_FRAME_TREE, named("volume:0")), FM_E_PROTOCOL);
    assert_int_equal(ask(FM_FRAME_TREE, named("volume:-1")), FM_E_PROTOCOL);
    assert_int_equal(ask(FM_FRAME_TREE, named("../etc")), FM_E_PROTOCOL);
    assert_int_equal(ask(FM_FRAME_TREE, NULL), FM_E_PROTOCOL);
}

static void a_bad_preparation_makes_nothing(void **state)
{
    json_t *other = preparation();

    (void)state;
    json_object_set_new(json_object_get(other, "source"), "name", json_string("host-c"));
    assert_int_equal(ask(FM_FRAME_PREPARE, other), FM_E_AUTH);
    other = preparation();
    json_object_set_new(other, "migration", json_string("../../etc/xx"));
    assert_int_equal(ask(FM_FRAME_PREPARE, other), FM_E_PROTOCOL);
    assert_int_equal(ask(FM_FRAME_PREPARE, json_object()), FM_E_INVALID);
    assert_nothing_left();
    advance(FM_STAGE_PREPARING);
    assert_int_equal(ask(FM_FRAME_PREPARE, preparation()), FM_E_PROTOCOL); /* again */
}

static void nobody_else_may_speak_for_it(void **state)
{
    static const enum fm_frame_type all[] = {FM_FRAME_TREE,     FM_FRAME_ARM,   FM_FRAME_FROZEN,
                                             FM_FRAME_COMMIT,   FM_FRAME_ABORT, FM_FRAME_VERIFY,
                                             FM_FRAME_COMPLETE, FM_FRAME_RETURN};

    (void)state;
    advance(FM_STAGE_READY);
    talk.peer = "host-c";
    for (size_t i = 0; i < FM_COUNT(all); i++)
        assert_int_equal(ask(all[i], named("upper")), FM_E_AUTH);
    assert_int_equal(incoming()->stage, FM_STAGE_READY);
}

static void late_and_repeated_requests_are_harmless(void **state)
{
    (void)state;
    advance(FM_STAGE_DONE);
    assert_int_equal(ask(FM_FRAME_COMMIT, NULL), 0);
    assert_int_equal(ask(FM_FRAME_VERIFY, NULL), 0);
    assert_int_equal(ask(FM_FRAME_COMPLETE, NULL), 0);
    assert_int_equal(ask(FM_FRAME_ABORT, NULL), FM_E_REFUSED);
    assert_runs_on_b();
}

static void an_abort_leaves_nothing_in_any_stage(void **state)
{
    for (enum fm_stage stage = FM_STAGE_PREPARING; stage <= FM_STAGE_READY; stage++) {
        advance(stage);
        assert_int_equal(ask(FM_FRAME_ABORT, NULL), 0);
        assert_nothing_left();
        assert_int_equal(ask(FM_FRAME_ABORT, NULL), 0); /* again */
        assert_int_equal(ask(FM_FRAME_COMMIT, NULL), FM_E_ROLLED_BACK);
        close_world(state);
        open_world(state);
    }
}

static void an_abort_of_something_unknown_is_fine(void **state)
{
    (void)state;
    assert_int_equal(ask(FM_FRAME_ABORT, NULL), 0);
    assert_int_equal(ask(FM_FRAME_COMMIT, NULL), FM_E_NOT_FOUND);
}

/* ---- orphans ---- */

static void an_orphan_before_ready_is_discarded(void **state)
{
    (void)state;
    advance(FM_STAGE_ARMED);
    orphan();
    assert_int_equal(incoming()->stage, FM_STAGE_DISCARDED);
    assert_nothing_left();
}

static void an_orphan_in_ready_asks_until_there_is_a_commit(void **state)
{
    (void)state;
    source_begins();
    advance(FM_STAGE_READY);
    orphan();
    world_settle(); /* undecided */
    assert_int_equal(incoming()->stage, FM_STAGE_READY);
    assert_true(copy_of(HOST_B, "redis")->held);
    source_decides(true);
    world_settle();
    assert_int_equal(incoming()->stage, FM_STAGE_RUNNING);
    assert_runs_on_b();
}

static void an_orphan_in_ready_asks_until_there_is_an_abort(void **state)
{
    (void)state;
    source_begins();
    advance(FM_STAGE_READY);
    orphan();
    world_settle();
    assert_int_equal(incoming()->stage, FM_STAGE_READY);
    source_decides(false);
    world_settle();
    assert_int_equal(incoming()->stage, FM_STAGE_DISCARDED);
    assert_nothing_left();
}

static void an_orphan_in_ready_waits_for_a_source_that_is_away(void **state)
{
    (void)state;
    source_begins();
    advance(FM_STAGE_READY);
    HOST_A->up = false;
    orphan();
    world_settle();
    assert_int_equal(incoming()->stage, FM_STAGE_READY);
    HOST_A->up = true;
    source_decides(true);
    assert_int_equal(ask(FM_FRAME_COMMIT, NULL), 0); /* the source comes by itself */
    world_settle();
    assert_runs_on_b();
}

static bool asks_for_attention(void)
{
    json_auto_t *doc = world_document(HOST_B, ID);

    return json_is_true(json_object_get(doc, "needs_attention"));
}

/* For ever, perhaps: then somebody must see it, and others not queue behind it. */
static void an_orphan_that_nobody_answers_shows_it(void **state)
{
    (void)state;
    source_begins();
    advance(FM_STAGE_READY);
    HOST_A->up = false;
    orphan();
    world_settle();
    assert_false(asks_for_attention());
    assert_int_equal(fm_slots_used(HOST_B->parts.slots_in), 1);
    world.skipped_ms += 31000;
    world_settle();
    assert_true(asks_for_attention());
    assert_int_equal(fm_slots_used(HOST_B->parts.slots_in), 0);
    HOST_A->up = true;
    world_settle();
    assert_false(asks_for_attention());
    assert_int_equal(incoming()->stage, FM_STAGE_READY);
    source_decides(true);
    world_settle();
    assert_runs_on_b();
}

static void an_orphan_that_the_source_has_forgotten_is_discarded(void **state)
{
    (void)state;
    advance(FM_STAGE_READY);
    orphan();
    world_settle();
    assert_nothing_left();
}

static void a_failure_in_the_answer_is_no_decision(void **state)
{
    (void)state;
    source_begins();
    advance(FM_STAGE_READY);
    orphan();
    world.inject_what = "store.decision";
    world.injection = FAIL_BEFORE;
    world_settle();
    assert_int_equal(incoming()->stage, FM_STAGE_READY);
    source_decides(false);
    world_settle();
    assert_nothing_left();
}

/* ---- restarts of the destination ---- */

static void a_restart_in_each_stage(void **state)
{
    static const struct {
        enum fm_stage before, after;
    } cases[] = {
        {FM_STAGE_PREPARING, FM_STAGE_DISCARDED}, {FM_STAGE_ARMED, FM_STAGE_DISCARDED},
        {FM_STAGE_READY, FM_STAGE_READY},         {FM_STAGE_RUNNING, FM_STAGE_RUNNING},
        {FM_STAGE_DONE, FM_STAGE_DONE},
    };

    for (size_t i = 0; i < 2 * FM_COUNT(cases); i++) {
        enum fm_stage before = cases[i / 2].before, after = cases[i / 2].after;

        source_begins();
        advance(before);
        world.linger = i % 2; /* CRIU's last restore is still there, or it is not */
        world_crash(HOST_B);
        world_start(HOST_B);
        json_auto_t *doc = world_document(HOST_B, ID);
        assert_string_equal(world_field(doc, "stage"), fm_stage_text(after));
        if (after == FM_STAGE_DISCARDED)
            assert_nothing_left();
        if (after == FM_STAGE_READY) { /* restored again from its images */
            source_decides(true);
            assert_int_equal(ask(FM_FRAME_COMMIT, NULL), 0);
        }
        if (after != FM_STAGE_DISCARDED)
            assert_runs_on_b();
        close_world(state);
        open_world(state);
    }
}

static void a_commit_is_heard_again_after_a_restart(void **state)
{
    static const char *const points[] = {
        "run", "release", "state.restore_resume", "network.activate", "register", "store.put"};

    for (size_t i = 0; i < 2 * FM_COUNT(points); i++) {
        source_begins();
        advance(FM_STAGE_READY);
        source_decides(true);
        world.inject_what = points[i / 2];
        world.injection = i % 2 ? CRASH_AFTER : CRASH_BEFORE;
        ask(FM_FRAME_COMMIT, NULL);
        assert_false(HOST_B->up);
        world_start(HOST_B);
        assert_int_equal(ask(FM_FRAME_COMMIT, NULL), 0);
        assert_runs_on_b();
        close_world(state);
        open_world(state);
    }
}

static void a_runtime_that_does_not_answer_is_no_death(void **state)
{
    (void)state;
    advance(FM_STAGE_RUNNING);
    world.inject_what = "runtime.state";
    world.injection = FAIL_BEFORE;
    assert_int_equal(ask(FM_FRAME_RETURN, NULL), FM_E_IO);
    assert_runs_on_b();
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, open_world, close_world)

/* The verdict comes while the source still waits for it, and tells all that is wrong. */
static void the_verdict_comes_in_time(void **state)
{
    (void)state;
    advance(FM_STAGE_RUNNING);
    struct fm_container *c = incoming()->container;
    incoming()->has_endpoint = false; /* asked from this host: nobody listens at port 1 */
    free(c->health.kind);
    free(c->health.target);
    c->health = (struct fm_health){.kind = fm_xstrdup("tcp"),
                                   .target = fm_xstrdup("127.0.0.1:1"),
                                   .attempts = 1000,
                                   .interval_ms = 20,
                                   .timeout_ms = 1000};
    fm_strv_add(&c->depends, "tcp://127.0.0.1:1,50ms");
    fm_strv_add(&c->depends, "nonsense");
    uint64_t since = fm_now_ms();
    assert_int_equal(ask(FM_FRAME_VERIFY, json_pack("{s:i}", "limit_ms", 200)), FM_E_FAILED);
    assert_true(fm_now_ms() - since < 1000);
    assert_non_null(strstr(err.text, "health check tcp://127.0.0.1:1 "));
    assert_non_null(strstr(err.text, " within the limit of "));
    assert_non_null(strstr(err.text, "); dependency tcp://127.0.0.1:1 does not work: "));
    assert_non_null(strstr(err.text, "; dependency 'nonsense' is not understood"));
    c->health.attempts = 2;
    assert_int_equal(ask(FM_FRAME_VERIFY, NULL), FM_E_FAILED); /* an older source sets no limit */
    assert_non_null(strstr(err.text, "(2 attempts)"));
    incoming()->has_endpoint = true;
}

/* ---- memory that grows on its way ---- */

#define MIB (1ll << 20)

/* PREPARE with pre-copy; host b has 1 GiB. */
static void prepare_growing(void)
{
    json_t *body = preparation();

    world_set_strategy("pre-copy");
    world.memory_available = 1024 * MIB;
    json_object_set_new(body, "strategy", json_string("pre-copy"));
    json_object_set_new(json_object_get(body, "needs"), "memory_bytes", json_integer(100 * MIB));
    assert_int_equal(ask(FM_FRAME_PREPARE, body), 0);
}

static uint64_t promised(void)
{
    return fm_reserved_for(HOST_B->parts.reservations, ID).memory;
}

/* 0, or the code of the refusal. */
static int grow_to(uint64_t bytes)
{
    struct on_host on = world_enter_host(HOST_B);

    err = (struct fm_error){0};
    int rc = fake_sink_needs(incoming()->sink, bytes, &err);
    world_leave_host(&on);
    return -rc;
}

static void the_promise_grows_with_the_memory(void **state)
{
    (void)state;
    prepare_growing();
    assert_int_equal(promised(), 105 * MIB);
    assert_int_equal(grow_to(105 * MIB), 0);
    assert_int_equal(promised(), 105 * MIB);
    assert_int_equal(grow_to(106 * MIB), 0);
    assert_int_equal(promised(), 169 * MIB);
    assert_int_equal(grow_to(800 * MIB), 0);
    assert_int_equal(grow_to(1025 * MIB), FM_E_NO_SPACE);
    assert_non_null(strstr(err.text, "'redis' has grown to 1.0 GiB of memory"));
    assert_int_equal(promised(), 800 * MIB);
    assert_int_equal(ask(FM_FRAME_ABORT, NULL), 0);
    assert_nothing_left();
}

static void the_promise_of_others_is_not_touched(void **state)
{
    struct fm_reservations *r = HOST_B->parts.reservations;

    (void)state;
    prepare_growing();
    fm_reserve_force(r, "another", 800 * MIB, 0);
    assert_int_equal(grow_to(250 * MIB), FM_E_NO_SPACE);
    assert_non_null(strstr(err.text, "800.0 MiB promised to 1 other incoming container"));
    fm_reserve_release(r, "another");
    assert_int_equal(grow_to(250 * MIB), 0);
}

static void a_promise_outlives_its_daemon(void **state)
{
    (void)state;
    source_begins();
    prepare_growing();
    assert_int_equal(ask(FM_FRAME_TREE, named("layer:" WORLD_LAYER)), 0);
    assert_int_equal(ask(FM_FRAME_TREE, named("upper")), 0);
    assert_int_equal(ask(FM_FRAME_ARM, NULL), 0);
    assert_int_equal(grow_to(300 * MIB), 0);
    assert_int_equal(ask(FM_FRAME_FROZEN, frozen()), 0);
    world_crash(HOST_B);
    world_start(HOST_B);
    assert_int_equal(promised(), 300 * MIB);
    source_decides(false);
    world_settle();
    assert_nothing_left();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_stage_follows_the_one_before),
        TEST(requests_out_of_order_are_refused),
        TEST(trees_that_do_not_belong_to_it_are_refused),
        TEST(a_bad_preparation_makes_nothing),
        TEST(nobody_else_may_speak_for_it),
        TEST(late_and_repeated_requests_are_harmless),
        TEST(an_abort_leaves_nothing_in_any_stage),
        TEST(an_abort_of_something_unknown_is_fine),
        TEST(an_orphan_before_ready_is_discarded),
        TEST(an_orphan_in_ready_asks_until_there_is_a_commit),
        TEST(an_orphan_in_ready_asks_until_there_is_an_abort),
        TEST(an_orphan_in_ready_waits_for_a_source_that_is_away),
        TEST(an_orphan_that_nobody_answers_shows_it),
        TEST(an_orphan_that_the_source_has_forgotten_is_discarded),
        TEST(a_failure_in_the_answer_is_no_decision),
        TEST(a_restart_in_each_stage),
        TEST(a_commit_is_heard_again_after_a_restart),
        TEST(a_runtime_that_does_not_answer_is_no_death),
        TEST(the_verdict_comes_in_time),
        TEST(the_promise_grows_with_the_memory),
        TEST(the_promise_of_others_is_not_touched),
        TEST(a_promise_outlives_its_daemon),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
