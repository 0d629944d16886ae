/* Bundles: a container's directory on this host (config.json, overlay mount, log) and its life. */
#ifndef FM_CONTAINER_BUNDLE_H
#define FM_CONTAINER_BUNDLE_H

#include "base/error.h"
#include "container/container.h"

/* Paths of one container on this host. <state>/containers/<name>/… */
struct fm_bundle {
    char dir[512];    /* everything below is in here */
    char bundle[512]; /* OCI bundle: config.json, rootfs */
    char rootfs[512]; /* overlay mount point */
    char upper[512];  /* writable layer: this moves */
    char work[512];   /* overlayfs work directory */
    char log[512];
    char exit[512];
};

struct fm_bundle_config {
    const char *state_dir;
    const char *cgroup_parent;
};

/* Fills in the paths; touches nothing. */
void fm_bundle_paths(const struct fm_bundle_config *config, const char *name,
                     struct fm_bundle *bundle);

/* Makes the directories (parents too), writes config.json for this host (cgroup path, network
 * namespace path, rootfs, volumes) from the record's `config` — or, when that is NULL, from a
 * default OCI config made of command, env, cwd, user, memory and volumes, which it then stores into
 * the record — and mounts the overlay of `lower` (directories, lowest first). A found container
 * without layers gets a plain rootfs directory. netns NULL: the runtime makes one (loopback only).
 * Idempotent; what is there already is taken over. */
int fm_bundle_create(const struct fm_bundle_config *config, struct fm_container *container,
                     const struct fm_strv *lower, const char *netns, struct fm_error *err);
/* (Re)mounts the overlay, for instance after a reboot. */
int fm_bundle_mount(const struct fm_bundle *bundle, const struct fm_strv *lower,
                    struct fm_error *err);
int fm_bundle_unmount(const struct fm_bundle *bundle, struct fm_error *err);
/* Unmounts and removes everything; missing is fine. */
int fm_bundle_remove(const struct fm_bundle *bundle, struct fm_error *err);

#endif
