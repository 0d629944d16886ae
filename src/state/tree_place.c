#include "state/tree_place.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "state/tree_stream.h"
#include "state/tree_walk.h"
#include "state/tree_xattr.h"

/* The place of one entry: an open directory and a name in it. */
struct place {
    int parent;
    const char *name;
    const char *path;
};

/* --- paths ---------------------------------------------------------------------------------------
 */

const char *fm_tree_check_path(char *path)
{
    size_t len = path ? strlen(path) : 0;

    if (len == 0 || len >= PATH_MAX || path[0] == '/')
        return NULL;
    if (len > 1 && path[len - 1] == '/')
        path[--len] = '\0';
    if (strcmp(path, ".") == 0)
        return path;
    if (fm_starts_with(path, "./"))
        path += 2;
    for (const char *p = path;; p++) {
        size_t n = strcspn(p, "/");
        if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
            return NULL;
        p += n;
        if (*p == '\0')
            return path;
    }
}

static int open_directory(const struct fm_tree_placer *p, const char *path)
{
    return fm_tree_open_beneath(p->root, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

static int find_place(struct fm_tree_placer *p, const char *path, struct place *place,
                      struct fm_error *err)
{
    const char *slash = strrchr(path, '/');

    fm_autofree char *parent = slash ? fm_xstrndup(path, (size_t)(slash - path)) : fm_xstrdup(".");
    if (!fm_streq(parent, p->parent)) {
        int fd = open_directory(p, parent);
        if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == EXDEV))
            return fm_error_set(err, FM_E_PROTOCOL,
                                "unsafe archive: '%s' does not lie in a directory of the tree",
                                path);
        if (fd < 0)
            return fm_error_errno(err, errno, "cannot open '%s'", parent);
        if (p->parent_fd >= 0)
            close(p->parent_fd);
        p->parent_fd = fd;
        free(p->parent);
        p->parent = FM_MOVE(parent);
    }
    *place = (struct place){p->parent_fd, slash ? slash + 1 : path, path};
    return 0;
}

/* The directory behind the cached descriptor may be replaced by the next entry. */
static void forget_parent(struct fm_tree_placer *p)
{
    if (p->parent_fd >= 0)
        close(FM_MOVE_FD(p->parent_fd));
    free(FM_MOVE(p->parent));
}

/* --- directories' times
 * ---------------------------------------------------------------------------- */

static bool contains(const char *directory, const char *path)
{
    size_t n = strlen(directory);

    if (strcmp(directory, ".") == 0)
        return strcmp(path, ".") != 0;
    return strncmp(path, directory, n) == 0 && path[n] == '/';
}

/* Leaves the directories that `path` does not lie in; NULL leaves all. */
static int leave(struct fm_tree_placer *p, const char *path, struct fm_error *err)
{
    while (p->entered_count > 0) {
        struct fm_tree_entered *top = &p->entered[p->entered_count - 1];
        if (path && contains(top->path, path))
            return 0;
        fm_autofree char *left = top->path;
        struct timespec times[2] = {top->times[0], top->times[1]};
        p->entered_count--;

        fm_autoclose int fd = open_directory(p, left);
        if (fd < 0 || futimens(fd, times) < 0)
            return fm_error_errno(err, errno, "cannot set the times of '%s'", left);
    }
    return 0;
}

static void get_times(struct archive_entry *e, struct timespec times[2])
{
    times[0] = (struct timespec){archive_entry_atime(e), archive_entry_atime_nsec(e)};
    times[1] = (struct timespec){archive_entry_mtime(e), archive_entry_mtime_nsec(e)};
    if (!archive_entry_atime_is_set(e))
        times[0].tv_nsec = UTIME_OMIT;
    if (!archive_entry_mtime_is_set(e))
        times[1].tv_nsec = UTIME_OMIT;
}

static void enter(struct fm_tree_placer *p, const char *path, struct archive_entry *e)
{
    if (p->entered_count == p->entered_capacity) {
        p->entered_capacity = p->entered_capacity ? p->entered_capacity * 2 : 16;
        p->entered = fm_xrealloc(p->entered, p->entered_capacity * sizeof(*p->entered));
    }
    struct fm_tree_entered *top = &p->entered[p->entered_count++];
    top->path = fm_xstrdup(path);
    get_times(e, top->times);
}

/* --- metadata ------------------------------------------------------------------------------------
 */

static int set_owner(int fd, struct archive_entry *e, struct fm_error *err)
{
    struct stat st;
    int64_t uid = archive_entry_uid(e);
    int64_t gid = archive_entry_gid(e);

    if (uid < 0 || gid < 0 || uid >= UINT32_MAX || gid >= UINT32_MAX)
        return fm_error_set(err, FM_E_PROTOCOL, "unsafe archive: owner out of range");
    if (fstat(fd, &st) < 0)
        return fm_error_errno(err, errno, "cannot look at it");
    if (st.st_uid == (uid_t)uid && st.st_gid == (gid_t)gid)
        return 0;
    if (fchownat(fd, "", (uid_t)uid, (gid_t)gid, AT_EMPTY_PATH) < 0)
        return fm_error_errno(err, errno, "cannot set its owner");
    return 0;
}

static bool get_xattr(struct archive_entry *e, const char *wanted, const void **value, size_t *len)
{
    const char *name;

    archive_entry_xattr_reset(e);
    while (archive_entry_xattr_next(e, &name, value, len) == ARCHIVE_OK) {
        if (fm_streq(name, wanted))
            return true;
    }
    return false;
}

static bool has_xattr(struct archive_entry *e, const char *wanted)
{
    const void *value;
    size_t len;

    return get_xattr(e, wanted, &value, &len);
}

/* A directory that was there already may have attributes that it has lost at the other end. */
static int drop_xattrs(const char *self, struct archive_entry *e, struct fm_error *err)
{
    fm_autofree char *names = fm_xmalloc(FM_TREE_XATTR_MAX);

    ssize_t len = listxattr(self, names, FM_TREE_XATTR_MAX);
    for (const char *name = names; len > 0 && name < names + len; name += strlen(name) + 1) {
        if (fm_tree_xattr_travels(name) && !has_xattr(e, name) && removexattr(self, name) < 0)
            return fm_error_errno(err, errno, "cannot remove extended attribute %s", name);
    }
    return 0;
}

static int set_xattrs(const char *self, struct archive_entry *e, struct fm_error *err)
{
    const char *name;
    const void *value;
    size_t len;

    archive_entry_xattr_reset(e);
    while (archive_entry_xattr_next(e, &name, &value, &len) == ARCHIVE_OK) {
        if (!name || !fm_tree_xattr_travels(name))
            continue;
        if (setxattr(self, name, value, len, 0) == 0)
            continue;
        if (errno == ENOTSUP)
            return fm_error_set(err, FM_E_IO,
                                "its file system does not keep the extended attribute %s: "
                                "use a state directory on one that does",
                                name);
        return fm_error_errno(err, errno, "cannot set extended attribute %s", name);
    }
    return 0;
}

/* In the order that loses nothing: chown clears setuid bits and capabilities, all of it touches
 * times. */
static int set_metadata(int fd, struct archive_entry *e, bool existed, struct fm_error *err)
{
    struct fm_fd_path self = fm_fd_path(fd);
    struct timespec times[2];

    int r = set_owner(fd, e, err);
    if (r == 0 && existed)
        r = drop_xattrs(self.text, e, err);
    if (r == 0)
        r = set_xattrs(self.text, e, err);
    if (r < 0)
        return r;
    if (archive_entry_filetype(e) != AE_IFLNK && chmod(self.text, archive_entry_perm(e)) < 0)
        return fm_error_errno(err, errno, "cannot set its mode");
    get_times(e, times);
    if (archive_entry_filetype(e) != AE_IFDIR && utimensat(AT_FDCWD, self.text, times, 0) < 0)
        return fm_error_errno(err, errno, "cannot set its times");
    return 0;
}

/* --- content -------------------------------------------------------------------------------------
 */

static int pwrite_full(int fd, const uint8_t *data, size_t len, off_t at)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        data += n;
        len -= (size_t)n;
        at += n;
    }
    return 0;
}

static int write_content(int fd, struct archive *a, int64_t size, struct fm_error *err)
{
    const void *data;
    size_t len;
    la_int64_t at;
    int64_t end = 0;
    int r;

    while ((r = archive_read_data_block(a, &data, &len, &at)) == ARCHIVE_OK) {
        if (at < end || at > size || (int64_t)len > size - at)
            return fm_error_set(err, FM_E_PROTOCOL, "unsafe archive: data outside of the file");
        if (pwrite_full(fd, data, len, at) < 0)
            return fm_error_errno(err, errno, "cannot write it");
        end = at + (int64_t)len;
    }
    if (r != ARCHIVE_EOF) {
        const char *why = archive_error_string(a);
        return fm_error_set(err, FM_E_PROTOCOL, "damaged archive: %s",
                            why ? why : "unknown reason");
    }
    if (end < size && ftruncate(fd, size) < 0)
        return fm_error_errno(err, errno, "cannot set its size");
    return 0;
}

/* --- one entry of each kind
 * ------------------------------------------------------------------------ */

static int make_file(const struct place *at)
{
    return openat(at->parent, at->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

static int place_file(const struct place *at, struct archive *a, struct archive_entry *e,
                      struct fm_error *err)
{
    fm_autoclose int fd = make_file(at);
    if (fd < 0 && errno == EEXIST) {
        int r = fm_tree_remove(at->parent, at->name, err);
        if (r < 0)
            return r;
        fd = make_file(at);
    }
    if (fd < 0)
        return fm_error_errno(err, errno, "cannot create it");
    int r = write_content(fd, a, archive_entry_size(e), err);
    return r < 0 ? r : set_metadata(fd, e, false, err);
}

/* The file that a patch is for, which is what an earlier pass has made: a regular file with this
 * one name. Nothing else is opened, let alone written to. */
static int open_patched(const struct place *at, off_t size)
{
    struct stat st;

    fm_autoclose int fd = fm_tree_open_beneath(at->parent, at->name, O_PATH | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1 ||
        st.st_size != size)
        return -1;
    return open(fm_fd_path(fd).text, O_WRONLY | O_CLOEXEC);
}

static int patched_size(struct archive_entry *e, off_t *size)
{
    char text[FM_TREE_PATCH_VALUE_MAX];
    const void *value;
    size_t len;
    int64_t parsed;

    if (!get_xattr(e, FM_TREE_PATCH_KEY, &value, &len) || len >= sizeof(text))
        return -1;
    memcpy(text, value, len);
    text[len] = '\0';
    if (strlen(text) != len || fm_parse_int(text, 0, INT64_MAX, &parsed, NULL) < 0)
        return -1;
    *size = parsed;
    return 0;
}

/* What lies between the data stays as it is. */
static int place_patch(const struct place *at, struct archive *a, struct archive_entry *e,
                       struct fm_error *err)
{
    off_t had;

    if (archive_entry_filetype(e) != AE_IFREG || archive_entry_hardlink(e) ||
        archive_entry_size(e) < 0 || patched_size(e, &had) < 0)
        return fm_error_set(err, FM_E_PROTOCOL, "unsafe archive: damaged patch");
    fm_autoclose int fd = open_patched(at, had);
    if (fd < 0)
        return fm_error_set(err, FM_E_PROTOCOL,
                            "unsafe archive: a patch of a file that is not here as it was sent");
    if (archive_entry_size(e) != had && ftruncate(fd, archive_entry_size(e)) < 0)
        return fm_error_errno(err, errno, "cannot set its size");
    int r = write_content(fd, a, archive_entry_size(e), err);
    return r < 0 ? r : set_metadata(fd, e, true, err);
}

static int place_directory(const struct place *at, struct archive_entry *e, struct fm_error *err)
{
    bool existed = false;

    if (mkdirat(at->parent, at->name, 0700) < 0) {
        if (errno != EEXIST)
            return fm_error_errno(err, errno, "cannot create it");
        existed = true;
    }
    fm_autoclose int fd =
        fm_tree_open_beneath(at->parent, at->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (fd < 0 && existed && (errno == ENOTDIR || errno == ELOOP)) {
        existed = false;
        int r = fm_tree_remove(at->parent, at->name, err);
        if (r < 0)
            return r;
        if (mkdirat(at->parent, at->name, 0700) < 0)
            return fm_error_errno(err, errno, "cannot create it");
        fd = fm_tree_open_beneath(at->parent, at->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    }
    if (fd < 0)
        return fm_error_errno(err, errno, "cannot open it");
    return set_metadata(fd, e, existed, err);
}

static int make_node(const struct place *at, struct archive_entry *e)
{
    mode_t type = archive_entry_filetype(e);

    if (type == AE_IFLNK)
        return symlinkat(archive_entry_symlink(e), at->parent, at->name);
    dev_t device = type == AE_IFIFO ? 0
                                    : makedev((unsigned)archive_entry_rdevmajor(e),
                                              (unsigned)archive_entry_rdevminor(e));
    return mknodat(at->parent, at->name, type | 0600, device);
}

/* Symbolic links, FIFOs and device nodes (overlayfs's whiteouts are such). */
static int place_node(const struct place *at, struct archive_entry *e, struct fm_error *err)
{
    if (archive_entry_filetype(e) == AE_IFLNK && !archive_entry_symlink(e))
        return fm_error_set(err, FM_E_PROTOCOL, "damaged archive: symbolic link without a target");
    int made = make_node(at, e);
    if (made < 0 && errno == EEXIST) {
        int r = fm_tree_remove(at->parent, at->name, err);
        if (r < 0)
            return r;
        made = make_node(at, e);
    }
    if (made < 0)
        return fm_error_errno(err, errno, "cannot create it");
    fm_autoclose int fd = fm_tree_open_beneath(at->parent, at->name, O_PATH | O_NOFOLLOW);
    if (fd < 0)
        return fm_error_errno(err, errno, "cannot open it");
    return set_metadata(fd, e, false, err);
}

static int place_hard_link(struct fm_tree_placer *p, const struct place *at, char *target,
                           struct fm_error *err)
{
    const char *first = fm_tree_check_path(target);

    if (!first || strcmp(first, ".") == 0 || strcmp(first, at->path) == 0)
        return fm_error_set(err, FM_E_PROTOCOL, "unsafe archive: hard link out of the tree");
    const char *slash = strrchr(first, '/');
    fm_autofree char *dir = slash ? fm_xstrndup(first, (size_t)(slash - first)) : fm_xstrdup(".");
    fm_autoclose int fd = open_directory(p, dir);
    if (fd < 0)
        return fm_error_set(err, FM_E_PROTOCOL, "unsafe archive: hard link to nothing in the tree");

    int r = fm_tree_remove(at->parent, at->name, err);
    if (r < 0)
        return r;
    if (linkat(fd, slash ? slash + 1 : first, at->parent, at->name, 0) < 0)
        return fm_error_errno(err, errno, "cannot make a hard link of '%s'", first);
    return 0;
}

static int place_root(struct fm_tree_placer *p, struct archive_entry *e, struct fm_error *err)
{
    if (archive_entry_filetype(e) != AE_IFDIR || has_xattr(e, FM_TREE_PATCH_KEY))
        return fm_error_set(err, FM_E_PROTOCOL, "unsafe archive: its root is not a directory");
    fm_autoclose int fd = open_directory(p, ".");
    if (fd < 0)
        return fm_error_errno(err, errno, "cannot open it");
    return set_metadata(fd, e, true, err);
}

static int place_at(struct fm_tree_placer *p, const struct place *at, struct archive *a,
                    struct archive_entry *e, struct fm_error *err)
{
    if (has_xattr(e, FM_TREE_PATCH_KEY))
        return place_patch(at, a, e, err);
    if (archive_entry_hardlink(e)) {
        fm_autofree char *target = fm_xstrdup(archive_entry_hardlink(e));
        return place_hard_link(p, at, target, err);
    }
    switch (archive_entry_filetype(e)) {
    case AE_IFREG:
        return place_file(at, a, e, err);
    case AE_IFDIR:
        return place_directory(at, e, err);
    case AE_IFLNK:
    case AE_IFIFO:
    case AE_IFCHR:
    case AE_IFBLK:
        return place_node(at, e, err);
    default:
        return fm_error_set(err, FM_E_PROTOCOL, "unsafe archive: a file of unknown type");
    }
}

/* --- the interface
 * --------------------------------------------------------------------------------- */

int fm_tree_placer_open(struct fm_tree_placer *p, const char *dir, struct fm_error *err)
{
    *p = (struct fm_tree_placer){.root = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC),
                                 .parent_fd = -1};
    return p->root < 0 ? fm_error_errno(err, errno, "cannot open '%s'", dir) : 0;
}

int fm_tree_place(struct fm_tree_placer *p, struct archive *a, struct archive_entry *entry,
                  const char **path, struct fm_error *err)
{
    struct place at;

    const char *raw = archive_entry_pathname(entry);
    fm_autofree char *copy = fm_xstrdup(raw ? raw : "");
    const char *checked = fm_tree_check_path(copy);
    if (!checked)
        return fm_error_set(err, FM_E_PROTOCOL,
                            "unsafe archive: it names a file outside of the tree");
    archive_entry_copy_pathname(entry, checked);
    *path = archive_entry_pathname(entry);

    int r = leave(p, *path, err);
    if (r == 0 && strcmp(*path, ".") == 0) {
        r = place_root(p, entry, err);
    } else if (r == 0) {
        r = find_place(p, *path, &at, err);
        if (r == 0)
            r = place_at(p, &at, a, entry, err);
    }
    if (r < 0)
        return fm_error_prefix(err, "'%s'", *path);
    if (!archive_entry_hardlink(entry) && archive_entry_filetype(entry) == AE_IFDIR)
        enter(p, *path, entry);
    else if (p->parent && (fm_streq(*path, p->parent) || contains(*path, p->parent)))
        forget_parent(p);
    return 0;
}

int fm_tree_placer_finish(struct fm_tree_placer *p, struct fm_error *err)
{
    return leave(p, NULL, err);
}

void fm_tree_placer_clear(struct fm_tree_placer *p)
{
    for (size_t i = 0; i < p->entered_count; i++)
        free(p->entered[i].path);
    free(p->entered);
    forget_parent(p);
    if (p->root >= 0)
        close(p->root);
    *p = (struct fm_tree_placer){.root = -1, .parent_fd = -1};
}
