/* What pages become on the wire, and what a hostile peer may make of that. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "state/memory.h"
#include "state/page_batch.h"
#include "state/page_cache.h"
#include "state/page_codec.h"
#include "state/page_delta.h"
#include "state/page_map.h"
#include "state/page_queue.h"

#define PAGES fm_page_batch_max()
#define BASE UINT64_C(0x7f0000000000)

static uint64_t random_state = 1;

static uint64_t next_random(void)
{
    random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return random_state >> 16;
}

static void fill_random(uint8_t *p, size_t size)
{
    for (size_t i = 0; i < size; i++)
        p[i] = (uint8_t)next_random();
}

/* ---- Deltas ---- */

/* Changes some words, and checks that the delta turns the one page into the other. */
static size_t delta_length(size_t changes)
{
    size_t size = fm_page_size(), len;
    uint8_t *before = fm_xmalloc(size), *after = fm_xmalloc(size), *delta = fm_xmalloc(2 * size);
    struct fm_error err = {0};

    fill_random(before, size);
    memcpy(after, before, size);
    for (size_t i = 0; i < changes; i++)
        after[next_random() % size] ^= (uint8_t)(next_random() | 1);
    len = fm_page_delta_encode(before, after, size, delta, 2 * size);
    assert_true(len > 0);
    assert_int_equal(fm_page_delta_apply(before, size, delta, len, &err), 0);
    assert_memory_equal(before, after, size);
    free(before);
    free(after);
    free(delta);
    return len;
}

static void test_delta_round_trip(void **state)
{
    (void)state;
    assert_int_equal(delta_length(0), 8); /* the checksum alone */
    assert_in_range(delta_length(1), 9, 32);
    for (size_t changes = 2; changes < 5000; changes = changes * 3 / 2 + 1)
        delta_length(changes);
}

static void test_delta_must_fit(void **state)
{
    size_t size = fm_page_size();
    uint8_t *before = fm_xcalloc(1, size), *after = fm_xmalloc(size), *delta = fm_xmalloc(size);

    (void)state;
    fill_random(after, size);
    assert_int_equal(fm_page_delta_encode(before, after, size, delta, size), 0);
    free(before);
    free(after);
    free(delta);
}

static void test_delta_of_another_page(void **state)
{
    size_t size = fm_page_size(), len;
    uint8_t *before = fm_xcalloc(1, size), *after = fm_xcalloc(1, size), delta[64];
    struct fm_error err = {0};

    (void)state;
    after[100] = 1;
    len = fm_page_delta_encode(before, after, size, delta, sizeof(delta));
    before[3000] = 1;
    assert_int_equal(fm_page_delta_apply(before, size, delta, len, &err), -FM_E_CHECKSUM);
    assert_non_null(strstr(err.text, "checksum mismatch"));
    free(before);
    free(after);
}

static void test_delta_out_of_bounds(void **state)
{
    static const uint8_t bad[][12] = {
        {0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x80, 0x80, 0x01}, /* an endless count */
        {0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0x7f, 0x01, 0x00}, /* behind the page's end */
        {0, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x01, 0x00, 0x00}, /* words that are not there */
        {0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x00, 0x01, 0x00}, /* changes nothing */
    };
    uint8_t *page = fm_xcalloc(1, fm_page_size());

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct fm_error err = {0};

        assert_int_equal(fm_page_delta_apply(page, fm_page_size(), bad[i], 12, &err),
                         -FM_E_PROTOCOL);
    }
    assert_int_equal(fm_page_delta_apply(page, fm_page_size(), bad[0], 7, NULL), -FM_E_PROTOCOL);
    free(page);
}

/* ---- Batches ---- */

/* Two raw pages, three of zeroes, a delta: as the wire has it. */
struct sample {
    uint8_t *payload;
    size_t len;
};

static struct sample make_sample(void)
{
    size_t page = fm_page_size();
    struct fm_page_run runs[] = {
        {BASE, 2, (uint32_t)(2 * page), FM_PAGE_RAW},
        {BASE + 2 * page, 3, 0, FM_PAGE_ZERO},
        {BASE + 9 * page, 1, 40, FM_PAGE_DELTA},
    };
    struct fm_page_batch batch = {
        .inner_pid = 12, .body_size = 2 * page + 40, .runs = runs, .count = 3};
    struct sample s = {.len = FM_PAGE_BATCH_HEADER + batch.body_size + 3 * FM_PAGE_BATCH_RUN};

    s.payload = fm_xmalloc(s.len);
    fm_page_batch_header(&batch, batch.body_size, false, s.payload);
    fill_random(s.payload + FM_PAGE_BATCH_HEADER, batch.body_size);
    fm_page_batch_runs(&batch, s.payload + FM_PAGE_BATCH_HEADER + batch.body_size);
    return s;
}

static void test_batch_round_trip(void **state)
{
    struct fm_page_decoder *d = fm_page_decoder_new();
    struct sample s = make_sample();
    struct fm_page_batch batch;
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_page_batch_decode(d, s.payload, s.len, &batch, &err), 0);
    assert_int_equal(batch.inner_pid, 12);
    assert_int_equal(batch.count, 3);
    assert_ptr_equal(batch.body, s.payload + FM_PAGE_BATCH_HEADER);
    assert_true(batch.runs[0].address == BASE && batch.runs[0].kind == FM_PAGE_RAW);
    assert_true(batch.runs[1].pages == 3 && batch.runs[1].kind == FM_PAGE_ZERO);
    assert_true(batch.runs[2].bytes == 40 && batch.runs[2].kind == FM_PAGE_DELTA);
    free(s.payload);
    fm_page_decoder_free(d);
}

/* The offset of a field of the header, or (negative) from the payload's end, and what to put. */
struct damage {
    const char *what;
    int offset;
    size_t bytes;
    uint64_t value;
};

static void test_batch_rejects(void **state)
{
    const uint64_t page = fm_page_size();
    const struct damage damages[] = {
        {"magic", 0, 1, 'X'},
        {"version", 4, 1, 2},
        {"unknown flag", 5, 1, 2},
        {"not zstd though it says so", 5, 1, 1},
        {"page size", 6, 1, 13},
        {"reserved", 7, 1, 1},
        {"process 0", 8, 4, 0},
        {"process too large", 8, 4, FM_PAGE_PID_MAX + 1},
        {"process negative", 8, 4, UINT32_MAX},
        {"more runs than there are", 12, 4, 4},
        {"runs beyond any payload", 12, 4, UINT32_MAX},
        {"body longer than it travels", 16, 4, 2 * page + 41},
        {"body too long", 16, 4, UINT32_MAX},
        {"body travels longer", 20, 4, 2 * page + 41},
        {"unknown kind", -48, 8, BASE | 3},
        {"unaligned", -48, 8, (BASE + 512) | FM_PAGE_RAW},
        {"above 2^56", -16, 8, (UINT64_C(1) << 56) | FM_PAGE_DELTA},
        {"wraps around", -16, 8, (UINT64_MAX - page + 1) | FM_PAGE_DELTA},
        {"no pages", -48 + 8, 4, 0},
        {"raw pages without content", -48 + 8, 4, 3},
        {"raw content of another size", -48 + 12, 4, page},
        {"zeroes with content", -32 + 12, 4, 8},
        {"overlapping", -32, 8, (BASE + page) | FM_PAGE_ZERO},
        {"delta of two pages", -16 + 8, 4, 2},
        {"delta without content", -16 + 12, 4, 0},
        {"delta beyond the body", -16 + 12, 4, 41},
    };
    struct fm_page_decoder *d = fm_page_decoder_new();

    (void)state;
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        const struct damage *damage = &damages[i];
        struct sample s = make_sample();
        uint8_t *field = s.payload + damage->offset + (damage->offset < 0 ? (int)s.len : 0);
        struct fm_page_batch batch;
        struct fm_error err = {0};

        for (size_t k = 0; k < damage->bytes; k++)
            field[k] = (uint8_t)(damage->value >> (8 * k));
        if (fm_page_batch_decode(d, s.payload, s.len, &batch, &err) != -FM_E_PROTOCOL)
            fail_msg("accepted: %s", damage->what);
        free(s.payload);
    }
    fm_page_decoder_free(d);
}

static void test_batch_truncated(void **state)
{
    struct fm_page_decoder *d = fm_page_decoder_new();
    struct sample s = make_sample();
    struct fm_page_batch batch;

    (void)state;
    for (size_t len = 0; len < s.len; len += len < 100 ? 1 : 97)
        assert_int_equal(fm_page_batch_decode(d, s.payload, len, &batch, NULL), -FM_E_PROTOCOL);
    free(s.payload);
    fm_page_decoder_free(d);
}

/* A batch that unpacks to more, or to less, than it says. */
static void test_batch_bomb(void **state)
{
    struct fm_page_packer *p = fm_page_packer_new(FM_COMPRESS_ZSTD, 0);
    struct fm_page_decoder *d = fm_page_decoder_new();
    struct fm_page_list list = {.count = PAGES};
    struct fm_page_packed packed;
    struct fm_page_batch batch;
    struct fm_error err = {0};
    uint8_t *payload;

    (void)state;
    memset(fm_page_packer_room(p), 'x', PAGES * fm_page_size());
    for (size_t i = 0; i < list.count; i++)
        list.addresses[i] = BASE + i * fm_page_size();
    fm_page_packer_pack(p, 1, &list, &packed);
    assert_int_equal(packed.compressed, PAGES);
    assert_true(packed.len < 8192);
    assert_int_equal(fm_page_batch_decode(d, packed.payload, packed.len, &batch, &err), 0);
    assert_int_equal(batch.body_size, PAGES * fm_page_size());
    assert_int_equal(batch.body[12345], 'x');
    payload = fm_xmalloc(packed.len);
    memcpy(payload, packed.payload, packed.len);
    for (int change = -1; change <= 1; change += 2) { /* one page less, one more than it has */
        uint32_t pages = (uint32_t)(PAGES + change);
        struct fm_page_run run = {BASE, pages, (uint32_t)(pages * fm_page_size()), FM_PAGE_RAW};
        struct fm_page_batch lie = {
            .inner_pid = 1, .body_size = run.bytes, .runs = &run, .count = 1};

        fm_page_batch_header(&lie, packed.len - FM_PAGE_BATCH_HEADER - FM_PAGE_BATCH_RUN, true,
                             payload);
        fm_page_batch_runs(&lie, payload + packed.len - FM_PAGE_BATCH_RUN);
        assert_int_equal(fm_page_batch_decode(d, payload, packed.len, &batch, NULL),
                         -FM_E_PROTOCOL);
    }
    free(payload);
    fm_page_decoder_free(d);
    fm_page_packer_free(p);
}

/* Packs one page whose bytes are all `byte` but the first; what its run is. */
static enum fm_page_kind pack_one(struct fm_page_packer *p, int byte, int first)
{
    struct fm_page_list list = {.addresses = {BASE}, .count = 1};
    struct fm_page_decoder *d = fm_page_decoder_new();
    struct fm_page_packed packed;
    struct fm_page_batch batch;
    enum fm_page_kind kind;

    memset(fm_page_packer_room(p), byte, fm_page_size());
    fm_page_packer_room(p)[0] = (uint8_t)first;
    fm_page_packer_pack(p, 1, &list, &packed);
    assert_int_equal(fm_page_batch_decode(d, packed.payload, packed.len, &batch, NULL), 0);
    assert_int_equal(batch.count, 1);
    kind = batch.runs[0].kind;
    fm_page_decoder_free(d);
    return kind;
}

/* A delta is always from what the other side has: after zeroes, that is not the old content. */
static void test_packer_kinds(void **state)
{
    struct fm_page_packer *p = fm_page_packer_new(FM_COMPRESS_NONE, 1u << 20);

    (void)state;
    assert_int_equal(pack_one(p, 'a', 1), FM_PAGE_RAW);
    assert_int_equal(pack_one(p, 'a', 2), FM_PAGE_DELTA);
    assert_int_equal(pack_one(p, 'b', 2), FM_PAGE_RAW); /* too much has changed */
    assert_int_equal(pack_one(p, 'b', 3), FM_PAGE_DELTA);
    assert_int_equal(pack_one(p, 0, 0), FM_PAGE_ZERO);
    assert_int_equal(pack_one(p, 'b', 3), FM_PAGE_RAW);
    assert_int_equal(pack_one(p, 0, 1), FM_PAGE_RAW);
    assert_int_equal(pack_one(p, 0, 2), FM_PAGE_DELTA);
    fm_page_packer_free(p);
}

/* ---- Set of pages ---- */

static void test_map(void **state)
{
    struct fm_page_map m = {0};
    const uint64_t far = UINT64_C(1) << 43;

    (void)state;
    assert_int_equal(fm_page_map_set(&m, 100, 20000), 19900); /* over chunks and words */
    assert_int_equal(fm_page_map_set(&m, 50, 150), 50);
    assert_int_equal(fm_page_map_set(&m, far, far + 1), 1);
    assert_int_equal(fm_page_map_unset_count(&m, 0, 20010), 60);
    assert_int_equal(fm_page_map_unset_count(&m, far - 1, far + 2), 2);
    assert_int_equal(fm_page_map_clear_bits(&m, 8190, 8194), 4);
    assert_int_equal(fm_page_map_unset_count(&m, 8000, 8200), 4);
    for (uint64_t i = 0; i < 1000; i++) /* many chunks: the table grows */
        assert_int_equal(fm_page_map_set(&m, far + 1 + i * 100000, far + 2 + i * 100000), 1);
    assert_int_equal(fm_page_map_clear_bits(&m, 0, UINT64_C(1) << 44), 19950 - 4 + 1 + 1000);
    assert_int_equal(fm_page_map_clear_bits(&m, 0, UINT64_C(1) << 44), 0);
    fm_page_map_clear(&m);
}

/* ---- Cache ---- */

static void test_cache(void **state)
{
    size_t size = fm_page_size(), kept = 0, pages = 64;
    struct fm_page_cache *c = fm_page_cache_new(pages * size, size);
    uint8_t *page = fm_xcalloc(1, size);

    (void)state;
    assert_null(fm_page_cache_new(size, size));
    page[0] = 1;
    for (size_t i = 0; i < 100 * pages; i++) /* a first pass over much more */
        fm_page_cache_offer(c, 1, BASE + i * size, page);
    assert_non_null(fm_page_cache_find(c, 1, BASE));
    assert_null(fm_page_cache_find(c, 2, BASE));
    fm_page_cache_drop(c, 1, BASE);
    assert_null(fm_page_cache_find(c, 1, BASE));
    page[0] = 2;
    for (int round = 0; round < 4; round++) { /* a working set that fits takes the place */
        fm_page_cache_end_round(c);
        kept = 0;
        for (size_t i = 0; i < pages / 2; i++) {
            uint64_t address = BASE + (50 * pages + 7 * i) * size;
            uint8_t *copy = fm_page_cache_find(c, 1, address);

            kept += copy != NULL;
            if (!copy)
                fm_page_cache_offer(c, 1, address, page);
        }
    }
    assert_in_range(kept, pages / 4, pages / 2);
    free(page);
    fm_page_cache_free(c);
}

/* ---- Queue ---- */

static void add(struct fm_page_queue *q, pid_t inner_pid, uint64_t first, uint64_t end)
{
    struct fm_ranges ranges = {0};

    fm_ranges_append(&ranges, BASE + first * fm_page_size(), BASE + end * fm_page_size());
    fm_page_queue_add(q, 1000 + inner_pid, inner_pid, false, &ranges);
}

static void test_queue_order(void **state)
{
    struct fm_page_queue q = {0};
    struct fm_page_work work;

    (void)state;
    add(&q, 1, 0, 10);
    add(&q, 2, 5, 6);
    fm_page_queue_add_barrier(&q, 7);
    assert_int_equal(q.range_count, 2);
    assert_true(fm_page_queue_take(&q, 8, &work));
    assert_int_equal(work.list.count, 8);
    assert_int_equal(work.list.pid, 1001);
    assert_true(fm_page_queue_take(&q, 8, &work));
    assert_int_equal(work.list.count, 2);
    assert_true(work.list.addresses[1] == BASE + 9 * fm_page_size());
    assert_true(fm_page_queue_take(&q, 8, &work));
    assert_true(work.inner_pid == 2 && work.barrier == 0);
    assert_true(fm_page_queue_take(&q, 8, &work));
    assert_int_equal(work.barrier, 7);
    assert_false(fm_page_queue_take(&q, 8, &work));
    assert_int_equal(q.range_count, 0);
    assert_int_equal(q.bytes, 0);
}

/* Takes pages near random ones, then the rest: each page comes exactly once. */
static void test_queue_near(void **state)
{
    const uint64_t page = fm_page_size(), block = 16 * page, pages = 1000;
    struct fm_page_queue q = {0};
    struct fm_page_work work;
    uint8_t seen[1000] = {0};

    (void)state;
    add(&q, 1, 0, 400);
    add(&q, 2, 0, 10);
    add(&q, 1, 410, pages);
    for (int i = 0; i < 40; i++) {
        uint64_t wanted = BASE + next_random() % pages * page;

        if (!fm_page_queue_take_near(&q, 1, wanted, block, &work))
            continue;
        assert_in_range(work.list.count, 1, 16);
        assert_int_equal(work.inner_pid, 1);
        assert_true(work.list.addresses[0] <= wanted);
        assert_true(work.list.addresses[work.list.count - 1] >= wanted);
        assert_false(fm_page_queue_take_near(&q, 1, wanted, block, &work) &&
                     work.list.addresses[0] <= wanted);
        for (size_t k = 0; k < work.list.count; k++)
            seen[(work.list.addresses[k] - BASE) / page]++;
    }
    assert_false(fm_page_queue_take_near(&q, 1, BASE + 405 * page, block, &work));
    assert_false(fm_page_queue_take_near(&q, 3, BASE, block, &work));
    while (fm_page_queue_take(&q, 100, &work))
        for (size_t k = 0; work.inner_pid == 1 && k < work.list.count; k++)
            seen[(work.list.addresses[k] - BASE) / page]++;
    for (uint64_t i = 0; i < pages; i++)
        assert_int_equal(seen[i], i < 400 || i >= 410);
    assert_int_equal(q.range_count, 0);
    assert_int_equal(q.bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_delta_round_trip),
        cmocka_unit_test(test_delta_must_fit),
        cmocka_unit_test(test_delta_of_another_page),
        cmocka_unit_test(test_delta_out_of_bounds),
        cmocka_unit_test(test_batch_round_trip),
        cmocka_unit_test(test_batch_rejects),
        cmocka_unit_test(test_batch_truncated),
        cmocka_unit_test(test_batch_bomb),
        cmocka_unit_test(test_packer_kinds),
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_queue_order),
        cmocka_unit_test(test_queue_near),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
