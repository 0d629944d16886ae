#include "migration/relay.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/networks_internal.h"

static int set(struct fm_components *p, const json_t *relay, bool on, struct fm_error *err)
{
    return p->network.ops->relay(p->network.ctx, fm_json_text(relay, "network"),
                                 fm_json_text(relay, "mac"), on, err);
}

/* [{"id","detail"}] of the journal; new reference, NULL when this host has none. */
static json_t *standing(struct fm_components *p)
{
    return p->network.ops->relay ? fm_journal_standing(p->journal, FM_STEP_RELAY) : NULL;
}

static json_t *lease_of(struct fm_components *p, const json_t *relay, struct fm_error *err)
{
    fm_autofree char *key =
        fm_strf("%s/%s", fm_json_text(relay, "network"), fm_json_text(relay, "ip"));
    return fm_replica_get(p, FM_KIND_LEASE, key, err);
}

/* Why it ends; NULL: it goes on. */
static const char *is_over(struct fm_components *p, const json_t *relay, const json_t *lease,
                           const struct fm_error *unread)
{
    uint64_t until = (uint64_t)json_integer_value(json_object_get(relay, "until_us"));
    uint64_t now = fm_realtime_us();
    if (now >= until || until > now + p->relay_limit_us)
        return "its time is up";
    if (!lease)
        return unread->code == FM_E_NOT_FOUND ? "its address is free" : NULL;
    if (!fm_streq(fm_json_text(lease, "mac"), fm_json_text(relay, "mac")))
        return "its address is another's";
    return fm_streq(fm_json_text(lease, "host"), p->host) ? "it has come back" : NULL;
}

/* --- begin --- */

static json_t *all_others(struct fm_components *p, const char *destination)
{
    json_auto_t *hosts = fm_replica_hosts(p);
    json_t *names = json_array(), *doc;
    size_t i;
    json_array_foreach(hosts, i, doc)
    {
        if (!fm_streq(fm_json_text(doc, "name"), destination))
            json_array_append(names, json_object_get(doc, "name"));
    }
    return names;
}

static bool may_relay(struct fm_migration *m)
{
    struct fm_components *p = m->parts;
    struct fm_network_spec spec;
    return p->networks && p->network.ops->relay && p->relay_limit_us && m->has_endpoint &&
           m->container && !m->arrival &&
           fm_networks_find(p, m->endpoint.network, &spec, NULL) == 0 &&
           spec.mode == FM_NETWORK_OVERLAY;
}

void fm_relay_begin(struct fm_migration *m)
{
    struct fm_components *p = m->parts;
    struct fm_error err = {0};
    if (!may_relay(m))
        return;
    json_auto_t *hosts = m->untold ? json_incref(m->untold) : all_others(p, m->options.destination);
    if (!json_array_size(hosts))
        return;
    fm_cleanup(fm_lease_clear) struct fm_lease lease = {0};
    fm_lease_of(m->container, m->options.destination, &lease);
    json_auto_t *relay =
        json_pack("{s:s, s:s, s:s, s:s, s:O, s:I}", "network", m->endpoint.network, "mac",
                  m->endpoint.mac, "ip", lease.ip, "container", m->options.container, "hosts",
                  hosts, "until_us", (json_int_t)(fm_realtime_us() + p->relay_limit_us));
    int rc = fm_migration_step(m, FM_STEP_RELAY, json_incref(relay), &err);
    if (rc == 0)
        rc = set(p, relay, true, &err);
    if (rc < 0)
        fm_warn(FM_NETWORK_MANAGER, "What hosts that are away send to %s is lost: %s.",
                m->options.container, err.text);
    else
        fm_info(FM_NETWORK_MANAGER,
                "%zu hosts have not confirmed where %s is: what they send here is passed on.",
                json_array_size(hosts), m->options.container);
}

void fm_relays_resume(struct fm_components *p)
{
    json_auto_t *relays = standing(p);
    size_t i;
    json_t *entry;
    json_array_foreach(relays, i, entry)
    {
        struct fm_error err = {0};
        const json_t *relay = json_object_get(entry, "detail");
        json_auto_t *lease = lease_of(p, relay, &err);
        /* One that is over ends in the next pass: its container may be back. */
        if (!is_over(p, relay, lease, &err) && set(p, relay, true, &err) < 0)
            fm_warn(FM_NETWORK_MANAGER, "What is sent to %s is passed on no more: %s.",
                    fm_json_text(relay, "container"), err.text);
    }
}

/* Without nftables there is none. */
int fm_relays_repair(struct fm_components *p, struct fm_error *err)
{
    struct fm_error e = {0};
    if (!p->network.ops->relay)
        return 0;
    fm_relays_resume(p);
    fm_relays_pass(p);
    json_auto_t *relays = standing(p);
    int rc = p->network.ops->relay(p->network.ctx, NULL, NULL, true, &e);
    return rc < 0 && json_array_size(relays) ? fm_error_set(err, e.code, "%s", e.text) : 0;
}

/* --- end --- */

/* The newest lease, which the host keeps unless it knows a newer one. */
static bool confirms(struct fm_components *p, const struct fm_host *host, json_t *lease)
{
    json_auto_t *body = json_pack("{s:s, s:[{s:s, s:O}]}", "op", "learn", "documents", "kind",
                                  FM_KIND_LEASE, "document", lease);
    json_auto_t *answer = fm_replica_ask(p, host, body, NULL);
    return answer && !json_array_size(json_object_get(answer, "problems"));
}

/* A host that is not there is not asked here: when it is back it is met again (replica.h). */
static bool is_missing(struct fm_components *p, const char *name, json_t *lease)
{
    struct fm_host host;
    struct fm_error err = {0};
    json_auto_t *doc = p->store.ops->get(p->store.ctx, "host", name, &err);
    if (!doc)
        return err.code != FM_E_NOT_FOUND;
    if (fm_host_from_json(doc, &host, NULL) < 0)
        return false;
    return !fm_replica_has_met(p, name) || !confirms(p, &host, lease);
}

static json_t *still_missing(struct fm_components *p, const json_t *relay, json_t *lease)
{
    json_t *missing = json_array(), *name;
    size_t i;
    json_array_foreach(json_object_get(relay, "hosts"), i, name)
    {
        if (is_missing(p, json_string_value(name), lease))
            json_array_append(missing, name);
    }
    return missing;
}

static void end(struct fm_components *p, const char *id, const json_t *relay, const char *why)
{
    struct fm_error err = {0};
    int rc = set(p, relay, false, &err);
    if (rc == 0 || err.code == FM_E_NOT_FOUND) /* it went with its network */
        rc = fm_journal_undone(p->journal, id, FM_STEP_RELAY, &err);
    if (rc < 0)
        fm_warn(FM_NETWORK_MANAGER, "The relay of %s: %s.", fm_json_text(relay, "container"),
                err.text);
    else
        fm_info(FM_NETWORK_MANAGER, "What is sent here to %s is passed on no more: %s.",
                fm_json_text(relay, "container"), why);
}

static void look(struct fm_components *p, const char *id, json_t *relay)
{
    struct fm_error err = {0};
    json_auto_t *lease = lease_of(p, relay, &err);
    const char *why = is_over(p, relay, lease, &err);
    if (!why && lease) {
        json_auto_t *missing = still_missing(p, relay, lease);
        size_t count = json_array_size(missing);
        bool fewer = count < json_array_size(json_object_get(relay, "hosts"));
        json_object_set(relay, "hosts", missing);
        if (!count)
            why = "all hosts know where it is";
        else if (fewer)
            fm_journal_amend(p->journal, id, FM_STEP_RELAY, relay, &err);
    }
    if (why)
        end(p, id, relay, why);
}

void fm_relays_pass(struct fm_components *p)
{
    json_auto_t *relays = standing(p);
    size_t i;
    json_t *entry;
    json_array_foreach(relays, i, entry)
        look(p, fm_json_text(entry, "id"), json_object_get(entry, "detail"));
}
