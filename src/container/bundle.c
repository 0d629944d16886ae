#include "container/bundle.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "container/oci_config.h"

#define MOUNT_OPTIONS_MAX 4096 /* a page: what mount(2) copies */

/* The upper directory moves to another host and meets the same layers there, but other inodes:
 * - index=off: the index holds file handles of the lower inodes, and a strange one refuses the
 * mount;
 * - redirect_dir=off, metacopy=off: every renamed or changed file is whole in the upper directory
 * and needs no path or handle into the layers. */
static const char *const portable[][2] = {
    {"index", "off"},
    {"redirect_dir", "off"},
    {"metacopy", "off"},
};

/* ---- Paths ---- */

static void put_path(char out[512], const char *dir, const char *name)
{
    snprintf(out, 512, "%s/%s", dir, name);
}

void fm_bundle_paths(const struct fm_bundle_config *config, const char *name,
                     struct fm_bundle *bundle)
{
    fm_autofree char *dir = fm_strf("%s/containers/%s", config->state_dir, name);

    snprintf(bundle->dir, sizeof(bundle->dir), "%s", dir);
    put_path(bundle->bundle, dir, "bundle");
    put_path(bundle->rootfs, dir, "bundle/rootfs");
    put_path(bundle->upper, dir, "upper");
    put_path(bundle->work, dir, "work");
    put_path(bundle->log, dir, "log");
    put_path(bundle->exit, dir, "exit");
}

static int check_names(const struct fm_bundle_config *config, const char *name,
                       struct fm_error *err)
{
    if (strlen(config->state_dir) + strlen(name) + strlen("/containers//bundle/rootfs") >= 512)
        return fm_error_set(err, FM_E_INVALID, "the state directory's path is too long: '%s'",
                            config->state_dir);
    return fm_check_name("container", name, err);
}

/* ---- Overlay ---- */

/* In one string of options ':' parts the layers and ',' the options. */
static char *escape(const char *path, const char *special)
{
    char *out = fm_xmalloc(2 * strlen(path) + 1);
    char *p = out;

    for (; *path; path++) {
        if (strchr(special, *path))
            *p++ = '\\';
        *p++ = *path;
    }
    *p = '\0';
    return out;
}

static char *overlay_options(const struct fm_bundle *b, const struct fm_strv *lower)
{
    fm_autofree char *upper = escape(b->upper, "\\,");
    fm_autofree char *work = escape(b->work, "\\,");
    char *options = fm_strf("upperdir=%s,workdir=%s", upper, work);

    for (size_t i = 0; i < FM_COUNT(portable); i++) {
        fm_autofree char *before = options;

        options = fm_strf("%s,%s=%s", before, portable[i][0], portable[i][1]);
    }
    for (size_t i = lower->count; i-- > 0;) { /* the highest comes first */
        fm_autofree char *before = options;
        fm_autofree char *layer = escape(lower->items[i], "\\:,");

        options = fm_strf("%s%s%s", before, i + 1 == lower->count ? ",lowerdir=" : ":", layer);
    }
    return options;
}

static int configure(int fs, const struct fm_bundle *b, const struct fm_strv *lower)
{
    if (fsconfig(fs, FSCONFIG_SET_STRING, "source", "overlay", 0) < 0)
        return -1;
    for (size_t i = lower->count; i-- > 0;) {
        if (fsconfig(fs, FSCONFIG_SET_STRING, "lowerdir+", lower->items[i], 0) < 0)
            return -1;
    }
    for (size_t i = 0; i < FM_COUNT(portable); i++) {
        if (fsconfig(fs, FSCONFIG_SET_STRING, portable[i][0], portable[i][1], 0) < 0)
            return -1;
    }
    if (fsconfig(fs, FSCONFIG_SET_STRING, "upperdir", b->upper, 0) < 0 ||
        fsconfig(fs, FSCONFIG_SET_STRING, "workdir", b->work, 0) < 0)
        return -1;
    return fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
}

/* Layer by layer, for more of them than fit into a page (Linux 6.7 and later). */
static int mount_by_parts(const struct fm_bundle *b, const struct fm_strv *lower)
{
    fm_autoclose int fs = fsopen("overlay", FSOPEN_CLOEXEC);
    fm_autoclose int mount_fd = -1;

    if (fs < 0 || configure(fs, b, lower) < 0)
        return -1;
    mount_fd = fsmount(fs, FSMOUNT_CLOEXEC, 0);
    if (mount_fd < 0)
        return -1;
    return move_mount(mount_fd, "", AT_FDCWD, b->rootfs, MOVE_MOUNT_F_EMPTY_PATH);
}

int fm_bundle_mount(const struct fm_bundle *bundle, const struct fm_strv *lower,
                    struct fm_error *err)
{
    fm_autofree char *options = NULL;
    int ret;

    if (lower->count == 0 || fm_is_mount_point(bundle->rootfs))
        return 0;
    options = overlay_options(bundle, lower);
    ret = strlen(options) < MOUNT_OPTIONS_MAX
              ? mount("overlay", bundle->rootfs, "overlay", 0, options)
              : mount_by_parts(bundle, lower);
    if (ret < 0)
        return fm_error_errno(err, errno, "cannot mount the overlay of %zu layers at '%s'",
                              lower->count, bundle->rootfs);
    /* Mounts that runc makes below must not come back to this host. */
    if (mount(NULL, bundle->rootfs, NULL, MS_PRIVATE, NULL) < 0)
        return fm_error_errno(err, errno, "cannot make '%s' private", bundle->rootfs);
    return 0;
}

int fm_bundle_unmount(const struct fm_bundle *bundle, struct fm_error *err)
{
    while (fm_is_mount_point(bundle->rootfs)) {
        if (umount2(bundle->rootfs, UMOUNT_NOFOLLOW) == 0)
            continue;
        /* Somebody looks at a file in there: it goes when they are done. */
        if (errno != EBUSY || umount2(bundle->rootfs, UMOUNT_NOFOLLOW | MNT_DETACH) < 0)
            return fm_error_errno(err, errno, "cannot unmount '%s'", bundle->rootfs);
    }
    return 0;
}

/* ---- Making and removing ---- */

/* The root directory of a container is for everyone in it, whatever our umask is. */
static int make_directory(const char *path, struct fm_error *err)
{
    int ret = fm_mkdir_p(path, 0755, err);

    if (ret == 0 && chmod(path, 0755) < 0)
        ret = fm_error_errno(err, errno, "cannot set the mode of '%s'", path);
    return ret;
}

static int make_directories(const struct fm_bundle *b, struct fm_error *err)
{
    int ret = fm_mkdir_p(b->dir, 0711, err);

    if (ret == 0)
        ret = fm_mkdir_p(b->bundle, 0711, err);
    if (ret == 0 && !fm_file_exists(b->upper))
        ret = make_directory(b->upper, err);
    if (ret == 0)
        ret = fm_mkdir_p(b->work, 0700, err);
    if (ret == 0 && !fm_file_exists(b->rootfs))
        ret = make_directory(b->rootfs, err);
    return ret;
}

static int check_volumes(const struct fm_container *c, struct fm_error *err)
{
    for (size_t i = 0; i < c->volume_count; i++) {
        if (!fm_file_exists(c->volumes[i].source))
            return fm_error_set(err, FM_E_NOT_FOUND,
                                "volume '%s' for %s does not exist on this host: create it",
                                c->volumes[i].source, c->volumes[i].target);
    }
    return 0;
}

static int write_config(const struct fm_bundle_config *config, struct fm_container *container,
                        const struct fm_bundle *b, const char *netns, struct fm_error *err)
{
    fm_autofree char *path = fm_strf("%s/config.json", b->bundle);
    fm_autofree char *cgroup = fm_strf("%s/%s", config->cgroup_parent, container->name);
    struct fm_oci_place place = {.rootfs = b->rootfs, .cgroup_path = cgroup, .netns = netns};

    if (!container->config)
        container->config = fm_oci_config_default(container, err);
    if (!container->config)
        return -(int)err->code;
    json_auto_t *local = fm_oci_config_localise(container, &place, err);
    return local ? fm_json_save(path, local, err) : -(int)err->code;
}

int fm_bundle_create(const struct fm_bundle_config *config, struct fm_container *container,
                     const struct fm_strv *lower, const char *netns, struct fm_error *err)
{
    static const struct fm_strv none = {0};
    struct fm_error own = {0};
    struct fm_bundle b = {0};
    int ret;

    if (!err)
        err = &own;
    ret = check_names(config, container->name, err);
    if (ret < 0)
        return ret;
    fm_bundle_paths(config, container->name, &b);
    ret = check_volumes(container, err);
    if (ret == 0)
        ret = make_directories(&b, err);
    if (ret == 0)
        ret = write_config(config, container, &b, netns, err);
    if (ret == 0)
        ret = fm_bundle_mount(&b, lower ? lower : &none, err);
    return ret < 0 ? fm_error_prefix(err, "cannot prepare '%s'", container->name) : 0;
}

int fm_bundle_remove(const struct fm_bundle *bundle, struct fm_error *err)
{
    int ret = fm_bundle_unmount(bundle, err);

    return ret < 0 ? ret : fm_remove_tree(bundle->dir, err);
}
