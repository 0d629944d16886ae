/* An address that nobody has: for a container, or for this host itself. */
#include "migration/networks_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/lifecycle.h"
#include "network/address.h"
#include "network/host_port.h"

#define ATTEMPTS 32 /* of an automatic choice */

/* --- a container's --- */

struct wish {
    struct fm_network_spec spec;
    struct fm_container *container; /* NULL: for this host itself */
    bool choose, choose6;
    json_t *taken;
};

static bool is_auto(const char *address)
{
    return !address || fm_streq(address, FM_LEASE_AUTO);
}

static int choose(struct fm_components *p, const struct wish *w, struct fm_lease *l,
                  struct fm_error *err)
{
    struct fm_choice c = {.network = w->spec.name,
                          .subnet = w->spec.subnet,
                          .gateway = w->spec.gateway,
                          .host = p->host,
                          .taken = w->taken,
                          .from_top = !w->container};
    int rc = w->choose ? fm_lease_choose(&c, l->ip, err) : 0;
    if (rc < 0 || !w->choose6)
        return rc;
    c.near_subnet = w->spec.subnet;
    /* The same number in both families, as long as it is free. */
    c.subnet = w->spec.subnet6;
    c.gateway = w->spec.gateway6;
    c.near = *l->ip ? l->ip : NULL;
    return fm_lease_choose(&c, l->ip6, err);
}

static void set(char **field, const char *value)
{
    char *before = *field;
    *field = value && *value ? fm_xstrdup(value) : NULL;
    free(before);
}

/* Addresses, MAC and gateways as the network completes them. */
static int complete(struct fm_components *p, const struct wish *w, struct fm_container *c,
                    struct fm_lease *l, struct fm_error *err)
{
    struct fm_endpoint ep;
    fm_autofree char *mac = fm_xstrdup(c->mac);
    if (w->choose)
        set(&c->ip, l->ip);
    if (w->choose6)
        set(&c->ip6, l->ip6);
    int rc = fm_lifecycle_endpoint(p, c, &ep, err);
    if (rc < 0)
        return rc;
    set(&c->ip, ep.ip);
    set(&c->ip6, ep.ip6);
    set(&c->mac, ep.mac);
    set(&c->gateway, ep.gateway);
    set(&c->gateway6, ep.gateway6);
    fm_lease_clear(l);
    fm_lease_of(c, p->host, l);
    if (w->choose && !mac) /* the next address has another */
        set(&c->mac, NULL);
    return 0;
}

/* The others send to it without asking, as to a container. */
static int complete_own(struct fm_lease *l, struct fm_error *err)
{
    struct fm_ip ip, ip6 = {0};
    uint8_t mac[6];
    int rc = fm_ip_parse("address", l->ip, &ip, err);
    if (rc == 0 && *l->ip6)
        rc = fm_ip_parse("address", l->ip6, &ip6, err);
    if (rc < 0)
        return rc;
    fm_host_port_mac(&ip, &ip6, mac);
    fm_mac_format(mac, l->mac);
    return 0;
}

/* One attempt; FM_E_EXISTS: what was chosen is taken, and is not chosen again. */
static int attempt(struct fm_components *p, struct wish *w, struct fm_lease *l,
                   struct fm_error *err)
{
    int rc = choose(p, w, l, err);
    if (rc == 0)
        rc = w->container ? complete(p, w, w->container, l, err) : complete_own(l, err);
    if (rc < 0)
        return rc;
    json_t *found = NULL;
    rc = fm_claim_make(p, l, false, &found);
    json_auto_t *conflict = found;
    if (rc == 0)
        return 0;
    const char *what = fm_json_text(conflict, "what");
    fm_claim_refuse(conflict, err);
    if (!fm_starts_with(what, "address ") || !(w->choose || w->choose6))
        return -FM_E_REFUSED;
    what += strlen("address ");
    bool chosen = (w->choose && fm_streq(what, l->ip)) || (w->choose6 && fm_streq(what, l->ip6));
    json_object_set_new(w->taken, what, json_true());
    return chosen ? -FM_E_EXISTS : -FM_E_REFUSED;
}

static int enter(struct fm_components *p, const struct fm_lease *l, struct fm_error *err)
{
    pthread_mutex_lock(&p->networks->lock);
    int rc = fm_replica_write(p, FM_KIND_LEASE, fm_lease_to_json(l), err);
    pthread_mutex_unlock(&p->networks->lock);
    if (rc < 0)
        fm_claim_forget(p, l->network, l->ip, l->host);
    return rc;
}

static int obtain(struct fm_components *p, struct wish *w, struct fm_lease *l, struct fm_error *err)
{
    int rc = -FM_E_EXISTS;
    pthread_mutex_lock(&p->networks->lock);
    json_auto_t *taken = fm_leases_taken(p, w->spec.name);
    pthread_mutex_unlock(&p->networks->lock);
    w->taken = taken;
    for (int i = 0; i < ATTEMPTS && rc == -FM_E_EXISTS; i++)
        rc = attempt(p, w, l, err);
    if (rc == -FM_E_EXISTS)
        return fm_error_recode(err, FM_E_REFUSED);
    return rc < 0 ? rc : enter(p, l, err);
}

static int check_given(const char *given, struct fm_error *err)
{
    struct fm_ip ip;
    return is_auto(given) ? 0 : fm_ip_parse("address", given, &ip, err);
}

int fm_lease_check_ports(const struct fm_container *c, const struct fm_network_spec *spec,
                         struct fm_error *err)
{
    if (!c->publish.count || spec->mode == FM_NETWORK_OVERLAY)
        return 0;
    return fm_error_set(err, FM_E_INVALID,
                        "ports of '%s' cannot be published from network '%s', which is the user's "
                        "own: clients reach it by its address there",
                        c->name, spec->name);
}

int fm_lease_take(struct fm_components *p, struct fm_container *c, struct fm_error *err)
{
    fm_cleanup(fm_lease_clear) struct fm_lease lease = {0};
    struct wish w = {.container = c, .choose = is_auto(c->ip)};
    if (!p->networks)
        return fm_error_set(err, FM_E_REFUSED, "this host has no networks");
    int rc = fm_networks_find(p, c->network, &w.spec, err);
    if (rc == 0)
        rc = fm_lease_check_ports(c, &w.spec, err);
    if (rc == 0)
        rc = check_given(c->ip, err);
    if (rc == 0)
        rc = check_given(c->ip6, err);
    if (rc < 0)
        return rc;
    w.choose6 = *w.spec.subnet6 && is_auto(c->ip6);
    if (c->ip6 && !*w.spec.subnet6)
        return fm_error_set(err, FM_E_INVALID,
                            "network '%s' has no second subnet: an address in it is given as ip",
                            w.spec.name);
    if (!w.choose)
        fm_lease_of(c, p->host, &lease);
    rc = obtain(p, &w, &lease, err);
    if (rc == 0)
        set(&c->mac, lease.mac);
    return rc;
}

/* --- this host's own addresses --- */

static void provide(struct fm_components *p, const char *network)
{
    fm_cleanup(fm_lease_clear) struct fm_lease lease = {0};
    struct wish w = {.choose = true};
    struct fm_error err = {0};
    if (fm_networks_find(p, network, &w.spec, &err) < 0 || w.spec.mode != FM_NETWORK_OVERLAY)
        return;
    w.choose6 = *w.spec.subnet6 != '\0';
    snprintf(lease.network, sizeof(lease.network), "%s", network);
    snprintf(lease.owner, sizeof(lease.owner), "host:%s", p->host);
    snprintf(lease.host, sizeof(lease.host), "%s", p->host);
    if (obtain(p, &w, &lease, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "No address of this host in network %s: %s.", network,
                err.text);
    else
        fm_claim_forget(p, network, lease.ip, p->host);
}

void fm_leases_provide_host(struct fm_components *p)
{
    if (!p->network.ops->host_address || !p->network.ops->publish)
        return;
    json_auto_t *leases = fm_leases_list(p, NULL, NULL);
    json_auto_t *wanted = json_object();
    fm_autofree char *own = fm_strf("host:%s", p->host);
    const char *network;
    size_t i;
    json_t *doc, *value;
    json_array_foreach(leases, i, doc) if (json_array_size(json_object_get(doc, "publish")))
        json_object_set_new(wanted, fm_json_text(doc, "network"), json_true());
    json_array_foreach(leases, i, doc) if (fm_streq(fm_json_text(doc, "owner"), own))
        json_object_del(wanted, fm_json_text(doc, "network"));
    json_object_foreach(wanted, network, value) provide(p, network);
}
