#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "fakes/world.h"
#include "migration/lifecycle.h"

static struct fm_components *parts;
static struct fm_error err;
static struct on_host on;

static int open_world(void **state)
{
    (void)state;
    world_open("redis");
    parts = &HOST_B->parts; /* where nothing runs yet */
    on = world_enter_host(HOST_B);
    err = (struct fm_error){0};
    return 0;
}

static int close_world(void **state)
{
    (void)state;
    world_leave_host(&on);
    world_close();
    return 0;
}

static json_t *run(const char *name)
{
    json_auto_t *request = json_pack("{s:s, s:s, s:[s], s:s}", "name", name, "image", "/srv/nginx",
                                     "command", "nginx", "ip", "10.88.0.9");

    err = (struct fm_error){0};
    return fm_lifecycle_run(parts, request, &err);
}

static bool has_record(const char *name)
{
    json_auto_t *doc = HOST_B->store.ops->get(HOST_B->store.ctx, "container", name, NULL);

    return doc != NULL;
}

static bool is_there(const char *name)
{
    fm_autofree char *bundle = fm_strf("%s/containers/%s", HOST_B->state_dir, name);

    return has_record(name) || copy_of(HOST_B, name)->exists || port_of(HOST_B, name)->staged ||
           fm_file_exists(bundle);
}

static void a_container_runs_and_goes(void **state)
{
    (void)state;
    json_auto_t *doc = run("nginx");
    assert_non_null(doc);
    assert_string_equal(world_field(doc, "state"), "running");
    assert_string_equal(world_field(doc, "ip"), "10.88.0.9/16");
    assert_true(copy_runs(copy_of(HOST_B, "nginx")));
    assert_true(port_of(HOST_B, "nginx")->active);

    assert_int_equal(fm_lifecycle_remove(parts, "nginx", false, &err), -FM_E_REFUSED);
    assert_int_equal(fm_lifecycle_stop(parts, "nginx", 1000, &err), 0);
    assert_int_equal(fm_lifecycle_stop(parts, "nginx", 1000, &err), 0);
    assert_int_equal(fm_lifecycle_remove(parts, "nginx", false, &err), 0);
    assert_false(is_there("nginx"));
    assert_false(HOST_B->has_layer);
}

static void force_removes_a_running_one(void **state)
{
    (void)state;
    json_decref(run("nginx"));
    assert_int_equal(fm_lifecycle_remove(parts, "nginx", true, &err), 0);
    assert_false(is_there("nginx"));
}

static void a_name_is_used_once(void **state)
{
    (void)state;
    json_decref(run("nginx"));
    assert_null(run("nginx"));
    assert_int_equal(err.code, FM_E_EXISTS);
    assert_true(copy_runs(copy_of(HOST_B, "nginx")));
    copy_of(HOST_B, "foreign")->exists = true; /* not ours: the runtime knows it */
    assert_null(run("foreign"));
    assert_int_equal(err.code, FM_E_EXISTS);
}

static void bad_requests_make_nothing(void **state)
{
    static const char *const requests[] = {
        "{\"name\":\"nginx\"}",
        "{\"name\":\"nginx\",\"image\":\"/srv/nginx\"}",
        "{\"name\":\"../nginx\",\"image\":\"/srv/nginx\",\"command\":[\"nginx\"]}",
        "{\"name\":\"nginx\",\"image\":\"/srv/nginx\",\"command\":[\"nginx\"],\"volumes\":[\"x\"]}",
        "{\"name\":\"nginx\",\"image\":\"/srv/nginx\",\"command\":[\"nginx\"],\"health\":\"x\"}",
    };

    (void)state;
    for (size_t i = 0; i < FM_COUNT(requests); i++) {
        json_auto_t *request = json_loads(requests[i], 0, NULL);

        err = (struct fm_error){0};
        assert_null(fm_lifecycle_run(parts, request, &err));
        assert_int_equal(fm_code_exit(err.code), 2);
        assert_false(is_there("nginx"));
    }
}

static void unknown_names_are_not_found(void **state)
{
    (void)state;
    json_auto_t *command = json_pack("{s:[s]}", "command", "true");
    assert_null(fm_lifecycle_show(parts, "nobody", &err));
    assert_int_equal(err.code, FM_E_NOT_FOUND);
    assert_null(fm_lifecycle_exec(parts, "nobody", command, &err));
    assert_int_equal(err.code, FM_E_NOT_FOUND);
    assert_null(fm_lifecycle_log(parts, "nobody", &err));
    assert_int_equal(err.code, FM_E_NOT_FOUND);
    assert_int_equal(fm_lifecycle_stop(parts, "nobody", 10, &err), -FM_E_NOT_FOUND);
    assert_int_equal(fm_lifecycle_remove(parts, "nobody", true, &err), -FM_E_NOT_FOUND);
}

static void the_list_shows_what_runtime_and_registry_know(void **state)
{
    (void)state;
    json_decref(run("nginx"));
    copy_of(HOST_B, "foreign")->exists = copy_of(HOST_B, "foreign")->alive = true;
    json_auto_t *list = fm_lifecycle_list(parts, &err);
    assert_int_equal(json_array_size(list), 2);
    assert_string_equal(world_field(json_array_get(list, 0), "name"), "nginx");
    assert_string_equal(world_field(json_array_get(list, 1), "name"), "foreign");
    assert_true(json_is_true(json_object_get(json_array_get(list, 1), "found")));
}

static void exec_tells_the_exit_code(void **state)
{
    (void)state;
    json_auto_t *command = json_pack("{s:[s]}", "command", "false");
    json_auto_t *nothing = json_object();
    json_decref(run("nginx"));
    world.unhealthy = true;
    json_auto_t *result = fm_lifecycle_exec(parts, "nginx", command, &err);
    assert_int_equal(json_integer_value(json_object_get(result, "exit_code")), 1);
    assert_null(fm_lifecycle_exec(parts, "nginx", nothing, &err));
    assert_int_equal(err.code, FM_E_INVALID);
}

/* ---- a failure at every call ---- */

static void a_run_that_fails_leaves_nothing(void **state)
{
    bool done = false;

    for (unsigned int i = 0; !done; i++) {
        world.inject_at = world.calls + 1 + i / 2;
        world.injection = i % 2 ? FAIL_AFTER : FAIL_BEFORE;
        json_auto_t *doc = run("nginx");
        done = !*world.hit;
        if (done)
            assert_non_null(doc);
        if (!doc && is_there("nginx"))
            fail_msg("%s at %s: something is left", injection_text(world.injection), world.hit);
        close_world(state);
        open_world(state);
    }
}

static void a_removal_that_fails_can_be_repeated(void **state)
{
    bool done = false;

    for (unsigned int i = 0; !done; i++) {
        json_decref(run("nginx"));
        world.inject_at = world.calls + 1 + i / 2;
        world.injection = i % 2 ? FAIL_AFTER : FAIL_BEFORE;
        int rc = fm_lifecycle_remove(parts, "nginx", true, &err);
        done = !*world.hit;
        world.injection = INJECT_NOTHING;
        if (rc < 0)
            (void)fm_lifecycle_remove(parts, "nginx", true, &err);
        if (is_there("nginx"))
            fail_msg("failed at %s: something is left", world.hit);
        close_world(state);
        open_world(state);
    }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, open_world, close_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_container_runs_and_goes),
        TEST(force_removes_a_running_one),
        TEST(a_name_is_used_once),
        TEST(bad_requests_make_nothing),
        TEST(unknown_names_are_not_found),
        TEST(the_list_shows_what_runtime_and_registry_know),
        TEST(exec_tells_the_exit_code),
        TEST(a_run_that_fails_leaves_nothing),
        TEST(a_removal_that_fails_can_be_repeated),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
