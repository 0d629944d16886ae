/* The parts of the network that are pure: addresses, names, announcements, what a hold keeps,
 * health check targets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "network/address.h"
#include "network/announce.h"
#include "network/fabric.h"
#include "network/networks.h"
#include "network/redirector.h"
#include "network/verifier.h"

static struct fm_ip ip_of(const char *text)
{
    struct fm_ip ip;
    struct fm_error err = {0};
    assert_int_equal(fm_ip_parse("address", text, &ip, &err), 0);
    return ip;
}

static void test_addresses(void **state)
{
    (void)state;
    static const char *const bad[] = {"",           "10.88.0",      "10.88.0.256",  "10.88.0.5/33",
                                      "10.88.0.5/", "10.88.0.5/-1", "fd00::5/129",  "fd00:::5",
                                      "host",       " 10.88.0.5",   "10.88.0.5/8x", "/24"};
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct fm_ip ip;
        struct fm_error err = {0};
        assert_int_equal(fm_ip_parse("address", bad[i], &ip, &err), -FM_E_INVALID);
        assert_non_null(strstr(err.text, bad[i]));
    }
    static const char *const good[] = {"10.88.0.5/16", "0.0.0.0/0", "fd00:88::5/64", "::1/128"};
    for (size_t i = 0; i < FM_COUNT(good); i++) {
        char text[FM_IP_TEXT];
        struct fm_ip ip = ip_of(good[i]);
        assert_true(ip.with_prefix);
        assert_string_equal(fm_ip_format_prefix(&ip, text), good[i]);
    }
    assert_int_equal(ip_of("10.88.0.5").prefix, 32);
    assert_false(ip_of("10.88.0.5").with_prefix);
}

static void test_subnets(void **state)
{
    (void)state;
    static const struct {
        const char *ip, *subnet;
        bool inside, reserved;
    } cases[] = {
        {"10.88.0.5", "10.88.0.0/16", true, false},   {"10.89.0.5", "10.88.0.0/16", false, false},
        {"10.88.127.9", "10.88.0.0/17", true, false}, {"10.88.128.9", "10.88.0.0/17", false, false},
        {"10.88.0.0", "10.88.0.0/16", true, true},    {"10.88.255.255", "10.88.0.0/16", true, true},
        {"10.88.0.255", "10.88.0.0/16", true, false}, {"10.0.0.0", "10.0.0.0/31", true, false},
        {"1.2.3.4", "0.0.0.0/0", true, false},        {"fd00::5", "fd00::/64", true, false},
        {"fd00:0:0:1::5", "fd00::/64", false, false}, {"fd00::", "fd00::/64", true, true},
        {"10.88.0.5", "fd00::/64", false, false},
    };
    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        struct fm_ip ip = ip_of(cases[i].ip);
        struct fm_ip subnet = ip_of(cases[i].subnet);
        assert_int_equal(fm_ip_in_subnet(&ip, &subnet), cases[i].inside);
        assert_int_equal(fm_ip_overlaps(&ip, &subnet), cases[i].inside);
        assert_int_equal(fm_ip_overlaps(&subnet, &ip), cases[i].inside);
        if (cases[i].inside)
            assert_int_equal(fm_ip_is_reserved(&ip, &subnet), cases[i].reserved);
    }
}

static void test_macs(void **state)
{
    (void)state;
    uint8_t mac[6];
    char text[FM_MAC_TEXT];
    struct fm_error err = {0};
    static const char *const bad[] = {"",
                                      "02:fd:0a:58:00",
                                      "02:fd:0a:58:00:5",
                                      "02:fd:0a:58:00:05:06",
                                      "02-fd-0a-58-00-05",
                                      "00:00:00:00:00:00",
                                      "ff:ff:ff:ff:ff:ff",
                                      "01:00:5e:00:00:01",
                                      "0g:fd:0a:58:00:05"};
    for (size_t i = 0; i < FM_COUNT(bad); i++)
        assert_int_equal(fm_mac_parse(bad[i], mac, &err), -FM_E_INVALID);
    assert_int_equal(fm_mac_parse("02:FD:0a:58:00:05", mac, &err), 0);
    assert_string_equal(fm_mac_format(mac, text), "02:fd:0a:58:00:05");

    struct fm_ip a = ip_of("10.88.0.5/16");
    struct fm_ip b = ip_of("10.88.0.5");
    uint8_t other[6];
    fm_mac_from_ip(&a, mac);
    fm_mac_from_ip(&b, other);
    assert_memory_equal(mac, other, 6); /* the prefix does not matter: the same on every host */
    assert_string_equal(fm_mac_format(mac, text), "02:fd:0a:58:00:05");
    fm_mac_of_gateway(&a, other);
    assert_memory_not_equal(mac, other, 6);
    struct fm_ip six = ip_of("fd00::5");
    struct fm_ip seven = ip_of("fd00::6");
    fm_mac_from_ip(&six, mac);
    fm_mac_from_ip(&seven, other);
    assert_memory_not_equal(mac, other, 6);
    assert_int_equal(mac[0], 2);

    struct fm_ip link_local;
    char ip[FM_IP_TEXT];
    assert_int_equal(fm_mac_parse("02:fd:0a:58:00:05", mac, &err), 0);
    fm_ip_link_local(mac, &link_local);
    assert_string_equal(fm_ip_format_prefix(&link_local, ip), "fe80::fd:aff:fe58:5/64");
}

static void test_names_and_owners(void **state)
{
    (void)state;
    char name[16], again[16], other[16];
    fm_host_if_name("redis", name);
    fm_host_if_name("redis", again);
    fm_host_if_name("redis2", other);
    assert_int_equal(strlen(name), 10);
    assert_string_equal(name, again);
    assert_string_not_equal(name, other);

    struct fm_endpoint ep = {.name = "redis", .ip = "10.88.0.5/16", .mac = "02:fd:0a:58:00:05"};
    char alias[256];
    struct fm_owner owner;
    fm_owner_format(&ep, alias);
    assert_true(fm_owner_parse(alias, &owner));
    assert_string_equal(owner.name, "redis");
    assert_int_equal(owner.mac[5], 5);
    struct fm_ip want = ip_of("10.88.0.5");
    assert_true(fm_ip_equal(&owner.ips[0], &want));
    struct fm_endpoint both = {.name = "redis",
                               .network = "blue",
                               .ip = "10.89.0.5/24",
                               .ip6 = "fd00:89::5/64",
                               .mac = "02:fd:0a:59:00:05"};
    fm_owner_format(&both, alias);
    assert_true(fm_owner_parse(alias, &owner));
    assert_string_equal(owner.network, "blue");
    want = ip_of("fd00:89::5");
    assert_true(fm_ip_equal(&owner.ips[1], &want));
    /* of a version that knew one network and one address */
    assert_true(fm_owner_parse("fleximigrate redis 10.88.0.5/16 02:fd:0a:58:00:05", &owner));
    assert_string_equal(owner.network, "");
    assert_int_equal(owner.ips[1].family, 0);
    static const char *const foreign[] = {"",
                                          "uplink",
                                          "fleximigrate",
                                          "fleximigrate redis",
                                          "fleximigrate redis 10.88.0.5/16 none",
                                          "fleximigrate redis here 02:fd:0a:58:00:05",
                                          "fleximigrate redis 10.88.0.5 02:fd:0a:58:00:05 -",
                                          "fleximigrate redis 10.88.0.5 02:fd:0a:58:00:05 x blue",
                                          "fleximigrate network blue"};
    for (size_t i = 0; i < FM_COUNT(foreign); i++)
        assert_false(fm_owner_parse(foreign[i], &owner));
}

static void test_network_specs(void **state)
{
    (void)state;
    static const struct fm_network_spec good = {.name = "blue",
                                                .subnet = "10.89.0.0/24",
                                                .gateway = "10.89.0.1",
                                                .subnet6 = "fd00:89::/64",
                                                .gateway6 = "fd00:89::1",
                                                .vni = 7};
    struct fm_net net;
    struct fm_error err = {0};
    assert_int_equal(fm_net_check(&good, &net, &err), 0);
    assert_int_equal(net.gateways[1].prefix, 64);
    static const struct {
        struct fm_network_spec spec;
        const char *says;
    } bad[] = {
        {{.name = "", .subnet = "10.89.0.0/24", .vni = 7}, "network"},
        {{.name = "a/b", .subnet = "10.89.0.0/24", .vni = 7}, "network"},
        {{.name = "x", .subnet = "", .vni = 7}, "is not an IP address"},
        {{.name = "x", .subnet = "10.89.0.0", .vni = 7}, "no prefix length"},
        {{.name = "x", .subnet = "10.89.0.5/24", .vni = 7}, "it would be 10.89.0.0/24"},
        {{.name = "x", .subnet = "0.0.0.0/0", .vni = 7}, "too large"},
        {{.name = "x", .subnet = "10.89.0.0/31", .vni = 7}, "too small"},
        {{.name = "x", .subnet = "224.0.0.0/24", .vni = 7}, "reserved"},
        {{.name = "x", .subnet = "fe80::/64", .vni = 7}, "reserved"},
        {{.name = "x", .subnet = "10.89.0.0/24", .gateway = "10.90.0.1", .vni = 7}, "outside"},
        {{.name = "x", .subnet = "10.89.0.0/24", .gateway = "10.89.0.0", .vni = 7}, "reserved"},
        {{.name = "x", .subnet = "10.89.0.0/24", .gateway6 = "fd00::1", .vni = 7}, "outside"},
        {{.name = "x", .subnet = "fd00::/64", .subnet6 = "fd01::/64", .vni = 7}, "IPv4"},
        {{.name = "x", .subnet = "10.89.0.0/24", .subnet6 = "10.90.0.0/24", .vni = 7}, "IPv6"},
        {{.name = "x", .subnet = "10.89.0.0/24"}, "VNI 0"},
        {{.name = "x", .subnet = "10.89.0.0/24", .vni = 1u << 24}, "VNI 16777216"},
        {{.name = "x", .subnet = "10.89.0.0/24", .vni = 7, .mtu = 100}, "MTU 100"},
        {{.name = "x", .subnet = "10.89.0.0/24", .vni = 7, .parent = "br0"}, "no parent"},
        {{.name = "x", .mode = FM_NETWORK_BRIDGE, .subnet = "10.89.0.0/24"}, "needs a parent"},
        {{.name = "x",
          .mode = FM_NETWORK_MACVLAN,
          .subnet = "10.89.0.0/24",
          .vni = 7,
          .parent = "br0"},
         "only an overlay"},
        {{.name = "x", .mode = (enum fm_network_mode)9, .subnet = "10.89.0.0/24"}, "mode 9"},
    };
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        err = (struct fm_error){0};
        assert_int_equal(fm_net_check(&bad[i].spec, &net, &err), -FM_E_INVALID);
        if (!strstr(err.text, bad[i].says))
            fail_msg("'%s' does not say '%s'", err.text, bad[i].says);
    }
}

static void test_gratuitous_arp(void **state)
{
    (void)state;
    static const uint8_t mac[6] = {2, 0xfd, 10, 88, 0, 5};
    static const uint8_t want[42] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,  0xfd, 10, 88, 0, 5, 8, 6, /* Ethernet */
        0,    1,    8,    0,    6,    4,    0,  1,                        /* request */
        2,    0xfd, 10,   88,   0,    5,    10, 88,   0,  5,              /* sender */
        0,    0,    0,    0,    0,    0,    10, 88,   0,  5,              /* target */
    };
    struct fm_ip ip = ip_of("10.88.0.5/16");
    uint8_t frame[FM_ANNOUNCEMENT_MAX];
    assert_int_equal(fm_announcement_build(&ip, mac, frame), sizeof(want));
    assert_memory_equal(frame, want, sizeof(want));
}

static void test_neighbour_advertisement(void **state)
{
    (void)state;
    static const uint8_t mac[6] = {2, 0xfd, 10, 88, 0, 5};
    struct fm_ip ip = ip_of("fd00:88::5");
    uint8_t frame[FM_ANNOUNCEMENT_MAX];
    assert_int_equal(fm_announcement_build(&ip, mac, frame), 14 + 40 + 32);
    assert_int_equal(frame[0], 0x33);
    assert_int_equal(frame[14 + 7], 255); /* hop limit: not from another network */
    assert_int_equal(frame[54], 136);
    assert_int_equal(frame[58], 0x20);
    assert_memory_equal(frame + 62, ip.bytes, 16);
    assert_memory_equal(frame + 80, mac, 6);
    uint32_t sum = 32 + 58; /* the checksum over pseudo header and message comes out as all ones */
    for (size_t i = 22; i < 86; i += 2)
        sum += (uint32_t)(frame[i] << 8 | frame[i + 1]);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    assert_int_equal(sum, 0xffff);
}

static void test_what_a_hold_keeps(void **state)
{
    (void)state;
    const struct fm_port port = {.mac = {2, 0xfd, 10, 88, 0, 5}, .ips = {ip_of("10.88.0.5/16")}};
    const struct fm_port both = {.mac = {2, 0xfd, 10, 88, 0, 5},
                                 .ips = {ip_of("10.88.0.5/16"), ip_of("fd00:88::5")}};
    const struct fm_port moved = {.mac = {2, 0xfd, 10, 88, 0, 5}, .ips = {ip_of("10.88.0.6/16")}};
    const struct fm_port six = {.mac = {2, 0xfd, 10, 88, 0, 5}, .ips = {ip_of("fd00:88::5")}};
    static const uint8_t other[6] = {2, 0xfd, 10, 88, 0, 9};
    uint8_t frame[FM_ANNOUNCEMENT_MAX] = {0};

    memcpy(frame, port.mac, 6);
    assert_int_equal(fm_hold_classify(frame, 60, &port), FM_HOLD_UNICAST);
    assert_int_equal(fm_hold_classify(frame, 13, &port), FM_HOLD_NOT_OURS);
    memcpy(frame, other, 6);
    assert_int_equal(fm_hold_classify(frame, 60, &port), FM_HOLD_NOT_OURS);

    size_t len = fm_announcement_build(&port.ips[0], other, frame); /* asks for our address */
    assert_int_equal(fm_hold_classify(frame, len, &port), FM_HOLD_RESOLVE);
    assert_int_equal(fm_hold_classify(frame, len, &moved), FM_HOLD_NOT_OURS);
    assert_int_equal(fm_hold_classify(frame, len, &both), FM_HOLD_RESOLVE);
    assert_int_equal(fm_hold_classify(frame, len, &six), FM_HOLD_NOT_OURS);
    for (size_t cut = 0; cut < len; cut++) /* never reads past the end */
        assert_int_equal(fm_hold_classify(frame, cut, &port), FM_HOLD_NOT_OURS);
    frame[21] = 2; /* a reply is nobody's question */
    assert_int_equal(fm_hold_classify(frame, len, &port), FM_HOLD_NOT_OURS);

    len = fm_announcement_build(&six.ips[0], other, frame);
    assert_int_equal(fm_hold_classify(frame, len, &six), FM_HOLD_NOT_OURS);
    frame[54] = 135; /* a solicitation has its target at the same place */
    assert_int_equal(fm_hold_classify(frame, len, &six), FM_HOLD_RESOLVE);
    assert_int_equal(fm_hold_classify(frame, len, &port), FM_HOLD_NOT_OURS);
    assert_int_equal(fm_hold_classify(frame, len, &both), FM_HOLD_RESOLVE);
    for (size_t cut = 0; cut < 14 + 40 + 24; cut++)
        assert_int_equal(fm_hold_classify(frame, cut, &both), FM_HOLD_NOT_OURS);
}

/* A frame whose IP header has `head` bytes, from `start` on, and TCP flags. */
static size_t knock(uint8_t frame[128], const uint8_t *start, size_t given, size_t head,
                    uint8_t flags)
{
    memset(frame, 0, 128);
    frame[12] = head == 40 ? 0x86 : 0x08;
    frame[13] = head == 40 ? 0xdd : 0x00;
    memcpy(frame + 14, start, given);
    frame[14 + head + 13] = flags;
    return 14 + head + 20;
}

static void test_what_begins_a_connection(void **state)
{
    (void)state;
    enum { SYN = 0x02, RST = 0x04, ACK = 0x10, ECE = 0x40, CWR = 0x80 };
    static const uint8_t tcp[10] = {0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6};
    static const uint8_t options[10] = {0x46, 0, 0, 44, 0, 0, 0, 0, 64, 6};
    static const uint8_t fragment[10] = {0x45, 0, 0, 40, 0, 0, 0x20, 9, 64, 6};
    static const uint8_t udp[10] = {0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17};
    static const uint8_t tcp6[8] = {0x60, 0, 0, 0, 0, 20, 6, 64};
    static const uint8_t udp6[8] = {0x60, 0, 0, 0, 0, 20, 17, 64};
    static const uint8_t broken[10] = {0x4f, 0, 0, 40, 0, 0, 0, 0, 64, 6};
    uint8_t frame[128];

    size_t len = knock(frame, tcp, sizeof(tcp), 20, SYN);
    assert_true(fm_hold_is_knock(frame, len));
    for (size_t cut = 0; cut < 14 + 20 + 14; cut++)
        assert_false(fm_hold_is_knock(frame, cut));
    assert_true(fm_hold_is_knock(frame, knock(frame, tcp, sizeof(tcp), 20, SYN | ECE | CWR)));
    assert_false(fm_hold_is_knock(frame, knock(frame, tcp, sizeof(tcp), 20, SYN | ACK)));
    assert_false(fm_hold_is_knock(frame, knock(frame, tcp, sizeof(tcp), 20, ACK)));
    assert_false(fm_hold_is_knock(frame, knock(frame, tcp, sizeof(tcp), 20, RST)));
    assert_true(fm_hold_is_knock(frame, knock(frame, options, sizeof(options), 24, SYN)));
    assert_false(fm_hold_is_knock(frame, knock(frame, fragment, sizeof(fragment), 20, SYN)));
    assert_false(fm_hold_is_knock(frame, knock(frame, udp, sizeof(udp), 20, SYN)));
    assert_false(fm_hold_is_knock(frame, knock(frame, broken, sizeof(broken), 20, SYN)));
    assert_true(fm_hold_is_knock(frame, knock(frame, tcp6, sizeof(tcp6), 40, SYN)));
    assert_false(fm_hold_is_knock(frame, knock(frame, tcp6, sizeof(tcp6), 40, SYN | ACK)));
    assert_false(fm_hold_is_knock(frame, knock(frame, udp6, sizeof(udp6), 40, SYN)));
}

static void test_health_check_targets(void **state)
{
    (void)state;
    static const struct {
        const char *kind, *target, *address, *says;
    } bad[] = {
        {"icmp", ":1", "127.0.0.1", "unknown kind of health check 'icmp'"},
        {"tcp", "http://:80/", "127.0.0.1", "is not of the kind 'tcp'"},
        {"http", "tcp://:80", "127.0.0.1", "is not of the kind 'http'"},
        {"http", "ftp://:80", "127.0.0.1", "neither http://, https:// nor tcp://"},
        {"tcp", "tcp://", "127.0.0.1", "needs a port"},
        {"tcp", ":0", "127.0.0.1", "needs a port"},
        {"tcp", ":65536", "127.0.0.1", "needs a port"},
        {"tcp", "tcp://[::1", "127.0.0.1", "needs a port"},
        {"tcp", "somewhere:80", NULL, "is not an IP address"},
        {"tcp", ":80", NULL, "names no host"},
    };
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct fm_health_check check = {.kind = bad[i].kind,
                                        .target = bad[i].target,
                                        .address = bad[i].address,
                                        .attempts = 1,
                                        .timeout_ms = 100};
        struct fm_error err = {0};
        assert_int_equal(fm_verify_health(&check, NULL, &err), -FM_E_INVALID);
        assert_non_null(strstr(err.text, bad[i].says));
    }
    /* Port 1 of the loopback refuses: the target was understood. */
    static const char *const understood[] = {":1", "tcp://:1", "tcp://127.0.0.1:1/",
                                             "tcp://[::1]:1"};
    for (size_t i = 0; i < FM_COUNT(understood); i++) {
        struct fm_health_check check = {.kind = "tcp",
                                        .target = understood[i],
                                        .address = "127.0.0.1",
                                        .attempts = 1,
                                        .timeout_ms = 1000};
        struct fm_error err = {0};
        char report[256] = "";
        assert_int_equal(fm_verify_health(&check, report, &err), -FM_E_FAILED);
        assert_non_null(strstr(err.text, "(1 attempt)"));
        assert_non_null(strstr(report, ":1"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_subnets),
        cmocka_unit_test(test_macs),
        cmocka_unit_test(test_names_and_owners),
        cmocka_unit_test(test_network_specs),
        cmocka_unit_test(test_gratuitous_arp),
        cmocka_unit_test(test_neighbour_advertisement),
        cmocka_unit_test(test_what_a_hold_keeps),
        cmocka_unit_test(test_what_begins_a_connection),
        cmocka_unit_test(test_health_check_targets),
    };
    return cmocka_run_group_tests_name("network", tests, NULL, NULL);
}
