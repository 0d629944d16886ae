#include "container/container.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "container/check.h"

#define MAX_ITEMS 4096
#define MAX_LAYERS 128
#define MAX_VOLUMES 64
#define MAX_LABELS 256
#define MAX_DEPENDS 16
#define MAX_NETWORK_NAME 31
#define MAX_PUBLISH 64
#define MAX_ITEM_BYTES (128u << 10) /* what execve takes as one argument */
#define MAX_ARG_BYTES (2u << 20)
#define MAX_NAME_BYTES 255
#define MAX_TARGET_BYTES 4096
#define MAX_HEALTH_MS 3600000

static void clear_health(struct fm_health *h)
{
    free(h->kind);
    free(h->target);
}

void fm_container_free(struct fm_container *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->volume_count; i++) {
        free(c->volumes[i].source);
        free(c->volumes[i].target);
    }
    free(c->volumes);
    clear_health(&c->health);
    fm_strv_free(&c->depends);
    fm_strv_free(&c->layers);
    fm_strv_free(&c->command);
    fm_strv_free(&c->env);
    fm_strv_free(&c->publish);
    free(c->name);
    free(c->runtime);
    free(c->image);
    free(c->cwd);
    free(c->user);
    free(c->network);
    free(c->ip);
    free(c->ip6);
    free(c->mac);
    free(c->gateway);
    free(c->gateway6);
    json_decref(c->labels);
    json_decref(c->config);
    free(c);
}

/* ---- To JSON ---- */

static void set_string(json_t *doc, const char *key, const char *value)
{
    json_object_set_new(doc, key, value ? json_string(value) : json_null());
}

static void set_list(json_t *doc, const char *key, const struct fm_strv *v)
{
    json_t *list = json_array();

    for (size_t i = 0; i < v->count; i++)
        json_array_append_new(list, json_string(v->items[i]));
    json_object_set_new(doc, key, list);
}

static json_t *volumes_to_json(const struct fm_container *c)
{
    json_t *list = json_array();

    for (size_t i = 0; i < c->volume_count; i++) {
        const struct fm_volume *v = &c->volumes[i];

        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:b, s:b}", "source", v->source, "target",
                                        v->target, "read_only", v->read_only, "shared", v->shared));
    }
    return list;
}

static json_t *health_to_json(const struct fm_health *h)
{
    if (!h->kind)
        return json_null();
    return json_pack("{s:s, s:s, s:i, s:I, s:I}", "kind", h->kind, "target", h->target, "attempts",
                     h->attempts, "interval_ms", (json_int_t)h->interval_ms, "timeout_ms",
                     (json_int_t)h->timeout_ms);
}

json_t *fm_container_to_json(const struct fm_container *c)
{
    json_t *doc = json_object();

    set_string(doc, "name", c->name);
    set_string(doc, "runtime", c->runtime);
    json_object_set_new(doc, "found", json_boolean(c->found));
    set_string(doc, "image", c->image);
    set_list(doc, "layers", &c->layers);
    set_list(doc, "command", &c->command);
    set_list(doc, "env", &c->env);
    set_string(doc, "cwd", c->cwd);
    set_string(doc, "user", c->user);
    json_object_set_new(doc, "memory_bytes", json_integer((json_int_t)c->memory_bytes));
    set_string(doc, "network", c->network ? c->network : "default");
    set_string(doc, "ip", c->ip);
    set_string(doc, "ip6", c->ip6);
    set_string(doc, "mac", c->mac);
    set_string(doc, "gateway", c->gateway);
    set_string(doc, "gateway6", c->gateway6);
    set_list(doc, "publish", &c->publish);
    json_object_set_new(doc, "volumes", volumes_to_json(c));
    json_object_set_new(doc, "health", health_to_json(&c->health));
    set_list(doc, "depends", &c->depends);
    json_object_set_new(doc, "labels", c->labels ? json_deep_copy(c->labels) : json_object());
    json_object_set_new(doc, "config", c->config ? json_deep_copy(c->config) : json_null());
    json_object_set_new(doc, "created_us", json_integer((json_int_t)c->created_us));
    return doc;
}

/* ---- From JSON ---- */

/* The reader of one record: the first error stays, later reads do nothing. */
struct reader {
    const json_t *doc;
    struct fm_error *err;
    int ret;
};

static void refuse(struct reader *r, const char *key, const char *expected)
{
    if (r->ret == 0)
        r->ret =
            fm_error_set(r->err, FM_E_INVALID, "container record: '%s' is not %s", key, expected);
}

/* NULL when it is absent, null, or of another type (which is refused). */
static const json_t *get(struct reader *r, const char *key, json_type type, const char *expected)
{
    const json_t *value = json_object_get(r->doc, key);

    if (!value || json_is_null(value) || r->ret < 0)
        return NULL;
    if (json_typeof(value) == type)
        return value;
    refuse(r, key, expected);
    return NULL;
}

static char *get_text(struct reader *r, const char *key, size_t max)
{
    const char *s = json_string_value(get(r, key, JSON_STRING, "a string"));

    if (s && !fm_is_text(s, max)) {
        refuse(r, key, "a short line of text");
        return NULL;
    }
    return fm_xstrdup(s);
}

static char *get_checked(struct reader *r, const char *key, bool (*check)(const char *),
                         const char *expected)
{
    fm_autofree char *s = get_text(r, key, MAX_TARGET_BYTES);

    if (s && !check(s)) {
        refuse(r, key, expected);
        return NULL;
    }
    return FM_MOVE(s);
}

static bool get_bool(struct reader *r, const char *key)
{
    const json_t *value = json_object_get(r->doc, key);

    if (value && !json_is_boolean(value) && !json_is_null(value))
        refuse(r, key, "true or false");
    return json_is_true(value);
}

static uint64_t get_number(struct reader *r, const char *key, uint64_t missing, uint64_t min,
                           uint64_t max)
{
    const json_t *value = get(r, key, JSON_INTEGER, "a whole number");
    json_int_t n = json_integer_value(value);

    if (!value)
        return missing;
    if (n >= 0 && (uint64_t)n >= min && (uint64_t)n <= max)
        return (uint64_t)n;
    refuse(r, key, "in its range");
    return missing;
}

static void get_list(struct reader *r, const char *key, size_t max_items,
                     bool (*check)(const char *), const char *expected, struct fm_strv *out)
{
    const json_t *list = get(r, key, JSON_ARRAY, "a list");
    size_t bytes = 0, i;
    json_t *item;

    if (json_array_size(list) > max_items) {
        refuse(r, key, "a list of bearable length");
        return;
    }
    json_array_foreach((json_t *)(uintptr_t)list, i, item)
    {
        const char *s = json_string_value(item);

        bytes += s ? strlen(s) + 1 : 0;
        if (!s || bytes > MAX_ARG_BYTES || (check && !check(s))) {
            refuse(r, key, expected);
            return;
        }
        fm_strv_add(out, s);
    }
}

static bool is_argument(const char *s)
{
    return strlen(s) < MAX_ITEM_BYTES;
}

static bool is_assignment(const char *s)
{
    return is_argument(s) && s[0] != '=' && strchr(s, '=');
}

static bool is_network(const char *s)
{
    return fm_is_address(s, true);
}

static bool is_host(const char *s)
{
    return fm_is_address(s, false);
}

static bool is_network6(const char *s)
{
    return strchr(s, ':') && is_network(s);
}

static bool is_host6(const char *s)
{
    return strchr(s, ':') && is_host(s);
}

static bool is_user(const char *s)
{
    unsigned uid, gid;

    return fm_parse_user(s, &uid, &gid);
}

static bool is_plain_name(const char *s)
{
    return fm_check_name("name", s, NULL) == 0;
}

static bool is_network_name(const char *s)
{
    return is_plain_name(s) && strlen(s) <= MAX_NETWORK_NAME;
}

static void read_volume(struct reader *r, struct fm_volume *v)
{
    v->source = get_checked(r, "source", fm_is_clean_path, "a clean absolute path");
    v->target = get_checked(r, "target", fm_is_clean_path, "a clean absolute path");
    v->read_only = get_bool(r, "read_only");
    v->shared = get_bool(r, "shared");
    if (!v->source)
        refuse(r, "volumes", "complete: source is missing");
    if (!v->target || fm_streq(v->target, "/"))
        refuse(r, "volumes", "complete: a target other than / is missing");
}

static void read_volumes(struct reader *r, struct fm_container *c)
{
    const json_t *list = get(r, "volumes", JSON_ARRAY, "a list");
    size_t count = json_array_size(list);

    if (count > MAX_VOLUMES) {
        refuse(r, "volumes", "a list of at most 64");
        return;
    }
    c->volumes = fm_xcalloc(count ? count : 1, sizeof(*c->volumes));
    c->volume_count = count;
    for (size_t i = 0; i < count && r->ret == 0; i++) {
        struct reader one = {.doc = json_array_get(list, i), .err = r->err};

        if (json_is_object(one.doc))
            read_volume(&one, &c->volumes[i]);
        else
            refuse(&one, "volumes", "a list of objects");
        r->ret = one.ret;
    }
}

static void read_publish(struct reader *r, struct fm_container *c)
{
    get_list(r, "publish", MAX_PUBLISH, NULL, "a list of HOSTPORT:PORT[/tcp|/udp]", &c->publish);
    if (r->ret < 0 || fm_publish_check(&c->publish, r->err) == 0)
        return;
    fm_error_prefix(r->err, "container record");
    r->ret = fm_error_recode(r->err, FM_E_INVALID);
}

static bool is_health_kind(const char *s)
{
    return fm_streq(s, "http") || fm_streq(s, "tcp") || fm_streq(s, "command");
}

static void read_health(struct reader *r, struct fm_health *h)
{
    struct reader one = {.doc = get(r, "health", JSON_OBJECT, "an object"), .err = r->err};

    if (!one.doc)
        return;
    h->kind = get_checked(&one, "kind", is_health_kind, "http, tcp or command");
    h->target = get_text(&one, "target", MAX_TARGET_BYTES);
    h->attempts = (int)get_number(&one, "attempts", 3, 1, 1000);
    h->interval_ms = get_number(&one, "interval_ms", 1000, 1, MAX_HEALTH_MS);
    h->timeout_ms = get_number(&one, "timeout_ms", 2000, 1, MAX_HEALTH_MS);
    if (!h->kind || !h->target)
        refuse(&one, "health", "complete: it needs kind and target");
    r->ret = one.ret;
}

static json_t *read_labels(struct reader *r)
{
    const json_t *labels = get(r, "labels", JSON_OBJECT, "an object");
    const char *key;
    json_t *value;

    if (!labels)
        return json_object();
    if (json_object_size(labels) > MAX_LABELS)
        refuse(r, "labels", "an object of at most 256 labels");
    json_object_foreach((json_t *)(uintptr_t)labels, key, value)
    {
        if (!fm_is_text(key, MAX_NAME_BYTES) || !json_is_string(value) ||
            strlen(json_string_value(value)) > MAX_TARGET_BYTES)
            refuse(r, "labels", "an object of short strings");
    }
    return json_deep_copy(labels);
}

static void read_record(struct reader *r, struct fm_container *c)
{
    c->name = get_checked(r, "name", is_plain_name, "a container's name");
    c->runtime = get_checked(r, "runtime", is_plain_name, "a runtime's name");
    c->found = get_bool(r, "found");
    c->image = get_text(r, "image", MAX_NAME_BYTES);
    get_list(r, "layers", MAX_LAYERS, fm_is_digest, "a list of sha256 digests", &c->layers);
    get_list(r, "command", MAX_ITEMS, is_argument, "a list of arguments", &c->command);
    get_list(r, "env", MAX_ITEMS, is_assignment, "a list of NAME=value", &c->env);
    c->cwd = get_checked(r, "cwd", fm_is_clean_path, "a clean absolute path");
    c->user = get_checked(r, "user", is_user, "uid[:gid] in digits");
    c->memory_bytes = get_number(r, "memory_bytes", 0, 0, INT64_MAX);
    c->network = get_checked(r, "network", is_network_name, "a network's name");
    c->ip = get_checked(r, "ip", is_network, "an address with prefix length");
    c->ip6 = get_checked(r, "ip6", is_network6, "an IPv6 address with prefix length");
    c->mac = get_checked(r, "mac", fm_is_mac, "a unicast hardware address");
    c->gateway = get_checked(r, "gateway", is_host, "an address");
    c->gateway6 = get_checked(r, "gateway6", is_host6, "an IPv6 address");
    read_publish(r, c);
    read_volumes(r, c);
    read_health(r, &c->health);
    get_list(r, "depends", MAX_DEPENDS, fm_is_dependency, "a list of URL,TIME", &c->depends);
    c->labels = read_labels(r);
    c->config = json_deep_copy(get(r, "config", JSON_OBJECT, "an object"));
    c->created_us = get_number(r, "created_us", 0, 0, INT64_MAX);
    if (!c->name)
        refuse(r, "name", "there");
    if (!c->runtime)
        c->runtime = fm_xstrdup("runc");
    if (!c->network)
        c->network = fm_xstrdup("default");
}

struct fm_container *fm_container_from_json(const json_t *doc, struct fm_error *err)
{
    fm_autocontainer struct fm_container *c = fm_xcalloc(1, sizeof(*c));
    struct reader r = {.doc = doc, .err = err};

    if (!json_is_object(doc)) {
        fm_error_set(err, FM_E_INVALID, "container record: it is not an object");
        return NULL;
    }
    read_record(&r, c);
    return r.ret < 0 ? NULL : FM_MOVE(c);
}
