/* The OCI runtime configuration: a default one, and the rewriting of one for this host. */
#ifndef FM_CONTAINER_OCI_CONFIG_H
#define FM_CONTAINER_OCI_CONFIG_H

#include <stdbool.h>

#include <jansson.h>

#include "base/error.h"
#include "container/container.h"

/* A configuration that runs the record's command: no terminal, the usual capabilities, namespaces
 * of its own (mount, pid, ipc, uts, network). Without a cgroup namespace: one that CRIU restores
 * with cgroups ignored would not be one. Host paths are not in it: see fm_oci_config_localise.
 * Follows the OCI runtime specification 1.0.2. */
json_t *fm_oci_config_default(const struct fm_container *c, struct fm_error *err);

struct fm_oci_place {
    const char *rootfs;
    const char *cgroup_path;
    const char *netns; /* NULL: the runtime makes one */
};

/* A copy for this host: rootfs, cgroup, network namespace and the volumes' sources are set,
 * resource limits are cut to what this machine may give, hooks (programs of another host) are
 * dropped. Host paths that no volume of the record covers and namespaces of other containers are
 * refused. NULL on failure. */
json_t *fm_oci_config_localise(const struct fm_container *c, const struct fm_oci_place *place,
                               struct fm_error *err);

/* True for a mount of a path of the host. */
bool fm_oci_is_bind(const json_t *mount);

#endif
