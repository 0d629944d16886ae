#include "container/tree_print.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define DEPTH_MAX 64
/* The kernel stamps ctime with the time of its last tick, at most 10 ms (HZ=100) behind the clock.
 */
#define TICK_US 20000u
#define PRIME 1099511628211ull /* FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv/ */
#define OFFSET 14695981039346656037ull

struct taking {
    struct fm_tree_print *print;
    uint64_t now_us;
    dev_t device;
};

static uint64_t mix(uint64_t hash, const void *data, size_t len)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ bytes[i]) * PRIME;
    return hash;
}

/* Names come in no certain order: their hashes are added. */
static void take_one(struct taking *t, const char *name, uint64_t parent, const struct stat *st)
{
    uint64_t facts[] = {parent,
                        (uint64_t)st->st_ino,
                        (uint64_t)st->st_mode,
                        (uint64_t)st->st_nlink,
                        (uint64_t)st->st_size,
                        (uint64_t)st->st_ctim.tv_sec,
                        (uint64_t)st->st_ctim.tv_nsec};
    uint64_t changed_us =
        (uint64_t)st->st_ctim.tv_sec * 1000000 + (uint64_t)st->st_ctim.tv_nsec / 1000;
    t->print->hash += mix(mix(OFFSET, facts, sizeof(facts)), name, strlen(name));
    if (changed_us + TICK_US >= t->now_us)
        t->print->settled = false;
    if (++t->print->entries > FM_TREE_PRINT_MAX)
        t->print->settled = false;
}

static int take_below(struct taking *t, int fd, unsigned depth);

static int take_name(struct taking *t, int dir, uint64_t parent, const char *name, unsigned depth)
{
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    take_one(t, name, parent, &st);
    if (!S_ISDIR(st.st_mode) || st.st_dev != t->device)
        return 0;
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    return take_below(t, fd, depth + 1);
}

/* Takes the descriptor over. */
static int take_below(struct taking *t, int fd, unsigned depth)
{
    struct stat st;
    struct dirent *e;
    int rc = 0;
    fm_autoclosedir DIR *d = fdopendir(fd);
    if (!d || fstat(fd, &st) < 0 || depth > DEPTH_MAX) {
        rc = d ? -ENAMETOOLONG : -errno;
        if (!d)
            close(fd);
        return rc;
    }
    while (rc == 0 && t->print->entries <= FM_TREE_PRINT_MAX && (e = readdir(d)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            rc = take_name(t, fd, (uint64_t)st.st_ino, e->d_name, depth);
    return rc;
}

int fm_tree_print_take(const char *path, struct fm_tree_print *print, struct fm_error *err)
{
    struct taking t = {.print = print, .now_us = fm_realtime_us()};
    struct stat st;
    *print = (struct fm_tree_print){.settled = true};
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fm_error_errno(err, errno, "cannot look at %s", path);
    if (fstat(fd, &st) < 0) {
        close(fd);
        return fm_error_errno(err, errno, "cannot look at %s", path);
    }
    t.device = st.st_dev;
    take_one(&t, "", 0, &st);
    int rc = take_below(&t, fd, 0);
    return rc < 0 ? fm_error_errno(err, -rc, "cannot look through %s", path) : 0;
}

bool fm_tree_print_same(const struct fm_tree_print *before, const struct fm_tree_print *after)
{
    return before->settled && before->hash == after->hash;
}
