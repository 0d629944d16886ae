/* Networks: the list of those that are defined on this host. */
#ifndef FM_NETWORK_NETWORKS_H
#define FM_NETWORK_NETWORKS_H

#include "network/fabric.h"

/* FM_E_NOT_FOUND: not defined here. NULL and "" mean the default one. The result lives as long as
 * the fabric. */
const struct fm_net *fm_net_find(struct fm_fabric *fabric, const char *name, struct fm_error *err);
/* The network whose bridge this is; NULL: none. `name` chooses among several on one bridge. */
const struct fm_net *fm_net_of_bridge(struct fm_fabric *fabric, int bridge, const char *name);
/* Copies of all, in the order of their definition; the caller frees the array. */
struct fm_net *fm_net_list(struct fm_fabric *fabric, size_t *count);

/* The functions of fm_network_ops with these names; the caller holds fabric->make. */
int fm_net_define(struct fm_fabric *fabric, const struct fm_network_spec *spec,
                  struct fm_error *err);
int fm_net_undefine(struct fm_fabric *fabric, const char *name, struct fm_error *err);
int fm_net_peer(struct fm_fabric *fabric, const struct fm_ip *host, bool present,
                struct fm_error *err);

/* The network of the configuration: defines it, and removes its devices when no container is
 * attached. */
int fm_net_define_configured(struct fm_fabric *fabric, const struct fm_fabric_config *config,
                             struct fm_error *err);
void fm_net_teardown(struct fm_fabric *fabric);
void fm_net_free_all(struct fm_fabric *fabric);

/* Checks what a specification says by itself; pure. Fills in subnets and gateways. */
int fm_net_check(const struct fm_network_spec *spec, struct fm_net *net, struct fm_error *err);

#endif
