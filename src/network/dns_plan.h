/* What a move does to the DNS: sets of records before and after, and the steps between the two. */
#ifndef FM_NETWORK_DNS_PLAN_H
#define FM_NETWORK_DNS_PLAN_H

#include <jansson.h>

#include "network/dns_name.h"
#include "network/dns_update.h"

#define FM_DNS_MAX_ENTRIES 8 /* A, AAAA, and a PTR of the old and of the new address of each */

struct fm_dns_entry {
    char zone[FM_DNS_NAME_TEXT];
    char name[FM_DNS_NAME_TEXT];
    enum fm_dns_type type;
    struct fm_dns_rrset before, after; /* with the TTLs outside of the move */
};

struct fm_dns_plan {
    struct fm_dns_entry entries[FM_DNS_MAX_ENTRIES];
    size_t count;
};

/* An empty one at the end; NULL when there is no room. */
struct fm_dns_entry *fm_dns_plan_add(struct fm_dns_plan *plan, const char *zone, const char *name,
                                     enum fm_dns_type type);
void fm_dns_plan_clear(struct fm_dns_plan *plan);

/* {"records":[{"zone","name","type","before":{"ttl","data":[…]},"after":{…}}]}; new reference. */
json_t *fm_dns_plan_save(const struct fm_dns_plan *plan);
int fm_dns_plan_load(const json_t *saved, struct fm_dns_plan *plan, struct fm_error *err);

enum fm_dns_step {
    FM_DNS_PREPARE, /* before, with a low TTL; asks every zone whether it would take the rest */
    FM_DNS_SWITCH,  /* after, with a low TTL */
    FM_DNS_FINISH,  /* after */
    FM_DNS_UNDO,    /* before, from wherever it is */
};
/* One update per zone, at once or not at all. Done already is done. Of an address set only the
 * container's own record is exchanged: others may come and go meanwhile, and an update that meets
 * another one is made again from what is there then. A TTL that was low at the beginning stays as
 * it is. FM_E_REFUSED: the own record is neither as it was before the step nor as it is after it,
 * or an address has got another name; then that set stays as it is (undo: and the others are put
 * back). */
int fm_dns_plan_step(const struct fm_dns_server *server, const struct fm_dns_plan *plan,
                     enum fm_dns_step step, uint32_t low_ttl, uint64_t deadline_ms,
                     struct fm_error *err);

#endif
