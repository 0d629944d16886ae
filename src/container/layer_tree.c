#include "container/layer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"

#define MAX_DEPTH 256
#define MAX_XATTR_NAMES 65536
#define MAX_XATTR_VALUE 65536

/* ---- Walking a tree in the order of names ---- */

struct entry {
    int parent; /* directory it is in */
    const char *name;
    const char *path; /* from the root: "./etc/passwd" */
    struct stat st;
};

struct tree {
    dev_t device; /* mounts inside are not part of the root file system */
    struct fm_digest *digest;
    int copy_root; /* -1: only the digest */
    struct link {  /* files with several names: the first path of each */
        dev_t device;
        ino_t inode;
        char *path;
    } * links;
    size_t link_count;
    struct fm_error *err;
};

static int trouble(const struct tree *t, const struct entry *e, const char *what)
{
    return fm_error_errno(t->err, errno, "cannot %s '%s'", what, e->path);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int list_names(int dir, struct fm_strv *names)
{
    int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fm_autoclosedir DIR *d = copy < 0 ? NULL : fdopendir(copy);
    const struct dirent *de;

    if (!d)
        return -errno;
    while ((de = readdir(d))) {
        if (!fm_streq(de->d_name, ".") && !fm_streq(de->d_name, ".."))
            fm_strv_add(names, de->d_name);
    }
    if (names->count > 0)
        qsort(names->items, names->count, sizeof(*names->items), compare_names);
    return 0;
}

static int visit_entry(struct tree *t, const struct entry *e, int depth);

static int visit_children(struct tree *t, int dir, const char *path, int depth)
{
    fm_cleanup(fm_strv_free) struct fm_strv names = {0};
    int ret = list_names(dir, &names);

    if (ret < 0)
        return fm_error_errno(t->err, -ret, "cannot list '%s'", path);
    if (depth > MAX_DEPTH)
        return fm_error_set(t->err, FM_E_INVALID, "'%s' lies too deep", path);
    for (size_t i = 0; i < names.count; i++) {
        fm_autofree char *child = fm_strf("%s/%s", path, names.items[i]);
        struct entry e = {.parent = dir, .name = names.items[i], .path = child};

        if (fstatat(dir, e.name, &e.st, AT_SYMLINK_NOFOLLOW) < 0)
            return trouble(t, &e, "look at");
        ret = visit_entry(t, &e, depth);
        if (ret < 0)
            return ret;
    }
    return 0;
}

/* ---- Digest ---- */

static void add_text(struct tree *t, const char *key, const char *value)
{
    fm_digest_add(t->digest, key, strlen(key) + 1);
    fm_digest_add(t->digest, value, strlen(value) + 1);
}

static void add_number(struct tree *t, const char *key, uint64_t value)
{
    char text[32];

    snprintf(text, sizeof(text), "%" PRIu64, value);
    add_text(t, key, text);
}

static void digest_metadata(struct tree *t, const struct entry *e)
{
    add_text(t, "path", e->path);
    add_number(t, "mode", e->st.st_mode);
    add_number(t, "uid", e->st.st_uid);
    add_number(t, "gid", e->st.st_gid);
    if (S_ISCHR(e->st.st_mode) || S_ISBLK(e->st.st_mode))
        add_number(t, "rdev", e->st.st_rdev);
    if (S_ISREG(e->st.st_mode))
        add_number(t, "size", (uint64_t)e->st.st_size);
}

static bool moves(const char *xattr)
{
    return fm_starts_with(xattr, "user.") || fm_streq(xattr, "security.capability") ||
           fm_starts_with(xattr, "system.posix_acl_");
}

/* Digests the attributes, and copies them when there is a copy. */
static int visit_xattrs(struct tree *t, const struct entry *e, int fd, int copy)
{
    fm_autofree char *names = fm_xmalloc(MAX_XATTR_NAMES);
    fm_autofree char *value = fm_xmalloc(MAX_XATTR_VALUE);
    fm_cleanup(fm_strv_free) struct fm_strv sorted = {0};
    ssize_t len = flistxattr(fd, names, MAX_XATTR_NAMES);

    for (ssize_t i = 0; i < len; i += (ssize_t)strlen(names + i) + 1) {
        if (moves(names + i))
            fm_strv_add(&sorted, names + i);
    }
    if (sorted.count > 0)
        qsort(sorted.items, sorted.count, sizeof(*sorted.items), compare_names);
    for (size_t i = 0; i < sorted.count; i++) {
        ssize_t size = fgetxattr(fd, sorted.items[i], value, MAX_XATTR_VALUE);

        if (size < 0)
            return trouble(t, e, "read the attributes of");
        add_text(t, "xattr", sorted.items[i]);
        fm_digest_add(t->digest, value, (size_t)size);
        if (copy >= 0 && fsetxattr(copy, sorted.items[i], value, (size_t)size, 0) < 0)
            return trouble(t, e, "copy the attributes of");
    }
    return 0;
}

static int digest_content(struct tree *t, const struct entry *e, int fd)
{
    char digest[FM_DIGEST_SIZE];
    int ret = fm_digest_fd(fd, digest, NULL, t->err);

    if (ret < 0)
        return fm_error_prefix(t->err, "'%s'", e->path);
    add_text(t, "content", digest);
    return 0;
}

/* ---- Copy ---- */

static int finish_copy(struct tree *t, const struct entry *e)
{
    const struct timespec times[2] = {e->st.st_mtim, e->st.st_mtim};

    if (t->copy_root < 0)
        return 0;
    if (fchownat(t->copy_root, e->path, e->st.st_uid, e->st.st_gid, AT_SYMLINK_NOFOLLOW) < 0)
        return trouble(t, e, "set the owner of");
    if (!S_ISLNK(e->st.st_mode) && fchmodat(t->copy_root, e->path, e->st.st_mode & 07777, 0) < 0)
        return trouble(t, e, "set the mode of");
    if (utimensat(t->copy_root, e->path, times, AT_SYMLINK_NOFOLLOW) < 0)
        return trouble(t, e, "set the time of");
    return 0;
}

static int copy_content(struct tree *t, const struct entry *e, int fd, int copy)
{
    int ret;

    if (lseek(fd, 0, SEEK_SET) < 0)
        return trouble(t, e, "read");
    ret = fm_copy_fd(fd, copy, NULL, t->err);
    return ret < 0 ? fm_error_prefix(t->err, "'%s'", e->path) : 0;
}

static int visit_file(struct tree *t, const struct entry *e)
{
    fm_autoclose int fd =
        openat(e->parent, e->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    fm_autoclose int copy = -1;
    int ret;

    if (fd < 0)
        return trouble(t, e, "open");
    if (t->copy_root >= 0) {
        copy = openat(t->copy_root, e->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (copy < 0)
            return trouble(t, e, "copy");
    }
    ret = digest_content(t, e, fd);
    if (ret == 0 && copy >= 0)
        ret = copy_content(t, e, fd, copy);
    if (ret == 0)
        ret = finish_copy(t, e); /* before the capabilities, which a change of owner clears */
    if (ret == 0)
        ret = visit_xattrs(t, e, fd, copy);
    return ret;
}

static int visit_directory(struct tree *t, const struct entry *e, int depth)
{
    fm_autoclose int dir =
        openat(e->parent, e->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    fm_autoclose int copy = -1;
    int ret;

    if (dir < 0)
        return trouble(t, e, "open");
    if (t->copy_root >= 0) {
        if (mkdirat(t->copy_root, e->path, 0700) < 0)
            return trouble(t, e, "copy");
        copy = openat(t->copy_root, e->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    ret = visit_xattrs(t, e, dir, copy);
    /* Nothing below a mount point: /proc and the like of a running system. */
    if (ret == 0 && e->st.st_dev == t->device)
        ret = visit_children(t, dir, e->path, depth + 1);
    return ret < 0 ? ret : finish_copy(t, e);
}

static int visit_symlink(struct tree *t, const struct entry *e)
{
    char target[PATH_MAX];
    ssize_t len = readlinkat(e->parent, e->name, target, sizeof(target) - 1);

    if (len < 0)
        return trouble(t, e, "read");
    target[len] = '\0';
    add_text(t, "target", target);
    if (t->copy_root >= 0 && symlinkat(target, t->copy_root, e->path) < 0)
        return trouble(t, e, "copy");
    return finish_copy(t, e);
}

static int visit_node(struct tree *t, const struct entry *e)
{
    if (t->copy_root >= 0 && mknodat(t->copy_root, e->path, e->st.st_mode, e->st.st_rdev) < 0)
        return trouble(t, e, "copy");
    return finish_copy(t, e);
}

/* The path under which this file came already, or NULL (and then it is remembered). */
static const char *earlier_name(struct tree *t, const struct entry *e)
{
    if (S_ISDIR(e->st.st_mode) || e->st.st_nlink < 2)
        return NULL;
    for (size_t i = 0; i < t->link_count; i++) {
        if (t->links[i].inode == e->st.st_ino && t->links[i].device == e->st.st_dev)
            return t->links[i].path;
    }
    t->links = fm_xrealloc(t->links, (t->link_count + 1) * sizeof(*t->links));
    t->links[t->link_count++] = (struct link){e->st.st_dev, e->st.st_ino, fm_xstrdup(e->path)};
    return NULL;
}

static int visit_link(struct tree *t, const struct entry *e, const char *first)
{
    add_text(t, "link", first);
    if (t->copy_root >= 0 && linkat(t->copy_root, first, t->copy_root, e->path, 0) < 0)
        return trouble(t, e, "link");
    return 0;
}

static int visit_entry(struct tree *t, const struct entry *e, int depth)
{
    const char *first;

    if (S_ISSOCK(e->st.st_mode))
        return 0; /* nobody listens on a copy */
    first = earlier_name(t, e);
    digest_metadata(t, e);
    if (first)
        return visit_link(t, e, first);
    if (S_ISDIR(e->st.st_mode))
        return visit_directory(t, e, depth);
    if (S_ISREG(e->st.st_mode))
        return visit_file(t, e);
    if (S_ISLNK(e->st.st_mode))
        return visit_symlink(t, e);
    return visit_node(t, e);
}

static void free_links(struct tree *t)
{
    for (size_t i = 0; i < t->link_count; i++)
        free(t->links[i].path);
    free(t->links);
}

static int visit_root(struct tree *t, const char *root)
{
    struct entry e = {.parent = AT_FDCWD, .name = root, .path = "."};
    fm_autoclose int dir = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int ret;

    if (dir < 0 || fstat(dir, &e.st) < 0)
        return fm_error_errno(t->err, errno, "cannot open '%s'", root);
    t->device = e.st.st_dev;
    digest_metadata(t, &e);
    ret = visit_xattrs(t, &e, dir, t->copy_root);
    if (ret == 0)
        ret = visit_children(t, dir, ".", 0);
    return ret < 0 ? ret : finish_copy(t, &e);
}

static int visit(const char *root, int copy_root, char out[FM_DIGEST_SIZE], struct fm_error *err)
{
    struct fm_digest digest;
    struct tree t = {.digest = &digest, .copy_root = copy_root, .err = err};
    int ret;

    fm_digest_begin(&digest);
    ret = visit_root(&t, root);
    fm_digest_end(&digest, out);
    free_links(&t);
    return ret;
}

int fm_layer_digest_tree(const char *root, char digest[FM_DIGEST_SIZE], struct fm_error *err)
{
    return visit(root, -1, digest, err);
}

int fm_layer_copy_tree(const char *root, const char *dir, char digest[FM_DIGEST_SIZE],
                       struct fm_error *err)
{
    fm_autoclose int copy = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (copy < 0)
        return fm_error_errno(err, errno, "cannot open '%s'", dir);
    return visit(root, copy, digest, err);
}
