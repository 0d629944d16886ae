/* What must be true when everything has come to rest. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "fakes/world.h"
#include "migration/leases.h"
#include "migration/networks_internal.h"

static char wrong[512];

#define WRONG(...) (snprintf(wrong, sizeof(wrong), __VA_ARGS__), wrong)

static const char *journal_wrong(struct host *h, const char *id)
{
    json_auto_t *doc = world_document(h, id);

    if (!doc)
        return NULL;
    if (!json_is_true(json_object_get(doc, "final")))
        return WRONG("journal of %s is not final: state %s, stage %s", h->name,
                     world_field(doc, "state"), world_field(doc, "stage"));
    if (json_is_true(json_object_get(doc, "needs_attention")))
        return WRONG("journal of %s still asks for attention", h->name);
    return NULL;
}

static const char *unfinished_wrong(struct host *h)
{
    json_auto_t *list = fm_journal_unfinished(h->parts.journal, NULL);

    return json_array_size(list) ? WRONG("%zu unfinished on %s", json_array_size(list), h->name)
                                 : NULL;
}

static bool has_record(struct host *h, const char *name)
{
    json_auto_t *doc = h->store.ops->get(h->store.ctx, "container", name, NULL);

    return doc != NULL;
}

/* Of the container's files there is only its directory, on the host that runs it. */
static const char *files_wrong(struct host *h, const char *name, const char *id, bool owner)
{
    fm_autofree char *migration = fm_strf("%s/%s", h->migrations_dir, id);
    fm_autofree char *bundle = fm_strf("%s/containers/%s", h->state_dir, name);

    if (*id && fm_file_exists(migration))
        return WRONG("%s keeps the images", h->name);
    if (!owner && fm_file_exists(bundle))
        return WRONG("%s keeps the bundle", h->name);
    if (!owner && h->bundle_mounted)
        return WRONG("%s keeps the overlay mounted", h->name);
    if (owner && (!fm_file_exists(bundle) || !h->bundle_mounted))
        return WRONG("%s runs it without its root", h->name);
    return NULL;
}

static const char *network_wrong(struct host *h, const char *name, bool owner)
{
    struct port *p = port_of(h, name);

    if (p->hold)
        return WRONG("%s still holds packets", h->name);
    if (p->staged != owner || p->active != owner)
        return WRONG("port on %s is%s staged and%s active", h->name, p->staged ? "" : " not",
                     p->active ? "" : " not");
    return NULL;
}

static const char *host_wrong(struct host *h, const char *name, const char *id, bool owner)
{
    struct copy *c = copy_of(h, name);
    const char *w = NULL;

    if (c->exists != owner || c->alive != owner)
        return WRONG("copy on %s: %s, %s", h->name, c->exists ? "known" : "unknown",
                     c->alive ? "alive" : "dead");
    if (c->seized || c->frozen || c->held)
        return WRONG("copy on %s: seized %d, frozen %d, held %d", h->name, c->seized, c->frozen,
                     c->held);
    for (int i = 0; i < WORLD_JOBS; i++)
        if (h->jobs[i].used)
            return WRONG("%s: a %s still runs", h->name, h->jobs[i].is_dump ? "dump" : "restore");
    for (int i = 0; i < WORLD_JOBS; i++)
        if (*h->stores[i].id)
            return WRONG("%s keeps a page store", h->name);
    if (has_record(h, name) != owner)
        return WRONG("registry of %s: %s", h->name, owner ? "no record" : "has a record");
    if (fm_reserved_total(h->parts.reservations).count)
        return WRONG("%s still has a reservation", h->name);
    if (fm_slots_used(h->parts.slots) || fm_slots_used(h->parts.slots_in))
        return WRONG("%s: a slot is still taken", h->name);
    if (!(w = files_wrong(h, name, id, owner)) && !(w = network_wrong(h, name, owner)))
        w = unfinished_wrong(h);
    return w ? w : journal_wrong(h, id);
}

static const char *notices_wrong(const char *name, const struct host *at)
{
    json_auto_t *record = at->store.ops->get(at->store.ctx, "container", name, NULL);
    fm_autofree char *address = fm_xstrdup(world_field(record, "ip"));

    address[strcspn(address, "/")] = '\0';
    for (int i = 0; i < WORLD_NOTICES && strcmp(name, "redis") == 0; i++) {
        const struct notice *n = &world.notices[i];
        if (n->prepared || strcmp(n->at, at->name) != 0 || strcmp(n->ip, address) != 0)
            return WRONG("%s says %s, %s%s", n->name, n->at, n->ip,
                         n->prepared ? ", prepared" : "");
    }
    return NULL;
}

/* ---- leases ---- */

void world_exchange(void)
{
    for (int i = 0; i < 4; i++) {
        struct host *h = &world.hosts[i % 2];
        struct on_host on = world_enter_host(h);

        if (h->up) {
            fm_networks_meet(&h->parts, NULL);
            h->parts.networks->tidy_ms = 0;
            fm_networks_pass(&h->parts);
        }
        world_leave_host(&on);
    }
}

json_t *world_lease(struct host *h, const char *name)
{
    struct fm_components there = h->parts;
    json_t *doc, *found = NULL;
    size_t i;

    there.store = h->store; /* past the gate */
    json_auto_t *leases = fm_leases_list(&there, NULL, NULL);
    json_array_foreach(leases, i, doc) if (fm_streq(world_field(doc, "owner"), name) && !found)
        found = json_incref(doc);
    return found;
}

static size_t count_leases(struct host *h, const char *name)
{
    struct fm_components there = h->parts;
    size_t i, count = 0;
    json_t *doc;

    there.store = h->store;
    json_auto_t *leases = fm_leases_list(&there, NULL, NULL);
    json_array_foreach(leases, i, doc) count += fm_streq(world_field(doc, "owner"), name);
    return count;
}

/* Exactly one lease, and it is what the record of the host that runs it says. */
static const char *lease_wrong(struct host *h, const char *name, const struct host *at)
{
    json_auto_t *lease = world_lease(h, name);
    json_auto_t *record = at->store.ops->get(at->store.ctx, "container", name, NULL);
    const char *network = world_field(record, "network"), *ip = world_field(record, "ip");
    size_t count = count_leases(h, name), len = strcspn(ip, "/");

    if (count != 1)
        return WRONG("%s knows %zu leases of it", h->name, count);
    if (!fm_streq(world_field(lease, "host"), at->name))
        return WRONG("%s thinks that its address is on %s", h->name, world_field(lease, "host"));
    if (strlen(world_field(lease, "ip")) != len ||
        strncmp(world_field(lease, "ip"), ip, len) != 0 ||
        !fm_streq(world_field(lease, "network"), *network ? network : FM_NETWORK_DEFAULT) ||
        json_array_size(json_object_get(lease, "publish")) !=
            json_array_size(json_object_get(record, "publish")))
        return WRONG("%s: its lease is of %s in %s, its record says %s in %s", h->name,
                     world_field(lease, "ip"), world_field(lease, "network"), ip, network);
    for (struct fm_claim *c = h->parts.networks->claims; c; c = c->next)
        if (!c->until_ms)
            return WRONG("%s: %s still claims %s", h->name, c->lease.owner, c->lease.ip);
    return NULL;
}

/* What `network verify` says. */
static const char *kernel_wrong(struct host *h)
{
    struct fm_error err = {0};
    struct on_host on = world_enter_host(h);
    json_auto_t *verdict = fm_networks_verify(&h->parts, &err);

    world_leave_host(&on);
    if (!verdict)
        return WRONG("%s is not verified: %.400s", h->name, err.text);
    const json_t *first = json_array_get(json_object_get(verdict, "differences"), 0);
    return first ? WRONG("%s: %s", h->name, json_string_value(first)) : NULL;
}

/* After all is over both know where the address is. */
static const char *leases_wrong(const char *name, const struct host *at)
{
    enum injection injection = world.injection;
    const char *broken = world.broken_on_b, *w;

    world.injection = INJECT_NOTHING;
    world.broken_on_b = NULL;
    world_exchange();
    w = lease_wrong(HOST_A, name, at);
    if (!w)
        w = lease_wrong(HOST_B, name, at);
    if (!w)
        w = kernel_wrong(HOST_A);
    if (!w)
        w = kernel_wrong(HOST_B);
    world.injection = injection;
    world.broken_on_b = broken;
    return w;
}

const char *world_wrong(const char *name, const char *id, const struct host *where)
{
    struct host *at = world_where(name);
    const char *w;

    world_check();
    if (*world.violation)
        return world.violation;
    if (!at)
        return WRONG("no copy runs");
    if (where && at != where)
        return WRONG("it runs on %s", at->name);
    w = host_wrong(HOST_A, name, id, at == HOST_A);
    if (!w)
        w = host_wrong(HOST_B, name, id, at == HOST_B);
    if (!w)
        w = leases_wrong(name, at);
    return w ? w : notices_wrong(name, at);
}
