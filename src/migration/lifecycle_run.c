/* The start of a container: its record, its address, its bundle, its processes. */
#include "migration/lifecycle_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/leases.h"
#include "network/verifier.h"

static int check_dependencies(const json_t *doc, struct fm_error *err)
{
    const json_t *item;
    size_t i;
    json_array_foreach(json_object_get(doc, "depends"), i, item)
    {
        struct fm_dependency ignored;
        const char *text = json_string_value(item); /* else the record's reader complains */
        if (text && fm_dependency_parse(text, &ignored, err) < 0)
            return fm_error_result(err);
    }
    return 0;
}

static int parse_short_forms(json_t *doc, struct fm_error *err)
{
    json_t *health = json_object_get(doc, "health");
    if (json_is_string(health)) {
        struct fm_health h = {0};
        int rc = fm_health_parse(json_string_value(health), &h, err);
        if (rc < 0)
            return rc;
        json_object_set_new(doc, "health",
                            json_pack("{s:s, s:s, s:i, s:I, s:I}", "kind", h.kind, "target",
                                      h.target, "attempts", h.attempts, "interval_ms",
                                      (json_int_t)h.interval_ms, "timeout_ms",
                                      (json_int_t)h.timeout_ms));
        free(h.kind);
        free(h.target);
    }
    json_t *volumes = json_object_get(doc, "volumes"), *item;
    size_t i;
    json_array_foreach(volumes, i, item)
    {
        struct fm_volume v = {0};
        if (!json_is_string(item))
            continue;
        int rc = fm_volume_parse(json_string_value(item), &v, err);
        if (rc < 0)
            return rc;
        json_array_set_new(volumes, i,
                           json_pack("{s:s, s:s, s:b, s:b}", "source", v.source, "target", v.target,
                                     "read_only", (int)v.read_only, "shared", (int)v.shared));
        free(v.source);
        free(v.target);
    }
    return 0;
}

/* What the request leaves open comes from the image, as with every OCI engine. */
static void apply_image(struct fm_container *c, const struct fm_image *image)
{
    const json_t *config = image->config;
    free(c->image);
    c->image = fm_xstrdup(image->name);
    fm_strv_free(&c->layers);
    fm_strv_add_all(&c->layers, (const char *const *)image->layers.items);
    struct fm_strv command = {0}, env = {0};
    fm_lifecycle_add_strings(&command, json_object_get(config, "Entrypoint"));
    if (c->command.count)
        fm_strv_add_all(&command, (const char *const *)c->command.items);
    else
        fm_lifecycle_add_strings(&command, json_object_get(config, "Cmd"));
    fm_lifecycle_add_strings(&env, json_object_get(config, "Env"));
    if (c->env.count)
        fm_strv_add_all(&env, (const char *const *)c->env.items);
    fm_strv_free(&c->command);
    fm_strv_free(&c->env);
    c->command = command;
    c->env = env;
    const char *cwd = json_string_value(json_object_get(config, "WorkingDir"));
    const char *user = json_string_value(json_object_get(config, "User"));
    if (!c->cwd && cwd && *cwd)
        c->cwd = fm_xstrdup(cwd);
    if (!c->user && user && *user)
        c->user = fm_xstrdup(user);
}

/* Of the request alone. People leave the prefix length, or all of the address, to the network. */
static struct fm_container *read_request(struct fm_components *p, const json_t *request,
                                         struct fm_error *err)
{
    json_auto_t *doc = json_deep_copy(request);
    if (parse_short_forms(doc, err) < 0 || check_dependencies(doc, err) < 0)
        return NULL;
    fm_autofree char *ip = fm_xstrdup(json_string_value(json_object_get(doc, "ip")));
    fm_autofree char *ip6 = fm_xstrdup(json_string_value(json_object_get(doc, "ip6")));
    json_object_del(doc, "image");
    json_object_del(doc, "ip");
    json_object_del(doc, "ip6");
    json_object_set_new(doc, "runtime", json_string(p->runtime.ops->name));
    fm_autocontainer struct fm_container *c = fm_container_from_json(doc, err);
    if (!c)
        return NULL;
    if (!ip && (ip6 || c->publish.count || json_is_string(json_object_get(request, "network"))))
        ip = fm_xstrdup(FM_LEASE_AUTO);
    c->ip = FM_MOVE(ip);
    c->ip6 = FM_MOVE(ip6);
    return FM_MOVE(c);
}

static int use_image(struct fm_components *p, struct fm_container *c, const char *name,
                     struct fm_error *err)
{
    struct fm_image image = {0};
    int rc = fm_image_import(p->images, name, NULL, &image, err);
    if (rc < 0)
        return rc;
    apply_image(c, &image);
    fm_image_clear(&image);
    if (!c->command.count)
        return fm_error_set(err, FM_E_INVALID,
                            "container '%s' has no command: the image names none, give one after "
                            "--",
                            c->name);
    c->created_us = fm_realtime_us();
    return 0;
}

/* Undoes what run had made; the first error is the one that counts. */
static void undo_run(struct fm_components *p, const struct fm_container *c,
                     const struct fm_endpoint *endpoint, bool has_endpoint)
{
    struct fm_bundle bundle;
    fm_bundle_paths(&p->bundles, c->name, &bundle);
    p->runtime.ops->remove(p->runtime.ctx, c->name, NULL);
    if (has_endpoint)
        p->network.ops->unstage(p->network.ctx, endpoint, NULL);
    fm_bundle_remove(&bundle, NULL);
    p->store.ops->remove(p->store.ctx, "container", c->name, NULL);
    fm_lease_release(p, c);
}

static int start(struct fm_components *p, struct fm_container *c,
                 const struct fm_endpoint *endpoint, bool has_endpoint, struct fm_error *err)
{
    fm_cleanup(fm_strv_free) struct fm_strv lower = {0};
    struct fm_bundle bundle;
    fm_bundle_paths(&p->bundles, c->name, &bundle);
    int rc = fm_lifecycle_layer_dirs(p, c, &lower, err);
    if (rc == 0 && has_endpoint)
        rc = p->network.ops->stage(p->network.ctx, endpoint, true, err);
    if (rc == 0)
        rc = fm_bundle_create(&p->bundles, c, &lower, has_endpoint ? endpoint->netns : NULL, err);
    if (rc == 0)
        rc = fm_lifecycle_save(p, c, err); /* with the configuration that the bundle was given */
    struct fm_runtime_run run = {
        .id = c->name, .bundle = bundle.bundle, .log_path = bundle.log, .exit_path = bundle.exit};
    if (rc == 0)
        rc = p->runtime.ops->run(p->runtime.ctx, &run, err);
    if (rc == 0 && has_endpoint)
        rc = p->network.ops->activate(p->network.ctx, endpoint, err);
    return rc;
}

/* Neither registry nor runtime know the name; one that cannot be asked is no proof. */
static int check_unused(struct fm_components *p, const char *name, struct fm_error *err)
{
    struct fm_runtime_state state;
    struct fm_error in_registry = {0}, in_runtime = {0};
    fm_autocontainer struct fm_container *before = fm_lifecycle_load(p, name, &in_registry);
    if (before || p->runtime.ops->state(p->runtime.ctx, name, &state, &in_runtime) == 0)
        return fm_error_set(err, FM_E_EXISTS,
                            "container '%s' already exists: remove it or choose another name",
                            name);
    if (in_registry.code != FM_E_NOT_FOUND)
        return fm_error_set(err, in_registry.code, "%s", in_registry.text);
    if (in_runtime.code != FM_E_NOT_FOUND)
        return fm_error_set(err, in_runtime.code, "%s", in_runtime.text);
    return 0;
}

/* Leased before anything is made: other hosts are asked, which takes its time. */
static int take_address(struct fm_components *p, struct fm_container *c,
                        struct fm_endpoint *endpoint, struct fm_error *err)
{
    if (!c->ip)
        return 0;
    int rc = fm_lease_take(p, c, err);
    if (rc == 0 && (rc = fm_lifecycle_endpoint(p, c, endpoint, err)) < 0)
        fm_lease_release(p, c);
    return rc;
}

/* The image is imported and the record written before anybody may prune the layers. */
static int enter_container(struct fm_components *p, struct fm_container *c, const char *image,
                           struct fm_error *err)
{
    pthread_mutex_lock(&p->images_lock);
    int rc = use_image(p, c, image, err);
    if (rc == 0)
        rc = check_unused(p, c->name, err);
    if (rc == 0 && (rc = fm_lifecycle_save(p, c, err)) < 0)
        p->store.ops->remove(p->store.ctx, "container", c->name, &(struct fm_error){0});
    pthread_mutex_unlock(&p->images_lock);
    if (rc == 0)
        fm_lease_settle(p, c);
    else
        fm_lease_release(p, c);
    return rc;
}

/* A container that has its record and its address, and does not run yet. */
static struct fm_container *new_container(struct fm_components *p, const json_t *request,
                                          struct fm_endpoint *endpoint, struct fm_error *err)
{
    const char *image = json_string_value(json_object_get(request, "image"));
    fm_autocontainer struct fm_container *c = read_request(p, request, err);
    if (!c)
        return NULL;
    if (!image) {
        fm_error_set(err, FM_E_INVALID,
                     "a container needs an image: name a directory, an OCI layout or a tar");
        return NULL;
    }
    int rc = check_unused(p, c->name, err);
    if (rc == 0)
        rc = take_address(p, c, endpoint, err);
    if (rc == 0)
        rc = enter_container(p, c, image, err);
    return rc < 0 ? NULL : FM_MOVE(c);
}

json_t *fm_lifecycle_run(struct fm_components *p, const json_t *request, struct fm_error *err)
{
    struct fm_endpoint endpoint;
    fm_autocontainer struct fm_container *c = new_container(p, request, &endpoint, err);
    if (!c)
        return NULL;
    bool has_endpoint = c->ip != NULL;
    if (start(p, c, &endpoint, has_endpoint, err) < 0) {
        undo_run(p, c, &endpoint, has_endpoint);
        return NULL;
    }
    fm_info(FM_CONTAINER_MANAGER, "Container %s runs.", c->name);
    json_t *doc = fm_lifecycle_show(p, c->name, &(struct fm_error){0});
    return doc ? doc : fm_lifecycle_describe(p, c, "running", 0);
}
