/* Leases on two hosts in memory: claims, conflicts, choice, partitions, migrations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/cleanup.h"

#include "base/text.h"
#include "fakes/world.h"
#include "migration/hosts.h"
#include "migration/leases.h"
#include "migration/lifecycle.h"
#include "migration/networks.h"
#include "migration/networks_internal.h"

static struct fm_error err;

static int open_world(void **state)
{
    (void)state;
    world_open("redis"); /* on host a, with 10.88.0.4 */
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

/* Runs a container with more keys in its request (stolen). */
static json_t *run_with(struct host *h, const char *name, json_t *more)
{
    json_auto_t *request =
        json_pack("{s:s, s:s, s:[s]}", "name", name, "image", "/srv/nginx", "command", "nginx");
    json_auto_t *keys = more;
    struct on_host on = world_enter_host(h);

    json_object_update(request, keys);
    err = (struct fm_error){0};
    json_t *doc = fm_lifecycle_run(&h->parts, request, &err);
    world_leave_host(&on);
    return doc;
}

static json_t *run(struct host *h, const char *name, const char *ip)
{
    return run_with(h, name, json_pack("{s:s}", "ip", ip));
}

static int remove_container(struct host *h, const char *name)
{
    struct on_host on = world_enter_host(h);
    int rc = fm_lifecycle_remove(&h->parts, name, true, &err);

    world_leave_host(&on);
    return rc;
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

#define assert_text(part)                                                                          \
    do {                                                                                           \
        if (!strstr(err.text, part))                                                               \
            fail_msg("'%s' does not say '%s'", err.text, part);                                    \
    } while (0)

static void assert_lease(struct host *h, const char *owner, const char *ip, const char *host)
{
    json_auto_t *lease = world_lease(h, owner);

    if (!lease)
        fail_msg("%s knows no lease of %s", h->name, owner);
    assert_string_equal(world_field(lease, "ip"), ip);
    assert_string_equal(world_field(lease, "host"), host);
}

static void assert_no_lease(struct host *h, const char *owner)
{
    json_auto_t *lease = world_lease(h, owner);

    if (lease)
        fail_msg("%s still has a lease of %s: %s", h->name, owner, world_field(lease, "ip"));
}

/* ---- an address has one owner ---- */

static void an_address_belongs_to_one_container_of_all_hosts(void **state)
{
    (void)state;
    json_auto_t *doc = run(HOST_B, "nginx", "10.88.0.4");
    assert_null(doc);
    assert_int_equal(err.code, FM_E_REFUSED);
    assert_text("address 10.88.0.4 belongs to container 'redis' on host-a; choose another");
    assert_no_lease(HOST_B, "nginx");
    assert_false(port_of(HOST_B, "nginx")->staged);

    json_auto_t *other = run(HOST_B, "nginx", "10.88.0.5");
    assert_non_null(other);
    assert_lease(HOST_B, "nginx", "10.88.0.5", "host-b");
    assert_no_lease(HOST_A, "nginx"); /* it has been asked, and is told after it */
    world_exchange();
    assert_lease(HOST_A, "nginx", "10.88.0.5", "host-b");
    assert_string_equal(entry_of(HOST_A, "default", "02:fd:0a:58:00:05"), HOST_B->address);
}

static void an_address_goes_with_its_container(void **state)
{
    (void)state;
    json_decref(run(HOST_B, "nginx", "10.88.0.5"));
    world_exchange();
    assert_int_equal(remove_container(HOST_B, "nginx"), 0);
    assert_no_lease(HOST_B, "nginx");
    world_exchange();
    assert_no_lease(HOST_A, "nginx");
    assert_string_equal(entry_of(HOST_A, "default", "02:fd:0a:58:00:05"), "");
    json_auto_t *again = run(HOST_A, "web", "10.88.0.5");
    assert_non_null(again);
    world_exchange();
    assert_lease(HOST_B, "web", "10.88.0.5", "host-a");
}

static void a_claim_blocks_before_its_lease_is_known(void **state)
{
    (void)state;
    json_decref(run(HOST_B, "nginx", "10.88.0.5"));
    json_auto_t *doc = run(HOST_A, "web", "10.88.0.5"); /* not exchanged yet */
    assert_null(doc);
    assert_text("belongs to container 'nginx' on host-b");
}

static void a_container_without_a_lease_counts_as_well(void **state)
{
    (void)state;
    world_add_container(HOST_A, "old"); /* 10.88.0.5, and nobody has claimed it */
    json_auto_t *doc = run(HOST_B, "nginx", "10.88.0.5");
    assert_null(doc);
    assert_text("address 10.88.0.5 belongs to container 'old' on host-a");
    world_exchange();
    assert_lease(HOST_B, "old", "10.88.0.5", "host-a");
}

static void bad_addresses_are_refused(void **state)
{
    static const char *const bad[] = {"", "10.88.0", "10.88.0.500", "10.88.0.7/99", "x", "auto "};

    (void)state;
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        json_auto_t *doc = run(HOST_B, "nginx", bad[i]);
        assert_null(doc);
        assert_int_equal(err.code, FM_E_INVALID);
        assert_no_lease(HOST_B, "nginx");
    }
    json_auto_t *unknown = run_with(HOST_B, "nginx", json_pack("{s:s}", "network", "shop"));
    assert_null(unknown);
    assert_int_equal(err.code, FM_E_NOT_FOUND);
    assert_text("no network 'shop'");
    json_auto_t *second =
        run_with(HOST_B, "nginx", json_pack("{s:s, s:s}", "ip", "10.88.0.9", "ip6", "fd00::9"));
    assert_null(second);
    assert_text("has no second subnet");
}

/* ---- automatic addresses ---- */

static void hosts_choose_different_addresses(void **state)
{
    (void)state;
    HOST_A->away = true; /* not even a claim is heard */
    json_auto_t *a = run(HOST_A, "web", "auto");
    json_auto_t *b = run_with(HOST_B, "nginx", json_pack("{s:s}", "network", "default"));
    assert_non_null(a);
    assert_non_null(b);
    assert_string_not_equal(world_field(a, "ip"), world_field(b, "ip"));
    assert_true(fm_starts_with(world_field(a, "ip"), "10.88."));
    assert_true(fm_ends_with(world_field(a, "mac"), strrchr(world_field(a, "mac"), ':')));
}

static void a_taken_choice_is_made_again(void **state)
{
    (void)state;
    json_auto_t *first = run(HOST_B, "nginx", "auto");
    fm_autofree char *ip = fm_xstrdup(world_field(first, "ip"));
    ip[strcspn(ip, "/")] = '\0';
    assert_int_equal(remove_container(HOST_B, "nginx"), 0);
    world_exchange();
    json_auto_t *theirs = run(HOST_A, "web", ip); /* host b would choose this one */
    assert_non_null(theirs);
    HOST_B->parts.networks->members->met = true;
    json_auto_t *second = run(HOST_B, "nginx", "auto");
    assert_non_null(second);
    assert_string_not_equal(world_field(second, "ip"), world_field(theirs, "ip"));
}

static void a_full_network_says_so(void **state)
{
    (void)state;
    json_auto_t *net =
        create(HOST_A, "{\"name\":\"tiny\",\"subnet\":\"10.90.0.0/29\",\"gateway\":\"10.90.0.1\"}");
    assert_non_null(net);
    json_auto_t *one = run_with(HOST_A, "c1", json_pack("{s:s}", "network", "tiny"));
    assert_non_null(one);
    world_exchange();
    for (int i = 0; i < 4; i++) { /* of five */
        struct fm_lease lease = {.network = "tiny", .owner = "x", .host = "host-b"};
        fm_autofree char *owner = fm_strf("x%d", i);
        struct fm_choice choice = {
            .network = "tiny", .subnet = "10.90.0.0/29", .gateway = "10.90.0.1", .host = "host-b"};
        pthread_mutex_lock(&HOST_B->parts.networks->lock);
        struct on_host on = world_enter_host(HOST_B);
        json_auto_t *taken = fm_leases_taken(&HOST_B->parts, "tiny");
        choice.taken = taken;
        assert_int_equal(fm_lease_choose(&choice, lease.ip, &err), 0);
        snprintf(lease.owner, sizeof(lease.owner), "%s", owner);
        assert_int_equal(
            fm_replica_write(&HOST_B->parts, FM_KIND_LEASE, fm_lease_to_json(&lease), &err), 0);
        world_leave_host(&on);
        pthread_mutex_unlock(&HOST_B->parts.networks->lock);
    }
    json_auto_t *full = run_with(HOST_B, "nginx", json_pack("{s:s}", "network", "tiny"));
    assert_null(full);
    assert_int_equal(err.code, FM_E_NO_SPACE);
    assert_text("network 'tiny' has no free address left in 10.90.0.0/29");
    assert_no_lease(HOST_B, "nginx");
}

static void both_families_get_the_same_number(void **state)
{
    (void)state;
    json_auto_t *net = create(HOST_A, "{\"name\":\"dual\",\"subnet\":\"10.90.0.0/24\",\"subnet6\":"
                                      "\"fd00:90::/64\"}");
    assert_non_null(net);
    json_auto_t *doc =
        run_with(HOST_A, "c1", json_pack("{s:s, s:s}", "network", "dual", "ip", "10.90.0.7"));
    assert_non_null(doc);
    assert_string_equal(world_field(doc, "ip6"), "fd00:90::7/64");
    assert_string_equal(world_field(doc, "network"), "dual");
    json_auto_t *same = run_with(
        HOST_B, "c2",
        json_pack("{s:s, s:s, s:s}", "network", "dual", "ip", "10.90.0.8", "ip6", "fd00:90::7"));
    assert_null(same);
    assert_text("address fd00:90::7 belongs to container 'c1' on host-a");
    json_auto_t *chosen =
        run_with(HOST_B, "c2", json_pack("{s:s, s:s}", "network", "dual", "ip", "auto"));
    assert_non_null(chosen);
}

/* The choice alone, over whole subnets. */
static void every_address_is_chosen_once(void **state)
{
    static const char *const subnets[] = {"10.90.0.0/28", "fd00::/124"};

    (void)state;
    for (size_t i = 0; i < FM_COUNT(subnets); i++) {
        json_auto_t *taken = json_object();
        struct fm_choice choice = {.network = "n",
                                   .subnet = subnets[i],
                                   .gateway = i ? "fd00::3" : "10.90.0.3",
                                   .host = "host-a",
                                   .taken = taken};
        size_t usable = i ? 14 : 13; /* of 16: network, gateway, and broadcast in IPv4 */
        char ip[64];

        for (size_t k = 0; k < usable; k++) {
            assert_int_equal(fm_lease_choose(&choice, ip, &err), 0);
            assert_null(json_object_get(taken, ip));
            json_object_set_new(taken, ip, json_true());
        }
        assert_int_equal(fm_lease_choose(&choice, ip, &err), -FM_E_NO_SPACE);
        assert_null(json_object_get(taken, choice.gateway));
    }
    struct fm_choice top = {.network = "n",
                            .subnet = "10.90.0.0/16",
                            .gateway = "10.90.255.254",
                            .host = "a",
                            .from_top = true};
    char ip[64];
    assert_int_equal(fm_lease_choose(&top, ip, &err), 0);
    assert_string_equal(ip, "10.90.255.253");
}

/* ---- published ports ---- */

static void a_port_is_published_on_every_host(void **state)
{
    (void)state;
    json_auto_t *doc =
        run_with(HOST_B, "nginx", json_pack("{s:[s, s]}", "publish", "8080:80", "5353:53/udp"));
    assert_non_null(doc);
    assert_string_equal(json_string_value(json_array_get(json_object_get(doc, "publish"), 0)),
                        "8080:80/tcp");
    assert_int_equal(HOST_B->published_count, 2);
    world_exchange();
    assert_int_equal(HOST_A->published_count, 2);
    assert_string_equal(HOST_A->published[0].container, "nginx");
    assert_int_equal(HOST_A->published[0].host_port, 8080);
    assert_int_equal(HOST_A->published[0].port, 80);
    assert_string_equal(HOST_A->published[1].protocol, "udp");

    json_auto_t *twice = run_with(HOST_A, "web", json_pack("{s:[s]}", "publish", "8080:81"));
    assert_null(twice);
    assert_text("port 8080/tcp belongs to container 'nginx' on host-b");
    json_auto_t *udp = run_with(HOST_A, "web", json_pack("{s:[s]}", "publish", "8080:81/udp"));
    assert_non_null(udp);
    world_exchange();
    assert_int_equal(HOST_B->published_count, 3);
    assert_int_equal(remove_container(HOST_B, "nginx"), 0);
    world_exchange();
    assert_int_equal(HOST_A->published_count, 1);
}

static void hosts_have_addresses_where_ports_are_published(void **state)
{
    (void)state;
    assert_string_equal(HOST_A->own_address, "");
    json_decref(run_with(HOST_B, "nginx", json_pack("{s:[s]}", "publish", "8080:80")));
    world_exchange();
    assert_lease(HOST_A, "host:host-a", HOST_A->own_address, "host-a");
    assert_lease(HOST_A, "host:host-b", HOST_B->own_address, "host-b");
    assert_string_not_equal(HOST_A->own_address, HOST_B->own_address);
    assert_true(fm_starts_with(HOST_A->own_address, "10.88.255."));
    json_auto_t *doc = run(HOST_A, "web", HOST_B->own_address);
    assert_null(doc);
    assert_text("belongs to host host-b itself");
    world_start(HOST_A); /* and it has its own again */
    HOST_A->own_address[0] = '\0';
    struct on_host on = world_enter_host(HOST_A);
    fm_networks_define(&HOST_A->parts);
    world_leave_host(&on);
    assert_string_not_equal(HOST_A->own_address, "");
}

/* ---- hosts that do not hear each other ---- */

static void what_was_missed_is_heard_later(void **state)
{
    (void)state;
    HOST_B->away = true;
    json_decref(run(HOST_A, "web", "10.88.0.5"));
    json_decref(run(HOST_B, "nginx", "10.88.0.6"));
    world_exchange();
    assert_no_lease(HOST_B, "web");
    assert_no_lease(HOST_A, "nginx");
    HOST_B->away = false;
    world_exchange();
    assert_lease(HOST_B, "web", "10.88.0.5", "host-a");
    assert_lease(HOST_A, "nginx", "10.88.0.6", "host-b");
}

static void a_removal_that_was_missed_is_not_undone(void **state)
{
    (void)state;
    json_decref(run(HOST_A, "web", "10.88.0.5"));
    world_exchange();
    HOST_B->away = true;
    assert_int_equal(remove_container(HOST_A, "web"), 0);
    HOST_B->away = false;
    world_exchange();
    assert_no_lease(HOST_A, "web");
    assert_no_lease(HOST_B, "web");
    json_auto_t *doc = run(HOST_B, "nginx", "10.88.0.5");
    assert_non_null(doc);
}

/* The same address on both sides of a partition: both know the same one afterwards, and the other
 * is reported. */
static void a_clash_of_two_sides_is_reported(void **state)
{
    (void)state;
    HOST_B->away = true;
    json_decref(run(HOST_A, "web", "10.88.0.5"));
    json_decref(run(HOST_B, "nginx", "10.88.0.5"));
    HOST_B->away = false;
    world_exchange();
    struct on_host on = world_enter_host(HOST_A);
    json_auto_t *mine = fm_leases_list(&HOST_A->parts, "default", &err);
    json_auto_t *verdict = fm_networks_verify(&HOST_A->parts, &err);
    world_leave_host(&on);
    on = world_enter_host(HOST_B);
    json_auto_t *theirs = fm_leases_list(&HOST_B->parts, "default", &err);
    world_leave_host(&on);
    assert_true(json_equal(mine, theirs));
    assert_lease(HOST_A, "nginx", "10.88.0.5", "host-b");
    assert_false(json_is_true(json_object_get(verdict, "ok")));
    const char *line =
        json_string_value(json_array_get(json_object_get(verdict, "differences"), 0));
    assert_non_null(strstr(line, "is leased to 'nginx' on host-b"));
}

static void a_slow_clock_does_not_lose(void **state)
{
    (void)state;
    json_auto_t *ahead = world_lease(HOST_A, "redis");
    json_int_t future = json_integer_value(json_object_get(ahead, "updated_us")) + 3600000000;
    json_auto_t *doc = json_deep_copy(ahead);
    json_object_set_new(doc, "updated_us", json_integer(future));
    struct on_host on = world_enter_host(HOST_A);
    assert_int_equal(fm_replica_learn(&HOST_A->parts, FM_KIND_LEASE, doc, NULL, &err), 0);
    world_leave_host(&on);
    char id[16];
    assert_int_equal(world_migrate(HOST_A, "redis", id, &err), 0);
    world_exchange();
    assert_lease(HOST_A, "redis", "10.88.0.4", "host-b");
    assert_lease(HOST_B, "redis", "10.88.0.4", "host-b");
}

static void a_dead_host_gives_its_addresses_back(void **state)
{
    (void)state;
    json_decref(run(HOST_B, "nginx", "10.88.0.5"));
    world_exchange();
    struct on_host on = world_enter_host(HOST_A);
    assert_int_equal(fm_hosts_remove(&HOST_A->parts, "host-b", &err), 0); /* it lives */
    world_leave_host(&on);
    assert_lease(HOST_A, "nginx", "10.88.0.5", "host-b");
    json_auto_t *b = json_pack("{s:s, s:s, s:i, s:i}", "name", "host-b", "address", HOST_B->address,
                               "wire_port", 7441, "api_port", 7440);
    HOST_A->store.ops->put(HOST_A->store.ctx, "host", "host-b", b, &err);
    HOST_B->away = true;
    on = world_enter_host(HOST_A);
    assert_int_equal(fm_hosts_remove(&HOST_A->parts, "host-b", &err), 0);
    world_leave_host(&on);
    assert_no_lease(HOST_A, "nginx");

    HOST_A->store.ops->put(HOST_A->store.ctx, "host", "host-b", b, &err);
    HOST_B->away = false; /* it was not dead after all */
    world_exchange();
    world_exchange();
    assert_lease(HOST_A, "nginx", "10.88.0.5", "host-b");
    assert_lease(HOST_B, "nginx", "10.88.0.5", "host-b");
}

/* ---- with migrations ---- */

static void a_lease_moves_with_its_container(void **state)
{
    char id[16];

    (void)state;
    assert_lease(HOST_B, "redis", "10.88.0.4", "host-a");
    assert_int_equal(world_migrate(HOST_A, "redis", id, &err), 0);
    assert_lease(HOST_A, "redis", "10.88.0.4", "host-b"); /* without an exchange */
    assert_lease(HOST_B, "redis", "10.88.0.4", "host-b");
    assert_int_equal(world_migrate(HOST_B, "redis", id, &err), 0);
    assert_lease(HOST_A, "redis", "10.88.0.4", "host-a");
    assert_lease(HOST_B, "redis", "10.88.0.4", "host-a");
    assert_string_equal(entry_of(HOST_B, "default", "02:00:0a:58:00:04"), HOST_A->address);
    assert_string_equal(entry_of(HOST_A, "default", "02:00:0a:58:00:04"), "");
}

static void a_taken_address_does_not_come(void **state)
{
    char id[16];

    (void)state;
    HOST_A->away = true; /* host b has not heard of redis' address … */
    struct on_host on = world_enter_host(HOST_B);
    pthread_mutex_lock(&HOST_B->parts.networks->lock);
    fm_replica_remove(&HOST_B->parts, FM_KIND_LEASE, "default/10.88.0.4", &err);
    pthread_mutex_unlock(&HOST_B->parts.networks->lock);
    world_leave_host(&on);
    json_auto_t *doc = run(HOST_B, "nginx", "10.88.0.4"); /* … and gives it away */
    assert_non_null(doc);
    HOST_A->away = false;
    assert_int_equal(world_migrate(HOST_A, "redis", id, &err), -FM_E_REFUSED);
    assert_text("10.88.0.4");
    assert_ptr_equal(world_where("redis"), HOST_A);
}

/* ---- a failure at every call ---- */

static void a_run_that_fails_leases_nothing(void **state)
{
    bool done = false;

    for (unsigned int i = 0; !done; i++) {
        world.inject_at = world.calls + 1 + i / 2;
        world.injection = i % 2 ? FAIL_AFTER : FAIL_BEFORE;
        json_auto_t *doc = run_with(HOST_B, "nginx", json_pack("{s:[s]}", "publish", "80:80"));
        done = !*world.hit;
        world.injection = INJECT_NOTHING;
        world_exchange();
        for (int k = 0; k < 2; k++) {
            json_auto_t *lease = world_lease(&world.hosts[k], "nginx");
            if ((doc != NULL) != (lease != NULL))
                fail_msg("%s at %s: container %d, lease on %s %d", i % 2 ? "after" : "before",
                         world.hit, doc != NULL, world.hosts[k].name, lease != NULL);
            if (world.hosts[k].published_count != (doc ? 1 : 0))
                fail_msg("failed at %s: %zu ports", world.hit, world.hosts[k].published_count);
        }
        close_world(state);
        open_world(state);
    }
}

/* The daemon dies at every call; afterwards lease and container agree. */
static void a_death_leaves_no_lease_without_a_container(void **state)
{
    bool done = false;

    for (unsigned int i = 0; !done; i++) {
        world.inject_at = world.calls + 1 + i / 2;
        world.injection = i % 2 ? CRASH_AFTER : CRASH_BEFORE;
        json_decref(run(HOST_B, "nginx", "auto"));
        done = !*world.hit;
        world.injection = INJECT_NOTHING;
        world_settle();
        world_exchange();
        json_auto_t *record = HOST_B->store.ops->get(HOST_B->store.ctx, "container", "nginx", NULL);
        for (int k = 0; k < 2; k++) {
            json_auto_t *lease = world_lease(&world.hosts[k], "nginx");
            if ((record != NULL) != (lease != NULL))
                fail_msg("died at %s: record %d, lease on %s %d", world.hit, record != NULL,
                         world.hosts[k].name, lease != NULL);
        }
        close_world(state);
        open_world(state);
    }
}

/* ---- what other hosts say ---- */

static void foreign_leases_are_checked(void **state)
{
    static const char *const bad[] = {
        "{}",
        "[]",
        "{\"network\":\"default\",\"ip\":\"10.88.0.9\"}",
        "{\"ip\":\"10.88.0.9/16\"}",
        "{\"ip\":\"010.88.0.9\"}",
        "{\"ip\":\"fd00:0::9\"}",
        "{\"ip6\":\"10.88.0.9\"}",
        "{\"ip\":7}",
        "{\"owner\":\"../x\"}",
        "{\"owner\":\"host:\"}",
        "{\"owner\":null}",
        "{\"host\":\"a b\"}",
        "{\"mac\":\"zz:00:00:00:00:00\"}",
        "{\"network\":\"a-name-that-is-far-too-long-for-a-network\"}",
        "{\"publish\":{}}",
        "{\"publish\":[80]}",
        "{\"publish\":[\"80\"]}",
        "{\"updated_us\":0}",
        "{\"updated_us\":-5}",
        "{\"updated_us\":9223372036854775807}",
        "{\"updated_us\":\"now\"}",
        "{\"updated_by\":\"\"}",
        "{\"updated_by\":\"a\\nb\"}",
    };

    (void)state;
    struct on_host on = world_enter_host(HOST_A);
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        json_auto_t *doc =
            json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:[], s:I, s:s}", "network", "default", "ip",
                      "10.88.0.9", "ip6", "", "mac", "", "owner", "x", "host", "host-b", "publish",
                      "updated_us", (json_int_t)1000, "updated_by", "host-b");
        json_auto_t *more = json_loads(bad[i], 0, NULL);
        assert_non_null(more);
        if (i > 2)
            json_object_update(doc, more);
        err = (struct fm_error){0};
        if (fm_replica_learn(&HOST_A->parts, FM_KIND_LEASE, i > 2 ? doc : more, NULL, &err) == 0)
            fail_msg("%s was taken", bad[i]);
        assert_true(*err.text);
    }
    world_leave_host(&on);
}

static json_t *ask(const char *peer, const char *text)
{
    json_auto_t *body = json_loads(text, 0, NULL);
    struct on_host on = world_enter_host(HOST_A);
    struct fm_conversation v = {.service = &HOST_A->peers, .peer = peer};

    assert_non_null(body);
    err = (struct fm_error){0};
    json_t *answer = fm_peer_answer(&v, FM_FRAME_FABRIC, body, &err);
    world_leave_host(&on);
    return answer;
}

static void foreign_requests_are_checked(void **state)
{
    static const char *const bad[] = {
        "{}",
        "{\"op\":\"set\"}",
        "{\"op\":\"steal\"}",
        "{\"op\":7}",
        "{\"op\":\"learn\"}",
        "{\"op\":\"learn\",\"documents\":7}",
        "{\"op\":\"claim\"}",
        "{\"op\":\"claim\",\"lease\":[]}",
        "{\"op\":\"unclaim\",\"lease\":7}",
    };

    (void)state;
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        json_auto_t *answer = ask("host-b", bad[i]);
        if (answer)
            fail_msg("%s was answered", bad[i]);
        assert_true(err.code == FM_E_PROTOCOL || err.code == FM_E_INVALID || err.code == FM_E_AUTH);
    }
    json_auto_t *liar = ask("host-b", "{\"op\":\"claim\",\"lease\":{\"network\":\"default\","
                                      "\"ip\":\"10.88.0.9\",\"owner\":\"x\","
                                      "\"host\":\"host-c\"}}");
    assert_null(liar);
    assert_int_equal(err.code, FM_E_AUTH);
    json_auto_t *learned = ask("host-b", "{\"op\":\"learn\",\"documents\":[7,{},{\"kind\":\"x\"},"
                                         "{\"kind\":\"lease\",\"document\":{}}]}");
    assert_int_equal(json_array_size(json_object_get(learned, "problems")), 4);
    json_auto_t *docs = ask("host-b", "{\"op\":\"documents\",\"kind\":7,\"after\":[]}");
    assert_int_equal(json_array_size(json_object_get(docs, "documents")), 1);
}

static json_t *claim(const char *ip, bool settled)
{
    fm_autofree char *text =
        fm_strf("{\"op\":\"claim\",\"settled\":%s,\"lease\":{\"network\":\"default\",\"ip\":\"%s\","
                "\"owner\":\"x\",\"host\":\"host-b\"}}",
                settled ? "true" : "false", ip);
    json_t *answer = ask("host-b", text);
    assert_non_null(answer);
    return answer;
}

static bool is_granted(const char *ip, bool settled)
{
    json_auto_t *answer = claim(ip, settled);

    return json_object_get(answer, "taken") == NULL;
}

static size_t claims_on(struct host *h)
{
    size_t count = 0;

    for (struct fm_claim *c = h->parts.networks->claims; c; c = c->next)
        count++;
    return count;
}

/* What a host has no room to note it must not grant: the next one would get it as well. */
static void a_claim_that_is_not_noted_is_refused(void **state)
{
    (void)state;
    for (int i = 0; i < 1024; i++) {
        fm_autofree char *ip = fm_strf("10.88.%d.%d", 1 + i / 200, 1 + i % 200);
        world.calls = 0; /* all this is no endless loop */
        assert_true(is_granted(ip, false));
    }
    assert_int_equal(claims_on(HOST_A), 1024);
    assert_false(is_granted("10.88.9.9", false));
    assert_true(is_granted("10.88.9.9", true));  /* its container runs, nothing is to be noted */
    assert_true(is_granted("10.88.1.1", false)); /* is noted already */
    assert_int_equal(claims_on(HOST_A), 1024);

    json_auto_t *refused = run(HOST_B, "nginx", "10.88.9.9");
    assert_null(refused);
    assert_int_equal(err.code, FM_E_REFUSED);
    assert_text("host host-a takes no further claim of an address: 1024 are open there; try again "
                "in 30 seconds");
    assert_no_lease(HOST_B, "nginx");
    assert_int_equal(claims_on(HOST_B), 0);
    json_auto_t *chosen = run(HOST_B, "nginx", "auto");
    assert_null(chosen);
    json_auto_t *mine = run(HOST_A, "web", "10.88.9.9"); /* its own are not counted */
    assert_non_null(mine);
}

static void a_claim_that_nobody_settles_ages(void **state)
{
    (void)state;
    json_auto_t *net = create(HOST_A, "{\"name\":\"tiny\",\"subnet\":\"10.90.0.0/29\"}");
    assert_non_null(net);
    json_auto_t *answer = ask("host-b", "{\"op\":\"claim\",\"lease\":{\"network\":\"tiny\",\"ip\":"
                                        "\"10.90.0.2\",\"owner\":\"x\",\"host\":\"host-b\"}}");
    assert_non_null(answer);
    struct on_host on = world_enter_host(HOST_A);
    assert_int_equal(fm_networks_remove(&HOST_A->parts, "tiny", &err), -FM_E_REFUSED);
    assert_text("is being started in it");

    world.skipped_ms += 30001;
    json_auto_t *taken = fm_leases_taken(&HOST_A->parts, "tiny");
    assert_null(json_object_get(taken, "10.90.0.2"));
    assert_int_equal(claims_on(HOST_A), 0);
    assert_int_equal(fm_networks_remove(&HOST_A->parts, "tiny", &err), 0);
    world_leave_host(&on);
}

/* More than one page each way. */
static void many_documents_are_exchanged(void **state)
{
    (void)state;
    HOST_B->away = true;
    struct on_host on = world_enter_host(HOST_A);
    pthread_mutex_lock(&HOST_A->parts.networks->lock);
    for (int i = 0; i < 250; i++) {
        struct fm_lease lease = {.network = "default", .host = "host-c"};
        snprintf(lease.owner, sizeof(lease.owner), "c%d", i);
        snprintf(lease.ip, sizeof(lease.ip), "10.88.1.%d", i);
        world.calls = 0; /* all this is no endless loop */
        assert_int_equal(
            fm_replica_write(&HOST_A->parts, FM_KIND_LEASE, fm_lease_to_json(&lease), &err), 0);
    }
    pthread_mutex_unlock(&HOST_A->parts.networks->lock);
    world_leave_host(&on);
    HOST_B->away = false;
    world.calls = 0;
    on = world_enter_host(HOST_B); /* it is host b that asks */
    fm_networks_meet(&HOST_B->parts, NULL);
    fm_replica_pass(&HOST_B->parts, NULL);
    json_auto_t *leases = fm_leases_list(&HOST_B->parts, "default", &err);
    world_leave_host(&on);
    assert_int_equal(json_array_size(leases), 251);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, open_world, close_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_address_belongs_to_one_container_of_all_hosts),
        TEST(an_address_goes_with_its_container),
        TEST(a_claim_blocks_before_its_lease_is_known),
        TEST(a_container_without_a_lease_counts_as_well),
        TEST(bad_addresses_are_refused),
        TEST(hosts_choose_different_addresses),
        TEST(a_taken_choice_is_made_again),
        TEST(a_full_network_says_so),
        TEST(both_families_get_the_same_number),
        TEST(every_address_is_chosen_once),
        TEST(a_port_is_published_on_every_host),
        TEST(hosts_have_addresses_where_ports_are_published),
        TEST(what_was_missed_is_heard_later),
        TEST(a_removal_that_was_missed_is_not_undone),
        TEST(a_clash_of_two_sides_is_reported),
        TEST(a_slow_clock_does_not_lose),
        TEST(a_dead_host_gives_its_addresses_back),
        TEST(a_lease_moves_with_its_container),
        TEST(a_taken_address_does_not_come),
        TEST(a_run_that_fails_leases_nothing),
        TEST(a_death_leaves_no_lease_without_a_container),
        TEST(foreign_leases_are_checked),
        TEST(foreign_requests_are_checked),
        TEST(a_claim_that_is_not_noted_is_refused),
        TEST(a_claim_that_nobody_settles_ages),
        TEST(many_documents_are_exchanged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
