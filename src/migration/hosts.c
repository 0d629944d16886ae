#include "migration/hosts.h"

#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "migration/leases.h"
#include "migration/networks.h"
#include "wire/frame.h"

#define ASK_TIMEOUT_MS 2000
#define DEFAULT_WIRE_PORT 7441
#define DEFAULT_API_PORT 7440

static json_t *record(struct fm_components *p, const char *name, struct fm_error *err)
{
    json_t *doc = p->store.ops->get(p->store.ctx, "host", name, err);
    if (!doc && err && err->code == FM_E_NOT_FOUND)
        fm_error_set(err, FM_E_NOT_FOUND,
                     "no host '%s': `fleximigrate host list` shows those known here", name);
    return doc;
}

int fm_hosts_enter_self(struct fm_components *p, int wire_port, int api_port, struct fm_error *err)
{
    json_auto_t *old = p->store.ops->get(p->store.ctx, "host", p->host, NULL);
    struct fm_host self = {.wire_port = wire_port,
                           .api_port = api_port,
                           .cordoned = json_is_true(json_object_get(old, "cordoned"))};
    snprintf(self.name, sizeof(self.name), "%s", p->host);
    snprintf(self.address, sizeof(self.address), "%s", p->advertise ? p->advertise : "");
    json_auto_t *doc = fm_host_to_json(&self);
    return p->store.ops->put(p->store.ctx, "host", p->host, doc, err);
}

json_t *fm_hosts_self(struct fm_components *p, struct fm_error *err)
{
    json_t *doc = record(p, p->host, err);
    json_auto_t *facts = doc ? p->facts(p->facts_ctx, NULL) : NULL;
    if (!doc)
        return NULL;
    json_object_update(doc, facts);
    json_object_set_new(doc, "cpus", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
    json_object_set_new(doc, "status", json_string("online"));
    json_object_set_new(doc, "self", json_true());
    return doc;
}

/* Asks a host what it is; NULL when it does not answer. */
static json_t *ask(struct fm_components *p, const struct fm_host *host, struct fm_error *err)
{
    struct fm_link *link = p->links.ops->open(p->links.ctx, host, 0, ASK_TIMEOUT_MS, err);
    if (!link)
        return NULL;
    json_t *answer = p->links.ops->call(link, FM_FRAME_PING, NULL, ASK_TIMEOUT_MS, err);
    p->links.ops->close(link);
    return answer;
}

static void mark(json_t *doc, bool self, bool online)
{
    char now[32];
    json_object_set_new(doc, "self", json_boolean(self));
    json_object_set_new(doc, "status", json_string(online ? "online" : "offline"));
    if (!online)
        return;
    json_object_set_new(doc, "last_seen",
                        json_string(fm_format_time(fm_realtime_us(), now, sizeof(now))));
}

/* A host's document with what it says of itself; its answer never overrides how it is reached. */
static json_t *describe(struct fm_components *p, json_t *doc_to_steal, bool with_facts)
{
    json_t *doc = doc_to_steal;
    struct fm_host host;
    if (fm_host_from_json(doc, &host, NULL) < 0)
        return doc;
    if (fm_streq(host.name, p->host)) {
        mark(doc, true, true);
        json_auto_t *self = with_facts ? fm_hosts_self(p, NULL) : NULL;
        json_object_update(doc, self);
        return doc;
    }
    json_auto_t *answer = ask(p, &host, NULL);
    mark(doc, false, answer != NULL);
    if (answer)
        json_object_set(doc, "cordoned", json_object_get(answer, "cordoned"));
    if (with_facts && answer)
        json_object_update_missing(doc, answer);
    return doc;
}

json_t *fm_hosts_list(struct fm_components *p, struct fm_error *err)
{
    json_auto_t *docs = p->store.ops->list(p->store.ctx, "host", err);
    if (!docs)
        return NULL;
    json_t *list = json_array(), *doc;
    size_t i;
    json_array_foreach(docs, i, doc)
        json_array_append_new(list, describe(p, json_deep_copy(doc), false));
    return list;
}

json_t *fm_hosts_show(struct fm_components *p, const char *name, struct fm_error *err)
{
    json_t *doc = record(p, name, err);
    return doc ? describe(p, doc, true) : NULL;
}

json_t *fm_hosts_add(struct fm_components *p, const json_t *request, struct fm_error *err)
{
    const char *name = NULL, *address = NULL;
    struct fm_host host = {.wire_port = DEFAULT_WIRE_PORT, .api_port = DEFAULT_API_PORT};
    json_error_t why;
    if (json_unpack_ex((json_t *)(uintptr_t)request, &why, JSON_STRICT, "{s:s, s:s, s?i, s?i}",
                       "name", &name, "address", &address, "wire_port", &host.wire_port, "api_port",
                       &host.api_port) < 0) {
        fm_error_set(err, FM_E_INVALID,
                     "a host needs name and address, and may have wire_port and api_port: %s",
                     why.text);
        return NULL;
    }
    if (fm_check_name("host", name, err) < 0)
        return NULL;
    if (fm_streq(name, p->host)) {
        fm_error_set(err, FM_E_INVALID, "'%s' is this host itself", name);
        return NULL;
    }
    if (strlen(address) >= sizeof(host.address) || host.wire_port < 1 || host.wire_port > 65535 ||
        host.api_port < 1 || host.api_port > 65535) {
        fm_error_set(err, FM_E_INVALID, "host '%s': address or port is out of range", name);
        return NULL;
    }
    snprintf(host.name, sizeof(host.name), "%s", name);
    snprintf(host.address, sizeof(host.address), "%s", address);
    struct fm_error unreachable = {0};
    json_auto_t *answer = ask(p, &host, &unreachable);
    json_t *doc = fm_host_to_json(&host);
    mark(doc, false, answer != NULL);
    if (p->store.ops->put(p->store.ctx, "host", name, doc, err) < 0) {
        json_decref(doc);
        return NULL;
    }
    p->network.ops->peer(p->network.ctx, address, true, NULL);
    fm_networks_meet(p, name);
    if (!answer)
        json_object_set_new(doc, "warning", json_string(unreachable.text));
    return doc;
}

int fm_hosts_remove(struct fm_components *p, const char *name, struct fm_error *err)
{
    struct fm_host host;
    json_auto_t *doc = record(p, name, err);
    if (!doc)
        return fm_error_result(err);
    if (fm_streq(name, p->host))
        return fm_error_set(err, FM_E_REFUSED, "'%s' is this host itself: it cannot be removed",
                            name);
    json_auto_t *answer = NULL;
    if (fm_host_from_json(doc, &host, NULL) == 0) {
        answer = ask(p, &host, NULL);
        p->network.ops->peer(p->network.ctx, host.address, false, NULL);
    }
    int rc = p->store.ops->remove(p->store.ctx, "host", name, err);
    if (rc == 0 && !answer) /* it is dead, not only unloved */
        fm_leases_forget_host(p, name);
    return rc;
}

int fm_hosts_cordon(struct fm_components *p, const char *name, bool cordoned, struct fm_error *err)
{
    json_auto_t *doc = record(p, name, err);
    if (!doc)
        return fm_error_result(err);
    json_object_set_new(doc, "cordoned", json_boolean(cordoned));
    return p->store.ops->put(p->store.ctx, "host", name, doc, err);
}
