/* Queries and dynamic updates of resource record sets (RFC 2136), signed (RFC 8945). */
#ifndef FM_NETWORK_DNS_UPDATE_H
#define FM_NETWORK_DNS_UPDATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/text.h"

struct fm_dns_server; /* dns_exchange.h */

enum fm_dns_type { FM_DNS_A = 1, FM_DNS_PTR = 12, FM_DNS_AAAA = 28 };

#define FM_DNS_MAX_RECORDS 256 /* of one set: more is no set of ours */

/* The records of one name and type: no data means that there are none. Zero is empty. */
struct fm_dns_rrset {
    uint32_t ttl;
    struct fm_strv data; /* "10.0.0.5", "fd00::5", "web.example.org." */
};
void fm_dns_rrset_clear(struct fm_dns_rrset *set);
/* The same records; neither their order, nor the case of names, nor the TTL counts. */
bool fm_dns_rrset_same(const struct fm_dns_rrset *a, const struct fm_dns_rrset *b);
bool fm_dns_rrset_has(const struct fm_dns_rrset *set, const char *data);
/* "10.0.0.5 10.0.0.6", "nothing"; the caller frees it. */
char *fm_dns_rrset_text(const struct fm_dns_rrset *set);

const char *fm_dns_type_text(enum fm_dns_type type); /* "A" */

/* What the server, which must be the zone's own, has now. FM_E_EXISTS: the name is an alias. */
int fm_dns_query(const struct fm_dns_server *server, const char *zone, const char *name,
                 enum fm_dns_type type, uint64_t deadline_ms, struct fm_dns_rrset *set,
                 struct fm_error *err);
/* Is this a zone that the server has, and not only a name in one? */
int fm_dns_check_zone(const struct fm_dns_server *server, const char *zone, uint64_t deadline_ms,
                      struct fm_error *err);

/* One set of an update. */
struct fm_dns_change {
    const char *name;
    enum fm_dns_type type;
    const struct fm_dns_rrset *expected; /* the prerequisite: exactly these records, any TTL */
    const struct fm_dns_rrset *wanted;   /* instead; NULL: only the prerequisite */
};
/* All of them at once, or none. FM_E_EXISTS: a prerequisite does not hold, which of them the server
 * does not tell. */
int fm_dns_update(const struct fm_dns_server *server, const char *zone,
                  const struct fm_dns_change *changes, size_t count, uint64_t deadline_ms,
                  struct fm_error *err);

#endif
