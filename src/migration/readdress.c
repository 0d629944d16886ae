#include "migration/readdress.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/leases.h"
#include "migration/lifecycle.h"

static char *without_prefix(const char *address)
{
    return address ? fm_xstrndup(address, strcspn(address, "/")) : NULL;
}

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

/* The record with what the network fills in left open. */
static struct fm_container *make_arrival(const struct fm_migration *m, struct fm_error *err)
{
    const struct fm_migration_options *o = &m->options;
    json_auto_t *doc = fm_container_to_json(m->container);
    static const char *const completed[] = {"ip", "ip6", "mac", "gateway", "gateway6"};
    for (size_t i = 0; i < FM_COUNT(completed); i++)
        json_object_del(doc, completed[i]);
    if (*o->new_network)
        json_object_set_new(doc, "network", json_string(o->new_network));
    struct fm_container *c = fm_container_from_json(doc, err);
    if (c)
        c->ip = fm_xstrdup(*o->new_address ? o->new_address : FM_LEASE_AUTO);
    return c;
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

int fm_readdress_plan(struct fm_migration *m, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    if (!*m->options.new_address && !*m->options.new_network)
        return 0;
    int rc = check_can_change(m, err);
    if (rc < 0)
        return rc;
    fm_autocontainer struct fm_container *c = make_arrival(m, err);
    rc = c ? lease(p, c, err) : fm_error_result(err);
    if (rc == 0 && fm_streq(c->ip, m->container->ip) &&
        fm_streq(network_of(c), network_of(m->container)))
        return fm_error_set(err, FM_E_INVALID, "container '%s' has address %s already", c->name,
                            c->ip);
    if (rc == 0)
        rc = fm_lifecycle_endpoint(p, c, &m->arrival_endpoint, err);
    if (rc < 0)
        return rc;
    fm_info(FM_NETWORK_MANAGER, "Container %s gets address %s in network %s.", c->name, c->ip,
            network_of(c));
    m->arrival = FM_MOVE(c);
    return 0;
}

int fm_readdress_recall(struct fm_migration *m, struct fm_error *err)
{
    json_t *found = NULL;
    fm_journal_has(m->parts->journal, m->id, FM_STEP_PREPARE, &found);
    json_auto_t *detail = found;
    const json_t *doc = json_object_get(detail, "arrival");
    if (!json_is_object(doc) || m->arrival)
        return 0;
    m->arrival = fm_container_from_json(doc, err);
    return m->arrival ? fm_lifecycle_endpoint(m->parts, m->arrival, &m->arrival_endpoint, err)
                      : fm_error_result(err);
}

json_t *fm_readdress_left(const struct fm_migration *m)
{
    if (!m->arrival)
        return NULL;
    fm_autofree char *ip = without_prefix(m->container->ip);
    return json_pack("{s:s, s:s}", "network", network_of(m->container), "ip", ip);
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
    if (m->arrival)
        fm_lease_release(m->parts, m->arrival);
}
