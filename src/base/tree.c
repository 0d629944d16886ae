#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"

#define OPEN_DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define TREE_DEPTH_MAX 256

int fm_mkdir_p(const char *path, mode_t mode, struct fm_error *err)
{
    fm_autofree char *copy = fm_xstrdup(path);
    struct stat st;

    for (char *c = copy + 1; copy[0]; c++) {
        char end = *c;

        if (end != '/' && end != '\0')
            continue;
        *c = '\0';
        if (mkdir(copy, mode) < 0 && errno != EEXIST)
            return fm_error_errno(err, errno, "cannot make the directory '%s'", copy);
        *c = end;
        if (end == '\0')
            break;
    }
    if (stat(path, &st) < 0)
        return fm_error_errno(err, errno, "cannot make the directory '%s'", path);
    if (!S_ISDIR(st.st_mode))
        return fm_error_errno(err, ENOTDIR, "cannot make the directory '%s'", path);
    return 0;
}

bool fm_is_mount_point(const char *path)
{
    struct statx stx;

    return statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_MNT_ID, &stx) == 0 &&
           (stx.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

/* What tells one directory from all others, and the mount that it is on. */
struct place {
    uint64_t inode;
    uint64_t device;
    uint64_t mount;
    bool mount_root;
};

static int locate(int dir, struct place *place)
{
    struct statx stx;

    if (statx(dir, "", AT_EMPTY_PATH, STATX_INO | STATX_MNT_ID, &stx) < 0)
        return -errno;
    *place = (struct place){
        .inode = stx.stx_ino,
        .device = (uint64_t)stx.stx_dev_major << 32 | stx.stx_dev_minor,
        .mount = stx.stx_mask & STATX_MNT_ID ? stx.stx_mnt_id : 0,
        .mount_root = stx.stx_attributes & STATX_ATTR_MOUNT_ROOT,
    };
    return 0;
}

static bool same_mount(const struct place *a, const struct place *b)
{
    return a->mount == b->mount && a->device == b->device;
}

/* "\040" and the like, in place. */
static void unescape_mountinfo(char *s)
{
    char *out = s;
    unsigned int byte;

    for (; *s; s++) {
        if (*s == '\\' && sscanf(s + 1, "%3o", &byte) == 1) {
            *out++ = (char)byte;
            s += 3;
        } else {
            *out++ = *s;
        }
    }
    *out = '\0';
}

/* A mount at or below the directory would be emptied or leave the tree half removed; better to
 * refuse before anything is gone. */
static int refuse_mounts(const char *path, struct fm_error *err)
{
    fm_autofree char *real = realpath(path, NULL);
    fm_autofclose FILE *mounts = fopen("/proc/self/mountinfo", "re");
    fm_autofree char *line = NULL;
    size_t size = 0;

    if (!real || !mounts)
        return 0;
    while (getline(&line, &size, mounts) > 0) {
        fm_autofree char *point = NULL;

        if (sscanf(line, "%*s %*s %*s %*s %ms", &point) != 1)
            continue;
        unescape_mountinfo(point);
        if (fm_starts_with(point, real) && (!point[strlen(real)] || point[strlen(real)] == '/'))
            return fm_error_set(err, FM_E_REFUSED,
                                "cannot remove '%s': '%s' is still mounted; unmount it first", path,
                                point);
    }
    return 0;
}

/* One directory on the way down: how to come back to its parent, and its name there. */
struct step {
    struct place parent;
    char *name;
};

/* A removal holds one descriptor only, however deep the tree is: it goes down by name and comes
 * back by "..", and checks that it got where it came from. */
struct removal {
    const char *path;
    struct place root;
    int dir;
    struct step *steps;
    size_t depth;
};

static void cleanup_removal(struct removal *r)
{
    for (size_t i = 0; i < r->depth; i++)
        free(r->steps[i].name);
    free(r->steps);
    if (r->dir >= 0)
        close(r->dir);
}

static int go_down(struct removal *r, const char *name, struct fm_error *err)
{
    fm_autoclose int child = openat(r->dir, name, OPEN_DIRECTORY);
    struct step step = {0};
    struct place place;
    int ret;

    if (child < 0)
        return fm_error_errno(err, errno, "cannot remove '%s': '%s'", r->path, name);
    ret = locate(child, &place);
    if (ret == 0)
        ret = locate(r->dir, &step.parent);
    if (ret < 0)
        return fm_error_errno(err, -ret, "cannot remove '%s': '%s'", r->path, name);
    if (place.mount_root || !same_mount(&place, &r->root))
        return fm_error_set(err, FM_E_REFUSED,
                            "cannot remove '%s': '%s' in it is a mount; unmount it first", r->path,
                            name);
    step.name = fm_xstrdup(name);
    r->steps = fm_xrealloc(r->steps, (r->depth + 1) * sizeof(*r->steps));
    r->steps[r->depth++] = step;
    close(r->dir);
    r->dir = FM_MOVE_FD(child);
    return 0;
}

static int go_up(struct removal *r, struct fm_error *err)
{
    struct step *step = &r->steps[r->depth - 1];
    fm_autoclose int parent = openat(r->dir, "..", OPEN_DIRECTORY);
    struct place place;
    int ret;

    if (parent < 0)
        return fm_error_errno(err, errno, "cannot remove '%s'", r->path);
    ret = locate(parent, &place);
    if (ret < 0)
        return fm_error_errno(err, -ret, "cannot remove '%s'", r->path);
    if (place.inode != step->parent.inode || !same_mount(&place, &step->parent))
        return fm_error_set(err, FM_E_FAILED,
                            "cannot remove '%s': somebody moves directories in it", r->path);
    if (unlinkat(parent, step->name, AT_REMOVEDIR) < 0 && errno != ENOENT)
        return fm_error_errno(err, errno, "cannot remove '%s': '%s'", r->path, step->name);
    free(step->name);
    r->depth--;
    close(r->dir);
    r->dir = FM_MOVE_FD(parent);
    return 0;
}

/* 0: gone. 1: it is a directory that is not empty. */
static int unlink_entry(struct removal *r, const char *name, struct fm_error *err)
{
    if (unlinkat(r->dir, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno == EISDIR || errno == EPERM) {
        int file_errno = errno;

        if (unlinkat(r->dir, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
            return 0;
        if (errno == ENOTEMPTY || errno == EEXIST)
            return 1;
        if (errno == ENOTDIR)
            errno = file_errno;
    }
    return fm_error_errno(err, errno, "cannot remove '%s': '%s'", r->path, name);
}

static bool is_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Removes entries until the directory is empty (0) or a directory must be entered first (1, and
 * then we are in it). What was removed is not seen again, so that starting over costs nothing. */
static int empty_directory(struct removal *r, struct fm_error *err)
{
    int copy = openat(r->dir, ".", OPEN_DIRECTORY);
    fm_autoclosedir DIR *entries = copy >= 0 ? fdopendir(copy) : NULL;
    struct dirent *entry;

    if (!entries) {
        int reason = errno;

        if (copy >= 0)
            close(copy);
        return fm_error_errno(err, reason, "cannot remove '%s'", r->path);
    }
    while ((entry = readdir(entries))) {
        int ret = is_dot(entry->d_name) ? 0 : unlink_entry(r, entry->d_name, err);

        if (ret < 0)
            return ret;
        if (ret > 0)
            return go_down(r, entry->d_name, err) < 0 ? -FM_E_FAILED : 1;
    }
    return 0;
}

int fm_remove_tree(const char *path, struct fm_error *err)
{
    fm_cleanup(cleanup_removal) struct removal r = {.path = path, .dir = -1};
    int ret;

    if (unlink(path) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return fm_error_errno(err, errno, "cannot remove '%s'", path);
    r.dir = open(path, OPEN_DIRECTORY);
    if (r.dir < 0)
        return fm_error_errno(err, errno, "cannot remove '%s'", path);
    ret = locate(r.dir, &r.root);
    if (ret < 0)
        return fm_error_errno(err, -ret, "cannot remove '%s'", path);
    if (r.root.mount_root)
        return fm_error_set(err, FM_E_REFUSED,
                            "cannot remove '%s': it is a mount point; unmount it first", path);
    ret = refuse_mounts(path, err);
    while (ret >= 0) {
        ret = empty_directory(&r, err);
        if (ret == 0 && r.depth == 0)
            break;
        if (ret == 0)
            ret = go_up(&r, err);
    }
    if (ret < 0)
        return ret;
    if (rmdir(path) < 0 && errno != ENOENT)
        return fm_error_errno(err, errno, "cannot remove '%s'", path);
    return 0;
}

/* Takes the descriptor over. */
static int add_sizes(int fd, unsigned int depth, const struct place *root, uint64_t *bytes)
{
    fm_autoclosedir DIR *entries = fdopendir(fd);
    struct dirent *entry;
    struct place place;
    struct stat st;
    int ret;

    if (!entries) {
        ret = -errno;
        close(fd);
        return ret;
    }
    ret = locate(fd, &place);
    if (ret < 0 || !same_mount(&place, root))
        return ret;
    if (depth > TREE_DEPTH_MAX)
        return -ENAMETOOLONG;
    while ((entry = readdir(entries))) {
        int child;

        if (is_dot(entry->d_name) || fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue; /* gone meanwhile */
        if (S_ISREG(st.st_mode))
            *bytes += (uint64_t)st.st_blocks * 512u;
        if (!S_ISDIR(st.st_mode))
            continue;
        child = openat(fd, entry->d_name, OPEN_DIRECTORY);
        if (child < 0 && errno == ENOENT)
            continue;
        ret = child < 0 ? -errno : add_sizes(child, depth + 1, root, bytes);
        if (ret < 0)
            return ret;
    }
    return 0;
}

int fm_tree_size(const char *path, uint64_t *bytes, struct fm_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct place root;
    int ret;

    *bytes = 0;
    if (fd < 0)
        return fm_error_errno(err, errno, "cannot read the directory '%s'", path);
    ret = locate(fd, &root);
    if (ret < 0)
        close(fd);
    else
        ret = add_sizes(fd, 0, &root, bytes);
    return ret < 0 ? fm_error_errno(err, -ret, "cannot measure the directory '%s'", path) : 0;
}

int fm_disk_free(const char *path, uint64_t *bytes, struct fm_error *err)
{
    fm_autofree char *existing = fm_xstrdup(path);
    struct statvfs fs;

    while (statvfs(existing, &fs) < 0) {
        char *slash = strrchr(existing, '/');

        if (errno != ENOENT || strcmp(existing, "/") == 0 || strcmp(existing, ".") == 0)
            return fm_error_errno(err, errno, "cannot tell the free space of '%s'", path);
        if (slash) {
            slash[slash == existing ? 1 : 0] = '\0';
        } else {
            free(existing);
            existing = fm_xstrdup(".");
        }
    }
    *bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    return 0;
}
