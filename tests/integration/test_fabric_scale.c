/* Many containers on a host: who has an address is known without looking at all of them, also after
 * a restart; and a migration does not notice them. Needs root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "net_named.h"
#include "net_scene.h"

#define PER_HOST 67 /* 200 on three */
#define ROUNDS 25
#define SLOWER 1.2
#define SETTLE_MS 50 /* the kernel takes a namespace apart afterwards */

static void refused(const struct lab_reply *r, const char *says)
{
    printf("  %s\n", r->text);
    assert_int_equal(r->rc, -FM_E_EXISTS);
    assert_non_null(strstr(r->text, says));
}

/* ---- who is there ---- */

#define OTHER .name = "other"

static void test_addresses_after_restart(void **state)
{
    (void)state;
    lab_host_start(&host_a, 1);
    open_fabric(&host_a);
    struct lab_reply server = CALL(host_a, LAB_STAGE, SERVER, .flag = true);
    lab_host_kill(&host_a);
    lab_host_restart(&host_a);
    open_fabric(&host_a);
    struct lab_reply r = TRY(host_a, LAB_STAGE, OTHER, .ip = SERVER_IP);
    refused(&r, "belongs to container 'server'");
    r = TRY(host_a, LAB_STAGE, .name = "server", .ip = "10.88.0.6");
    refused(&r, "a container 'server' with address 10.88.0.5");
    CALL(host_a, LAB_STAGE, SERVER, .flag = true); /* its own is no other */

    /* Somebody took its interface away, and does not tell us. */
    free(lab_sh(host_a.netns, "ip link del %s", server.ep.host_if));
    CALL(host_a, LAB_STAGE, OTHER, .ip = SERVER_IP);
    r = TRY(host_a, LAB_STAGE, SERVER);
    refused(&r, "belongs to container 'other'");
    CALL(host_a, LAB_UNSTAGE, OTHER, .ip = SERVER_IP);
    CALL(host_a, LAB_STAGE, SERVER);
    CALL(host_a, LAB_UNSTAGE, SERVER);
    CALL(host_a, LAB_STAGE, OTHER, .ip = SERVER_IP);
    lab_host_stop(&host_a);
}

/* A port that was taken off the bridge is in nobody's way. */
static void test_address_off_the_bridge(void **state)
{
    (void)state;
    lab_host_start(&host_a, 1);
    open_fabric(&host_a);
    struct lab_reply server = CALL(host_a, LAB_STAGE, SERVER);
    free(lab_sh(host_a.netns, "ip link set %s nomaster", server.ep.host_if));
    CALL(host_a, LAB_STAGE, OTHER, .ip = SERVER_IP);
    free(lab_sh(host_a.netns, "ip link set %s master fmbr0", server.ep.host_if));
    struct lab_reply r = TRY(host_a, LAB_STAGE, .name = "third", .ip = SERVER_IP);
    refused(&r, "belongs to container");
    lab_host_stop(&host_a);
}

static void test_macvlans_after_restart(void **state)
{
    (void)state;
    named_scene(FM_NETWORK_MACVLAN);
    lab_host_kill(&host_a);
    lab_host_restart(&host_a);
    open_fabric(&host_a);
    struct lab_request define = {.op = LAB_DEFINE, .spec = named_spec(FM_NETWORK_MACVLAN)};
    lab_call(&host_a, define);
    struct lab_reply r = TRY(host_a, LAB_STAGE, OTHER, .network = NAMED, .ip = NAMED_IP);
    refused(&r, "belongs to container 'server'");
    r = TRY(host_a, LAB_STAGE, OTHER, .network = NAMED, .ip = "10.89.0.6", .ip6 = NAMED_IP6);
    refused(&r, "belongs to container 'server'");
    CALL(host_a, LAB_STAGE, NAMED_SERVER, .flag = true);
    r = TRY(host_a, LAB_STAGE, SERVER); /* its name, in a network of another kind */
    refused(&r, "a container 'server' in network");
    r = TRY(host_a, LAB_STAGE, OTHER, .network = NAMED, .ip = NAMED_IP);
    refused(&r, "belongs to container 'server'");

    fm_autofree char *netns = fm_strf("%s/netns/server", lab_run_dir(&host_a));
    free(lab_sh(netns, "ip link del eth0"));
    CALL(host_a, LAB_STAGE, OTHER, .network = NAMED, .ip = NAMED_IP);
    CALL(host_a, LAB_UNSTAGE, OTHER, .network = NAMED, .ip = NAMED_IP);
    CALL(host_a, LAB_STAGE, NAMED_SERVER);
    CALL(host_a, LAB_UNSTAGE, NAMED_SERVER);
    CALL(host_a, LAB_STAGE, OTHER, .network = NAMED, .ip = NAMED_IP);
    named_scene_stop(FM_NETWORK_MACVLAN);
}

/* ---- how long it takes ---- */

/* Two hosts, and the quickest of the network's parts of a migration from one to the other, in us:
 * what it takes when nobody else is at work. */
struct pair {
    struct lab_host from, to;
    uint64_t stage, prepare, engage, activate, forward;
};

static void keep_least(uint64_t *least, uint64_t us)
{
    if (!*least || us < *least)
        *least = us;
}

static void migrate(struct pair *p)
{
    struct lab_request forward = {.op = LAB_HOLD_FORWARD};
    snprintf(forward.host, sizeof(forward.host), "%s", p->to.address);
    keep_least(&p->stage, CALL(p->to, LAB_STAGE, SERVER).us);
    keep_least(&p->prepare, CALL(p->from, LAB_HOLD_PREPARE, SERVER).us);
    keep_least(&p->engage, CALL(p->from, LAB_HOLD_ENGAGE).us);
    keep_least(&p->activate, CALL(p->to, LAB_ACTIVATE, SERVER).us);
    keep_least(&p->forward, lab_call(&p->from, forward).us);
    CALL(p->from, LAB_HOLD_END);
    CALL(p->to, LAB_UNSTAGE, SERVER);
    CALL(p->from, LAB_ACTIVATE, SERVER);
    lab_sleep_ms(SETTLE_MS);
}

static uint64_t sum(const struct pair *p, const char *what)
{
    uint64_t all = p->stage + p->prepare + p->engage + p->activate + p->forward;
    printf("  %s: stage %lu us, prepare %lu, engage %lu, activate %lu, forward %lu; %lu in all\n",
           what, p->stage, p->prepare, p->engage, p->activate, p->forward, all);
    return all;
}

static void start_pair(struct pair *p, int number)
{
    *p = (struct pair){0};
    lab_host_start(&p->from, number);
    lab_host_start(&p->to, number + 1);
    open_fabric(&p->from);
    open_fabric(&p->to);
    join_peers(&p->from, (const struct lab_host *const[]){&p->to}, 1);
    join_peers(&p->to, (const struct lab_host *const[]){&p->from}, 1);
    CALL(p->from, LAB_STAGE, SERVER, .flag = true);
}

static void stop_pair(struct pair *p)
{
    lab_host_stop(&p->from);
    lab_host_stop(&p->to);
}

static void populate(struct lab_host *host)
{
    for (int i = 0; i < PER_HOST; i++) {
        struct lab_request q = {.op = LAB_STAGE, .flag = true};
        snprintf(q.name, sizeof(q.name), "other%d", i);
        snprintf(q.ip, sizeof(q.ip), "10.88.%d.%d", host->number, i + 1);
        lab_call(host, q);
    }
}

/* In turns, since what else this machine does comes and goes. */
static bool no_slower(void)
{
    struct pair empty, full;
    start_pair(&empty, 1);
    start_pair(&full, 3);
    populate(&full.from);
    populate(&full.to);
    for (int i = 0; i < ROUNDS; i++) {
        migrate(&empty);
        migrate(&full);
    }
    uint64_t without = sum(&empty, "nobody there");
    uint64_t with = sum(&full, "67 containers on each host");
    stop_pair(&empty);
    stop_pair(&full);
    return (double)with < (double)without * SLOWER;
}

static void test_many_containers(void **state)
{
    (void)state;
    ASSERT_IN_TIME(no_slower());
}

int main(void)
{
    if (geteuid() != 0) {
        printf("skipped: needs root for network namespaces\n");
        return 77;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    lab_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses_after_restart),
        cmocka_unit_test(test_address_off_the_bridge),
        cmocka_unit_test(test_macvlans_after_restart),
        cmocka_unit_test(test_many_containers),
    };
    return cmocka_run_group_tests_name("fabric-scale", tests, NULL, NULL);
}
