#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/cleanup.h"
#include "fakes/sweep.h"

#define BAD_CASES_SHOWN 12

static bool needs_attention(struct host *h, const char *id)
{
    json_auto_t *doc = world_document(h, id);

    return doc && (json_is_true(json_object_get(doc, "needs_attention")) ||
                   !json_is_true(json_object_get(doc, "final")));
}

/* A result that is told and what is there must agree. */
static const char *result_wrong(const char *id)
{
    json_auto_t *doc = world_document(HOST_A, id);
    struct host *at = world_where("redis");

    if (doc && at != (fm_streq(world_field(doc, "result"), "completed") ? HOST_B : HOST_A))
        return "the journal tells the wrong host";
    return NULL;
}

static void arm_second(const struct sweep *sweep)
{
    if (!sweep->again_after || !*world.hit)
        return;
    world.inject_at += sweep->again_after;
    world.injection = sweep->again;
}

const char *sweep_case(const struct sweep *sweep, unsigned int at, bool *done)
{
    static char text[640];
    struct fm_error err = {0};
    char id[16];

    world_open("redis");
    world.inject_at = at;
    world.injection = sweep->injection;
    world.linger = sweep->linger;
    world.unhealthy = sweep->unhealthy;
    world.dies = sweep->dies;
    world_migrate(HOST_A, "redis", id, &err);
    arm_second(sweep);
    world_settle();
    *done = !*world.hit;
    world.injection = INJECT_NOTHING;
    world_settle();
    bool attention = !*id || needs_attention(HOST_A, id);
    if (attention) {
        world_restart(HOST_A);
        world_restart(HOST_B);
        world_settle();
    }
    const char *w = world_wrong("redis", id, NULL);
    if (!w)
        w = result_wrong(id);
    if (w) {
        fm_autofree char *path = world_path(HOST_A, id);
        snprintf(text, sizeof(text), "%s at call %u (%s): %s [%s%s]", injection_text(sweep->injection),
                 at, world.hit, w, path, attention ? ", restarted" : "");
    }
    world_close();
    return w ? text : NULL;
}

void sweep_all(const struct sweep *sweep)
{
    unsigned int bad = 0;
    bool done = false;

    for (unsigned int at = 1; !done; at++) {
        const char *w = sweep_case(sweep, at, &done);

        if (w && bad++ < BAD_CASES_SHOWN)
            print_error("%s\n", w);
    }
    if (bad)
        print_error("%u cases end badly", bad);
}
