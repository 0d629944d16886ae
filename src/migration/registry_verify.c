/* The registry in itself: containers, their leases, and whether two have the same. */
#include "migration/network_verify.h"

#include <stdarg.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/text.h"

#define DIFFERENCES_MAX 1000

void fm_compare_differ(struct comparison *c, const char *fmt, ...)
{
    va_list ap;
    if (json_array_size(c->differences) >= DIFFERENCES_MAX)
        return;
    va_start(ap, fmt);
    fm_autofree char *line = fm_vstrf(fmt, ap);
    va_end(ap);
    json_array_append_new(c->differences, json_string(line));
}

bool fm_compare_is_container(const json_t *lease)
{
    return !strchr(fm_json_text(lease, "owner"), ':');
}

const json_t *fm_compare_find(const json_t *list, const char *key, const char *value)
{
    size_t i;
    json_t *doc;
    json_array_foreach(list, i, doc) if (fm_streq(fm_json_text(doc, key), value)) return doc;
    return NULL;
}

/* --- a container against its lease --- */

static void compare_record(struct comparison *c, const struct fm_container *container)
{
    const char *name = container->name;
    fm_cleanup(fm_lease_clear) struct fm_lease wanted = {0};
    fm_lease_of(container, c->p->host, &wanted);
    fm_autofree char *key = fm_strf("%s/%s", wanted.network, wanted.ip);
    json_auto_t *lease = fm_replica_get(c->p, FM_KIND_LEASE, key, NULL);
    if (!lease) {
        fm_compare_differ(c, "container '%s' has no lease of %s", name, key);
        return;
    }
    if (!fm_streq(fm_json_text(lease, "owner"), name)) {
        fm_compare_differ(c, "%s of container '%s' is leased to '%s' on %s", key, name,
                          fm_json_text(lease, "owner"), fm_json_text(lease, "host"));
        return;
    }
    if (!fm_streq(fm_json_text(lease, "host"), c->p->host))
        fm_compare_differ(c, "the lease %s of container '%s', which is here, says that it is on %s",
                          key, name, fm_json_text(lease, "host"));
    json_auto_t *lines = fm_lease_differences(lease, &wanted);
    size_t i;
    json_t *line;
    json_array_foreach(lines, i, line) fm_compare_differ(c, "%s", json_string_value(line));
}

static void compare_records(struct comparison *c)
{
    const char *name;
    json_t *doc;
    json_object_foreach(c->here, name, doc)
    {
        fm_autocontainer struct fm_container *container = fm_container_from_json(doc, NULL);
        if (container && container->ip && !container->found && !json_object_get(c->moving, name))
            compare_record(c, container);
    }
}

/* --- a lease against its container --- */

/* One of this host's containers; another address than its own is left over. */
static void compare_owner(struct comparison *c, const json_t *lease)
{
    const char *owner = fm_json_text(lease, "owner"), *network = fm_json_text(lease, "network");
    json_t *record = json_object_get(c->here, owner);
    if (fm_claim_is_open(c->p, network, fm_json_text(lease, "ip")))
        return;
    if (!record) {
        fm_compare_differ(c, "%s in network '%s' is leased to container '%s', which is not here",
                          fm_json_text(lease, "ip"), network, owner);
        return;
    }
    fm_cleanup(fm_lease_clear) struct fm_lease has = {0};
    fm_autocontainer struct fm_container *container = fm_container_from_json(record, NULL);
    if (!container || container->found)
        return;
    fm_lease_of(container, c->p->host, &has);
    if (!fm_streq(has.network, network) || !fm_streq(has.ip, fm_json_text(lease, "ip")))
        fm_compare_differ(c,
                          "%s in network '%s' is leased to container '%s', which has %s in "
                          "network '%s'",
                          fm_json_text(lease, "ip"), network, owner,
                          *has.ip ? has.ip : "no address", has.network);
}

static void compare_leases(struct comparison *c)
{
    size_t i;
    json_t *lease;
    json_array_foreach(c->leases, i, lease)
    {
        const char *owner = fm_json_text(lease, "owner"), *network = fm_json_text(lease, "network");
        if (!fm_compare_find(c->networks, "name", network))
            fm_compare_differ(c, "the lease of %s to '%s' is in network '%s', which there is not",
                              fm_json_text(lease, "ip"), owner, network);
        if (fm_compare_is_container(lease) && fm_streq(fm_json_text(lease, "host"), c->p->host) &&
            !json_object_get(c->moving, owner))
            compare_owner(c, lease);
    }
}

/* --- leases against each other --- */

/* Notes who has something; a difference when somebody else has it already. One container's two
 * leases are those of a change of its address. */
static void take(struct comparison *c, json_t *owners, json_t *lease, const char *what)
{
    json_t *first = json_object_get(owners, what);
    if (!first)
        json_object_set(owners, what, lease);
    else if (!fm_streq(fm_json_text(first, "owner"), fm_json_text(lease, "owner")))
        fm_compare_differ(
            c, "%s is leased to '%s' on %s and to '%s' on %s: run one of them with another", what,
            fm_json_text(first, "owner"), fm_json_text(first, "host"), fm_json_text(lease, "owner"),
            fm_json_text(lease, "host"));
}

static void take_in_network(struct comparison *c, json_t *owners, json_t *lease, const char *kind,
                            const char *value)
{
    fm_autofree char *what =
        fm_strf("%s %s in network '%s'", kind, value, fm_json_text(lease, "network"));
    if (*value)
        take(c, owners, lease, what);
}

static void compare_with_each_other(struct comparison *c)
{
    json_auto_t *owners = json_object();
    struct fm_publish one;
    size_t i;
    json_t *doc;
    json_array_foreach(c->leases, i, doc)
    {
        fm_cleanup(fm_lease_clear) struct fm_lease lease = {0};
        if (fm_lease_from_json(doc, &lease, NULL) < 0)
            continue;
        take_in_network(c, owners, doc, "address", lease.ip);
        take_in_network(c, owners, doc, "address", lease.ip6);
        take_in_network(c, owners, doc, "hardware address", lease.mac);
        for (size_t k = 0; k < lease.publish.count; k++) {
            if (fm_publish_parse(lease.publish.items[k], &one, NULL) < 0)
                continue;
            fm_autofree char *port = fm_strf("port %u/%s", one.host_port, one.protocol);
            take(c, owners, doc, port);
        }
    }
}

void fm_compare_registry(struct comparison *c)
{
    compare_records(c);
    compare_leases(c);
    compare_with_each_other(c);
}
