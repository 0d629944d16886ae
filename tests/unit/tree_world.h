/* Two directories and a connection between them: a tree is sent from one into the other, and
 * compared. */
#ifndef FM_TESTS_TREE_WORLD_H
#define FM_TESTS_TREE_WORLD_H

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "state/stream.h"
#include "state/tree_place.h"
#include "state/tree_stream.h"
#include "wire_pair.h"

struct fixture {
    struct wire_pair pair;
    char dir[32];
    char from[48];
    char to[48];
    struct fm_tree_stats sent;
    struct fm_tree_stats received;
    struct fm_error send_error;
    struct fm_error receive_error;
};

static inline int set_up(void **state)
{
    static struct fixture f;

    f = (struct fixture){.dir = "/tmp/fm-tree-XXXXXX"};
    *state = &f;
    if (!mkdtemp(f.dir) || wire_pair_open(&f.pair) < 0)
        return -1;
    snprintf(f.from, sizeof(f.from), "%s/from", f.dir);
    snprintf(f.to, sizeof(f.to), "%s/to", f.dir);
    return mkdir(f.from, 0755) | mkdir(f.to, 0755);
}

static inline int tear_down(void **state)
{
    struct fixture *f = *state;

    wire_pair_close(&f->pair);
    return fm_remove_tree(f->dir, NULL);
}

/* --- transfers
 * ------------------------------------------------------------------------------------- */

struct receive_job {
    struct fixture *f;
    uint64_t max_bytes;
    int rc;
};

static inline void *receive(void *arg)
{
    struct receive_job *job = arg;
    struct fixture *f = job->f;

    f->receive_error = (struct fm_error){0};
    job->rc = fm_tree_receive(f->pair.b, f->to, job->max_bytes, &f->received, &f->receive_error);
    if (job->rc < 0)
        fm_connection_send_error(f->pair.b, FM_FRAME_ERROR, &f->receive_error, NULL);
    return NULL;
}

static inline int transfer_selected(struct fixture *f, const struct fm_tree_selection *selection,
                                    uint64_t max_bytes)
{
    struct receive_job job = {.f = f, .max_bytes = max_bytes};
    pthread_t thread;

    f->send_error = (struct fm_error){0};
    assert_int_equal(pthread_create(&thread, NULL, receive, &job), 0);
    int rc = fm_tree_send_selected(f->pair.a, f->from, selection, &f->sent, &f->send_error);
    if (rc < 0)
        fm_connection_shutdown(f->pair.a);
    pthread_join(thread, NULL);
    return rc < 0 ? rc : job.rc;
}

static inline void transfer(struct fixture *f, uint64_t changed_after_us)
{
    struct fm_tree_selection selection = {.changed_after_us = changed_after_us};

    int rc = transfer_selected(f, &selection, UINT64_MAX / 2);
    if (rc < 0)
        fail_msg("sender: %s; receiver: %s", f->send_error.text, f->receive_error.text);
    assert_int_equal(f->sent.entries, f->received.entries);
    assert_int_equal(f->sent.bytes, f->received.bytes);
}

/* The time before which everything counts as old; waits until the clock that stamps files has
 * passed it. */
static inline uint64_t now_for_next_pass(const struct fixture *f)
{
    struct stat st = {0};
    uint64_t now = fm_realtime_us();
    fm_autofree char *probe = fm_strf("%s/probe", f->dir);

    do {
        close(open(probe, O_CREAT | O_WRONLY | O_TRUNC, 0600));
        chmod(probe, 0600);
        assert_int_equal(stat(probe, &st), 0);
    } while ((uint64_t)st.st_ctim.tv_sec * 1000000 + (uint64_t)st.st_ctim.tv_nsec / 1000 <
             now + 25000);
    return fm_realtime_us();
}

/* --- making files
 * ------------------------------------------------------------------------------------- */

static inline const char *in(const char *dir, const char *name)
{
    static __thread char path[4][4500];
    static __thread unsigned next;

    char *p = path[next++ % 4];
    snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
    return p;
}

static inline void write_file(const char *path, const void *data, size_t len)
{
    fm_autoclose int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(fm_write_full(fd, data, len), 0);
}

static inline void write_text(const struct fixture *f, const char *name, const char *text)
{
    write_file(in(f->from, name), text, strlen(text));
}

static inline void make_dir(const struct fixture *f, const char *name)
{
    assert_int_equal(mkdir(in(f->from, name), 0755), 0);
}

static inline void rename_in(const struct fixture *f, const char *a, const char *b)
{
    assert_int_equal(rename(in(f->from, a), in(f->from, b)), 0);
}

/* --- comparing
 * ------------------------------------------------------------------------------------------ */

static inline bool same_content(const char *a, const char *b)
{
    static char x[1 << 18];
    static char y[1 << 18];
    fm_autoclose int f = open(a, O_RDONLY | O_CLOEXEC);
    fm_autoclose int g = open(b, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    assert_true(f >= 0 && g >= 0);
    do {
        n = fm_read_full(f, x, sizeof(x));
        assert_true(n >= 0);
        if (fm_read_full(g, y, sizeof(y)) != n || memcmp(x, y, (size_t)n) != 0)
            return false;
    } while (n > 0);
    return true;
}

static inline void compare_xattrs(const char *a, const char *b)
{
    char names[4096];
    char x[4096];
    char y[4096];

    ssize_t len = llistxattr(a, names, sizeof(names));
    assert_true(len >= 0);
    for (char *name = names; name < names + len; name += strlen(name) + 1) {
        ssize_t n = lgetxattr(a, name, x, sizeof(x));
        if (lgetxattr(b, name, y, sizeof(y)) != n || memcmp(x, y, (size_t)n) != 0)
            fail_msg("%s: xattr %s differs", b, name);
    }
    assert_int_equal(llistxattr(b, NULL, 0), len);
}

static inline void compare_entry(const char *a, const char *b)
{
    struct stat x;
    struct stat y;

    assert_int_equal(lstat(a, &x), 0);
    if (lstat(b, &y) < 0)
        fail_msg("%s is missing", b);
    if (x.st_mode != y.st_mode || x.st_uid != y.st_uid || x.st_gid != y.st_gid ||
        x.st_rdev != y.st_rdev)
        fail_msg("%s: mode %o owner %u:%u instead of %o %u:%u", b, y.st_mode, y.st_uid, y.st_gid,
                 x.st_mode, x.st_uid, x.st_gid);
    if (x.st_mtim.tv_sec != y.st_mtim.tv_sec || x.st_mtim.tv_nsec != y.st_mtim.tv_nsec)
        fail_msg("%s: its mtime differs", b);
    if (!S_ISDIR(x.st_mode) && x.st_nlink != y.st_nlink)
        fail_msg("%s: %lu links instead of %lu", b, y.st_nlink, x.st_nlink);
    if (S_ISREG(x.st_mode) && (x.st_size != y.st_size || !same_content(a, b)))
        fail_msg("%s: its content differs", b);
    if (S_ISLNK(x.st_mode)) {
        char p[4096] = "";
        char q[4096] = "";
        assert_true(readlink(a, p, sizeof(p) - 1) > 0 && readlink(b, q, sizeof(q) - 1) > 0);
        assert_string_equal(p, q);
    }
    compare_xattrs(a, b);
}

static const struct fixture *comparing;
static unsigned counted;

static inline int compare_visit(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)type;
    (void)ftw;
    if (S_ISSOCK(st->st_mode))
        return 0;
    counted++;
    if (strcmp(path, comparing->from) != 0)
        compare_entry(path, in(comparing->to, path + strlen(comparing->from) + 1));
    return 0;
}

static inline int count_visit(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)path;
    (void)st;
    (void)type;
    (void)ftw;
    counted--;
    return 0;
}

/* Both directions: everything is there and the same, and nothing else is. */
static inline void compare_trees(const struct fixture *f)
{
    comparing = f;
    counted = 0;
    compare_entry(f->from, f->to);
    assert_int_equal(nftw(f->from, compare_visit, 32, FTW_PHYS), 0);
    assert_int_equal(nftw(f->to, count_visit, 32, FTW_PHYS), 0);
    assert_int_equal(counted, 0);
}

static inline bool exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

/* --- hostile senders
 * --------------------------------------------------------------------------------------------- */

struct hostile {
    struct fm_stream stream;
    struct archive *archive;
};

static inline la_ssize_t hostile_write(struct archive *a, void *ctx, const void *data, size_t len)
{
    struct hostile *h = ctx;

    (void)a;
    return fm_stream_send(&h->stream, data, len, NULL) < 0 ? -1 : (la_ssize_t)len;
}

static inline void hostile_begin(struct hostile *h, struct fm_connection *c, const char *list,
                                 size_t len)
{
    fm_stream_init(&h->stream, c);
    fm_stream_send(&h->stream, list, len, NULL);
    fm_stream_send_end(&h->stream, NULL);
    fm_stream_clear(&h->stream);
    fm_stream_init(&h->stream, c);
    h->archive = archive_write_new();
    archive_write_set_format_pax(h->archive);
    archive_write_open(h->archive, h, NULL, hostile_write, NULL);
}

static inline void hostile_add(struct hostile *h, const char *path, mode_t type, const char *target)
{
    struct archive_entry *e = archive_entry_new();

    archive_entry_set_pathname(e, path);
    archive_entry_set_filetype(e, type);
    archive_entry_set_perm(e, 0755);
    archive_entry_set_uid(e, geteuid());
    archive_entry_set_gid(e, getegid());
    if (type == AE_IFLNK)
        archive_entry_set_symlink(e, target);
    else if (target)
        archive_entry_set_hardlink(e, target);
    if (type == AE_IFREG && !target)
        archive_entry_set_size(e, 5);
    archive_write_header(h->archive, e);
    if (type == AE_IFREG && !target)
        archive_write_data(h->archive, "evil\n", 5);
    archive_entry_free(e);
}

static inline void hostile_end(struct hostile *h)
{
    archive_write_close(h->archive);
    archive_write_free(h->archive);
    fm_stream_send_end(&h->stream, NULL);
    fm_stream_clear(&h->stream);
    fm_stream_init(&h->stream, h->stream.connection);
    fm_stream_send_end(&h->stream, NULL);
    fm_stream_clear(&h->stream);
}

#endif
