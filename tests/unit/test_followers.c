/* followers.yaml: the example is right, and errors say where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "daemon/followers.h"
#include "scratch.h"

static char *write_file(const char *text)
{
    char *path = fm_strf("%s/followers.yaml", scratch);

    assert_int_equal(fm_file_write(path, text, strlen(text), 0600, NULL), 0);
    return path;
}

static void refuse(const char *text, const char *where, const char *what)
{
    fm_autofree char *path = write_file(text), *start = fm_strf("%s:%s", path, where);
    struct fm_followers f;
    struct fm_error err = {0};

    assert_int_equal(fm_followers_open(path, &f, &err), -FM_E_INVALID);
    if (!fm_starts_with(err.text, start) || !strstr(err.text, what))
        fail_msg("%s", err.text);
    assert_int_equal(f.count, 0);
}

static void the_example_is_right(void **state)
{
    static const char *const names[] = {"sdn", "dns", "load-balancer edge", "load-balancer own"};
    struct fm_followers f;
    struct fm_error err = {0};

    (void)state;
    if (fm_followers_open(EXAMPLE, &f, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(f.count, FM_COUNT(names));
    for (size_t i = 0; i < f.count; i++) {
        assert_string_equal(f.items[i].name, names[i]);
        assert_non_null(f.items[i].ops->read);
    }
    fm_followers_close(&f);
    assert_int_equal(f.count, 0);
}

static void there_may_be_none(void **state)
{
    fm_autofree char *path = write_file("# nothing yet\n");
    struct fm_followers f;

    (void)state;
    assert_int_equal(fm_followers_open(path, &f, NULL), 0);
    assert_int_equal(f.count, 0);
    assert_int_equal(fm_followers_open("/nonexistent/followers.yaml", &f, NULL), 0);
    assert_int_equal(f.count, 0);
    fm_followers_close(&f);
}

#define DNS                                                                                        \
    "dns: {server: 192.0.2.1, zone: example.org, key_name: k, secret: MDEyMzQ1Njc4OWFiY2RlZg=="

#define SDN "sdn: {controllers: [\"http://x\"], switches: [{name: s, dpid: 1}], "

static void errors_say_where(void **state)
{
    (void)state;
    refuse("dns:\n  server: 192.0.2.1\n  zone: example.org\n  colour: red\n", "4:3", "colour");
    refuse("dns:\n  zone: example.org\n", "", "server");
    refuse("bind: {}\n", "1:1", "bind");
    refuse(DNS ", timeout: soon}\n", "1:", "'soon' is not a time");
    refuse(DNS ", port: 70000}\n", "1:", "65535");
    refuse("dns: {server: ns1, zone: example.org, key_name: k, secret: MDEy}\n", "", "server");
    refuse("sdn: {controllers: [\"gopher://x\"], switches: [{name: s, dpid: 1}]}\n", "", "gopher");
    refuse("sdn: {controllers: [\"http://x\"], order: shortest}\n", "1:", "latency or widest");
    refuse(SDN "meter: 4294967295}\n", "", "meter 4294967295");
    refuse(SDN "meter: -1}\n", "", "meter");
    refuse("load_balancers:\n  - name: a\n    command: [/bin/true]\n"
           "  - name: a\n    command: [/bin/true]\n",
           "", "two load balancers are called 'a'");
    refuse("load_balancers:\n  - name: a\n", "", "'a'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_example_is_right),
        cmocka_unit_test(there_may_be_none),
        cmocka_unit_test(errors_say_where),
    };

    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
