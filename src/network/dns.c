#include "network/dns.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "network/dns_exchange.h"
#include "network/dns_plan.h"
#include "network/dns_read.h"

#define MAX_SECRET 1024 /* characters */

struct dns_name {
    char *container;
    char name[FM_DNS_NAME_TEXT];
};

struct dns {
    struct fm_dns_server server;
    char zone[FM_DNS_NAME_TEXT];
    struct fm_strv reverse_zones;
    uint32_t low_ttl;
    struct dns_name *names;
    size_t name_count;
    pthread_mutex_t lock; /* guards what is below */
    pthread_cond_t freed;
    json_t *busy;    /* names that a step works on: those who share one take turns */
    json_t *lowered; /* {name: {migration: {type: TTL outside of the move}}} */
};

/* ---- configuration ---- */

static int take_server(struct dns *d, const struct fm_dns_config *config, struct fm_error *err)
{
    struct fm_ip ip;
    if (!config->server || !config->server[0])
        return fm_error_set(err, FM_E_INVALID,
                            "network.dns.server is missing: the address of the zone's primary "
                            "server");
    int rc = fm_ip_parse("network.dns.server", config->server, &ip, err);
    if (rc < 0)
        return rc;
    if (ip.with_prefix)
        return fm_error_set(err, FM_E_INVALID,
                            "network.dns.server '%s' is a network, not an address", config->server);
    uint16_t port = config->port ? config->port : FM_DNS_PORT;
    char text[FM_IP_TEXT];
    d->server.address_len = fm_ip_sockaddr(&ip, port, &d->server.address);
    snprintf(d->server.text, sizeof(d->server.text), "%s port %u", fm_ip_format(&ip, text), port);
    return 0;
}

static int take_zones(struct dns *d, const struct fm_dns_config *config, struct fm_error *err)
{
    int rc = fm_dns_name_parse("network.dns.zone", config->zone ? config->zone : "", d->zone, err);
    for (size_t i = 0; rc == 0 && config->reverse_zones && config->reverse_zones[i]; i++) {
        char zone[FM_DNS_NAME_TEXT];
        rc = fm_dns_name_parse("network.dns.reverse_zones", config->reverse_zones[i], zone, err);
        if (rc < 0)
            return rc;
        if (!fm_dns_name_in_zone(zone, "in-addr.arpa.") && !fm_dns_name_in_zone(zone, "ip6.arpa."))
            return fm_error_set(err, FM_E_INVALID,
                                "network.dns.reverse_zones: '%s' is no reverse zone, which end in "
                                "in-addr.arpa or ip6.arpa",
                                config->reverse_zones[i]);
        fm_strv_add(&d->reverse_zones, zone);
    }
    return rc;
}

static bool is_base64(const char *text)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t len = strlen(text), plain = strspn(text, alphabet);
    size_t padding = strspn(text + plain, "=");
    return plain > 0 && len % 4 == 0 && padding <= 2 && plain + padding == len;
}

static int read_secret(const char *path, char **secret, struct fm_error *err)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return fm_error_errno(err, errno, "network.dns.secret_file %s", path);
    if (st.st_mode & 077)
        return fm_error_set(err, FM_E_INVALID,
                            "network.dns.secret_file %s can be read by others: chmod 600 %s", path,
                            path);
    fm_autofree char *text = NULL;
    size_t len = 0;
    int rc = fm_file_read(path, MAX_SECRET, &text, &len, err);
    if (rc < 0)
        return fm_error_prefix(err, "network.dns.secret_file");
    text[strcspn(text, "\n")] = '\0';
    *secret = fm_xstrdup(fm_trim(text));
    explicit_bzero(text, len);
    return 0;
}

static int take_key(struct dns *d, const struct fm_dns_config *config, struct fm_error *err)
{
    const char *algorithm = config->algorithm ? config->algorithm : FM_DNS_ALGORITHM;
    int rc = fm_dns_name_parse("network.dns.key", config->key_name ? config->key_name : "",
                               d->server.key_name, err);
    if (rc < 0)
        return rc;
    if (!fm_streq(algorithm, "hmac-sha256") && !fm_streq(algorithm, "hmac-sha512"))
        return fm_error_set(err, FM_E_INVALID,
                            "network.dns.algorithm '%s' is neither hmac-sha256 nor hmac-sha512",
                            algorithm);
    snprintf(d->server.algorithm, sizeof(d->server.algorithm), "%s.", algorithm);
    if (!config->secret == !config->secret_file)
        return fm_error_set(err, FM_E_INVALID,
                            "network.dns needs either secret or secret_file, in base64");
    if (config->secret)
        d->server.secret = fm_xstrdup(config->secret);
    else
        rc = read_secret(config->secret_file, &d->server.secret, err);
    if (rc == 0 && (strlen(d->server.secret) > MAX_SECRET || !is_base64(d->server.secret)))
        return fm_error_set(err, FM_E_INVALID,
                            "network.dns.%s is not base64: copy the key's secret from the server's "
                            "configuration as it is there",
                            config->secret ? "secret" : "secret_file");
    return rc;
}

/* A name of one label is in the zone; others say where they are. */
static int take_name(const struct dns *d, const struct fm_dns_name *from, struct dns_name *to,
                     struct fm_error *err)
{
    fm_autofree char *what = fm_strf("network.dns.names: that of '%s'", from->container);
    bool is_label = !strchr(from->name, '.');
    fm_autofree char *whole =
        is_label ? fm_strf("%s.%s", from->name, d->zone) : fm_xstrdup(from->name);
    int rc = fm_dns_name_parse(what, from->name[0] ? whole : "", to->name, err);
    if (rc < 0)
        return rc;
    if (!fm_dns_name_in_zone(to->name, d->zone))
        return fm_error_set(err, FM_E_INVALID, "%s, '%s', is not in the zone %s", what, from->name,
                            d->zone);
    to->container = fm_xstrdup(from->container);
    return 0;
}

static int take_names(struct dns *d, const struct fm_dns_config *config, struct fm_error *err)
{
    d->names = fm_xcalloc(config->name_count + 1, sizeof(*d->names));
    for (size_t i = 0; i < config->name_count; i++) {
        int rc = fm_check_name("container in network.dns.names", config->names[i].container, err);
        if (rc == 0)
            rc = take_name(d, &config->names[i], &d->names[i], err);
        if (rc < 0)
            return rc;
        d->name_count++;
    }
    return 0;
}

static void dns_free(struct dns *d)
{
    for (size_t i = 0; i < d->name_count; i++)
        free(d->names[i].container);
    free(d->names);
    fm_strv_free(&d->reverse_zones);
    if (d->server.secret)
        explicit_bzero(d->server.secret, strlen(d->server.secret));
    free(d->server.secret);
    json_decref(d->busy);
    json_decref(d->lowered);
    pthread_cond_destroy(&d->freed);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

/* ---- the follower ---- */

/* NULL: the container has a name which the DNS cannot have. */
static const char *name_of(const struct dns *d, const char *container, char text[FM_DNS_NAME_TEXT],
                           bool *is_configured)
{
    *is_configured = false;
    for (size_t i = 0; i < d->name_count; i++) {
        if (!fm_streq(d->names[i].container, container))
            continue;
        *is_configured = true;
        return d->names[i].name;
    }
    struct fm_error ignored = {0};
    fm_autofree char *whole = fm_strf("%s.%s", container, d->zone);
    return fm_dns_name_parse("name", whole, text, &ignored) < 0 ? NULL : text;
}

/* Waits until no other step works on the name: as long as that one may take. */
static void enter_name(struct dns *d, const char *name)
{
    pthread_mutex_lock(&d->lock);
    while (json_object_get(d->busy, name))
        pthread_cond_wait(&d->freed, &d->lock);
    json_object_set_new(d->busy, name, json_true());
    pthread_mutex_unlock(&d->lock);
}

static void leave_name(struct dns *d, const char *name)
{
    pthread_mutex_lock(&d->lock);
    json_object_del(d->busy, name);
    pthread_cond_broadcast(&d->freed);
    pthread_mutex_unlock(&d->lock);
}

/* Of the sets whose TTL a move lowers: who reads the name meanwhile is not to take that for the one
 * to go back to. */
static void remember_ttls(struct dns *d, const char *migration, const struct fm_dns_plan *plan)
{
    const char *name = plan->entries[0].name;
    json_t *ttls = json_object();
    for (size_t i = 0; i < plan->count; i++) {
        const struct fm_dns_entry *e = &plan->entries[i];
        if (fm_streq(e->name, name) && e->before.data.count && e->before.ttl > d->low_ttl)
            json_object_set_new(ttls, fm_dns_type_text(e->type), json_integer(e->before.ttl));
    }
    pthread_mutex_lock(&d->lock);
    if (!json_object_get(d->lowered, name))
        json_object_set_new(d->lowered, name, json_object());
    json_object_set_new(json_object_get(d->lowered, name), migration, ttls);
    pthread_mutex_unlock(&d->lock);
}

static void forget_ttls(struct dns *d, const char *migration, const struct fm_dns_plan *plan)
{
    const char *name = plan->entries[0].name;
    pthread_mutex_lock(&d->lock);
    json_t *moves = json_object_get(d->lowered, name);
    json_object_del(moves, migration);
    if (moves && json_object_size(moves) == 0)
        json_object_del(d->lowered, name);
    pthread_mutex_unlock(&d->lock);
}

static uint32_t ttl_outside(void *ctx, const char *name, enum fm_dns_type type, uint32_t now)
{
    struct dns *d = ctx;
    const char *migration;
    json_t *ttls;
    if (now > d->low_ttl)
        return now;
    pthread_mutex_lock(&d->lock);
    json_object_foreach(json_object_get(d->lowered, name), migration, ttls)
    {
        json_t *ttl = json_object_get(ttls, fm_dns_type_text(type));
        if (ttl)
            now = (uint32_t)json_integer_value(ttl);
    }
    pthread_mutex_unlock(&d->lock);
    return now;
}

/* The server as a step asks it. */
static struct fm_dns_server server_for(const struct dns *d, const struct fm_move *move)
{
    struct fm_dns_server server = d->server;
    server.cancel = move->cancel;
    return server;
}

static int dns_read(void *ctx, const struct fm_move *move, json_t **before, struct fm_error *err)
{
    struct dns *d = ctx;
    *before = NULL;
    bool is_configured = false;
    char text[FM_DNS_NAME_TEXT];
    const char *name = name_of(d, move->container, text, &is_configured);
    if (!name) {
        fm_info(FM_NETWORK_MANAGER, "Container '%s' has no name in the DNS.", move->container);
        return 0;
    }
    const struct fm_dns_server server = server_for(d, move);
    enter_name(d, name);
    struct fm_dns_reading reading = {
        .server = &server,
        .zone = d->zone,
        .reverse_zones = (const char *const *)d->reverse_zones.items,
        .name = name,
        .is_configured = is_configured,
        .ttl_outside = ttl_outside,
        .ttl_ctx = d,
        .deadline_ms = fm_now_ms() + d->server.timeout_ms,
    };
    struct fm_dns_plan plan = {0};
    int rc = fm_dns_read(&reading, move, &plan, err);
    leave_name(d, name);
    if (rc == 0 && plan.count)
        *before = fm_dns_plan_save(&plan);
    fm_dns_plan_clear(&plan);
    return rc;
}

/* The name is the one that the journal says, whatever the configuration says by now. */
static int run_step(void *ctx, enum fm_dns_step step, const struct fm_move *move,
                    const json_t *before, struct fm_error *err)
{
    struct dns *d = ctx;
    const struct fm_dns_server server = server_for(d, move);
    struct fm_dns_plan plan;
    int rc = fm_dns_plan_load(before, &plan, err);
    if (rc < 0 || plan.count == 0)
        return rc;
    const char *name = plan.entries[0].name;
    enter_name(d, name);
    if (step == FM_DNS_PREPARE || step == FM_DNS_SWITCH)
        remember_ttls(d, move->migration, &plan);
    rc =
        fm_dns_plan_step(&server, &plan, step, d->low_ttl, fm_now_ms() + d->server.timeout_ms, err);
    if (rc == 0 && (step == FM_DNS_FINISH || step == FM_DNS_UNDO))
        forget_ttls(d, move->migration, &plan);
    leave_name(d, name);
    fm_dns_plan_clear(&plan);
    return rc;
}

static int dns_prepare(void *ctx, const struct fm_move *move, const json_t *before,
                       struct fm_error *err)
{
    return run_step(ctx, FM_DNS_PREPARE, move, before, err);
}

static int dns_switch_over(void *ctx, const struct fm_move *move, const json_t *before,
                           struct fm_error *err)
{
    return run_step(ctx, FM_DNS_SWITCH, move, before, err);
}

static int dns_finish(void *ctx, const struct fm_move *move, const json_t *before,
                      struct fm_error *err)
{
    return run_step(ctx, FM_DNS_FINISH, move, before, err);
}

static int dns_undo(void *ctx, const struct fm_move *move, const json_t *before,
                    struct fm_error *err)
{
    return run_step(ctx, FM_DNS_UNDO, move, before, err);
}

static const struct fm_follower_ops dns_ops = {
    .kind = "dns",
    .guarded = true,
    .read = dns_read,
    .prepare = dns_prepare,
    .switch_over = dns_switch_over,
    .finish = dns_finish,
    .undo = dns_undo,
};

int fm_dns_open(const struct fm_dns_config *config, struct fm_follower *follower,
                struct fm_error *err)
{
    struct dns *d = fm_xcalloc(1, sizeof(*d));
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->freed, NULL);
    d->busy = json_object();
    d->lowered = json_object();
    d->server.timeout_ms = config->timeout_ms ? config->timeout_ms : FM_DNS_TIMEOUT_MS;
    d->server.retries = config->retries;
    d->low_ttl = config->low_ttl ? config->low_ttl : FM_DNS_LOW_TTL;
    int rc = take_server(d, config, err);
    if (rc == 0)
        rc = take_zones(d, config, err);
    if (rc == 0)
        rc = take_key(d, config, err);
    if (rc == 0)
        rc = take_names(d, config, err);
    if (rc < 0) {
        dns_free(d);
        return rc;
    }
    *follower = (struct fm_follower){.ops = &dns_ops, .ctx = d};
    return 0;
}

void fm_dns_close(struct fm_follower *follower)
{
    if (follower->ctx)
        dns_free(follower->ctx);
    *follower = (struct fm_follower){0};
}

int fm_dns_check(const struct fm_follower *follower, struct fm_error *err)
{
    const struct dns *d = follower->ctx;
    uint64_t deadline_ms = fm_now_ms() + d->server.timeout_ms;
    int rc = fm_dns_check_zone(&d->server, d->zone, deadline_ms, err);
    for (size_t i = 0; rc == 0 && i < d->reverse_zones.count; i++)
        rc = fm_dns_check_zone(&d->server, d->reverse_zones.items[i], deadline_ms, err);
    return rc;
}
