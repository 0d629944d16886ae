/* Preloaded into a CRIU that dumps a container whose memory travels by page streams.
 *
 * CRIU is to save everything but the pages that the state engine moves itself, in a form that a
 * restore with lazy pages takes for memory that comes later. Its own --lazy-pages does that on the
 * restoring side only: on the dumping side it still pipes every page. Here CRIU does not get to see
 * those pages. The directory that FLEXIMIGRATE_FILTER_DIR names has for each process, written once
 * all tasks stand still:
 *
 * - <pid>.hide, pairs of little-endian u64 [start, end), sorted, in bytes: left out of what
 *   PAGEMAP_SCAN, or on older kernels a read of the pagemap, reports;
 * - <pid>.unguarded, the same of where no guard regions are (CRIU makes mappings of them): left
 *   out of what is scanned for those;
 * - <pid>.smaps, a copy of /proc/PID/smaps, served in its place.
 *
 * For scans and smaps the kernel walks every page, also of what is to stay hidden. A process
 * without these files is dumped as ever.
 *
 * Formats: Documentation/admin-guide/mm/pagemap.rst. */
#undef _FILE_OFFSET_BITS /* which would make one of each open and open64 */

#include <dlfcn.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/page_scan.h"
#include "criu/page_filter.h"

#define PAGEMAP_ENTRY 8 /* bytes for each page */

struct range {
    uint64_t start, end;
};

/* What one of these files says of the process that was asked for last: CRIU dumps one after the
 * other. */
struct view {
    const char *kind;
    long pid;
    struct range *items;
    size_t count;
};
static struct view pages = {.kind = "hide", .pid = -1};
static struct view guards = {.kind = "unguarded", .pid = -1};

int ioctl(int fd, unsigned long request, ...);
ssize_t pread(int fd, void *buf, size_t len, off_t at);
ssize_t pread64(int fd, void *buf, size_t len, off64_t at);
int open(const char *path, int flags, ...);
int open64(const char *path, int flags, ...);
int openat(int dir, const char *path, int flags, ...);
int openat64(int dir, const char *path, int flags, ...);
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dir, const char *path, int flags);
int __openat64_2(int dir, const char *path, int flags);

/* ---- Whose ---- */

/* 123 of "/proc/123/pagemap"; -1 for anything else. `rest` is what follows the number. */
static long pid_of_path(const char *path, const char *rest)
{
    char *end = NULL;
    if (strncmp(path, "/proc/", 6) != 0 || path[6] < '0' || path[6] > '9')
        return -1;
    long pid = strtol(path + 6, &end, 10);
    return strcmp(end, rest) == 0 ? pid : -1;
}

static long pid_of_descriptor(int fd, const char *rest)
{
    char link[64], path[128];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    if (n <= 0)
        return -1;
    path[n] = '\0';
    return pid_of_path(path, rest);
}

static bool filter_path(char *path, size_t size, long pid, const char *kind)
{
    const char *dir = getenv(FM_FILTER_ENVIRONMENT);
    int n = dir && pid > 0 ? snprintf(path, size, "%s/%ld.%s", dir, pid, kind) : -1;
    return n > 0 && (size_t)n < size;
}

/* A dump that hides half of what it should is worse than none. */
_Noreturn static void give_up(const char *path)
{
    fprintf(stderr, "page filter: cannot read %s: %s\n", path, strerror(errno));
    _exit(1);
}

static void read_ranges(struct view *v, int fd, const char *path)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || st.st_size % (off_t)sizeof(struct range) != 0)
        give_up(path);
    size_t size = (size_t)st.st_size, done = 0;
    v->items = malloc(size + 1);
    v->count = size / sizeof(struct range);
    while (v->items && done < size) {
        ssize_t n = read(fd, (char *)v->items + done, size - done);
        if (n <= 0)
            give_up(path);
        done += (size_t)n;
    }
    if (!v->items)
        give_up(path);
    for (size_t i = 0; i < v->count; i++) {
        v->items[i].start = le64toh(v->items[i].start);
        v->items[i].end = le64toh(v->items[i].end);
    }
}

/* Makes the view that of a process; true when something is left out of it. */
static bool look_up(struct view *v, long pid)
{
    char path[PATH_MAX];
    if (v->pid == pid)
        return v->count > 0;
    free(v->items);
    *v = (struct view){.kind = v->kind, .pid = pid};
    if (!filter_path(path, sizeof(path), pid, v->kind))
        return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT)
        give_up(path);
    if (fd < 0)
        return false;
    read_ranges(v, fd, path);
    close(fd);
    return v->count > 0;
}

/* The first stretch of [from, end) that is not left out; empty (start == end) when there is none.
 */
static struct range visible(const struct view *v, uint64_t from, uint64_t end)
{
    struct range r = {.start = from, .end = end};
    size_t low = 0, high = v->count;
    while (low < high) { /* the first one that ends behind `from` */
        size_t middle = low + (high - low) / 2;
        if (v->items[middle].end <= from)
            low = middle + 1;
        else
            high = middle;
    }
    while (low < v->count && v->items[low].start <= r.start && r.start < end)
        r.start = v->items[low++].end;
    if (r.start > end)
        r.start = end;
    if (low < v->count && v->items[low].start < end)
        r.end = v->items[low].start;
    return r;
}

/* ---- PAGEMAP_SCAN ---- */

typedef int (*ioctl_fn)(int, unsigned long, ...);

static uint64_t pages_of(const struct fm_page_region *regions, size_t count)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += regions[i].end - regions[i].start;
    return bytes / (uint64_t)sysconf(_SC_PAGESIZE);
}

/* One stretch after the other, as if the kernel had found nothing in between. */
static int scan_visible(const struct view *v, ioctl_fn next, int fd, struct fm_page_scan *asked)
{
    struct fm_page_region *regions = (struct fm_page_region *)(uintptr_t)asked->vec;
    uint64_t at = asked->start, pages_left = asked->max_pages;
    int found = 0;
    while (at < asked->end) {
        struct range r = visible(v, at, asked->end);
        if (r.start >= r.end) {
            at = asked->end;
            break;
        }
        struct fm_page_scan part = *asked;
        part.start = r.start;
        part.end = r.end;
        part.max_pages = pages_left;
        if (regions) {
            part.vec = (uint64_t)(uintptr_t)(regions + found);
            part.vec_len = asked->vec_len - (uint64_t)found;
        }
        int n = next(fd, FM_PAGE_SCAN, &part);
        if (n < 0)
            return n;
        if (asked->max_pages)
            pages_left -= regions ? pages_of(regions + found, (size_t)n) : (uint64_t)n;
        found += n;
        at = part.walk_end;
        bool full =
            (regions && (uint64_t)found == asked->vec_len) || (asked->max_pages && pages_left == 0);
        if (at < r.end || full)
            break;
    }
    asked->walk_end = at;
    return found;
}

static bool is_guard_scan(const struct fm_page_scan *asked)
{
    return (asked->category_mask | asked->category_anyof_mask) & FM_PAGE_IS_GUARD;
}

int ioctl(int fd, unsigned long request, ...)
{
    ioctl_fn next = (ioctl_fn)dlsym(RTLD_NEXT, "ioctl");
    va_list args;
    va_start(args, request);
    void *arg = va_arg(args, void *);
    va_end(args);
    struct fm_page_scan *asked = arg;
    if (request != FM_PAGE_SCAN || !asked || asked->size < sizeof(*asked))
        return next(fd, request, arg);
    long pid = pid_of_descriptor(fd, "/pagemap");
    struct view *v = is_guard_scan(asked) ? &guards : &pages;
    return pid > 0 && look_up(v, pid) ? scan_visible(v, next, fd, asked) : next(fd, request, arg);
}

/* ---- The pagemap itself, where the kernel has no PAGEMAP_SCAN ---- */

typedef ssize_t (*pread_fn)(int, void *, size_t, off64_t);

/* No page is where an entry is zero. */
static ssize_t read_visible(pread_fn next, int fd, void *buf, size_t len, off64_t at)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t from = (uint64_t)at / PAGEMAP_ENTRY * page, end = from + len / PAGEMAP_ENTRY * page;
    memset(buf, 0, len);
    while (from < end) {
        struct range r = visible(&pages, from, end);
        size_t skip = (size_t)(r.start / page * PAGEMAP_ENTRY) - (size_t)at;
        size_t size = (size_t)((r.end - r.start) / page * PAGEMAP_ENTRY);
        if (size == 0)
            break;
        ssize_t n = next(fd, (char *)buf + skip, size, at + (off64_t)skip);
        if (n != (ssize_t)size)
            return n < 0 ? n : (ssize_t)skip + n;
        from = r.end;
    }
    return (ssize_t)len;
}

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name) */
ssize_t pread64(int fd, void *buf, size_t len, off64_t at)
{
    pread_fn next = (pread_fn)dlsym(RTLD_NEXT, "pread64");
    bool entries = len > 0 && len % PAGEMAP_ENTRY == 0 && at % PAGEMAP_ENTRY == 0;
    long pid = entries ? pid_of_descriptor(fd, "/pagemap") : -1;
    return pid > 0 && look_up(&pages, pid) ? read_visible(next, fd, buf, len, at)
                                           : next(fd, buf, len, at);
}

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name) */
ssize_t pread(int fd, void *buf, size_t len, off_t at)
{
    return pread64(fd, buf, len, at);
}

/* ---- smaps ---- */

typedef int (*openat_fn)(int, const char *, int, ...);

/* The copy of what `path` (from `dir` on) means; -1 when it means something else or has none. */
static int open_copy(int dir, const char *path)
{
    char copy[PATH_MAX];
    long pid = strcmp(path, "smaps") == 0 && dir != AT_FDCWD ? pid_of_descriptor(dir, "")
                                                             : pid_of_path(path, "/smaps");
    if (!filter_path(copy, sizeof(copy), pid, "smaps"))
        return -1;
    openat_fn next = (openat_fn)dlsym(RTLD_NEXT, "openat64");
    return next(AT_FDCWD, copy, O_RDONLY | O_CLOEXEC);
}

static int open_any(int dir, const char *path, int flags, mode_t mode)
{
    int error = errno;
    size_t len = strlen(path);
    int fd = len >= 5 && strcmp(path + len - 5, "smaps") == 0 ? open_copy(dir, path) : -1;
    if (fd >= 0)
        return fd;
    errno = error;
    openat_fn next = (openat_fn)dlsym(RTLD_NEXT, "openat64");
    return next(dir, path, flags, mode);
}

static mode_t mode_of(int flags, va_list args)
{
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(args, mode_t) : 0;
}

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name) */
int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = mode_of(flags, args);
    va_end(args);
    return open_any(AT_FDCWD, path, flags, mode);
}

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name) */
int open64(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = mode_of(flags, args);
    va_end(args);
    return open_any(AT_FDCWD, path, flags, mode);
}

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name) */
int openat(int dir, const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = mode_of(flags, args);
    va_end(args);
    return open_any(dir, path, flags, mode);
}

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name) */
int openat64(int dir, const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = mode_of(flags, args);
    va_end(args);
    return open_any(dir, path, flags, mode);
}

/* What a program that was compiled with _FORTIFY_SOURCE calls. */
int __open_2(const char *path, int flags)
{
    return open_any(AT_FDCWD, path, flags, 0);
}

int __open64_2(const char *path, int flags)
{
    return open_any(AT_FDCWD, path, flags, 0);
}

int __openat_2(int dir, const char *path, int flags)
{
    return open_any(dir, path, flags, 0);
}

int __openat64_2(int dir, const char *path, int flags)
{
    return open_any(dir, path, flags, 0);
}
