#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "fakes/sweep.h"
#include "migration/networks.h"

#define BAD_CASES_SHOWN 12

/* Something could not be undone, and the journal says so. */
static bool needs_attention(struct host *h)
{
    json_auto_t *docs = fm_journal_list(h->parts.journal, 100, NULL);
    json_t *doc;
    size_t i;

    json_array_foreach(docs, i, doc)
    {
        if (json_is_true(json_object_get(doc, "needs_attention")))
            return true;
    }
    return false;
}

/* A result that is told and what is there must agree. */
static const char *result_wrong(const char *id)
{
    json_auto_t *doc = world_document(HOST_A, id);
    struct host *at = world_where("redis");

    if (doc && at != (fm_streq(world_field(doc, "result"), "completed") ? HOST_B : HOST_A))
        return "the journal tells the wrong host";
    return NULL;
}

/* On its old host it has what it had, on the new one what was asked for; world_wrong has compared
 * lease, port and record. */
static const char *address_wrong(const struct sweep *sweep)
{
    struct host *at = world_where("redis");
    json_auto_t *lease = world_lease(at, "redis");
    bool moved = at == HOST_B && (sweep->new_address || sweep->new_network);
    bool chosen = moved && sweep->new_address && !fm_streq(sweep->new_address, "auto");
    const char *network = moved && sweep->new_network ? sweep->new_network : FM_NETWORK_DEFAULT;
    bool same = fm_streq(world_field(lease, "ip"), WORLD_ADDRESS);

    if (!fm_streq(world_field(lease, "network"), network))
        return "it is in the wrong network";
    if (chosen ? !fm_streq(world_field(lease, "ip"), sweep->new_address) : same == moved)
        return "it has the wrong address";
    return NULL;
}

static void arm_second(const struct sweep *sweep)
{
    if (!sweep->again_after || !*world.hit)
        return;
    world.inject_at = world.calls + sweep->again_after;
    world.injection = sweep->again;
}

static void make_network(const char *name)
{
    json_auto_t *request = json_pack("{s:s, s:s}", "name", name, "subnet", "10.99.0.0/24");
    struct fm_error err = {0};
    struct on_host on = world_enter_host(HOST_A);
    json_auto_t *made = fm_networks_create(&HOST_A->parts, request, &err);

    world_leave_host(&on);
    if (!made)
        fail_msg("%s", err.text);
}

static void publish_port(void)
{
    struct fm_store *store = &HOST_A->store;
    json_auto_t *record = store->ops->get(store->ctx, "container", "redis", NULL);

    json_object_set_new(record, "publish", json_pack("[s]", "6379:6379"));
    store->ops->put(store->ctx, "container", "redis", record, NULL);
}

static void open_world(const struct sweep *sweep)
{
    world_open("redis");
    world.linger = sweep->linger;
    world.unhealthy = sweep->unhealthy;
    world.dies = sweep->dies;
    world_set_strategy(sweep->strategy);
    world.new_address = sweep->new_address;
    world.new_network = sweep->new_network;
    if (sweep->new_network)
        make_network(sweep->new_network);
    if (sweep->publish)
        publish_port();
    world_exchange(); /* both know its lease */
    world.calls = 0;
}

/* Only what was announced for the next start may be left to it. */
static bool restart_is_due(const char *id)
{
    return !*id || needs_attention(HOST_A) || needs_attention(HOST_B) ||
           fm_starts_with(world.hit, "journal.");
}

const char *sweep_case(const struct sweep *sweep, unsigned int at, bool *done)
{
    static char text[640];
    struct fm_error err = {0};
    char id[16];

    open_world(sweep);
    world.inject_at = at;
    world.injection = sweep->injection;
    world_migrate(HOST_A, "redis", id, &err);
    *done = !*world.hit;
    arm_second(sweep);
    world_settle();
    world.injection = INJECT_NOTHING;
    world_settle();
    bool restarted = restart_is_due(id);
    if (restarted) {
        world_restart(HOST_B);
        world_restart(HOST_A);
        world_settle();
    }
    const char *w = world_wrong("redis", id, NULL);
    if (!w)
        w = result_wrong(id);
    if (!w)
        w = address_wrong(sweep);
    if (w) {
        fm_autofree char *path = world_path(HOST_A, id);
        snprintf(text, sizeof(text), "%s at call %u, last of them %s: %s [%s%s]",
                 injection_text(sweep->injection), at, world.hit, w, path,
                 restarted ? ", restarted" : "");
    }
    world_close();
    return w ? text : NULL;
}

static const char *awaited;
static unsigned int found_at;

static void find_call(const char *what)
{
    if (!found_at && fm_streq(what, awaited))
        found_at = world.calls + 1;
}

static unsigned int first_call(const struct sweep *sweep)
{
    struct fm_error err = {0};
    char id[16];

    if (!sweep->from)
        return 1;
    open_world(sweep);
    awaited = sweep->from;
    found_at = 0;
    world.at_call = find_call;
    world_migrate(HOST_A, "redis", id, &err);
    world_close();
    assert_true(found_at > 0);
    return found_at;
}

void sweep_all(const struct sweep *sweep)
{
    unsigned int bad = 0;
    bool done = false;

    for (unsigned int at = first_call(sweep) + sweep->offset; !done; at += sweep->stride + 1) {
        const char *w = sweep_case(sweep, at, &done);

        if (w && bad++ < BAD_CASES_SHOWN)
            print_error("%s\n", w);
    }
    if (bad)
        fail_msg("%u cases end badly", bad);
}
