#include "migration/network_orchestrator.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/leases.h"
#include "migration/readdress.h"
#include "wire/frame.h"

#define ANNOUNCE_TIMEOUT_MS 1000 /* of each host; somebody waits to be verified */
/* A client repeats its first packet after a second. */
#define ACCEPT_PATIENCE_MS 500

/* --- the fabric --- */

static int prepare_hold(struct fm_migration *m, struct fm_error *err)
{
    const struct fm_network *n = &m->parts->network;
    if (!m->has_endpoint)
        return 0;
    int rc = fm_migration_step(m, FM_STEP_HOLD, NULL, err);
    return rc < 0 ? rc : n->ops->hold_prepare(n->ctx, &m->endpoint, NULL, &m->hold, err);
}

int fm_orchestrator_settle(struct fm_migration *m, struct fm_error *err)
{
    const struct fm_network *n = &m->parts->network;
    if (!m->hold || !n->ops->hold_settle)
        return 0;
    int rc = n->ops->hold_settle(n->ctx, m->hold, &m->endpoint, ACCEPT_PATIENCE_MS, err);
    if (rc != -FM_E_TIMEOUT || !*m->return_of)
        return rc;
    fm_warn(FM_NETWORK_MANAGER, "On the way back of %s: %s.", m->container->name, err->text);
    *err = (struct fm_error){0};
    return 0;
}

int fm_orchestrator_hold(struct fm_migration *m, struct fm_error *err)
{
    const struct fm_network *n = &m->parts->network;
    int rc = m->hold ? n->ops->hold_engage(n->ctx, m->hold, err) : 0;
    return rc < 0 ? fm_error_prefix(err, "cannot hold the container's packets") : 0;
}

/* One that is not reached learns of it when it is back (replica.h); until then it sends to the old
 * host, which passes on what arrives as long as the migration lasts. */
static void tell_host(struct fm_migration *m, const struct fm_host *host, json_t *lease)
{
    const struct fm_links *links = &m->parts->links;
    const struct fm_endpoint *ep = fm_readdress_endpoint(m);
    struct fm_link *link = links->ops->open(links->ctx, host, 0, ANNOUNCE_TIMEOUT_MS, NULL);
    if (!link)
        return;
    json_auto_t *body = json_pack("{s:s, s:s, s:s, s:s, s:O*}", "op", "set", "network", ep->network,
                                  "mac", ep->mac, "host", m->destination.address, "lease", lease);
    json_decref(links->ops->call(link, FM_FRAME_FABRIC, body, ANNOUNCE_TIMEOUT_MS, NULL));
    links->ops->close(link);
}

/* Tells the other hosts of the fabric where the container is now. */
void fm_orchestrator_announce(struct fm_migration *m)
{
    const struct fm_store *store = &m->parts->store;
    struct fm_error err = {0};
    json_t *moved = NULL;
    if (!m->has_endpoint || !m->container)
        return;
    fm_readdress_switch(m);
    if (fm_lease_move(m->parts, fm_readdress_container(m), m->destination.name, &moved, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "Lease of %s: %s.", m->container->name, err.text);
    json_auto_t *lease = moved;
    json_auto_t *hosts = store->ops->list(store->ctx, "host", NULL);
    size_t i;
    json_t *doc;
    json_array_foreach(hosts, i, doc)
    {
        struct fm_host host;
        if (fm_host_from_json(doc, &host, NULL) == 0 && !fm_streq(host.name, m->parts->host) &&
            !fm_streq(host.name, m->destination.name))
            tell_host(m, &host, lease);
    }
}

static void switch_here(struct fm_migration *m)
{
    const struct fm_network *n = &m->parts->network;
    const struct fm_endpoint *ep = fm_readdress_endpoint(m);
    const char *there = m->destination.address;
    struct fm_error err = {0};
    if (m->arrival) /* nobody has the old address any more */
        fm_orchestrator_end_hold(m);
    if (m->hold && n->ops->hold_forward(n->ctx, m->hold, there, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "Held packets of %s are lost: %s.", m->container->name,
                err.text);
    if (!m->hold && n->ops->deactivate(n->ctx, &m->endpoint, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "Port of %s stays up: %s.", m->container->name, err.text);
    if (n->ops->set_remote(n->ctx, ep->network, ep->mac, there, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "Cannot point to the new host: %s.", err.text);
}

void fm_orchestrator_switch(struct fm_migration *m)
{
    struct fm_error ignored = {0}; /* the container runs there, whatever the journal says */
    fm_migration_step(m, FM_STEP_SWITCH, NULL, &ignored);
    if (m->has_endpoint)
        switch_here(m);
}

int fm_orchestrator_release(struct fm_migration *m, struct fm_error *err)
{
    const struct fm_network *n = &m->parts->network;
    if (!m->has_endpoint)
        return 0;
    return m->hold ? n->ops->hold_release_local(n->ctx, m->hold, err)
                   : n->ops->activate(n->ctx, &m->endpoint, err);
}

void fm_orchestrator_end_hold(struct fm_migration *m)
{
    const struct fm_network *n = &m->parts->network;
    struct fm_hold_counters c = {0};
    if (!m->hold)
        return;
    n->ops->hold_end(n->ctx, FM_MOVE(m->hold), &c);
    m->stats.held_frames = c.held;
    m->stats.released_frames = c.released;
    m->stats.forwarded_frames = c.forwarded;
    m->stats.dropped_frames = c.dropped;
}

/* --- followers --- */

/* "10.88.0.5" of "10.88.0.5/24"; new reference. */
static json_t *bare(const char *address)
{
    return json_stringn(address, strcspn(address, "/"));
}

/* {"move":{…},"before":{"<follower>": what it found}}, as the journal keeps it: a later daemon may
 * not find the container any more. */
static json_t *new_journey(const struct fm_migration *m)
{
    const struct fm_endpoint *from = &m->endpoint, *to = fm_readdress_endpoint(m);
    return json_pack("{s:{s:s, s:s, s:o, s:o, s:o, s:o}, s:{}}", "move", "network", to->network,
                     "mac", to->mac, "old_ip", bare(from->ip), "new_ip", bare(to->ip), "old_ip6",
                     bare(from->ip6), "new_ip6", bare(to->ip6), "before");
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* What followers are told; borrows from both. */
static struct fm_move move_of(const struct fm_migration *m, const json_t *journey)
{
    const json_t *move = json_object_get(journey, "move");
    return (struct fm_move){
        .migration = m->id,
        .container = m->options.container,
        .network = text_of(move, "network"),
        .mac = text_of(move, "mac"),
        .old_ip = text_of(move, "old_ip"),
        .new_ip = text_of(move, "new_ip"),
        .old_ip6 = text_of(move, "old_ip6"),
        .new_ip6 = text_of(move, "new_ip6"),
        .source = m->options.source,
        .destination = m->options.destination,
        .source_address = m->parts->advertise ? m->parts->advertise : "",
        .destination_address = m->destination.address,
    };
}

/* NULL: no follower takes part. New reference. */
static json_t *known_journey(const struct fm_migration *m)
{
    json_t *journey = NULL;
    return fm_journal_has(m->parts->journal, m->id, FM_STEP_FOLLOW, &journey) ? journey : NULL;
}

static const json_t *before_of(const json_t *journey, const struct fm_follower *f)
{
    return json_object_get(json_object_get(journey, "before"), f->name);
}

/* The manager's own look at deadlines comes only every second. */
static int check_patience(void *ctx, struct fm_error *err)
{
    struct fm_migration *m = ctx;
    fm_migration_expire(m);
    return fm_migration_check_cancelled(m, err);
}

static int prepare_follower(struct fm_migration *m, const struct fm_follower *f, json_t *journey,
                            struct fm_error *err)
{
    struct fm_move move = move_of(m, journey);
    move.cancel = (struct fm_cancel){.check = check_patience, .ctx = m};
    json_t *before = NULL;
    int rc = f->ops->read(f->ctx, &move, &before, err);
    if (rc < 0)
        json_decref(before);
    if (rc < 0 || !before)
        return rc;
    json_object_set_new(json_object_get(journey, "before"), f->name, before);
    rc = fm_migration_step(m, FM_STEP_FOLLOW, json_deep_copy(journey), err);
    return rc < 0 ? rc : f->ops->prepare(f->ctx, &move, before, err);
}

/* The way back of a migration is told by the one that it takes back. */
static int prepare_followers(struct fm_migration *m, struct fm_error *err)
{
    const struct fm_components *p = m->parts;
    json_auto_t *journey = new_journey(m);
    int rc = 0;
    if (!m->has_endpoint || *m->return_of)
        return 0;
    for (size_t i = 0; i < p->follower_count && rc == 0; i++) {
        rc = prepare_follower(m, &p->followers[i], journey, err);
        if (rc == 0)
            rc = fm_migration_check_cancelled(m, err);
    }
    return rc;
}

int fm_orchestrator_prepare(struct fm_migration *m, struct fm_error *err)
{
    int rc = prepare_hold(m, err);
    return rc < 0 ? rc : prepare_followers(m, err);
}

int fm_orchestrator_follow(struct fm_migration *m, struct fm_error *err)
{
    const struct fm_components *p = m->parts;
    json_auto_t *journey = known_journey(m);
    struct fm_move move = move_of(m, journey);
    int rc = 0;
    for (size_t i = 0; i < p->follower_count && rc == 0; i++) {
        const struct fm_follower *f = &p->followers[i];
        const json_t *before = before_of(journey, f);
        rc = before ? f->ops->switch_over(f->ctx, &move, before, err) : 0;
    }
    return rc;
}

/* One that took part, and is configured no more. */
static int find_unknown(const struct fm_migration *m, json_t *journey, struct fm_error *err)
{
    const struct fm_components *p = m->parts;
    const char *name;
    json_t *before;
    json_object_foreach(json_object_get(journey, "before"), name, before)
    {
        size_t i = 0;
        while (i < p->follower_count && !fm_streq(p->followers[i].name, name))
            i++;
        if (i == p->follower_count)
            return fm_error_set(err, FM_E_NOT_FOUND,
                                "'%s' is not configured any more: it still has what the migration "
                                "had made there; configure it again and restart the daemon",
                                name);
    }
    return 0;
}

/* The last step of those that take part, in reverse when `back`; of every one of them, whatever
 * another said. Afterwards nobody takes part any more. */
static int end_following(struct fm_migration *m, bool back, struct fm_error *err)
{
    const struct fm_components *p = m->parts;
    json_auto_t *journey = known_journey(m);
    struct fm_move move = move_of(m, journey);
    if (!journey)
        return 0;
    int first = find_unknown(m, journey, err);
    for (size_t i = 0; i < p->follower_count; i++) {
        const struct fm_follower *f = &p->followers[back ? p->follower_count - 1 - i : i];
        const json_t *before = before_of(journey, f);
        struct fm_error e = {0};
        int rc = !before ? 0
                 : back  ? f->ops->undo(f->ctx, &move, before, &e)
                         : f->ops->finish(f->ctx, &move, before, &e);
        if (rc < 0 && first == 0) {
            first = rc;
            *err = e;
        } else if (rc < 0) {
            fm_log(FM_LOG_ERROR, FM_NETWORK_MANAGER, "Migration %s: %s.", m->id, e.text);
        }
    }
    return first < 0 ? first : fm_journal_undone(p->journal, m->id, FM_STEP_FOLLOW, err);
}

int fm_orchestrator_finish(struct fm_migration *m, struct fm_error *err)
{
    fm_orchestrator_end_hold(m);
    return end_following(m, false, err);
}

int fm_orchestrator_undo(struct fm_migration *m, struct fm_error *err)
{
    int rc = end_following(m, true, err);
    fm_readdress_undo(m);
    return rc;
}
