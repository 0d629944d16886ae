#include "state/page_walk.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/text.h"

/* A page takes some 10 ns: below this, a thread's start would cost more than it saves. */
#define PIECE_BYTES (UINT64_C(64) << 20)
#define PIECES_OF_ONE 64
#define THREADS_MAX 4

struct piece {
    struct fm_range range;
    struct fm_ranges present, dirty;
};

struct page_walk {
    const struct fm_pagemap_reader *like;
    int fd;
    enum fm_pagemap_mode mode;
    struct piece *pieces;
    size_t count, capacity;
    atomic_size_t next;
    atomic_int rc;
};

static void add_piece(struct page_walk *w, uint64_t start, uint64_t end)
{
    if (w->count == w->capacity) {
        w->capacity = w->capacity ? w->capacity * 2 : 64;
        w->pieces = fm_xrealloc(w->pieces, w->capacity * sizeof(*w->pieces));
    }
    w->pieces[w->count++] = (struct piece){.range = {start, end}};
}

/* Much address space may hold few pages: a bounded number of pieces. */
static void cut(struct page_walk *w, const struct fm_ranges *mapped, uint64_t total)
{
    uint64_t page = fm_page_size(), len = total / PIECES_OF_ONE / page * page;

    if (len < PIECE_BYTES)
        len = PIECE_BYTES;
    for (size_t i = 0; i < mapped->count; i++) {
        uint64_t start = mapped->items[i].start, end = mapped->items[i].end;

        for (; end - start > len; start += len)
            add_piece(w, start, start + len);
        add_piece(w, start, end);
    }
}

static void *walk_pieces(void *arg)
{
    struct page_walk *w = arg;
    struct fm_pagemap_reader reader;
    size_t i;

    fm_pagemap_reader_copy(&reader, w->like);
    while ((i = atomic_fetch_add(&w->next, 1)) < w->count && !atomic_load(&w->rc)) {
        struct piece *p = &w->pieces[i];
        int rc = fm_pagemap_walk(&reader, w->fd, w->mode, p->range.start, p->range.end, &p->present,
                                 &p->dirty);

        if (rc < 0)
            atomic_store(&w->rc, rc);
    }
    fm_pagemap_reader_close(&reader);
    return NULL;
}

static void run(struct page_walk *w, size_t threads)
{
    pthread_t helpers[THREADS_MAX];
    size_t started = 0;
    sigset_t all, before;

    sigfillset(&all); /* signals are for the threads that know of them */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started + 1 < threads && pthread_create(&helpers[started], NULL, walk_pieces, w) == 0)
        started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    walk_pieces(w);
    while (started > 0)
        pthread_join(helpers[--started], NULL);
}

static void append(struct fm_ranges *to, struct fm_ranges *from)
{
    for (size_t i = 0; i < from->count; i++)
        fm_ranges_append(to, from->items[i].start, from->items[i].end);
    fm_ranges_clear(from);
}

static int walk_alone(struct fm_pagemap_reader *r, int fd, enum fm_pagemap_mode mode,
                      const struct fm_ranges *mapped, struct fm_ranges *present,
                      struct fm_ranges *dirty)
{
    int rc = 0;

    for (size_t i = 0; i < mapped->count && rc == 0; i++)
        rc = fm_pagemap_walk(r, fd, mode, mapped->items[i].start, mapped->items[i].end, present,
                             dirty);
    return rc;
}

int fm_page_walk(struct fm_pagemap_reader *r, int fd, enum fm_pagemap_mode mode,
                 const struct fm_ranges *mapped, struct fm_ranges *present, struct fm_ranges *dirty)
{
    struct page_walk w = {.like = r, .fd = fd, .mode = mode};
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t total = fm_ranges_bytes(mapped);

    if (total < 2 * PIECE_BYTES || processors < 2)
        return walk_alone(r, fd, mode, mapped, present, dirty);
    cut(&w, mapped, total);
    run(&w, processors < THREADS_MAX ? (size_t)processors : THREADS_MAX);
    for (size_t i = 0; i < w.count; i++) {
        append(present, &w.pieces[i].present);
        append(dirty, &w.pieces[i].dirty);
    }
    free(w.pieces);
    return atomic_load(&w.rc);
}
