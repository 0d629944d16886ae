/* Listening sockets of the API. */
#ifndef FM_API_LISTENER_H
#define FM_API_LISTENER_H

#include "base/error.h"

/* Listens on a TCP port ("" or "::": every address, IPv4 too). Returns the descriptor. */
int fm_listen_tcp(const char *address, int port, struct fm_error *err);
/* The port that a descriptor is bound to. */
int fm_listen_port(int fd);
/* Listens on a unix socket with the given mode; takes the place of a socket that nobody serves any
 * more, FM_E_EXISTS when somebody does. */
int fm_listen_unix(const char *path, unsigned mode, struct fm_error *err);

#endif
