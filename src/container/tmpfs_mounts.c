#include "container/tmpfs_mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "container/mountinfo.h"
#include "container/mounts.h"

#define MOUNTS_MAX 256 /* of one container */

void fm_tmpfs_clear(struct fm_tmpfs_mounts *mounts)
{
    for (size_t i = 0; i < mounts->count; i++) {
        free(mounts->items[i].target);
        free(mounts->items[i].source);
        free(mounts->items[i].options);
    }
    free(mounts->items);
    *mounts = (struct fm_tmpfs_mounts){0};
}

static void add(struct fm_tmpfs_mounts *mounts, const struct fm_tmpfs_mount *mount)
{
    mounts->items = fm_xrealloc(mounts->items, (mounts->count + 1) * sizeof(*mounts->items));
    mounts->items[mounts->count++] = (struct fm_tmpfs_mount){.target = fm_xstrdup(mount->target),
                                                             .source = fm_xstrdup(mount->source),
                                                             .options = fm_xstrdup(mount->options),
                                                             .id = mount->id};
}

/* ---- Which ---- */

static bool is_known_option(const char *option)
{
    static const char *const known[] = {
        "rw",   "ro",    "size=", "nr_blocks=", "nr_inodes=", "mode=", "uid=",
        "gid=", "huge=", "mpol=", "inode32",    "inode64",    "noswap"};
    for (size_t i = 0; i < FM_COUNT(known); i++)
        if (fm_ends_with(known[i], "=") ? fm_starts_with(option, known[i])
                                        : fm_streq(option, known[i]))
            return true;
    return false;
}

static bool are_known_options(const char *options)
{
    fm_autofree char *copy = fm_xstrdup(options);
    char *rest = NULL;
    for (char *o = strtok_r(copy, ",", &rest); o; o = strtok_r(NULL, ",", &rest))
        if (!is_known_option(o))
            return false;
    return true;
}

/* CRIU takes "mnt[<target>]:<name>" apart at these. */
static bool is_plain_target(const char *target)
{
    return target[0] == '/' && target[1] && strlen(target) < PATH_MAX &&
           !strpbrk(target, "[]:\n") && !strstr(target, "//deleted");
}

static bool is_bound_by(const json_t *config, const char *target)
{
    size_t i;
    json_t *mount;
    json_array_foreach(json_object_get(config, "mounts"), i, mount)
    {
        const char *type = json_string_value(json_object_get(mount, "type"));
        const char *where = json_string_value(json_object_get(mount, "destination"));
        if (fm_streq(where, target) && !fm_streq(type, "tmpfs"))
            return true;
    }
    return false;
}

static bool is_on_host(const struct fm_mountinfo *host, const char *device)
{
    for (size_t i = 0; i < host->count; i++)
        if (fm_streq(host->items[i].device, device))
            return true;
    return false;
}

/* CRIU knows an external mount by its mount point: it must be the only one there, and the only one
 * of its whole file system. Mounts of parts of it, such as a masked file's /dev/null, are bound
 * from it.
 */
static bool is_alone(const struct fm_mountinfo *info, const struct fm_mountinfo_entry *e)
{
    for (size_t i = 0; i < info->count; i++) {
        const struct fm_mountinfo_entry *other = &info->items[i];
        if (other != e && fm_streq(other->target, e->target))
            return false;
        if (other != e && fm_streq(other->device, e->device) && fm_streq(other->root, "/"))
            return false;
    }
    return true;
}

static bool same_user_namespace(pid_t init)
{
    struct stat own, its;
    fm_autofree char *path = fm_strf("/proc/%d/ns/user", (int)init);
    return stat("/proc/self/ns/user", &own) == 0 && stat(path, &its) == 0 &&
           own.st_ino == its.st_ino && own.st_dev == its.st_dev;
}

static uint64_t mount_id(int fd)
{
    struct statx st = {0};
    if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) < 0 || !(st.stx_mask & STATX_MNT_ID))
        return 0;
    return st.stx_mnt_id;
}

/* As the container sees it; -1 when another mount lies over it or over the way to it. */
static int open_mount(int root, const struct fm_tmpfs_mount *mount)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC | O_DIRECTORY,
                           .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    fm_autoclose int fd = (int)syscall(SYS_openat2, root, mount->target, &how, sizeof(how));
    if (fd >= 0 && mount_id(fd) != mount->id) {
        errno = EBUSY;
        return -1;
    }
    return FM_MOVE_FD(fd);
}

static int open_root(pid_t init, struct fm_error *err)
{
    fm_autofree char *path = fm_strf("/proc/%d/root", (int)init);
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? fm_error_errno(err, errno, "cannot open %s", path) : fd;
}

int fm_tmpfs_find(pid_t init, const json_t *config, struct fm_tmpfs_mounts *mounts,
                  struct fm_error *err)
{
    fm_cleanup(fm_mountinfo_clear) struct fm_mountinfo info = {0};
    fm_cleanup(fm_mountinfo_clear) struct fm_mountinfo host = {0};
    *mounts = (struct fm_tmpfs_mounts){0};
    if (!same_user_namespace(init))
        return 0;
    fm_autoclose int root = open_root(init, err);
    if (root < 0 || fm_mountinfo_read(init, &info, err) < 0 || fm_mountinfo_read(0, &host, err) < 0)
        return fm_error_result(err);
    for (size_t i = 0; i < info.count && mounts->count < MOUNTS_MAX; i++) {
        const struct fm_mountinfo_entry *e = &info.items[i];
        struct fm_tmpfs_mount candidate = {
            .target = e->target, .source = e->source, .options = e->options, .id = e->id};
        if (!fm_streq(e->type, "tmpfs") || !fm_streq(e->root, "/") || !is_plain_target(e->target) ||
            !are_known_options(e->options) || is_bound_by(config, e->target) ||
            is_on_host(&host, e->device) || !is_alone(&info, e))
            continue;
        fm_autoclose int fd = open_mount(root, &candidate);
        if (fd >= 0)
            add(mounts, &candidate);
    }
    return 0;
}

int fm_tmpfs_check(pid_t init, const struct fm_tmpfs_mounts *mounts, struct fm_error *err)
{
    fm_cleanup(fm_mountinfo_clear) struct fm_mountinfo info = {0};
    int rc = fm_mountinfo_read(init, &info, err);
    for (size_t i = 0; rc == 0 && i < mounts->count; i++) {
        size_t at_target = 0, same = 0;
        for (size_t k = 0; k < info.count; k++) {
            at_target += fm_streq(info.items[k].target, mounts->items[i].target);
            same += info.items[k].id == mounts->items[i].id &&
                    fm_streq(info.items[k].target, mounts->items[i].target);
        }
        if (at_target != 1 || same != 1)
            rc = fm_error_set(err, FM_E_REFUSED,
                              "the container has changed its mount %s meanwhile: try again",
                              mounts->items[i].target);
    }
    return rc;
}

/* ---- As JSON ---- */

json_t *fm_tmpfs_to_json(const struct fm_tmpfs_mounts *mounts)
{
    json_t *list = json_array();
    for (size_t i = 0; i < mounts->count; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "target", mounts->items[i].target,
                                              "source", mounts->items[i].source, "options",
                                              mounts->items[i].options));
    return list;
}

int fm_tmpfs_from_json(const json_t *doc, struct fm_tmpfs_mounts *mounts, struct fm_error *err)
{
    *mounts = (struct fm_tmpfs_mounts){0};
    for (size_t i = 0; i < json_array_size(doc); i++) {
        struct fm_tmpfs_mount mount = {0};
        if (i >= MOUNTS_MAX ||
            json_unpack(json_array_get(doc, i), "{s:s, s:s, s:s}", "target", &mount.target,
                        "source", &mount.source, "options", &mount.options) < 0 ||
            !is_plain_target(mount.target) || !are_known_options(mount.options)) {
            fm_tmpfs_clear(mounts);
            return fm_error_set(err, FM_E_PROTOCOL, "the list of tmpfs mounts is malformed");
        }
        add(mounts, &mount);
    }
    return 0;
}

/* ---- On the host ---- */

char *fm_tmpfs_path(const char *dir, size_t index)
{
    return fm_strf("%s/tmpfs/%zu", dir, index);
}

/* What the thread in the container's mount namespace does, and what comes of it. */
struct visit {
    pid_t init;
    const struct fm_tmpfs_mounts *mounts;
    int *trees; /* detached copies of the mounts, one each */
    int rc;
    struct fm_error err;
};

/* A copy of one mount alone: what is mounted on it stays behind. It belongs to no other mount's
 * group, so that nothing that happens to it here reaches the container. */
static int copy_mount(int root, const struct fm_tmpfs_mount *mount)
{
    struct mount_attr attr = {.propagation = MS_PRIVATE};
    fm_autoclose int fd = open_mount(root, mount);
    if (fd < 0)
        return -1;
    fm_autoclose int tree =
        (int)syscall(SYS_open_tree, fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
    if (tree < 0 || syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
        return -1;
    return FM_MOVE_FD(tree);
}

static int copy_mounts(struct visit *v)
{
    fm_autofree char *path = fm_strf("/proc/%d/ns/mnt", (int)v->init);
    fm_autoclose int root = open_root(v->init, &v->err);
    fm_autoclose int ns = open(path, O_RDONLY | O_CLOEXEC);
    if (root < 0)
        return fm_error_result(&v->err);
    if (ns < 0 || unshare(CLONE_FS) < 0 || setns(ns, CLONE_NEWNS) < 0)
        return fm_error_errno(&v->err, errno, "cannot enter the container's mount namespace");
    for (size_t i = 0; i < v->mounts->count; i++) {
        v->trees[i] = copy_mount(root, &v->mounts->items[i]);
        if (v->trees[i] < 0)
            return fm_error_errno(&v->err, errno, "cannot copy the container's mount %s",
                                  v->mounts->items[i].target);
    }
    return 0;
}

static void *visit_container(void *arg)
{
    struct visit *v = arg;
    v->rc = copy_mounts(v);
    return NULL;
}

/* Only a thread that shares its root and working directory with nobody may change its mount
 * namespace, and it ends there. */
static int visit(struct visit *v, struct fm_error *err)
{
    pthread_t thread;
    int rc = pthread_create(&thread, NULL, visit_container, v);
    if (rc != 0)
        return fm_error_errno(err, rc, "cannot start a thread");
    pthread_join(thread, NULL);
    if (v->rc < 0 && err)
        *err = v->err;
    return v->rc;
}

static int place(int tree, const char *path, struct fm_error *err)
{
    int rc = fm_mkdir_p(path, 0700, err);
    if (rc == 0 && syscall(SYS_move_mount, tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        rc = fm_error_errno(err, errno, "cannot mount at %s", path);
    return rc;
}

int fm_tmpfs_attach(pid_t init, const struct fm_tmpfs_mounts *mounts, const char *dir,
                    struct fm_error *err)
{
    fm_autofree int *trees = fm_xcalloc(mounts->count + 1, sizeof(*trees));
    struct visit v = {.init = init, .mounts = mounts, .trees = trees};
    for (size_t i = 0; i < mounts->count; i++)
        trees[i] = -1;
    int rc = mounts->count > 0 ? visit(&v, err) : 0;
    for (size_t i = 0; i < mounts->count; i++) {
        fm_autofree char *path = fm_tmpfs_path(dir, i);
        if (rc == 0)
            rc = place(trees[i], path, err);
        if (trees[i] >= 0)
            close(trees[i]);
    }
    if (rc < 0)
        fm_tmpfs_detach(dir, NULL);
    return rc;
}

/* "size=64k,mode=755" of "ro,size=64k,mode=755": what mount(2) takes as data. */
static char *mount_data(const char *options)
{
    fm_autofree char *copy = fm_xstrdup(options);
    char *data = fm_xstrdup("");
    char *rest = NULL;
    for (char *o = strtok_r(copy, ",", &rest); o; o = strtok_r(NULL, ",", &rest)) {
        if (fm_streq(o, "rw") || fm_streq(o, "ro"))
            continue;
        char *longer = fm_strf("%s%s%s", data, *data ? "," : "", o);
        free(data);
        data = longer;
    }
    return data;
}

int fm_tmpfs_make(const struct fm_tmpfs_mounts *mounts, const char *dir, struct fm_error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < mounts->count; i++) {
        fm_autofree char *path = fm_tmpfs_path(dir, i);
        fm_autofree char *data = mount_data(mounts->items[i].options);
        rc = fm_mkdir_p(path, 0700, err);
        if (rc == 0 && mount(mounts->items[i].source, path, "tmpfs", 0, data) < 0)
            rc = fm_error_errno(err, errno, "cannot mount a tmpfs for %s (%s)",
                                mounts->items[i].target, data);
    }
    if (rc < 0)
        fm_tmpfs_detach(dir, NULL);
    return rc;
}

int fm_tmpfs_seal(const struct fm_tmpfs_mounts *mounts, const char *dir, struct fm_error *err)
{
    for (size_t i = 0; i < mounts->count; i++) {
        const char *options = mounts->items[i].options;
        fm_autofree char *path = fm_tmpfs_path(dir, i);
        if (!fm_streq(options, "ro") && !fm_starts_with(options, "ro,"))
            continue;
        if (mount(NULL, path, NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
            return fm_error_errno(err, errno, "cannot make %s read-only", path);
    }
    return 0;
}

int fm_tmpfs_detach(const char *dir, struct fm_error *err)
{
    fm_autofree char *path = fm_strf("%s/tmpfs", dir);
    return fm_unmount_below(path, err);
}
