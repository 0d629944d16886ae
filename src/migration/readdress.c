#include "migration/readdress.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/incoming.h"
#include "migration/leases.h"
#include "migration/lifecycle.h"
#include "migration/networks.h"

static const char *network_of(const struct fm_container *c)
{
    return c->network ? c->network : FM_NETWORK_DEFAULT;
}

static int check_can_change(const struct fm_migration *m, struct fm_error *err)
{
    if (!m->has_endpoint || m->container->found)
        return fm_error_set(err, FM_E_REFUSED, "container '%s' cannot get another address: %s",
                            m->container->name,
                            m->container->found ? "it was not started by FlexiMigrate"
                                                : "it is in no network of ours");
    return 0;
}

static const char *const fields[] = {"network", "ip", "ip6", "mac", "gateway", "gateway6"};

/* The record with what the network fills in left open. */
static struct fm_container *make_arrival(const struct fm_migration *m, struct fm_error *err)
{
    const struct fm_migration_options *o = &m->options;
    json_auto_t *doc = fm_container_to_json(m->container);
    for (size_t i = 1; i < FM_COUNT(fields); i++)
        json_object_del(doc, fields[i]);
    if (*o->new_network)
        json_object_set_new(doc, "network", json_string(o->new_network));
    struct fm_container *c = fm_container_from_json(doc, err);
    if (c)
        c->ip = fm_xstrdup(*o->new_address ? o->new_address : FM_LEASE_AUTO);
    return c;
}

struct fm_container *fm_readdress_back(const struct fm_container *container, const json_t *left,
                                       struct fm_error *err)
{
    json_auto_t *doc = fm_container_to_json(container);
    for (size_t i = 0; i < FM_COUNT(fields); i++) {
        json_t *value = json_object_get(left, fields[i]);
        if (value)
            json_object_set(doc, fields[i], value);
        else
            json_object_del(doc, fields[i]);
    }
    struct fm_container *c = fm_container_from_json(doc, err);
    if (c && c->ip)
        return c;
    fm_container_free(c);
    fm_error_set(err, FM_E_INVALID, "what is said to have been its address is none");
    return NULL;
}

/* The way back: the address is still leased where it leads to. */
static struct fm_container *make_back(const struct fm_migration *m, struct fm_error *err)
{
    struct fm_incoming *in =
        m->parts->incoming ? fm_incoming_find(m->parts->incoming, m->return_of, err) : NULL;
    if (in && in->left)
        return fm_readdress_back(m->container, in->left, err);
    fm_error_set(err, FM_E_INVALID, "nobody knows what address it had");
    return NULL;
}

/* Its ports stay the old lease's until it runs there: two leases cannot publish the same. */
static int lease(struct fm_components *p, struct fm_container *c, struct fm_error *err)
{
    struct fm_strv publish = c->publish;
    c->publish = (struct fm_strv){0};
    int rc = fm_lease_take(p, c, err);
    fm_strv_free(&c->publish);
    c->publish = publish;
    return rc;
}

/* What the request asks for in plain words. */
static int check_differs(const struct fm_migration *m, struct fm_error *err)
{
    const struct fm_migration_options *o = &m->options;
    const char *ip = m->container->ip;
    size_t len = strcspn(ip, "/");
    bool same_network = !*o->new_network || fm_streq(o->new_network, network_of(m->container));
    bool same_ip = strlen(o->new_address) == len && strncmp(o->new_address, ip, len) == 0;
    return same_network && same_ip
               ? fm_error_set(err, FM_E_INVALID, "container '%s' has address %s already",
                              m->container->name, ip)
               : 0;
}

static int check_ports(const struct fm_migration *m, struct fm_error *err)
{
    const struct fm_migration_options *o = &m->options;
    struct fm_network_spec spec;
    int rc = fm_networks_find(m->parts, *o->new_network ? o->new_network : m->container->network,
                              &spec, err);
    return rc < 0 ? rc : fm_lease_check_ports(m->container, &spec, err);
}

/* The journal knows of the lease before there is one, and which one it became. */
static int take(struct fm_migration *m, struct fm_error *err)
{
    bool back = *m->return_of != '\0';
    int rc = back ? 0 : fm_migration_step(m, FM_STEP_LEASE, NULL, err);
    if (rc < 0)
        return rc;
    struct fm_container *c = back ? make_back(m, err) : make_arrival(m, err);
    if (!c)
        return fm_error_result(err);
    rc = back ? 0 : lease(m->parts, c, err);
    if (rc < 0) {
        fm_container_free(c);
        return rc;
    }
    m->arrival = c;
    return fm_migration_step(m, FM_STEP_LEASE,
                             json_pack("{s:o}", "arrival", fm_container_to_json(c)), err);
}

int fm_readdress_plan(struct fm_migration *m, struct fm_error *err)
{
    if (!*m->options.new_address && !*m->options.new_network)
        return 0;
    int rc = check_can_change(m, err);
    if (rc == 0)
        rc = check_differs(m, err);
    if (rc == 0)
        rc = check_ports(m, err);
    if (rc == 0)
        rc = take(m, err);
    if (rc == 0)
        rc = fm_lifecycle_endpoint(m->parts, m->arrival, &m->arrival_endpoint, err);
    if (rc < 0)
        return rc;
    fm_info(FM_NETWORK_MANAGER, "Container %s gets address %s in network %s.", m->arrival->name,
            m->arrival->ip, network_of(m->arrival));
    return 0;
}

int fm_readdress_recall(struct fm_migration *m, struct fm_error *err)
{
    json_t *found = NULL;
    struct fm_error e = {0};
    fm_journal_has(m->parts->journal, m->id, FM_STEP_LEASE, &found);
    json_auto_t *detail = found;
    const json_t *doc = json_object_get(detail, "arrival");
    if (!json_is_object(doc) || m->arrival)
        return 0;
    m->arrival = fm_container_from_json(doc, err);
    if (!m->arrival)
        return fm_error_result(err);
    if (fm_lifecycle_endpoint(m->parts, m->arrival, &m->arrival_endpoint, &e) < 0)
        fm_warn(FM_NETWORK_MANAGER, "The new address of %s: %s.", m->options.container, e.text);
    return 0;
}

json_t *fm_readdress_left(const struct fm_migration *m)
{
    if (!m->arrival)
        return NULL;
    json_auto_t *doc = fm_container_to_json(m->container);
    json_t *left = json_object();
    for (size_t i = 0; i < FM_COUNT(fields); i++)
        json_object_set(left, fields[i], json_object_get(doc, fields[i]));
    return left;
}

void fm_readdress_switch(struct fm_migration *m)
{
    struct fm_error err = {0};
    if (m->arrival && m->container && fm_lease_yield(m->parts, m->container, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "Ports of %s: %s.", m->container->name, err.text);
}

void fm_readdress_settle(struct fm_migration *m)
{
    if (!m->arrival)
        return;
    fm_lease_settle(m->parts, m->arrival);
    if (m->container)
        fm_lease_release(m->parts, m->container);
}

void fm_readdress_undo(struct fm_migration *m)
{
    if (!m->arrival || *m->return_of)
        return;
    fm_lease_drop(m->parts, m->arrival);
    fm_journal_undone(m->parts->journal, m->id, FM_STEP_LEASE, NULL);
}
