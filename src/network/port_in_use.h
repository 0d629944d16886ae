/* Ports of this host that its own programs listen on. */
#ifndef FM_NETWORK_PORT_IN_USE_H
#define FM_NETWORK_PORT_IN_USE_H

#include <stdbool.h>
#include <stdint.h>

/* True when a program does, on another address than a loopback one: requests from elsewhere would
 * not reach it any more if the port were published. Of UDP, ports that clients get by chance are
 * not looked at. What cannot be found out is false. */
bool fm_port_in_use(const char *protocol, uint16_t port);

#endif
