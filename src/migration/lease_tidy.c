/* Leases and containers after a death in the middle: one does not stay without the other. */
#include "migration/networks_internal.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"

static const char *text(const json_t *doc, const char *key)
{
    const char *value = json_string_value(json_object_get(doc, key));
    return value ? value : "";
}

/* A registry that cannot be read proves nothing. */
static bool has_record(struct fm_components *p, const json_t *lease)
{
    struct fm_error err = {0};
    json_auto_t *doc = p->store.ops->get(p->store.ctx, "container", text(lease, "owner"), &err);
    fm_autofree char *ip = fm_xstrdup(text(doc, "ip"));
    ip[strcspn(ip, "/")] = '\0';
    return doc ? fm_streq(ip, text(lease, "ip")) : err.code != FM_E_NOT_FOUND;
}

static void drop_lost(struct fm_components *p, const json_t *moving)
{
    json_auto_t *leases = fm_leases_list(p, NULL, NULL);
    size_t i;
    json_t *doc;
    json_array_foreach(leases, i, doc)
    {
        if (!fm_streq(text(doc, "host"), p->host) || strchr(text(doc, "owner"), ':') ||
            json_object_get(moving, text(doc, "owner")) ||
            fm_claim_is_open(p, text(doc, "network"), text(doc, "ip")) || has_record(p, doc))
            continue;
        fm_autofree char *key = fm_replica_key(FM_KIND_LEASE, doc);
        fm_info(FM_NETWORK_MANAGER, "Lease %s of %s, which is gone, ends.", key,
                text(doc, "owner"));
        pthread_mutex_lock(&p->networks->lock);
        fm_replica_remove(p, FM_KIND_LEASE, key, NULL);
        pthread_mutex_unlock(&p->networks->lock);
    }
}

/* A container of this host: the lease is its, is here, and publishes its ports. */
static void keep(struct fm_components *p, const struct fm_container *c)
{
    fm_cleanup(fm_lease_clear) struct fm_lease lease = {0};
    struct fm_error err = {0};
    fm_lease_of(c, p->host, &lease);
    fm_autofree char *key = fm_strf("%s/%s", lease.network, lease.ip);
    json_auto_t *wanted = fm_lease_to_json(&lease);
    json_auto_t *doc = fm_replica_get(p, FM_KIND_LEASE, key, NULL);
    if (fm_streq(text(doc, "owner"), c->name) && fm_streq(text(doc, "host"), p->host) &&
        json_equal(json_object_get(doc, "publish"), json_object_get(wanted, "publish")))
        return;
    if (fm_lease_claim(p, &lease, true, &err) < 0 || fm_lease_move(p, c, p->host, NULL, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "Container %s has no lease: %s.", c->name, err.text);
}

void fm_leases_forget_host(struct fm_components *p, const char *host)
{
    json_auto_t *leases = p->networks ? fm_leases_list(p, NULL, NULL) : NULL;
    size_t i;
    json_t *doc;
    json_array_foreach(leases, i, doc)
    {
        fm_autofree char *key = fm_replica_key(FM_KIND_LEASE, doc);
        if (!fm_streq(text(doc, "host"), host))
            continue;
        pthread_mutex_lock(&p->networks->lock);
        fm_replica_remove(p, FM_KIND_LEASE, key, NULL);
        pthread_mutex_unlock(&p->networks->lock);
    }
}

void fm_leases_tidy(struct fm_components *p)
{
    json_auto_t *docs = p->store.ops->list(p->store.ctx, "container", NULL);
    json_auto_t *moving = fm_leases_moving(p);
    size_t i;
    json_t *doc;
    if (!docs)
        return;
    drop_lost(p, moving);
    json_array_foreach(docs, i, doc)
    {
        fm_autocontainer struct fm_container *c = fm_container_from_json(doc, NULL);
        if (c && c->ip && !c->found && !json_object_get(moving, c->name))
            keep(p, c);
    }
}
