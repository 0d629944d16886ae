#include "state/page_store.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "state/page_codec.h"
#include "state/page_map.h"
#include "state/page_recent.h"
#include "state/page_window.h"

/* What the pager fills first takes a millisecond or two. */
#define RECENT_BYTES (2u << 20)

/* The pages of one process. */
struct store_file {
    pid_t pid;
    int fd;
    pthread_mutex_t lock; /* of what follows */
    struct fm_page_map occupied;
    struct fm_page_windows windows;
    struct fm_page_recent recent;
    struct fm_ranges present; /* once settled */
    bool settled;
    uint64_t expected; /* bytes that were missing then and need a place */
    struct store_file *next;
};

struct fm_page_store {
    char *dir;
    int dir_fd;
    struct fm_page_room room;
    pthread_mutex_t asking;     /* for more of it: one at a time */
    _Atomic uint64_t max_bytes; /* of room, to be read without the lock */
    _Atomic uint64_t bytes;
    _Atomic uint64_t expected; /* of all files */
    pthread_rwlock_t lock;     /* of the list; files stay until the store is closed */
    struct store_file *files;
};

/* ---- Files ---- */

static struct store_file *look_up(struct fm_page_store *s, pid_t pid)
{
    struct store_file *f;

    pthread_rwlock_rdlock(&s->lock);
    for (f = s->files; f && f->pid != pid;)
        f = f->next;
    pthread_rwlock_unlock(&s->lock);
    return f;
}

/* Takes what an earlier daemon left: tmpfs knows which pages are there. */
static int count_occupied(struct fm_page_store *s, struct store_file *f, struct fm_error *err)
{
    uint64_t page = fm_page_size();
    off_t at = 0;

    while ((at = lseek(f->fd, at, SEEK_DATA)) >= 0) {
        off_t end = lseek(f->fd, at, SEEK_HOLE);

        if (end < 0)
            break;
        s->bytes += page * fm_page_map_set(&f->occupied, (uint64_t)at / page,
                                           ((uint64_t)end + page - 1) / page);
        at = end;
    }
    return at < 0 && errno != ENXIO
               ? fm_error_errno(err, errno, "cannot walk the pages of %d in %s", (int)f->pid,
                                s->dir)
               : 0;
}

static struct store_file *open_file(struct fm_page_store *s, pid_t pid, struct fm_error *err)
{
    fm_autofree char *name = fm_strf("%d.pages", (int)pid);
    struct store_file *f;
    int fd = openat(s->dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0) {
        fm_error_errno(err, errno, "cannot open %s/%s", s->dir, name);
        return NULL;
    }
    f = fm_xcalloc(1, sizeof(*f));
    f->pid = pid;
    f->fd = fd;
    pthread_mutex_init(&f->lock, NULL);
    return f;
}

static void free_file(struct store_file *f)
{
    close(f->fd);
    pthread_mutex_destroy(&f->lock);
    fm_page_map_clear(&f->occupied);
    fm_page_windows_clear(&f->windows);
    fm_ranges_clear(&f->present);
    free(f);
}

/* The file of a process, made when it is the first time. */
static struct store_file *file_of(struct fm_page_store *s, pid_t pid, struct fm_error *err)
{
    struct store_file *f = look_up(s, pid);

    if (f)
        return f;
    pthread_rwlock_wrlock(&s->lock);
    for (f = s->files; f && f->pid != pid;)
        f = f->next;
    if (!f && (f = open_file(s, pid, err))) {
        f->next = s->files;
        s->files = f;
    }
    pthread_rwlock_unlock(&s->lock);
    return f;
}

/* Opens the files that are there already. */
static int find_files(struct fm_page_store *s, struct fm_error *err)
{
    fm_autoclosedir DIR *d = NULL;
    int fd = openat(s->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct dirent *entry;

    if (fd < 0 || !(d = fdopendir(fd))) {
        int error = errno;

        if (fd >= 0)
            close(fd);
        return fm_error_errno(err, error, "cannot list %s", s->dir);
    }
    while ((entry = readdir(d))) {
        struct store_file *f;
        char *end;
        long pid = strtol(entry->d_name, &end, 10);

        if (!fm_streq(end, ".pages") || pid < 1 || pid > FM_PAGE_PID_MAX)
            continue;
        if (!(f = file_of(s, (pid_t)pid, err)) || count_occupied(s, f, err) < 0)
            return fm_error_result(err);
    }
    return 0;
}

/* ---- Opening and closing ---- */

struct fm_page_store *fm_page_store_open(const char *dir, const struct fm_page_room *room,
                                         struct fm_error *err)
{
    struct fm_page_store *s;

    if (fm_mkdir_p(dir, 0700, err) < 0)
        return NULL;
    s = fm_xcalloc(1, sizeof(*s));
    s->dir = fm_xstrdup(dir);
    s->room = *room;
    s->max_bytes = room->max_bytes;
    pthread_mutex_init(&s->asking, NULL);
    pthread_rwlock_init(&s->lock, NULL);
    s->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dir_fd < 0)
        fm_error_errno(err, errno, "cannot open the page store %s", dir);
    if (s->dir_fd < 0 || find_files(s, err) < 0) {
        fm_page_store_close(s);
        return NULL;
    }
    return s;
}

void fm_page_store_close(struct fm_page_store *s)
{
    if (!s)
        return;
    while (s->files) {
        struct store_file *f = s->files;

        s->files = f->next;
        free_file(f);
    }
    if (s->dir_fd >= 0)
        close(s->dir_fd);
    pthread_rwlock_destroy(&s->lock);
    pthread_mutex_destroy(&s->asking);
    free(s->dir);
    free(s);
}

int fm_page_store_remove(const char *dir, struct fm_error *err)
{
    return fm_remove_tree(dir, err);
}

uint64_t fm_page_store_bytes(struct fm_page_store *s)
{
    return atomic_load(&s->bytes);
}

/* ---- Pages ---- */

static int no_space(struct fm_page_store *s, struct fm_error *err)
{
    char size[32];

    return fm_error_set(err, FM_E_NO_SPACE,
                        "the container's pages do not fit into the %s reserved for them",
                        fm_format_size(s->max_bytes, size, sizeof(size)));
}

/* Makes sure that it may hold so many. */
static int make_room(struct fm_page_store *s, uint64_t bytes, struct fm_error *err)
{
    uint64_t max_bytes;
    int ret = 0;

    if (bytes <= atomic_load(&s->max_bytes))
        return 0;
    pthread_mutex_lock(&s->asking);
    max_bytes = atomic_load(&s->max_bytes); /* another thread may have asked */
    if (bytes > max_bytes && s->room.grow)
        ret = s->room.grow(s->room.ctx, bytes, &max_bytes, err);
    if (ret == 0 && bytes > max_bytes)
        ret = no_space(s, err);
    if (ret == 0)
        atomic_store(&s->max_bytes, max_bytes);
    pthread_mutex_unlock(&s->asking);
    return ret;
}

/* Counts the pages that are not there yet. Without room for them nothing is kept of it. */
static int occupy(struct fm_page_store *s, struct store_file *f, uint64_t start, uint64_t end,
                  struct fm_error *err)
{
    uint64_t page = fm_page_size(), more, now;
    int ret;

    pthread_mutex_lock(&f->lock);
    more = page * fm_page_map_unset_count(&f->occupied, start / page, end / page);
    now = atomic_fetch_add(&s->bytes, more) + more;
    ret = more > 0 ? make_room(s, now, err) : 0;
    if (ret < 0)
        atomic_fetch_sub(&s->bytes, more);
    else
        fm_page_map_set(&f->occupied, start / page, end / page);
    pthread_mutex_unlock(&f->lock);
    return ret;
}

static uint64_t vacate(struct fm_page_store *s, struct store_file *f, uint64_t start, uint64_t end)
{
    uint64_t page = fm_page_size(), gone;

    pthread_mutex_lock(&f->lock);
    gone = page * fm_page_map_clear_bits(&f->occupied, start / page, end / page);
    pthread_mutex_unlock(&f->lock);
    atomic_fetch_sub(&s->bytes, gone);
    return gone;
}

/* A fault for writing maps this page; one for reading would map its neighbours too, at twice the
 * cost. Nothing changes. */
static void touch(uint8_t *page)
{
    uint8_t zero = 0;

    __atomic_compare_exchange_n(page, &zero, 0, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

/* Where a single page that exists is mapped; NULL: take a system call. */
static uint8_t *mapped_page(struct store_file *f, uint64_t address, size_t len)
{
    uint64_t number = address / fm_page_size();
    uint8_t *page = NULL;

    if (len != fm_page_size())
        return NULL;
    pthread_mutex_lock(&f->lock);
    if (fm_page_map_unset_count(&f->occupied, number, number + 1) == 0)
        page = fm_page_window_find(&f->windows, f->fd, address);
    pthread_mutex_unlock(&f->lock);
    if (page)
        touch(page);
    return page;
}

static int write_file(struct fm_page_store *s, struct store_file *f, uint64_t address,
                      const uint8_t *pages, size_t len, struct fm_error *err)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(f->fd, pages + done, len - done, (off_t)(address + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EFBIG)
            return fm_error_set(err, FM_E_INVALID,
                                "cannot keep pages in %s: addresses are offsets there; put it on "
                                "a tmpfs",
                                s->dir);
        if (n <= 0)
            return fm_error_errno(err, n < 0 ? errno : ENOSPC, "cannot keep pages in %s", s->dir);
        done += (size_t)n;
    }
    return 0;
}

static void note_recent(struct store_file *f, uint64_t start, uint64_t end)
{
    pthread_mutex_lock(&f->lock);
    fm_page_recent_note(&f->recent, start, end);
    pthread_mutex_unlock(&f->lock);
}

int fm_page_store_write(struct fm_page_store *s, pid_t inner_pid, uint64_t address,
                        const void *pages, size_t len, struct fm_error *err)
{
    struct store_file *f;
    uint8_t *there;
    int ret;

    if (fm_page_check(inner_pid, address, address + len, err) < 0)
        return -FM_E_PROTOCOL;
    f = file_of(s, inner_pid, err);
    if (!f)
        return fm_error_result(err);
    note_recent(f, address, address + len);
    there = mapped_page(f, address, len);
    if (there) {
        memcpy(there, pages, len);
        return 0;
    }
    ret = occupy(s, f, address, address + len, err);
    if (ret < 0)
        return ret;
    ret = write_file(s, f, address, pages, len, err);
    if (ret < 0) /* a mapped page must exist */
        vacate(s, f, address, address + len);
    return ret;
}

/* What lies outside of `present` reads as zeroes once it is known. */
static void blank_absent(struct store_file *f, uint64_t address, uint8_t *pages, size_t len)
{
    uint64_t page = fm_page_size();

    pthread_mutex_lock(&f->lock);
    for (size_t done = 0; f->settled && done < len; done += page)
        if (!fm_ranges_contain(&f->present, address + done))
            memset(pages + done, 0, page);
    pthread_mutex_unlock(&f->lock);
}

static int read_file(struct fm_page_store *s, struct store_file *f, uint64_t address,
                     uint8_t *pages, size_t len, struct fm_error *err)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(f->fd, pages + done, len - done, (off_t)(address + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fm_error_errno(err, errno, "cannot read pages of %s", s->dir);
        if (n == 0) { /* behind the last page: a hole as well */
            memset(pages + done, 0, len - done);
            break;
        }
        done += (size_t)n;
    }
    return 0;
}

int fm_page_store_read(struct fm_page_store *s, pid_t inner_pid, uint64_t address, void *pages,
                       size_t len, struct fm_error *err)
{
    struct store_file *f;
    uint8_t *there;
    int ret;

    if (fm_page_check(inner_pid, address, address + len, err) < 0)
        return -FM_E_PROTOCOL;
    f = look_up(s, inner_pid);
    there = f ? mapped_page(f, address, len) : NULL;
    if (there)
        memcpy(pages, there, len);
    else if (!f)
        memset(pages, 0, len);
    else if ((ret = read_file(s, f, address, pages, len, err)) < 0)
        return ret;
    if (f)
        blank_absent(f, address, pages, len);
    return 0;
}

int fm_page_store_zero(struct fm_page_store *s, pid_t inner_pid, uint64_t start, uint64_t end,
                       struct fm_error *err)
{
    struct store_file *f;

    if (fm_page_check(inner_pid, start, end, err) < 0)
        return -FM_E_PROTOCOL;
    f = look_up(s, inner_pid);
    if (!f || vacate(s, f, start, end) == 0)
        return 0;
    if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)start,
                  (off_t)(end - start)) < 0)
        return fm_error_errno(err, errno, "cannot drop pages of %s", s->dir);
    return 0;
}

/* ---- Settling ---- */

/* What is missing comes when the container runs here already, and there is no way back: whether
 * there is a place for it has to be known before. */
static int expect(struct fm_page_store *s, struct store_file *f, const struct fm_ranges *missing,
                  struct fm_error *err)
{
    uint64_t page = fm_page_size(), unset = 0, expected;
    int ret = missing ? make_room(s, fm_ranges_bytes(missing), err) : 0;

    if (ret < 0) /* absurd ranges are not walked */
        return ret;
    pthread_mutex_lock(&f->lock);
    for (size_t i = 0; missing && i < missing->count; i++)
        unset += fm_page_map_unset_count(&f->occupied, missing->items[i].start / page,
                                         missing->items[i].end / page);
    atomic_fetch_sub(&s->expected, f->expected);
    f->expected = page * unset;
    expected = atomic_fetch_add(&s->expected, f->expected) + f->expected;
    pthread_mutex_unlock(&f->lock);
    return make_room(s, fm_page_store_bytes(s) + expected, err);
}

/* Replaces a file of ranges at once: a reader sees the old or the new one. No fsync: what loses a
 * tmpfs loses the pages as well. */
static int write_ranges(struct fm_page_store *s, pid_t pid, const char *kind,
                        const struct fm_ranges *ranges, struct fm_error *err)
{
    fm_autofree char *name = fm_strf("%d.%s", (int)pid, kind);
    fm_autofree char *temporary = fm_strf("%s.new", name);
    fm_autofree uint64_t *words = fm_xcalloc(ranges->count * 2, sizeof(*words));
    fm_autoclose int fd = -1;

    for (size_t i = 0; i < ranges->count; i++) {
        words[2 * i] = htole64(ranges->items[i].start);
        words[2 * i + 1] = htole64(ranges->items[i].end);
    }
    fd = openat(s->dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || fm_write_full(fd, words, ranges->count * 2 * sizeof(*words)) < 0 ||
        renameat(s->dir_fd, temporary, s->dir_fd, name) < 0)
        return fm_error_errno(err, errno, "cannot write %s/%s", s->dir, name);
    return 0;
}

static int remove_ranges(struct fm_page_store *s, pid_t pid, const char *kind, struct fm_error *err)
{
    fm_autofree char *name = fm_strf("%d.%s", (int)pid, kind);

    if (unlinkat(s->dir_fd, name, 0) < 0 && errno != ENOENT)
        return fm_error_errno(err, errno, "cannot remove %s/%s", s->dir, name);
    return 0;
}

/* A hint: without it the pager begins somewhere else. */
static void write_recent(struct fm_page_store *s, struct store_file *f)
{
    fm_cleanup(fm_ranges_clear) struct fm_ranges recent = {0};

    pthread_mutex_lock(&f->lock);
    fm_page_recent_ranges(&f->recent, RECENT_BYTES, &recent);
    pthread_mutex_unlock(&f->lock);
    write_ranges(s, f->pid, "recent", &recent, NULL);
}

int fm_page_store_settle(struct fm_page_store *s, pid_t inner_pid, const struct fm_ranges *present,
                         const struct fm_ranges *missing, struct fm_error *err)
{
    struct store_file *f;
    int ret;

    if (fm_page_check(inner_pid, 0, fm_page_size(), err) < 0)
        return -FM_E_PROTOCOL;
    f = file_of(s, inner_pid, err); /* a process without a page has a file too */
    if (!f)
        return fm_error_result(err);
    ret = expect(s, f, missing, err);
    if (ret < 0)
        return ret;
    /* Missing first: who sees `present` must know what it cannot have yet. */
    ret = missing ? write_ranges(s, inner_pid, "missing", missing, err)
                  : remove_ranges(s, inner_pid, "missing", err);
    if (ret < 0)
        return ret;
    write_recent(s, f);
    ret = write_ranges(s, inner_pid, "present", present, err);
    if (ret < 0)
        return ret;
    pthread_mutex_lock(&f->lock);
    fm_ranges_clear(&f->present);
    for (size_t i = 0; i < present->count; i++)
        fm_ranges_append(&f->present, present->items[i].start, present->items[i].end);
    f->settled = true;
    pthread_mutex_unlock(&f->lock);
    return 0;
}
