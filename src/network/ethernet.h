/* Frames written byte by byte. Each function returns where the next byte goes. Private to those
 * who announce and ask. */
#ifndef FM_NETWORK_ETHERNET_H
#define FM_NETWORK_ETHERNET_H

#include <stddef.h>
#include <stdint.h>

uint8_t *fm_ethernet_put(uint8_t *at, const void *bytes, size_t len);
uint8_t *fm_ethernet_put_u16(uint8_t *at, uint16_t value);
uint8_t *fm_ethernet_put_header(uint8_t *at, const uint8_t to[6], const uint8_t from[6],
                                uint16_t type);
/* An IPv6 header for an ICMPv6 message of `len` bytes that no router passes on. */
uint8_t *fm_ethernet_put_icmp6(uint8_t *at, const uint8_t from[16], const uint8_t to[16],
                               uint16_t len);
/* Writes the checksum into the message behind such a header. */
void fm_ethernet_sign_icmp6(uint8_t *ip6, size_t len);

#endif
