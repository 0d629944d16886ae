/* Reads what the DNS says about a container that changes its address, and plans what it is to say.
 */
#ifndef FM_NETWORK_DNS_READ_H
#define FM_NETWORK_DNS_READ_H

#include "network/dns_plan.h"
#include "network/follower.h"

struct fm_dns_reading {
    const struct fm_dns_server *server;
    const char *zone;
    const char *const *reverse_zones; /* NULL-terminated, or NULL */
    const char *name;                 /* of the container */
    bool is_configured;               /* somebody wrote this name down: it must lead to it */
    uint64_t deadline_ms;
    /* The TTL of a set outside of moves, if another one has lowered it; else what it is now. */
    uint32_t (*ttl_outside)(void *ctx, const char *name, enum fm_dns_type type, uint32_t now);
    void *ttl_ctx;
};

/* Fills in the plan; it stays empty when the addresses stay or no name leads to the container (only
 * what is there follows: no name is made for a container that had none).
 * FM_E_REFUSED: a configured name does not lead to the container. */
int fm_dns_read(const struct fm_dns_reading *reading, const struct fm_move *move,
                struct fm_dns_plan *plan, struct fm_error *err);

#endif
