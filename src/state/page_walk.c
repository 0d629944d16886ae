#include "state/page_walk.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/text.h"

/* A page takes some 3 ns: below this, waking a thread costs more than it saves. */
#define PIECE_BYTES (UINT64_C(64) << 20)
#define PIECES_OF_ONE 64

void fm_page_walkers_open(struct fm_page_walkers *w)
{
    *w = (struct fm_page_walkers){.crew = fm_crew_open(FM_CREW_MAX)};
    fm_pagemap_reader_open(&w->readers[0]);
    for (unsigned i = 1; i < fm_crew_size(w->crew); i++)
        fm_pagemap_reader_copy(&w->readers[i], &w->readers[0]);
}

void fm_page_walkers_close(struct fm_page_walkers *w)
{
    fm_crew_close(w->crew);
    for (unsigned i = 0; i < FM_CREW_MAX; i++)
        fm_pagemap_reader_close(&w->readers[i]);
    w->crew = NULL;
}

/* ---- pieces ---- */

struct piece {
    struct fm_range range;
    struct fm_ranges present, dirty;
};

struct page_walk {
    struct fm_page_walkers *walkers;
    int fd;
    enum fm_pagemap_mode mode;
    struct piece *pieces;
    size_t count, capacity;
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

uint64_t fm_page_walk_cut(uint64_t start, uint64_t end, uint64_t len)
{
    uint64_t page = fm_page_size(), table = page / sizeof(uint64_t) * page;

    if (end - start <= len)
        return end;
    len = (start + len) / table * table; /* may be none beyond the start */
    if (len <= start)
        len = (start / table + 1) * table;
    return len < end ? len : end;
}

/* Much address space may hold few pages: a bounded number of pieces. */
static void cut(struct page_walk *w, const struct fm_ranges *mapped, uint64_t total)
{
    uint64_t len = total / PIECES_OF_ONE;

    if (len < PIECE_BYTES)
        len = PIECE_BYTES;
    for (size_t i = 0; i < mapped->count; i++) {
        uint64_t start = mapped->items[i].start, end = mapped->items[i].end;

        for (uint64_t next; start < end; start = next) {
            next = fm_page_walk_cut(start, end, len);
            add_piece(w, start, next);
        }
    }
}

static void walk_piece(void *ctx, size_t index, unsigned member)
{
    struct page_walk *w = ctx;
    struct piece *p = &w->pieces[index];
    int rc = atomic_load(&w->rc), none = 0;

    if (rc < 0) /* of no use any more */
        return;
    rc = fm_pagemap_walk(&w->walkers->readers[member], w->fd, w->mode, p->range.start, p->range.end,
                         &p->present, &p->dirty);
    if (rc < 0)
        atomic_compare_exchange_strong(&w->rc, &none, rc);
}

static void append(struct fm_ranges *to, struct fm_ranges *from)
{
    for (size_t i = 0; i < from->count; i++)
        fm_ranges_append(to, from->items[i].start, from->items[i].end);
    fm_ranges_clear(from);
}

/* ---- the walk ---- */

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

int fm_page_walk(struct fm_page_walkers *walkers, int fd, enum fm_pagemap_mode mode,
                 const struct fm_ranges *mapped, struct fm_ranges *present, struct fm_ranges *dirty)
{
    struct page_walk w = {.walkers = walkers, .fd = fd, .mode = mode};
    uint64_t total = fm_ranges_bytes(mapped);

    if (total < 2 * PIECE_BYTES || fm_crew_size(walkers->crew) < 2)
        return walk_alone(&walkers->readers[0], fd, mode, mapped, present, dirty);
    cut(&w, mapped, total);
    fm_crew_run(walkers->crew, walk_piece, &w, w.count);
    for (size_t i = 0; i < w.count; i++) {
        append(present, &w.pieces[i].present);
        append(dirty, &w.pieces[i].dirty);
    }
    free(w.pieces);
    return atomic_load(&w.rc);
}
