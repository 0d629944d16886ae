/* A small certificate authority for those who have none: `fleximigrate cert init|issue`. */
#ifndef FM_WIRE_AUTHORITY_H
#define FM_WIRE_AUTHORITY_H

#include <stddef.h>

#include "base/error.h"

/* Makes DIR/ca.pem and DIR/ca.key (Ed25519 or ECDSA P-256, valid `days`). FM_E_EXISTS when there is
 * one: it is never overwritten. */
int fm_authority_init(const char *dir, const char *name, int days, struct fm_error *err);

struct fm_certificate_request {
    const char *name;             /* common name: host or user */
    const char *role;             /* FM_ROLE_… */
    const char *const *addresses; /* DNS names and IP addresses for the SAN; may be NULL */
    size_t address_count;
    int days;            /* may be negative, for tests: already expired */
    const char *out_dir; /* receives NAME.pem and NAME.key (0600), ca.pem is copied beside them */
};
int fm_authority_issue(const char *ca_dir, const struct fm_certificate_request *request,
                       struct fm_error *err);

#endif
