/* The kernel against the registry: what differs, and how it becomes the same. */
#include "migration/network_verify.h"

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/text.h"
#include "migration/incoming.h"
#include "migration/lifecycle.h"
#include "migration/relay.h"
#include "network/address.h"
#include "network/netns.h"

static bool is_same_address(const char *a, const char *b)
{
    struct fm_ip one, other;
    return fm_ip_parse("address", a, &one, NULL) == 0 &&
           fm_ip_parse("address", b, &other, NULL) == 0 && fm_ip_equal(&one, &other);
}

/* --- the kernel --- */

static void compare_devices(struct comparison *c)
{
    const json_t *there = json_object_get(c->kernel, "networks");
    size_t i;
    json_t *doc;
    json_array_foreach(c->networks, i,
                       doc) if (!fm_compare_find(there, "name", fm_json_text(doc, "name")))
        fm_compare_differ(c, "network '%s' is not in the kernel", fm_json_text(doc, "name"));
    json_array_foreach(there, i,
                       doc) if (!fm_compare_find(c->networks, "name", fm_json_text(doc, "name")))
        fm_compare_differ(c, "network '%s' is in the kernel and not in the registry",
                          fm_json_text(doc, "name"));
}

/* The lease of a MAC or of a container in a network; NULL. */
static const json_t *lease_of(const struct comparison *c, const char *network, const char *key,
                              const char *value)
{
    size_t i;
    json_t *lease;
    json_array_foreach(c->leases, i,
                       lease) if (fm_streq(fm_json_text(lease, "network"), network) &&
                                  fm_streq(fm_json_text(lease, key), value)) return lease;
    return NULL;
}

static void compare_remote(struct comparison *c, const char *network, const json_t *lease,
                           const json_t *remotes)
{
    const char *address = fm_json_text(c->hosts, fm_json_text(lease, "host"));
    const json_t *entry = fm_compare_find(remotes, "mac", fm_json_text(lease, "mac"));
    if (!entry)
        fm_compare_differ(c, "network '%s' has no entry for %s (container '%s' on %s)", network,
                          fm_json_text(lease, "mac"), fm_json_text(lease, "owner"),
                          fm_json_text(lease, "host"));
    else if (!is_same_address(fm_json_text(entry, "host"), address))
        fm_compare_differ(c, "network '%s' sends %s to %s, but container '%s' is on %s (%s)",
                          network, fm_json_text(lease, "mac"), fm_json_text(entry, "host"),
                          fm_json_text(lease, "owner"), fm_json_text(lease, "host"), address);
}

/* True when the value is this address, or a list or object that contains it. */
static bool mentions(const json_t *value, const char *address)
{
    const char *key;
    size_t i;
    json_t *item;
    if (json_is_string(value))
        return is_same_address(json_string_value(value), address);
    json_array_foreach(value, i, item) if (mentions(item, address)) return true;
    json_object_foreach((json_t *)(uintptr_t)value, key,
                        item) if (mentions(item, address)) return true;
    return false;
}

static void compare_peers(struct comparison *c, const char *network, const json_t *peers)
{
    const char *host;
    json_t *address;
    json_object_foreach(c->hosts, host, address) if (json_is_array(peers) &&
                                                     !mentions(peers, json_string_value(address)))
        fm_compare_differ(c, "network '%s' does not send broadcasts to host %s (%s)", network, host,
                          json_string_value(address));
}

/* On the user's own networks the switches find containers by themselves. */
static void compare_remotes(struct comparison *c, const char *network, const json_t *remotes)
{
    size_t i;
    json_t *doc;
    json_array_foreach(c->leases, i, doc)
    {
        bool elsewhere = !fm_streq(fm_json_text(doc, "host"), c->p->host);
        if (fm_compare_is_container(doc) && elsewhere &&
            fm_streq(fm_json_text(doc, "network"), network) && *fm_json_text(doc, "mac") &&
            *fm_json_text(c->hosts, fm_json_text(doc, "host")) &&
            !json_object_get(c->moving, fm_json_text(doc, "owner")))
            compare_remote(c, network, doc, remotes);
    }
    json_array_foreach(remotes, i, doc)
    {
        const json_t *lease = lease_of(c, network, "mac", fm_json_text(doc, "mac"));
        if (fm_streq(fm_json_text(doc, "mac"), "00:00:00:00:00:00") ||
            json_object_get(c->moving, fm_json_text(lease, "owner")))
            continue;
        if (!lease)
            fm_compare_differ(c, "network '%s' sends %s to %s, and no lease has it", network,
                              fm_json_text(doc, "mac"), fm_json_text(doc, "host"));
        else if (fm_streq(fm_json_text(lease, "host"), c->p->host))
            fm_compare_differ(c, "network '%s' sends %s to %s, but container '%s' is here", network,
                              fm_json_text(doc, "mac"), fm_json_text(doc, "host"),
                              fm_json_text(lease, "owner"));
    }
}

/* Of both families; "" is no address. */
static bool is_same_second(const char *a, const char *b)
{
    return *a && *b ? is_same_address(a, b) : *a == *b;
}

static void compare_port(struct comparison *c, const char *network, const json_t *lease,
                         const json_t *ports)
{
    const char *owner = fm_json_text(lease, "owner");
    const json_t *port = fm_compare_find(ports, "container", owner);
    if (!port)
        fm_compare_differ(c, "container '%s' has no port in network '%s'", owner, network);
    else if (!is_same_address(fm_json_text(port, "ip"), fm_json_text(lease, "ip")))
        fm_compare_differ(c, "the port of container '%s' has %s, its lease %s", owner,
                          fm_json_text(port, "ip"), fm_json_text(lease, "ip"));
    else if (json_object_get(port, "ip6") &&
             !is_same_second(fm_json_text(port, "ip6"), fm_json_text(lease, "ip6")))
        fm_compare_differ(c, "the port of container '%s' has %s beside %s, its lease %s", owner,
                          fm_or_nothing(fm_json_text(port, "ip6")), fm_json_text(port, "ip"),
                          fm_or_nothing(fm_json_text(lease, "ip6")));
    else if (*fm_json_text(port, "mac") &&
             !fm_streq(fm_json_text(port, "mac"), fm_json_text(lease, "mac")))
        fm_compare_differ(c, "the port of container '%s' has %s, its lease %s", owner,
                          fm_json_text(port, "mac"), fm_json_text(lease, "mac"));
    else if (json_is_false(json_object_get(port, "open")))
        fm_compare_differ(c, "the port of container '%s' is closed", owner);
}

/* A lease whose container has a port here. One without a record is a difference already; a found
 * one has its owner's port. */
static bool has_port(const struct comparison *c, const json_t *lease)
{
    const json_t *record = json_object_get(c->here, fm_json_text(lease, "owner"));
    return fm_compare_is_container(lease) && fm_streq(fm_json_text(lease, "host"), c->p->host) &&
           record && !json_is_true(json_object_get(record, "found")) &&
           !json_object_get(c->moving, fm_json_text(lease, "owner"));
}

static void compare_ports(struct comparison *c, const char *network, const json_t *ports)
{
    size_t i;
    json_t *doc;
    json_array_foreach(c->leases, i,
                       doc) if (fm_streq(fm_json_text(doc, "network"), network) && has_port(c, doc))
        compare_port(c, network, doc, ports);
    json_array_foreach(ports, i, doc)
    {
        const char *name = fm_json_text(doc, "container");
        if (*name && !json_object_get(c->here, name) && !json_object_get(c->moving, name))
            fm_compare_differ(c, "network '%s' has a port of container '%s', which is not here",
                              network, name);
    }
}

static void compare_host_address(struct comparison *c, const char *network, const json_t *there)
{
    fm_autofree char *own = fm_strf("host:%s", c->p->host);
    const json_t *lease = lease_of(c, network, "owner", own);
    if (!lease)
        return;
    if (!mentions(there, fm_json_text(lease, "ip")))
        fm_compare_differ(c, "network '%s' lacks this host's own address %s", network,
                          fm_json_text(lease, "ip"));
    if (*fm_json_text(lease, "ip6") && !mentions(there, fm_json_text(lease, "ip6")))
        fm_compare_differ(c, "network '%s' lacks this host's own address %s", network,
                          fm_json_text(lease, "ip6"));
}

static void compare_networks(struct comparison *c)
{
    size_t i;
    json_t *there;
    compare_devices(c);
    json_array_foreach(json_object_get(c->kernel, "networks"), i, there)
    {
        const char *name = fm_json_text(there, "name");
        if (!fm_compare_find(c->networks, "name", name))
            continue;
        if (fm_streq(fm_json_text(fm_compare_find(c->networks, "name", name), "mode"), "overlay")) {
            compare_peers(c, name, json_object_get(there, "peers"));
            compare_remotes(c, name, json_object_get(there, "remotes"));
        }
        compare_ports(c, name, json_object_get(there, "ports"));
        compare_host_address(c, name, json_object_get(there, "host_address"));
    }
}

/* --- published ports --- */

/* The same words for the same thing; the kernel tells an only IPv6 address as the second one. */
static char *publication_line(const char *protocol, json_int_t host_port, json_int_t port,
                              const char *ip, const char *ip6)
{
    return fm_strf("%lld/%s to %s%s%s port %lld", (long long)host_port, protocol, ip,
                   *ip && *ip6 ? ", " : "", ip6, (long long)port);
}

static json_t *publications_there(const struct comparison *c)
{
    json_t *lines = json_object(), *doc;
    size_t i;
    json_array_foreach(json_object_get(c->kernel, "publications"), i, doc)
    {
        fm_autofree char *line = publication_line(
            fm_json_text(doc, "protocol"), json_integer_value(json_object_get(doc, "host_port")),
            json_integer_value(json_object_get(doc, "port")), fm_json_text(doc, "ip"),
            fm_json_text(doc, "ip6"));
        json_object_set_new(lines, line, json_true());
    }
    return lines;
}

static void compare_publications(struct comparison *c)
{
    fm_autofree struct fm_publication *list = NULL;
    size_t count = 0;
    if (fm_leases_publications(c->p, &list, &count, NULL) < 0)
        return;
    json_auto_t *there = publications_there(c);
    const char *line;
    json_t *value;
    for (size_t i = 0; i < count; i++) {
        fm_autofree char *wanted = publication_line(list[i].protocol, list[i].host_port,
                                                    list[i].port, list[i].ip, list[i].ip6);
        if (json_object_del(there, wanted) < 0)
            fm_compare_differ(c, "port %s (container '%s') is not published", wanted,
                              list[i].container);
    }
    json_object_foreach(there, line, value)
        fm_compare_differ(c, "port %s is published, and no lease says so", line);
    if (count > 0 && json_is_false(json_object_get(c->kernel, "whole")))
        fm_compare_differ(c, "the firewall's table is damaged");
}

/* --- verify --- */

static json_t *addresses_of_hosts(struct fm_components *p)
{
    json_auto_t *docs = fm_replica_hosts(p);
    json_t *hosts = json_object(), *doc;
    size_t i;
    json_array_foreach(docs, i, doc) json_object_set_new(hosts, fm_json_text(doc, "name"),
                                                         json_string(fm_json_text(doc, "address")));
    return hosts;
}

static int collect(struct comparison *c, struct fm_error *err)
{
    struct fm_components *p = c->p;
    json_auto_t *records = p->store.ops->list(p->store.ctx, "container", err);
    size_t i;
    json_t *doc;
    c->networks = fm_replica_live(p, FM_KIND_NETWORK, err);
    c->leases = fm_leases_list(p, NULL, err);
    if (!records || !c->networks || !c->leases)
        return fm_error_result(err);
    json_array_insert_new(c->networks, 0, fm_network_spec_to_json(&p->networks->standard));
    c->hosts = addresses_of_hosts(p);
    c->moving = fm_leases_moving(p, true);
    c->here = json_object();
    c->differences = json_array();
    json_array_foreach(records, i, doc) json_object_set(c->here, fm_json_text(doc, "name"), doc);
    return 0;
}

static void comparison_clear(struct comparison *c)
{
    json_decref(c->networks);
    json_decref(c->leases);
    json_decref(c->hosts);
    json_decref(c->moving);
    json_decref(c->here);
    json_decref(c->differences);
}

json_t *fm_networks_verify(struct fm_components *p, struct fm_error *err)
{
    fm_cleanup(comparison_clear) struct comparison c = {.p = p};
    json_auto_t *checked = json_pack("[s]", "registry");
    if (collect(&c, err) < 0)
        return NULL;
    fm_compare_registry(&c);
    json_auto_t *kernel = NULL;
    if (p->network.ops->describe) {
        kernel = p->network.ops->describe(p->network.ctx, err);
        if (!kernel)
            return NULL;
        c.kernel = kernel;
        json_array_append_new(checked, json_string("kernel"));
        compare_networks(&c);
        if (p->network.ops->publish)
            compare_publications(&c);
    }
    return json_pack("{s:b, s:O, s:O}", "ok", (int)(json_array_size(c.differences) == 0),
                     "differences", c.differences, "checked", checked);
}

/* --- repair --- */

struct repair {
    json_t *problems;
    json_int_t applied;
};

static void note(struct repair *r, int rc, const char *what, const struct fm_error *err)
{
    if (rc == 0)
        r->applied++;
    else
        json_array_append_new(r->problems, json_sprintf("%s: %s", what, err->text));
}

static void repair_networks(struct comparison *c, struct repair *r)
{
    size_t i;
    json_t *doc;
    json_array_foreach(c->networks, i, doc)
    {
        struct fm_error err = {0};
        if (i > 0) /* the default one is the daemon's own */
            note(r, fm_networks_apply(c->p, doc, doc, &err), fm_json_text(doc, "name"), &err);
    }
}

static void repair_peers(struct comparison *c, struct repair *r)
{
    const struct fm_network *network = &c->p->network;
    const char *host;
    json_t *address;
    json_object_foreach(c->hosts, host, address)
    {
        struct fm_error err = {0};
        note(r, network->ops->peer(network->ctx, json_string_value(address), true, &err), host,
             &err);
    }
}

static void repair_leases(struct comparison *c, struct repair *r)
{
    size_t i;
    json_t *doc;
    json_array_foreach(c->leases, i, doc)
    {
        struct fm_error err = {0};
        if (!json_object_get(c->moving, fm_json_text(doc, "owner")))
            note(r, fm_lease_point(c->p, doc, &err), fm_json_text(doc, "owner"), &err);
    }
}

/* Entries that no lease of another host's has. */
static void forget_remotes(struct comparison *c, struct repair *r)
{
    const struct fm_network *network = &c->p->network;
    size_t i, k;
    json_t *there, *remote;
    json_array_foreach(json_object_get(c->kernel, "networks"), i, there)
    {
        const char *name = fm_json_text(there, "name");
        json_array_foreach(json_object_get(there, "remotes"), k, remote)
        {
            const char *mac = fm_json_text(remote, "mac");
            const json_t *lease = lease_of(c, name, "mac", mac);
            struct fm_error err = {0};
            if (fm_streq(mac, "00:00:00:00:00:00") || !fm_compare_find(c->networks, "name", name) ||
                json_object_get(c->moving, fm_json_text(lease, "owner")) ||
                (lease && !fm_streq(fm_json_text(lease, "host"), c->p->host)))
                continue;
            note(r, network->ops->set_remote(network->ctx, name, mac, NULL, &err), mac, &err);
        }
    }
}

/* The container runs on in its namespace, and keeps its connections. */
static int restore_port(struct fm_components *p, const char *name, struct fm_error *err)
{
    fm_autocontainer struct fm_container *container = NULL;
    struct fm_endpoint endpoint;
    bool has_endpoint = false;
    int rc = fm_lifecycle_record(p, name, &container, &endpoint, &has_endpoint, err);
    if (rc < 0 || !has_endpoint)
        return rc;
    if (!fm_netns_exists(endpoint.netns))
        return fm_error_set(err, FM_E_FAILED, "its network namespace %s is gone: start it again",
                            endpoint.netns);
    return p->network.ops->stage(p->network.ctx, &endpoint, true, err);
}

/* Only those that differ. */
static void repair_ports(struct comparison *c, struct repair *r)
{
    size_t i;
    json_t *lease;
    json_array_foreach(c->leases, i, lease)
    {
        const char *network = fm_json_text(lease, "network"), *owner = fm_json_text(lease, "owner");
        const json_t *there =
            fm_compare_find(json_object_get(c->kernel, "networks"), "name", network);
        size_t known = json_array_size(c->differences);
        struct fm_error err = {0};
        if (!there || !has_port(c, lease))
            continue;
        compare_port(c, network, lease, json_object_get(there, "ports"));
        if (json_array_size(c->differences) > known)
            note(r, restore_port(c->p, owner, &err), owner, &err);
    }
}

/* With the lock held: no lease moves meanwhile. */
static void repair_kernel(struct comparison *c, struct repair *r)
{
    struct fm_components *p = c->p;
    struct fm_error err = {0};
    repair_networks(c, r);
    repair_peers(c, r);
    json_auto_t *kernel =
        p->network.ops->describe ? p->network.ops->describe(p->network.ctx, &err) : NULL;
    c->kernel = kernel;
    forget_remotes(c, r);
    repair_ports(c, r);
    repair_leases(c, r);
    note(r, fm_leases_publish(p, &err), "published ports", &err);
    c->kernel = NULL;
}

json_t *fm_networks_repair(struct fm_components *p, struct fm_error *err)
{
    fm_cleanup(comparison_clear) struct comparison c = {.p = p};
    json_auto_t *problems = json_array();
    struct repair r = {.problems = problems};
    fm_leases_tidy(p); /* the registry itself comes first */
    fm_replica_catch_up(p);
    fm_leases_provide_host(p);
    struct fm_error relay = {0};
    note(&r, fm_relays_repair(p, &relay), "relays", &relay);
    pthread_mutex_lock(&p->networks->lock);
    int rc = collect(&c, err);
    if (rc == 0)
        repair_kernel(&c, &r);
    pthread_mutex_unlock(&p->networks->lock);
    json_auto_t *after = rc < 0 ? NULL : fm_networks_verify(p, err);
    if (!after)
        return NULL;
    json_array_extend(problems, json_object_get(after, "differences"));
    return json_pack("{s:b, s:I, s:O}", "ok", (int)(json_array_size(problems) == 0), "applied",
                     r.applied, "problems", problems);
}
