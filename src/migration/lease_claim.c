/* Claims: who has an address already, here and on the other hosts. */
#include "migration/networks_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/incoming.h"

#define FOREIGN_CLAIM_MS 30000 /* then the lease itself is long known */
#define CLAIMS_MAX 1024        /* of others */

/* --- pending claims; with the lock held --- */

static void copy_lease(const struct fm_lease *from, struct fm_lease *to)
{
    *to = *from;
    to->publish = (struct fm_strv){0};
    if (from->publish.count)
        fm_strv_add_all(&to->publish, (const char *const *)from->publish.items);
}

static void drop_claim(struct fm_claim **at)
{
    struct fm_claim *gone = *at;
    *at = gone->next;
    fm_lease_clear(&gone->lease);
    free(gone);
}

size_t fm_claims_expire(struct fm_networks *n)
{
    uint64_t now = fm_now_ms();
    size_t foreign = 0;
    for (struct fm_claim **at = &n->claims; *at;) {
        if ((*at)->until_ms && now >= (*at)->until_ms) {
            drop_claim(at);
        } else {
            foreign += (*at)->until_ms > 0;
            at = &(*at)->next;
        }
    }
    return foreign;
}

static void add_claim(struct fm_networks *n, const struct fm_lease *lease, uint64_t until_ms)
{
    struct fm_claim *claim = fm_xcalloc(1, sizeof(*claim));
    copy_lease(lease, &claim->lease);
    claim->until_ms = until_ms;
    claim->next = n->claims;
    n->claims = claim;
}

void fm_claim_drop(struct fm_networks *n, const char *network, const char *ip, const char *host)
{
    for (struct fm_claim **at = &n->claims; *at;) {
        const struct fm_lease *l = &(*at)->lease;
        if (fm_streq(l->network, network) && fm_streq(l->ip, ip) && fm_streq(l->host, host))
            drop_claim(at);
        else
            at = &(*at)->next;
    }
}

void fm_claim_forget(struct fm_components *p, const char *network, const char *ip, const char *host)
{
    pthread_mutex_lock(&p->networks->lock);
    fm_claim_drop(p->networks, network, ip, host);
    pthread_mutex_unlock(&p->networks->lock);
}

bool fm_claim_is_open(struct fm_components *p, const char *network, const char *ip)
{
    bool open = false;
    pthread_mutex_lock(&p->networks->lock);
    for (struct fm_claim *c = p->networks->claims; c; c = c->next)
        open |= !c->until_ms && fm_streq(c->lease.network, network) && fm_streq(c->lease.ip, ip);
    pthread_mutex_unlock(&p->networks->lock);
    return open;
}

/* --- who has it --- */

static bool is_same(const char *a, const char *b)
{
    return *a && fm_streq(a, b);
}

/* The port that both publish; the caller frees it. */
static char *shared_port(const struct fm_lease *a, const struct fm_lease *b)
{
    struct fm_publish one, other;
    for (size_t i = 0; i < a->publish.count; i++)
        for (size_t k = 0; k < b->publish.count; k++)
            if (fm_publish_parse(a->publish.items[i], &one, NULL) == 0 &&
                fm_publish_parse(b->publish.items[k], &other, NULL) == 0 &&
                one.host_port == other.host_port && fm_streq(one.protocol, other.protocol))
                return fm_strf("port %u/%s", one.host_port, one.protocol);
    return NULL;
}

/* What two leases cannot both have, in words; NULL nothing. The caller frees it. */
static char *shared(const struct fm_lease *a, const struct fm_lease *b)
{
    if (!fm_streq(a->network, b->network))
        return shared_port(a, b);
    if (is_same(a->ip, b->ip))
        return fm_strf("address %s", a->ip);
    if (is_same(a->ip6, b->ip6) || is_same(a->ip6, b->ip))
        return fm_strf("address %s", a->ip6);
    if (is_same(a->mac, b->mac))
        return fm_strf("hardware address %s", a->mac);
    return shared_port(a, b);
}

static json_t *conflict_with(const struct fm_lease *lease, const struct fm_lease *other)
{
    fm_autofree char *what = shared(lease, other);
    return what ? json_pack("{s:s, s:s, s:s}", "owner", other->owner, "host", other->host, "what",
                            what)
                : NULL;
}

/* A lease of its own earlier life, or of where it came from. */
static bool is_own(const struct fm_lease *lease, const struct fm_lease *other, bool settled)
{
    return fm_streq(lease->owner, other->owner) && (settled || fm_streq(lease->host, other->host));
}

static json_t *conflict_with_leases(struct fm_components *p, const struct fm_lease *lease,
                                    bool settled)
{
    json_auto_t *leases = fm_leases_list(p, NULL, NULL);
    json_t *conflict = NULL, *doc;
    size_t i;
    json_array_foreach(leases, i, doc)
    {
        fm_cleanup(fm_lease_clear) struct fm_lease other = {0};
        if (fm_lease_from_json(doc, &other, NULL) == 0 && !is_own(lease, &other, settled))
            conflict = conflict_with(lease, &other);
        if (conflict)
            return conflict;
    }
    fm_claims_expire(p->networks);
    for (struct fm_claim *c = p->networks->claims; c && !conflict; c = c->next)
        if (!is_own(lease, &c->lease, settled))
            conflict = conflict_with(lease, &c->lease);
    return conflict;
}

/* What came here, and is not to stay. */
static bool is_discarded(const json_t *doc)
{
    return fm_streq(fm_json_text(doc, "stage"), fm_stage_text(FM_STAGE_DISCARDED));
}

json_t *fm_leases_moving(struct fm_components *p, bool leftovers)
{
    json_auto_t *list = fm_journal_unfinished(p->journal, NULL);
    json_t *moving = json_object(), *entry;
    size_t i;
    json_array_foreach(list, i, entry)
    {
        json_auto_t *doc = fm_journal_load(p->journal, fm_json_text(entry, "id"), NULL);
        if (leftovers || !is_discarded(doc))
            json_object_set_new(moving, fm_json_text(doc, "container"), json_true());
    }
    return moving;
}

/* Containers of this host count, also those whose lease is not known. One by the same name is
 * another one, unless it is on its way to where the lease is. */
static json_t *conflict_with_containers(struct fm_components *p, const struct fm_lease *lease)
{
    bool here = fm_streq(lease->host, p->host);
    json_auto_t *docs = p->store.ops->list(p->store.ctx, "container", NULL);
    json_auto_t *moving = here ? NULL : fm_leases_moving(p, true);
    size_t i;
    json_t *doc;
    json_array_foreach(docs, i, doc)
    {
        fm_autocontainer struct fm_container *c = fm_container_from_json(doc, NULL);
        if (!c || !c->ip ||
            (fm_streq(c->name, lease->owner) && (here || json_object_get(moving, c->name))))
            continue;
        fm_cleanup(fm_lease_clear) struct fm_lease other = {0};
        fm_lease_of(c, p->host, &other);
        json_t *conflict = conflict_with(lease, &other);
        if (conflict)
            return conflict;
    }
    return NULL;
}

/* A port that this host itself serves, such as the daemon's own, or SSH. */
static json_t *conflict_with_programs(struct fm_components *p, const struct fm_lease *lease)
{
    const struct fm_network *n = &p->network;
    struct fm_publish one;
    for (size_t i = 0; n->ops->port_in_use && i < lease->publish.count; i++) {
        if (fm_publish_parse(lease->publish.items[i], &one, NULL) < 0 ||
            !n->ops->port_in_use(n->ctx, one.protocol, one.host_port))
            continue;
        fm_autofree char *own = fm_strf("host:%s", p->host);
        fm_autofree char *what = fm_strf("port %u/%s", one.host_port, one.protocol);
        return json_pack("{s:s, s:s, s:s}", "owner", own, "host", p->host, "what", what);
    }
    return NULL;
}

json_t *fm_lease_conflict(struct fm_components *p, const struct fm_lease *lease, bool settled)
{
    json_t *conflict = conflict_with_leases(p, lease, settled);
    if (!conflict)
        conflict = conflict_with_containers(p, lease);
    return conflict || settled ? conflict : conflict_with_programs(p, lease);
}

int fm_claim_refuse(const json_t *conflict, struct fm_error *err)
{
    const char *owner = fm_json_text(conflict, "owner");
    const char *name = strchr(owner, ':');
    if (json_is_true(json_object_get(conflict, "busy")))
        return fm_error_set(err, FM_E_REFUSED,
                            "host %.63s takes no further claim of an address: %d are open there; "
                            "try again in %d seconds",
                            fm_json_text(conflict, "host"), CLAIMS_MAX, FOREIGN_CLAIM_MS / 1000);
    if (name)
        return fm_error_set(err, FM_E_REFUSED,
                            "%.100s belongs to host %.63s itself; choose another",
                            fm_json_text(conflict, "what"), name + 1);
    return fm_error_set(err, FM_E_REFUSED,
                        "%.100s belongs to container '%.63s' on %.63s; choose another",
                        fm_json_text(conflict, "what"), owner, fm_json_text(conflict, "host"));
}

json_t *fm_leases_taken(struct fm_components *p, const char *network)
{
    json_auto_t *leases = fm_leases_list(p, network, NULL);
    json_auto_t *docs = p->store.ops->list(p->store.ctx, "container", NULL);
    json_t *taken = json_object(), *doc;
    size_t i;
    fm_claims_expire(p->networks);
    json_array_foreach(leases, i, doc)
    {
        json_object_set_new(taken, fm_json_text(doc, "ip"), json_true());
        json_object_set_new(taken, fm_json_text(doc, "ip6"), json_true());
    }
    for (struct fm_claim *c = p->networks->claims; c; c = c->next) {
        if (!fm_streq(c->lease.network, network))
            continue;
        json_object_set_new(taken, c->lease.ip, json_true());
        json_object_set_new(taken, c->lease.ip6, json_true());
    }
    json_array_foreach(docs, i, doc)
    {
        fm_autofree char *ip = fm_xstrdup(fm_json_text(doc, "ip"));
        fm_autofree char *ip6 = fm_xstrdup(fm_json_text(doc, "ip6"));
        ip[strcspn(ip, "/")] = ip6[strcspn(ip6, "/")] = '\0';
        json_object_set_new(taken, ip, json_true());
        json_object_set_new(taken, ip6, json_true());
    }
    json_object_del(taken, "");
    return taken;
}

int fm_lease_check(struct fm_components *p, const struct fm_container *c, struct fm_error *err)
{
    fm_cleanup(fm_lease_clear) struct fm_lease lease = {0};
    if (!p->networks || !c->ip)
        return 0;
    fm_lease_of(c, p->host, &lease);
    pthread_mutex_lock(&p->networks->lock);
    json_auto_t *conflict = fm_lease_conflict(p, &lease, true);
    pthread_mutex_unlock(&p->networks->lock);
    return conflict ? fm_claim_refuse(conflict, err) : 0;
}

/* --- between hosts --- */

/* Notes another host's claim; a conflict when there is no room for it, since one that is not noted
 * does not keep the next host away. */
static json_t *note_claim(struct fm_components *p, const struct fm_lease *lease)
{
    struct fm_networks *n = p->networks;
    fm_claim_drop(n, lease->network, lease->ip, lease->host);
    if (fm_claims_expire(n) >= CLAIMS_MAX) {
        fm_autofree char *own = fm_strf("host:%s", p->host);
        return json_pack("{s:s, s:s, s:s, s:b}", "owner", own, "host", p->host, "what",
                         "room for claims", "busy", 1);
    }
    add_claim(n, lease, fm_now_ms() + FOREIGN_CLAIM_MS);
    return NULL;
}

json_t *fm_leases_answer_claim(struct fm_components *p, const char *peer, const json_t *body,
                               struct fm_error *err)
{
    fm_cleanup(fm_lease_clear) struct fm_lease lease = {0};
    bool settled = json_is_true(json_object_get(body, "settled"));
    if (fm_lease_from_json(json_object_get(body, "lease"), &lease, err) < 0)
        return NULL;
    if (!fm_streq(lease.host, peer)) {
        fm_error_set(err, FM_E_AUTH, "host '%s' claims an address for '%s'", peer, lease.host);
        return NULL;
    }
    struct fm_networks *n = p->networks;
    pthread_mutex_lock(&n->lock);
    json_t *conflict = fm_lease_conflict(p, &lease, settled);
    if (!conflict && !settled)
        conflict = note_claim(p, &lease);
    pthread_mutex_unlock(&n->lock);
    return json_pack("{s:o*}", "taken", conflict);
}

json_t *fm_leases_answer_unclaim(struct fm_components *p, const char *peer, const json_t *body,
                                 struct fm_error *err)
{
    fm_cleanup(fm_lease_clear) struct fm_lease lease = {0};
    if (fm_lease_from_json(json_object_get(body, "lease"), &lease, err) < 0)
        return NULL;
    fm_claim_forget(p, lease.network, lease.ip, peer);
    return json_object();
}

/* Asks the hosts before `stop` (all: SIZE_MAX) in turn; the conflict that one of them knows, and
 * how many were asked. */
static json_t *ask_hosts(struct fm_components *p, const json_t *hosts, const json_t *body,
                         size_t stop, size_t *asked)
{
    size_t i;
    json_t *doc;
    json_array_foreach(hosts, i, doc)
    {
        struct fm_host host;
        struct fm_error err = {0};
        if (i >= stop)
            break;
        *asked = i + 1;
        if (fm_host_from_json(doc, &host, NULL) < 0)
            continue;
        json_auto_t *answer = fm_replica_ask(p, &host, body, &err);
        if (!answer)
            fm_debug(FM_NETWORK_MANAGER, "Host %s is not asked: %.500s.", host.name, err.text);
        json_t *taken = json_object_get(answer, "taken");
        if (json_is_object(taken))
            return json_incref(taken);
    }
    return NULL;
}

int fm_claim_make(struct fm_components *p, const struct fm_lease *lease, bool settled,
                  json_t **conflict)
{
    struct fm_networks *n = p->networks;
    pthread_mutex_lock(&n->lock);
    *conflict = fm_lease_conflict(p, lease, settled);
    if (!*conflict && !settled)
        add_claim(n, lease, 0);
    pthread_mutex_unlock(&n->lock);
    if (*conflict)
        return -1;
    json_auto_t *body = json_pack("{s:s, s:o, s:b}", "op", "claim", "lease",
                                  fm_lease_to_json(lease), "settled", (int)settled);
    json_auto_t *hosts = fm_replica_hosts(p);
    size_t asked = 0;
    *conflict = ask_hosts(p, hosts, body, SIZE_MAX, &asked);
    if (!*conflict)
        return 0;
    fm_claim_forget(p, lease->network, lease->ip, lease->host);
    json_object_set_new(body, "op", json_string("unclaim"));
    json_decref(ask_hosts(p, hosts, body, settled || !asked ? 0 : asked - 1, &asked));
    return -1;
}

int fm_lease_claim(struct fm_components *p, const struct fm_lease *lease, bool settled,
                   struct fm_error *err)
{
    json_t *conflict = NULL;
    int rc = fm_claim_make(p, lease, settled, &conflict);
    if (rc < 0)
        rc = fm_claim_refuse(conflict, err);
    json_decref(conflict);
    return rc;
}
