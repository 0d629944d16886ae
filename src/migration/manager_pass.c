/* What the manager passes straight on to the parts that know: containers, hosts, events. */
#include "migration/manager_internal.h"

#include "migration/hosts.h"
#include "migration/lifecycle.h"
#include "migration/networks.h"

/* A container that is on its way here is not one of this host yet, and its name is taken. */
static bool is_coming(struct fm_manager *m, const char *name, struct fm_error *err)
{
    bool coming = name && fm_incoming_is_coming(m->incoming, name);
    if (coming)
        fm_error_set(err, FM_E_REFUSED,
                     "container '%s' is on its way to this host: wait for its migration", name);
    return coming;
}

json_t *fm_manager_container_run(struct fm_manager *m, const json_t *request, struct fm_error *err)
{
    if (is_coming(m, json_string_value(json_object_get(request, "name")), err))
        return NULL;
    return fm_lifecycle_run(&m->parts, request, err);
}

json_t *fm_manager_container_list(struct fm_manager *m, struct fm_error *err)
{
    return fm_lifecycle_list(&m->parts, err);
}

json_t *fm_manager_container_show(struct fm_manager *m, const char *name, struct fm_error *err)
{
    if (is_coming(m, name, err))
        return NULL;
    return fm_lifecycle_show(&m->parts, name, err);
}

char *fm_manager_container_log(struct fm_manager *m, const char *name, struct fm_error *err)
{
    return fm_lifecycle_log(&m->parts, name, err);
}

json_t *fm_manager_container_exec(struct fm_manager *m, const char *name, const json_t *request,
                                  struct fm_error *err)
{
    if (is_coming(m, name, err))
        return NULL;
    return fm_lifecycle_exec(&m->parts, name, request, err);
}

int fm_manager_container_stop(struct fm_manager *m, const char *name, uint64_t timeout_ms,
                              struct fm_error *err)
{
    if (fm_manager_is_busy(m, name, err) || is_coming(m, name, err))
        return -FM_E_REFUSED;
    return fm_lifecycle_stop(&m->parts, name, timeout_ms, err);
}

int fm_manager_container_remove(struct fm_manager *m, const char *name, bool force,
                                struct fm_error *err)
{
    if (fm_manager_is_busy(m, name, err) || is_coming(m, name, err))
        return -FM_E_REFUSED;
    return fm_lifecycle_remove(&m->parts, name, force, err);
}

json_t *fm_manager_host_list(struct fm_manager *m, struct fm_error *err)
{
    return fm_hosts_list(&m->parts, err);
}

json_t *fm_manager_host_show(struct fm_manager *m, const char *name, struct fm_error *err)
{
    return fm_hosts_show(&m->parts, name, err);
}

json_t *fm_manager_host_add(struct fm_manager *m, const json_t *request, struct fm_error *err)
{
    return fm_hosts_add(&m->parts, request, err);
}

int fm_manager_host_remove(struct fm_manager *m, const char *name, struct fm_error *err)
{
    int rc = fm_hosts_remove(&m->parts, name, err);
    if (rc == 0)
        fm_manager_connect_fabric(m); /* another member may have the same address */
    return rc;
}

int fm_manager_host_cordon(struct fm_manager *m, const char *name, bool cordoned,
                           struct fm_error *err)
{
    return fm_hosts_cordon(&m->parts, name, cordoned, err);
}

json_t *fm_manager_network_list(struct fm_manager *m, struct fm_error *err)
{
    return fm_networks_list(&m->parts, err);
}

json_t *fm_manager_network_show(struct fm_manager *m, const char *name, struct fm_error *err)
{
    return fm_networks_show(&m->parts, name, err);
}

json_t *fm_manager_network_create(struct fm_manager *m, const json_t *request, struct fm_error *err)
{
    return fm_networks_create(&m->parts, request, err);
}

int fm_manager_network_remove(struct fm_manager *m, const char *name, struct fm_error *err)
{
    return fm_networks_remove(&m->parts, name, err);
}

json_t *fm_manager_network_verify(struct fm_manager *m, struct fm_error *err)
{
    return fm_networks_verify(&m->parts, err);
}

json_t *fm_manager_network_repair(struct fm_manager *m, struct fm_error *err)
{
    return fm_networks_repair(&m->parts, err);
}

int fm_manager_subscribe(struct fm_manager *m, fm_event_fn fn, void *ctx)
{
    return fm_events_subscribe(m->parts.events, fn, ctx);
}

void fm_manager_unsubscribe(struct fm_manager *m, int handle)
{
    fm_events_unsubscribe(m->parts.events, handle);
}
