#include "fakes/world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

struct world world;

static _Thread_local struct on_host current;

const char *injection_text(enum injection injection)
{
    static const char *const texts[] = {"nothing",     "fail before", "fail after", "crash before",
                                        "crash after", "crash other", "crash both", "cancel"};

    return texts[injection];
}

struct host *other_host(const struct host *h)
{
    return h == HOST_A ? HOST_B : HOST_A;
}

void world_broken(const char *fmt, ...)
{
    va_list ap;

    if (*world.violation)
        return;
    va_start(ap, fmt);
    vsnprintf(world.violation, sizeof(world.violation), fmt, ap);
    va_end(ap);
}

/* ---- whose code runs ---- */

struct on_host world_enter_host(struct host *h)
{
    struct on_host before = current;

    current = (struct on_host){.host = h,
                               .before = before.host,
                               .incarnation = h->incarnation,
                               .incarnation_before = before.incarnation};
    h->depth++;
    return current;
}

void world_leave_host(struct on_host *entered)
{
    entered->host->depth--;
    current = (struct on_host){.host = entered->before, .incarnation = entered->incarnation_before};
}

struct host *world_host(void)
{
    return current.host;
}

bool world_is_dead(void)
{
    return !current.host->up || current.incarnation != current.host->incarnation;
}

/* ---- gates ---- */

static void cancel_running(void)
{
    if (world.running)
        fm_migration_cancel(world.running, false);
}

/* The call that the test has chosen; false when it has no effect. */
static bool strike(struct passage *p)
{
    snprintf(world.hit, sizeof(world.hit), "%s on %s", p->what, p->host->name);
    switch (world.injection) {
    case FAIL_BEFORE:
        return false;
    case FAIL_AFTER:
        p->fail_after = true;
        return true;
    case CRASH_BEFORE:
        world_crash(p->host);
        return false;
    case CRASH_AFTER:
        p->crash_after = true;
        return true;
    case CRASH_OTHER:
        world_crash(other_host(p->host));
        return true;
    case CRASH_BOTH:
        world_crash(HOST_A);
        world_crash(HOST_B);
        return false;
    case CANCEL:
        cancel_running();
        return true;
    default:
        return true;
    }
}

bool world_enter(struct passage *p, const char *what)
{
    *p = (struct passage){.what = what, .host = current.host};
    if (world_is_dead())
        return false;
    world_check();
    if (world.at_call)
        world.at_call(what);
    if (++world.calls > WORLD_CALLS_MAX) {
        world_broken("it never ends, last call: %s", what);
        return false;
    }
    if (current.host == HOST_B && world.broken_on_b && fm_streq(what, world.broken_on_b))
        return false;
    bool named = world.inject_what && !*world.hit && fm_streq(what, world.inject_what);
    return (!named && world.calls != world.inject_at) || strike(p);
}

int world_fail(const struct passage *p, struct fm_error *err)
{
    return fm_error_set(err, FM_E_IO, "%s: injected", p->what);
}

int world_leave(struct passage *p, int rc, struct fm_error *err)
{
    world_check();
    if (p->crash_after)
        world_crash(p->host);
    if (world_is_dead() || (p->fail_after && rc >= 0))
        return world_fail(p, err);
    return rc;
}

/* ---- copies ---- */

struct copy *copy_of(struct host *h, const char *name)
{
    for (int i = 0; i < WORLD_COPIES; i++) {
        struct copy *c = &h->copies[i];

        if (!*c->name)
            snprintf(c->name, sizeof(c->name), "%s", name);
        if (fm_streq(c->name, name))
            return c;
    }
    abort();
}

bool copy_runs(const struct copy *c)
{
    return c->alive && !c->seized && !c->frozen && !c->held;
}

static void look_at(struct host *h, struct copy *c)
{
    unsigned int *latest = &world.latest[c - h->copies];
    bool runs = copy_runs(c);

    if (runs && c->doomed && !world.stale_allowed)
        world_broken("%s ran on %s after the commit", c->name, h->name);
    if (runs && !c->ran && c->version != *latest && !world.stale_allowed)
        world_broken("%s on %s goes on from version %u, clients have seen %u", c->name, h->name,
                     c->version, *latest);
    c->ran = runs;
    if (runs)
        c->version = ++*latest;
}

/* What runs without all of its memory needs the original that has the rest. */
static void look_at_memory(struct host *h)
{
    struct host *from = other_host(h);

    for (int i = 0; i < WORLD_JOBS; i++)
        for (int n = 0; n < WORLD_COPIES; n++)
            if (*h->stores[i].id && h->stores[i].missing && copy_runs(&h->copies[n]) &&
                !from->copies[n].alive)
                world_broken("%s runs on %s, and some of its memory is nowhere", h->copies[n].name,
                             h->name);
}

void world_check(void)
{
    look_at_memory(HOST_A);
    look_at_memory(HOST_B);
    for (int i = 0; i < WORLD_COPIES; i++) {
        struct copy *a = &HOST_A->copies[i];
        struct copy *b = copy_of(HOST_B, a->name);

        if (!*a->name)
            return;
        if (copy_runs(a) && copy_runs(b))
            world_broken("%s runs on both hosts", a->name);
        look_at(HOST_A, a);
        look_at(HOST_B, b);
    }
}

struct port *port_of(struct host *h, const char *name)
{
    for (int i = 0; i < WORLD_COPIES; i++) {
        struct port *p = &h->ports[i];

        if (!*p->name)
            snprintf(p->name, sizeof(p->name), "%s", name);
        if (fm_streq(p->name, name))
            return p;
    }
    abort();
}

/* ---- images and jobs ---- */

struct images *images_at(struct host *h, const char *dir, bool make)
{
    struct images *empty = NULL;

    for (int i = 0; i < WORLD_JOBS; i++) {
        struct images *im = &h->images[i];

        if (*im->dir && fm_starts_with(dir, im->dir))
            return im;
        if (!*im->dir)
            empty = im;
    }
    if (make && empty)
        snprintf(empty->dir, sizeof(empty->dir), "%s", dir);
    return make ? empty : NULL;
}

void images_forget(struct host *h, const char *dir)
{
    for (int i = 0; i < WORLD_JOBS; i++)
        if (fm_starts_with(h->images[i].dir, dir))
            h->images[i] = (struct images){0};
}

void job_add(struct host *h, bool is_dump, const char *name, const char *dir)
{
    for (int i = 0; i < WORLD_JOBS; i++) {
        struct job *j = &h->jobs[i];

        if (j->used)
            continue;
        *j = (struct job){.used = true, .is_dump = is_dump};
        snprintf(j->name, sizeof(j->name), "%s", name);
        snprintf(j->dir, sizeof(j->dir), "%s", dir);
        return;
    }
    abort();
}

void job_forget(struct host *h, const char *name, bool is_dump)
{
    for (int i = 0; i < WORLD_JOBS; i++)
        if (h->jobs[i].used && h->jobs[i].is_dump == is_dump && fm_streq(h->jobs[i].name, name))
            h->jobs[i].used = false;
}

void jobs_end(struct host *h, const char *dir)
{
    for (int i = 0; i < WORLD_JOBS; i++) {
        struct job *j = &h->jobs[i];
        struct copy *c = j->used ? copy_of(h, j->name) : NULL;

        if (!c || (dir && !fm_starts_with(j->dir, dir)))
            continue;
        j->used = false;
        if (j->is_dump)
            c->seized = false;
        else if (c->held)
            c->alive = c->held = false;
    }
    world_check();
}

/* ---- looks at the end ---- */

struct host *world_where(const char *name)
{
    return copy_runs(copy_of(HOST_A, name))   ? HOST_A
           : copy_runs(copy_of(HOST_B, name)) ? HOST_B
                                              : NULL;
}

json_t *world_document(struct host *h, const char *id)
{
    return fm_journal_load(h->parts.journal, id, NULL);
}

const char *world_field(json_t *doc, const char *key)
{
    const char *text = json_string_value(json_object_get(doc, key));

    return text ? text : "";
}

char *world_path(struct host *h, const char *id)
{
    json_auto_t *doc = world_document(h, id);
    char *path = fm_xstrdup("");
    json_t *t;
    size_t i;

    json_array_foreach(json_object_get(doc, "transitions"), i, t)
    {
        fm_autofree char *before = path;

        path = fm_strf("%s%s%s", before, *before ? ">" : "", world_field(t, "to"));
    }
    return path;
}
