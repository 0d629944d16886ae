/* The parts of the verifier that are pure: dependencies as people write them, solicitations and
 * their answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "network/announce.h"
#include "network/solicit.h"
#include "network/verifier.h"

static struct fm_ip ip_of(const char *text)
{
    struct fm_ip ip;
    struct fm_error err = {0};
    assert_int_equal(fm_ip_parse("address", text, &ip, &err), 0);
    return ip;
}

static void test_dependencies(void **state)
{
    (void)state;
    static const struct {
        const char *text, *kind, *target;
        unsigned ms;
    } good[] = {
        {"tcp://10.88.0.9:5432,500ms", "tcp", "tcp://10.88.0.9:5432", 500},
        {"tcp://10.88.0.9:5432", "tcp", "tcp://10.88.0.9:5432", 1000},
        {"tcp://[fd00:88::9]:5432,2s", "tcp", "tcp://[fd00:88::9]:5432", 2000},
        {"http://10.88.0.9/ready,1ms", "http", "http://10.88.0.9/ready", 1},
        {"http://10.88.0.9:8080,10m", "http", "http://10.88.0.9:8080", 600000},
        {"https://[fd00:88::9]/a,b,50ms", "http", "https://[fd00:88::9]/a,b", 50},
    };
    for (size_t i = 0; i < FM_COUNT(good); i++) {
        struct fm_dependency d;
        struct fm_error err = {0};
        if (fm_dependency_parse(good[i].text, &d, &err) < 0)
            fail_msg("%s", err.text);
        assert_string_equal(d.kind, good[i].kind);
        assert_string_equal(d.target, good[i].target);
        assert_int_equal(d.max_latency_ms, good[i].ms);
        assert_int_equal(d.attempts, 3);
    }
    static const char *const bad[] = {
        "",
        ",500ms",
        "10.88.0.9:5432",
        "tcp://,500ms",
        "tcp://10.88.0.9,500ms",
        "tcp://10.88.0.9:0",
        "tcp://10.88.0.9:65536",
        "tcp://10.88.0.9:5432,",
        "tcp://10.88.0.9:5432,0ms",
        "tcp://10.88.0.9:5432,11m",
        "tcp://10.88.0.9:5432,soon",
        "tcp://10.88.0.9:5432,-5ms",
        "tcp://database:5432,500ms",
        "tcp://:5432",
        "http://database/ready",
        "http:///ready",
        "http://user@10.88.0.9/",
        "icmp://10.88.0.9",
        "udp://10.88.0.9:53",
        "file:///etc/passwd",
    };
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct fm_dependency d;
        struct fm_error err = {0};
        if (fm_dependency_parse(bad[i], &d, &err) != -FM_E_USAGE)
            fail_msg("'%s' was taken", bad[i]);
        assert_non_null(strstr(err.text, "is not understood"));
        assert_null(strchr(err.text, '\n'));
    }
    char text[700] = "http://10.88.0.9/";
    memset(text + strlen(text), 'a', 600);
    struct fm_dependency d;
    struct fm_error err = {0};
    assert_int_equal(fm_dependency_parse(text, &d, &err), -FM_E_USAGE);
}

static const uint8_t asker[6] = {2, 1, 2, 3, 4, 5};
static const uint8_t owner[6] = {2, 0xfd, 10, 88, 0, 5};

/* Turns a question into the answer that a kernel gives. */
static size_t answer_arp(uint8_t *frame, size_t len)
{
    memcpy(frame, asker, 6);
    memcpy(frame + 6, owner, 6);
    frame[21] = 2;
    memcpy(frame + 28, frame + 38, 4); /* the target is the sender now */
    memcpy(frame + 22, owner, 6);
    memcpy(frame + 32, asker, 6);
    return len;
}

static void test_arp(void **state)
{
    (void)state;
    static const uint8_t expected[] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 1, 2, 3, 4, 5, 8, 6, 0, 1, 8, 0,  6,  4, 0,
        1,    2,    1,    2,    3,    4,    5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 88, 0, 5};
    uint8_t frame[FM_SOLICITATION_MAX], mac[6] = {0};
    struct fm_ip ip = ip_of("10.88.0.5"), other = ip_of("10.88.0.6");
    size_t len = fm_solicitation_build(&ip, asker, frame);
    assert_int_equal(len, sizeof(expected));
    assert_memory_equal(frame, expected, len);
    assert_false(fm_solicitation_answer(frame, len, &ip, asker, mac)); /* the question itself */

    answer_arp(frame, len);
    assert_true(fm_solicitation_answer(frame, len, &ip, asker, mac));
    assert_memory_equal(mac, owner, 6);
    assert_false(fm_solicitation_answer(frame, len, &other, asker, mac));
    assert_false(fm_solicitation_answer(frame, len, &ip, owner, mac)); /* to somebody else */
    for (size_t cut = 0; cut < len; cut++)
        assert_false(fm_solicitation_answer(frame, cut, &ip, asker, mac));
    len = fm_announcement_build(&ip, owner, frame); /* is a request that nobody asked for */
    assert_false(fm_solicitation_answer(frame, len, &ip, asker, mac));
}

static void test_neighbour_discovery(void **state)
{
    (void)state;
    uint8_t frame[FM_SOLICITATION_MAX], mac[6] = {0};
    struct fm_ip ip = ip_of("fd00:88::1:5"), other = ip_of("fd00:88::1:6");
    static const uint8_t group[] = {0x33, 0x33, 0xff, 1, 0, 5};
    size_t len = fm_solicitation_build(&ip, asker, frame);
    assert_int_equal(len, 78);
    assert_memory_equal(frame, group, 6);
    assert_int_equal(frame[54], 135);
    uint32_t sum = 24 + 58; /* with its checksum all adds up to ones (RFC 4443, section 2.3) */
    for (size_t i = 22; i < len; i += 2)
        sum += (uint32_t)(frame[i] << 8 | frame[i + 1]);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    assert_int_equal(sum, 0xffff);
    assert_false(fm_solicitation_answer(frame, len, &ip, asker, mac));

    len = fm_announcement_build(&ip, owner, frame);
    assert_true(fm_solicitation_answer(frame, len, &ip, asker, mac));
    assert_memory_equal(mac, owner, 6);
    assert_false(fm_solicitation_answer(frame, len, &other, asker, mac));
    for (size_t cut = 0; cut < 78; cut++)
        assert_false(fm_solicitation_answer(frame, cut, &ip, asker, mac));
    memset(mac, 0, 6);
    assert_true(fm_solicitation_answer(frame, 78, &ip, asker, mac)); /* without its option */
    assert_memory_equal(mac, owner, 6);
    frame[21] = 64; /* has come through a router */
    assert_false(fm_solicitation_answer(frame, len, &ip, asker, mac));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dependencies),
        cmocka_unit_test(test_arp),
        cmocka_unit_test(test_neighbour_discovery),
    };
    return cmocka_run_group_tests_name("verifier", tests, NULL, NULL);
}
