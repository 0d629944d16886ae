/* Published ports: whether a list of them can be. */
#ifndef FM_NETWORK_PUBLICATION_H
#define FM_NETWORK_PUBLICATION_H

#include <stddef.h>

#include "base/error.h"
#include "network/network.h"

/* Whether all of these can be published together: names, protocols, ports and addresses are valid
 * (FM_E_INVALID), and no two have the same port of the hosts (FM_E_EXISTS names both containers).
 */
int fm_publication_check(const struct fm_publication *list, size_t count, struct fm_error *err);

#endif
