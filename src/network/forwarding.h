/* The kernel's switch for routing packets from one interface to another. */
#ifndef FM_NETWORK_FORWARDING_H
#define FM_NETWORK_FORWARDING_H

#include "base/error.h"

/* Turns forwarding on (net.ipv4.ip_forward, net.ipv6.conf.all.forwarding) and logs it when it was
 * off. Forwarding hosts forget what router advertisements told them and ignore further ones:
 * interfaces that listen to them (accept_ra=1) are told to go on (accept_ra=2). */
int fm_forwarding_enable(int family, struct fm_error *err);

#endif
