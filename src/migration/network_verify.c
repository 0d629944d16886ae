/* The kernel against the registry: what differs, and how it becomes the same. */
#include "migration/networks_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "migration/incoming.h"
#include "migration/lifecycle.h"
#include "network/address.h"
#include "network/netns.h"

#define DIFFERENCES_MAX 1000

struct comparison {
    struct fm_components *p;
    json_t *networks;     /* the default one and those of the registry */
    json_t *leases;       /* live */
    json_t *hosts;        /* name → address of the others */
    json_t *moving;       /* containers whose place is not settled */
    json_t *here;         /* records of this host by name */
    const json_t *kernel; /* what the network describes */
    json_t *differences;
};

static const char *text(const json_t *doc, const char *key)
{
    const char *value = json_string_value(json_object_get(doc, key));
    return value ? value : "";
}

__attribute__((format(printf, 2, 3))) static void differ(struct comparison *c, const char *fmt, ...)
{
    va_list ap;
    if (json_array_size(c->differences) >= DIFFERENCES_MAX)
        return;
    va_start(ap, fmt);
    fm_autofree char *line = fm_vstrf(fmt, ap);
    va_end(ap);
    json_array_append_new(c->differences, json_string(line));
}

static bool is_container(const json_t *lease)
{
    return !strchr(text(lease, "owner"), ':');
}

/* The element of a list whose `key` is `value`; NULL. */
static const json_t *find(const json_t *list, const char *key, const char *value)
{
    size_t i;
    json_t *doc;
    json_array_foreach(list, i, doc) if (fm_streq(text(doc, key), value)) return doc;
    return NULL;
}

static bool is_same_address(const char *a, const char *b)
{
    struct fm_ip one, other;
    return fm_ip_parse("address", a, &one, NULL) == 0 &&
           fm_ip_parse("address", b, &other, NULL) == 0 && fm_ip_equal(&one, &other);
}

/* --- the registry in itself --- */

static void compare_records(struct comparison *c)
{
    const char *name;
    json_t *doc;
    json_object_foreach(c->here, name, doc)
    {
        fm_cleanup(fm_lease_clear) struct fm_lease wanted = {0};
        fm_autocontainer struct fm_container *container = fm_container_from_json(doc, NULL);
        if (!container || !container->ip || container->found || json_object_get(c->moving, name))
            continue;
        fm_lease_of(container, c->p->host, &wanted);
        json_auto_t *published = fm_lease_to_json(&wanted);
        fm_autofree char *key = fm_strf("%s/%s", wanted.network, wanted.ip);
        json_auto_t *lease = fm_replica_get(c->p, FM_KIND_LEASE, key, NULL);
        if (!lease)
            differ(c, "container '%s' has no lease of %s", name, key);
        else if (!fm_streq(text(lease, "owner"), name))
            differ(c, "%s of container '%s' is leased to '%s' on %s", key, name,
                   text(lease, "owner"), text(lease, "host"));
        else if (!fm_streq(text(lease, "host"), c->p->host))
            differ(c, "the lease %s of container '%s', which is here, says that it is on %s", key,
                   name, text(lease, "host"));
        else if (!json_equal(json_object_get(lease, "publish"),
                             json_object_get(published, "publish")))
            differ(c, "the lease %s of container '%s' does not publish what its record says", key,
                   name);
    }
}

static void compare_leases(struct comparison *c)
{
    size_t i;
    json_t *lease;
    json_array_foreach(c->leases, i, lease)
    {
        const char *owner = text(lease, "owner"), *network = text(lease, "network");
        if (!find(c->networks, "name", network))
            differ(c, "the lease of %s to '%s' is in network '%s', which there is not",
                   text(lease, "ip"), owner, network);
        if (is_container(lease) && fm_streq(text(lease, "host"), c->p->host) &&
            !json_object_get(c->here, owner) && !json_object_get(c->moving, owner))
            differ(c, "%s in network '%s' is leased to container '%s', which is not here",
                   text(lease, "ip"), network, owner);
    }
}

/* --- the kernel --- */

static void compare_devices(struct comparison *c)
{
    const json_t *there = json_object_get(c->kernel, "networks");
    size_t i;
    json_t *doc;
    json_array_foreach(c->networks, i, doc) if (!find(there, "name", text(doc, "name")))
        differ(c, "network '%s' is not in the kernel", text(doc, "name"));
    json_array_foreach(there, i, doc) if (!find(c->networks, "name", text(doc, "name")))
        differ(c, "network '%s' is in the kernel and not in the registry", text(doc, "name"));
}

/* The lease of a MAC or of a container in a network; NULL. */
static const json_t *lease_of(const struct comparison *c, const char *network, const char *key,
                              const char *value)
{
    size_t i;
    json_t *lease;
    json_array_foreach(c->leases, i, lease) if (fm_streq(text(lease, "network"), network) &&
                                                fm_streq(text(lease, key), value)) return lease;
    return NULL;
}

static void compare_remote(struct comparison *c, const char *network, const json_t *lease,
                           const json_t *remotes)
{
    const char *address = text(c->hosts, text(lease, "host"));
    const json_t *entry = find(remotes, "mac", text(lease, "mac"));
    if (!entry)
        differ(c, "network '%s' has no entry for %s (container '%s' on %s)", network,
               text(lease, "mac"), text(lease, "owner"), text(lease, "host"));
    else if (!is_same_address(text(entry, "host"), address))
        differ(c, "network '%s' sends %s to %s, but container '%s' is on %s (%s)", network,
               text(lease, "mac"), text(entry, "host"), text(lease, "owner"), text(lease, "host"),
               address);
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
        differ(c, "network '%s' does not send broadcasts to host %s (%s)", network, host,
               json_string_value(address));
}

/* On the user's own networks the switches find containers by themselves. */
static void compare_remotes(struct comparison *c, const char *network, const json_t *remotes)
{
    size_t i;
    json_t *doc;
    json_array_foreach(c->leases, i, doc)
    {
        bool elsewhere = !fm_streq(text(doc, "host"), c->p->host);
        if (is_container(doc) && elsewhere && fm_streq(text(doc, "network"), network) &&
            *text(doc, "mac") && *text(c->hosts, text(doc, "host")) &&
            !json_object_get(c->moving, text(doc, "owner")))
            compare_remote(c, network, doc, remotes);
    }
    json_array_foreach(remotes, i, doc)
    {
        const json_t *lease = lease_of(c, network, "mac", text(doc, "mac"));
        if (fm_streq(text(doc, "mac"), "00:00:00:00:00:00") ||
            json_object_get(c->moving, text(lease, "owner")))
            continue;
        if (!lease)
            differ(c, "network '%s' sends %s to %s, and no lease has it", network, text(doc, "mac"),
                   text(doc, "host"));
        else if (fm_streq(text(lease, "host"), c->p->host))
            differ(c, "network '%s' sends %s to %s, but container '%s' is here", network,
                   text(doc, "mac"), text(doc, "host"), text(lease, "owner"));
    }
}

static void compare_port(struct comparison *c, const char *network, const json_t *lease,
                         const json_t *ports)
{
    const char *owner = text(lease, "owner");
    const json_t *port = find(ports, "container", owner);
    if (!port)
        differ(c, "container '%s' has no port in network '%s'", owner, network);
    else if (!is_same_address(text(port, "ip"), text(lease, "ip")))
        differ(c, "the port of container '%s' has %s, its lease %s", owner, text(port, "ip"),
               text(lease, "ip"));
    else if (*text(port, "mac") && !fm_streq(text(port, "mac"), text(lease, "mac")))
        differ(c, "the port of container '%s' has %s, its lease %s", owner, text(port, "mac"),
               text(lease, "mac"));
    else if (json_is_false(json_object_get(port, "open")))
        differ(c, "the port of container '%s' is closed", owner);
}

/* A lease whose container has a port here. One without a record is a difference already; a found
 * one has its owner's port. */
static bool has_port(const struct comparison *c, const json_t *lease)
{
    const json_t *record = json_object_get(c->here, text(lease, "owner"));
    return is_container(lease) && fm_streq(text(lease, "host"), c->p->host) && record &&
           !json_is_true(json_object_get(record, "found")) &&
           !json_object_get(c->moving, text(lease, "owner"));
}

static void compare_ports(struct comparison *c, const char *network, const json_t *ports)
{
    size_t i;
    json_t *doc;
    json_array_foreach(c->leases, i,
                       doc) if (fm_streq(text(doc, "network"), network) && has_port(c, doc))
        compare_port(c, network, doc, ports);
    json_array_foreach(ports, i, doc)
    {
        const char *name = text(doc, "container");
        if (*name && !json_object_get(c->here, name) && !json_object_get(c->moving, name))
            differ(c, "network '%s' has a port of container '%s', which is not here", network,
                   name);
    }
}

static void compare_host_address(struct comparison *c, const char *network, const json_t *there)
{
    fm_autofree char *own = fm_strf("host:%s", c->p->host);
    const json_t *lease = lease_of(c, network, "owner", own);
    if (!lease)
        return;
    if (!mentions(there, text(lease, "ip")))
        differ(c, "network '%s' lacks this host's own address %s", network, text(lease, "ip"));
    if (*text(lease, "ip6") && !mentions(there, text(lease, "ip6")))
        differ(c, "network '%s' lacks this host's own address %s", network, text(lease, "ip6"));
}

static void compare_networks(struct comparison *c)
{
    size_t i;
    json_t *there;
    compare_devices(c);
    json_array_foreach(json_object_get(c->kernel, "networks"), i, there)
    {
        const char *name = text(there, "name");
        if (!find(c->networks, "name", name))
            continue;
        if (fm_streq(text(find(c->networks, "name", name), "mode"), "overlay")) {
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
            text(doc, "protocol"), json_integer_value(json_object_get(doc, "host_port")),
            json_integer_value(json_object_get(doc, "port")), text(doc, "ip"), text(doc, "ip6"));
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
            differ(c, "port %s (container '%s') is not published", wanted, list[i].container);
    }
    json_object_foreach(there, line, value)
        differ(c, "port %s is published, and no lease says so", line);
    if (count > 0 && json_is_false(json_object_get(c->kernel, "whole")))
        differ(c, "the firewall's table is damaged");
}

/* --- verify --- */

static json_t *addresses_of_hosts(struct fm_components *p)
{
    json_auto_t *docs = fm_replica_hosts(p);
    json_t *hosts = json_object(), *doc;
    size_t i;
    json_array_foreach(docs, i, doc)
        json_object_set_new(hosts, text(doc, "name"), json_string(text(doc, "address")));
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
    c->moving = fm_leases_moving(p);
    c->here = json_object();
    c->differences = json_array();
    json_array_foreach(records, i, doc) json_object_set(c->here, text(doc, "name"), doc);
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
    compare_records(&c);
    compare_leases(&c);
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
            note(r, fm_networks_apply(c->p, doc, doc, &err), text(doc, "name"), &err);
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
        if (!json_object_get(c->moving, text(doc, "owner")))
            note(r, fm_lease_point(c->p, doc, &err), text(doc, "owner"), &err);
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
        const char *name = text(there, "name");
        json_array_foreach(json_object_get(there, "remotes"), k, remote)
        {
            const char *mac = text(remote, "mac");
            const json_t *lease = lease_of(c, name, "mac", mac);
            struct fm_error err = {0};
            if (fm_streq(mac, "00:00:00:00:00:00") || !find(c->networks, "name", name) ||
                json_object_get(c->moving, text(lease, "owner")) ||
                (lease && !fm_streq(text(lease, "host"), c->p->host)))
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
        const char *network = text(lease, "network"), *owner = text(lease, "owner");
        const json_t *there = find(json_object_get(c->kernel, "networks"), "name", network);
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
