/* Rewrites random pieces of large files in place, each with fsync, and knows what every piece must
 * hold: `filecheck [--mib N] [--rate PIECES/S] FILE…`. The rate is that of each file. A line of
 * status every 250 ms; `rounds` is how often all pieces of all files have been read and compared.
 * A piece that differs prints "FAIL FILE: …" and ends it with 1. */
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE 8192u
#define WORDS (PIECE / sizeof(uint64_t))
#define TICK_US 5000u
#define STATUS_US 250000u
#define READS_PER_TICK 128u

struct file {
    const char *path;
    int fd;
    uint64_t key;
    uint64_t *versions; /* of its pieces */
};

static struct {
    struct file *files;
    size_t file_count;
    uint64_t pieces; /* of each file */
    uint64_t rate;
    uint64_t written, rounds;
    uint64_t next; /* piece to be compared, of all files */
    uint64_t random;
} work = {.rate = 50, .random = 1};

static uint64_t word(const struct file *f, uint64_t piece, size_t i)
{
    return wl_mix(f->key ^ wl_mix(piece << 32 ^ f->versions[piece])) + i * 0x9e3779b97f4a7c15u;
}

static void put(struct file *f, uint64_t piece)
{
    uint64_t data[WORDS];

    for (size_t i = 0; i < WORDS; i++)
        data[i] = word(f, piece, i);
    if (pwrite(f->fd, data, PIECE, (off_t)(piece * PIECE)) != (ssize_t)PIECE)
        wl_die("cannot write %s: %s", f->path, strerror(errno));
}

static void check(const struct file *f, uint64_t piece)
{
    uint64_t data[WORDS];

    if (pread(f->fd, data, PIECE, (off_t)(piece * PIECE)) != (ssize_t)PIECE) {
        printf("FAIL %s: piece %lu cannot be read: %s\n", f->path, piece, strerror(errno));
        exit(WL_EXIT_BAD);
    }
    for (size_t i = 0; i < WORDS; i++) {
        if (data[i] == word(f, piece, i))
            continue;
        printf("FAIL %s: piece %lu, version %lu, differs in word %zu\n", f->path, piece,
               f->versions[piece], i);
        exit(WL_EXIT_BAD);
    }
}

static void make(struct file *f, const char *path, uint64_t key)
{
    *f = (struct file){.path = path, .key = wl_mix(key)};
    f->versions = wl_alloc(work.pieces, sizeof(*f->versions));
    f->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (f->fd < 0)
        wl_die("cannot make %s: %s", path, strerror(errno));
    for (uint64_t i = 0; i < work.pieces; i++)
        put(f, i);
    fsync(f->fd);
}

static void rewrite(struct file *f)
{
    work.random = wl_mix(work.random);
    uint64_t piece = work.random % work.pieces;

    check(f, piece);
    f->versions[piece]++;
    put(f, piece);
    if (fdatasync(f->fd) < 0)
        wl_die("cannot sync %s: %s", f->path, strerror(errno));
    work.written++;
}

static void compare_some(void)
{
    for (unsigned i = 0; i < READS_PER_TICK && work.pieces > 0; i++) {
        check(&work.files[work.next / work.pieces], work.next % work.pieces);
        if (++work.next < work.pieces * work.file_count)
            continue;
        work.next = 0;
        work.rounds++;
    }
}

static void status(void)
{
    printf("status rounds=%lu written=%lu\n", work.rounds, work.written);
    fflush(stdout);
}

static void run(void)
{
    uint64_t started = wl_now_us(), told = started;
    uint64_t now;

    for (uint64_t due = 0;; usleep(TICK_US)) {
        now = wl_now_us();
        for (due = (now - started) * work.rate / 1000000; due > 0; due--) {
            for (size_t i = 0; i < work.file_count; i++)
                rewrite(&work.files[i]);
            started += 1000000 / work.rate;
        }
        compare_some();
        if (now - told >= STATUS_US) {
            told = now;
            status();
        }
    }
}

int main(int argc, char **argv)
{
    uint64_t mib = 16;
    int i = 1;

    for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
        if (strcmp(argv[i], "--mib") == 0)
            mib = wl_number("--mib", argv[i + 1]);
        else if (strcmp(argv[i], "--rate") == 0)
            work.rate = wl_number("--rate", argv[i + 1]);
        else
            wl_die("unknown option %s", argv[i]);
    }
    if (i == argc || mib == 0 || work.rate == 0)
        wl_die("usage: filecheck [--mib N] [--rate PIECES/S] FILE…");
    work.pieces = (mib << 20) / PIECE;
    work.file_count = (size_t)(argc - i);
    work.files = wl_alloc(work.file_count, sizeof(*work.files));
    for (size_t k = 0; k < work.file_count; k++)
        make(&work.files[k], argv[i + (int)k], k + 1);
    status();
    run();
}
