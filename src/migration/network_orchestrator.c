#include "migration/network_orchestrator.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/following.h"
#include "migration/leases.h"
#include "migration/readdress.h"
#include "migration/relay.h"
#include "migration/replica.h"
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

/* One host that is told. */
struct telling {
    struct fm_components *parts;
    struct fm_host host;
    const json_t *body;
    bool heard, has_thread;
    pthread_t thread;
};

static void *tell(void *arg)
{
    struct telling *t = arg;
    const struct fm_links *links = &t->parts->links;
    struct fm_link *link = links->ops->open(links->ctx, &t->host, 0, ANNOUNCE_TIMEOUT_MS, NULL);
    if (!link)
        return NULL;
    json_auto_t *answer =
        links->ops->call(link, FM_FRAME_FABRIC, t->body, ANNOUNCE_TIMEOUT_MS, NULL);
    t->heard = answer != NULL;
    links->ops->close(link);
    return NULL;
}

/* All at the same time, so that dead ones cost their time but once. */
static void tell_all(struct telling *list, size_t count)
{
    for (size_t i = 1; i < count; i++)
        list[i].has_thread = pthread_create(&list[i].thread, NULL, tell, &list[i]) == 0;
    for (size_t i = 0; i < count; i++)
        if (!list[i].has_thread)
            tell(&list[i]);
    for (size_t i = 0; i < count; i++)
        if (list[i].has_thread)
            pthread_join(list[i].thread, NULL);
}

/* The others of the registry but the destination; the caller frees the list. */
static struct telling *others_of(struct fm_migration *m, const json_t *body, size_t *count)
{
    json_auto_t *hosts = fm_replica_hosts(m->parts);
    struct telling *list = fm_xcalloc(json_array_size(hosts) + 1, sizeof(*list));
    size_t i;
    json_t *doc;
    *count = 0;
    json_array_foreach(hosts, i, doc)
    {
        struct telling *t = &list[*count];
        *t = (struct telling){.parts = m->parts, .body = body};
        if (fm_host_from_json(doc, &t->host, NULL) == 0 &&
            !fm_streq(t->host.name, m->destination.name))
            (*count)++;
    }
    return list;
}

/* One that is not reached learns of it when it is back (replica.h); until then it sends to the old
 * host, which passes it on (relay.h). */
static void tell_others(struct fm_migration *m, json_t *lease)
{
    const struct fm_endpoint *ep = fm_readdress_endpoint(m);
    json_auto_t *body = json_pack("{s:s, s:s, s:s, s:s, s:O*}", "op", "set", "network", ep->network,
                                  "mac", ep->mac, "host", m->destination.address, "lease", lease);
    size_t count;
    fm_autofree struct telling *list = others_of(m, body, &count);
    tell_all(list, count);
    json_decref(m->untold);
    m->untold = json_array();
    for (size_t i = 0; i < count; i++)
        if (!list[i].heard)
            json_array_append_new(m->untold, json_string(list[i].host.name));
}

/* Tells the other hosts of the fabric where the container is now. */
void fm_orchestrator_announce(struct fm_migration *m)
{
    struct fm_error err = {0};
    json_t *moved = NULL;
    if (!m->has_endpoint || !m->container)
        return;
    fm_readdress_switch(m);
    if (fm_lease_move(m->parts, fm_readdress_container(m), m->destination.name, &moved, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "Lease of %s: %s.", m->container->name, err.text);
    json_auto_t *lease = moved;
    tell_others(m, lease);
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
    struct fm_error ignored = {0};
    /* That of an earlier daemon has gone with it. */
    fm_journal_undone(m->parts->journal, m->id, FM_STEP_HOLD, &ignored);
    if (!m->hold)
        return;
    n->ops->hold_end(n->ctx, FM_MOVE(m->hold), &c);
    m->stats.held_frames = c.held;
    m->stats.released_frames = c.released;
    m->stats.forwarded_frames = c.forwarded;
    m->stats.dropped_frames = c.dropped;
}

/* --- with followers --- */

int fm_orchestrator_prepare(struct fm_migration *m, struct fm_error *err)
{
    int rc = prepare_hold(m, err);
    return rc < 0 ? rc : fm_following_prepare(m, err);
}

void fm_orchestrator_finish(struct fm_migration *m)
{
    fm_relay_begin(m);
    fm_orchestrator_end_hold(m);
    fm_following_end(m, false);
}

void fm_orchestrator_undo(struct fm_migration *m)
{
    fm_following_end(m, true);
    fm_readdress_undo(m);
}
