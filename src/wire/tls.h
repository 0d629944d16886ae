/* TLS identities: certificate, key and authority that a program presents and trusts (TLS 1.3 only).
 */
#ifndef FM_WIRE_TLS_H
#define FM_WIRE_TLS_H

#include <stdbool.h>

#include <gnutls/gnutls.h>

#include "base/error.h"

#define FM_ROLE_VIEWER "viewer"
#define FM_ROLE_OPERATOR "operator"
#define FM_ROLE_NODE "node"

struct fm_tls_paths {
    const char *ca;   /* PEM */
    const char *cert; /* PEM */
    const char *key;  /* PEM, not readable by others (refused otherwise) */
};

/* Loaded credentials, shared by any number of connections. */
struct fm_tls_identity;

/* Loads and checks (dates, key matches, signed by the authority). Errors say which file and what to
 * do. */
struct fm_tls_identity *fm_tls_identity_load(const struct fm_tls_paths *paths,
                                             struct fm_error *err);
void fm_tls_identity_free(struct fm_tls_identity *identity);
/* The certificate's common name. Belongs to the identity. */
const char *fm_tls_identity_name(const struct fm_tls_identity *identity);
gnutls_certificate_credentials_t
fm_tls_identity_credentials(const struct fm_tls_identity *identity);

/* Who is at the other end of a session after the handshake. */
struct fm_tls_peer {
    char name[128]; /* common name */
    char role[32];  /* organisational unit */
};
/* Verifies the peer's chain, dates and (when `expect_name` is not NULL) its name, TLS version 1.3.
 * Used for wire connections and, since libmicrohttpd does not enforce it, by the HTTP server. */
int fm_tls_verify_peer(gnutls_session_t session, const char *expect_name, struct fm_tls_peer *peer,
                       struct fm_error *err);

#endif
