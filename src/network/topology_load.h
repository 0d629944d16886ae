/* A topology's JSON document as its configuration; the strings stay the document's. */
#ifndef FM_NETWORK_TOPOLOGY_LOAD_H
#define FM_NETWORK_TOPOLOGY_LOAD_H

#include "network/topology.h"

/* Clear *config also after an error. */
int fm_topology_parse(const json_t *document, struct fm_topology_config *config,
                      struct fm_error *err);
void fm_topology_parse_clear(struct fm_topology_config *config);

#endif
