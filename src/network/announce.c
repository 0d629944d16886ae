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

#include "base/cleanup.h"
#include "base/text.h"
#include "network/ethernet.h"

#define MESSAGE_BYTES 32 /* an advertisement with its option */

static size_t build_arp(const struct fm_ip *ip, const uint8_t mac[6], uint8_t *frame)
{
    static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t nobody[6];
    uint8_t *at = fm_ethernet_put_header(frame, everybody, mac, ETH_P_ARP);
    at = fm_ethernet_put_u16(at, 1); /* Ethernet */
    at = fm_ethernet_put_u16(at, ETH_P_IP);
    *at++ = 6;
    *at++ = 4;
    at = fm_ethernet_put_u16(at, 1); /* request: sender and target address are the same */
    at = fm_ethernet_put(fm_ethernet_put(at, mac, 6), ip->bytes, 4);
    at = fm_ethernet_put(fm_ethernet_put(at, nobody, 6), ip->bytes, 4);
    return (size_t)(at - frame);
}

static size_t build_advertisement(const struct fm_ip *ip, const uint8_t mac[6], uint8_t *frame)
{
    static const uint8_t all_nodes_mac[6] = {0x33, 0x33, 0, 0, 0, 1};
    static const uint8_t all_nodes[16] = {0xff, 0x02, [15] = 1};
    uint8_t *ip6 = fm_ethernet_put_header(frame, all_nodes_mac, mac, ETH_P_IPV6);
    uint8_t *at = fm_ethernet_put_icmp6(ip6, ip->bytes, all_nodes, MESSAGE_BYTES);
    *at++ = 136; /* neighbour advertisement */
    *at++ = 0;
    at = fm_ethernet_put_u16(at, 0); /* checksum, below */
    *at++ = 0x20;                    /* override what you know */
    *at++ = 0;
    at = fm_ethernet_put_u16(at, 0);
    at = fm_ethernet_put(at, ip->bytes, 16);
    *at++ = 2; /* option: target link-layer address, one unit of 8 bytes */
    *at++ = 1;
    at = fm_ethernet_put(at, mac, 6);
    fm_ethernet_sign_icmp6(ip6, MESSAGE_BYTES);
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
    int interfaces[2];
    struct fm_ip ips[2];
    uint8_t mac[6];
};

static void announce_everywhere(const struct announcement *a)
{
    for (size_t i = 0; i < FM_COUNT(a->interfaces); i++)
        if (a->interfaces[i])
            fm_announce_all(a->packet_fd, a->interfaces[i], a->ips, a->mac);
}

static void *announce_body(void *arg)
{
    struct announcement *a = arg;
    announce_everywhere(a);
    close(a->packet_fd);
    free(a);
    return NULL;
}

void fm_announce_later(int packet_fd, const int interfaces[2], const struct fm_ip ips[2],
                       const uint8_t mac[6])
{
    struct announcement *a = fm_xcalloc(1, sizeof(*a));
    *a = (struct announcement){.packet_fd = fcntl(packet_fd, F_DUPFD_CLOEXEC, 0),
                               .interfaces = {interfaces[0], interfaces[1]},
                               .ips = {ips[0], ips[1]}};
    memcpy(a->mac, mac, 6);
    pthread_t thread;
    if (a->packet_fd >= 0 && pthread_create(&thread, NULL, announce_body, a) == 0) {
        pthread_detach(thread);
        return;
    }
    if (a->packet_fd >= 0)
        close(a->packet_fd);
    a->packet_fd = packet_fd;
    announce_everywhere(a);
    free(a);
}
