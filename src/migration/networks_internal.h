/* Between the files of the networks: objects (networks.c), addresses (leases.c, lease_choice.c,
 * lease_claim.c, lease_take.c, lease_tidy.c), what hosts tell each other (replica.c,
 * replica_sync.c), and the comparison with records and the kernel (network_verify.h). */
#ifndef FM_MIGRATION_NETWORKS_INTERNAL_H
#define FM_MIGRATION_NETWORKS_INTERNAL_H

#include <pthread.h>

#include "migration/leases.h"
#include "migration/networks.h"
#include "migration/replica.h"

/* An address that somebody is about to lease. */
struct fm_claim {
    struct fm_lease lease;
    uint64_t until_ms; /* 0: ours, until it is settled or released */
    struct fm_claim *next;
};

/* Another host, as far as documents are concerned. */
struct fm_member {
    char name[64];
    bool met;          /* it has all that there was when it was met, and has been told since */
    uint64_t retry_ms; /* when it is tried again */
    uint64_t pause_ms; /* after the next failure */
    struct fm_member *next;
};

struct fm_networks {
    struct fm_network_spec standard;
    /* From the reading of a document to its writing, and for all below. Never held while another
     * host is asked. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct fm_claim *claims;
    struct fm_member *members;
    json_t *untold; /* {"kind key": true} */
    bool stopping;
    bool pointed;            /* every lease is in effect here; else it is tried again */
    uint64_t tidy_ms;        /* when leases and containers are compared next */
    pthread_mutex_t passing; /* one exchange with the others at a time */
};

/* What a document of a kind changes on this host; `before` may be NULL. With the lock held. The
 * error is what did not work: the document stands all the same. */
int fm_networks_apply(struct fm_components *p, const json_t *before, const json_t *doc,
                      struct fm_error *err);
int fm_leases_apply(struct fm_components *p, const json_t *before, const json_t *doc,
                    struct fm_error *err);

/* The lease of a container on a host. */
void fm_lease_of(const struct fm_container *c, const char *host, struct fm_lease *lease);
/* For people, who do not see an empty text. */
static inline const char *fm_or_nothing(const char *value)
{
    return *value ? value : "nothing";
}
/* What a container's lease `doc` says other than its record, a line each (MAC, second address,
 * published ports): new reference, empty when nothing. */
json_t *fm_lease_differences(const json_t *doc, const struct fm_lease *record);
/* Puts a lease into effect here: where its frames go, or this host's own address. */
int fm_lease_point(struct fm_components *p, const json_t *lease, struct fm_error *err);
/* Puts all of them into effect, and publishes the ports: after a start, or when it failed. */
void fm_leases_point(struct fm_components *p);
/* Asks for that at the next pass, and then with patience. With the lock held. */
void fm_leases_point_again(struct fm_networks *n);
/* Every published port; the caller frees *list. */
int fm_leases_publications(struct fm_components *p, struct fm_publication **list, size_t *count,
                           struct fm_error *err);

/* What another host asks about claims. */
json_t *fm_leases_answer_claim(struct fm_components *p, const char *peer, const json_t *body,
                               struct fm_error *err);
json_t *fm_leases_answer_unclaim(struct fm_components *p, const char *peer, const json_t *body,
                                 struct fm_error *err);
/* Asks every host that can be reached whether the lease may be taken. */
int fm_lease_claim(struct fm_components *p, const struct fm_lease *lease, bool settled,
                   struct fm_error *err);
/* Enters a claim of ours, unless it is `settled`, and asks every host that can be reached; negative
 * with *conflict (new reference): who has it. Not with the lock held. */
int fm_claim_make(struct fm_components *p, const struct fm_lease *lease, bool settled,
                  json_t **conflict);
int fm_claim_refuse(const json_t *conflict, struct fm_error *err);
/* With the lock held: forgets other hosts' claims that are too old; how many of them are left. */
size_t fm_claims_expire(struct fm_networks *n);
/* With the lock held. */
void fm_claim_drop(struct fm_networks *n, const char *network, const char *ip, const char *host);
void fm_claim_forget(struct fm_components *p, const char *network, const char *ip,
                     const char *host);
/* One of ours that is not settled yet: its container's record is still to come. */
bool fm_claim_is_open(struct fm_components *p, const char *network, const char *ip);
/* Who has what this lease wants, a new reference {"owner","host","what"}; NULL nobody. With the
 * lock held. `settled`: the container has come to its host already. */
json_t *fm_lease_conflict(struct fm_components *p, const struct fm_lease *lease, bool settled);

/* The next address that nobody has, from an offset on that differs from host to host; `taken` is
 * an object of those that are not to be used besides, `near` an address whose number is tried
 * first (NULL: none). For hosts it is the last one. FM_E_NO_SPACE. */
struct fm_choice {
    const char *network, *subnet, *gateway, *host;
    const json_t *taken;
    const char *near, *near_subnet;
    bool from_top;
};
int fm_lease_choose(const struct fm_choice *c, char text[64], struct fm_error *err);
/* Addresses that are in use in a network, as the keys of an object; new reference. With the lock
 * held. */
json_t *fm_leases_taken(struct fm_components *p, const char *network);

/* Every container that is on its way from or to this host, as keys; new reference. `leftovers`:
 * also those of which only something that is to be removed is here. */
json_t *fm_leases_moving(struct fm_components *p, bool leftovers);
/* An address of this host's own for every overlay network that has published ports. */
void fm_leases_provide_host(struct fm_components *p);
/* Leases of containers that are not here any more go, and those of containers that are here come.
 */
void fm_leases_tidy(struct fm_components *p);
/* Makes the publications of this host those of all leases. With the lock held. */
int fm_leases_publish(struct fm_components *p, struct fm_error *err);

#endif
