#include "container/layer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>

#include "base/cleanup.h"
#include "base/text.h"

#define READ_STEP (256u << 10)
#define MAX_DEPTH 128
#define MAX_ENTRIES 4000000u
#define WHITEOUT ".wh."
#define OPAQUE ".wh..wh..opq"
#define OPAQUE_XATTR "trusted.overlay.opaque"

struct unpack {
    int root;
    struct archive *archive;
    const char *path; /* of the entry, for errors */
    struct stamp {    /* directories get their times when nothing is made in them any more */
        char *path;
        struct timespec mtime;
    } * stamps;
    size_t stamp_count;
    struct fm_error *err;
};

static int refuse(struct unpack *u, const char *why)
{
    return fm_error_set(u->err, FM_E_INVALID, "layer entry '%.200s' %s", u->path, why);
}

static int trouble(struct unpack *u, const char *what)
{
    return fm_error_errno(u->err, errno, "layer entry '%.200s': cannot %s", u->path, what);
}

/* ---- Paths ---- */

/* Opens the directory of `path` below the root, component by component, never through a link; makes
 * what is missing. *name is the last component ("." for the root itself). */
static int open_parent(struct unpack *u, const char *path, int *parent, char name[NAME_MAX + 1])
{
    fm_autofree char *copy = fm_xstrdup(path);
    fm_autoclose int dir = fcntl(u->root, F_DUPFD_CLOEXEC, 3);
    char *rest = copy;
    int depth = 0;

    snprintf(name, NAME_MAX + 1, ".");
    for (char *part = strsep(&rest, "/"); part; part = strsep(&rest, "/")) {
        int next;

        if (!*part || fm_streq(part, "."))
            continue;
        if (fm_streq(part, ".."))
            return refuse(u, "leaves the layer");
        if (strlen(part) > NAME_MAX || ++depth > MAX_DEPTH)
            return refuse(u, "has a path that is too long");
        if (!fm_streq(name, ".")) {
            if (mkdirat(dir, name, 0755) < 0 && errno != EEXIST)
                return trouble(u, "make its directory");
            next = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (next < 0 && (errno == ENOTDIR || errno == ELOOP))
                return refuse(u, "goes through something that is no directory");
            if (next < 0)
                return trouble(u, "open its directory");
            close(dir);
            dir = next;
        }
        snprintf(name, NAME_MAX + 1, "%s", part);
    }
    *parent = FM_MOVE_FD(dir);
    return 0;
}

static bool is_whiteout(const struct stat *st)
{
    return S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

static int set_opaque(struct unpack *u, int dir)
{
    return fsetxattr(dir, OPAQUE_XATTR, "y", 1, 0) < 0 ? trouble(u, "mark it opaque") : 0;
}

static int set_opaque_at(struct unpack *u, int parent, const char *name)
{
    fm_autoclose int dir = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    return dir < 0 ? trouble(u, "open it") : set_opaque(u, dir);
}

/* ---- Whiteouts ---- */

static int make_whiteout(struct unpack *u, int parent, const char *name)
{
    struct stat st;

    if (!*name || fm_streq(name, ".") || fm_streq(name, ".."))
        return refuse(u, "is a whiteout of nothing");
    if (mknodat(parent, name, S_IFCHR, makedev(0, 0)) == 0)
        return 0;
    if (errno != EEXIST || fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return trouble(u, "make the whiteout");
    /* It only hides what is below: this layer's own entry of that name stays. */
    return S_ISDIR(st.st_mode) ? set_opaque_at(u, parent, name) : 0;
}

/* ---- Entries ---- */

/* Removes an earlier entry of the same name. *was_whiteout: a directory in its place must hide
 * those below. */
static int make_room(struct unpack *u, int parent, const char *name, bool directory,
                     bool *was_whiteout)
{
    struct stat st;

    *was_whiteout = false;
    if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : trouble(u, "look at its place");
    *was_whiteout = is_whiteout(&st);
    if (directory && S_ISDIR(st.st_mode))
        return 0;
    if (unlinkat(parent, name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) < 0)
        return trouble(u, "replace an earlier entry");
    return 0;
}

static int write_content(struct unpack *u, int fd, const struct archive_entry *entry)
{
    const void *block;
    size_t len;
    la_int64_t offset;
    int status;

    while ((status = archive_read_data_block(u->archive, &block, &len, &offset)) == ARCHIVE_OK) {
        for (size_t done = 0; done < len;) {
            ssize_t n = pwrite(fd, (const char *)block + done, len - done, offset + (off_t)done);

            if (n < 0 && errno != EINTR)
                return trouble(u, "write it");
            done += n > 0 ? (size_t)n : 0;
        }
    }
    if (status != ARCHIVE_EOF)
        return refuse(u, "is damaged");
    if (ftruncate(fd, archive_entry_size((struct archive_entry *)(uintptr_t)entry)) < 0)
        return trouble(u, "set its size");
    return 0;
}

/* overlayfs' own attributes would change what the layer means; others need a policy of the host. */
static bool may_have_xattr(const char *name)
{
    return fm_starts_with(name, "user.") || fm_streq(name, "security.capability") ||
           fm_starts_with(name, "system.posix_acl_");
}

static int set_xattrs(struct unpack *u, int fd, struct archive_entry *entry)
{
    const char *name;
    const void *value;
    size_t size;

    archive_entry_xattr_reset(entry);
    while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
        if (may_have_xattr(name) && fsetxattr(fd, name, value, size, 0) < 0 && errno != ENOTSUP)
            return trouble(u, "set its attributes");
    }
    return 0;
}

static struct timespec mtime_of(struct archive_entry *entry)
{
    return (struct timespec){archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)};
}

static int stamp_at(int parent, const char *name, struct timespec mtime)
{
    const struct timespec times[2] = {mtime, mtime};

    return utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW);
}

static void remember_stamp(struct unpack *u, const char *path, struct timespec mtime)
{
    /* Grows in powers of two. */
    if ((u->stamp_count & (u->stamp_count - 1)) == 0)
        u->stamps = fm_xrealloc(u->stamps, 2 * (u->stamp_count + 1) * sizeof(*u->stamps));
    u->stamps[u->stamp_count++] = (struct stamp){fm_xstrdup(path), mtime};
}

static int make_directory(struct unpack *u, int parent, const char *name, bool opaque,
                          struct archive_entry *entry)
{
    fm_autoclose int fd = -1;

    if (!fm_streq(name, ".") && mkdirat(parent, name, 0700) < 0 && errno != EEXIST)
        return trouble(u, "make the directory");
    fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return trouble(u, "open the directory");
    if (fchown(fd, (uid_t)archive_entry_uid(entry), (gid_t)archive_entry_gid(entry)) < 0 ||
        fchmod(fd, archive_entry_perm(entry)) < 0)
        return trouble(u, "set its owner and mode");
    if (opaque && set_opaque(u, fd) < 0)
        return -u->err->code;
    remember_stamp(u, archive_entry_pathname(entry), mtime_of(entry));
    return set_xattrs(u, fd, entry);
}

static int make_file(struct unpack *u, int parent, const char *name, struct archive_entry *entry)
{
    fm_autoclose int fd =
        openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    int ret;

    if (fd < 0)
        return trouble(u, "make the file");
    ret = write_content(u, fd, entry);
    if (ret < 0)
        return ret;
    /* Owner first: changing it takes set-uid bits and capabilities away. */
    if (fchown(fd, (uid_t)archive_entry_uid(entry), (gid_t)archive_entry_gid(entry)) < 0 ||
        fchmod(fd, archive_entry_perm(entry)) < 0)
        return trouble(u, "set its owner and mode");
    ret = set_xattrs(u, fd, entry);
    if (ret == 0 && stamp_at(parent, name, mtime_of(entry)) < 0)
        ret = trouble(u, "set its time");
    return ret;
}

static int make_node(struct unpack *u, int parent, const char *name, struct archive_entry *entry)
{
    mode_t type = archive_entry_filetype(entry);
    dev_t device = makedev(archive_entry_rdevmajor(entry), archive_entry_rdevminor(entry));

    if (type == S_IFLNK) {
        const char *target = archive_entry_symlink(entry);

        if (!target || symlinkat(target, parent, name) < 0)
            return trouble(u, "make the symbolic link");
    } else if (type == S_IFCHR && device == makedev(0, 0)) {
        return refuse(u, "is a whiteout in disguise");
    } else if (type != S_IFCHR && type != S_IFBLK && type != S_IFIFO) {
        return refuse(u, "is of an unknown type");
    } else if (mknodat(parent, name, type | 0600, device) < 0 ||
               fchmodat(parent, name, archive_entry_perm(entry), 0) < 0) {
        return trouble(u, "make the node");
    }
    if (fchownat(parent, name, (uid_t)archive_entry_uid(entry), (gid_t)archive_entry_gid(entry),
                 AT_SYMLINK_NOFOLLOW) < 0 ||
        stamp_at(parent, name, mtime_of(entry)) < 0)
        return trouble(u, "set its owner and time");
    return 0;
}

static int make_hard_link(struct unpack *u, int parent, const char *name, const char *target)
{
    fm_autoclose int dir = -1;
    char target_name[NAME_MAX + 1];
    int ret = open_parent(u, target, &dir, target_name);

    if (ret < 0)
        return ret;
    return linkat(dir, target_name, parent, name, 0) < 0 ? trouble(u, "make the hard link") : 0;
}

static int make_entry(struct unpack *u, int parent, const char *name, struct archive_entry *entry)
{
    const char *link = archive_entry_hardlink(entry);
    mode_t type = archive_entry_filetype(entry);
    bool directory = !link && type == S_IFDIR;
    bool was_whiteout = false;
    int ret = 0;

    if (fm_streq(name, ".")) {
        if (!directory)
            return refuse(u, "has no name");
        return make_directory(u, parent, name, false, entry);
    }
    ret = make_room(u, parent, name, directory, &was_whiteout);
    if (ret < 0)
        return ret;
    if (link)
        return make_hard_link(u, parent, name, link);
    if (directory)
        return make_directory(u, parent, name, was_whiteout, entry);
    if (type == S_IFREG)
        return make_file(u, parent, name, entry);
    return make_node(u, parent, name, entry);
}

static int unpack_entry(struct unpack *u, struct archive_entry *entry)
{
    fm_autoclose int parent = -1;
    char name[NAME_MAX + 1];
    int ret;

    u->path = archive_entry_pathname(entry);
    if (!u->path || strlen(u->path) >= PATH_MAX) {
        u->path = "?";
        return refuse(u, "has no usable name");
    }
    ret = open_parent(u, u->path, &parent, name);
    if (ret < 0)
        return ret;
    if (fm_streq(name, OPAQUE))
        return set_opaque(u, parent);
    if (fm_starts_with(name, WHITEOUT WHITEOUT))
        return 0; /* aufs' own housekeeping */
    if (fm_starts_with(name, WHITEOUT))
        return make_whiteout(u, parent, name + strlen(WHITEOUT));
    return make_entry(u, parent, name, entry);
}

/* ---- The archive ---- */

static void apply_stamps(struct unpack *u)
{
    for (size_t i = 0; i < u->stamp_count; i++) {
        fm_autoclose int parent = -1;
        char name[NAME_MAX + 1];
        struct fm_error *err = u->err;

        u->err = NULL;
        u->path = u->stamps[i].path;
        if (open_parent(u, u->path, &parent, name) == 0)
            stamp_at(parent, name, u->stamps[i].mtime);
        u->err = err;
        free(u->stamps[i].path);
    }
    free(u->stamps);
}

static void cleanup_archive(struct archive **a)
{
    archive_read_free(*a);
}

static int read_entries(struct unpack *u)
{
    struct archive_entry *entry;
    unsigned count = 0;
    int status;

    while ((status = archive_read_next_header(u->archive, &entry)) == ARCHIVE_OK ||
           status == ARCHIVE_WARN) {
        int ret = ++count > MAX_ENTRIES
                      ? fm_error_set(u->err, FM_E_INVALID, "the layer has too many entries")
                      : unpack_entry(u, entry);

        if (ret < 0)
            return ret;
    }
    if (status == ARCHIVE_EOF)
        return 0;
    return fm_error_set(u->err, FM_E_INVALID, "the layer's archive is damaged: %s",
                        archive_error_string(u->archive));
}

int fm_layer_unpack(int archive_fd, const char *dir, struct fm_error *err)
{
    fm_autoclose int root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fm_cleanup(cleanup_archive) struct archive *archive = archive_read_new();
    struct fm_error own = {0};
    struct unpack u = {.root = root, .archive = archive, .err = err ? err : &own};
    int ret;

    if (root < 0)
        return fm_error_errno(err, errno, "cannot open '%s'", dir);
    archive_read_support_format_tar(archive);
    archive_read_support_filter_gzip(archive);
    archive_read_support_filter_zstd(archive);
    if (archive_read_open_fd(archive, archive_fd, READ_STEP) != ARCHIVE_OK)
        return fm_error_set(err, FM_E_INVALID, "the layer is no tar archive: %s",
                            archive_error_string(archive));
    ret = read_entries(&u);
    apply_stamps(&u);
    return ret;
}
