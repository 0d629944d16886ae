#include "state/page_batch.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "state/memory.h"
#include "state/page_cache.h"
#include "state/page_delta.h"

#define DELTA_WORTH 2 /* it must be smaller than this part of a page */

struct fm_page_packer {
    uint8_t *payload;            /* header, body, runs */
    uint8_t *squeezed;           /* the same, compressed; made when first needed */
    uint8_t *delta;              /* one */
    struct fm_page_cache *cache; /* NULL: no deltas */
    struct fm_page_squeeze *squeeze;
    struct fm_page_run runs[FM_PAGE_READ_MAX];
};

static uint8_t *new_payload(size_t body)
{
    return fm_xmalloc(FM_PAGE_BATCH_HEADER + body + (size_t)FM_PAGE_READ_MAX * FM_PAGE_BATCH_RUN);
}

struct fm_page_packer *fm_page_packer_new(enum fm_compression compression, uint64_t cache_bytes)
{
    struct fm_page_packer *p = fm_xcalloc(1, sizeof(*p));

    p->payload = new_payload(fm_page_batch_max() * fm_page_size());
    p->delta = fm_xmalloc(fm_page_size());
    p->cache = fm_page_cache_new(cache_bytes, fm_page_size());
    p->squeeze = fm_page_squeeze_new(compression);
    return p;
}

void fm_page_packer_free(struct fm_page_packer *p)
{
    if (!p)
        return;
    free(p->payload);
    free(p->squeezed);
    free(p->delta);
    fm_page_cache_free(p->cache);
    fm_page_squeeze_free(p->squeeze);
    free(p);
}

uint8_t *fm_page_packer_room(struct fm_page_packer *p)
{
    return p->payload + FM_PAGE_BATCH_HEADER;
}

/* A page equals itself shifted by 16 bytes when all of its 16-byte words are the same. */
static bool is_zero(const uint8_t *page, size_t size)
{
    static const uint8_t zero[16];

    return memcmp(page, zero, sizeof(zero)) == 0 && memcmp(page, page + 16, size - 16) == 0;
}

/* Appends to the last run when it goes on, else begins one. */
static void add_page(struct fm_page_batch *batch, uint64_t address, enum fm_page_kind kind,
                     size_t bytes)
{
    struct fm_page_run *last = batch->count > 0 ? &batch->runs[batch->count - 1] : NULL;

    if (last && last->kind == kind && kind != FM_PAGE_DELTA &&
        last->address + last->pages * fm_page_size() == address) {
        last->pages++;
        last->bytes += (uint32_t)bytes;
    } else {
        batch->runs[batch->count++] = (struct fm_page_run){address, 1, (uint32_t)bytes, kind};
    }
    batch->body_size += bytes;
}

static void add_zero(struct fm_page_packer *p, struct fm_page_batch *batch, uint64_t address)
{
    if (p->cache) /* the other side's copy is one of zeroes from here on */
        fm_page_cache_drop(p->cache, batch->inner_pid, address);
    add_page(batch, address, FM_PAGE_ZERO, 0);
}

/* As the difference from what was sent before, when that is worth it. */
static bool add_delta(struct fm_page_packer *p, struct fm_page_batch *batch, uint64_t address,
                      const uint8_t *from, uint8_t *to)
{
    size_t page = fm_page_size(), bytes;
    uint8_t *before;

    if (!p->cache)
        return false;
    before = fm_page_cache_find(p->cache, batch->inner_pid, address);
    if (!before) {
        fm_page_cache_offer(p->cache, batch->inner_pid, address, from);
        return false;
    }
    bytes = fm_page_delta_encode(before, from, page, p->delta, page / DELTA_WORTH);
    memcpy(before, from, page);
    if (bytes == 0)
        return false;
    memcpy(to, p->delta, bytes);
    add_page(batch, address, FM_PAGE_DELTA, bytes);
    return true;
}

static void add_raw(struct fm_page_batch *batch, uint64_t address, const uint8_t *from, uint8_t *to)
{
    if (to != from)
        memmove(to, from, fm_page_size());
    add_page(batch, address, FM_PAGE_RAW, fm_page_size());
}

/* Closes the payload, compressed if that pays. */
static void finish(struct fm_page_packer *p, const struct fm_page_batch *batch,
                   struct fm_page_packed *packed)
{
    uint8_t *payload = p->payload;
    size_t stored = 0;

    packed->content = batch->body_size;
    if (fm_page_squeeze_on(p->squeeze)) {
        if (!p->squeezed)
            p->squeezed = new_payload(fm_page_squeeze_room(fm_page_batch_max() * fm_page_size()));
        stored = fm_page_squeeze_try(p->squeeze, batch->body, batch->body_size,
                                     p->squeezed + FM_PAGE_BATCH_HEADER);
    }
    if (stored) {
        payload = p->squeezed;
        packed->compressed = packed->delta + packed->normal;
    }
    fm_page_batch_header(batch, stored ? stored : batch->body_size, stored != 0, payload);
    stored = stored ? stored : batch->body_size;
    fm_page_batch_runs(batch, payload + FM_PAGE_BATCH_HEADER + stored);
    packed->payload = payload;
    packed->len = FM_PAGE_BATCH_HEADER + stored + batch->count * FM_PAGE_BATCH_RUN;
}

void fm_page_packer_pack(struct fm_page_packer *p, pid_t inner_pid, const struct fm_page_list *list,
                         struct fm_page_packed *packed)
{
    uint8_t *body = fm_page_packer_room(p);
    struct fm_page_batch batch = {.inner_pid = inner_pid, .body = body, .runs = p->runs};

    *packed = (struct fm_page_packed){0};
    for (size_t i = 0; i < list->count; i++) {
        const uint8_t *from = body + i * fm_page_size();
        uint8_t *to = body + batch.body_size; /* never behind `from` */
        uint64_t address = list->addresses[i];

        if (is_zero(from, fm_page_size())) {
            add_zero(p, &batch, address);
            packed->zero++;
        } else if (add_delta(p, &batch, address, from, to)) {
            packed->delta++;
        } else {
            add_raw(&batch, address, from, to);
            packed->normal++;
        }
    }
    finish(p, &batch, packed);
}

void fm_page_packer_end_round(struct fm_page_packer *p)
{
    if (p->cache)
        fm_page_cache_end_round(p->cache);
}

void fm_page_packer_learn(struct fm_page_packer *p, const struct fm_page_trip *trip)
{
    fm_page_squeeze_learn(p->squeeze, trip, fm_now_us());
}
