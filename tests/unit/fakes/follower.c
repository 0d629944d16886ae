/* Two outside parties that know where "redis" is, such as a name server and a load balancer. They
 * live on no host. */
#include <string.h>

#include "base/text.h"
#include "fakes/world.h"

static int say_deaf(const struct notice *n, struct fm_error *err)
{
    return fm_error_set(err, FM_E_UNREACHABLE, "%s does not answer", n->name);
}

static int follower_read(void *ctx, const struct fm_move *move, json_t **before,
                         struct fm_error *err)
{
    struct notice *n = ctx;
    struct passage p;

    if (!fm_streq(move->container, "redis"))
        return 0;
    if (!world_enter(&p, "follower.read"))
        return world_fail(&p, err);
    if (n->deaf_to_all)
        return say_deaf(n, err);
    if (strcmp(n->at, move->source) != 0 || n->prepared)
        world_broken("%s says %s%s when it leaves %s", n->name, n->at,
                     n->prepared ? ", prepared," : "", move->source);
    *before = json_pack("{s:s, s:s}", "at", n->at, "ip", n->ip);
    return world_leave(&p, 0, err);
}

static int follower_prepare(void *ctx, const struct fm_move *move, const json_t *before,
                            struct fm_error *err)
{
    struct notice *n = ctx;
    struct passage p;

    (void)move;
    (void)before;
    if (!world_enter(&p, "follower.prepare"))
        return world_fail(&p, err);
    n->prepared = true;
    return world_leave(&p, 0, err);
}

static int follower_switch(void *ctx, const struct fm_move *move, const json_t *before,
                           struct fm_error *err)
{
    struct notice *n = ctx;
    struct passage p;

    (void)before;
    if (!world_enter(&p, "follower.switch"))
        return world_fail(&p, err);
    if (!n->prepared)
        world_broken("%s is switched unprepared", n->name);
    snprintf(n->at, sizeof(n->at), "%s", move->destination);
    snprintf(n->ip, sizeof(n->ip), "%s", move->new_ip);
    return world_leave(&p, 0, err);
}

static int follower_finish(void *ctx, const struct fm_move *move, const json_t *before,
                           struct fm_error *err)
{
    struct notice *n = ctx;
    struct passage p;

    (void)before;
    if (!world_enter(&p, "follower.finish"))
        return world_fail(&p, err);
    if (n->deaf_to_end)
        return say_deaf(n, err);
    n->told++;
    if (n == &world.notices[0] && strcmp(n->at, move->destination) != 0)
        return world_leave(&p, 0, err);
    if (strcmp(n->at, move->destination) != 0)
        world_broken("%s is finished and says %s", n->name, n->at);
    n->prepared = false;
    return world_leave(&p, 0, err);
}

/* The later one is taken back first. */
static int follower_undo(void *ctx, const struct fm_move *move, const json_t *before,
                         struct fm_error *err)
{
    struct notice *n = ctx;
    struct passage p;

    if (!world_enter(&p, "follower.undo"))
        return world_fail(&p, err);
    if (n->deaf_to_end)
        return say_deaf(n, err);
    n->told++;
    if (strcmp(json_string_value(json_object_get(before, "at")), move->source) != 0)
        world_broken("%s is taken back to %s", n->name,
                     json_string_value(json_object_get(before, "at")));
    snprintf(n->at, sizeof(n->at), "%s", move->source);
    snprintf(n->ip, sizeof(n->ip), "%s", move->old_ip);
    n->prepared = false;
    return world_leave(&p, 0, err);
}

static const struct fm_follower_ops ops = {
    .kind = "notice",
    .read = follower_read,
    .prepare = follower_prepare,
    .switch_over = follower_switch,
    .finish = follower_finish,
    .undo = follower_undo,
};

static const struct fm_follower_ops guarded_ops = {
    .kind = "notice",
    .guarded = true,
    .read = follower_read,
    .prepare = follower_prepare,
    .switch_over = follower_switch,
    .finish = follower_finish,
    .undo = follower_undo,
};

const struct fm_follower fake_followers[WORLD_NOTICES] = {
    {.name = "names", .ops = &guarded_ops, .ctx = &world.notices[0]},
    {.name = "balancer", .ops = &ops, .ctx = &world.notices[1]},
};
