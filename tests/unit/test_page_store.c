/* The store: what was written is read, what it occupies is known, what is settled is on disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <endian.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "state/page_store.h"

#define BASE UINT64_C(0x7f0000000000)
#define PLENTY (UINT64_C(1) << 30)
/* A tmpfs: offsets in its files are addresses. */
#define STORE "/dev/shm/fm-test-store.XXXXXX"

static char dir[sizeof(STORE)];

static struct fm_page_store *open_store(uint64_t max_bytes)
{
    struct fm_error err = {0};
    struct fm_page_store *s =
        fm_page_store_open(dir, &(struct fm_page_room){.max_bytes = max_bytes}, &err);

    if (!s)
        fail_msg("%s", err.text);
    return s;
}

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "%s", STORE);
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    return fm_page_store_remove(dir, NULL);
}

static uint64_t pages(uint64_t n)
{
    return n * fm_page_size();
}

/* Writes n pages of one byte. */
static int put(struct fm_page_store *s, pid_t pid, uint64_t address, uint64_t n, int byte)
{
    fm_autofree uint8_t *content = fm_xmalloc(pages(n));

    memset(content, byte, pages(n));
    return fm_page_store_write(s, pid, address, content, pages(n), NULL);
}

static void expect(struct fm_page_store *s, pid_t pid, uint64_t address, int byte)
{
    fm_autofree uint8_t *content = fm_xmalloc(pages(1));

    assert_int_equal(fm_page_store_read(s, pid, address, content, pages(1), NULL), 0);
    assert_int_equal(content[0], byte);
    assert_memory_equal(content, content + 1, pages(1) - 1);
}

/* What the file system says that the files of the store occupy. */
static uint64_t occupied(void)
{
    uint64_t bytes = 0;

    assert_int_equal(fm_tree_size(dir, &bytes, NULL), 0);
    return bytes;
}

static void test_write_read_zero(void **state)
{
    struct fm_page_store *s = open_store(PLENTY);

    (void)state;
    assert_int_equal(put(s, 1, BASE, 4, 'a'), 0);
    assert_int_equal(put(s, 2, BASE, 1, 'b'), 0);
    assert_int_equal(put(s, 1, BASE + pages(1), 1, 'c'), 0); /* again: occupies nothing more */
    assert_int_equal(fm_page_store_bytes(s), pages(5));
    expect(s, 1, BASE, 'a');
    expect(s, 1, BASE + pages(1), 'c');
    expect(s, 2, BASE, 'b');
    expect(s, 1, BASE + pages(100), 0);
    expect(s, 3, BASE, 0);
    assert_int_equal(fm_page_store_zero(s, 1, BASE + pages(1), BASE + pages(3), NULL), 0);
    assert_int_equal(fm_page_store_zero(s, 1, BASE + pages(50), BASE + pages(60), NULL), 0);
    assert_int_equal(fm_page_store_zero(s, 9, BASE, BASE + pages(1), NULL), 0);
    expect(s, 1, BASE, 'a');
    expect(s, 1, BASE + pages(1), 0);
    expect(s, 1, BASE + pages(3), 'a');
    assert_int_equal(fm_page_store_bytes(s), pages(3));
    assert_int_equal(occupied(), pages(3));
    fm_page_store_close(s);
}

static void test_survives(void **state)
{
    struct fm_page_store *s = open_store(PLENTY);

    (void)state;
    assert_int_equal(put(s, 7, BASE, 3, 'a'), 0);
    assert_int_equal(put(s, 7, BASE + pages(10), 1, 'b'), 0);
    fm_page_store_close(s);
    s = open_store(pages(5)); /* the next daemon's */
    assert_int_equal(fm_page_store_bytes(s), pages(4));
    expect(s, 7, BASE + pages(2), 'a');
    expect(s, 7, BASE + pages(10), 'b');
    assert_int_equal(put(s, 7, BASE, 3, 'c'), 0);
    assert_int_equal(put(s, 8, BASE, 1, 'd'), 0);
    assert_int_equal(put(s, 8, BASE + pages(1), 1, 'd'), -FM_E_NO_SPACE);
    fm_page_store_close(s);
}

static void test_no_space(void **state)
{
    struct fm_page_store *s = open_store(pages(10));
    struct fm_error err = {0};
    fm_autofree uint8_t *content = fm_xcalloc(1, pages(4));

    (void)state;
    assert_int_equal(put(s, 1, BASE, 8, 'a'), 0);
    assert_int_equal(fm_page_store_write(s, 1, BASE + pages(6), content, pages(4), &err), 0);
    assert_int_equal(fm_page_store_write(s, 1, BASE + pages(9), content, pages(2), &err),
                     -FM_E_NO_SPACE);
    assert_non_null(strstr(err.text, "reserved"));
    assert_int_equal(fm_page_store_bytes(s), pages(10));
    assert_int_equal(fm_page_store_zero(s, 1, BASE, BASE + pages(2), NULL), 0);
    assert_int_equal(put(s, 1, BASE + pages(10), 2, 'b'), 0);
    assert_int_equal(occupied(), pages(10));
    fm_page_store_close(s);
}

/* Somebody who has a few pages more. */
struct giver {
    uint64_t step, most; /* bytes */
    int asked;
};

static int give(void *ctx, uint64_t bytes, uint64_t *max_bytes, struct fm_error *err)
{
    struct giver *g = ctx;

    g->asked++;
    if (bytes > g->most)
        return fm_error_set(err, FM_E_NO_SPACE, "the host has no more");
    *max_bytes = bytes + g->step < g->most ? bytes + g->step : g->most;
    return 0;
}

static struct fm_page_store *open_growing(struct giver *g, uint64_t max_bytes)
{
    const struct fm_page_room room = {.max_bytes = max_bytes, .grow = give, .ctx = g};
    struct fm_page_store *s = fm_page_store_open(dir, &room, NULL);

    assert_non_null(s);
    return s;
}

static void test_grows(void **state)
{
    struct giver g = {.step = pages(3), .most = pages(20)};
    struct fm_page_store *s = open_growing(&g, pages(10));
    struct fm_error err = {0};
    fm_autofree uint8_t *content = fm_xcalloc(1, pages(4));

    (void)state;
    assert_int_equal(put(s, 1, BASE, 10, 'a'), 0);
    assert_int_equal(put(s, 1, BASE, 10, 'b'), 0); /* again: nothing more */
    assert_int_equal(g.asked, 0);
    assert_int_equal(put(s, 1, BASE + pages(10), 1, 'c'), 0);
    assert_int_equal(put(s, 2, BASE, 3, 'd'), 0); /* of the step */
    assert_int_equal(g.asked, 1);
    assert_int_equal(put(s, 2, BASE + pages(3), 4, 'e'), 0);
    assert_int_equal(g.asked, 2);
    assert_int_equal(fm_page_store_write(s, 2, BASE + pages(7), content, pages(4), &err),
                     -FM_E_NO_SPACE);
    assert_string_equal(err.text, "the host has no more");
    assert_int_equal(fm_page_store_bytes(s), pages(18)); /* nothing of that is kept */
    assert_int_equal(put(s, 2, BASE + pages(7), 2, 'f'), 0);
    assert_int_equal(put(s, 3, BASE, 1, 'g'), -FM_E_NO_SPACE);
    assert_int_equal(occupied(), pages(20));
    expect(s, 1, BASE + pages(9), 'b');
    expect(s, 1, BASE + pages(10), 'c');
    expect(s, 2, BASE + pages(8), 'f');
    fm_page_store_close(s);
}

/* What the source keeps comes when there is no way back: it is known before whether it fits. */
static void test_room_for_what_is_missing(void **state)
{
    struct giver g = {.most = pages(20)};
    struct fm_page_store *s = open_growing(&g, pages(10));
    struct fm_ranges present = {0}, missing = {0}, more = {0};
    struct fm_error err = {0};

    (void)state;
    fm_ranges_append(&present, BASE, BASE + pages(30));
    fm_ranges_append(&missing, BASE + pages(4), BASE + pages(14));
    fm_ranges_append(&more, BASE + pages(4), BASE + pages(15));
    assert_int_equal(put(s, 1, BASE, 8, 'a'), 0); /* 4 of them are missing: older ones are there */
    assert_int_equal(fm_page_store_settle(s, 1, &present, &missing, &err), 0);
    assert_int_equal(fm_page_store_settle(s, 1, &present, &missing, &err), 0);
    assert_int_equal(g.asked, 1);
    assert_int_equal(fm_page_store_settle(s, 2, &present, &missing, &err), -FM_E_NO_SPACE);
    assert_int_equal(fm_page_store_settle(s, 2, &present, NULL, &err), 0);
    assert_int_equal(fm_page_store_settle(s, 1, &present, &more, &err), 0);
    g.most = 0; /* from here on nobody has to be asked */
    assert_int_equal(put(s, 1, BASE + pages(4), 11, 'b'), 0);
    assert_int_equal(put(s, 1, BASE + pages(15), 1, 'c'), -FM_E_NO_SPACE);
    fm_ranges_clear(&present);
    fm_ranges_clear(&missing);
    fm_ranges_clear(&more);
    fm_page_store_close(s);
}

static void test_rejects(void **state)
{
    const uint64_t top = UINT64_C(1) << 56;
    struct fm_page_store *s = open_store(PLENTY);
    fm_autofree uint8_t *content = fm_xcalloc(1, pages(1));

    (void)state;
    assert_int_equal(put(s, 0, BASE, 1, 1), -FM_E_PROTOCOL);
    assert_int_equal(put(s, -5, BASE, 1, 1), -FM_E_PROTOCOL);
    assert_int_equal(put(s, (1 << 22) + 1, BASE, 1, 1), -FM_E_PROTOCOL);
    assert_int_equal(put(s, 1, BASE + 1, 1, 1), -FM_E_PROTOCOL);
    assert_int_equal(put(s, 1, top, 1, 1), -FM_E_PROTOCOL);
    assert_int_equal(put(s, 1, UINT64_MAX - pages(1) + 1, 1, 1), -FM_E_PROTOCOL);
    assert_int_equal(fm_page_store_write(s, 1, BASE, content, 512, NULL), -FM_E_PROTOCOL);
    assert_int_equal(fm_page_store_write(s, 1, BASE, content, 0, NULL), -FM_E_PROTOCOL);
    assert_int_equal(fm_page_store_zero(s, 1, BASE, BASE, NULL), -FM_E_PROTOCOL);
    assert_int_equal(fm_page_store_zero(s, 1, BASE, top + pages(1), NULL), -FM_E_PROTOCOL);
    assert_int_equal(put(s, 1, top - pages(1), 1, 'z'), 0); /* the last one there is */
    expect(s, 1, top - pages(1), 'z');
    fm_page_store_close(s);
}

static void check_file(const char *name, const struct fm_ranges *expected)
{
    fm_autofree char *path = fm_strf("%s/%s", dir, name);
    fm_autofree char *data = NULL;
    size_t len = 0;

    assert_int_equal(fm_file_read(path, 1u << 20, &data, &len, NULL), 0);
    assert_int_equal(len, expected->count * 16);
    for (size_t i = 0; i < expected->count; i++) {
        uint64_t words[2];

        memcpy(words, data + i * 16, sizeof(words));
        assert_true(le64toh(words[0]) == expected->items[i].start);
        assert_true(le64toh(words[1]) == expected->items[i].end);
    }
}

static void test_settle(void **state)
{
    struct fm_page_store *s = open_store(PLENTY);
    struct fm_ranges present = {0}, missing = {0}, none = {0};
    fm_autofree char *file = fm_strf("%s/5.missing", dir);

    (void)state;
    fm_ranges_append(&present, BASE, BASE + pages(2));
    fm_ranges_append(&present, BASE + pages(6), BASE + pages(8));
    fm_ranges_append(&missing, BASE + pages(7), BASE + pages(8));
    assert_int_equal(put(s, 5, BASE, 8, 'a'), 0);
    assert_int_equal(fm_page_store_settle(s, 5, &present, &missing, NULL), 0);
    assert_int_equal(fm_page_store_settle(s, 6, &none, NULL, NULL), 0); /* never had a page */
    check_file("5.present", &present);
    check_file("5.missing", &missing);
    check_file("6.present", &none);
    expect(s, 5, BASE + pages(1), 'a');
    expect(s, 5, BASE + pages(2), 0); /* outside: whatever the file says */
    expect(s, 5, BASE + pages(6), 'a');
    assert_int_equal(put(s, 5, BASE + pages(7), 1, 'm'), 0);
    expect(s, 5, BASE + pages(7), 'm');
    assert_int_equal(fm_page_store_settle(s, 5, &present, NULL, NULL), 0);
    assert_false(fm_file_exists(file));
    fm_ranges_clear(&present);
    fm_ranges_clear(&missing);
    fm_page_store_close(s);
}

/* What came last is listed, what came before only as far as it is not too much. */
static void test_recent(void **state)
{
    struct fm_page_store *s = open_store(PLENTY);
    struct fm_ranges present = {0}, recent = {0};

    (void)state;
    fm_ranges_append(&present, BASE, BASE + pages(4000));
    assert_int_equal(put(s, 5, BASE, 3000, 'a'), 0);
    assert_int_equal(put(s, 5, BASE + pages(3500), 2, 'b'), 0);
    for (uint64_t i = 0; i < 2000; i++) /* the same again */
        assert_int_equal(put(s, 5, BASE + pages(3600 + i % 3), 1, 'c'), 0);
    assert_int_equal(put(s, 5, BASE + pages(3601), 3, 'd'), 0);
    assert_int_equal(fm_page_store_settle(s, 5, &present, NULL, NULL), 0);
    fm_ranges_append(&recent, BASE + pages(3600), BASE + pages(3602));
    recent.items[0].end = BASE + pages(3604);
    check_file("5.recent", &recent);
    for (uint64_t i = 0; i < 10; i++)
        assert_int_equal(put(s, 5, BASE + pages(2 * i), 1, 'e'), 0);
    assert_int_equal(put(s, 5, BASE + pages(1000), 2000, 'f'), 0);
    assert_int_equal(fm_page_store_settle(s, 5, &present, NULL, NULL), 0);
    fm_ranges_clear(&recent);
    fm_ranges_append(&recent, BASE + pages(1000), BASE + pages(1512)); /* 2 MiB */
    check_file("5.recent", &recent);
    fm_ranges_clear(&present);
    fm_ranges_clear(&recent);
    fm_page_store_close(s);
}

/* Two threads write every other block of the same process. */
struct writer {
    pthread_t thread;
    struct fm_page_store *store;
    uint64_t parity;
    int ret;
};

static void *write_blocks(void *arg)
{
    struct writer *w = arg;

    for (uint64_t block = w->parity; block < 512 && w->ret == 0; block += 2)
        w->ret = put(w->store, 3, BASE + pages(5 * block), 5, (int)(block % 250) + 1);
    return NULL;
}

static void test_two_writers(void **state)
{
    /* Whoever needs more asks; the other one goes on with what it got. */
    struct giver g = {.step = pages(7), .most = pages(512 * 5)};
    struct fm_page_store *s = open_growing(&g, 0);
    struct writer writers[2] = {{.store = s, .parity = 0}, {.store = s, .parity = 1}};

    (void)state;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_blocks, &writers[i]), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(writers[i].thread, NULL);
        assert_int_equal(writers[i].ret, 0);
    }
    for (uint64_t page = 0; page < 512 * 5; page++)
        expect(s, 3, BASE + pages(page), (int)(page / 5 % 250) + 1);
    assert_int_equal(fm_page_store_bytes(s), pages(512 * 5));
    assert_true(g.asked >= 512 * 5 / 12 && g.asked <= 512 * 5 / 8 + 1);
    fm_page_store_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_write_read_zero, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_survives, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_no_space, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_grows, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_room_for_what_is_missing, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_rejects, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_settle, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_recent, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_two_writers, make_dir, remove_dir),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
