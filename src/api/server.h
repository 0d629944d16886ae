/* The HTTP API of one host: a TCP listener with mutual TLS 1.3 and a unix socket for local users.
 */
#ifndef FM_API_SERVER_H
#define FM_API_SERVER_H

#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"
#include "migration/manager.h"

/* Strings stay the caller's and are needed only during fm_api_start. */
struct fm_api_config {
    const char *host;            /* this host's name, shown by /healthz */
    const char *address;         /* "" or "::": all addresses; NULL: no TCP listener */
    int port;                    /* 0 picks a free one */
    const char *ca, *cert, *key; /* PEM files, for the TCP listener */
    const char *socket_path;     /* NULL: no unix socket */
    const uid_t *uids;           /* who besides root may use the unix socket */
    size_t uid_count;
};

struct fm_api_server;

/* Starts to serve. FM_E_EXISTS when another process serves the unix socket. The manager must
 * outlive the server. */
struct fm_api_server *fm_api_start(const struct fm_api_config *config, struct fm_manager *manager,
                                   struct fm_error *err);
/* Ends event streams, waits for running requests, removes the socket. NULL is fine. */
void fm_api_stop(struct fm_api_server *server);
/* The TCP port in use, 0 without a TCP listener. */
int fm_api_port(const struct fm_api_server *server);

#endif
