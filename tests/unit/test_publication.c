/* Lists of published ports. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "network/publication.h"

static const struct fm_publication good[] = {
    {"web", "default", "tcp", 8080, 80, "10.88.0.5", "fd00::5"},
    {"web", "default", "udp", 8080, 80, "10.88.0.5", ""},
    {"web", "default", "tcp", 8081, 80, "10.88.0.5", ""}, /* twice the same port of the container */
    {"six", "other", "tcp", 8082, 80, "fd00::6", ""},
};

static int check_with(const struct fm_publication *changed, struct fm_error *err)
{
    struct fm_publication list[FM_COUNT(good) + 1];
    memcpy(list, good, sizeof(good));
    list[FM_COUNT(good)] = *changed;
    *err = (struct fm_error){0};
    return fm_publication_check(list, FM_COUNT(list), err);
}

static void test_check(void **state)
{
    (void)state;
    struct fm_error err = {0};
    assert_int_equal(fm_publication_check(NULL, 0, &err), 0);
    assert_int_equal(fm_publication_check(good, FM_COUNT(good), &err), 0);

    struct fm_publication p = {"api", "default", "tcp", 9090, 80, "10.88.0.6", ""};
    assert_int_equal(check_with(&p, &err), 0);
    p.host_port = 8080;
    assert_int_equal(check_with(&p, &err), -FM_E_EXISTS);
    assert_string_equal(err.text, "port 8080/tcp is published by container 'web' already; choose "
                                  "another port of the hosts for 'api', as in --publish PORT:80");
    p = good[0]; /* the same container twice is one too many as well */
    assert_int_equal(check_with(&p, &err), -FM_E_EXISTS);
}

static void test_check_refuses(void **state)
{
    (void)state;
    const struct fm_publication bad[] = {
        {"api", "default", "tcp", 0, 80, "10.88.0.6", ""},
        {"api", "default", "tcp", 9090, 0, "10.88.0.6", ""},
        {"api", "default", "sct", 9090, 80, "10.88.0.6", ""},
        {"api", "default", "", 9090, 80, "10.88.0.6", ""},
        {"", "default", "tcp", 9090, 80, "10.88.0.6", ""},
        {"a\"b", "default", "tcp", 9090, 80, "10.88.0.6", ""},
        {"api", "", "tcp", 9090, 80, "10.88.0.6", ""},
        {"api", "de fault", "tcp", 9090, 80, "10.88.0.6", ""},
        {"api", "default", "tcp", 9090, 80, "", ""},
        {"api", "default", "tcp", 9090, 80, "10.88.0.999", ""},
        {"api", "default", "tcp", 9090, 80, "10.88.0.6; drop", ""},
        {"api", "default", "tcp", 9090, 80, "10.88.0.6", "fd00::g"},
        {"api", "default", "tcp", 9090, 80, "10.88.0.6", "10.88.0.7"},
        {"api", "default", "tcp", 9090, 80, "fd00::6", "fd00::7"},
    };
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct fm_error err;
        if (check_with(&bad[i], &err) != -FM_E_INVALID)
            fail_msg("publication %zu was accepted", i);
        assert_true(err.text[0] != '\0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_check_refuses),
    };
    return cmocka_run_group_tests_name("publication", tests, NULL, NULL);
}
