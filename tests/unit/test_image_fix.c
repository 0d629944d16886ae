/* Corrections of CRIU's images: only the timers that CRIU would stop and the pages that nobody
 * would fill, and nothing else. */
#include <endian.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "criu/image_fix.h"
#include "scratch.h"

/* What CRIU writes: two magic numbers, then size and message, again and again. */
struct image {
    uint8_t data[4096];
    size_t size;
};

static void put_number(struct image *image, uint32_t value)
{
    value = htole32(value);
    memcpy(image->data + image->size, &value, sizeof(value));
    image->size += sizeof(value);
}

static struct image image_of_files(void)
{
    struct image image = {.size = 0};
    put_number(&image, 0x54564319);
    put_number(&image, 0x56303138);
    return image;
}

static void put_entry(struct image *image, const uint8_t *message, size_t size)
{
    put_number(image, (uint32_t)size);
    memcpy(image->data + image->size, message, size);
    image->size += size;
}

/* A pipe, of whose message this program knows no field. */
static const uint8_t pipe_entry[] = {0x08, 1, 0x10, 5, 0x8a, 0x01, 4, 0x08, 5, 0x10, 7};

struct timer {
    uint8_t clock, ticks, absolute, value_sec, value_nsec, interval_sec;
};

/* A timerfd: type 17, id, and the timer with id, flags, owner, clock, ticks, settime flags, value
 * and interval. */
static void put_timer(struct image *image, struct timer t)
{
    const uint8_t entry[] = {0x08, 17,
                             0x10, 9,
                             0x62, 24,
                             0x08, 9,
                             0x10, 2,
                             0x1a, 4,
                             0x08, 0,
                             0x10, 0,
                             0x20, t.clock,
                             0x28, t.ticks,
                             0x30, t.absolute,
                             0x38, t.value_sec,
                             0x40, t.value_nsec,
                             0x48, t.interval_sec,
                             0x50, 0};
    put_entry(image, entry, sizeof(entry));
}

static void save(const struct image *image)
{
    assert_int_equal(fm_file_write(at("files.img"), image->data, image->size, 0600, NULL), 0);
}

static ino_t inode(void)
{
    struct stat st;
    assert_int_equal(stat(at("files.img"), &st), 0);
    return st.st_ino;
}

static void assert_file_is(const struct image *expected)
{
    fm_autofree char *data = NULL;
    size_t size = 0;
    assert_int_equal(fm_file_read(at("files.img"), 1 << 20, &data, &size, NULL), 0);
    assert_int_equal(size, expected->size);
    assert_memory_equal(data, expected->data, size);
}

static void assert_untouched(const struct image *image)
{
    struct fm_error err = {0};
    save(image);
    ino_t before = inode();
    assert_int_equal(fm_image_fix_timers(scratch, &err), 0);
    assert_int_equal(inode(), before);
    assert_file_is(image);
}

static void test_what_runs_or_is_disarmed_stays(void **state)
{
    (void)state;
    static const struct timer timers[] = {
        {.clock = 1},                                    /* disarmed */
        {.clock = 1, .interval_sec = 5},                 /* disarmed, with an interval */
        {.clock = 1, .ticks = 1},                        /* one-shot that has fired */
        {.clock = 1, .value_sec = 3, .interval_sec = 5}, /* running */
        {.clock = 1, .ticks = 1, .value_nsec = 77, .interval_sec = 5},  /* with a tick not read */
        {.clock = 0, .absolute = 1, .value_sec = 3, .interval_sec = 5}, /* follows a clock */
    };
    struct image image = image_of_files();
    put_entry(&image, pipe_entry, sizeof(pipe_entry));
    for (size_t i = 0; i < FM_COUNT(timers); i++)
        put_timer(&image, timers[i]);
    assert_untouched(&image);
}

static void test_no_files(void **state)
{
    (void)state;
    struct image image = image_of_files();
    assert_untouched(&image);
    assert_int_equal(unlink(at("files.img")), 0);
    assert_int_equal(fm_image_fix_timers(scratch, NULL), 0);
}

/* The order of the fields on the wire is protobuf's own affair; each of these takes two bytes. */
static int by_bytes(const void *a, const void *b)
{
    return memcmp(a, b, 2);
}

/* The timer between two other files becomes the wanted one, and nothing else changes. */
static void assert_corrected(struct timer from, struct timer to)
{
    struct image image = image_of_files(), wanted = image_of_files();
    struct fm_error err = {0};
    put_entry(&image, pipe_entry, sizeof(pipe_entry));
    const size_t start = image.size;
    put_timer(&image, from);
    const size_t end = image.size;
    put_entry(&image, pipe_entry, sizeof(pipe_entry));
    save(&image);
    assert_int_equal(fm_image_fix_timers(scratch, &err), 0);

    fm_autofree char *data = NULL;
    size_t size = 0;
    assert_int_equal(fm_file_read(at("files.img"), 1 << 20, &data, &size, NULL), 0);
    assert_int_equal(size, image.size);
    assert_memory_equal(data, image.data, start);
    assert_memory_equal(data + end, image.data + end, size - end);
    put_entry(&wanted, pipe_entry, sizeof(pipe_entry));
    put_timer(&wanted, to);
    const size_t head = sizeof(uint32_t), field = 2;
    qsort(data + start + head, (end - start - head) / field, field, by_bytes);
    qsort(wanted.data + start + head, (end - start - head) / field, field, by_bytes);
    assert_memory_equal(data + start, wanted.data + start, end - start);

    ino_t before = inode();
    assert_int_equal(fm_image_fix_timers(scratch, &err), 0);
    assert_int_equal(inode(), before); /* nothing was left to do */
    assert_false(fm_file_exists(at("files.img.new")));
}

static void test_expired_periodic_timer_ticks_again(void **state)
{
    (void)state;
    assert_corrected((struct timer){.clock = 1, .ticks = 1, .interval_sec = 5},
                     (struct timer){.clock = 1, .ticks = 1, .value_sec = 5, .interval_sec = 5});
    assert_corrected((struct timer){.ticks = 9, .absolute = 1, .interval_sec = 5},
                     (struct timer){.ticks = 9, .absolute = 1, .value_sec = 5, .interval_sec = 5});
}

static void test_absolute_timer_becomes_relative(void **state)
{
    (void)state;
    assert_corrected((struct timer){.clock = 1, .absolute = 1, .value_nsec = 9},
                     (struct timer){.clock = 1, .value_nsec = 9});
    assert_corrected((struct timer){.clock = 7, .absolute = 1, .ticks = 1, .interval_sec = 5},
                     (struct timer){.clock = 7, .ticks = 1, .value_sec = 5, .interval_sec = 5});
    assert_corrected((struct timer){.absolute = 1}, (struct timer){0}); /* disarmed */
}

static void assert_refused(const struct image *image)
{
    struct fm_error err = {0};
    save(image);
    assert_int_equal(fm_image_fix_timers(scratch, &err), -FM_E_PROTOCOL);
    assert_non_null(strstr(err.text, "files.img"));
    assert_file_is(image);
}

/* Head; 16 pages at 0x7000 that are lazy and present, with a field that nobody knows; one page at
 * 0x9000 that is only present. */
static void put_pages(struct image *image, uint8_t flags)
{
    const uint8_t head[] = {0x08, 3};
    const uint8_t lazy[] = {0x08, 0x80, 0xe0, 0x01, 0x10, 0, 0x20, flags, 0x28, 16};
    const uint8_t other[] = {0x08, 0x80, 0xa0, 0x02, 0x10, 0, 0x20, 4, 0x28, 1};
    put_number(image, 0x54564319);
    put_number(image, 0x56084025);
    put_entry(image, head, sizeof(head));
    put_entry(image, lazy, sizeof(lazy));
    put_entry(image, other, sizeof(other));
}

static void test_pages_of_the_images_are_not_lazy(void **state)
{
    (void)state;
    struct fm_error err = {0};
    /* Fields that are not known come last. */
    static const uint8_t unmarked[] = {
        0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56, 2,    0,    0,    0, 0x08, 3,
        10,   0,    0,    0,    0x20, 4,    0x08, 0x80, 0xe0, 0x01, 0x10, 0, 0x28, 16,
        10,   0,    0,    0,    0x08, 0x80, 0xa0, 0x02, 0x10, 0,    0x20, 4, 0x28, 1};
    struct image lazy = {.size = 0}, shared = {.size = 0}, fixed = {.size = 0};
    put_pages(&lazy, 6);
    put_pages(&shared, 6);
    put_pages(&fixed, 4);
    assert_int_equal(fm_file_write(at("pagemap-7.img"), lazy.data, lazy.size, 0600, NULL), 0);
    assert_int_equal(fm_file_write(at("pagemap-8.img"), fixed.data, fixed.size, 0600, NULL), 0);
    assert_int_equal(fm_file_write(at("pagemap-shmem-7.img"), shared.data, shared.size, 0600, NULL),
                     0);
    struct stat before, after;
    assert_int_equal(stat(at("pagemap-8.img"), &before), 0);
    assert_int_equal(fm_image_fix_pages(scratch, &err), 0);
    assert_int_equal(stat(at("pagemap-8.img"), &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);

    fm_autofree char *data = NULL, *untouched = NULL;
    size_t size = 0;
    assert_int_equal(fm_file_read(at("pagemap-7.img"), 1 << 20, &data, &size, NULL), 0);
    assert_int_equal(size, sizeof(unmarked));
    assert_memory_equal(data, unmarked, size);
    assert_int_equal(fm_file_read(at("pagemap-shmem-7.img"), 1 << 20, &untouched, &size, NULL), 0);
    assert_memory_equal(untouched, shared.data, size);
}

static void test_pages_that_are_garbage_are_refused(void **state)
{
    (void)state;
    struct fm_error err = {0};
    struct image image = image_of_files();
    assert_int_equal(fm_file_write(at("pagemap-7.img"), image.data, image.size, 0600, NULL), 0);
    assert_int_equal(fm_image_fix_pages(scratch, &err), -FM_E_PROTOCOL);
    assert_non_null(strstr(err.text, "pagemap-7.img is not an image of pages"));
}

static void test_garbage_is_refused(void **state)
{
    (void)state;
    struct image image = {.size = 3};
    assert_refused(&image);
    image.size = 8;
    assert_refused(&image);

    image = image_of_files();
    put_timer(&image, (struct timer){.clock = 1, .ticks = 1, .interval_sec = 5});
    for (size_t cut = 1; cut < image.size - 8; cut++) {
        struct image part = image;
        part.size -= cut;
        assert_refused(&part);
    }
    image = image_of_files();
    put_number(&image, UINT32_MAX);
    assert_refused(&image);
    image = image_of_files();
    put_entry(&image, (const uint8_t *)"\x62\x05\x28", 3);
    assert_refused(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_runs_or_is_disarmed_stays),
        cmocka_unit_test(test_no_files),
        cmocka_unit_test(test_expired_periodic_timer_ticks_again),
        cmocka_unit_test(test_absolute_timer_becomes_relative),
        cmocka_unit_test(test_pages_of_the_images_are_not_lazy),
        cmocka_unit_test(test_pages_that_are_garbage_are_refused),
        cmocka_unit_test(test_garbage_is_refused),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
