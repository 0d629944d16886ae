/* May this container come here? Asked in the source's preflight, and again when it comes. */
#include "migration/incoming_internal.h"

#include "base/cleanup.h"
#include "base/text.h"
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
    bool open = !json_is_true(json_object_get(doc, "final")) ||
                json_is_true(json_object_get(doc, "needs_attention"));
    return doc && open && !json_object_get(doc, "role") &&
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

static bool address_is_coming(struct fm_incoming_table *t, const struct fm_container *c)
{
    pthread_mutex_lock(&t->lock);
    struct fm_incoming *in = t->first;
    while (in && (in->stage >= FM_STAGE_RUNNING || !c->ip || !fm_streq(in->container->ip, c->ip) ||
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
        const char *name = json_string_value(json_object_get(doc, "name"));
        const char *ip = json_string_value(json_object_get(doc, "ip"));
        if (c->ip && fm_streq(ip, c->ip) && !fm_streq(name, c->name))
            return true;
    }
    return false;
}

static bool is_cordoned(struct fm_components *p)
{
    json_auto_t *doc = p->store.ops->get(p->store.ctx, "host", p->host, NULL);
    return json_is_true(json_object_get(doc, "cordoned"));
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
