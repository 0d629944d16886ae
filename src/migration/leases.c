#include "migration/leases.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/log.h"
#include "container/check.h"
#include "migration/networks_internal.h"
#include "network/address.h"

#define HOST_PREFIX "host:"

void fm_lease_clear(struct fm_lease *lease)
{
    fm_strv_free(&lease->publish);
}

bool fm_lease_is_hosts(const struct fm_lease *lease)
{
    return fm_starts_with(lease->owner, HOST_PREFIX);
}

/* --- JSON --- */

static int take_text(const json_t *doc, const char *key, char *out, size_t size,
                     struct fm_error *err)
{
    const json_t *value = json_object_get(doc, key);
    const char *text = json_is_string(value) ? json_string_value(value) : "";
    if ((value && !json_is_string(value)) || strlen(text) >= size)
        return fm_error_set(err, FM_E_INVALID,
                            "'%s' of a lease is not a text of at most %zu "
                            "characters",
                            key, size - 1);
    snprintf(out, size, "%s", text);
    return 0;
}

/* One form for each address: it is part of the key. */
static int check_address(const char *text, int family, struct fm_error *err)
{
    struct fm_ip ip;
    char right[FM_IP_TEXT];
    int rc = fm_ip_parse("leased address", text, &ip, err);
    if (rc == 0 && (ip.with_prefix || (family && ip.family != family) ||
                    !fm_streq(fm_ip_format(&ip, right), text)))
        rc = fm_error_set(err, FM_E_INVALID, "leased address '%s' is not in its shortest form",
                          text);
    return rc;
}

static int check(const struct fm_lease *l, struct fm_error *err)
{
    const char *owner = fm_lease_is_hosts(l) ? l->owner + strlen(HOST_PREFIX) : l->owner;
    int rc = fm_check_name("network", l->network, err);
    if (rc == 0)
        rc = check_address(l->ip, 0, err);
    if (rc == 0 && *l->ip6)
        rc = check_address(l->ip6, AF_INET6, err);
    if (rc == 0)
        rc = fm_check_name("owner", owner, err);
    if (rc == 0)
        rc = fm_check_name("host", l->host, err);
    if (rc == 0 && *l->mac && !fm_is_mac(l->mac))
        rc = fm_error_set(err, FM_E_INVALID, "'%s' is not a hardware address", l->mac);
    return rc;
}

static int take_publish(const json_t *doc, struct fm_strv *publish, struct fm_error *err)
{
    const json_t *list = json_object_get(doc, "publish");
    size_t i;
    json_t *item;
    if (list && !json_is_array(list))
        return fm_error_set(err, FM_E_INVALID, "'publish' of a lease is not a list");
    json_array_foreach(list, i, item)
    {
        const char *text = json_string_value(item);
        if (!text || i >= 64)
            return fm_error_set(err, FM_E_INVALID, "'publish' of a lease is not a short list");
        fm_strv_add(publish, text);
    }
    return fm_publish_check(publish, err);
}

int fm_lease_from_json(const json_t *doc, struct fm_lease *l, struct fm_error *err)
{
    *l = (struct fm_lease){.removed = json_is_true(json_object_get(doc, "removed"))};
    int rc = take_text(doc, "network", l->network, sizeof(l->network), err);
    if (rc == 0)
        rc = take_text(doc, "ip", l->ip, sizeof(l->ip), err);
    if (rc == 0)
        rc = take_text(doc, "ip6", l->ip6, sizeof(l->ip6), err);
    if (rc == 0)
        rc = take_text(doc, "mac", l->mac, sizeof(l->mac), err);
    if (rc == 0)
        rc = take_text(doc, "owner", l->owner, sizeof(l->owner), err);
    if (rc == 0)
        rc = take_text(doc, "host", l->host, sizeof(l->host), err);
    if (rc == 0)
        rc = check(l, err);
    return rc < 0 ? rc : take_publish(doc, &l->publish, err);
}

json_t *fm_lease_to_json(const struct fm_lease *l)
{
    json_t *publish = json_array();
    for (size_t i = 0; i < l->publish.count; i++)
        json_array_append_new(publish, json_string(l->publish.items[i]));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:b}", "network", l->network, "ip", l->ip,
                     "ip6", l->ip6, "mac", l->mac, "owner", l->owner, "host", l->host, "publish",
                     publish, "removed", (int)l->removed);
}

/* --- of a container --- */

static void copy_address(const char *from, char out[64])
{
    struct fm_ip ip;
    *out = '\0';
    if (from && fm_ip_parse("address", from, &ip, NULL) == 0)
        fm_ip_format(&ip, out);
}

void fm_lease_of(const struct fm_container *c, const char *host, struct fm_lease *l)
{
    *l = (struct fm_lease){0};
    snprintf(l->network, sizeof(l->network), "%s", c->network ? c->network : FM_NETWORK_DEFAULT);
    copy_address(c->ip, l->ip);
    copy_address(c->ip6, l->ip6);
    snprintf(l->mac, sizeof(l->mac), "%s", c->mac ? c->mac : "");
    snprintf(l->owner, sizeof(l->owner), "%s", c->name);
    snprintf(l->host, sizeof(l->host), "%s", host);
    if (c->publish.count)
        fm_strv_add_all(&l->publish, (const char *const *)c->publish.items);
}

static bool has_lease(struct fm_components *p, const struct fm_container *c)
{
    return p->networks && c->ip;
}

void fm_lease_settle(struct fm_components *p, const struct fm_container *c)
{
    fm_cleanup(fm_lease_clear) struct fm_lease l = {0};
    if (!has_lease(p, c))
        return;
    fm_lease_of(c, p->host, &l);
    fm_claim_forget(p, l.network, l.ip, p->host);
}

/* The document of a key when it is this owner's; new reference. *err is left alone when it is
 * somebody else's. */
static json_t *owned(struct fm_components *p, const struct fm_lease *l, struct fm_error *err)
{
    fm_autofree char *key = fm_strf("%s/%s", l->network, l->ip);
    json_t *doc = fm_replica_get(p, FM_KIND_LEASE, key, err);
    if (fm_streq(json_string_value(json_object_get(doc, "owner")), l->owner))
        return doc;
    json_decref(doc);
    return NULL;
}

/* A start by the same name and address that came first keeps it. */
static bool is_kept(struct fm_components *p, const struct fm_container *c)
{
    json_auto_t *doc = p->store.ops->get(p->store.ctx, "container", c->name, NULL);
    return fm_streq(json_string_value(json_object_get(doc, "ip")), c->ip);
}

void fm_lease_release(struct fm_components *p, const struct fm_container *c)
{
    fm_cleanup(fm_lease_clear) struct fm_lease l = {0};
    struct fm_error err = {0};
    if (!has_lease(p, c))
        return;
    fm_lease_of(c, p->host, &l);
    fm_claim_forget(p, l.network, l.ip, p->host);
    if (is_kept(p, c))
        return;
    fm_autofree char *key = fm_strf("%s/%s", l.network, l.ip);
    pthread_mutex_lock(&p->networks->lock);
    json_auto_t *doc = owned(p, &l, NULL);
    if (fm_streq(json_string_value(json_object_get(doc, "host")), p->host) &&
        fm_replica_remove(p, FM_KIND_LEASE, key, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "Lease %s of %s stays for now: %s.", key, c->name, err.text);
    pthread_mutex_unlock(&p->networks->lock);
}

/* Takes away a container's lease, wherever it is said to be. */
void fm_lease_drop(struct fm_components *p, const struct fm_container *c)
{
    fm_cleanup(fm_lease_clear) struct fm_lease l = {0};
    struct fm_error err = {0};
    if (!has_lease(p, c))
        return;
    fm_lease_of(c, p->host, &l);
    fm_claim_forget(p, l.network, l.ip, p->host);
    fm_autofree char *key = fm_strf("%s/%s", l.network, l.ip);
    pthread_mutex_lock(&p->networks->lock);
    json_auto_t *doc = owned(p, &l, NULL);
    if (doc && fm_replica_remove(p, FM_KIND_LEASE, key, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "Lease %s of %s stays for now: %s.", key, c->name, err.text);
    pthread_mutex_unlock(&p->networks->lock);
}

int fm_lease_yield(struct fm_components *p, const struct fm_container *c, struct fm_error *err)
{
    fm_cleanup(fm_lease_clear) struct fm_lease l = {0};
    int rc = 0;
    if (!has_lease(p, c) || !c->publish.count)
        return 0;
    fm_lease_of(c, p->host, &l);
    pthread_mutex_lock(&p->networks->lock);
    json_auto_t *doc = owned(p, &l, NULL);
    json_auto_t *without = json_deep_copy(doc);
    if (without && json_object_set_new(without, "publish", json_array()) == 0)
        rc = fm_replica_write(p, FM_KIND_LEASE, json_incref(without), err);
    pthread_mutex_unlock(&p->networks->lock);
    return rc;
}

static int move(struct fm_components *p, const struct fm_lease *l, json_t **doc,
                struct fm_error *err)
{
    json_auto_t *before = owned(p, l, NULL);
    json_auto_t *after = fm_lease_to_json(l);
    json_auto_t *differences = before ? fm_lease_differences(before, l) : NULL;
    if (fm_streq(json_string_value(json_object_get(before, "host")), l->host) &&
        json_array_size(differences) == 0) {
        *doc = json_incref(before);
        return 0;
    }
    *doc = json_incref(after);
    return fm_replica_write(p, FM_KIND_LEASE, json_incref(*doc), err);
}

int fm_lease_move(struct fm_components *p, const struct fm_container *c, const char *host,
                  json_t **doc, struct fm_error *err)
{
    fm_cleanup(fm_lease_clear) struct fm_lease l = {0};
    json_t *moved = NULL;
    if (doc)
        *doc = NULL;
    if (!has_lease(p, c))
        return 0;
    fm_lease_of(c, host, &l);
    if (!*l.ip)
        return 0;
    pthread_mutex_lock(&p->networks->lock);
    int rc = move(p, &l, &moved, err);
    pthread_mutex_unlock(&p->networks->lock);
    if (doc)
        *doc = json_incref(moved);
    json_decref(moved);
    return rc;
}

/* --- lists --- */

json_t *fm_leases_list(struct fm_components *p, const char *network, struct fm_error *err)
{
    json_auto_t *all = fm_replica_live(p, FM_KIND_LEASE, err);
    size_t i;
    json_t *doc;
    if (!all)
        return NULL;
    json_t *some = json_array();
    json_array_foreach(all, i, doc)
    {
        const char *its = json_string_value(json_object_get(doc, "network"));
        if (!network || fm_streq(its, network))
            json_array_append(some, doc);
    }
    return some;
}

/* --- what a lease changes here --- */

static bool is_live(const json_t *doc)
{
    return doc && !json_is_true(json_object_get(doc, "removed"));
}

/* The static entry of a container's address: where frames for it go. What is here has none. */
static int point(struct fm_components *p, const json_t *lease, struct fm_error *err)
{
    const char *network = fm_json_text(lease, "network"), *mac = fm_json_text(lease, "mac");
    if (!*mac || (!p->network.ops->define && !fm_streq(network, FM_NETWORK_DEFAULT)))
        return 0;
    if (!is_live(lease) || fm_streq(fm_json_text(lease, "host"), p->host)) {
        int rc = p->network.ops->set_remote(p->network.ctx, network, mac, NULL, err);
        bool went_along = rc == -FM_E_NOT_FOUND && !is_live(lease); /* with its network */
        return went_along ? 0 : rc;
    }
    struct fm_error e = {0};
    json_auto_t *doc = p->store.ops->get(p->store.ctx, "host", fm_json_text(lease, "host"), &e);
    const char *address = fm_json_text(doc, "address");
    if (!doc && e.code != FM_E_NOT_FOUND)
        return fm_error_set(err, e.code, "%s", e.text);
    return *address ? p->network.ops->set_remote(p->network.ctx, network, mac, address, err) : 0;
}

int fm_lease_point(struct fm_components *p, const json_t *lease, struct fm_error *err)
{
    struct fm_error e = {0};
    fm_autofree char *own = fm_strf(HOST_PREFIX "%s", p->host);
    if (!fm_streq(fm_json_text(lease, "owner"), own))
        return point(p, lease, err);
    if (!is_live(lease) || !p->network.ops->host_address)
        return 0;
    bool is_v6 = strchr(fm_json_text(lease, "ip"), ':') != NULL;
    int rc = p->network.ops->host_address(p->network.ctx, fm_json_text(lease, "network"),
                                          is_v6 ? "" : fm_json_text(lease, "ip"),
                                          fm_json_text(lease, is_v6 ? "ip" : "ip6"), &e);
    return rc < 0 ? fm_error_set(err, e.code, "%s", e.text) : 0;
}

void fm_leases_point_again(struct fm_networks *n)
{
    n->pointed = false;
    n->tidy_ms = 0;
}

static int point_back(struct fm_components *p, const struct fm_lease *l, struct fm_error *err)
{
    struct fm_error e = {0};
    json_auto_t *doc = owned(p, l, &e);
    if (doc)
        return fm_lease_point(p, doc, err);
    return e.code && e.code != FM_E_NOT_FOUND ? fm_error_set(err, e.code, "%s", e.text) : 0;
}

void fm_lease_leave(struct fm_components *p, const struct fm_container *c,
                    const struct fm_endpoint *endpoint)
{
    fm_cleanup(fm_lease_clear) struct fm_lease l = {0};
    struct fm_error err = {0};
    int rc =
        p->network.ops->set_remote(p->network.ctx, endpoint->network, endpoint->mac, NULL, &err);
    if (rc == -FM_E_NOT_FOUND) /* it went with its network */
        return;
    if (has_lease(p, c)) {
        fm_lease_of(c, p->host, &l);
        pthread_mutex_lock(&p->networks->lock);
        rc = rc < 0 ? rc : point_back(p, &l, &err);
        if (rc < 0)
            fm_leases_point_again(p->networks);
        pthread_mutex_unlock(&p->networks->lock);
    }
    if (rc < 0)
        fm_warn(FM_NETWORK_MANAGER, "What is sent to %s from here goes astray for now: %s.",
                c->name, err.text);
}

/* Somebody else's newer lease of what a container of this host uses. */
static void report_loss(struct fm_components *p, const json_t *before, const json_t *doc)
{
    if (!is_live(before) || !is_live(doc) || !fm_streq(fm_json_text(before, "host"), p->host) ||
        fm_streq(fm_json_text(before, "owner"), fm_json_text(doc, "owner")))
        return;
    fm_log(FM_LOG_ERROR, FM_NETWORK_MANAGER,
           "Address %s of '%s' was given to '%s' on host %s while the hosts did not hear each "
           "other: run one of the two with another address.",
           fm_json_text(doc, "ip"), fm_json_text(before, "owner"), fm_json_text(doc, "owner"),
           fm_json_text(doc, "host"));
}

/* What the table of published ports says changes with it: a container's, or this host's own, under
 * which its requests go on. */
static bool publishes(const struct fm_components *p, const json_t *doc)
{
    fm_autofree char *own = fm_strf(HOST_PREFIX "%s", p->host);
    return json_array_size(json_object_get(doc, "publish")) > 0 ||
           fm_streq(fm_json_text(doc, "owner"), own);
}

int fm_leases_apply(struct fm_components *p, const json_t *before, const json_t *doc,
                    struct fm_error *err)
{
    json_auto_t *gone = NULL;
    int rc = 0;
    report_loss(p, before, doc);
    if (!fm_streq(fm_json_text(doc, "updated_by"), p->host)) /* what was claimed has come */
        fm_claim_drop(p->networks, fm_json_text(doc, "network"), fm_json_text(doc, "ip"),
                      fm_json_text(doc, "updated_by"));
    if (is_live(before) && !fm_streq(fm_json_text(before, "mac"), fm_json_text(doc, "mac"))) {
        gone = json_copy((json_t *)(uintptr_t)before);
        json_object_set_new(gone, "removed", json_true());
        rc = fm_lease_point(p, gone, err);
    }
    if (rc == 0 && (is_live(doc) || is_live(before)))
        rc = fm_lease_point(p, doc, err);
    if (publishes(p, doc) || publishes(p, before)) {
        int published = fm_leases_publish(p, rc < 0 ? NULL : err);
        rc = rc < 0 ? rc : published;
    }
    if (rc < 0)
        fm_leases_point_again(p->networks);
    return rc;
}

/* --- publications --- */

static void add_publications(const json_t *doc, struct fm_publication **list, size_t *count)
{
    fm_cleanup(fm_lease_clear) struct fm_lease l = {0};
    struct fm_publish one;
    if (fm_lease_from_json(doc, &l, NULL) < 0)
        return;
    for (size_t i = 0; i < l.publish.count; i++) {
        if (fm_publish_parse(l.publish.items[i], &one, NULL) < 0)
            continue;
        *list = fm_xrealloc(*list, (*count + 1) * sizeof(**list));
        struct fm_publication *pub = &(*list)[(*count)++];
        *pub = (struct fm_publication){.host_port = one.host_port, .port = one.port};
        snprintf(pub->container, sizeof(pub->container), "%.63s", l.owner);
        snprintf(pub->network, sizeof(pub->network), "%s", l.network);
        snprintf(pub->protocol, sizeof(pub->protocol), "%s", one.protocol);
        snprintf(pub->ip, sizeof(pub->ip), "%s", l.ip);
        snprintf(pub->ip6, sizeof(pub->ip6), "%s", l.ip6);
    }
}

int fm_leases_publications(struct fm_components *p, struct fm_publication **list, size_t *count,
                           struct fm_error *err)
{
    json_auto_t *leases = fm_leases_list(p, NULL, err);
    size_t i;
    json_t *doc;
    *list = NULL;
    *count = 0;
    json_array_foreach(leases, i, doc) add_publications(doc, list, count);
    return leases ? 0 : fm_error_result(err);
}

int fm_leases_publish(struct fm_components *p, struct fm_error *err)
{
    fm_autofree struct fm_publication *list = NULL;
    size_t count = 0;
    if (!p->network.ops->publish)
        return 0;
    int rc = fm_leases_publications(p, &list, &count, err);
    return rc < 0 ? rc : p->network.ops->publish(p->network.ctx, list, count, err);
}

/* The removed ones whose hardware address nobody has: entries of theirs may have stayed. */
static json_t *forgotten(struct fm_components *p, const json_t *live)
{
    json_auto_t *docs = p->store.ops->list(p->store.ctx, FM_KIND_LEASE, NULL);
    json_auto_t *used = json_object();
    json_t *gone = docs ? json_array() : NULL, *doc;
    size_t i;
    json_array_foreach(live, i, doc)
        json_object_set_new(used, fm_json_text(doc, "mac"), json_true());
    json_array_foreach(docs, i,
                       doc) if (!is_live(doc) && !json_object_get(used, fm_json_text(doc, "mac")))
        json_array_append(gone, doc);
    return gone;
}

/* A container that is on its way is pointed to by its migration; later it is looked at again. */
static bool point_each(struct fm_components *p, const json_t *leases, const json_t *moving)
{
    bool all = leases != NULL;
    size_t i;
    json_t *doc;
    json_array_foreach(leases, i, doc)
    {
        struct fm_error err = {0};
        bool on_its_way = json_object_get(moving, fm_json_text(doc, "owner")) != NULL;
        if (!on_its_way && fm_lease_point(p, doc, &err) == 0)
            continue;
        if (!on_its_way)
            fm_warn(FM_NETWORK_MANAGER, "The way to %s: %s.", fm_json_text(doc, "ip"), err.text);
        all = false;
    }
    return all;
}

void fm_leases_point(struct fm_components *p)
{
    json_auto_t *moving = fm_leases_moving(p, false);
    struct fm_error err = {0};
    pthread_mutex_lock(&p->networks->lock);
    json_auto_t *leases = fm_leases_list(p, NULL, NULL);
    json_auto_t *gone = forgotten(p, leases);
    bool all = point_each(p, gone, moving);
    all &= point_each(p, leases, moving);
    if (fm_leases_publish(p, &err) < 0) {
        fm_warn(FM_NETWORK_MANAGER, "Published ports: %s.", err.text);
        all = false;
    }
    p->networks->pointed = all;
    pthread_mutex_unlock(&p->networks->lock);
}
