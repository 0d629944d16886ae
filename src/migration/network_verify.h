/* Between the files of `network verify`: the registry in itself (registry_verify.c) and against the
 * kernel (network_verify.c). */
#ifndef FM_MIGRATION_NETWORK_VERIFY_H
#define FM_MIGRATION_NETWORK_VERIFY_H

#include "migration/networks_internal.h"

struct comparison {
    struct fm_components *p;
    json_t *networks;     /* the default one and those of the registry */
    json_t *leases;       /* live */
    json_t *hosts;        /* name → address of the others */
    json_t *moving;       /* containers whose place is not settled */
    json_t *here;         /* records of this host by name */
    const json_t *kernel; /* what the network describes */
    json_t *differences;
};

/* Notes a line, as long as there are not too many. */
void fm_compare_differ(struct comparison *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
bool fm_compare_is_container(const json_t *lease);
/* The element of a list whose `key` is `value`; NULL. */
const json_t *fm_compare_find(const json_t *list, const char *key, const char *value);

/* Records of containers against their leases, and leases against each other. */
void fm_compare_registry(struct comparison *c);

#endif
