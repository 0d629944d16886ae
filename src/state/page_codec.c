#include "state/page_codec.h"

#include <endian.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/text.h"
#include "state/memory.h"

#define VERSION 1
#define FLAG_ZSTD 1u
#define KIND_MASK UINT64_C(3)

static const uint8_t magic[4] = {'F', 'M', 'P', 'G'};

static void put32(uint8_t *out, uint32_t value)
{
    value = htole32(value);
    memcpy(out, &value, sizeof(value));
}

static void put64(uint8_t *out, uint64_t value)
{
    value = htole64(value);
    memcpy(out, &value, sizeof(value));
}

static uint32_t get32(const uint8_t *in)
{
    uint32_t value;

    memcpy(&value, in, sizeof(value));
    return le32toh(value);
}

static uint64_t get64(const uint8_t *in)
{
    uint64_t value;

    memcpy(&value, in, sizeof(value));
    return le64toh(value);
}

static uint8_t page_shift(void)
{
    return (uint8_t)__builtin_ctzll(fm_page_size());
}

void fm_page_batch_header(const struct fm_page_batch *batch, size_t stored, bool compressed,
                          uint8_t *out)
{
    memcpy(out, magic, sizeof(magic));
    out[4] = VERSION;
    out[5] = compressed ? FLAG_ZSTD : 0;
    out[6] = page_shift();
    out[7] = 0;
    put32(out + 8, (uint32_t)batch->inner_pid);
    put32(out + 12, (uint32_t)batch->count);
    put32(out + 16, (uint32_t)batch->body_size);
    put32(out + 20, (uint32_t)stored);
}

void fm_page_batch_runs(const struct fm_page_batch *batch, uint8_t *out)
{
    for (size_t i = 0; i < batch->count; i++, out += FM_PAGE_BATCH_RUN) {
        const struct fm_page_run *run = &batch->runs[i];

        put64(out, run->address | (uint64_t)run->kind);
        put32(out + 8, run->pages);
        put32(out + 12, run->bytes);
    }
}

/* ---- Decoding ---- */

struct fm_page_decoder {
    ZSTD_DCtx *zstd;
    uint8_t *body; /* FM_PAGE_BATCH_BODY_MAX, made when first needed */
    struct fm_page_run *runs;
    size_t capacity;
};

struct fm_page_decoder *fm_page_decoder_new(void)
{
    return fm_xcalloc(1, sizeof(struct fm_page_decoder));
}

void fm_page_decoder_free(struct fm_page_decoder *d)
{
    if (!d)
        return;
    ZSTD_freeDCtx(d->zstd);
    free(d->body);
    free(d->runs);
    free(d);
}

static int broken(struct fm_error *err, const char *what)
{
    return fm_error_set(err, FM_E_PROTOCOL, "the batch of pages is not valid: %s", what);
}

int fm_page_check(pid_t inner_pid, uint64_t start, uint64_t end, struct fm_error *err)
{
    if (inner_pid < 1 || inner_pid > FM_PAGE_PID_MAX)
        return fm_error_set(err, FM_E_PROTOCOL, "pages of process %d: there is no such process",
                            (int)inner_pid);
    if (start >= end || end > FM_PAGE_ADDRESS_MAX || (start | end) & (fm_page_size() - 1))
        return fm_error_set(err, FM_E_PROTOCOL,
                            "pages at %#" PRIx64 "-%#" PRIx64 ": not whole pages of a process",
                            start, end);
    return 0;
}

static int unpack_body(struct fm_page_decoder *d, const uint8_t *stored, size_t len,
                       struct fm_page_batch *batch, struct fm_error *err)
{
    size_t size;

    if (!d->body)
        d->body = fm_xmalloc(FM_PAGE_BATCH_BODY_MAX);
    if (!d->zstd && !(d->zstd = ZSTD_createDCtx()))
        abort();
    size = ZSTD_decompressDCtx(d->zstd, d->body, batch->body_size, stored, len);
    if (ZSTD_isError(size) || size != batch->body_size)
        return broken(err, "it cannot be unpacked");
    batch->body = d->body;
    return 0;
}

/* How many bytes of the body a run of this kind must have; false: no number will do. */
static bool run_fits(const struct fm_page_run *run)
{
    switch (run->kind) {
    case FM_PAGE_ZERO:
        return run->bytes == 0;
    case FM_PAGE_RAW:
        return run->bytes == run->pages * fm_page_size();
    case FM_PAGE_DELTA:
        return run->pages == 1 && run->bytes > 0 && run->bytes < fm_page_size();
    }
    return false;
}

static int check_runs(const struct fm_page_batch *batch, struct fm_error *err)
{
    uint64_t bytes = 0, content = 0, last = 0;

    for (size_t i = 0; i < batch->count; i++) {
        const struct fm_page_run *run = &batch->runs[i];
        uint64_t end = run->address + run->pages * fm_page_size();

        if (fm_page_check(batch->inner_pid, run->address, end, err) < 0)
            return -FM_E_PROTOCOL;
        if (run->address < last)
            return broken(err, "its pages are not in order");
        if (!run_fits(run))
            return broken(err, "a run of pages does not have the size of its content");
        last = end;
        bytes += run->bytes;
        content += run->kind == FM_PAGE_ZERO ? 0 : end - run->address;
    }
    if (bytes != batch->body_size || content > FM_PAGE_BATCH_BODY_MAX)
        return broken(err, "its content does not have the size that it says");
    return 0;
}

static void get_runs(struct fm_page_decoder *d, const uint8_t *in, struct fm_page_batch *batch)
{
    if (d->capacity < batch->count) {
        d->runs = fm_xrealloc(d->runs, batch->count * sizeof(*d->runs));
        d->capacity = batch->count;
    }
    for (size_t i = 0; i < batch->count; i++, in += FM_PAGE_BATCH_RUN) {
        uint64_t address = get64(in);

        d->runs[i] = (struct fm_page_run){
            .address = address & ~KIND_MASK,
            .pages = get32(in + 8),
            .bytes = get32(in + 12),
            .kind = (enum fm_page_kind)(address & KIND_MASK),
        };
    }
    batch->runs = d->runs;
}

int fm_page_batch_decode(struct fm_page_decoder *d, const uint8_t *payload, size_t len,
                         struct fm_page_batch *batch, struct fm_error *err)
{
    uint32_t pid, runs, stored;
    uint8_t flags;

    if (len < FM_PAGE_BATCH_HEADER || memcmp(payload, magic, sizeof(magic)) != 0)
        return broken(err, "it does not begin as one");
    flags = payload[5];
    if (payload[4] != VERSION || (flags & ~FLAG_ZSTD) || payload[7])
        return broken(err, "it is of another version");
    if (payload[6] != page_shift())
        return broken(err, "the hosts' pages differ in size");
    pid = get32(payload + 8);
    runs = get32(payload + 12);
    stored = get32(payload + 20);
    *batch = (struct fm_page_batch){
        .inner_pid = pid <= FM_PAGE_PID_MAX ? (pid_t)pid : -1,
        .body = payload + FM_PAGE_BATCH_HEADER,
        .body_size = get32(payload + 16),
        .count = runs,
    };
    if (len != FM_PAGE_BATCH_HEADER + (uint64_t)stored + (uint64_t)runs * FM_PAGE_BATCH_RUN ||
        batch->body_size > FM_PAGE_BATCH_BODY_MAX ||
        (!(flags & FLAG_ZSTD) && batch->body_size != stored))
        return broken(err, "its lengths contradict each other");
    if (runs == 0)
        return broken(err, "it is empty");
    get_runs(d, batch->body + stored, batch);
    if (check_runs(batch, err) < 0)
        return -FM_E_PROTOCOL;
    return flags & FLAG_ZSTD ? unpack_body(d, batch->body, stored, batch, err) : 0;
}
