/* A runtime whose containers are entries in the world. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "fakes/world.h"

static int not_there(const char *id, struct fm_error *err)
{
    return fm_error_set(err, FM_E_NOT_FOUND, "container \"%s\" does not exist", id);
}

static const char *status_of(const struct copy *c)
{
    return !c->alive ? "stopped" : c->held ? "created" : c->frozen ? "paused" : "running";
}

static int runtime_list(void *ctx, json_t **containers, struct fm_error *err)
{
    struct host *h = ctx;
    struct passage p;

    if (!world_enter(&p, "runtime.list"))
        return world_fail(&p, err);
    json_t *list = json_array();
    for (int i = 0; i < WORLD_COPIES; i++)
        if (h->copies[i].exists)
            json_array_append_new(list,
                                  json_pack("{s:s, s:i, s:s, s:s}", "id", h->copies[i].name, "pid",
                                            0, "status", status_of(&h->copies[i]), "bundle", ""));
    int rc = world_leave(&p, 0, err);
    if (rc < 0)
        json_decref(list);
    else
        *containers = list;
    return rc;
}

static int runtime_state(void *ctx, const char *id, struct fm_runtime_state *state,
                         struct fm_error *err)
{
    struct copy *c = copy_of(ctx, id);
    struct passage p;

    if (!world_enter(&p, "runtime.state"))
        return world_fail(&p, err);
    if (!c->exists)
        return world_leave(&p, not_there(id, err), err);
    *state = (struct fm_runtime_state){0};
    snprintf(state->status, sizeof(state->status), "%s", status_of(c));
    return world_leave(&p, 0, err);
}

static int runtime_run(void *ctx, const struct fm_runtime_run *run, struct fm_error *err)
{
    struct copy *c = copy_of(ctx, run->id);
    struct passage p;

    if (!world_enter(&p, "runtime.run"))
        return world_fail(&p, err);
    if (c->exists)
        return world_leave(&p, fm_error_set(err, FM_E_EXISTS, "%s exists", run->id), err);
    c->exists = c->alive = true;
    c->version = world.latest[c - world_host()->copies];
    return world_leave(&p, 0, err);
}

static int runtime_exec(void *ctx, const char *id, const char *const *argv, const int fds[3],
                        uint64_t timeout_ms, int *exit_code, struct fm_error *err)
{
    struct copy *c = copy_of(ctx, id);
    struct passage p;

    (void)timeout_ms;
    (void)argv;
    (void)fds;
    if (!world_enter(&p, "runtime.exec"))
        return world_fail(&p, err);
    *exit_code = world.unhealthy && ctx == HOST_B ? 1 : 0;
    if (world.dies && ctx == HOST_B) {
        c->alive = false;
        world.stale_allowed = true;
    }
    return world_leave(&p, 0, err);
}

static int runtime_kill(void *ctx, const char *id, int signal, struct fm_error *err)
{
    struct copy *c = copy_of(ctx, id);
    struct passage p;

    (void)signal;
    if (!world_enter(&p, "runtime.kill"))
        return world_fail(&p, err);
    c->alive = false;
    return world_leave(&p, 0, err);
}

static void forget(struct copy *c)
{
    c->exists = c->alive = c->seized = c->frozen = c->held = c->doomed = false;
}

static int runtime_remove(void *ctx, const char *id, struct fm_error *err)
{
    struct copy *c = copy_of(ctx, id);
    struct passage p;

    if (!world_enter(&p, "runtime.remove"))
        return world_fail(&p, err);
    forget(c);
    return world_leave(&p, 0, err);
}

static int runtime_freeze(void *ctx, const char *id, bool frozen, struct fm_error *err)
{
    struct copy *c = copy_of(ctx, id);
    struct passage p;

    if (!world_enter(&p, frozen ? "runtime.freeze" : "runtime.thaw"))
        return world_fail(&p, err);
    if (!c->exists)
        return world_leave(&p, not_there(id, err), err);
    c->frozen = frozen;
    return world_leave(&p, 0, err);
}

static int runtime_destroy(void *ctx, const char *id, struct fm_error *err)
{
    struct copy *c = copy_of(ctx, id);
    struct passage p;

    if (!world_enter(&p, "runtime.destroy"))
        return world_fail(&p, err);
    c->alive = c->seized = c->frozen = c->held = false;
    return world_leave(&p, 0, err);
}

static int runtime_processes(void *ctx, const char *id, pid_t **pids, size_t *count,
                             struct fm_error *err)
{
    struct copy *c = copy_of(ctx, id);
    struct passage p;

    if (!world_enter(&p, "runtime.processes"))
        return world_fail(&p, err);
    if (!c->exists)
        return world_leave(&p, not_there(id, err), err);
    int rc = world_leave(&p, 0, err);
    if (rc == 0) {
        *pids = fm_xcalloc(1, sizeof(**pids));
        *count = c->alive ? 1 : 0;
    }
    return rc;
}

const struct fm_runtime_ops fake_runtime_ops = {
    .name = "runc",
    .list = runtime_list,
    .state = runtime_state,
    .run = runtime_run,
    .exec = runtime_exec,
    .kill = runtime_kill,
    .remove = runtime_remove,
    .freeze = runtime_freeze,
    .destroy_processes = runtime_destroy,
    .processes = runtime_processes,
};
