/* Named networks on two hosts in memory: made, told, removed, verified, repaired, moved into. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "fakes/world.h"
#include "migration/leases.h"
#include "migration/lifecycle.h"
#include "migration/networks.h"
#include "migration/networks_internal.h"

static struct fm_error err;

static int open_world(void **state)
{
    (void)state;
    world_open("redis");
    err = (struct fm_error){0};
    world_exchange();
    return 0;
}

static int close_world(void **state)
{
    (void)state;
    world_close();
    return 0;
}

static json_t *create(struct host *h, const char *text)
{
    json_auto_t *request = json_loads(text, 0, NULL);
    struct on_host on = world_enter_host(h);

    assert_non_null(request);
    err = (struct fm_error){0};
    json_t *doc = fm_networks_create(&h->parts, request, &err);
    world_leave_host(&on);
    return doc;
}

static int remove_network(struct host *h, const char *name)
{
    struct on_host on = world_enter_host(h);

    err = (struct fm_error){0};
    int rc = fm_networks_remove(&h->parts, name, &err);
    world_leave_host(&on);
    return rc;
}

static json_t *run(struct host *h, const char *name, const char *network)
{
    json_auto_t *request = json_pack("{s:s, s:s, s:[s], s:s}", "name", name, "image", "/srv/nginx",
                                     "command", "nginx", "network", network);
    struct on_host on = world_enter_host(h);

    err = (struct fm_error){0};
    json_t *doc = fm_lifecycle_run(&h->parts, request, &err);
    world_leave_host(&on);
    return doc;
}

static json_t *verify(struct host *h)
{
    struct on_host on = world_enter_host(h);
    json_t *doc = fm_networks_verify(&h->parts, &err);

    world_leave_host(&on);
    return doc;
}

static json_t *repair(struct host *h)
{
    struct on_host on = world_enter_host(h);
    json_t *doc = fm_networks_repair(&h->parts, &err);

    world_leave_host(&on);
    return doc;
}

static void assert_verified(struct host *h)
{
    json_auto_t *doc = verify(h);
    const json_t *differences = json_object_get(doc, "differences");

    if (!json_is_true(json_object_get(doc, "ok")))
        fail_msg("%s: %s", h->name, json_string_value(json_array_get(differences, 0)));
}

static void assert_differs(struct host *h, const char *part)
{
    json_auto_t *doc = verify(h);
    size_t i;
    json_t *line;

    assert_false(json_is_true(json_object_get(doc, "ok")));
    json_array_foreach(json_object_get(doc, "differences"), i,
                       line) if (strstr(json_string_value(line), part)) return;
    fail_msg("no difference says '%s'", part);
}

#define assert_text(part)                                                                          \
    do {                                                                                           \
        if (!strstr(err.text, part))                                                               \
            fail_msg("'%s' does not say '%s'", err.text, part);                                    \
    } while (0)

#define SHOP "{\"name\":\"shop\",\"subnet\":\"10.89.0.0/24\",\"gateway\":\"10.89.0.1\"}"

/* ---- made and told ---- */

static void a_network_is_there_on_every_host(void **state)
{
    (void)state;
    json_auto_t *doc = create(HOST_A, SHOP);
    assert_non_null(doc);
    assert_string_equal(world_field(doc, "mode"), "overlay");
    assert_true(json_integer_value(json_object_get(doc, "vni")) > 0);
    assert_null(json_object_get(doc, "warnings"));
    for (int i = 0; i < 2; i++) {
        struct net *net = net_of(&world.hosts[i], "shop");
        assert_non_null(net);
        assert_string_equal(net->spec.subnet, "10.89.0.0/24");
        assert_int_equal(net->spec.vni, json_integer_value(json_object_get(doc, "vni")));
    }
    struct on_host on = world_enter_host(HOST_B);
    json_auto_t *list = fm_networks_list(&HOST_B->parts, &err);
    json_auto_t *standard = fm_networks_show(&HOST_B->parts, "default", &err);
    world_leave_host(&on);
    assert_int_equal(json_array_size(list), 2);
    assert_string_equal(world_field(json_array_get(list, 0), "name"), "default");
    assert_int_equal(json_integer_value(json_object_get(standard, "containers")), 1);
    assert_int_equal(json_array_size(json_object_get(standard, "leases")), 1);

    assert_int_equal(remove_network(HOST_B, "shop"), 0);
    assert_null(net_of(HOST_A, "shop"));
    assert_null(net_of(HOST_B, "shop"));
    assert_int_equal(remove_network(HOST_B, "shop"), -FM_E_NOT_FOUND);
    json_auto_t *again = create(HOST_B, SHOP);
    assert_non_null(again);
}

static void a_host_that_was_away_learns_of_it(void **state)
{
    (void)state;
    HOST_B->away = true;
    json_auto_t *shop = create(HOST_A, SHOP);
    json_auto_t *yard = create(HOST_B, "{\"name\":\"yard\",\"subnet\":\"10.90.0.0/24\"}");
    assert_non_null(shop);
    assert_non_null(yard);
    assert_int_not_equal(json_integer_value(json_object_get(shop, "vni")),
                         json_integer_value(json_object_get(yard, "vni")));
    assert_null(net_of(HOST_B, "shop"));
    HOST_B->away = false;
    world_exchange();
    assert_non_null(net_of(HOST_B, "shop"));
    assert_non_null(net_of(HOST_A, "yard"));
    assert_verified(HOST_A);
    assert_verified(HOST_B);
}

static void a_restart_takes_it_over(void **state)
{
    (void)state;
    json_decref(create(HOST_A, SHOP));
    HOST_A->nets[0] = (struct net){0};
    world_restart(HOST_A);
    struct on_host on = world_enter_host(HOST_A);
    fm_networks_define(&HOST_A->parts);
    world_leave_host(&on);
    assert_non_null(net_of(HOST_A, "shop"));
    assert_verified(HOST_A);
}

static void a_network_that_does_not_work_elsewhere_warns(void **state)
{
    (void)state;
    world.broken_on_b = "network.define";
    json_auto_t *doc = create(HOST_A, SHOP);
    assert_non_null(doc);
    const char *warning = json_string_value(json_array_get(json_object_get(doc, "warnings"), 0));
    assert_non_null(warning);
    assert_true(fm_starts_with(warning, "host-b: "));
    world.broken_on_b = NULL;
    assert_differs(HOST_B, "network 'shop' is not in the kernel");
    json_auto_t *repaired = repair(HOST_B);
    assert_true(json_is_true(json_object_get(repaired, "ok")));
    assert_verified(HOST_B);
}

/* ---- bad input makes nothing ---- */

static void bad_networks_are_refused(void **state)
{
    static const struct {
        const char *request, *says;
        enum fm_code code;
    } bad[] = {
        {"{}", "network", FM_E_INVALID},
        {"{\"name\":\"x\"}", "needs a subnet", FM_E_INVALID},
        {"{\"name\":\"a b\",\"subnet\":\"10.90.0.0/24\"}", "network", FM_E_INVALID},
        {"{\"name\":\"abcdefghijabcdefghijabcdefghijab\",\"subnet\":\"10.90.0.0/24\"}", "too long",
         FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0\"}", "no prefix length", FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.5/24\"}", "write 10.90.0.0/24", FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.4/31\"}", "too small", FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"0.0.0.0/0\"}", "no prefix length", FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"banana\"}", "not an IP address", FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":7}", "'subnet'", FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0/24\",\"gateway\":\"10.91.0.1\"}", "outside",
         FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0/24\",\"gateway\":\"10.90.0.255\"}", "reserved",
         FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0/24\",\"gateway6\":\"fd00::1\"}", "no subnet6",
         FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"fd00::/64\",\"subnet6\":\"fd01::/64\"}", "IPv4 one",
         FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0/24\",\"vni\":16777216}", "'vni'", FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0/24\",\"vni\":-1}", "'vni'", FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0/24\",\"vni\":\"7\"}", "'vni'", FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0/24\",\"mtu\":100}", "'mtu'", FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"fd00::/64\",\"mtu\":1000}", "IPv6", FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0/24\",\"mode\":\"host\"}", "mode 'host'",
         FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0/24\",\"parent\":\"eth1\"}", "no parent",
         FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0/24\",\"mode\":\"bridge\"}", "needs a parent",
         FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0/24\",\"mode\":\"macvlan\",\"parent\":\"../x\"}",
         "not an interface", FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0/24\",\"mode\":\"macvlan\",\"parent\":\"e\","
         "\"vni\":5}",
         "only an overlay", FM_E_INVALID},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0/24\",\"colour\":\"red\"}", "'colour'",
         FM_E_INVALID},
        {"{\"name\":\"verify\",\"subnet\":\"10.90.0.0/24\"}", "cannot be called", FM_E_INVALID},
        {"{\"name\":\"default\",\"subnet\":\"10.90.0.0/24\"}", "configuration", FM_E_EXISTS},
        {"{\"name\":\"x\",\"subnet\":\"10.88.5.0/24\"}", "overlaps with 10.88.0.0/16", FM_E_EXISTS},
        {"{\"name\":\"x\",\"subnet\":\"10.0.0.0/8\"}", "overlaps", FM_E_EXISTS},
        {"{\"name\":\"x\",\"subnet\":\"10.89.0.128/25\"}", "network 'shop'", FM_E_EXISTS},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0/24\",\"vni\":4096}", "VNI 4096 is in use",
         FM_E_EXISTS},
        {"{\"name\":\"shop\",\"subnet\":\"10.91.0.0/24\"}", "exists already", FM_E_EXISTS},
        {"{\"name\":\"x\",\"subnet\":\"10.90.0.0/24\",\"mode\":\"bridge\",\"parent\":\"missing\"}",
         "no interface 'missing'", FM_E_NOT_FOUND},
    };

    (void)state;
    json_decref(create(HOST_B, SHOP));
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        json_auto_t *doc = create(HOST_A, bad[i].request);
        if (doc)
            fail_msg("%s was taken", bad[i].request);
        if (!strstr(err.text, bad[i].says) || err.code != bad[i].code)
            fail_msg("%s: '%s' (%s)", bad[i].request, err.text, fm_code_name(err.code));
        assert_null(strchr(err.text, '\n'));
        assert_null(net_of(HOST_A, "x"));
        assert_null(net_of(HOST_B, "x"));
    }
    world_exchange();
    assert_verified(HOST_A);
}

static void a_creation_that_fails_leaves_nothing(void **state)
{
    bool done = false;

    for (unsigned int i = 0; !done; i++) {
        world.inject_at = world.calls + 1 + i / 2;
        world.injection = i % 2 ? FAIL_AFTER : FAIL_BEFORE;
        json_auto_t *doc = create(HOST_A, SHOP);
        done = !*world.hit;
        world.injection = INJECT_NOTHING;
        world_exchange();
        struct on_host on = world_enter_host(HOST_A);
        json_auto_t *stored = fm_replica_get(&HOST_A->parts, FM_KIND_NETWORK, "shop", NULL);
        world_leave_host(&on);
        /* Only the answer may be lost. */
        if (!stored && (doc || net_of(HOST_B, "shop")))
            fail_msg("failed at %s: told and not stored", world.hit);
        json_decref(repair(HOST_A));
        json_decref(repair(HOST_B));
        if (stored || !doc) {
            json_auto_t *there = verify(HOST_B);
            if (stored && !json_is_true(json_object_get(there, "ok")))
                fail_msg("failed at %s: host b differs", world.hit);
        }
        close_world(state);
        open_world(state);
    }
}

/* ---- in use ---- */

static void a_network_in_use_stays(void **state)
{
    (void)state;
    json_decref(create(HOST_A, SHOP));
    json_auto_t *doc = run(HOST_B, "nginx", "shop");
    assert_non_null(doc);
    assert_true(fm_starts_with(world_field(doc, "ip"), "10.89.0."));
    assert_int_equal(remove_network(HOST_A, "shop"), -FM_E_REFUSED); /* not exchanged before */
    assert_text("container 'nginx' on host-b");
    assert_int_equal(remove_network(HOST_A, "default"), -FM_E_REFUSED);
    assert_text("configuration");
    struct on_host on = world_enter_host(HOST_B);
    assert_int_equal(fm_lifecycle_remove(&HOST_B->parts, "nginx", true, &err), 0);
    world_leave_host(&on);
    assert_int_equal(remove_network(HOST_A, "shop"), 0);
}

static void a_removal_does_not_reach_containers_that_were_away(void **state)
{
    (void)state;
    json_decref(create(HOST_A, SHOP));
    HOST_B->away = true;
    json_decref(run(HOST_B, "nginx", "shop"));
    assert_int_equal(remove_network(HOST_A, "shop"), 0);
    HOST_B->away = false;
    world_exchange();
    assert_non_null(net_of(HOST_B, "shop"));
    assert_non_null(net_of(HOST_A, "shop")); /* it is back */
    assert_verified(HOST_A);
    assert_verified(HOST_B);
}

static void without_networks_there_is_only_the_default_one(void **state)
{
    struct fm_network_ops few = fake_network_ops;

    (void)state;
    few.define = NULL;
    few.undefine = NULL;
    few.publish = NULL;
    few.host_address = NULL;
    few.describe = NULL;
    HOST_A->parts.network.ops = HOST_B->parts.network.ops = &few;
    json_auto_t *doc = create(HOST_A, SHOP);
    assert_null(doc);
    assert_int_equal(err.code, FM_E_REFUSED);
    assert_text("supports only the network 'default'");
    json_auto_t *nginx = run(HOST_A, "nginx", "default");
    assert_non_null(nginx);
    world_exchange();
    json_auto_t *verdict = verify(HOST_A);
    assert_true(json_is_true(json_object_get(verdict, "ok")));
    assert_int_equal(json_array_size(json_object_get(verdict, "checked")), 1);
    json_auto_t *repaired = repair(HOST_A);
    assert_true(json_is_true(json_object_get(repaired, "ok")));
    HOST_A->parts.network.ops = HOST_B->parts.network.ops = &fake_network_ops;
}

/* ---- verify and repair ---- */

static void every_difference_is_found_and_repaired(void **state)
{
    (void)state;
    json_decref(create(HOST_A, SHOP));
    json_auto_t *nginx = run(HOST_B, "nginx", "shop");
    world_exchange();
    assert_verified(HOST_A);
    assert_verified(HOST_B);
    const char *mac = world_field(nginx, "mac");
    assert_string_equal(entry_of(HOST_A, "shop", mac), HOST_B->address);

    struct entry *entry = &HOST_A->entries[0];
    while (strcmp(entry->mac, mac) != 0)
        entry++;
    struct entry right = *entry;
    snprintf(entry->host, sizeof(entry->host), "192.0.2.77");
    assert_differs(HOST_A, "to 192.0.2.77, but container 'nginx' is on host-b");
    *entry = (struct entry){0};
    assert_differs(HOST_A, "has no entry for");
    *entry = right;
    struct entry *more = &HOST_A->entries[WORLD_ENTRIES - 1];
    *more = (struct entry){"shop", "02:00:00:00:00:99", "192.0.2.2"};
    assert_differs(HOST_A, "no lease has it");
    *entry = (struct entry){0};
    HOST_A->nets[0] = (struct net){0};
    assert_differs(HOST_A, "network 'shop' is not in the kernel");
    HOST_A->published_count = 1;
    HOST_A->published[0] =
        (struct fm_publication){.host_port = 9, .port = 9, .protocol = "tcp", .ip = "10.89.0.9"};
    assert_differs(HOST_A, "9/tcp to 10.89.0.9 port 9 is published, and no lease says so");
    json_auto_t *repaired = repair(HOST_A);
    assert_true(json_is_true(json_object_get(repaired, "ok")));
    assert_verified(HOST_A);

    port_of(HOST_B, "nginx")->active = false; /* ports are not repair's */
    assert_differs(HOST_B, "port of container 'nginx' is closed");
    json_decref(repair(HOST_B));
    assert_differs(HOST_B, "port of container 'nginx' is closed");
    port_of(HOST_B, "nginx")->staged = false;
    assert_differs(HOST_B, "container 'nginx' has no port in network 'shop'");
}

static void the_registry_is_verified_as_well(void **state)
{
    (void)state;
    world_add_container(HOST_A, "old");
    assert_differs(HOST_A, "container 'old' has no lease");
    json_decref(repair(HOST_A));
    assert_verified(HOST_A);
    HOST_A->store.ops->remove(HOST_A->store.ctx, "container", "old", &err);
    port_of(HOST_A, "old")->staged = false;
    assert_differs(HOST_A, "is leased to container 'old', which is not here");
    json_decref(repair(HOST_A));
    assert_verified(HOST_A);
}

/* Somebody has changed a field of a document by hand. */
static void damage(struct host *h, const char *kind, const char *key, const char *field,
                   json_t *value)
{
    struct on_host on = world_enter_host(h);
    json_auto_t *doc = h->store.ops->get(h->store.ctx, kind, key, &err);

    assert_non_null(doc);
    json_object_set_new(doc, field, value);
    assert_int_equal(h->store.ops->put(h->store.ctx, kind, key, doc, &err), 0);
    world_leave_host(&on);
}

static json_t *publish_nginx(void)
{
    json_auto_t *request = json_pack("{s:s, s:s, s:[s], s:s, s:s, s:[s]}", "name", "nginx", "image",
                                     "/srv/nginx", "command", "nginx", "ip", "10.88.0.9", "mac",
                                     "02:00:00:00:00:09", "publish", "8080:80");
    struct on_host on = world_enter_host(HOST_B);
    json_t *doc = fm_lifecycle_run(&HOST_B->parts, request, &err);

    world_leave_host(&on);
    assert_non_null(doc);
    world_exchange();
    world_exchange(); /* and the hosts' own addresses */
    return doc;
}

/* What the record says stands, on every host. */
static void a_lease_that_differs_from_its_container_is_found_and_repaired(void **state)
{
    static const struct {
        const char *field, *value, *says;
    } changes[] = {
        {"mac", "\"02:00:00:00:00:aa\"",
         "container 'nginx' has hardware address 02:00:00:00:00:09, the lease default/10.88.0.9 "
         "02:00:00:00:00:aa"},
        {"mac", "\"\"", "02:00:00:00:00:09, the lease default/10.88.0.9 nothing"},
        {"ip6", "\"fd00::9\"",
         "container 'nginx' has second address nothing, the lease default/10.88.0.9 fd00::9"},
        {"publish", "[]",
         "container 'nginx' publishes 8080:80/tcp, the lease default/10.88.0.9 does not"},
        {"publish", "[\"8080:80/tcp\",\"53:53/udp\"]",
         "the lease default/10.88.0.9 publishes 53:53/udp, container 'nginx' does not"},
        {"publish", "[\"8080:81/tcp\"]",
         "the lease default/10.88.0.9 publishes 8080:81/tcp, container 'nginx' does not"},
        {"host", "\"host-a\"",
         "the lease default/10.88.0.9 of container 'nginx', which is here, says that it is on "
         "host-a"},
        {"owner", "\"web\"", "default/10.88.0.9 of container 'nginx' is leased to 'web' on host-b"},
        {"removed", "true", "container 'nginx' has no lease of default/10.88.0.9"},
        {"mac", "7", "the lease default/10.88.0.9 of container 'nginx': 'mac' of a lease"},
    };

    (void)state;
    json_decref(publish_nginx());
    for (size_t i = 0; i < FM_COUNT(changes); i++) {
        assert_verified(HOST_A);
        assert_verified(HOST_B);
        damage(HOST_B, "lease", "default/10.88.0.9", changes[i].field,
               json_loads(changes[i].value, JSON_DECODE_ANY, NULL));
        assert_differs(HOST_B, changes[i].says);
        world.calls = 0; /* all this is no endless loop */
        json_auto_t *repaired = repair(HOST_B);
        if (!json_is_true(json_object_get(repaired, "ok")))
            fail_msg("%s is not repaired", changes[i].says);
        world_exchange();
    }
    assert_verified(HOST_A);
    assert_verified(HOST_B);
    assert_string_equal(entry_of(HOST_A, "default", "02:00:00:00:00:09"), HOST_B->address);
    assert_int_equal(HOST_A->published_count, 1);
}

/* The record stands here as well: it is the registry's word on this host. */
static void a_record_that_was_changed_is_leased_as_it_is(void **state)
{
    (void)state;
    json_decref(publish_nginx());
    damage(HOST_B, "container", "nginx", "ip", json_string("10.88.0.10/16"));
    assert_differs(HOST_B, "container 'nginx' has no lease of default/10.88.0.10");
    assert_differs(HOST_B,
                   "10.88.0.9 in network 'default' is leased to container 'nginx', which has "
                   "10.88.0.10 in network 'default'");
    damage(HOST_B, "container", "nginx", "ip", json_string("10.88.0.9/16"));
    assert_verified(HOST_B);
    damage(HOST_B, "container", "nginx", "network", json_string("shop"));
    assert_differs(HOST_B, "which has 10.88.0.9 in network 'shop'");
    damage(HOST_B, "container", "nginx", "network", json_null());
    assert_verified(HOST_B);

    damage(HOST_B, "container", "nginx", "publish", json_pack("[s]", "8081:80/tcp"));
    assert_differs(HOST_B, "container 'nginx' publishes 8081:80/tcp, the lease");
    assert_differs(HOST_B, "publishes 8080:80/tcp, container 'nginx' does not");
    json_auto_t *repaired = repair(HOST_B);
    assert_true(json_is_true(json_object_get(repaired, "ok")));
    world_exchange();
    assert_int_equal(HOST_A->published_count, 1);
    assert_int_equal(HOST_A->published[0].host_port, 8081);
}

/* A lease that somebody has written on host a. */
static void add_lease(const char *text)
{
    json_auto_t *doc = json_loads(text, 0, NULL);
    struct on_host on = world_enter_host(HOST_A);

    assert_non_null(doc);
    pthread_mutex_lock(&HOST_A->parts.networks->lock);
    assert_int_equal(fm_replica_write(&HOST_A->parts, FM_KIND_LEASE, json_incref(doc), &err), 0);
    pthread_mutex_unlock(&HOST_A->parts.networks->lock);
    world_leave_host(&on);
    world_exchange();
}

/* Which of the two is right the registry cannot say. */
static void what_two_have_is_found(void **state)
{
    (void)state;
    json_decref(publish_nginx());
    add_lease("{\"network\":\"default\",\"ip\":\"10.88.0.8\",\"mac\":\"02:00:00:00:00:09\","
              "\"owner\":\"web\",\"host\":\"host-c\",\"publish\":[\"8080:90\"]}");
    add_lease("{\"network\":\"default\",\"ip\":\"10.88.0.6\",\"ip6\":\"fd00::6\","
              "\"owner\":\"db\",\"host\":\"host-c\"}");
    add_lease("{\"network\":\"default\",\"ip\":\"fd00::6\",\"owner\":\"web\",\"host\":\"host-c\"}");
    for (int i = 0; i < 2; i++) {
        struct host *h = &world.hosts[i];
        assert_differs(h, "hardware address 02:00:00:00:00:09 in network 'default' is leased to");
        assert_differs(h, "address fd00::6 in network 'default' is leased to 'db' on host-c and to "
                          "'web' on host-c: run one of them with another");
        assert_differs(h, "port 8080/tcp is leased to 'web' on host-c and to 'nginx' on host-b");
        json_auto_t *repaired = repair(h);
        assert_false(json_is_true(json_object_get(repaired, "ok")));
    }
}

/* Between the lease and the record of a container that is being started. */
static void a_start_is_no_difference(void **state)
{
    struct fm_container c = {.name = (char *)"nginx", .ip = fm_xstrdup("10.88.0.9")};

    (void)state;
    struct on_host on = world_enter_host(HOST_A);
    assert_int_equal(fm_lease_take(&HOST_A->parts, &c, &err), 0);
    world_leave_host(&on);
    assert_verified(HOST_A);
    on = world_enter_host(HOST_A);
    fm_lease_settle(&HOST_A->parts, &c);
    world_leave_host(&on);
    assert_differs(HOST_A,
                   "10.88.0.9 in network 'default' is leased to container 'nginx', which is not "
                   "here");
    free(c.ip);
    free(c.mac);
    free(c.gateway);
}

/* ---- migrations ---- */

static void a_container_takes_its_network_along(void **state)
{
    char id[16];

    (void)state;
    HOST_B->away = true;
    json_decref(create(HOST_A, SHOP));
    json_decref(run(HOST_A, "nginx", "shop"));
    HOST_B->away = false;
    assert_null(net_of(HOST_B, "shop"));
    assert_int_equal(world_migrate(HOST_A, "nginx", id, &err), 0);
    assert_non_null(net_of(HOST_B, "shop"));
    assert_null(world_wrong("nginx", id, HOST_B));
    assert_verified(HOST_A);
    assert_verified(HOST_B);
}

static void a_network_that_clashes_is_refused_before_anything_is_done(void **state)
{
    char id[16];

    (void)state;
    HOST_B->away = true;
    json_decref(create(HOST_A, SHOP));
    json_decref(create(HOST_B, "{\"name\":\"yard\",\"subnet\":\"10.89.0.0/16\"}"));
    json_decref(run(HOST_A, "nginx", "shop"));
    HOST_B->away = false;
    assert_int_equal(world_migrate(HOST_A, "nginx", id, &err), -FM_E_REFUSED);
    assert_text(": subnet 10.89.0.0/24 overlaps with 10.89.0.0/16 of network 'yard'");
    assert_null(net_of(HOST_B, "shop"));
    assert_ptr_equal(world_where("nginx"), HOST_A);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, open_world, close_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_network_is_there_on_every_host),
        TEST(a_host_that_was_away_learns_of_it),
        TEST(a_restart_takes_it_over),
        TEST(a_network_that_does_not_work_elsewhere_warns),
        TEST(bad_networks_are_refused),
        TEST(a_creation_that_fails_leaves_nothing),
        TEST(a_network_in_use_stays),
        TEST(a_removal_does_not_reach_containers_that_were_away),
        TEST(without_networks_there_is_only_the_default_one),
        TEST(every_difference_is_found_and_repaired),
        TEST(the_registry_is_verified_as_well),
        TEST(a_lease_that_differs_from_its_container_is_found_and_repaired),
        TEST(a_record_that_was_changed_is_leased_as_it_is),
        TEST(what_two_have_is_found),
        TEST(a_start_is_no_difference),
        TEST(a_container_takes_its_network_along),
        TEST(a_network_that_clashes_is_refused_before_anything_is_done),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
