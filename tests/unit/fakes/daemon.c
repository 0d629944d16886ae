/* Daemons of the two hosts: what manager.c does, without its threads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "fakes/world.h"
#include "fakes/wrapped.h"
#include "migration/incoming_internal.h"
#include "migration/networks.h"

#define SETTLE_ROUNDS 6
#define IDLE_MAX 200

static char scratch[64];

/* ---- a daemon ---- */

static json_t *describe_self(void *ctx)
{
    struct host *h = ctx;

    return json_pack("{s:s}", "name", h->name);
}

static void enter_migration(struct fm_migration *m)
{
    for (int i = 0; i < WORLD_JOBS; i++) {
        if (world.migrations[i])
            continue;
        world.migrations[i] = m;
        return;
    }
    abort();
}

/* Its end, with what a dead daemon's migration still had in its hands. */
static void drop(struct fm_migration *m)
{
    if (!m)
        return;
    for (int i = 0; i < WORLD_JOBS; i++)
        if (world.migrations[i] == m)
            world.migrations[i] = NULL;
    if (m->link)
        m->parts->links.ops->close(m->link);
    free(m->dump);
    free(m->memory);
    free(m->hold);
    fm_migration_free(m);
}

static bool is_busy(const struct host *h, const char *container)
{
    for (int i = 0; i < WORLD_JOBS; i++)
        if (world.migrations[i] && world.migrations[i]->parts == &h->parts &&
            fm_streq(world.migrations[i]->options.container, container))
            return true;
    return false;
}

static void close_row(struct fm_migration *m, struct fm_error *err)
{
    fm_error_set(err, FM_E_EXISTS, "container '%s' is being migrated already",
                 m->options.container);
    m->reason = *err;
    fm_migration_to(m, FM_STATE_PENDING, false, FM_MIGRATION_MANAGER, "Requested.");
    fm_migration_to(m, FM_STATE_FAILED, true, FM_MIGRATION_MANAGER, "Not begun: %s.", err->text);
    fm_migration_free(m);
}

static int give_back(void *ctx, const json_t *request, const char *return_of, struct fm_error *err)
{
    struct host *h = ctx;
    struct fm_migration_options options;

    if (fm_migration_options_from_json(request, &options, err) < 0)
        return fm_error_result(err);
    struct fm_migration *m = fm_migration_new(&h->parts, &options, return_of, err);
    if (!m)
        return fm_error_result(err);
    if (is_busy(h, options.container)) {
        close_row(m, err);
        return fm_error_result(err);
    }
    enter_migration(m);
    int rc = fm_coordinator_run(m, err);
    drop(m);
    return rc;
}

/* What a daemon has in memory. */
static void boot(struct host *h)
{
    struct fm_components *p = &h->parts;

    p->slots = fm_slots_new(3);
    p->slots_in = fm_slots_new(3);
    p->reservations = fm_reservations_new(h->name, 0);
    h->incoming = p->incoming = fm_incoming_table_new(p);
    p->networks = fm_networks_new(&(struct fm_network_spec){
        .name = FM_NETWORK_DEFAULT, .subnet = "10.88.0.0/16", .gateway = "10.88.0.1", .vni = 4096});
    h->peers = (struct fm_peer_service){.parts = p,
                                        .incoming = h->incoming,
                                        .give_back = give_back,
                                        .self = describe_self,
                                        .ctx = h};
    h->incarnation++;
    h->up = true;
}

static void unboot(struct host *h)
{
    struct on_host on = world_enter_host(h);

    for (int i = 0; i < WORLD_ASKERS; i++) {
        if (h->askers[i])
            h->askers[i]->asking = false;
        h->askers[i] = NULL;
    }
    fm_incoming_table_free(h->incoming);
    h->incoming = h->parts.incoming = NULL;
    fm_networks_free(h->parts.networks);
    fm_reservations_free(h->parts.reservations);
    fm_slots_free(h->parts.slots);
    fm_slots_free(h->parts.slots_in);
    world_leave_host(&on);
}

/* Their TAPs go with the daemon's descriptors. */
static void forget_holds(struct host *h)
{
    for (int i = 0; i < WORLD_COPIES; i++)
        h->ports[i].hold = NULL;
}

/* Ends their endless waits. */
static void stop_migrations(const struct host *h)
{
    for (int i = 0; i < WORLD_JOBS; i++)
        if (world.migrations[i] && (!h || world.migrations[i]->parts == &h->parts))
            atomic_store(&world.migrations[i]->stopping, true);
}

void world_crash(struct host *h)
{
    if (!h->up)
        return;
    h->up = false;
    h->restartable = true;
    stop_migrations(h);
    forget_holds(h);
    if (!world.linger)
        jobs_end(h, NULL);
}

static void recover_source(struct host *h, const char *id)
{
    struct fm_error err = {0};
    struct fm_migration *m = fm_migration_load(&h->parts, id, &err);

    if (!m)
        return;
    enter_migration(m);
    fm_coordinator_recover(m, &err);
    drop(m);
}

static void recover(struct host *h, bool sources)
{
    json_auto_t *list = fm_journal_unfinished(h->parts.journal, NULL);
    json_t *entry;
    size_t i;

    json_array_foreach(list, i, entry)
    {
        if (world_is_dead())
            return;
        const char *id = world_field(entry, "id");
        bool source = fm_streq(world_field(entry, "role"), FM_ROLE_SOURCE);

        if (source && sources)
            recover_source(h, id);
        else if (!source && !sources)
            fm_incoming_recover(h->incoming, id, &(struct fm_error){0});
    }
}

/* In the order of fm_manager_open. */
static void come_up(struct host *h)
{
    boot(h);
    struct on_host on = world_enter_host(h);
    fm_networks_define(&h->parts);
    recover(h, false);
    recover(h, true);
    world_leave_host(&on);
}

void world_start(struct host *h)
{
    h->restartable = false;
    unboot(h);
    come_up(h);
}

void world_restart(struct host *h)
{
    h->restartable = false;
    unboot(h); /* while it is up: an orderly end */
    forget_holds(h);
    come_up(h);
}

/* ---- waiting ---- */

void world_ask(struct fm_incoming *in)
{
    struct host *h = in->parts == &HOST_A->parts ? HOST_A : HOST_B;
    struct on_host on = world_enter_host(h);
    bool more = fm_incoming_ask(in);

    world_leave_host(&on);
    if (more)
        return;
    in->asking = false;
    for (int i = 0; i < WORLD_ASKERS; i++)
        if (h->askers[i] == in)
            h->askers[i] = NULL;
}

static bool ask_all(void)
{
    bool asked = false;

    for (int i = 0; i < 2 * WORLD_ASKERS; i++) {
        struct host *h = &world.hosts[i / WORLD_ASKERS];
        struct fm_incoming *in = h->askers[i % WORLD_ASKERS];

        if (in && h->up && h->depth == 0) {
            world_ask(in);
            asked = true;
        }
    }
    return asked;
}

static bool start_dead(void)
{
    bool started = false;

    for (int i = 0; i < 2; i++) {
        struct host *h = &world.hosts[i];

        if (h->depth || !h->restartable)
            continue;
        if (h->up)
            world_restart(h);
        else
            world_start(h);
        started = true;
    }
    return started;
}

/* Somebody waits for a daemon that is dead and has its code below on the stack: it cannot be
 * started before that is unwound. So the one that waits is stopped, and started again later. */
static bool must_unwind(void)
{
    struct host *h = world_host();

    if (!h->up || other_host(h)->up || !other_host(h)->depth)
        return false;
    stop_migrations(h);
    h->restartable = true;
    return true;
}

bool world_idle(uint64_t ms)
{
    world.skipped_ms += ms;
    if (++world.idle > IDLE_MAX) {
        world_broken("somebody waits for ever");
        stop_migrations(NULL);
        return false;
    }
    if (world.skipped_ms >= world.down_until_ms && !must_unwind() && !start_dead())
        ask_all();
    return true;
}

void world_settle(void)
{
    for (int i = 0; i < SETTLE_ROUNDS; i++) {
        bool started = start_dead(), asked = ask_all();

        if (!started && !asked)
            return;
    }
}

int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout)
{
    if (count)
        return __real_poll(fds, count, timeout);
    world_idle((uint64_t)timeout);
    return 0;
}

uint64_t __wrap_fm_now_ms(void)
{
    return __real_fm_now_ms() + world.skipped_ms;
}

/* The only threads of the core are those that ask for a decision: world_settle does their work. */
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg)
{
    struct host *h = world_host();

    (void)attr;
    (void)fn;
    memset(thread, 0, sizeof(*thread));
    for (int i = 0; i < WORLD_ASKERS; i++) {
        if (h->askers[i])
            continue;
        h->askers[i] = arg;
        return 0;
    }
    abort();
}

int __wrap_pthread_detach(pthread_t thread)
{
    (void)thread;
    return 0;
}

/* ---- the world ---- */

static void enter_hosts(struct host *h)
{
    for (int i = 0; i < 2; i++) {
        struct fm_host host = {.wire_port = 7441, .api_port = 7440};

        snprintf(host.name, sizeof(host.name), "%s", world.hosts[i].name);
        snprintf(host.address, sizeof(host.address), "%s", world.hosts[i].address);
        json_auto_t *doc = fm_host_to_json(&host);
        h->store.ops->put(h->store.ctx, "host", host.name, doc, NULL);
    }
}

static void open_host(struct host *h, const char *name, const char *address)
{
    struct fm_components *p = &h->parts;
    struct fm_error err = {0};

    h->name = name;
    h->address = address;
    snprintf(h->state_dir, sizeof(h->state_dir), "%s/%s", scratch, name);
    snprintf(h->migrations_dir, sizeof(h->migrations_dir), "%s/migrations", h->state_dir);
    *p = (struct fm_components){
        .host = name,
        .advertise = address,
        .migrations_dir = h->migrations_dir,
        .journal = fm_journal_open(":memory:", &err),
        .store = {&fake_store_ops, h},
        .runtime = {&fake_runtime_ops, h},
        .network = {&fake_network_ops, h},
        .followers = fake_followers,
        .follower_count = WORLD_NOTICES,
        .state = {&fake_state_ops, h},
        .links = {&fake_link_ops, h},
        .bundles = {.state_dir = h->state_dir, .cgroup_parent = "/fleximigrate"},
        .events = fm_events_new(),
        .facts = fake_facts,
    };
    if (!p->journal || fm_store_sqlite_open(":memory:", &h->store, &err) < 0 ||
        __real_fm_mkdir_p(h->migrations_dir, 0700, &err) < 0) {
        fprintf(stderr, "world: %s\n", err.text);
        abort();
    }
    boot(h);
}

void world_add_container(struct host *h, const char *name)
{
    fm_autofree char *dir = fm_strf("%s/containers/%s/upper", h->state_dir, name);
    struct copy *copy = copy_of(h, name);
    fm_autofree char *ip = fm_strf("10.88.0.%d/16", (int)(copy - h->copies) + 4);
    fm_autofree char *mac = fm_strf("02:00:0a:58:00:0%d", (int)(copy - h->copies) + 4);
    json_auto_t *doc = json_pack(
        "{s:s, s:s, s:[s], s:[s], s:s, s:s, s:{s:s, s:s, s:i, s:i, s:i}}", "name", name, "runtime",
        "runc", "layers", WORLD_LAYER, "command", "redis-server", "ip", ip, "mac", mac, "health",
        "kind", "command", "target", "true", "attempts", 1, "interval_ms", 1, "timeout_ms", 100);
    struct fm_error err = {0};
    fm_autocontainer struct fm_container *c = fm_container_from_json(doc, &err);

    if (!c) {
        fprintf(stderr, "world: %s\n", err.text);
        abort();
    }
    json_auto_t *record = fm_container_to_json(c);
    h->store.ops->put(h->store.ctx, "container", name, record, NULL);
    __real_fm_mkdir_p(dir, 0755, NULL);
    h->has_layer = h->bundle_mounted = true;
    copy->exists = copy->alive = true;
    copy_of(other_host(h), name);
    struct port *port = port_of(h, name);
    port_of(other_host(h), name);
    port->staged = port->active = true;
    snprintf(port->ip, sizeof(port->ip), "%s", ip);
    world_check();
}

void world_open(const char *name)
{
    fm_log_init(FM_LOG_ERROR, FM_LOG_TEXT, "/dev/null", NULL);
    world = (struct world){0};
    /* A disk would cost more than all the rest. */
    snprintf(scratch, sizeof(scratch), "%s/fm-world.XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(scratch))
        abort();
    open_host(HOST_A, "host-a", "192.0.2.1");
    open_host(HOST_B, "host-b", "192.0.2.2");
    enter_hosts(HOST_A);
    enter_hosts(HOST_B);
    world_add_container(HOST_A, name);
    for (size_t i = 0; i < WORLD_NOTICES; i++)
        world.notices[i] =
            (struct notice){.name = fake_followers[i].name, .at = "host-a", .ip = WORLD_ADDRESS};
}

static void close_host(struct host *h)
{
    h->up = false; /* what it still says is not heard */
    unboot(h);
    fm_events_free(h->parts.events);
    fm_store_sqlite_close(&h->store);
    fm_journal_close(h->parts.journal);
}

void world_close(void)
{
    close_host(HOST_A);
    close_host(HOST_B);
    __real_fm_remove_tree(scratch, NULL);
}

void world_set_strategy(const char *strategy)
{
    world.strategy = strategy;
    for (int i = 0; i < 2; i++)
        world.hosts[i].parts.memory = strategy
                                          ? (struct fm_memory){&fake_memory_ops, &world.hosts[i]}
                                          : (struct fm_memory){0};
}

int world_migrate(struct host *from, const char *name, char *id, struct fm_error *err)
{
    struct fm_migration_options options;
    json_auto_t *doc =
        json_pack("{s:s, s:s, s:s}", "container", name, "destination", other_host(from)->name,
                  "strategy", world.strategy ? world.strategy : "auto");

    *id = '\0';
    if (world.new_address)
        json_object_set_new(doc, "new_address", json_string(world.new_address));
    if (world.new_network)
        json_object_set_new(doc, "new_network", json_string(world.new_network));
    if (fm_migration_options_from_json(doc, &options, err) < 0)
        return fm_error_result(err);
    struct on_host on = world_enter_host(from);
    struct fm_migration *m = fm_migration_new(&from->parts, &options, NULL, err);
    int rc = fm_error_result(err);
    if (m) {
        snprintf(id, 16, "%s", m->id);
        enter_migration(m);
        world.running = m;
        rc = fm_coordinator_run(m, err);
        world.running = NULL;
        drop(m);
    }
    world_leave_host(&on);
    return rc;
}
