/* Dumps and restores of copies that have a version for memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "fakes/world.h"

struct fm_dump {
    char name[64], dir[256];
};

struct fm_restore {
    char name[64], dir[256];
    bool resumed;
};

static int state_dump_start(void *ctx, const char *id, const char *dir, struct fm_dump **out,
                            struct fm_error *err)
{
    struct copy *c = copy_of(ctx, id);
    struct passage p;

    if (!world_enter(&p, "state.dump_start"))
        return world_fail(&p, err);
    if (!copy_runs(c))
        return world_leave(&p, fm_error_set(err, FM_E_FAILED, "%s does not run", id), err);
    job_add(ctx, true, id, dir);
    int rc = world_leave(&p, 0, err);
    if (rc < 0) {
        if (!world_is_dead())
            job_forget(ctx, id, true);
        return rc;
    }
    *out = fm_xcalloc(1, sizeof(**out));
    snprintf((*out)->name, sizeof((*out)->name), "%s", id);
    snprintf((*out)->dir, sizeof((*out)->dir), "%s", dir);
    return 0;
}

static int state_dump_go(void *ctx, struct fm_dump *dump, const struct fm_dump_request *request,
                         struct fm_error *err)
{
    struct host *h = ctx;
    struct copy *c = copy_of(h, dump->name);
    struct passage p;

    if (!world_enter(&p, "state.dump_go"))
        return world_fail(&p, err);
    int rc = request->freezing ? request->freezing(request->arg, err) : 0;
    if (rc < 0)
        return world_leave(&p, rc, err);
    c->seized = true;
    world_check();
    rc = request->frozen(request->arg, err);
    if (rc == 0)
        rc = request->dumping(request->arg, err);
    if (rc == 0) {
        struct images *im = images_at(h, dump->dir, true);
        im->complete = true;
        im->version = c->version;
    }
    rc = world_leave(&p, rc, err);
    if (rc < 0 && !world_is_dead())
        c->seized = false; /* the promise of a dump that fails */
    return rc;
}

static int state_dump_resume(void *ctx, struct fm_dump *dump, struct fm_error *err)
{
    struct copy *c = copy_of(ctx, dump->name);
    struct passage p;

    if (!world_enter(&p, "state.dump_resume"))
        return world_fail(&p, err);
    c->seized = false;
    return world_leave(&p, 0, err);
}

/* The session ends and CRIU with it, whatever it says at its end. */
static int state_dump_end(void *ctx, struct fm_dump *dump, bool commit, struct fm_error *err)
{
    struct host *h = ctx;
    struct copy *c = copy_of(h, dump->name);
    struct passage p;
    int rc;

    bool passed = world_enter(&p, commit ? "state.dump_end(commit)" : "state.dump_end(abort)");

    if (passed || !world_is_dead()) {
        c->seized = false;
        if (commit)
            c->alive = c->exists = c->frozen = false;
        job_forget(h, dump->name, true);
        rc = passed ? world_leave(&p, 0, err) : world_fail(&p, err);
    } else {
        rc = world_fail(&p, err);
    }
    free(dump);
    return rc;
}

static int state_restore_start(void *ctx, const struct fm_restore_plan *plan,
                               struct fm_restore **out, struct fm_error *err)
{
    struct copy *c = copy_of(ctx, plan->id);
    struct passage p;

    if (!world_enter(&p, "state.restore_start"))
        return world_fail(&p, err);
    if (c->exists)
        return world_leave(
            &p, fm_error_set(err, FM_E_EXISTS, "container with id exists: %s", plan->id), err);
    job_add(ctx, false, plan->id, plan->dir);
    int rc = world_leave(&p, 0, err);
    if (rc < 0) {
        if (!world_is_dead())
            job_forget(ctx, plan->id, false);
        return rc;
    }
    *out = fm_xcalloc(1, sizeof(**out));
    snprintf((*out)->name, sizeof((*out)->name), "%s", plan->id);
    snprintf((*out)->dir, sizeof((*out)->dir), "%s", plan->dir);
    return 0;
}

static int state_restore_go(void *ctx, struct fm_restore *restore,
                            const struct fm_restore_request *request, struct fm_error *err)
{
    struct host *h = ctx;
    struct copy *c = copy_of(h, restore->name);
    struct images *im = images_at(h, restore->dir, false);
    struct passage p;

    const char *id = strrchr(restore->dir, '/') + 1;
    struct store *store = store_of(h, id);
    if (!world_enter(&p, "state.restore_go"))
        return world_fail(&p, err);
    if (!im || !im->complete)
        return world_leave(&p, fm_error_set(err, FM_E_FAILED, "no images in %s", restore->dir),
                           err);
    c->exists = c->alive = c->held = true;
    c->seized = c->frozen = c->doomed = false;
    c->version = im->version;
    if (request->lazy_pages && (!store || !store->settled || !store->pager))
        world_broken("%s was restored without a page store", c->name);
    else if (request->lazy_pages)
        c->version = store->version;
    int rc = world_leave(&p, 0, err);
    if (rc < 0 && !world_is_dead())
        c->alive = c->held = false;
    return rc;
}

static int state_restore_resume(void *ctx, struct fm_restore *restore, fm_state_hook resuming,
                                void *arg, struct fm_error *err)
{
    struct copy *c = copy_of(ctx, restore->name);
    struct passage p;

    if (!world_enter(&p, "state.restore_resume"))
        return world_fail(&p, err);
    int rc =
        c->alive ? resuming(arg, err) : fm_error_set(err, FM_E_FAILED, "%s is dead", restore->name);
    if (rc < 0 || p.fail_after) { /* CRIU died between the two */
        c->alive = c->alive && world_is_dead();
        return world_leave(&p, rc, err);
    }
    if (world_is_dead())
        return world_fail(&p, err);
    c->held = false;
    restore->resumed = true;
    job_forget(ctx, restore->name, false);
    return world_leave(&p, 0, err);
}

static void state_restore_end(void *ctx, struct fm_restore *restore)
{
    struct copy *c;
    struct passage p;

    if (!restore)
        return;
    c = copy_of(ctx, restore->name);
    /* It cannot fail, only die. */
    if (world_enter(&p, "state.restore_end") || !world_is_dead()) {
        if (!restore->resumed)
            c->alive = c->held = false;
        job_forget(ctx, restore->name, false);
        world_leave(&p, 0, NULL);
    }
    free(restore);
}

const struct fm_state_ops fake_state_ops = {
    .dump_start = state_dump_start,
    .dump_go = state_dump_go,
    .dump_resume = state_dump_resume,
    .dump_end = state_dump_end,
    .restore_start = state_restore_start,
    .restore_go = state_restore_go,
    .restore_resume = state_restore_resume,
    .restore_end = state_restore_end,
};
