/* The real registry behind gates, and the real journal: fm_journal_* come here (--wrap). */
#include "fakes/world.h"
#include "fakes/wrapped.h"

static int store_put(void *ctx, const char *kind, const char *key, const json_t *doc,
                     struct fm_error *err)
{
    struct host *h = ctx;
    struct passage p;

    if (!world_enter(&p, "store.put"))
        return world_fail(&p, err);
    return world_leave(&p, h->store.ops->put(h->store.ctx, kind, key, doc, err), err);
}

/* Reading: a failure before and one after look the same. */
static json_t *read_out(struct passage *p, json_t *doc, struct fm_error *err)
{
    if (world_leave(p, 0, doc ? err : &(struct fm_error){0}) == 0)
        return doc;
    json_decref(doc);
    return NULL;
}

static json_t *store_get(void *ctx, const char *kind, const char *key, struct fm_error *err)
{
    struct host *h = ctx;
    struct passage p;

    if (world_enter(&p, "store.get"))
        return read_out(&p, h->store.ops->get(h->store.ctx, kind, key, err), err);
    world_fail(&p, err);
    return NULL;
}

static json_t *store_list(void *ctx, const char *kind, struct fm_error *err)
{
    struct host *h = ctx;
    struct passage p;

    if (world_enter(&p, "store.list"))
        return read_out(&p, h->store.ops->list(h->store.ctx, kind, err), err);
    world_fail(&p, err);
    return NULL;
}

static int store_remove(void *ctx, const char *kind, const char *key, struct fm_error *err)
{
    struct host *h = ctx;
    struct passage p;

    if (!world_enter(&p, "store.remove"))
        return world_fail(&p, err);
    return world_leave(&p, h->store.ops->remove(h->store.ctx, kind, key, err), err);
}

/* From a commit on no copy that was here may run again. */
static void doom(struct host *h)
{
    for (int i = 0; i < WORLD_COPIES; i++)
        if (h->copies[i].alive && !h->copies[i].held &&
            (h->copies[i].seized || h->copies[i].frozen))
            h->copies[i].doomed = true;
}

static int store_decide(void *ctx, const char *migration, bool want_commit, bool *commit,
                        struct fm_error *err)
{
    struct host *h = ctx;
    struct passage p;

    if (!world_enter(&p, want_commit ? "store.decide(commit)" : "store.decide(abort)"))
        return world_fail(&p, err);
    int rc = h->store.ops->decide(h->store.ctx, migration, want_commit, commit, err);
    if (rc == 0 && *commit)
        doom(h);
    return world_leave(&p, rc, err);
}

static int store_decision(void *ctx, const char *migration, bool *decided, bool *commit,
                          struct fm_error *err)
{
    struct host *h = ctx;
    struct passage p;

    if (!world_enter(&p, "store.decision"))
        return world_fail(&p, err);
    return world_leave(&p, h->store.ops->decision(h->store.ctx, migration, decided, commit, err),
                       err);
}

const struct fm_store_ops fake_store_ops = {
    .put = store_put,
    .get = store_get,
    .list = store_list,
    .remove = store_remove,
    .decide = store_decide,
    .decision = store_decision,
};

/* ---- journal ---- */

int __wrap_fm_journal_create(struct fm_journal *j, const char *id, const char *role,
                             const json_t *doc, struct fm_error *err)
{
    struct passage p;

    if (!world_enter(&p, "journal.create"))
        return world_fail(&p, err);
    return world_leave(&p, __real_fm_journal_create(j, id, role, doc, err), err);
}

int __wrap_fm_journal_update(struct fm_journal *j, const char *id, const json_t *doc, bool final,
                             struct fm_error *err)
{
    struct passage p;

    if (!world_enter(&p, "journal.update"))
        return world_fail(&p, err);
    return world_leave(&p, __real_fm_journal_update(j, id, doc, final, err), err);
}

int __wrap_fm_journal_transition(struct fm_journal *j, const char *id,
                                 const struct fm_transition *t, struct fm_error *err)
{
    struct passage p;

    if (!world_enter(&p, "journal.transition"))
        return world_fail(&p, err);
    return world_leave(&p, __real_fm_journal_transition(j, id, t, err), err);
}

int __wrap_fm_journal_step(struct fm_journal *j, const char *id, enum fm_step step,
                           const json_t *detail, struct fm_error *err)
{
    struct passage p;

    if (!world_enter(&p, fm_step_text(step)))
        return world_fail(&p, err);
    return world_leave(&p, __real_fm_journal_step(j, id, step, detail, err), err);
}
