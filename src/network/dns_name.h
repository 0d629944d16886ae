/* Names of the DNS as text: absolute, lower case, with the dot at the end. Pure. */
#ifndef FM_NETWORK_DNS_NAME_H
#define FM_NETWORK_DNS_NAME_H

#include <stdbool.h>

#include "base/error.h"
#include "network/address.h"

#define FM_DNS_NAME_TEXT 256

/* "Web.Example.org" → "web.example.org." Letters, digits, '-', '_' and '/' (RFC 2317) in labels of
 * at most 63, 253 characters in all. `what` names it in the error. */
int fm_dns_name_parse(const char *what, const char *text, char name[FM_DNS_NAME_TEXT],
                      struct fm_error *err);
/* The name is the zone's own or below it. Both as fm_dns_name_parse makes them. */
bool fm_dns_name_in_zone(const char *name, const char *zone);
/* The most specific one of a NULL-terminated list of zones; NULL: in none of them. */
const char *fm_dns_name_zone(const char *name, const char *const *zones);
/* The name that has the PTR of an address: in in-addr.arpa or ip6.arpa (RFC 1035, RFC 3596). */
void fm_dns_name_of_address(const struct fm_ip *ip, char name[FM_DNS_NAME_TEXT]);

#endif
