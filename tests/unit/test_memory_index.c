#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "scratch.h"
#include "state/memory_index.h"

static void save_two(const char *path, bool leave)
{
    uint64_t page = fm_page_size();
    struct fm_process_memory items[2] = {{.pid = getpid(), .inner_pid = 1},
                                         {.pid = getpid(), .inner_pid = 7}};
    struct fm_memory_scan scan = {.items = items, .count = 2};
    struct fm_error err = {0};

    fm_ranges_append(&items[0].present, 4 * page, 9 * page);
    fm_ranges_append(&items[0].present, 100 * page, 101 * page);
    fm_ranges_append(&items[0].dirty, 5 * page, 6 * page);
    assert_int_equal(fm_memory_index_save(path, &scan, leave, &err), 0);
    fm_ranges_clear(&items[0].present);
    fm_ranges_clear(&items[0].dirty);
}

static void what_is_written_is_read(void **state)
{
    struct fm_memory_index index;
    struct fm_error err = {0};

    (void)state;
    save_two(at("index"), true);
    assert_int_equal(fm_memory_index_load(at("index"), &index, &err), 0);
    assert_int_equal(index.count, 2);
    assert_int_equal(index.items[0].pid, getpid());
    assert_true(index.items[0].start_time > 0);
    assert_int_equal(index.items[1].inner_pid, 7);
    assert_int_equal(fm_ranges_bytes(&index.items[0].present), 6 * fm_page_size());
    assert_int_equal(index.items[1].present.count, 0);
    assert_int_equal(fm_memory_index_missing(&index), fm_page_size());
    fm_memory_index_clear(&index);
}

static void nothing_is_missing_unless_it_was_left(void **state)
{
    struct fm_memory_index index;

    (void)state;
    save_two(at("index"), false);
    assert_int_equal(fm_memory_index_load(at("index"), &index, NULL), 0);
    assert_int_equal(fm_memory_index_missing(&index), 0);
    fm_memory_index_clear(&index);
}

/* Every byte of a file matters: changed or cut off it is refused, or read as something valid. */
static void a_broken_file_is_refused(void **state)
{
    fm_autofree char *data = NULL;
    struct fm_memory_index index;
    struct fm_error err = {0};
    size_t len;

    (void)state;
    save_two(at("index"), true);
    assert_int_equal(fm_file_read(at("index"), 1 << 20, &data, &len, &err), 0);
    for (size_t cut = 0; cut < len; cut++) {
        assert_int_equal(fm_file_write(at("cut"), data, cut, 0600, &err), 0);
        assert_int_equal(fm_memory_index_load(at("cut"), &index, &err), -FM_E_PROTOCOL);
    }
    for (size_t i = 0; i < 12; i++) { /* magic, version, count */
        data[i] ^= 1;
        assert_int_equal(fm_file_write(at("bad"), data, len, 0600, &err), 0);
        assert_int_equal(fm_memory_index_load(at("bad"), &index, &err), -FM_E_PROTOCOL);
        data[i] ^= 1;
    }
    size_t first_range = 12 + 4 + 4 + 8 + 8 + 8;
    data[first_range] ^= 1; /* not aligned */
    assert_int_equal(fm_file_write(at("bad"), data, len, 0600, &err), 0);
    assert_int_equal(fm_memory_index_load(at("bad"), &index, &err), -FM_E_PROTOCOL);
}

static void a_missing_file_is_not_found(void **state)
{
    struct fm_memory_index index;
    struct fm_error err = {0};

    (void)state;
    assert_true(fm_memory_index_load(at("nothing"), &index, &err) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(nothing_is_missing_unless_it_was_left),
        cmocka_unit_test(a_broken_file_is_refused),
        cmocka_unit_test(a_missing_file_is_not_found),
    };

    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
