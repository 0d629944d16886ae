/* Addresses: IP with prefix, MAC, and the names that are derived from them. Pure. */
#ifndef FM_NETWORK_ADDRESS_H
#define FM_NETWORK_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/error.h"

#define FM_MAC_TEXT 18
#define FM_IP_TEXT 64

struct fm_ip {
    int family; /* AF_INET, AF_INET6; 0: none */
    uint8_t bytes[16];
    uint8_t prefix;   /* bits; the whole address when none was given */
    bool with_prefix; /* the text had one */
};

/* "10.88.0.5", "10.88.0.5/24", "fd00::5/64". `what` names it in the error. */
int fm_ip_parse(const char *what, const char *text, struct fm_ip *ip, struct fm_error *err);
/* Length of an address of this family in bytes. */
size_t fm_ip_size(const struct fm_ip *ip);
/* Text without and with prefix; both return `text`. */
char *fm_ip_format(const struct fm_ip *ip, char text[FM_IP_TEXT]);
char *fm_ip_format_prefix(const struct fm_ip *ip, char text[FM_IP_TEXT]);
/* Same address; prefixes are not compared. */
bool fm_ip_equal(const struct fm_ip *a, const struct fm_ip *b);
bool fm_ip_in_subnet(const struct fm_ip *ip, const struct fm_ip *subnet);
/* One of the two contains the other. */
bool fm_ip_overlaps(const struct fm_ip *subnet, const struct fm_ip *other);
/* The network's own address, and in IPv4 its broadcast address: no container can have them. */
bool fm_ip_is_reserved(const struct fm_ip *ip, const struct fm_ip *subnet);
/* As a socket address (without port); returns its length. */
socklen_t fm_ip_sockaddr(const struct fm_ip *ip, uint16_t port, struct sockaddr_storage *address);

/* "02:fd:0a:58:00:05"; must be a unicast address. */
int fm_mac_parse(const char *text, uint8_t mac[6], struct fm_error *err);
char *fm_mac_format(const uint8_t mac[6], char text[FM_MAC_TEXT]);
/* The MAC of a container that was not given one: locally administered, the same on every host. */
void fm_mac_from_ip(const struct fm_ip *ip, uint8_t mac[6]);
/* The MAC of the bridges which share a gateway address: a moved container keeps its neighbour
 * entry. */
void fm_mac_of_gateway(const struct fm_ip *gateway, uint8_t mac[6]);
/* The link-local address that belongs to a MAC (RFC 4291, appendix A). */
void fm_ip_link_local(const uint8_t mac[6], struct fm_ip *ip);

/* The bridge side of a container's veth pair: "fm" and 8 hexadecimal digits. */
void fm_host_if_name(const char *container, char name[16]);
/* The devices of a named network: "fmb" and "fmx" and 8 hexadecimal digits. */
void fm_network_if_name(const char *prefix, const char *network, char name[16]);

#endif
