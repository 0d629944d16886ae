#include "migration/manager_internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/coordinator.h"
#include "migration/hosts.h"
#include "migration/incoming.h"
#include "migration/lifecycle.h"
#include "migration/networks.h"
#include "migration/peer.h"
#include "migration/preflight.h"
#include "wire/connection.h"

#define LIST_LIMIT 200
#define HANDSHAKE_TIMEOUT_MS 5000
#define WATCH_INTERVAL_S 1

/* --- the migrations' threads --- */

static bool is_busy(struct fm_manager *m, const char *container)
{
    for (struct running *r = m->running; r; r = r->next)
        if (fm_streq(r->migration->options.container, container))
            return true;
    return false;
}

static void unlink_running(struct fm_manager *m, struct running *r)
{
    pthread_mutex_lock(&m->lock);
    struct running **at = &m->running;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

/* In recovery an older migration of the same container is settled first. Newer ones stand before
 * it in the list. False: the daemon is being stopped. */
static bool await_turn(struct running *r)
{
    struct fm_manager *m = r->manager;
    pthread_mutex_lock(&m->lock);
    for (struct running *older = r->next; older && !m->closing;) {
        bool same = fm_streq(older->migration->options.container, r->migration->options.container);
        if (same)
            pthread_cond_wait(&m->changed, &m->lock);
        older = same ? r->next : older->next;
    }
    bool closing = m->closing;
    pthread_mutex_unlock(&m->lock);
    return !closing;
}

static void *run_migration(void *arg)
{
    struct running *r = arg;
    struct fm_error err = {0};
    if (!r->recovering)
        fm_coordinator_run(r->migration, &err);
    else if (await_turn(r))
        fm_coordinator_recover(r->migration, &err);
    unlink_running(r->manager, r);
    fm_migration_free(r->migration);
    free(r);
    return NULL;
}

/* Enters a migration into the table; FM_E_EXISTS when its container is on the way already, unless
 * it is one that waits for its turn in recovery. Takes it over only on success. */
static int enter(struct fm_manager *m, struct fm_migration *migration, bool recovering,
                 struct running **out, struct fm_error *err)
{
    struct running *r = fm_xcalloc(1, sizeof(*r));
    *r = (struct running){.manager = m, .migration = migration, .recovering = recovering};
    pthread_mutex_lock(&m->lock);
    bool refused = m->closing || (!recovering && is_busy(m, migration->options.container));
    if (!refused) {
        r->next = m->running;
        m->running = r;
    }
    bool closing = m->closing;
    pthread_mutex_unlock(&m->lock);
    if (!refused) {
        *out = r;
        return 0;
    }
    free(r);
    return closing ? fm_error_set(err, FM_E_REFUSED, "the daemon is being stopped")
                   : fm_error_set(err, FM_E_EXISTS, "container '%s' is being migrated already",
                                  migration->options.container);
}

/* A migration that was written down but could not begin is over. */
static void close_row(struct fm_migration *migration, const struct fm_error *why)
{
    migration->reason = *why;
    fm_migration_to(migration, FM_STATE_PENDING, false, FM_MIGRATION_MANAGER, "Requested.");
    fm_migration_to(migration, FM_STATE_FAILED, true, FM_MIGRATION_MANAGER, "Not begun: %s.",
                    why->text);
    fm_migration_free(migration);
}

static int start_thread(struct running *r, struct fm_error *err)
{
    pthread_t thread;
    int rc = pthread_create(&thread, NULL, run_migration, r);
    if (rc == 0)
        return pthread_detach(thread);
    unlink_running(r->manager, r);
    fm_migration_free(r->migration);
    free(r);
    return fm_error_errno(err, rc, "cannot start a thread");
}

bool fm_manager_is_busy(struct fm_manager *m, const char *name, struct fm_error *err)
{
    pthread_mutex_lock(&m->lock);
    bool busy = is_busy(m, name);
    pthread_mutex_unlock(&m->lock);
    if (busy)
        fm_error_set(err, FM_E_REFUSED,
                     "container '%s' is being migrated: cancel the migration first", name);
    return busy;
}

static void *serve_networks(void *arg)
{
    fm_networks_serve(arg);
    return NULL;
}

/* Ends migrations whose time is up. */
static void *watch_deadlines(void *arg)
{
    struct fm_manager *m = arg;
    pthread_mutex_lock(&m->lock);
    while (!m->closing) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += WATCH_INTERVAL_S;
        pthread_cond_timedwait(&m->changed, &m->lock, &until);
        for (struct running *r = m->running; r; r = r->next)
            fm_migration_expire(r->migration);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

/* Brings a container back to the source of its incoming migration; the caller's thread is the
 * migration's. */
static int give_back(void *ctx, const json_t *request, const char *return_of, struct fm_error *err)
{
    struct fm_manager *m = ctx;
    struct fm_migration_options options;
    if (fm_migration_options_from_json(request, &options, err) < 0)
        return fm_error_result(err);
    struct fm_migration *migration = fm_migration_new(&m->parts, &options, return_of, err);
    struct running *r = NULL;
    int rc = migration ? enter(m, migration, false, &r, err) : fm_error_result(err);
    if (rc < 0 && migration)
        close_row(migration, err);
    if (rc < 0)
        return rc;
    rc = fm_coordinator_run(migration, err);
    unlink_running(m, r);
    free(r);
    fm_migration_free(migration);
    return rc;
}

/* --- serving other hosts --- */

static json_t *describe_self(void *ctx)
{
    struct fm_manager *m = ctx;
    json_t *doc = fm_hosts_self(&m->parts, NULL);
    return doc ? doc : json_object();
}

static void serve(int fd, void *ctx)
{
    struct fm_manager *m = ctx;
    struct fm_error err = {0};
    struct served s = {0};
    s.connection = fm_connection_accept(m->identity, fd, HANDSHAKE_TIMEOUT_MS, &err);
    if (!s.connection) {
        fm_warn(FM_MIGRATION_MANAGER, "A connection was refused: %s.", err.text);
        return;
    }
    pthread_mutex_lock(&m->lock);
    s.next = m->served;
    m->served = &s;
    bool closing = m->closing;
    pthread_mutex_unlock(&m->lock);
    if (!closing)
        fm_peer_serve(&m->peers, s.connection);
    pthread_mutex_lock(&m->lock);
    struct served **at = &m->served;
    while (*at != &s)
        at = &(*at)->next;
    *at = s.next;
    pthread_mutex_unlock(&m->lock);
    fm_connection_close(s.connection);
}

/* --- opening --- */

/* Where a program of the configuration is: a path as it stands, a name by PATH. NULL when there is
 * none. */
static char *find_program(const char *name)
{
    if (strchr(name, '/'))
        return fm_file_exists(name) ? fm_xstrdup(name) : NULL;
    const char *path = getenv("PATH");
    fm_autofree char *dirs =
        fm_xstrdup(path ? path : "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
    char *state = NULL;
    for (char *dir = strtok_r(dirs, ":", &state); dir; dir = strtok_r(NULL, ":", &state)) {
        fm_autofree char *candidate = fm_strf("%s/%s", dir, name);
        if (access(candidate, X_OK) == 0)
            return FM_MOVE(candidate);
    }
    return NULL;
}

/* The interposer stands in PATH under CRIU's name, in a directory of its own. */
static int install_interposer(struct fm_manager *m, char **dir, struct fm_error *err)
{
    const struct fm_manager_config *c = &m->config;
    fm_autofree char *real = fm_strf("%s/fleximigrate-criu", c->interposer_dir);
    *dir = fm_strf("%s/bin", c->run_dir);
    fm_autofree char *link = fm_strf("%s/criu", *dir);
    if (!fm_file_exists(real))
        return fm_error_set(err, FM_E_NOT_FOUND,
                            "no interposer at %s: set container.interposer_dir", real);
    int rc = fm_mkdir_p(*dir, 0755, err);
    if (rc < 0)
        return rc;
    m->criu = find_program(c->criu);
    if (!m->criu)
        return fm_error_set(err, FM_E_NOT_FOUND,
                            "CRIU ('%s') is not installed: install it, or set container.criu",
                            c->criu);
    setenv("FLEXIMIGRATE_CRIU", m->criu, 1);
    unlink(link);
    if (symlink(real, link) < 0)
        return fm_error_errno(err, errno, "cannot make %s", link);
    return 0;
}

static json_t *host_facts(void *ctx, struct fm_error *err)
{
    struct fm_manager *m = ctx;
    json_t *facts = fm_facts_host(m->criu, m->config.runc, m->config.state_dir, err);
    if (facts)
        json_object_set_new(facts, "name", json_string(m->config.host));
    if (facts && m->parts.memory.ops)
        json_object_set_new(facts, "state_engine", m->parts.memory.ops->facts(m->parts.memory.ctx));
    return facts;
}

static int open_stores(struct fm_manager *m, struct fm_error *err)
{
    const char *dir = m->config.state_dir;
    fm_autofree char *journal = fm_strf("%s/journal.db", dir);
    fm_autofree char *registry = fm_strf("%s/registry.db", dir);
    fm_autofree char *images = fm_strf("%s/images", dir);
    m->migrations_dir = fm_strf("%s/migrations", dir);
    int rc = fm_mkdir_p(m->migrations_dir, 0700, err);
    if (rc == 0)
        rc = fm_mkdir_p(images, 0755, err);
    if (rc == 0)
        rc = fm_mkdir_p(m->config.run_dir, 0755, err);
    if (rc == 0 && !(m->parts.journal = fm_journal_open(journal, err)))
        rc = fm_error_result(err);
    if (rc == 0)
        rc = fm_store_sqlite_open(registry, &m->parts.store, err);
    if (rc == 0 && !(m->parts.images = fm_image_store_open(images, err)))
        rc = fm_error_result(err);
    return rc;
}

static int open_runtime(struct fm_manager *m, struct fm_error *err)
{
    const struct fm_manager_config *c = &m->config;
    fm_autofree char *path = NULL;
    int rc = install_interposer(m, &path, err);
    struct fm_runtime_config runtime = {.runc = c->runc,
                                        .root = c->runc_root,
                                        .interposer_dir = path,
                                        .shim = c->shim,
                                        .cgroup_parent = c->cgroup_parent};
    if (rc == 0)
        rc = fm_runtime_runc_open(&runtime, &m->parts.runtime, err);
    if (rc == 0)
        fm_state_interface_open(&m->parts.runtime, &m->parts.state);
    return rc;
}

void fm_manager_connect_fabric(struct fm_manager *m)
{
    struct fm_components *p = &m->parts;
    json_auto_t *hosts = p->store.ops->list(p->store.ctx, "host", NULL);
    size_t i;
    json_t *doc;
    json_array_foreach(hosts, i, doc)
    {
        const char *name = json_string_value(json_object_get(doc, "name"));
        const char *address = json_string_value(json_object_get(doc, "address"));
        if (address && !fm_streq(name, p->host))
            p->network.ops->peer(p->network.ctx, address, true, NULL);
    }
    for (const char *const *peer = m->config.fabric_peers; peer && *peer; peer++)
        p->network.ops->peer(p->network.ctx, *peer, true, NULL);
}

static int open_network(struct fm_manager *m, struct fm_error *err)
{
    const struct fm_manager_config *c = &m->config;
    struct fm_fabric_config fabric = {.run_dir = c->run_dir,
                                      .bridge = c->bridge,
                                      .vxlan = c->vxlan,
                                      .vni = c->vni,
                                      .port = c->vxlan_port,
                                      .underlay = c->advertise,
                                      .subnet = c->subnet,
                                      .gateway = c->gateway,
                                      .mtu = c->mtu};
    struct fm_network_spec standard = {
        .name = FM_NETWORK_DEFAULT, .mode = FM_NETWORK_OVERLAY, .vni = c->vni, .mtu = c->mtu};
    snprintf(standard.subnet, sizeof(standard.subnet), "%s", c->subnet ? c->subnet : "");
    snprintf(standard.gateway, sizeof(standard.gateway), "%s", c->gateway ? c->gateway : "");
    m->parts.networks = fm_networks_new(&standard);
    int rc = fm_fabric_open(&fabric, &m->parts.network, err);
    if (rc < 0)
        return rc;
    fm_manager_connect_fabric(m);
    fm_networks_define(&m->parts);
    return 0;
}

static int open_wire(struct fm_manager *m, struct fm_error *err)
{
    const struct fm_manager_config *c = &m->config;
    struct fm_tls_paths paths = {.ca = c->pki_ca, .cert = c->pki_cert, .key = c->pki_key};
    m->identity = fm_tls_identity_load(&paths, err);
    if (!m->identity)
        return fm_error_result(err);
    if (!fm_streq(fm_tls_identity_name(m->identity), c->host))
        return fm_error_set(err, FM_E_INVALID, "certificate %s is for '%s', but this host is '%s'",
                            c->pki_cert, fm_tls_identity_name(m->identity), c->host);
    m->wire = (struct fm_link_wire){.identity = m->identity, .self = c->host};
    fm_links_wire_open(&m->wire, &m->parts.links);
    return fm_hosts_enter_self(&m->parts, c->wire_port, c->api_port, err);
}

static int open_memory(struct fm_manager *m, struct fm_error *err)
{
    m->pages_dir = fm_strf("%s/pages", m->config.run_dir);
    struct fm_memory_config config = {.wire = &m->wire,
                                      .pages_dir = m->pages_dir,
                                      .interposer_dir = m->config.interposer_dir,
                                      .pager = m->config.pager};
    return fm_memory_open(&config, &m->parts.memory, err);
}

/* Finishes or undoes what the journal knows. Sources go on in threads of their own; what came in is
 * settled here, before the first request. */
static int recover(struct fm_manager *m, struct fm_error *err)
{
    json_auto_t *list = fm_journal_unfinished(m->parts.journal, err);
    size_t i;
    json_t *entry;
    if (!list)
        return fm_error_result(err);
    json_array_foreach(list, i, entry)
    {
        struct fm_error e = {0};
        const char *id = json_string_value(json_object_get(entry, "id"));
        bool source = fm_streq(json_string_value(json_object_get(entry, "role")), FM_ROLE_SOURCE);
        struct fm_migration *migration = source ? fm_migration_load(&m->parts, id, &e) : NULL;
        struct running *r = NULL;
        if (migration && enter(m, migration, true, &r, &e) == 0)
            start_thread(r, &e);
        else if (!source)
            fm_incoming_recover(m->incoming, id, &e);
        if (e.code)
            fm_log(FM_LOG_ERROR, FM_MIGRATION_MANAGER, "Recovery of %s: %s.", id, e.text);
    }
    return 0;
}

static int listen_wire(struct fm_manager *m, struct fm_error *err)
{
    m->peers = (struct fm_peer_service){.parts = &m->parts,
                                        .incoming = m->incoming,
                                        .give_back = give_back,
                                        .self = describe_self,
                                        .ctx = m};
    m->listener = fm_listener_start(m->config.wire_address, m->config.wire_port, serve, m, err);
    return m->listener ? 0 : fm_error_result(err);
}

struct fm_manager *fm_manager_open(const struct fm_manager_config *config, struct fm_error *err)
{
    struct fm_manager *m = fm_xcalloc(1, sizeof(*m));
    m->config = *config;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->changed, NULL);
    struct fm_components *p = &m->parts;
    p->host = config->host;
    p->advertise = config->advertise;
    p->followers = config->followers;
    p->follower_count = config->follower_count;
    p->facts = host_facts;
    p->facts_ctx = m;
    p->bundles = (struct fm_bundle_config){.state_dir = config->state_dir,
                                           .cgroup_parent = config->cgroup_parent};
    p->events = fm_events_new();
    p->slots = fm_slots_new((unsigned int)config->max_concurrent);
    p->slots_in = fm_slots_new((unsigned int)config->max_concurrent);
    p->reservations = fm_reservations_new(config->host, config->memory_reserve);
    int rc = open_stores(m, err);
    p->migrations_dir = m->migrations_dir;
    if (rc == 0)
        rc = open_runtime(m, err);
    if (rc == 0)
        rc = open_network(m, err);
    if (rc == 0)
        rc = open_wire(m, err);
    if (rc == 0)
        rc = open_memory(m, err);
    m->incoming = p->incoming = fm_incoming_table_new(p);
    if (rc == 0)
        fm_image_store_sweep(p->images, NULL);
    if (rc == 0)
        rc = recover(m, err);
    if (rc == 0)
        rc = listen_wire(m, err);
    if (rc < 0) {
        fm_manager_close(m);
        return NULL;
    }
    json_decref(host_facts(m, NULL)); /* slow the first time: not in somebody's migration */
    m->watching = pthread_create(&m->watch, NULL, watch_deadlines, m) == 0;
    m->is_networking = pthread_create(&m->networking, NULL, serve_networks, p) == 0;
    m->ready = true;
    return m;
}

void fm_manager_close(struct fm_manager *m)
{
    if (!m)
        return;
    pthread_mutex_lock(&m->lock);
    m->closing = true;
    pthread_cond_broadcast(&m->changed);
    for (struct running *r = m->running; r; r = r->next)
        fm_migration_cancel(r->migration, true);
    while (m->running)
        pthread_cond_wait(&m->changed, &m->lock);
    for (struct served *s = m->served; s; s = s->next)
        fm_connection_shutdown(s->connection);
    pthread_mutex_unlock(&m->lock);
    if (m->watching)
        pthread_join(m->watch, NULL);
    if (m->is_networking) {
        fm_networks_stop(&m->parts);
        pthread_join(m->networking, NULL);
    }
    if (m->listener)
        fm_listener_stop(m->listener);
    struct fm_components *p = &m->parts;
    fm_incoming_table_free(m->incoming);
    if (p->runtime.ops)
        fm_runtime_runc_close(&p->runtime);
    fm_networks_free(p->networks);
    if (p->network.ops)
        fm_fabric_close(&p->network, false);
    if (p->memory.ops)
        fm_memory_close(&p->memory);
    fm_tls_identity_free(m->identity);
    fm_image_store_close(p->images);
    if (p->store.ops)
        fm_store_sqlite_close(&p->store);
    fm_journal_close(p->journal);
    fm_reservations_free(p->reservations);
    fm_slots_free(p->slots);
    fm_slots_free(p->slots_in);
    fm_events_free(p->events);
    free(m->criu);
    free(m->migrations_dir);
    free(m->pages_dir);
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

bool fm_manager_ready(struct fm_manager *m)
{
    return m->ready;
}

int fm_manager_running(struct fm_manager *m)
{
    int count = 0;
    pthread_mutex_lock(&m->lock);
    for (struct running *r = m->running; r; r = r->next)
        count++;
    pthread_mutex_unlock(&m->lock);
    return count + (int)fm_incoming_active(m->incoming);
}

/* --- migrations --- */

json_t *fm_manager_migrate(struct fm_manager *m, const json_t *request, struct fm_error *err)
{
    struct fm_migration_options options;
    if (fm_migration_options_from_json(request, &options, err) < 0)
        return NULL;
    if (options.dry_run)
        return fm_coordinator_check(&m->parts, options.container, options.destination, err);
    if (fm_manager_is_busy(m, options.container, err))
        return NULL;
    struct fm_migration *migration = fm_migration_new(&m->parts, &options, NULL, err);
    if (!migration)
        return NULL;
    json_t *doc = fm_migration_to_json(migration);
    struct running *r = NULL;
    int rc = enter(m, migration, false, &r, err);
    if (rc < 0)
        close_row(migration, err);
    else
        rc = start_thread(r, err);
    if (rc < 0) {
        json_decref(doc);
        return NULL;
    }
    return doc;
}

json_t *fm_manager_check(struct fm_manager *m, const char *container, const char *destination,
                         struct fm_error *err)
{
    return fm_coordinator_check(&m->parts, container, destination, err);
}

json_t *fm_manager_migration_list(struct fm_manager *m, struct fm_error *err)
{
    return fm_journal_list(m->parts.journal, LIST_LIMIT, err);
}

json_t *fm_manager_migration_show(struct fm_manager *m, const char *id, struct fm_error *err)
{
    return fm_journal_load(m->parts.journal, id, err);
}

/* Whoever writes the decision first wins, this or the migration: then the answer is true. */
int fm_manager_migration_cancel(struct fm_manager *m, const char *id, struct fm_error *err)
{
    struct fm_store *store = &m->parts.store;
    bool found = false, too_late = false;
    int rc = 0;
    pthread_mutex_lock(&m->lock);
    for (struct running *r = m->running; r; r = r->next)
        if (fm_streq(r->migration->id, id)) {
            found = true;
            rc = store->ops->decide(store->ctx, id, false, &too_late, err);
            if (rc == 0 && !too_late)
                fm_migration_cancel(r->migration, false);
        }
    pthread_mutex_unlock(&m->lock);
    if (rc < 0)
        return rc;
    if (too_late)
        return fm_error_set(err, FM_E_REFUSED,
                            "migration %s is committed: it cannot be cancelled any more", id);
    if (found)
        return 0;
    json_auto_t *doc = fm_journal_load(m->parts.journal, id, err);
    return doc ? fm_error_set(err, FM_E_REFUSED, "migration %s is not running here", id)
               : fm_error_result(err);
}
