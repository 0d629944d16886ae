#include "network/announce.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"

static uint8_t *put(uint8_t *at, const void *bytes, size_t len)
{
    memcpy(at, bytes, len);
    return at + len;
}

static uint8_t *put_u16(uint8_t *at, uint16_t value)
{
    uint16_t wire = htons(value);
    return put(at, &wire, 2);
}

static uint8_t *put_ethernet(uint8_t *at, const uint8_t to[6], const uint8_t from[6], uint16_t type)
{
    return put_u16(put(put(at, to, 6), from, 6), type);
}

static size_t build_arp(const struct fm_ip *ip, const uint8_t mac[6], uint8_t *frame)
{
    static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t nobody[6];
    uint8_t *at = put_ethernet(frame, everybody, mac, ETH_P_ARP);
    at = put_u16(at, 1); /* Ethernet */
    at = put_u16(at, ETH_P_IP);
    *at++ = 6;
    *at++ = 4;
    at = put_u16(at, 1); /* request: sender and target address are the same */
    at = put(put(at, mac, 6), ip->bytes, 4);
    at = put(put(at, nobody, 6), ip->bytes, 4);
    return (size_t)(at - frame);
}

static uint32_t add_words(uint32_t sum, const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i + 1 < len; i += 2)
        sum += (uint32_t)(bytes[i] << 8 | bytes[i + 1]);
    return sum;
}

static uint16_t icmp6_checksum(const uint8_t *ip6, const uint8_t *icmp, size_t len)
{
    uint32_t sum = add_words(0, ip6 + 8, 32); /* both addresses */
    sum += (uint32_t)len + IPPROTO_ICMPV6;
    sum = add_words(sum, icmp, len);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static size_t build_advertisement(const struct fm_ip *ip, const uint8_t mac[6], uint8_t *frame)
{
    static const uint8_t all_nodes_mac[6] = {0x33, 0x33, 0, 0, 0, 1};
    static const uint8_t all_nodes[16] = {0xff, 0x02, [15] = 1};
    uint8_t *ip6 = put_ethernet(frame, all_nodes_mac, mac, ETH_P_IPV6);
    uint8_t *at = ip6;
    *at++ = 0x60; /* version 6 */
    *at++ = 0;
    at = put_u16(at, 0);
    at = put_u16(at, 32); /* payload: 24 bytes and the option */
    *at++ = IPPROTO_ICMPV6;
    *at++ = 255;
    at = put(put(at, ip->bytes, 16), all_nodes, 16);
    uint8_t *icmp = at;
    *at++ = 136; /* neighbour advertisement */
    *at++ = 0;
    at = put_u16(at, 0); /* checksum, below */
    *at++ = 0x20;        /* override what you know */
    *at++ = 0;
    at = put_u16(at, 0);
    at = put(at, ip->bytes, 16);
    *at++ = 2; /* option: target link-layer address, one unit of 8 bytes */
    *at++ = 1;
    at = put(at, mac, 6);
    put_u16(icmp + 2, icmp6_checksum(ip6, icmp, (size_t)(at - icmp)));
    return (size_t)(at - frame);
}

size_t fm_announcement_build(const struct fm_ip *ip, const uint8_t mac[6],
                             uint8_t frame[FM_ANNOUNCEMENT_MAX])
{
    return ip->family == AF_INET6 ? build_advertisement(ip, mac, frame) : build_arp(ip, mac, frame);
}

int fm_announce(int packet_fd, int interface, const struct fm_ip *ip, const uint8_t mac[6],
                struct fm_error *err)
{
    uint8_t frame[FM_ANNOUNCEMENT_MAX];
    size_t len = fm_announcement_build(ip, mac, frame);
    struct sockaddr_ll to = {
        .sll_family = AF_PACKET,
        .sll_protocol = htons(ip->family == AF_INET6 ? ETH_P_IPV6 : ETH_P_ARP),
        .sll_ifindex = interface,
        .sll_halen = 6,
    };
    if (sendto(packet_fd, frame, len, 0, (const struct sockaddr *)&to, sizeof(to)) < 0)
        return fm_error_errno(err, errno, "cannot announce the address");
    return 0;
}

void fm_announce_all(int packet_fd, int interface, const struct fm_ip ips[2], const uint8_t mac[6])
{
    struct fm_error ignored = {0};
    for (size_t i = 0; i < 2; i++)
        if (ips[i].family)
            fm_announce(packet_fd, interface, &ips[i], mac, &ignored);
}

struct announcement {
    int packet_fd; /* its own */
    int interface;
    struct fm_ip ips[2];
    uint8_t mac[6];
};

static void *announce_body(void *arg)
{
    struct announcement *a = arg;
    fm_announce_all(a->packet_fd, a->interface, a->ips, a->mac);
    close(a->packet_fd);
    free(a);
    return NULL;
}

void fm_announce_later(int packet_fd, int interface, const struct fm_ip ips[2],
                       const uint8_t mac[6])
{
    struct announcement *a = fm_xcalloc(1, sizeof(*a));
    *a = (struct announcement){.packet_fd = fcntl(packet_fd, F_DUPFD_CLOEXEC, 0),
                               .interface = interface,
                               .ips = {ips[0], ips[1]}};
    memcpy(a->mac, mac, 6);
    pthread_t thread;
    if (a->packet_fd >= 0 && pthread_create(&thread, NULL, announce_body, a) == 0) {
        pthread_detach(thread);
        return;
    }
    fm_announce_all(packet_fd, interface, ips, mac);
    if (a->packet_fd >= 0)
        close(a->packet_fd);
    free(a);
}
