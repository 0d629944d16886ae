/* Published ports and isolation on one host: who reaches whom, and the table of rules that makes it
 * so. Needs root. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "net_isolated.h"
#include "net_scene.h"

static const struct fm_publication published[] = {
    {"web", "one", "tcp", 8080, 80, WEB, WEB6},
    {"far", "two", "tcp", 8082, 80, FAR, FAR6},
    {"far", "two", "udp", 8082, 80, FAR, ""},
};

/* ---- who reaches whom ---- */

static void test_isolation(void **state)
{
    (void)state;
    int servers[] = {listen_at(web, WEB, 80),
                     listen_at(web, WEB6, 80),
                     listen_at(far, FAR, 80),
                     listen_at(far, FAR6, 80),
                     listen_at(outside.netns, OUTSIDE, 90),
                     listen_at(web, "0.0.0.0", 91)};
    assert_true(reaches(web, FAR, 80)); /* as long as nobody forbids it */
    assert_true(reaches(web, FAR6, 80));
    publish(NULL, 0);
    assert_int_equal(reach(web, FAR, 80), -ETIMEDOUT);
    assert_int_equal(reach(web, FAR6, 80), -ETIMEDOUT);
    assert_int_equal(reach(far, WEB, 80), -ETIMEDOUT);
    assert_int_equal(reach(far, WEB6, 80), -ETIMEDOUT);
    assert_int_equal(reach(far, WEB, 91), -ETIMEDOUT);
    assert_true(reaches(other, WEB, 80)); /* within a network */
    assert_true(reaches(other, WEB6, 80));
    assert_true(reaches(web, OUTSIDE, 90)); /* what is the user's */
    assert_true(reaches(outside.netns, WEB, 80));
    assert_true(reaches(outside.netns, FAR6, 80));
    assert_true(reaches(host.netns, WEB, 80));
    assert_true(reaches(host.netns, FAR6, 80));
    for (size_t i = 0; i < FM_COUNT(servers); i++)
        close(servers[i]);
}

static void test_published(void **state)
{
    (void)state;
    fm_autoclose int web4 = listen_at(web, WEB, 80), web6 = listen_at(web, WEB6, 80);
    fm_autoclose int far4 = listen_at(far, FAR, 80);
    assert_int_equal(reach(outside.netns, HOST, 8080), -ECONNREFUSED);
    publish(published, FM_COUNT(published));

    assert_true(reaches(outside.netns, HOST, 8080));
    accept_from(web4, "10.91.255.1");
    assert_true(reaches(outside.netns, "192.0.2.77", 8080)); /* all addresses of the host */
    accept_from(web4, "10.91.255.1");
    assert_true(reaches(outside.netns, HOST6, 8080));
    accept_from(web6, "fd00:91::ff:1");
    assert_true(reaches(outside.netns, HOST, 8082));
    accept_from(far4, "10.92.255.1");
    assert_int_equal(reach(outside.netns, HOST, 8081), -ECONNREFUSED);

    /* From the host itself, from the container itself, from its neighbour, from another network. */
    assert_true(reaches(host.netns, HOST, 8080));
    accept_from(web4, "10.91.255.1");
    assert_true(reaches(host.netns, HOST6, 8080));
    accept_from(web6, "fd00:91::ff:1");
    assert_true(reaches(web, HOST, 8080));
    accept_from(web4, "10.91.255.1");
    assert_true(reaches(web, "10.91.0.1", 8080));
    accept_from(web4, "10.91.255.1");
    assert_true(reaches(other, HOST6, 8080));
    accept_from(web6, "fd00:91::ff:1");
    assert_true(reaches(far, "10.92.0.1", 8080));
    accept_from(web4, "10.91.255.1");
    assert_int_equal(reach(far, WEB, 80), -ETIMEDOUT); /* but not past it */

    /* Loopback stays the host's own. */
    assert_int_equal(reach(host.netns, "127.0.0.1", 8080), -ECONNREFUSED);
    assert_int_equal(reach(host.netns, "::1", 8080), -ECONNREFUSED);
}

/* A redirection of the user's to a container keeps the client's address, and masquerading works. */
static void test_users_own_rules(void **state)
{
    (void)state;
    fm_autoclose int unpublished = listen_at(web, WEB, 81);
    fm_autoclose int elsewhere = listen_at(outside.netns, OUTSIDE, 90);
    sh("nft 'add table ip mine; "
       "add chain ip mine in { type nat hook prerouting priority -110; }; "
       "add rule ip mine in tcp dport 9000 dnat to " WEB ":81; "
       "add chain ip mine out { type nat hook postrouting priority srcnat; }; "
       "add rule ip mine out oifname u ip saddr 10.91.0.0/16 masquerade'");
    fm_autofree char *before = lab_sh(host.netns, "nft list table ip mine");
    publish(published, FM_COUNT(published));
    assert_true(reaches(outside.netns, HOST, 9000));
    accept_from(unpublished, OUTSIDE);
    assert_true(reaches(web, OUTSIDE, 90));
    accept_from(elsewhere, HOST);
    publish(NULL, 0);
    isolated_run(job_remove, NULL);
    fm_autofree char *after = lab_sh(host.netns, "nft list ruleset");
    assert_string_equal(before, after);
    sh("nft delete table ip mine");
}

/* ---- the table ---- */

static void assert_described(bool whole, size_t count)
{
    struct job job = {0};
    isolated_run(job_describe, &job);
    assert_int_equal(job.whole, whole);
    assert_int_equal(json_array_size(job.described), count);
    size_t i;
    json_t *entry;
    json_array_foreach(job.described, i, entry)
    {
        const struct fm_publication *p = &published[i];
        json_t *wanted = json_pack("{s:s,s:s,s:s,s:i,s:i,s:s,s:s}", "container", p->container,
                                   "network", p->network, "protocol", p->protocol, "host_port",
                                   p->host_port, "port", p->port, "ip", p->ip, "ip6", p->ip6);
        if (!json_equal(entry, wanted))
            fail_msg("publication %zu is read back as %s", i, json_dumps(entry, 0));
        json_decref(wanted);
    }
    json_decref(job.described);
}

static void test_describe(void **state)
{
    (void)state;
    assert_described(false, 0); /* no table */
    publish(NULL, 0);
    assert_described(true, 0);
    publish(published, FM_COUNT(published));
    assert_described(true, FM_COUNT(published));
    publish(published, 1);
    assert_described(true, 1);
    isolated_run(job_remove, NULL);
    isolated_run(job_remove, NULL);
    assert_described(false, 0);
}

static void test_same_twice(void **state)
{
    (void)state;
    publish(published, FM_COUNT(published));
    fm_autofree char *once = lab_sh(host.netns, "nft list ruleset");
    publish(published, FM_COUNT(published));
    fm_autofree char *twice = lab_sh(host.netns, "nft list ruleset");
    assert_string_equal(once, twice);
}

/* Whatever somebody does to the table is seen, and mended by applying again. */
static void test_mends(void **state)
{
    (void)state;
    const struct {
        const char *command;
        size_t left; /* publications */
    } harm[] = {
        {"flush chain inet fleximigrate published", 3},
        {"flush chain inet fleximigrate outgoing", 3},
        {"flush chain inet fleximigrate isolation", 3},
        {"insert rule inet fleximigrate incoming accept", 3},
        {"delete chain inet fleximigrate isolation", 3},
        {"add element inet fleximigrate tcp4 { 9999 : 10.91.0.5 . 80 }", 3},
        {"flush map inet fleximigrate own4", 3},
        {"flush map inet fleximigrate own6", 3},
        {"delete element inet fleximigrate targets4 { udp . 10.92.0.5 . 80 }", 3},
        {"delete element inet fleximigrate same { \"fmbr1\" . \"fmbr1\" }", 3},
        {"flush set inet fleximigrate interfaces", 3},
        {"flush map inet fleximigrate udp4", 2},
        {"delete table inet fleximigrate", 0},
        {"flush ruleset", 0},
    };
    int server = listen_at(web, WEB, 80);
    for (size_t i = 0; i < FM_COUNT(harm); i++) {
        publish(published, FM_COUNT(published));
        free(lab_sh(host.netns, "nft '%s'", harm[i].command));
        assert_described(harm[i].left == 2, harm[i].left);
        publish(published, FM_COUNT(published));
        assert_described(true, FM_COUNT(published));
        assert_true(reaches(outside.netns, HOST, 8080));
        assert_int_equal(reach(far, WEB, 80), -ETIMEDOUT);
    }
    close(server);
}

static void test_refuses(void **state)
{
    (void)state;
    publish(published, 1);
    struct fm_publication list[] = {published[0], published[0]};
    struct fm_error err;
    snprintf(list[1].container, sizeof(list[1].container), "rival");
    struct job job = {.list = list, .count = 2};
    assert_int_equal(isolated_try(job_apply, &job, &err), -FM_E_EXISTS);
    snprintf(list[1].container, sizeof(list[1].container), "x\" drop; #");
    assert_int_equal(isolated_try(job_apply, &job, &err), -FM_E_INVALID);
    assert_described(true, 1); /* what was there stays */

    /* A network without an address here, or unknown here: the others are published. */
    struct fm_publication lost[] = {published[0], published[1]};
    snprintf(lost[1].network, sizeof(lost[1].network), "three");
    publish(lost, 2);
    assert_described(true, 1);
}

/* Somebody else's rules change all the time. */
static void *change_rules(void *arg)
{
    atomic_bool *done = arg;
    while (!atomic_load(done))
        sh("for i in 1 2 3 4 5; do nft 'add table ip busy'; nft 'delete table ip busy'; done");
    return NULL;
}

static void test_beside_others(void **state)
{
    (void)state;
    atomic_bool done = false;
    pthread_t changer;
    assert_int_equal(pthread_create(&changer, NULL, change_rules, &done), 0);
    struct fm_error err = {0};
    int rc = 0;
    for (int i = 0; rc == 0 && i < 40; i++) {
        struct job job = {.list = published, .count = (size_t)i % 2 + 1};
        rc = isolated_try(job_apply, &job, &err);
        if (rc == 0 && (rc = isolated_try(job_describe, &job, &err)) == 0)
            json_decref(job.described);
    }
    atomic_store(&done, true);
    pthread_join(changer, NULL);
    if (rc < 0)
        fail_msg("%s", err.text);
}

enum { FEW = 200, MANY = 1000 };

/* How long it takes to read them back, in us. */
static uint64_t describe_many(const struct fm_publication *many, size_t count)
{
    uint64_t least = UINT64_MAX;
    publish(many, count);
    for (int i = 0; i < 3; i++) {
        struct job job = {0};
        uint64_t started = fm_now_us();
        isolated_run(job_describe, &job);
        uint64_t took = fm_now_us() - started;
        least = took < least ? took : least;
        assert_int_equal(json_array_size(job.described), count);
        assert_true(job.whole);
        json_decref(job.described);
    }
    return least;
}

static bool reading_is_linear(const struct fm_publication *many)
{
    uint64_t few = describe_many(many, FEW);
    uint64_t all = describe_many(many, MANY);
    printf("  described %d in %.1f ms, %d in %.1f ms\n", FEW, (double)few / 1000.0, MANY,
           (double)all / 1000.0);
    return all < few * 3 * (MANY / FEW); /* the square would be 25 times as long */
}

/* Hundreds of ports, in one transaction. */
static void test_many(void **state)
{
    (void)state;
    struct fm_publication *many = fm_xcalloc(MANY, sizeof(*many));
    for (int i = 0; i < MANY; i++) {
        many[i] = published[0];
        many[i].host_port = (uint16_t)(20000 + i);
        snprintf(many[i].container, sizeof(many[i].container), "c%d", i);
        snprintf(many[i].ip, sizeof(many[i].ip), "10.91.%d.%d", 1 + i / 250, 2 + i % 250);
        snprintf(many[i].ip6, sizeof(many[i].ip6), "fd00:91::%x", 0x100 + i);
    }
    ASSERT_IN_TIME(reading_is_linear(many));
    free(many);
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
        cmocka_unit_test_setup_teardown(test_isolation, isolated_start, isolated_stop),
        cmocka_unit_test_setup_teardown(test_published, isolated_start, isolated_stop),
        cmocka_unit_test_setup_teardown(test_users_own_rules, isolated_start, isolated_stop),
        cmocka_unit_test_setup_teardown(test_describe, isolated_start, isolated_stop),
        cmocka_unit_test_setup_teardown(test_same_twice, isolated_start, isolated_stop),
        cmocka_unit_test_setup_teardown(test_mends, isolated_start, isolated_stop),
        cmocka_unit_test_setup_teardown(test_refuses, isolated_start, isolated_stop),
        cmocka_unit_test_setup_teardown(test_beside_others, isolated_start, isolated_stop),
        cmocka_unit_test_setup_teardown(test_many, isolated_start, isolated_stop),
    };
    return cmocka_run_group_tests_name("firewall", tests, NULL, NULL);
}
