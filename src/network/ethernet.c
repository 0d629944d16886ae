#include "network/ethernet.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <string.h>

#define IP6_HEADER 40

uint8_t *fm_ethernet_put(uint8_t *at, const void *bytes, size_t len)
{
    memcpy(at, bytes, len);
    return at + len;
}

uint8_t *fm_ethernet_put_u16(uint8_t *at, uint16_t value)
{
    uint16_t wire = htons(value);
    return fm_ethernet_put(at, &wire, 2);
}

uint8_t *fm_ethernet_put_header(uint8_t *at, const uint8_t to[6], const uint8_t from[6],
                                uint16_t type)
{
    at = fm_ethernet_put(fm_ethernet_put(at, to, 6), from, 6);
    return fm_ethernet_put_u16(at, type);
}

uint8_t *fm_ethernet_put_icmp6(uint8_t *at, const uint8_t from[16], const uint8_t to[16],
                               uint16_t len)
{
    *at++ = 0x60; /* version 6 */
    *at++ = 0;
    at = fm_ethernet_put_u16(at, 0);
    at = fm_ethernet_put_u16(at, len);
    *at++ = IPPROTO_ICMPV6;
    *at++ = 255;
    return fm_ethernet_put(fm_ethernet_put(at, from, 16), to, 16);
}

static uint32_t add_words(uint32_t sum, const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i + 1 < len; i += 2)
        sum += (uint32_t)(bytes[i] << 8 | bytes[i + 1]);
    return sum;
}

void fm_ethernet_sign_icmp6(uint8_t *ip6, size_t len)
{
    uint8_t *icmp = ip6 + IP6_HEADER;
    uint32_t sum = add_words(0, ip6 + 8, 32); /* both addresses */
    sum += (uint32_t)len + IPPROTO_ICMPV6;
    fm_ethernet_put_u16(icmp + 2, 0);
    sum = add_words(sum, icmp, len);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    fm_ethernet_put_u16(icmp + 2, (uint16_t)~sum);
}
