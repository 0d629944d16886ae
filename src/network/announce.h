/* Announcements: "this address is at this MAC", to everybody on the segment. */
#ifndef FM_NETWORK_ANNOUNCE_H
#define FM_NETWORK_ANNOUNCE_H

#include "network/address.h"

#define FM_ANNOUNCEMENT_MAX 96

/* Builds a gratuitous ARP request (RFC 5227, section 2.3) or an unsolicited neighbour advertisement
 * (RFC 4861, section 7.2.6); returns the frame's length. */
size_t fm_announcement_build(const struct fm_ip *ip, const uint8_t mac[6],
                             uint8_t frame[FM_ANNOUNCEMENT_MAX]);
/* Sends it on an interface through an AF_PACKET socket. */
int fm_announce(int packet_fd, int interface, const struct fm_ip *ip, const uint8_t mac[6],
                struct fm_error *err);
/* Announces both addresses (family 0: none), as far as it works. */
void fm_announce_all(int packet_fd, int interface, const struct fm_ip ips[2], const uint8_t mac[6]);
/* The same on these interfaces (0: none), one after the other, on a thread of its own: a bridge
 * hands the frames to each of its ports, one by one. */
void fm_announce_later(int packet_fd, const int interfaces[2], const struct fm_ip ips[2],
                       const uint8_t mac[6]);

#endif
