#include "state/tree_stream.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "state/stream.h"
#include "state/tree_blocks.h"
#include "state/tree_extents.h"
#include "state/tree_walk.h"
#include "state/tree_xattr.h"

#define COMPARING_THREADS 4u /* in the last pass, when the processors have little else to do */

struct sender {
    struct fm_tree tree;
    struct fm_connection *connection;
    struct fm_stream stream;
    struct archive *archive;
    struct archive_entry *entry;
    struct fm_error wire_error; /* why the archive could not be written */
    bool write_back;
    int parent_fd; /* of the directory that was looked at last */
    uint32_t parent;
    struct fm_strv vanished;
    struct fm_tree_extents extents; /* of the file at hand */
    struct fm_tree_blocks *blocks;  /* may be NULL */
    struct fm_tree_file *file;      /* whose sums are taken while it travels; may be NULL */
    bool last;
    uint8_t *buffer; /* FM_STREAM_CHUNK */
    uint8_t *block;  /* of archive, FM_STREAM_CHUNK; not sent yet */
    size_t block_used;
    char *names; /* FM_TREE_XATTR_MAX */
    char *value; /* FM_TREE_XATTR_MAX */
    uint64_t entries;
    uint64_t patches;
};

static const uint8_t zeroes[65536];

/* --- the archive -------------------------------------------------------------------------------
 */

static int send_block(struct sender *s)
{
    size_t len = s->block_used;

    s->block_used = 0;
    return fm_stream_send(&s->stream, s->block, len, &s->wire_error);
}

/* Gathered here: libarchive never frees its own block after a failure. */
static la_ssize_t write_archive(struct archive *a, void *ctx, const void *data, size_t len)
{
    struct sender *s = ctx;
    size_t room = FM_STREAM_CHUNK - s->block_used, n = len < room ? len : room;

    memcpy(s->block + s->block_used, data, n);
    s->block_used += n;
    if (s->block_used == FM_STREAM_CHUNK && send_block(s) < 0) {
        archive_set_error(a, EIO, "%s", s->wire_error.text);
        return -1;
    }
    return (la_ssize_t)n;
}

static int archive_failed(struct sender *s, const char *path, struct fm_error *err)
{
    if (s->wire_error.code != FM_E_OK) {
        if (err)
            *err = s->wire_error;
        return -(int)s->wire_error.code;
    }
    const char *why = archive_error_string(s->archive);
    return fm_error_set(err, FM_E_FAILED, "cannot archive '%s': %s", path,
                        why ? why : "unknown reason");
}

static int open_archive(struct sender *s, struct fm_error *err)
{
    s->archive = archive_write_new();
    s->entry = archive_entry_new();
    if (!s->archive || !s->entry)
        abort();
    /* Names are bytes, whatever the locale; xattrs once, not twice. */
    if (archive_write_set_format_pax(s->archive) != ARCHIVE_OK ||
        archive_write_set_options(s->archive, "pax:hdrcharset=BINARY,pax:xattrheader=LIBARCHIVE") !=
            ARCHIVE_OK ||
        archive_write_set_bytes_per_block(s->archive, 0) != ARCHIVE_OK ||
        archive_write_set_bytes_in_last_block(s->archive, 1) != ARCHIVE_OK ||
        archive_write_open(s->archive, s, NULL, write_archive, NULL) != ARCHIVE_OK)
        return archive_failed(s, "the tree", err);
    return 0;
}

static int put_data(struct sender *s, const void *data, size_t len, const char *path,
                    struct fm_error *err)
{
    const uint8_t *p = data;

    while (len > 0) {
        la_ssize_t n = archive_write_data(s->archive, p, len);
        if (n <= 0)
            return archive_failed(s, path, err);
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

static int put_zeroes(struct sender *s, off_t len, const char *path, struct fm_error *err)
{
    while (len > 0) {
        size_t n = len < (off_t)sizeof(zeroes) ? (size_t)len : sizeof(zeroes);
        int r = put_data(s, zeroes, n, path, err);
        if (r < 0)
            return r;
        len -= (off_t)n;
    }
    return 0;
}

/* What the receiver gets to have there is what the next pass compares with. */
static void note_sent(struct sender *s, off_t at, const void *data, off_t len)
{
    if (s->file && len > 0)
        fm_tree_blocks_sent(s->blocks, s->file, at, data, (size_t)len);
}

/* A file that has shrunk since its size was announced ends in zeroes; the next pass puts it right.
 */
static int put_extent(struct sender *s, int fd, const struct fm_tree_extent *e, const char *path,
                      struct fm_error *err)
{
    for (off_t at = e->start; at < e->end;) {
        size_t want =
            e->end - at < (off_t)FM_STREAM_CHUNK ? (size_t)(e->end - at) : FM_STREAM_CHUNK;
        ssize_t n = pread(fd, s->buffer, want, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fm_error_errno(err, errno, "cannot read '%s'", path);
        if (n == 0) {
            note_sent(s, at, NULL, e->end - at);
            return put_zeroes(s, e->end - at, path, err);
        }
        note_sent(s, at, s->buffer, n);
        int r = put_data(s, s->buffer, (size_t)n, path, err);
        if (r < 0)
            return r;
        at += n;
    }
    return 0;
}

/* Between the extents of a patch lies what the receiver has; else there are holes. */
static int put_gap(struct sender *s, off_t at, off_t end, bool patch, const char *path,
                   struct fm_error *err)
{
    if (!patch)
        note_sent(s, at, NULL, end - at);
    return put_zeroes(s, end - at, path, err);
}

static int put_content(struct sender *s, int fd, off_t size, bool patch, const char *path,
                       struct fm_error *err)
{
    off_t at = 0;
    int r = 0;

    for (size_t i = 0; i < s->extents.count && r == 0; i++) {
        const struct fm_tree_extent *e = &s->extents.items[i];
        r = put_gap(s, at, e->start, patch, path, err);
        if (r == 0)
            r = put_extent(s, fd, e, path, err);
        at = e->end;
    }
    return r < 0 ? r : put_gap(s, at, size, patch, path, err);
}

/* --- what an entry carries ---------------------------------------------------------------------
 */

static void describe_extents(struct sender *s, off_t size)
{
    const struct fm_tree_extent *e = s->extents.items;
    size_t count = s->extents.count;

    if (size == 0 || (count == 1 && e[0].start == 0 && e[0].end == size))
        return;
    if (count == 0)
        archive_entry_sparse_add_entry(s->entry, size, 0);
    for (size_t i = 0; i < count; i++)
        archive_entry_sparse_add_entry(s->entry, e[i].start, e[i].end - e[i].start);
}

static int describe_xattrs(struct sender *s, int fd, struct fm_error *err)
{
    struct fm_fd_path self = fm_fd_path(fd);

    ssize_t len = listxattr(self.text, s->names, FM_TREE_XATTR_MAX);
    if (len < 0 && errno != ENOTSUP)
        return fm_error_errno(err, errno, "cannot list extended attributes");
    for (const char *name = s->names; len > 0 && name < s->names + len; name += strlen(name) + 1) {
        if (!fm_tree_xattr_travels(name))
            continue;
        ssize_t n = getxattr(self.text, name, s->value, FM_TREE_XATTR_MAX);
        if (n < 0 && errno == ENODATA) /* removed just now */
            continue;
        if (n < 0)
            return fm_error_errno(err, errno, "cannot read extended attribute %s", name);
        archive_entry_xattr_add_entry(s->entry, name, s->value, (size_t)n);
    }
    return 0;
}

static int describe_symlink(struct sender *s, int fd, struct fm_error *err)
{
    ssize_t n = readlinkat(fd, "", s->value, FM_TREE_XATTR_MAX - 1);

    if (n < 0)
        return fm_error_errno(err, errno, "cannot read symbolic link");
    s->value[n] = '\0';
    archive_entry_set_symlink(s->entry, s->value);
    return 0;
}

static int describe(struct sender *s, int fd, const struct stat *st, const char *path,
                    struct fm_error *err)
{
    struct archive_entry *e = s->entry;

    archive_entry_clear(e);
    archive_entry_set_pathname(e, path);
    archive_entry_set_filetype(e, st->st_mode & S_IFMT);
    archive_entry_set_perm(e, st->st_mode & 07777);
    archive_entry_set_uid(e, st->st_uid);
    archive_entry_set_gid(e, st->st_gid);
    archive_entry_set_mtime(e, st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
    archive_entry_set_atime(e, st->st_atim.tv_sec, st->st_atim.tv_nsec);
    archive_entry_set_size(e, S_ISREG(st->st_mode) ? st->st_size : 0);
    if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
        archive_entry_set_rdevmajor(e, major(st->st_rdev));
        archive_entry_set_rdevminor(e, minor(st->st_rdev));
    }
    if (S_ISLNK(st->st_mode)) {
        int r = describe_symlink(s, fd, err);
        if (r < 0)
            return r;
    }
    return describe_xattrs(s, fd, err);
}

/* --- one entry ----------------------------------------------------------------------------------
 */

static int put_header(struct sender *s, const char *path, struct fm_error *err)
{
    if (archive_write_header(s->archive, s->entry) != ARCHIVE_OK)
        return archive_failed(s, path, err);
    s->entries++;
    return 0;
}

static int put_hard_link(struct sender *s, const char *path, uint32_t first, struct fm_error *err)
{
    fm_autofree char *target = fm_tree_path(&s->tree, first);

    archive_entry_clear(s->entry);
    archive_entry_set_pathname(s->entry, path);
    archive_entry_set_filetype(s->entry, AE_IFREG);
    archive_entry_set_perm(s->entry, 0600);
    archive_entry_set_hardlink(s->entry, target);
    archive_entry_set_size(s->entry, 0);
    return put_header(s, path, err);
}

/* The O_PATH descriptor has shown that it is a regular file: opening anything else could have
 * effects. */
static int open_content(int path_fd)
{
    struct fm_fd_path self = fm_fd_path(path_fd);
    int fd = open(self.text, O_RDONLY | O_CLOEXEC | O_NOATIME);

    if (fd < 0 && errno == EPERM)
        fd = open(self.text, O_RDONLY | O_CLOEXEC);
    return fd;
}

/* Leaves only those blocks in the extents that the receiver does not have, when that is less. */
static int find_patch(struct sender *s, int fd, const struct stat *st, const char *path,
                      bool *patch, struct fm_error *err)
{
    struct fm_tree_extents differing = {0};
    char had[FM_TREE_PATCH_VALUE_MAX];

    struct fm_tree_file *f = fm_tree_blocks_find(s->blocks, path, st);
    if (!f)
        return 0;
    int r = fm_tree_file_compare(f, fd, st->st_size, &s->extents, s->last ? COMPARING_THREADS : 1,
                                 &differing, err);
    uint64_t bytes = fm_tree_extents_bytes(&differing);
    *patch = r == 0 && (bytes == 0 || bytes < fm_tree_extents_bytes(&s->extents));
    snprintf(had, sizeof(had), "%lld", (long long)fm_tree_file_size(f));
    if (*patch && !s->last)
        *patch = fm_tree_blocks_resize(s->blocks, f, st->st_size);
    if (*patch) {
        archive_entry_xattr_add_entry(s->entry, FM_TREE_PATCH_KEY, had, strlen(had));
        fm_tree_extents_clear(&s->extents);
        s->extents = differing;
        s->file = s->last ? NULL : f;
        s->patches++;
        return 0;
    }
    fm_tree_extents_clear(&differing);
    return r < 0 ? fm_error_prefix(err, "'%s'", path) : 0;
}

/* A file with other names, or a small one, is not remembered. */
static int choose_content(struct sender *s, int fd, const struct stat *st, bool only_name,
                          const char *path, bool *patch, struct fm_error *err)
{
    int r = 0;

    s->file = NULL;
    *patch = false;
    if (!s->blocks)
        return 0;
    if (!only_name || st->st_nlink != 1 || st->st_size < (off_t)FM_TREE_BLOCKS_FROM) {
        fm_tree_blocks_forget(s->blocks, path, false);
        return 0;
    }
    r = find_patch(s, fd, st, path, patch, err);
    if (r == 0 && !*patch && !s->last)
        s->file = fm_tree_blocks_start(s->blocks, path, st);
    return r;
}

static int put_file(struct sender *s, int path_fd, bool only_name, const char *path,
                    struct fm_error *err)
{
    struct stat st;
    bool patch;

    fm_autoclose int fd = open_content(path_fd);
    if (fd < 0)
        return fm_error_errno(err, errno, "cannot open '%s'", path);
    if (s->write_back)
        sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE);
    if (fstat(fd, &st) < 0)
        return fm_error_errno(err, errno, "cannot look at '%s'", path);

    int r = describe(s, path_fd, &st, path, err);
    if (r < 0)
        return fm_error_prefix(err, "'%s'", path);
    fm_tree_extents_find(&s->extents, fd, st.st_size);
    r = choose_content(s, fd, &st, only_name, path, &patch, err);
    if (r < 0)
        return r;
    describe_extents(s, st.st_size);
    r = put_header(s, path, err);
    return r < 0 ? r : put_content(s, fd, st.st_size, patch, path, err);
}

/* What is mounted there is not ours to move, but what it is mounted on has to be there. */
static int put_mount_point(struct sender *s, int fd, struct stat *st, const char *path,
                           struct fm_error *err)
{
    if (!S_ISDIR(st->st_mode))
        st->st_mode = S_IFREG | (st->st_mode & 07777);
    st->st_size = 0;
    int r = describe(s, fd, st, path, err);
    return r < 0 ? fm_error_prefix(err, "'%s'", path) : put_header(s, path, err);
}

static int put_opened(struct sender *s, uint32_t item, int fd, const char *path,
                      struct fm_error *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return fm_error_errno(err, errno, "cannot look at '%s'", path);
    if (s->blocks && (!S_ISREG(st.st_mode) || s->tree.items[item].mount_point))
        fm_tree_blocks_forget(s->blocks, path,
                              s->tree.items[item].directory && !S_ISDIR(st.st_mode));
    if (s->tree.items[item].mount_point)
        return put_mount_point(s, fd, &st, path, err);
    if (S_ISSOCK(st.st_mode)) { /* has just taken the place of something else */
        fm_strv_add(&s->vanished, path);
        return 0;
    }

    struct fm_tree_link *group =
        S_ISDIR(st.st_mode) || st.st_nlink < 2 ? NULL : fm_tree_link_group(&s->tree, &st);
    if (group && group->first != FM_TREE_NO_ITEM) {
        if (s->blocks)
            fm_tree_blocks_forget(s->blocks, path, false);
        return put_hard_link(s, path, group->first, err);
    }
    if (group)
        group->first = item;

    if (S_ISREG(st.st_mode))
        return put_file(s, fd, !group, path, err);
    int r = describe(s, fd, &st, path, err);
    return r < 0 ? fm_error_prefix(err, "'%s'", path) : put_header(s, path, err);
}

static int open_parent(struct sender *s, uint32_t parent)
{
    if (s->parent_fd >= 0 && s->parent == parent)
        return s->parent_fd;
    if (s->parent_fd >= 0)
        close(FM_MOVE_FD(s->parent_fd));
    fm_autofree char *path = fm_tree_path(&s->tree, parent);
    s->parent_fd = fm_tree_open_beneath(s->tree.root, path, O_PATH | O_DIRECTORY | O_NOFOLLOW);
    s->parent = parent;
    return s->parent_fd;
}

static int open_item(struct sender *s, uint32_t item)
{
    const struct fm_tree_item *it = &s->tree.items[item];

    if (item == 0)
        return fm_tree_open_beneath(s->tree.root, ".", O_PATH | O_DIRECTORY);
    int parent = open_parent(s, it->parent);
    if (parent < 0)
        return -1;
    if (it->mount_point)
        return openat(parent, it->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    return fm_tree_open_beneath(parent, it->name, O_PATH | O_NOFOLLOW);
}

static int put_item(struct sender *s, uint32_t item, struct fm_error *err)
{
    fm_autofree char *path = fm_tree_path(&s->tree, item);
    fm_autoclose int fd = open_item(s, item);

    if (fd >= 0)
        return put_opened(s, item, fd, path, err);
    if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP && errno != EXDEV)
        return fm_error_errno(err, errno, "cannot open '%s'", path);
    fm_strv_add(&s->vanished, path);
    return 0;
}

/* --- the three streams ---------------------------------------------------------------------------
 */

/* Paths with a NUL after each, through the buffer. */
struct path_list {
    struct sender *sender;
    size_t used;
};

static int list_path(struct path_list *l, const char *path, struct fm_error *err)
{
    size_t n = strlen(path) + 1;

    if (n > FM_STREAM_CHUNK - l->used) {
        int r = fm_stream_send(&l->sender->stream, l->sender->buffer, l->used, err);
        if (r < 0)
            return r;
        l->used = 0;
    }
    memcpy(l->sender->buffer + l->used, path, n);
    l->used += n;
    return 0;
}

static int end_list(struct path_list *l, struct fm_error *err)
{
    int r = fm_stream_send(&l->sender->stream, l->sender->buffer, l->used, err);
    return r < 0 ? r : fm_stream_send_end(&l->sender->stream, err);
}

static int send_paths(struct sender *s, bool with_list, struct fm_error *err)
{
    struct path_list list = {.sender = s};
    int r = 0;

    fm_stream_init(&s->stream, s->connection);
    for (uint32_t i = 0; with_list && i < s->tree.count && r == 0; i++) {
        if (s->tree.items[i].socket)
            continue;
        fm_autofree char *path = fm_tree_path(&s->tree, i);
        if (s->blocks && !s->tree.items[i].directory)
            fm_tree_blocks_keep(s->blocks, path);
        r = list_path(&list, path, err);
    }
    if (s->blocks)
        fm_tree_blocks_drop_others(s->blocks);
    if (r == 0)
        r = end_list(&list, err);
    fm_stream_clear(&s->stream);
    return r;
}

static int send_vanished(struct sender *s, struct fm_error *err)
{
    struct path_list list = {.sender = s};
    int r = 0;

    fm_stream_init(&s->stream, s->connection);
    for (size_t i = 0; i < s->vanished.count && r == 0; i++)
        r = list_path(&list, s->vanished.items[i], err);
    if (r == 0)
        r = end_list(&list, err);
    fm_stream_clear(&s->stream);
    return r;
}

static int send_archive(struct sender *s, struct fm_tree_stats *stats, struct fm_error *err)
{
    fm_stream_init(&s->stream, s->connection);
    int r = open_archive(s, err);
    for (uint32_t i = 0; i < s->tree.count && r == 0; i++) {
        if (s->tree.items[i].selected)
            r = put_item(s, i, err);
    }
    if (r == 0 && archive_write_close(s->archive) != ARCHIVE_OK)
        r = archive_failed(s, "the tree", err);
    if (r == 0 && send_block(s) < 0)
        r = archive_failed(s, "the tree", err);
    if (r < 0)
        archive_write_fail(s->archive);
    archive_write_free(s->archive);
    archive_entry_free(s->entry);
    if (r == 0)
        r = fm_stream_send_end(&s->stream, err);
    if (r == 0 && stats)
        *stats = (struct fm_tree_stats){
            .entries = s->entries, .bytes = s->stream.bytes, .patches = s->patches};
    fm_stream_clear(&s->stream);
    return r;
}

int fm_tree_send_selected(struct fm_connection *c, const char *dir,
                          const struct fm_tree_selection *selection, struct fm_tree_stats *stats,
                          struct fm_error *err)
{
    struct fm_tree_filter filter = {selection->changed_after_us, selection->always};
    struct sender s = {.connection = c,
                       .write_back = !selection->last && !selection->always,
                       .last = selection->last,
                       .blocks = selection->blocks,
                       .parent_fd = -1};

    if (s.blocks)
        fm_tree_blocks_begin(s.blocks, selection->name, selection->changed_after_us == 0);
    int r = fm_tree_walk(&s.tree, dir, &filter, err);
    if (r == 0) {
        s.buffer = fm_xmalloc(FM_STREAM_CHUNK);
        s.block = fm_xmalloc(FM_STREAM_CHUNK);
        s.names = fm_xmalloc(FM_TREE_XATTR_MAX);
        s.value = fm_xmalloc(FM_TREE_XATTR_MAX);
        r = send_paths(&s, filter.changed_after_us > 0, err);
    }
    if (r == 0)
        r = send_archive(&s, stats, err);
    if (r == 0)
        r = send_vanished(&s, err);
    if (r < 0 && s.blocks)
        fm_tree_blocks_forget_all(s.blocks);

    if (s.parent_fd >= 0)
        close(s.parent_fd);
    fm_strv_free(&s.vanished);
    fm_tree_extents_clear(&s.extents);
    free(s.buffer);
    free(s.block);
    free(s.names);
    free(s.value);
    fm_tree_clear(&s.tree);
    return r < 0 ? fm_error_prefix(err, "cannot send '%s'", dir) : 0;
}

int fm_tree_send(struct fm_connection *c, const char *dir, uint64_t changed_after_us,
                 struct fm_tree_stats *stats, struct fm_error *err)
{
    struct fm_tree_selection selection = {.changed_after_us = changed_after_us};

    return fm_tree_send_selected(c, dir, &selection, stats, err);
}
