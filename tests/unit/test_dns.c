#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "network/dns.h"
#include "network/dns_name.h"
#include "network/dns_plan.h"

#define SECRET "c2VjcmV0IG9mIHRoZSB0ZXN0cyE="

/* ---- names ---- */

static const char *reverse(const char *address)
{
    static char name[FM_DNS_NAME_TEXT];
    struct fm_ip ip;
    struct fm_error err = {0};

    assert_int_equal(fm_ip_parse("address", address, &ip, &err), 0);
    fm_dns_name_of_address(&ip, name);
    return name;
}

static void an_address_has_its_reverse_name(void **state)
{
    (void)state;
    assert_string_equal(reverse("10.88.0.5"), "5.0.88.10.in-addr.arpa.");
    assert_string_equal(reverse("255.254.253.252"), "252.253.254.255.in-addr.arpa.");
    /* The example of RFC 3596, 2.5. */
    assert_string_equal(
        reverse("4321:0:1:2:3:4:567:89ab"),
        "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa.");
}

static int parse(const char *text, char name[FM_DNS_NAME_TEXT], struct fm_error *err)
{
    *err = (struct fm_error){0};
    return fm_dns_name_parse("the name", text, name, err);
}

static void names_become_absolute_and_lower_case(void **state)
{
    struct fm_error err;
    char name[FM_DNS_NAME_TEXT];

    (void)state;
    assert_int_equal(parse("Web.Example.ORG", name, &err), 0);
    assert_string_equal(name, "web.example.org.");
    assert_int_equal(parse("0/25.2.0.192.in-addr.arpa.", name, &err), 0);
    assert_string_equal(name, "0/25.2.0.192.in-addr.arpa.");
    assert_int_equal(parse("_a-1", name, &err), 0);
    assert_string_equal(name, "_a-1.");
}

static void bad_names_are_told(void **state)
{
    static const char *const bad[] = {"",     ".",     "..",  ".a",  "a..b", "a b",
                                      "a\nb", "a\\.b", "b*d", "a\"", "ä.org"};
    struct fm_error err;
    char name[FM_DNS_NAME_TEXT], longest[300];

    (void)state;
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        assert_int_equal(parse(bad[i], name, &err), -FM_E_INVALID);
        assert_non_null(strstr(err.text, "the name"));
    }
    memset(longest, 'a', sizeof(longest));
    longest[64] = '\0';
    assert_int_equal(parse(longest, name, &err), -FM_E_INVALID);
    assert_non_null(strstr(err.text, "63"));
    longest[63] = '\0';
    assert_int_equal(parse(longest, name, &err), 0);

    for (size_t i = 0; i < sizeof(longest); i++)
        longest[i] = i % 2 ? '.' : 'a';
    longest[253] = '\0';
    assert_int_equal(parse(longest, name, &err), 0);
    assert_int_equal(strlen(name), 254);
    longest[253] = '.';
    longest[254] = 'a';
    longest[255] = '\0';
    assert_int_equal(parse(longest, name, &err), -FM_E_INVALID);
    assert_non_null(strstr(err.text, "253"));
}

static void the_most_specific_zone_has_a_name(void **state)
{
    const char *zones[] = {"10.in-addr.arpa.", "1.10.in-addr.arpa.", "d.f.ip6.arpa.", NULL};

    (void)state;
    assert_true(fm_dns_name_in_zone("a.example.org.", "example.org."));
    assert_true(fm_dns_name_in_zone("example.org.", "example.org."));
    assert_false(fm_dns_name_in_zone("anexample.org.", "example.org."));
    assert_false(fm_dns_name_in_zone("org.", "example.org."));
    assert_string_equal(fm_dns_name_zone(reverse("10.1.2.3"), zones), zones[1]);
    assert_string_equal(fm_dns_name_zone(reverse("10.11.2.3"), zones), zones[0]);
    assert_string_equal(fm_dns_name_zone(reverse("fd00::1"), zones), zones[2]);
    assert_null(fm_dns_name_zone(reverse("192.0.2.1"), zones));
    assert_null(fm_dns_name_zone(reverse("192.0.2.1"), NULL));
}

/* ---- sets and plans ---- */

static struct fm_dns_rrset make_set(uint32_t ttl, const char *a, const char *b)
{
    struct fm_dns_rrset set = {.ttl = ttl};

    if (a)
        fm_strv_add(&set.data, a);
    if (b)
        fm_strv_add(&set.data, b);
    return set;
}

static void sets_are_the_same_in_any_order_and_case(void **state)
{
    struct fm_dns_rrset a = make_set(5, "web.example.org.", "WWW.example.org.");
    struct fm_dns_rrset b = make_set(300, "www.example.org.", "Web.Example.org.");
    struct fm_dns_rrset one = make_set(5, "web.example.org.", NULL);
    struct fm_dns_rrset none = {0};

    (void)state;
    assert_true(fm_dns_rrset_same(&a, &b));
    assert_false(fm_dns_rrset_same(&a, &one));
    assert_false(fm_dns_rrset_same(&one, &a));
    assert_false(fm_dns_rrset_same(&one, &none));
    assert_true(fm_dns_rrset_same(&none, &none));
    fm_autofree char *text = fm_dns_rrset_text(&a);
    assert_string_equal(text, "web.example.org. WWW.example.org.");
    fm_autofree char *nothing = fm_dns_rrset_text(&none);
    assert_string_equal(nothing, "nothing");
    fm_dns_rrset_clear(&a);
    fm_dns_rrset_clear(&b);
    fm_dns_rrset_clear(&one);
}

static void a_plan_survives_the_journal(void **state)
{
    struct fm_dns_plan plan = {0}, again;
    struct fm_error err = {0};
    struct fm_dns_entry *e = fm_dns_plan_add(&plan, "example.org.", "web.example.org.", FM_DNS_A);

    (void)state;
    e->before = make_set(300, "10.0.0.5", "10.0.0.6");
    e->after = make_set(300, "10.0.0.6", "10.1.0.5");
    e = fm_dns_plan_add(&plan, "10.in-addr.arpa.", "5.0.1.10.in-addr.arpa.", FM_DNS_PTR);
    e->after = make_set(4294967295u, "web.example.org.", NULL);
    json_t *saved = fm_dns_plan_save(&plan);
    char *text = json_dumps(saved, 0);
    json_t *loaded = json_loads(text, 0, NULL);

    assert_int_equal(fm_dns_plan_load(loaded, &again, &err), 0);
    assert_int_equal(again.count, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(again.entries[i].zone, plan.entries[i].zone);
        assert_string_equal(again.entries[i].name, plan.entries[i].name);
        assert_int_equal(again.entries[i].type, plan.entries[i].type);
        assert_true(fm_dns_rrset_same(&again.entries[i].before, &plan.entries[i].before));
        assert_true(fm_dns_rrset_same(&again.entries[i].after, &plan.entries[i].after));
        assert_int_equal(again.entries[i].before.ttl, plan.entries[i].before.ttl);
        assert_int_equal(again.entries[i].after.ttl, plan.entries[i].after.ttl);
    }
    free(text);
    json_decref(saved);
    json_decref(loaded);
    fm_dns_plan_clear(&plan);
    fm_dns_plan_clear(&again);
}

static void a_damaged_plan_is_refused(void **state)
{
#define RECORD(zone, name, type, ttl, data)                                                        \
    "{\"zone\":" zone ",\"name\":" name ",\"type\":" type ",\"before\":{\"ttl\":" ttl              \
    ",\"data\":" data "},\"after\":{\"ttl\":1,\"data\":[]}}"
#define GOOD RECORD("\"a.\"", "\"b.a.\"", "\"A\"", "1", "[]")
    static const char *const bad[] = {
        "null",
        "{}",
        "{\"records\":{}}",
        "{\"records\":[1]}",
        "{\"records\":[" RECORD("1", "\"b.a.\"", "\"A\"", "1", "[]") "]}",
        "{\"records\":[" RECORD("\"a\"", "\"b.a\"", "\"A\"", "1", "[]") "]}",
        "{\"records\":[" RECORD("\"a.\"", "\"b.c.\"", "\"A\"", "1", "[]") "]}",
        "{\"records\":[" RECORD("\"a.\"", "\"b.a.\"", "\"MX\"", "1", "[]") "]}",
        "{\"records\":[" RECORD("\"a.\"", "\"b.a.\"", "\"A\"", "-1", "[]") "]}",
        "{\"records\":[" RECORD("\"a.\"", "\"b.a.\"", "\"A\"", "4294967296", "[]") "]}",
        "{\"records\":[" RECORD("\"a.\"", "\"b.a.\"", "\"A\"", "1", "[1]") "]}",
        "{\"records\":[" RECORD("\"a.\"", "\"b.a.\"", "\"A\"", "1", "\"\"") "]}",
        "{\"records\":[" GOOD "," GOOD "," GOOD "," GOOD "," GOOD "," GOOD "," GOOD "," GOOD
        "," GOOD "]}",
    };
    struct fm_dns_plan plan;

    (void)state;
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct fm_error err = {0};
        json_t *saved = json_loads(bad[i], JSON_DECODE_ANY, NULL);
        assert_non_null(saved);
        assert_int_equal(fm_dns_plan_load(saved, &plan, &err), -FM_E_INVALID);
        assert_int_equal(plan.count, 0);
        json_decref(saved);
    }
    struct fm_error err = {0};
    json_t *saved = json_loads("{\"records\":[" GOOD "]}", 0, NULL);
    assert_int_equal(fm_dns_plan_load(saved, &plan, &err), 0);
    fm_dns_plan_clear(&plan);
    json_decref(saved);
}

/* ---- configuration ---- */

static struct fm_dns_config good_config(void)
{
    return (struct fm_dns_config){
        .server = "192.0.2.53",
        .zone = "example.org",
        .key_name = "fleximigrate",
        .secret = SECRET,
    };
}

static void refuse(const struct fm_dns_config *config, const char *expected)
{
    struct fm_follower follower = {0};
    struct fm_error err = {0};

    assert_int_equal(fm_dns_open(config, &follower, &err), -FM_E_INVALID);
    assert_null(follower.ops);
    if (!strstr(err.text, expected))
        fail_msg("'%s' does not tell '%s'", err.text, expected);
}

#define REFUSE(field, value, expected)                                                             \
    do {                                                                                           \
        struct fm_dns_config config_ = good_config();                                              \
        config_.field = (value);                                                                   \
        refuse(&config_, expected);                                                                \
    } while (0)

static void a_bad_configuration_names_its_key(void **state)
{
    static const char *const no_reverse[] = {"example.org", NULL};
    static const char *const bad_reverse[] = {"10..in-addr.arpa", NULL};
    static const struct fm_dns_name outside = {"web", "web.example.com"};
    static const struct fm_dns_name empty = {"web", ""};
    static const struct fm_dns_name nobody = {"", "www"};

    (void)state;
    REFUSE(server, NULL, "network.dns.server is missing");
    REFUSE(server, "", "network.dns.server is missing");
    REFUSE(server, "ns.example.org", "network.dns.server 'ns.example.org' is not an IP address");
    REFUSE(server, "192.0.2.0/24", "network.dns.server");
    REFUSE(zone, NULL, "network.dns.zone is empty");
    REFUSE(zone, "exa mple", "network.dns.zone");
    REFUSE(reverse_zones, no_reverse, "'example.org' is no reverse zone");
    REFUSE(reverse_zones, bad_reverse, "network.dns.reverse_zones");
    REFUSE(key_name, NULL, "network.dns.key");
    REFUSE(algorithm, "hmac-md5", "network.dns.algorithm 'hmac-md5'");
    REFUSE(secret, NULL, "either secret or secret_file");
    REFUSE(secret_file, "/etc/hostname", "either secret or secret_file");
    REFUSE(secret, "", "network.dns.secret is not base64");
    REFUSE(secret, "hunter2", "network.dns.secret is not base64");
    REFUSE(secret, "c2Vjcm V0", "network.dns.secret is not base64");
    REFUSE(secret, "c2VjcmV=====", "network.dns.secret is not base64");

    struct fm_dns_config config = good_config();
    config.name_count = 1;
    config.names = &outside;
    refuse(&config, "'web.example.com', is not in the zone example.org");
    config.names = &empty;
    refuse(&config, "network.dns.names: that of 'web' is empty");
    config.names = &nobody;
    refuse(&config, "network.dns.names");
}

static void a_secret_is_never_in_an_error(void **state)
{
    struct fm_dns_config config = good_config();
    struct fm_follower follower = {0};
    struct fm_error err = {0};

    (void)state;
    config.secret = "almost/base64!";
    assert_int_equal(fm_dns_open(&config, &follower, &err), -FM_E_INVALID);
    assert_null(strstr(err.text, "almost"));
}

static void a_good_configuration_opens(void **state)
{
    static const char *const reverse_zones[] = {"0.10.in-addr.arpa", "d.f.ip6.arpa.", NULL};
    static const struct fm_dns_name names[] = {
        {"web", "www"}, {"api", "api.v2.example.org"}, {"root", "example.org."}};
    struct fm_dns_config config = good_config();
    struct fm_follower follower = {0};
    struct fm_error err = {0};

    (void)state;
    config.server = "2001:db8::53";
    config.reverse_zones = reverse_zones;
    config.algorithm = "hmac-sha512";
    config.names = names;
    config.name_count = FM_COUNT(names);
    assert_int_equal(fm_dns_open(&config, &follower, &err), 0);
    assert_string_equal(follower.ops->kind, "dns");
    fm_dns_close(&follower);
    assert_null(follower.ops);
    fm_dns_close(&follower);
}

static void a_secret_comes_from_a_file_that_only_we_read(void **state)
{
    char path[] = "/tmp/fm-test-dns.XXXXXX";
    struct fm_dns_config config = good_config();
    struct fm_follower follower = {0};
    struct fm_error err = {0};
    fm_autoclose int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    config.secret = NULL;
    config.secret_file = path;
    refuse(&config, "secret_file is not base64"); /* empty */
    assert_int_equal(fm_write_full(fd, SECRET " \nmore\n", strlen(SECRET) + 7), 0);
    assert_int_equal(fm_dns_open(&config, &follower, &err), 0);
    fm_dns_close(&follower);

    assert_int_equal(chmod(path, 0640), 0);
    refuse(&config, "can be read by others: chmod 600");
    unlink(path);
    assert_int_equal(fm_dns_open(&config, &follower, &err), -FM_E_NOT_FOUND);
    assert_non_null(strstr(err.text, path));
}

/* No server listens at this address: whoever is asked would time out. */
static void an_address_that_moves_along_concerns_no_server(void **state)
{
    struct fm_dns_config config = good_config();
    struct fm_follower follower = {0};
    struct fm_error err = {0};
    json_t *before = (json_t *)&config;
    const struct fm_move move = {
        .migration = "m",
        .container = "web",
        .network = "default",
        .mac = "02:00:00:00:00:01",
        .old_ip = "10.0.0.5",
        .new_ip = "10.0.0.5",
        .old_ip6 = "fd00:0::5", /* the same, written otherwise */
        .new_ip6 = "fd00::5",
    };

    (void)state;
    assert_int_equal(fm_dns_open(&config, &follower, &err), 0);
    assert_int_equal(follower.ops->read(follower.ctx, &move, &before, &err), 0);
    assert_null(before);
    fm_dns_close(&follower);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_address_has_its_reverse_name),
        cmocka_unit_test(names_become_absolute_and_lower_case),
        cmocka_unit_test(bad_names_are_told),
        cmocka_unit_test(the_most_specific_zone_has_a_name),
        cmocka_unit_test(sets_are_the_same_in_any_order_and_case),
        cmocka_unit_test(a_plan_survives_the_journal),
        cmocka_unit_test(a_damaged_plan_is_refused),
        cmocka_unit_test(a_bad_configuration_names_its_key),
        cmocka_unit_test(a_secret_is_never_in_an_error),
        cmocka_unit_test(a_good_configuration_opens),
        cmocka_unit_test(a_secret_comes_from_a_file_that_only_we_read),
        cmocka_unit_test(an_address_that_moves_along_concerns_no_server),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
