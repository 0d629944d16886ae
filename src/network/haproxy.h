/* HAProxy's runtime API: the servers of a backend, read and changed through its stats socket
 * (HAProxy management guide, "Unix Socket commands"). */
#ifndef FM_NETWORK_HAPROXY_H
#define FM_NETWORK_HAPROXY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cancel.h"
#include "base/error.h"

#define FM_HAPROXY_MAX_WEIGHT 256

/* Where to ask, and until when. Every call opens a connection of its own. */
struct fm_haproxy {
    const char *socket; /* "/run/haproxy/admin.sock", "192.0.2.1:9999", "[2001:db8::1]:9999" */
    const char *backend;
    uint64_t timeout_ms; /* for the error's text */
    uint64_t deadline;   /* of all calls together, on the clock of fm_now_ms */
    struct fm_cancel cancel;
};

struct fm_haproxy_server {
    unsigned backend_id; /* HAProxy's number of the backend, which a frontend cannot share */
    char address[64];    /* as fm_ip_format writes it */
    uint16_t port;
    unsigned weight; /* 0 … 256 */
    bool up;         /* not down, not in maintenance, not drained by its administrator */
};

/* FM_E_INVALID unless both are written as HAProxy takes them. */
int fm_haproxy_check_socket(const char *socket, struct fm_error *err);
int fm_haproxy_check_name(const char *what, const char *name, struct fm_error *err);

/* One server, and how many others of the backend get requests now. FM_E_NOT_FOUND: no such backend
 * or server; *has_backend (may be NULL) tells which. */
int fm_haproxy_read(const struct fm_haproxy *haproxy, const char *name,
                    struct fm_haproxy_server *server, unsigned *others_up, bool *has_backend,
                    struct fm_error *err);
/* Requests or connections that the server has now; `server` as it was read. */
int fm_haproxy_sessions(const struct fm_haproxy *haproxy, const char *name,
                        const struct fm_haproxy_server *server, uint64_t *count,
                        struct fm_error *err);
/* Both read back what they have set: FM_E_FAILED with HAProxy's answer when it is not there. */
int fm_haproxy_set_weight(const struct fm_haproxy *haproxy, const char *name, unsigned weight,
                          struct fm_error *err);
int fm_haproxy_set_address(const struct fm_haproxy *haproxy, const char *name, const char *address,
                           uint16_t port, struct fm_error *err);

#endif
