/* Networks: the named networks of all hosts, and the addresses in them.
 *
 * Without a server in the middle every host keeps the whole registry of networks and leases, and
 * tells the others what it changes (replica.h). The network "default" comes from the configuration
 * of each host and always exists. */
#ifndef FM_MIGRATION_NETWORKS_H
#define FM_MIGRATION_NETWORKS_H

#include <pthread.h>

#include "migration/components.h"
#include "migration/network_spec.h"

/* What a daemon has of it in memory. `standard` is the default network; copied. */
struct fm_networks;
struct fm_networks *fm_networks_new(const struct fm_network_spec *standard);
void fm_networks_free(struct fm_networks *n); /* NULL is fine */

/* Makes the devices of every network of the registry, or takes over what is there: a restart
 * changes nothing. What cannot be made is logged. */
void fm_networks_define(struct fm_components *p);

/* The specification of a name, NULL is the default. FM_E_NOT_FOUND; FM_E_REFUSED when this host
 * cannot have it. */
int fm_networks_find(struct fm_components *p, const char *name, struct fm_network_spec *spec,
                     struct fm_error *err);
/* Documents: the specification, "containers" (how many) and with show "leases". */
json_t *fm_networks_list(struct fm_components *p, struct fm_error *err);
json_t *fm_networks_show(struct fm_components *p, const char *name, struct fm_error *err);
/* Body as network_spec.h. Known on every host that can be reached when it returns; "warnings" says
 * what did not work there. FM_E_EXISTS: name, VNI or a part of the subnet is in use. */
json_t *fm_networks_create(struct fm_components *p, const json_t *request, struct fm_error *err);
/* FM_E_REFUSED while containers have addresses in it. */
int fm_networks_remove(struct fm_components *p, const char *name, struct fm_error *err);

/* The document of a container's network for another host, NULL for the default one; new reference.
 */
json_t *fm_networks_document(struct fm_components *p, const char *name);
/* On a container's way here: could its network (a document of another host's; NULL: the default
 * one) be here, and with `make` makes it. FM_E_EXISTS names what it clashes with. */
int fm_networks_adopt(struct fm_components *p, const json_t *doc, bool make, struct fm_error *err);

/* Compares the kernel with the registry: {"ok":bool,"differences":["…"],"checked":["registry",
 * "kernel"]}. Changes nothing. */
json_t *fm_networks_verify(struct fm_components *p, struct fm_error *err);
/* Makes this host as the registry says; what differs all the same is a problem. Containers run on.
 * {"ok":bool,"applied":n,"problems":["…"]}. */
json_t *fm_networks_repair(struct fm_components *p, struct fm_error *err);

/* The answer to a FABRIC request of another host, other than "set"; new reference. */
json_t *fm_networks_answer(struct fm_components *p, const char *peer, const char *op,
                           const json_t *body, struct fm_error *err);

/* --- in the background --- */

/* Tells and asks other hosts what is to be told and asked, gives this host its addresses, and now
 * and then sets right what a death in the middle left behind. */
void fm_networks_pass(struct fm_components *p);
/* Passes until fm_networks_stop; the thread that calls it is theirs. */
void fm_networks_serve(struct fm_components *p);
void fm_networks_stop(struct fm_components *p);
/* A host is new, or has come back: documents are exchanged with it (NULL: with all). */
void fm_networks_meet(struct fm_components *p, const char *host);
/* It has connected: when it was away, it is met at once. */
void fm_networks_heard(struct fm_components *p, const char *host);

#endif
