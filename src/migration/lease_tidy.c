/* Leases and containers after a death in the middle: one does not stay without the other. */
#include "migration/networks_internal.h"

#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"

/* --- record and lease --- */

/* A port that `some` publish and `others` do not. */
static void compare_ports(const struct fm_strv *some, const struct fm_strv *others,
                          const char *which, const char *other, json_t *lines)
{
    for (size_t i = 0; i < some->count; i++) {
        bool found = false;
        for (size_t k = 0; k < others->count; k++)
            found |= fm_streq(some->items[i], others->items[k]);
        if (!found)
            json_array_append_new(
                lines, json_sprintf("%s publishes %s, %s does not", which, some->items[i], other));
    }
}

json_t *fm_lease_differences(const json_t *doc, const struct fm_lease *record)
{
    fm_cleanup(fm_lease_clear) struct fm_lease lease = {0};
    json_t *lines = json_array();
    fm_autofree char *key = fm_strf("the lease %s/%s", record->network, record->ip);
    fm_autofree char *name = fm_strf("container '%s'", record->owner);
    struct fm_error err = {0};
    if (fm_lease_from_json(doc, &lease, &err) < 0) {
        json_array_append_new(lines, json_sprintf("%s of %s: %s", key, name, err.text));
        return lines;
    }
    if (*record->mac && strcasecmp(record->mac, lease.mac) != 0)
        json_array_append_new(lines, json_sprintf("%s has hardware address %s, %s %s", name,
                                                  record->mac, key, fm_or_nothing(lease.mac)));
    if (!fm_streq(record->ip6, lease.ip6))
        json_array_append_new(lines, json_sprintf("%s has second address %s, %s %s", name,
                                                  fm_or_nothing(record->ip6), key,
                                                  fm_or_nothing(lease.ip6)));
    compare_ports(&record->publish, &lease.publish, name, key, lines);
    compare_ports(&lease.publish, &record->publish, key, name, lines);
    return lines;
}

/* --- one does not stay without the other --- */

/* A registry that cannot be read proves nothing. */
static bool has_record(struct fm_components *p, const json_t *lease)
{
    struct fm_error err = {0};
    fm_cleanup(fm_lease_clear) struct fm_lease has = {0};
    json_auto_t *doc =
        p->store.ops->get(p->store.ctx, "container", fm_json_text(lease, "owner"), &err);
    fm_autocontainer struct fm_container *c = doc ? fm_container_from_json(doc, &err) : NULL;
    if (!c)
        return err.code != FM_E_NOT_FOUND;
    fm_lease_of(c, p->host, &has);
    return fm_streq(has.network, fm_json_text(lease, "network")) &&
           fm_streq(has.ip, fm_json_text(lease, "ip"));
}

static void drop_lost(struct fm_components *p, const json_t *moving)
{
    json_auto_t *leases = fm_leases_list(p, NULL, NULL);
    size_t i;
    json_t *doc;
    json_array_foreach(leases, i, doc)
    {
        if (!fm_streq(fm_json_text(doc, "host"), p->host) ||
            strchr(fm_json_text(doc, "owner"), ':') ||
            json_object_get(moving, fm_json_text(doc, "owner")) ||
            fm_claim_is_open(p, fm_json_text(doc, "network"), fm_json_text(doc, "ip")) ||
            has_record(p, doc))
            continue;
        fm_autofree char *key = fm_replica_key(FM_KIND_LEASE, doc);
        fm_info(FM_NETWORK_MANAGER, "Lease %s of %s, which is gone, ends.", key,
                fm_json_text(doc, "owner"));
        pthread_mutex_lock(&p->networks->lock);
        fm_replica_remove(p, FM_KIND_LEASE, key, NULL);
        pthread_mutex_unlock(&p->networks->lock);
    }
}

/* A container of this host: the lease is its, is here, and says what the record says. */
static void keep(struct fm_components *p, const struct fm_container *c)
{
    fm_cleanup(fm_lease_clear) struct fm_lease lease = {0};
    struct fm_error err = {0};
    fm_lease_of(c, p->host, &lease);
    fm_autofree char *key = fm_strf("%s/%s", lease.network, lease.ip);
    json_auto_t *doc = fm_replica_get(p, FM_KIND_LEASE, key, NULL);
    json_auto_t *differences = fm_lease_differences(doc, &lease);
    if (fm_streq(fm_json_text(doc, "owner"), c->name) &&
        fm_streq(fm_json_text(doc, "host"), p->host) && json_array_size(differences) == 0)
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
        if (!fm_streq(fm_json_text(doc, "host"), host))
            continue;
        pthread_mutex_lock(&p->networks->lock);
        fm_replica_remove(p, FM_KIND_LEASE, key, NULL);
        pthread_mutex_unlock(&p->networks->lock);
    }
}

void fm_leases_tidy(struct fm_components *p)
{
    json_auto_t *docs = p->store.ops->list(p->store.ctx, "container", NULL);
    json_auto_t *moving = fm_leases_moving(p, true);
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
