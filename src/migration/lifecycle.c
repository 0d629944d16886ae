#include "migration/lifecycle_internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/incoming.h"
#include "migration/leases.h"
#include "migration/networks.h"

#define MAX_EXEC_OUTPUT (1u << 20)

int fm_lifecycle_endpoint(struct fm_components *p, const struct fm_container *container,
                          struct fm_endpoint *endpoint, struct fm_error *err)
{
    struct fm_network_spec spec;
    struct fm_endpoint_request request = {.network = container->network,
                                          .name = container->name,
                                          .ip = container->ip,
                                          .ip6 = container->ip6,
                                          .mac = container->mac};
    int rc = fm_networks_find(p, container->network, &spec, err);
    return rc < 0 ? rc : p->network.ops->endpoint(p->network.ctx, &request, endpoint, err);
}

static int endpoint_of(struct fm_components *p, const struct fm_container *c, pid_t init_pid,
                       struct fm_endpoint *endpoint, bool *has_endpoint, struct fm_error *err)
{
    bool host = false;
    *has_endpoint = c->ip != NULL;
    if (!c->ip)
        return 0;
    /* A found container's namespace and veth have their owner's names, not ours. */
    if (c->found && init_pid > 0)
        return p->network.ops->inspect(p->network.ctx, init_pid, endpoint, has_endpoint, &host,
                                       err);
    return fm_lifecycle_endpoint(p, c, endpoint, err);
}

struct fm_container *fm_lifecycle_load(struct fm_components *p, const char *name,
                                       struct fm_error *err)
{
    json_auto_t *doc = p->store.ops->get(p->store.ctx, "container", name, err);
    if (doc)
        return fm_container_from_json(doc, err);
    if (err && err->code == FM_E_NOT_FOUND)
        fm_error_set(err, FM_E_NOT_FOUND, "no container '%s' on host %s", name, p->host);
    return NULL;
}

int fm_lifecycle_save(struct fm_components *p, const struct fm_container *c, struct fm_error *err)
{
    json_auto_t *doc = fm_container_to_json(c);
    return p->store.ops->put(p->store.ctx, "container", c->name, doc, err);
}

int fm_lifecycle_record(struct fm_components *p, const char *name, struct fm_container **container,
                        struct fm_endpoint *endpoint, bool *has_endpoint, struct fm_error *err)
{
    fm_autocontainer struct fm_container *c = fm_lifecycle_load(p, name, err);
    if (!c)
        return fm_error_result(err);
    struct fm_runtime_state state = {0};
    if (c->found)
        p->runtime.ops->state(p->runtime.ctx, name, &state, NULL);
    int rc = endpoint_of(p, c, state.init_pid, endpoint, has_endpoint, err);
    if (rc == 0)
        *container = FM_MOVE(c);
    return rc;
}

/* A container that was started with the runtime alone: its record is made from what it is. */
static struct fm_container *discover(struct fm_components *p, const char *name,
                                     const struct fm_runtime_state *state, struct fm_error *err)
{
    fm_autocontainer struct fm_container *c =
        fm_container_discover(name, state->bundle, state->init_pid, err);
    if (!c)
        return NULL;
    struct fm_endpoint endpoint;
    bool has = false, host = false;
    if (p->network.ops->inspect(p->network.ctx, state->init_pid, &endpoint, &has, &host, err) < 0)
        return NULL;
    if (has && !c->ip) {
        c->network = fm_xstrdup(*endpoint.network ? endpoint.network : NULL);
        c->ip = fm_xstrdup(endpoint.ip);
        c->ip6 = fm_xstrdup(*endpoint.ip6 ? endpoint.ip6 : NULL);
        c->mac = fm_xstrdup(endpoint.mac);
        c->gateway = fm_xstrdup(*endpoint.gateway ? endpoint.gateway : NULL);
        c->gateway6 = fm_xstrdup(*endpoint.gateway6 ? endpoint.gateway6 : NULL);
    }
    return fm_lifecycle_save(p, c, err) < 0 ? NULL : FM_MOVE(c);
}

int fm_lifecycle_resolve(struct fm_components *p, const char *name, struct fm_container **container,
                         struct fm_endpoint *endpoint, bool *has_endpoint,
                         struct fm_runtime_state *state, struct fm_error *err)
{
    struct fm_error unknown = {0};
    fm_autocontainer struct fm_container *c = fm_lifecycle_load(p, name, &unknown);
    int rc = p->runtime.ops->state(p->runtime.ctx, name, state, err);
    if (!c && rc < 0)
        return err && err->code == FM_E_NOT_FOUND ? (*err = unknown, -FM_E_NOT_FOUND) : rc;
    if (rc < 0 && (!err || err->code != FM_E_NOT_FOUND))
        return rc;
    if (rc < 0) {
        *state = (struct fm_runtime_state){.status = "stopped"};
        *err = (struct fm_error){0};
    }
    if (!c && !(c = discover(p, name, state, err)))
        return fm_error_result(err);
    rc = endpoint_of(p, c, state->init_pid, endpoint, has_endpoint, err);
    if (rc == 0)
        *container = FM_MOVE(c);
    return rc;
}

int fm_lifecycle_layer_dirs(struct fm_components *p, const struct fm_container *container,
                            struct fm_strv *dirs, struct fm_error *err)
{
    for (size_t i = 0; i < container->layers.count; i++) {
        fm_autofree char *dir = fm_image_layer_dir(p->images, container->layers.items[i], err);
        if (!dir)
            return fm_error_result(err);
        fm_strv_add(dirs, dir);
    }
    return 0;
}

static int prune_layers(struct fm_components *p, struct fm_error *err)
{
    json_auto_t *docs = p->store.ops->list(p->store.ctx, "container", err);
    fm_cleanup(fm_strv_free) struct fm_strv used = {0};
    size_t i, k;
    json_t *doc, *layer;
    if (!docs)
        return fm_error_result(err);
    if (p->incoming)
        fm_incoming_layers(p->incoming, &used);
    json_array_foreach(docs, i, doc) json_array_foreach(json_object_get(doc, "layers"), k, layer)
        fm_strv_add(&used, json_string_value(layer));
    return fm_image_store_prune(p->images, &used, err);
}

int fm_lifecycle_prune_layers(struct fm_components *p, struct fm_error *err)
{
    pthread_mutex_lock(&p->images_lock);
    int rc = prune_layers(p, err);
    pthread_mutex_unlock(&p->images_lock);
    return rc;
}

/* --- list, show, log --- */

static json_t *strings(const struct fm_strv *v)
{
    json_t *list = json_array();
    for (size_t i = 0; i < v->count; i++)
        json_array_append_new(list, json_string(v->items[i]));
    return list;
}

json_t *fm_lifecycle_describe(struct fm_components *p, const struct fm_container *c,
                              const char *status, json_int_t pid)
{
    char created[32];
    const char *network = c->network ? c->network : FM_NETWORK_DEFAULT;
    return json_pack(
        "{s:s, s:s, s:b, s:s, s:I, s:s?, s:s?, s:s?, s:s?, s:s?, s:o, s:o, s:o, s:s, s:s}", "name",
        c->name, "runtime", c->runtime ? c->runtime : p->runtime.ops->name, "found", (int)c->found,
        "state", status, "pid", pid, "image", c->image, "network", c->ip ? network : NULL, "ip",
        c->ip, "ip6", c->ip6, "mac", c->mac, "publish", strings(&c->publish), "command",
        strings(&c->command), "labels", c->labels ? json_incref(c->labels) : json_object(),
        "created", fm_format_time(c->created_us, created, sizeof(created)), "host", p->host);
}

void fm_lifecycle_add_strings(struct fm_strv *target, const json_t *list)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) if (json_is_string(item))
        fm_strv_add(target, json_string_value(item));
}

/* The runtime's entry for a name in its own list. */
static const json_t *running_entry(const json_t *list, const char *name)
{
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry) if (fm_streq(json_string_value(json_object_get(entry, "id")),
                                                    name)) return entry;
    return NULL;
}

static json_t *describe_found(struct fm_components *p, const json_t *entry)
{
    return json_pack("{s:O, s:s, s:b, s:O, s:O, s:[], s:{}, s:s}", "name",
                     json_object_get(entry, "id"), "runtime", p->runtime.ops->name, "found", 1,
                     "state", json_object_get(entry, "status"), "pid",
                     json_object_get(entry, "pid"), "command", "labels", "host", p->host);
}

json_t *fm_lifecycle_list(struct fm_components *p, struct fm_error *err)
{
    json_auto_t *docs = p->store.ops->list(p->store.ctx, "container", err);
    json_auto_t *running = NULL;
    if (!docs || p->runtime.ops->list(p->runtime.ctx, &running, err) < 0)
        return NULL;
    json_t *list = json_array(), *doc;
    size_t i;
    json_array_foreach(docs, i, doc)
    {
        fm_autocontainer struct fm_container *c = fm_container_from_json(doc, NULL);
        const json_t *entry = c ? running_entry(running, c->name) : NULL;
        if (!c || (c->found && !entry))
            continue;
        const char *status =
            entry ? json_string_value(json_object_get(entry, "status")) : "stopped";
        json_array_append_new(
            list,
            fm_lifecycle_describe(p, c, status, json_integer_value(json_object_get(entry, "pid"))));
    }
    json_array_foreach(running, i, doc)
    {
        const char *id = json_string_value(json_object_get(doc, "id"));
        json_auto_t *known = id ? p->store.ops->get(p->store.ctx, "container", id, NULL) : NULL;
        if (id && !known)
            json_array_append_new(list, describe_found(p, doc));
    }
    return list;
}

json_t *fm_lifecycle_show(struct fm_components *p, const char *name, struct fm_error *err)
{
    fm_autocontainer struct fm_container *c = NULL;
    struct fm_endpoint endpoint;
    struct fm_runtime_state state;
    bool has_endpoint;
    if (fm_lifecycle_resolve(p, name, &c, &endpoint, &has_endpoint, &state, err) < 0)
        return NULL;
    return c ? fm_lifecycle_describe(p, c, state.status, state.init_pid) : NULL;
}

char *fm_lifecycle_log(struct fm_components *p, const char *name, struct fm_error *err)
{
    fm_autocontainer struct fm_container *c = fm_lifecycle_load(p, name, err);
    struct fm_bundle bundle;
    if (!c)
        return NULL;
    fm_bundle_paths(&p->bundles, name, &bundle);
    if (fm_file_exists(bundle.log))
        return fm_xstrdup(bundle.log);
    fm_error_set(err, FM_E_NOT_FOUND, "container '%s' has no log here%s", name,
                 c->found ? ": it was not started by FlexiMigrate" : "");
    return NULL;
}

/* --- exec, stop, remove --- */

static char *slurp(int fd)
{
    off_t size = lseek(fd, 0, SEEK_END);
    size_t len = size < 0 ? 0 : (size_t)size < MAX_EXEC_OUTPUT ? (size_t)size : MAX_EXEC_OUTPUT;
    char *text = fm_xcalloc(1, len + 1);
    ssize_t n = pread(fd, text, len, 0);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

static json_t *lossy_string(const char *text)
{
    json_t *s = json_string(text);
    return s ? s : json_string("(output is not UTF-8)");
}

json_t *fm_lifecycle_exec(struct fm_components *p, const char *name, const json_t *request,
                          struct fm_error *err)
{
    fm_cleanup(fm_strv_free) struct fm_strv argv = {0};
    fm_lifecycle_add_strings(&argv, json_object_get(request, "command"));
    if (!argv.count) {
        fm_error_set(err, FM_E_INVALID, "exec needs a command");
        return NULL;
    }
    json_auto_t *known = fm_lifecycle_show(p, name, err);
    if (!known)
        return NULL;
    fm_autoclose int out = memfd_create("stdout", MFD_CLOEXEC);
    fm_autoclose int errors = memfd_create("stderr", MFD_CLOEXEC);
    const int fds[3] = {-1, out, errors};
    int exit_code = 0;
    if (p->runtime.ops->exec(p->runtime.ctx, name, (const char *const *)argv.items, fds, 0,
                             &exit_code, err) < 0)
        return NULL;
    fm_autofree char *out_text = slurp(out);
    fm_autofree char *error_text = slurp(errors);
    return json_pack("{s:i, s:o, s:o}", "exit_code", exit_code, "stdout", lossy_string(out_text),
                     "stderr", lossy_string(error_text));
}

static bool is_stopped(struct fm_components *p, const char *name)
{
    struct fm_runtime_state state;
    return p->runtime.ops->state(p->runtime.ctx, name, &state, NULL) < 0 ||
           fm_streq(state.status, "stopped");
}

static bool wait_stopped(struct fm_components *p, const char *name, uint64_t timeout_ms)
{
    uint64_t deadline = fm_now_ms() + timeout_ms;
    while (!is_stopped(p, name)) {
        if (fm_now_ms() >= deadline)
            return false;
        poll(NULL, 0, 20);
    }
    return true;
}

int fm_lifecycle_stop(struct fm_components *p, const char *name, uint64_t timeout_ms,
                      struct fm_error *err)
{
    json_auto_t *known = fm_lifecycle_show(p, name, err);
    if (!known)
        return fm_error_result(err);
    if (is_stopped(p, name))
        return 0;
    int rc = p->runtime.ops->kill(p->runtime.ctx, name, SIGTERM, err);
    if (rc == 0 && wait_stopped(p, name, timeout_ms))
        return 0;
    rc = p->runtime.ops->kill(p->runtime.ctx, name, SIGKILL, err);
    if (rc == 0 && !wait_stopped(p, name, 10000))
        return fm_error_set(err, FM_E_TIMEOUT, "container '%s' does not stop", name);
    return rc;
}

int fm_lifecycle_remove(struct fm_components *p, const char *name, bool force, struct fm_error *err)
{
    fm_autocontainer struct fm_container *c = NULL;
    struct fm_endpoint endpoint;
    struct fm_runtime_state state;
    bool has_endpoint;
    int rc = fm_lifecycle_resolve(p, name, &c, &endpoint, &has_endpoint, &state, err);
    if (rc < 0 || !c)
        return rc;
    if (!force && !fm_streq(state.status, "stopped"))
        return fm_error_set(err, FM_E_REFUSED,
                            "container '%s' is %s: stop it first, or use --force", name,
                            state.status);
    rc = p->runtime.ops->remove(p->runtime.ctx, name, err);
    if (rc == 0 && has_endpoint && !c->found)
        rc = p->network.ops->unstage(p->network.ctx, &endpoint, err);
    struct fm_bundle bundle;
    fm_bundle_paths(&p->bundles, name, &bundle);
    if (rc == 0)
        rc = fm_bundle_remove(&bundle, err);
    if (rc == 0)
        rc = p->store.ops->remove(p->store.ctx, "container", name, err);
    if (rc == 0)
        fm_lease_release(p, c);
    if (rc == 0)
        fm_lifecycle_prune_layers(p, &(struct fm_error){0});
    return rc;
}
