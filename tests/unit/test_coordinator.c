#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "fakes/world.h"

static void first(void **state)
{
    (void)state;
    char id[16];
    struct fm_error err = {0};
    world_open("redis");
    int rc = world_migrate(HOST_A, "redis", id, &err);
    world_settle();
    fm_autofree char *path = world_path(HOST_A, id);
    print_message("rc %d %s; %s; calls %u; %s\n", rc, err.text, path, world.calls, world_wrong("redis", id, HOST_B));
    world_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(first)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
