/* Published ports of the open fabric: this host's own addresses in its networks, and the table that
 * leads its ports to containers. */
#ifndef FM_NETWORK_PUBLISHED_H
#define FM_NETWORK_PUBLISHED_H

#include "network/fabric.h"

/* The functions of fm_network_ops with these names; the caller holds fabric->make. */
int fm_published_host_address(struct fm_fabric *fabric, const char *network, const char *ip,
                              const char *ip6, struct fm_error *err);
int fm_published_apply(struct fm_fabric *fabric, const struct fm_publication *list, size_t count,
                       struct fm_error *err);
/* Adds "publications" and "whole" to a description, and to each network "host_address". */
int fm_published_describe(struct fm_fabric *fabric, json_t *description, struct fm_error *err);

#endif
