/* Backlog: TCP connections that wait in a network namespace for a listening program to accept them.
 * No checkpoint contains them: no process has them yet. */
#ifndef FM_NETWORK_BACKLOG_H
#define FM_NETWORK_BACKLOG_H

#include <stdint.h>

#include "base/error.h"

struct fm_backlog {
    unsigned listening; /* sockets */
    unsigned waiting;   /* connections that are there, and not accepted */
    unsigned half_open; /* the client has not answered yet */
    uint16_t port;      /* one where connections wait */
};

/* `fd`: fm_sock_diag_open. */
int fm_backlog_look(int fd, struct fm_backlog *backlog, struct fm_error *err);
/* Looks until nobody waits any more; FM_E_TIMEOUT names a port where somebody still does. Clients
 * that leave a connection half open are waited for a moment only. */
int fm_backlog_await(int fd, uint64_t patience_ms, struct fm_error *err);

#endif
