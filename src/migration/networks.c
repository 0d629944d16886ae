#include "migration/networks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/networks_internal.h"
#include "migration/relay.h"
#include "network/address.h"
#include "wire/frame.h"

#define TIDY_MS 60000
#define LOOK_S 1 /* how often hosts that are away are looked for */

struct fm_networks *fm_networks_new(const struct fm_network_spec *standard)
{
    struct fm_networks *n = fm_xcalloc(1, sizeof(*n));
    n->standard = *standard;
    n->untold = json_object();
    pthread_mutex_init(&n->lock, NULL);
    pthread_mutex_init(&n->passing, NULL);
    pthread_cond_init(&n->changed, NULL);
    return n;
}

void fm_networks_free(struct fm_networks *n)
{
    if (!n)
        return;
    while (n->claims) {
        struct fm_claim *claim = n->claims;
        n->claims = claim->next;
        fm_lease_clear(&claim->lease);
        free(claim);
    }
    while (n->members) {
        struct fm_member *member = n->members;
        n->members = member->next;
        free(member);
    }
    json_decref(n->untold);
    pthread_cond_destroy(&n->changed);
    pthread_mutex_destroy(&n->passing);
    pthread_mutex_destroy(&n->lock);
    free(n);
}

/* --- what is there --- */

static bool is_default(const char *name)
{
    return !name || fm_streq(name, FM_NETWORK_DEFAULT);
}

static int check_support(struct fm_components *p, struct fm_error *err)
{
    if (p->networks && p->network.ops->define && p->network.ops->undefine)
        return 0;
    return fm_error_set(err, FM_E_REFUSED, "host '%s' supports only the network '%s'", p->host,
                        FM_NETWORK_DEFAULT);
}

int fm_networks_find(struct fm_components *p, const char *name, struct fm_network_spec *spec,
                     struct fm_error *err)
{
    if (is_default(name)) {
        *spec = p->networks ? p->networks->standard
                            : (struct fm_network_spec){.name = FM_NETWORK_DEFAULT};
        return 0;
    }
    json_auto_t *doc = fm_replica_get(p, FM_KIND_NETWORK, name, err);
    if (!doc && err && err->code == FM_E_NOT_FOUND)
        fm_error_set(err, FM_E_NOT_FOUND,
                     "no network '%s': `fleximigrate network list` shows those there are", name);
    int rc = doc ? fm_network_spec_from_json(doc, spec, err) : fm_error_result(err);
    return rc < 0 ? rc : check_support(p, err);
}

/* The default network and those of the registry; new reference. */
static json_t *all_networks(struct fm_components *p, struct fm_error *err)
{
    json_t *docs = fm_replica_live(p, FM_KIND_NETWORK, err);
    if (docs && p->networks)
        json_array_insert_new(docs, 0, fm_network_spec_to_json(&p->networks->standard));
    return docs;
}

static json_t *describe(struct fm_components *p, const json_t *network, bool with_leases,
                        struct fm_error *err)
{
    struct fm_network_spec spec = {0};
    json_auto_t *leases = fm_leases_list(p, fm_json_text(network, "name"), err);
    json_int_t containers = 0;
    size_t i;
    json_t *lease;
    if (!leases)
        return NULL;
    json_array_foreach(leases, i, lease)
    {
        containers += !strchr(fm_json_text(lease, "owner"), ':');
        json_object_del(lease, "removed");
    }
    json_t *doc = json_object();
    json_auto_t *known = fm_network_spec_from_json(network, &spec, NULL) == 0
                             ? fm_network_spec_to_json(&spec)
                             : json_copy((json_t *)(uintptr_t)network);
    json_object_update(doc, known);
    json_object_set_new(doc, "containers", json_integer(containers));
    if (with_leases)
        json_object_set(doc, "leases", leases);
    return doc;
}

json_t *fm_networks_list(struct fm_components *p, struct fm_error *err)
{
    json_auto_t *docs = all_networks(p, err);
    json_auto_t *list = json_array();
    size_t i;
    json_t *doc;
    if (!docs)
        return NULL;
    json_array_foreach(docs, i, doc)
    {
        json_t *shown = describe(p, doc, false, err);
        if (!shown)
            return NULL;
        json_array_append_new(list, shown);
    }
    return json_incref(list);
}

json_t *fm_networks_show(struct fm_components *p, const char *name, struct fm_error *err)
{
    json_auto_t *docs = all_networks(p, err);
    size_t i;
    json_t *doc;
    if (!docs)
        return NULL;
    json_array_foreach(docs, i, doc) if (fm_streq(fm_json_text(doc, "name"), name)) return describe(
        p, doc, true, err);
    fm_error_set(err, FM_E_NOT_FOUND,
                 "no network '%s': `fleximigrate network list` shows those there are", name);
    return NULL;
}

/* --- making --- */

/* Against all other networks. An equal one by the same name is no clash. */
static int check_clashes(struct fm_components *p, const struct fm_network_spec *spec,
                         struct fm_error *err)
{
    json_auto_t *docs = all_networks(p, err);
    size_t i;
    json_t *doc;
    if (!docs)
        return fm_error_result(err);
    json_array_foreach(docs, i, doc)
    {
        struct fm_network_spec other;
        if (fm_streq(fm_json_text(doc, "name"), FM_NETWORK_DEFAULT))
            other = p->networks->standard;
        else if (fm_network_spec_from_json(doc, &other, NULL) < 0)
            continue;
        if (fm_streq(other.name, spec->name)) {
            if (fm_network_spec_equal(&other, spec))
                continue;
            return fm_error_set(err, FM_E_EXISTS,
                                "network '%s' exists with other settings (subnet %s): choose "
                                "another name, or remove it first",
                                spec->name, other.subnet);
        }
        int rc = fm_network_spec_clash(spec, &other, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* A VNI that no network has. Where the search begins depends on the name: two hosts that do not
 * hear each other choose different ones for different networks. */
static int choose_vni(struct fm_components *p, struct fm_network_spec *spec, struct fm_error *err)
{
    json_auto_t *docs = all_networks(p, err);
    json_auto_t *used = json_object();
    char key[16];
    uint8_t sum[16];
    size_t i;
    json_t *doc;
    if (!docs || spec->mode != FM_NETWORK_OVERLAY || spec->vni)
        return docs ? 0 : fm_error_result(err);
    json_array_foreach(docs, i, doc)
    {
        snprintf(key, sizeof(key), "%u", (unsigned)json_integer_value(json_object_get(doc, "vni")));
        json_object_set_new(used, key, json_true());
    }
    fm_frame_checksum(spec->name, strlen(spec->name), sum);
    uint32_t start = ((uint32_t)sum[0] << 16 | (uint32_t)sum[1] << 8 | sum[2]) % FM_VNI_MAX;
    for (i = 0; i <= json_object_size(used); i++) {
        spec->vni = (start + (uint32_t)i) % FM_VNI_MAX + 1;
        snprintf(key, sizeof(key), "%u", spec->vni);
        if (!json_object_get(used, key))
            return 0;
    }
    return fm_error_set(err, FM_E_NO_SPACE, "no VNI is free: give one with --vni");
}

static int check_keys(const json_t *request, struct fm_error *err)
{
    static const char *const known[] = {"name",     "mode", "subnet", "gateway", "subnet6",
                                        "gateway6", "vni",  "mtu",    "parent"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)request, key, value)
    {
        bool found = false;
        for (size_t i = 0; i < FM_COUNT(known); i++)
            found |= fm_streq(key, known[i]);
        if (!found)
            return fm_error_set(err, FM_E_INVALID, "a network has no '%.64s'", key);
    }
    return 0;
}

static bool contains(const char *subnet, const char *address)
{
    struct fm_ip range, ip;
    return *subnet && fm_ip_parse("subnet", subnet, &range, NULL) == 0 &&
           fm_ip_parse("address", address, &ip, NULL) == 0 && fm_ip_in_subnet(&ip, &range);
}

/* The route to such a subnet would cut this host off from that one. */
static int check_hosts(struct fm_components *p, const struct fm_network_spec *spec,
                       struct fm_error *err)
{
    json_auto_t *hosts = fm_replica_hosts(p);
    size_t i;
    json_t *host;
    json_array_foreach(hosts, i, host)
    {
        const char *address = fm_json_text(host, "address");
        if (spec->mode == FM_NETWORK_OVERLAY &&
            (contains(spec->subnet, address) || contains(spec->subnet6, address)))
            return fm_error_set(err, FM_E_INVALID,
                                "the subnet of network '%s' contains the address %s of host '%s'; "
                                "choose another",
                                spec->name, address, fm_json_text(host, "name"));
    }
    return 0;
}

/* Made here first: what does not work here is not told to others. */
static int make(struct fm_components *p, struct fm_network_spec *spec, struct fm_error *err)
{
    struct fm_network_spec same;
    if (fm_networks_find(p, spec->name, &same, NULL) == 0)
        return fm_error_set(err, FM_E_EXISTS, "network '%s' exists already", spec->name);
    int rc = choose_vni(p, spec, err);
    if (rc == 0)
        rc = check_clashes(p, spec, err);
    if (rc == 0)
        rc = check_hosts(p, spec, err);
    if (rc == 0)
        rc = p->network.ops->define(p->network.ctx, spec, err);
    if (rc < 0)
        return rc;
    rc = fm_replica_write(p, FM_KIND_NETWORK, fm_network_spec_to_json(spec), err);
    if (rc < 0)
        p->network.ops->undefine(p->network.ctx, spec->name, NULL);
    return rc;
}

json_t *fm_networks_create(struct fm_components *p, const json_t *request, struct fm_error *err)
{
    struct fm_network_spec spec;
    json_auto_t *problems = json_array();
    int rc = check_keys(request, err);
    if (rc == 0)
        rc = fm_network_spec_from_json(request, &spec, err);
    if (rc == 0 && is_default(spec.name))
        rc = fm_error_set(err, FM_E_EXISTS, "the network '%s' comes from the configuration",
                          FM_NETWORK_DEFAULT);
    if (rc == 0 && (fm_streq(spec.name, "verify") || fm_streq(spec.name, "repair")))
        rc = fm_error_set(err, FM_E_INVALID, "a network cannot be called '%s': choose another name",
                          spec.name);
    if (rc == 0)
        rc = check_support(p, err);
    if (rc < 0)
        return NULL;
    fm_replica_catch_up(p);
    pthread_mutex_lock(&p->networks->lock);
    rc = make(p, &spec, err);
    pthread_mutex_unlock(&p->networks->lock);
    if (rc < 0)
        return NULL;
    fm_replica_pass(p, problems);
    fm_info(FM_NETWORK_MANAGER, "Network %s (%s) is there.", spec.name, spec.subnet);
    json_t *doc = fm_networks_show(p, spec.name, err);
    if (doc && json_array_size(problems))
        json_object_set(doc, "warnings", problems);
    return doc;
}

/* --- removing --- */

static int check_unused(struct fm_components *p, const char *name, struct fm_error *err)
{
    json_auto_t *leases = fm_leases_list(p, name, err);
    size_t i;
    json_t *lease;
    if (!leases)
        return fm_error_result(err);
    json_array_foreach(
        leases, i,
        lease) if (!strchr(fm_json_text(lease, "owner"),
                           ':')) return fm_error_set(err, FM_E_REFUSED,
                                                     "network '%s' is in use: container '%s' on %s "
                                                     "has %s in it; remove it "
                                                     "first",
                                                     name, fm_json_text(lease, "owner"),
                                                     fm_json_text(lease, "host"),
                                                     fm_json_text(lease, "ip"));
    fm_claims_expire(p->networks);
    for (struct fm_claim *c = p->networks->claims; c; c = c->next)
        if (fm_streq(c->lease.network, name))
            return fm_error_set(err, FM_E_REFUSED,
                                "network '%s' is in use: container '%s' is being started in it",
                                name, c->lease.owner);
    return 0;
}

/* The hosts' own addresses go with it. */
static int unmake(struct fm_components *p, const char *name, struct fm_error *err)
{
    json_auto_t *leases = fm_leases_list(p, name, err);
    size_t i;
    json_t *lease;
    int rc = leases ? check_unused(p, name, err) : fm_error_result(err);
    if (rc == 0)
        rc = p->network.ops->undefine(p->network.ctx, name, err);
    if (rc == 0)
        rc = fm_replica_remove(p, FM_KIND_NETWORK, name, err);
    json_array_foreach(leases, i, lease)
    {
        fm_autofree char *key = fm_replica_key(FM_KIND_LEASE, lease);
        if (rc == 0)
            rc = fm_replica_remove(p, FM_KIND_LEASE, key, err);
    }
    return rc;
}

int fm_networks_remove(struct fm_components *p, const char *name, struct fm_error *err)
{
    struct fm_network_spec spec;
    if (is_default(name))
        return fm_error_set(err, FM_E_REFUSED,
                            "the network '%s' comes from the configuration: it cannot be removed",
                            FM_NETWORK_DEFAULT);
    int rc = fm_networks_find(p, name, &spec, err);
    if (rc < 0)
        return rc;
    fm_replica_catch_up(p);
    pthread_mutex_lock(&p->networks->lock);
    rc = unmake(p, name, err);
    pthread_mutex_unlock(&p->networks->lock);
    if (rc == 0)
        fm_replica_pass(p, NULL);
    return rc;
}

/* --- with a migration --- */

json_t *fm_networks_document(struct fm_components *p, const char *name)
{
    return is_default(name) ? NULL : fm_replica_get(p, FM_KIND_NETWORK, name, NULL);
}

int fm_networks_adopt(struct fm_components *p, const json_t *doc, bool to_make,
                      struct fm_error *err)
{
    struct fm_network_spec spec;
    struct fm_error problem = {0};
    if (!json_is_object(doc))
        return 0;
    int rc = fm_network_spec_from_json(doc, &spec, err);
    if (rc == 0)
        rc = check_support(p, err);
    if (rc == 0)
        rc = check_clashes(p, &spec, err);
    if (rc < 0 || !to_make)
        return rc;
    rc = fm_replica_learn(p, FM_KIND_NETWORK, doc, &problem, err);
    if (rc == 0 && problem.code)
        rc = fm_error_set(err, problem.code, "%s", problem.text);
    return rc;
}

/* --- into effect --- */

static int apply_devices(struct fm_components *p, const json_t *before, const json_t *doc,
                         struct fm_error *err)
{
    struct fm_network_spec spec;
    bool was = before && !json_is_true(json_object_get(before, "removed"));
    if (json_is_true(json_object_get(doc, "removed")))
        return was && p->network.ops->undefine
                   ? p->network.ops->undefine(p->network.ctx, fm_json_text(doc, "name"), err)
                   : 0;
    int rc = check_support(p, err);
    if (rc == 0)
        rc = fm_network_spec_from_json(doc, &spec, err);
    if (rc == 0)
        rc = check_clashes(p, &spec, err);
    return rc < 0 ? rc : p->network.ops->define(p->network.ctx, &spec, err);
}

/* The firewall keeps networks apart: it is told of each that comes and goes. */
int fm_networks_apply(struct fm_components *p, const json_t *before, const json_t *doc,
                      struct fm_error *err)
{
    int rc = apply_devices(p, before, doc, err);
    return rc < 0 ? rc : fm_leases_publish(p, err);
}

void fm_networks_define(struct fm_components *p)
{
    json_auto_t *docs = fm_replica_live(p, FM_KIND_NETWORK, NULL);
    fm_autofree char *own = fm_strf("host:%s", p->host);
    size_t i;
    json_t *doc;
    pthread_mutex_lock(&p->networks->lock);
    json_array_foreach(docs, i, doc)
    {
        struct fm_error err = {0};
        if (apply_devices(p, doc, doc, &err) < 0)
            fm_log(FM_LOG_ERROR, FM_NETWORK_MANAGER, "Network %s: %s.", fm_json_text(doc, "name"),
                   err.text);
    }
    json_auto_t *leases = fm_leases_list(p, NULL, NULL);
    json_array_foreach(leases, i, doc)
    {
        struct fm_error err = {0};
        if (fm_streq(fm_json_text(doc, "owner"), own) && fm_lease_point(p, doc, &err) < 0)
            fm_log(FM_LOG_ERROR, FM_NETWORK_MANAGER, "Own address %s: %s.", fm_json_text(doc, "ip"),
                   err.text);
    }
    struct fm_error err = {0};
    if (fm_leases_publish(p, &err) < 0)
        fm_log(FM_LOG_ERROR, FM_NETWORK_MANAGER, "Published ports: %s.", err.text);
    pthread_mutex_unlock(&p->networks->lock);
}

/* --- other hosts, and in the background --- */

json_t *fm_networks_answer(struct fm_components *p, const char *peer, const char *op,
                           const json_t *body, struct fm_error *err)
{
    if (p->networks && fm_streq(op, "claim"))
        return fm_leases_answer_claim(p, peer, body, err);
    if (p->networks && fm_streq(op, "unclaim"))
        return fm_leases_answer_unclaim(p, peer, body, err);
    if (p->networks && (fm_streq(op, "sync") || fm_streq(op, "learn") || fm_streq(op, "documents")))
        return fm_replica_answer(p, op, body, err);
    fm_error_set(err, FM_E_PROTOCOL, "FABRIC with unknown operation '%.32s'", op);
    return NULL;
}

void fm_networks_pass(struct fm_components *p)
{
    struct fm_networks *n = p->networks;
    fm_replica_pass(p, NULL);
    fm_leases_provide_host(p);
    fm_relays_pass(p);
    pthread_mutex_lock(&n->lock);
    fm_claims_expire(n);
    bool due = fm_now_ms() >= n->tidy_ms;
    if (due)
        n->tidy_ms = fm_now_ms() + TIDY_MS;
    bool pointed = n->pointed;
    pthread_mutex_unlock(&n->lock);
    if (due)
        fm_leases_tidy(p);
    if (due && !pointed)
        fm_leases_point(p);
}

static bool wait_for_work(struct fm_networks *n)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += LOOK_S;
    pthread_mutex_lock(&n->lock);
    if (!n->stopping && !json_object_size(n->untold))
        pthread_cond_timedwait(&n->changed, &n->lock, &until);
    bool on = !n->stopping;
    pthread_mutex_unlock(&n->lock);
    return on;
}

void fm_networks_serve(struct fm_components *p)
{
    do
        fm_networks_pass(p);
    while (wait_for_work(p->networks));
}

void fm_networks_stop(struct fm_components *p)
{
    pthread_mutex_lock(&p->networks->lock);
    p->networks->stopping = true;
    pthread_cond_broadcast(&p->networks->changed);
    pthread_mutex_unlock(&p->networks->lock);
}
