#include "state/tree_blocks.h"

#include <errno.h>
#include <pthread.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/text.h"

#define THREADS_MAX 4u
#define BLOCKS_PER_THREAD 64u /* less is not worth one */
#define NODE_BYTES 64u        /* of the search tree and the allocator, per file */

struct fm_tree_file {
    char *path;
    dev_t dev;
    ino_t ino;
    off_t size; /* as sent */
    XXH128_hash_t *sums;
    uint64_t charged; /* bytes of memory */
    unsigned pass;    /* that it was seen in */
    struct fm_tree_file *next, *previous;
};

/* All files that are known of one tree. */
struct tree {
    char *name;
    unsigned pass;
    void *by_path;              /* tsearch(3) */
    struct fm_tree_file *first; /* in no certain order */
    struct tree *next;
};

struct fm_tree_blocks {
    uint64_t max_bytes;
    uint64_t bytes;
    struct tree *trees;
    struct tree *current;
    XXH3_state_t *state; /* of the block that is being sent */
};

static const uint8_t zeroes[FM_TREE_BLOCK_SIZE];

/* --- blocks --- */

static size_t block_count(off_t size)
{
    return ((size_t)size + FM_TREE_BLOCK_SIZE - 1) / FM_TREE_BLOCK_SIZE;
}

static size_t block_length(off_t size, size_t block)
{
    off_t left = size - (off_t)(block * FM_TREE_BLOCK_SIZE);
    return left < (off_t)FM_TREE_BLOCK_SIZE ? (size_t)left : FM_TREE_BLOCK_SIZE;
}

static XXH128_hash_t sum_of_zeroes(size_t len)
{
    return XXH3_128bits(zeroes, len);
}

/* --- files --- */

static int compare_paths(const void *a, const void *b)
{
    return strcmp(((const struct fm_tree_file *)a)->path, ((const struct fm_tree_file *)b)->path);
}

static struct fm_tree_file *find(const struct tree *t, const char *path)
{
    struct fm_tree_file key = {.path = (char *)(uintptr_t)path};
    void *node = tfind(&key, &t->by_path, compare_paths);
    return node ? *(struct fm_tree_file **)node : NULL;
}

static void drop(struct fm_tree_blocks *b, struct tree *t, struct fm_tree_file *f)
{
    tdelete(f, &t->by_path, compare_paths);
    if (f->previous)
        f->previous->next = f->next;
    else
        t->first = f->next;
    if (f->next)
        f->next->previous = f->previous;
    b->bytes -= f->charged;
    free(f->path);
    free(f->sums);
    free(f);
}

static void drop_all(struct fm_tree_blocks *b, struct tree *t)
{
    while (t->first)
        drop(b, t, t->first);
}

static bool charge(struct fm_tree_blocks *b, struct fm_tree_file *f, off_t size)
{
    uint64_t cost =
        sizeof(*f) + strlen(f->path) + 1 + NODE_BYTES + block_count(size) * sizeof(*f->sums);

    if (cost > b->max_bytes - (b->bytes - f->charged))
        return false;
    b->bytes += cost - f->charged;
    f->charged = cost;
    return true;
}

static struct fm_tree_file *add(struct tree *t, const char *path)
{
    struct fm_tree_file *f = fm_xcalloc(1, sizeof(*f));
    f->path = fm_xstrdup(path);
    f->pass = t->pass;
    f->next = t->first;
    if (f->next)
        f->next->previous = f;
    t->first = f;
    if (!tsearch(f, &t->by_path, compare_paths))
        abort();
    return f;
}

/* --- all trees --- */

struct fm_tree_blocks *fm_tree_blocks_new(uint64_t max_bytes)
{
    struct fm_tree_blocks *b = fm_xcalloc(1, sizeof(*b));
    b->max_bytes = max_bytes;
    b->state = XXH3_createState();
    if (!b->state)
        abort();
    return b;
}

void fm_tree_blocks_free(struct fm_tree_blocks *b)
{
    if (!b)
        return;
    while (b->trees) {
        struct tree *t = b->trees;
        b->trees = t->next;
        drop_all(b, t);
        free(t->name);
        free(t);
    }
    XXH3_freeState(b->state);
    free(b);
}

uint64_t fm_tree_blocks_bytes(const struct fm_tree_blocks *b)
{
    return b->bytes;
}

void fm_tree_blocks_begin(struct fm_tree_blocks *b, const char *tree, bool whole)
{
    struct tree *t = b->trees;
    while (t && !fm_streq(t->name, tree))
        t = t->next;
    if (!t) {
        t = fm_xcalloc(1, sizeof(*t));
        t->name = fm_xstrdup(tree);
        t->next = b->trees;
        b->trees = t;
    }
    b->current = t;
    t->pass++;
    if (whole)
        drop_all(b, t);
}

void fm_tree_blocks_keep(struct fm_tree_blocks *b, const char *path)
{
    struct fm_tree_file *f = b->current->first ? find(b->current, path) : NULL;
    if (f)
        f->pass = b->current->pass;
}

void fm_tree_blocks_drop_others(struct fm_tree_blocks *b)
{
    for (struct fm_tree_file *f = b->current->first, *next; f; f = next) {
        next = f->next;
        if (f->pass != b->current->pass)
            drop(b, b->current, f);
    }
}

void fm_tree_blocks_forget(struct fm_tree_blocks *b, const char *path, bool below)
{
    size_t n = strlen(path);
    struct fm_tree_file *f = b->current->first ? find(b->current, path) : NULL;
    if (f)
        drop(b, b->current, f);
    f = below ? b->current->first : NULL;
    for (struct fm_tree_file *next; f; f = next) {
        next = f->next;
        if (strncmp(f->path, path, n) == 0 && f->path[n] == '/')
            drop(b, b->current, f);
    }
}

void fm_tree_blocks_forget_all(struct fm_tree_blocks *b)
{
    drop_all(b, b->current);
}

/* --- one file --- */

struct fm_tree_file *fm_tree_blocks_find(struct fm_tree_blocks *b, const char *path,
                                         const struct stat *st)
{
    struct fm_tree_file *f = find(b->current, path);
    return f && f->dev == st->st_dev && f->ino == st->st_ino ? f : NULL;
}

struct fm_tree_file *fm_tree_blocks_start(struct fm_tree_blocks *b, const char *path,
                                          const struct stat *st)
{
    fm_tree_blocks_forget(b, path, false);
    struct fm_tree_file *f = add(b->current, path);
    f->dev = st->st_dev;
    f->ino = st->st_ino;
    return fm_tree_blocks_resize(b, f, st->st_size) ? f : NULL;
}

off_t fm_tree_file_size(const struct fm_tree_file *f)
{
    return f->size;
}

bool fm_tree_blocks_resize(struct fm_tree_blocks *b, struct fm_tree_file *f, off_t size)
{
    size_t had = block_count(f->size);
    size_t has = block_count(size);

    if (!charge(b, f, size)) {
        drop(b, b->current, f);
        return false;
    }
    f->sums = fm_xrealloc(f->sums, (has ? has : 1) * sizeof(*f->sums));
    f->size = size;
    if (has <= had)
        return true;
    XXH128_hash_t zero = sum_of_zeroes(FM_TREE_BLOCK_SIZE);
    for (size_t i = had; i < has; i++)
        f->sums[i] = zero;
    f->sums[has - 1] = sum_of_zeroes(block_length(size, has - 1));
    return true;
}

void fm_tree_blocks_sent(struct fm_tree_blocks *b, struct fm_tree_file *f, off_t at,
                         const void *data, size_t len)
{
    const uint8_t *p = data;

    while (len > 0) {
        size_t block = (size_t)at / FM_TREE_BLOCK_SIZE;
        size_t within = (size_t)at % FM_TREE_BLOCK_SIZE;
        size_t whole = block_length(f->size, block);
        size_t n = whole - within < len ? whole - within : len;
        if (within == 0)
            XXH3_128bits_reset(b->state);
        XXH3_128bits_update(b->state, p ? p : zeroes, n);
        if (within + n == whole)
            f->sums[block] = XXH3_128bits_digest(b->state);
        at += (off_t)n;
        len -= n;
        p = p ? p + n : NULL;
    }
}

/* --- what differs --- */

struct comparison {
    const struct fm_tree_file *file;
    int fd;
    off_t size;
    const struct fm_tree_extents *data;
    bool *differs; /* per block */
    XXH128_hash_t zero;
};

/* Some of the blocks. */
struct share {
    const struct comparison *comparison;
    size_t first, end;
    size_t extent; /* the first that does not end before the block at hand */
    int error;
};

static bool is_hole(struct share *s, off_t start, off_t end)
{
    const struct comparison *c = s->comparison;
    while (s->extent < c->data->count && c->data->items[s->extent].end <= start)
        s->extent++;
    return s->extent == c->data->count || c->data->items[s->extent].start >= end;
}

/* Less than `len` when the file has just been cut. */
static ssize_t read_block(int fd, uint8_t *buffer, size_t len, off_t at)
{
    size_t got = 0;
    while (got < len) {
        ssize_t n = pread(fd, buffer + got, len - got, at + (off_t)got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    return (ssize_t)got;
}

static bool block_differs(struct share *s, size_t block, uint8_t *buffer)
{
    const struct comparison *c = s->comparison;
    size_t len = block_length(c->size, block);
    off_t at = (off_t)(block * FM_TREE_BLOCK_SIZE);
    XXH128_hash_t nothing = len == FM_TREE_BLOCK_SIZE ? c->zero : sum_of_zeroes(len);
    XXH128_hash_t there = nothing;

    if (block < block_count(c->file->size)) {
        if (block_length(c->file->size, block) != len)
            return true;
        there = c->file->sums[block];
    }
    if (is_hole(s, at, at + (off_t)len))
        return !XXH128_isEqual(there, nothing);
    ssize_t n = read_block(c->fd, buffer, len, at);
    if (n < 0)
        s->error = errno;
    return n != (ssize_t)len || !XXH128_isEqual(there, XXH3_128bits(buffer, len));
}

static void *compare_share(void *arg)
{
    struct share *s = arg;
    fm_autofree uint8_t *buffer = fm_xmalloc(FM_TREE_BLOCK_SIZE);

    for (size_t i = s->first; i < s->end && s->error == 0; i++)
        s->comparison->differs[i] = block_differs(s, i, buffer);
    return NULL;
}

static int compare_all(const struct comparison *c, size_t blocks, unsigned threads)
{
    struct share shares[THREADS_MAX] = {0};
    pthread_t ids[THREADS_MAX];
    bool started[THREADS_MAX] = {false};

    if (threads > THREADS_MAX)
        threads = THREADS_MAX;
    if (threads > blocks / BLOCKS_PER_THREAD)
        threads = (unsigned)(blocks / BLOCKS_PER_THREAD);
    if (threads == 0)
        threads = 1;
    for (unsigned i = 0; i < threads; i++) {
        shares[i] = (struct share){
            .comparison = c, .first = blocks * i / threads, .end = blocks * (i + 1) / threads};
        started[i] = i > 0 && pthread_create(&ids[i], NULL, compare_share, &shares[i]) == 0;
    }
    int error = 0;
    for (unsigned i = 0; i < threads; i++) {
        if (started[i])
            pthread_join(ids[i], NULL);
        else
            compare_share(&shares[i]);
        if (shares[i].error)
            error = shares[i].error;
    }
    return error;
}

int fm_tree_file_compare(const struct fm_tree_file *f, int fd, off_t size,
                         const struct fm_tree_extents *data, unsigned threads,
                         struct fm_tree_extents *differing, struct fm_error *err)
{
    size_t blocks = block_count(size);
    fm_autofree bool *differs = fm_xcalloc(blocks + 1, sizeof(*differs));
    struct comparison c = {.file = f,
                           .fd = fd,
                           .size = size,
                           .data = data,
                           .differs = differs,
                           .zero = sum_of_zeroes(FM_TREE_BLOCK_SIZE)};

    int error = compare_all(&c, blocks, threads);
    if (error)
        return fm_error_errno(err, error, "cannot read it");
    for (size_t i = 0; i < blocks; i++) {
        off_t start = (off_t)(i * FM_TREE_BLOCK_SIZE);
        if (differs[i])
            fm_tree_extents_add(differing, start, start + (off_t)block_length(size, i));
    }
    return 0;
}
