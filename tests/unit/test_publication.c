/* Published ports as people write them, and lists of them. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "network/publication.h"

static void accepts(const char *text, uint16_t host_port, uint16_t port, const char *protocol)
{
    struct fm_publication p;
    struct fm_error err = {0};
    assert_int_equal(fm_publication_parse(text, &p, &err), 0);
    assert_int_equal(p.host_port, host_port);
    assert_int_equal(p.port, port);
    assert_string_equal(p.protocol, protocol);
    assert_string_equal(p.container, "");
    assert_string_equal(p.ip6, "");
}

static void test_parse(void **state)
{
    (void)state;
    accepts("8080:80", 8080, 80, "tcp");
    accepts("8080:80/tcp", 8080, 80, "tcp");
    accepts("53:5353/udp", 53, 5353, "udp");
    accepts("80", 80, 80, "tcp");
    accepts("65535:1/udp", 65535, 1, "udp");
}

static void test_parse_refuses(void **state)
{
    (void)state;
    const char *const bad[] = {
        "",
        ":",
        "0",
        "80:0",
        "0:80",
        "65536",
        "80:",
        ":80",
        "a:80",
        "80:b",
        "-1:80",
        "80:80/",
        "80/sctp",
        "80:80/TCP",
        "8080-8090",
        "80:80/tcp/x",
        "80:80/udpx",
        " 80:80",
        "80:80 ",
        "1.2.3.4:80:80",
        "[::1]:80:80",
        "80::80",
        "8e1",
        "0x50",
        "80:99999999999999999999",
    };
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct fm_publication p;
        struct fm_error err = {0};
        if (fm_publication_parse(bad[i], &p, &err) != -FM_E_INVALID)
            fail_msg("'%s' was accepted", bad[i]);
        assert_non_null(strstr(err.text, "cannot publish '"));
        assert_null(strchr(err.text, '\n'));
    }
}

static void test_format(void **state)
{
    (void)state;
    struct fm_publication p;
    struct fm_error err = {0};
    char text[FM_PUBLICATION_TEXT];
    assert_int_equal(fm_publication_parse("65535:65534/udp", &p, &err), 0);
    assert_string_equal(fm_publication_format(&p, text), "65535:65534/udp");
}

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

static bool in_use(const char *protocol, uint16_t port)
{
    bool found = false;
    struct fm_error err = {0};
    if (fm_publication_in_use(protocol, port, &found, &err) < 0)
        fail_msg("%s", err.text);
    return found;
}

/* A socket on a free port of loopback; *port is which. */
static int listen_somewhere(int family, int type, uint16_t *port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    struct sockaddr *address = family == AF_INET ? (struct sockaddr *)&in : (struct sockaddr *)&in6;
    socklen_t len = family == AF_INET ? sizeof(in) : sizeof(in6);
    int fd = socket(family, type | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, address, len), 0);
    if (type == SOCK_STREAM)
        assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, address, &len), 0);
    *port = ntohs(family == AF_INET ? in.sin_port : in6.sin6_port);
    return fd;
}

static void test_in_use(void **state)
{
    (void)state;
    uint16_t port = 0;
    const int families[] = {AF_INET, AF_INET6};
    for (size_t i = 0; i < FM_COUNT(families); i++) {
        int fd = listen_somewhere(families[i], SOCK_STREAM, &port);
        assert_true(in_use("tcp", port));
        close(fd);
        assert_false(in_use("tcp", port));
        fd = listen_somewhere(families[i], SOCK_DGRAM, &port);
        assert_true(in_use("udp", port));
        close(fd);
        assert_false(in_use("udp", port));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),         cmocka_unit_test(test_parse_refuses),
        cmocka_unit_test(test_format),        cmocka_unit_test(test_check),
        cmocka_unit_test(test_check_refuses), cmocka_unit_test(test_in_use),
    };
    return cmocka_run_group_tests_name("publication", tests, NULL, NULL);
}
