/* What a frame is to a container that is held. Every byte of it is somebody else's. */
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <string.h>

#include "base/cleanup.h"
#include "network/redirector.h"

static bool is_arp_request_for(const uint8_t *arp, size_t len, const struct fm_ip *ip)
{
    static const uint8_t head[8] = {0, 1, 8, 0, 6, 4, 0, 1}; /* Ethernet, IPv4, 6, 4, request */
    return ip->family == AF_INET && len >= 28 && memcmp(arp, head, sizeof(head)) == 0 &&
           memcmp(arp + 24, ip->bytes, 4) == 0;
}

static bool is_solicitation_for(const uint8_t *ip6, size_t len, const struct fm_ip *ip)
{
    return ip->family == AF_INET6 && len >= 40 + 24 && ip6[6] == 58 && ip6[40] == 135 &&
           memcmp(ip6 + 40 + 8, ip->bytes, 16) == 0;
}

enum fm_hold_class fm_hold_classify(const uint8_t *frame, size_t len, const struct fm_port *port)
{
    if (len < ETH_HLEN)
        return FM_HOLD_NOT_OURS;
    if (memcmp(frame, port->mac, 6) == 0)
        return FM_HOLD_UNICAST;
    if (!(frame[0] & 1))
        return FM_HOLD_NOT_OURS;
    unsigned type = (unsigned)(frame[12] << 8 | frame[13]);
    const uint8_t *body = frame + ETH_HLEN;
    for (size_t i = 0; i < FM_COUNT(port->ips); i++) {
        const struct fm_ip *ip = &port->ips[i];
        if ((type == ETH_P_ARP && is_arp_request_for(body, len - ETH_HLEN, ip)) ||
            (type == ETH_P_IPV6 && is_solicitation_for(body, len - ETH_HLEN, ip)))
            return FM_HOLD_RESOLVE;
    }
    return FM_HOLD_NOT_OURS;
}

#define TCP_SYN 0x02
#define TCP_ACK 0x10

static bool is_syn(const uint8_t *tcp, size_t len)
{
    return len >= 14 && (tcp[13] & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

bool fm_hold_is_knock(const uint8_t *frame, size_t len)
{
    if (len < ETH_HLEN + 40)
        return false;
    unsigned type = (unsigned)(frame[12] << 8 | frame[13]);
    const uint8_t *ip = frame + ETH_HLEN;
    size_t left = len - ETH_HLEN, head = (size_t)(ip[0] & 0xf) * 4;
    if (type == ETH_P_IP) /* not a later fragment */
        return ip[9] == IPPROTO_TCP && head >= 20 && head < left && !(ip[6] & 0x1f) && !ip[7] &&
               is_syn(ip + head, left - head);
    return type == ETH_P_IPV6 && ip[6] == IPPROTO_TCP && is_syn(ip + 40, left - 40);
}
