/* The kernel's list of sockets in a network namespace (sock_diag(7)). */
#ifndef FM_NETWORK_SOCK_DIAG_H
#define FM_NETWORK_SOCK_DIAG_H

#include <stdint.h>

#include <linux/inet_diag.h>

#include "base/error.h"

#define FM_SOCK_STATE(state) (1u << (state)) /* of netinet/tcp.h; UDP: TCP_CLOSE is unconnected */

/* A descriptor that looks into the namespace at `path` (NULL: the caller's). */
int fm_sock_diag_open(const char *path, struct fm_error *err);
/* Calls `each` for every IPv4 and IPv6 socket of a protocol in one of the states. */
typedef void (*fm_sock_diag_fn)(const struct inet_diag_msg *socket, void *ctx);
int fm_sock_diag_each(int fd, int protocol, uint32_t states, fm_sock_diag_fn each, void *ctx,
                      struct fm_error *err);

#endif
