/* May this container come here? Asked in the source's preflight, and again when it comes. */
#include "migration/incoming_internal.h"

#include <stdio.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "migration/leases.h"
#include "migration/lifecycle.h"
#include "migration/migration.h"
#include "migration/networks.h"
#include "migration/preflight.h"

/* Someone who comes to this host: by container name. */
static struct fm_incoming *find_active_by_name(struct fm_incoming_table *t, const char *name)
{
    pthread_mutex_lock(&t->lock);
    struct fm_incoming *in = t->first;
    while (in && (in->stage >= FM_STAGE_RUNNING || !fm_streq(in->container->name, name)))
        in = in->next;
    pthread_mutex_unlock(&t->lock);
    return in;
}

bool fm_incoming_is_coming(struct fm_incoming_table *t, const char *name)
{
    return find_active_by_name(t, name) != NULL;
}

bool fm_incoming_is_return(struct fm_components *p, const char *return_of, const char *container,
                           const char *peer)
{
    json_auto_t *doc =
        return_of && *return_of ? fm_journal_load(p->journal, return_of, NULL) : NULL;
    return doc && !fm_migration_is_settled(doc) && !json_object_get(doc, "role") &&
           fm_streq(json_string_value(json_object_get(doc, "container")), container) &&
           (!peer || fm_streq(json_string_value(json_object_get(doc, "destination")), peer)) &&
           fm_journal_has(p->journal, return_of, FM_STEP_RETURN, NULL);
}

static bool name_taken(struct fm_incoming_table *t, const char *name, bool returns)
{
    struct fm_components *p = t->parts;
    struct fm_runtime_state state;
    if (find_active_by_name(t, name))
        return true;
    if (returns)
        return false;
    json_auto_t *record = p->store.ops->get(p->store.ctx, "container", name, NULL);
    return record || p->runtime.ops->state(p->runtime.ctx, name, &state, NULL) == 0;
}

static bool share_address(const struct fm_container *a, const struct fm_container *b)
{
    const char *one = a->network ? a->network : FM_NETWORK_DEFAULT;
    const char *other = b->network ? b->network : FM_NETWORK_DEFAULT;
    return fm_streq(one, other) &&
           ((a->ip && fm_streq(a->ip, b->ip)) || (a->ip6 && fm_streq(a->ip6, b->ip6)));
}

static bool address_is_coming(struct fm_incoming_table *t, const struct fm_container *c)
{
    pthread_mutex_lock(&t->lock);
    struct fm_incoming *in = t->first;
    while (in && (in->stage >= FM_STAGE_RUNNING || !share_address(in->container, c) ||
                  fm_streq(in->container->name, c->name)))
        in = in->next;
    pthread_mutex_unlock(&t->lock);
    return in != NULL;
}

static bool address_taken(struct fm_incoming_table *t, const struct fm_container *c)
{
    struct fm_components *p = t->parts;
    if (address_is_coming(t, c))
        return true;
    json_auto_t *docs = p->store.ops->list(p->store.ctx, "container", NULL);
    size_t i;
    json_t *doc;
    json_array_foreach(docs, i, doc)
    {
        fm_autocontainer struct fm_container *other = fm_container_from_json(doc, NULL);
        if (other && share_address(other, c) && !fm_streq(other->name, c->name))
            return true;
    }
    return false;
}

/* Why its network or its addresses cannot be here; "" nothing. */
static void check_network(struct fm_components *p, const struct fm_container *c,
                          const json_t *network, char why[1024])
{
    struct fm_error err = {0};
    struct fm_endpoint endpoint;
    *why = '\0';
    if (!c->ip)
        return;
    int rc = fm_networks_adopt(p, network, false, &err);
    if (rc == 0)
        rc = fm_lease_check(p, c, &err);
    if (rc == 0 && !json_is_object(network))
        rc = fm_lifecycle_endpoint(p, c, &endpoint, &err);
    if (rc < 0)
        snprintf(why, 1024, "%s", err.text);
}

static bool is_cordoned(struct fm_components *p)
{
    json_auto_t *doc = p->store.ops->get(p->store.ctx, "host", p->host, NULL);
    return json_is_true(json_object_get(doc, "cordoned"));
}

json_t *fm_incoming_missing_layers(struct fm_components *p, const struct fm_container *container)
{
    json_t *missing = json_array();
    for (size_t i = 0; i < container->layers.count; i++)
        if (!fm_image_has_layer(p->images, container->layers.items[i]))
            json_array_append_new(missing, json_string(container->layers.items[i]));
    return missing;
}

json_t *fm_incoming_check(struct fm_incoming_table *t, const json_t *body, struct fm_error *err)
{
    struct fm_components *p = t->parts;
    fm_autocontainer struct fm_container *c =
        fm_container_from_json(json_object_get(body, "container"), err);
    json_auto_t *facts = c ? p->facts(p->facts_ctx, err) : NULL;
    if (!facts)
        return NULL;
    const char *return_of = json_string_value(json_object_get(body, "return_of"));
    json_t *state = fm_preflight_destination_state(
        c, json_object_get(body, "needs"),
        name_taken(t, c->name, fm_incoming_is_return(p, return_of, c->name, NULL)),
        address_taken(t, c), is_cordoned(p));
    char why[1024];
    check_network(p, c, json_object_get(body, "network"), why);
    json_object_set_new(state, "network", json_string(why));
    json_object_set_new(state, "missing_layers", fm_incoming_missing_layers(p, c));
    return json_pack("{s:O, s:o}", "facts", facts, "state", state);
}

int fm_incoming_admissible(struct fm_incoming_table *t, const struct fm_incoming *in,
                           const char *peer, struct fm_error *err)
{
    struct fm_components *p = t->parts;
    const char *name = in->container->name;
    if (!fm_streq(in->source.name, peer))
        return fm_error_set(err, FM_E_AUTH, "host '%s' speaks for '%s'", peer, in->source.name);
    if (is_cordoned(p) && !*in->return_of)
        return fm_error_set(err, FM_E_REFUSED,
                            "host '%s' is cordoned: `fleximigrate host uncordon %s`", p->host,
                            p->host);
    if (name_taken(t, name, *in->return_of))
        return fm_error_set(err, FM_E_REFUSED, "container '%s' exists on host '%s' already", name,
                            p->host);
    if (address_taken(t, in->container))
        return fm_error_set(err, FM_E_REFUSED, "address %s is in use on host '%s'",
                            in->container->ip, p->host);
    return 0;
}
