#include "network/solicit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "network/ethernet.h"

#define ARP_BYTES 42u
#define ND_BYTES 78u /* Ethernet, IPv6, and a message with a target */
#define SOLICITATION 135
#define SOLICITATION_BYTES 24
#define ADVERTISEMENT 136
#define TARGET_LINK_ADDRESS 2

/* ---- frames ---- */

static size_t build_arp(const struct fm_ip *ip, const uint8_t from[6], uint8_t *frame)
{
    static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t nobody[6];
    uint8_t *at = fm_ethernet_put_header(frame, everybody, from, ETH_P_ARP);
    at = fm_ethernet_put_u16(at, 1); /* Ethernet */
    at = fm_ethernet_put_u16(at, ETH_P_IP);
    *at++ = 6;
    *at++ = 4;
    at = fm_ethernet_put_u16(at, 1); /* request */
    at = fm_ethernet_put(fm_ethernet_put(at, from, 6), nobody, 4);
    at = fm_ethernet_put(fm_ethernet_put(at, nobody, 6), ip->bytes, 4);
    return (size_t)(at - frame);
}

static size_t build_solicitation(const struct fm_ip *ip, const uint8_t from[6], uint8_t *frame)
{
    const uint8_t *low = ip->bytes + 13;
    const uint8_t group_mac[6] = {0x33, 0x33, 0xff, low[0], low[1], low[2]};
    const uint8_t group[16] = {0xff, 2, [11] = 1, 0xff, low[0], low[1], low[2]};
    static const uint8_t unspecified[16];
    uint8_t *ip6 = fm_ethernet_put_header(frame, group_mac, from, ETH_P_IPV6);
    uint8_t *at = fm_ethernet_put_icmp6(ip6, unspecified, group, SOLICITATION_BYTES);
    *at++ = SOLICITATION;
    *at++ = 0;
    at = fm_ethernet_put_u16(at, 0); /* checksum, below */
    at = fm_ethernet_put_u16(fm_ethernet_put_u16(at, 0), 0);
    at = fm_ethernet_put(at, ip->bytes, 16);
    fm_ethernet_sign_icmp6(ip6, SOLICITATION_BYTES);
    return (size_t)(at - frame);
}

size_t fm_solicitation_build(const struct fm_ip *ip, const uint8_t from[6],
                             uint8_t frame[FM_SOLICITATION_MAX])
{
    return ip->family == AF_INET6 ? build_solicitation(ip, from, frame)
                                  : build_arp(ip, from, frame);
}

static bool is_arp_reply(const uint8_t *frame, size_t len, const struct fm_ip *ip,
                         const uint8_t from[6], uint8_t mac[6])
{
    static const uint8_t head[] = {0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2};
    if (len < ARP_BYTES || memcmp(frame + 12, head, sizeof(head)) != 0 ||
        memcmp(frame + 28, ip->bytes, 4) != 0 || memcmp(frame + 32, from, 6) != 0)
        return false;
    memcpy(mac, frame + 22, 6);
    return true;
}

static bool is_advertisement(const uint8_t *frame, size_t len, const struct fm_ip *ip,
                             uint8_t mac[6])
{
    if (len < ND_BYTES || frame[12] != 0x86 || frame[13] != 0xdd || frame[20] != IPPROTO_ICMPV6 ||
        frame[21] != 255 || frame[54] != ADVERTISEMENT || frame[55] != 0 ||
        memcmp(frame + 62, ip->bytes, 16) != 0)
        return false;
    bool option = len >= ND_BYTES + 8 && frame[78] == TARGET_LINK_ADDRESS && frame[79] == 1;
    memcpy(mac, option ? frame + 80 : frame + 6, 6);
    return true;
}

bool fm_solicitation_answer(const uint8_t *frame, size_t len, const struct fm_ip *ip,
                            const uint8_t from[6], uint8_t mac[6])
{
    return ip->family == AF_INET6 ? is_advertisement(frame, len, ip, mac)
                                  : is_arp_reply(frame, len, ip, from, mac);
}

/* ---- on the wire ---- */

struct asker {
    int fd;
    int index;
    const char *interface;
    const struct fm_ip *ip;
    uint8_t mac[6];
    uint64_t asked_us;
};

/* A busy segment must not crowd the answer out of the socket's buffer. */
static int only_answers(int fd, const struct fm_ip *ip, struct fm_error *err)
{
    static struct sock_filter advertisements[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 20),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ICMPV6, 0, 3),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 54),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ADVERTISEMENT, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 256),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    const struct sock_fprog program = {.len = FM_COUNT(advertisements), .filter = advertisements};
    if (ip->family == AF_INET6 &&
        setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0)
        return fm_error_errno(err, errno, "cannot filter a packet socket");
    return 0;
}

static bool is_shared(const uint8_t mac[6], const struct fm_ip *any)
{
    uint8_t sample[6];
    fm_mac_of_gateway(any, sample);
    return memcmp(mac, sample, 2) == 0;
}

/* The bridges with a gateway's address have the same MAC on every host: the answer to that would
 * end on the host of who answers. */
static int choose_mac(struct asker *a, struct fm_error *err)
{
    struct ifreq request = {0};
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", a->interface);
    if (ioctl(a->fd, SIOCGIFINDEX, &request) < 0)
        return fm_error_set(err, FM_E_NOT_FOUND, "there is no interface %s", a->interface);
    a->index = request.ifr_ifindex;
    if (ioctl(a->fd, SIOCGIFHWADDR, &request) < 0)
        return fm_error_errno(err, errno, "cannot read the MAC address of %s", a->interface);
    memcpy(a->mac, request.ifr_hwaddr.sa_data, 6);
    if (!is_shared(a->mac, a->ip))
        return 0;
    if (getrandom(a->mac, 6, 0) != 6)
        return fm_error_errno(err, errno, "cannot get random numbers");
    a->mac[0] = (uint8_t)((a->mac[0] & 0xfc) | 2);
    return 0;
}

/* What is asked there nobody hears: that says nothing of the address. */
static int check_up(const struct asker *a, struct fm_error *err)
{
    struct ifreq request = {0};
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", a->interface);
    if (ioctl(a->fd, SIOCGIFFLAGS, &request) < 0)
        return fm_error_errno(err, errno, "cannot read the state of %s", a->interface);
    if (!(request.ifr_flags & IFF_UP))
        return fm_error_set(err, FM_E_REFUSED, "interface %s is down", a->interface);
    if (!(request.ifr_flags & IFF_RUNNING))
        return fm_error_set(err, FM_E_REFUSED, "interface %s has no carrier", a->interface);
    return 0;
}

static int listen_on(struct asker *a, struct fm_error *err)
{
    uint16_t protocol = htons(a->ip->family == AF_INET6 ? ETH_P_IPV6 : ETH_P_ARP);
    const struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = protocol, .sll_ifindex = a->index};
    const struct packet_mreq all = {.mr_ifindex = a->index, .mr_type = PACKET_MR_PROMISC};
    int rc = only_answers(a->fd, a->ip, err);
    if (rc < 0)
        return rc;
    if (bind(a->fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
        setsockopt(a->fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof(all)) < 0)
        return fm_error_errno(err, errno, "cannot listen on %s", a->interface);
    return 0;
}

static int ask(struct asker *a, struct fm_error *err)
{
    uint8_t frame[FM_SOLICITATION_MAX];
    size_t len = fm_solicitation_build(a->ip, a->mac, frame);
    a->asked_us = fm_now_us();
    if (send(a->fd, frame, len, 0) < 0)
        return fm_error_errno(err, errno, "cannot ask on %s", a->interface);
    return 0;
}

/* One frame, if there is one: true when it is the answer. */
static bool take_answer(struct asker *a, uint8_t mac[6])
{
    uint8_t frame[256];
    struct sockaddr_ll from = {0};
    socklen_t size = sizeof(from);
    ssize_t n =
        recvfrom(a->fd, frame, sizeof(frame), MSG_DONTWAIT, (struct sockaddr *)&from, &size);
    return n > 0 && from.sll_pkttype != PACKET_OUTGOING &&
           fm_solicitation_answer(frame, (size_t)n, a->ip, a->mac, mac);
}

static int await(struct asker *a, struct fm_solicitation *s, struct fm_error *err)
{
    uint64_t deadline = fm_now_ms() + s->timeout_ms;
    for (uint64_t now = fm_now_ms(); now < deadline; now = fm_now_ms()) {
        struct pollfd p = {.fd = a->fd, .events = POLLIN};
        bool answered = poll(&p, 1, (int)(deadline - now)) > 0 && take_answer(a, s->mac);
        s->took_us = fm_now_us() - a->asked_us;
        if (answered)
            return 0;
        if (p.revents & POLLERR)
            return fm_error_set(err, FM_E_REFUSED, "interface %s is down", a->interface);
    }
    char text[FM_IP_TEXT];
    return fm_error_set(
        err, FM_E_UNREACHABLE, "address %s does not answer %s on %s within %" PRIu64 " ms",
        fm_ip_format(a->ip, text), a->ip->family == AF_INET6 ? "neighbour discovery" : "ARP",
        a->interface, s->timeout_ms);
}

int fm_solicit(struct fm_solicitation *s, struct fm_error *err)
{
    fm_autoclose int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fm_error_errno(err, errno, "cannot open a packet socket");
    struct asker a = {.fd = fd, .interface = s->interface, .ip = &s->ip};
    int rc = choose_mac(&a, err);
    if (rc == 0)
        rc = check_up(&a, err);
    if (rc == 0)
        rc = listen_on(&a, err);
    if (rc == 0)
        rc = ask(&a, err);
    return rc < 0 ? rc : await(&a, s, err);
}
