/* Leases: which address of which network belongs to whom, and on which host that is.
 *
 * A lease is claimed at every host that can be reached before it is used. Of two that were made
 * while their hosts did not hear each other the newer one stands, and the other is reported. */
#ifndef FM_MIGRATION_LEASES_H
#define FM_MIGRATION_LEASES_H

#include "container/container.h"
#include "migration/components.h"

#define FM_LEASE_AUTO "auto" /* in place of an address */

struct fm_lease {
    char network[32];
    char ip[64];  /* without prefix; with the network it is the key */
    char ip6[64]; /* "": none */
    char mac[18];
    char owner[72]; /* a container's name, or "host:NAME" */
    char host[64];  /* where it is */
    struct fm_strv publish;
    bool removed; /* it was, and the others are to hear so */
};
void fm_lease_clear(struct fm_lease *lease);
/* Anybody's document: every field is checked. */
int fm_lease_from_json(const json_t *doc, struct fm_lease *lease, struct fm_error *err);
json_t *fm_lease_to_json(const struct fm_lease *lease);
bool fm_lease_is_hosts(const struct fm_lease *lease); /* not a container's */

/* Chooses what is left open (`ip` or `ip6` NULL or "auto"), completes addresses, MAC and gateways
 * as the network says, and leases them for a container of this host. Until settle or release
 * nobody takes them away, whatever the registry of containers says. FM_E_REFUSED says who has the
 * address or a published port, FM_E_NO_SPACE that the network is full. */
int fm_lease_take(struct fm_components *p, struct fm_container *c, struct fm_error *err);
/* FM_E_INVALID when it publishes ports and the network is not ours. */
int fm_lease_check_ports(const struct fm_container *c, const struct fm_network_spec *spec,
                         struct fm_error *err);
/* The container's record is written. */
void fm_lease_settle(struct fm_components *p, const struct fm_container *c);
/* The container is gone from this host for good. */
void fm_lease_release(struct fm_components *p, const struct fm_container *c);
/* The same, wherever the lease says that it is. */
void fm_lease_drop(struct fm_components *p, const struct fm_container *c);
/* It keeps the address for now; its published ports are another lease's. */
int fm_lease_yield(struct fm_components *p, const struct fm_container *c, struct fm_error *err);
/* The container runs on `host` from now on, with all of its ports. The others hear it soon; *doc
 * (may be NULL) gets a new reference to the document for those who are told at once. */
int fm_lease_move(struct fm_components *p, const struct fm_container *c, const char *host,
                  json_t **doc, struct fm_error *err);
/* The container does not come here after all: its frames go to where its lease says that it is, or
 * are flooded when nobody has leased its address. Where a lease tells the way, what fails is tried
 * again in the next pass. */
void fm_lease_leave(struct fm_components *p, const struct fm_container *c,
                    const struct fm_endpoint *endpoint);
/* FM_E_REFUSED when somebody else has the container's address or published ports, as far as is
 * known here; of a container by the same name it is the one that comes. */
int fm_lease_check(struct fm_components *p, const struct fm_container *c, struct fm_error *err);

/* The host is gone for good: what it had is free again. One that comes back all the same leases
 * again what nobody has taken meanwhile. */
void fm_leases_forget_host(struct fm_components *p, const char *host);

/* All leases of a network (NULL: of all), as documents; new reference. */
json_t *fm_leases_list(struct fm_components *p, const char *network, struct fm_error *err);

#endif
