/* Ranges of pages, memory maps, and the two ways of reading a page table. */
#include "tracked_child.h"

#include "state/memory_map.h"
#include "state/page_walk.h"
#include "state/pagemap.h"

/* ---- ranges ---- */

#define UNITS 200

static bool model[UNITS];

static void compare(const struct fm_ranges *r)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < UNITS; i++) {
        assert_int_equal(fm_ranges_contain(r, i * PAGE), model[i]);
        assert_int_equal(fm_ranges_contain(r, i * PAGE + PAGE - 1), model[i]);
        bytes += model[i] ? PAGE : 0;
    }
    assert_int_equal(fm_ranges_bytes(r), bytes);
    for (size_t i = 0; i < r->count; i++) {
        assert_true(r->items[i].start < r->items[i].end);
        assert_true(i == 0 || r->items[i - 1].end <= r->items[i].start);
    }
}

static void fill(struct fm_ranges *r)
{
    memset(model, 0, sizeof(model));
    for (size_t at = 0; at < UNITS;) {
        size_t len = (size_t)rand() % 6, gap = (size_t)rand() % 4;

        len = at + len > UNITS ? UNITS - at : len;
        fm_ranges_append(r, at * PAGE, (at + len) * PAGE);
        memset(model + at, true, len);
        at += len + gap;
    }
}

static void ranges_behave_like_a_bitmap(void **state)
{
    (void)state;
    srand(7);
    for (int times = 0; times < 300; times++) {
        struct fm_ranges r = {0};

        fill(&r);
        compare(&r);
        for (int i = 0; i < 20; i++) {
            size_t at = (size_t)rand() % UNITS, len = (size_t)rand() % 40;

            len = at + len > UNITS ? UNITS - at : len;
            fm_ranges_subtract(&r, at * PAGE, (at + len) * PAGE);
            memset(model + at, false, len);
            compare(&r);
        }
        fm_ranges_clear(&r);
    }
}

static void neighbours_are_merged(void **state)
{
    struct fm_ranges r = {0};

    (void)state;
    fm_ranges_append(&r, 0, PAGE);
    fm_ranges_append(&r, PAGE, 3 * PAGE);
    fm_ranges_append(&r, 5 * PAGE, 5 * PAGE); /* empty */
    fm_ranges_append(&r, 6 * PAGE, 7 * PAGE);
    assert_int_equal(r.count, 2);
    assert_int_equal(fm_ranges_find(&r, 4 * PAGE), 1);
    assert_int_equal(fm_ranges_find(&r, 7 * PAGE), 2);
    fm_ranges_clear(&r);
    assert_int_equal(fm_ranges_find(&r, 0), 0);
}

/* ---- maps ---- */

static int parse(const char *text, struct fm_memory_map *map)
{
    return fm_memory_map_parse(strdup(text), strlen(text), map, NULL);
}

static void expect_movable(const char *traits, const char *flags, bool expected)
{
    fm_cleanup(fm_memory_map_clear) struct fm_memory_map map = {0};
    fm_autofree char *text = fm_strf("7f0000000000-7f0000001000 %s\nVmFlags: %s \n", traits, flags);

    assert_int_equal(parse(text, &map), 0);
    assert_int_equal(map.count, 1);
    if (fm_mapping_is_movable(&map.items[0]) != expected)
        fail_msg("'%s' with '%s'", traits, flags);
}

static void what_criu_fills_lazily_is_movable(void **state)
{
    static const char ordinary[] = "rd wr mr mw me ac sd";

    (void)state;
    expect_movable("rw-p 00000000 00:00 0 ", ordinary, true);
    expect_movable("rw-p 00000000 00:00 0                          [heap]", ordinary, true);
    expect_movable("rw-p 00000000 00:00 0                          [stack]", "rd wr mr mw me gd ac",
                   true);
    expect_movable("---p 00000000 00:00 0                          [anon:a name]", "mr mw me",
                   true);
    expect_movable("rwxp 00000000 00:00 0 ", ordinary, true);

    expect_movable("rw-s 00000000 00:01 1034                       /dev/zero (deleted)", ordinary,
                   false);
    expect_movable("rw-p 00000000 00:05 7                          /dev/zero", ordinary, false);
    expect_movable("rw-p 00000000 fe:00 1234                       /usr/lib/x.so", ordinary, false);
    expect_movable("rw-p 00000000 00:0f 55                         /anon_hugepage (deleted)",
                   "rd wr mr mw me ht", false);
    expect_movable("rw-s 00000000 00:10 99                         /[aio] (deleted)", ordinary,
                   false);
    expect_movable("rw-s 00000000 00:01 1                          [anon_shmem:x]", ordinary,
                   false);
    expect_movable("r-xp 00000000 00:00 0                          [vdso]", "rd ex mr mw me de",
                   false);
    expect_movable("r--p 00000000 00:00 0                          [vvar]", "rd mr pf io de dd",
                   false);
    expect_movable("r--p 00000000 00:00 0                          [vvar_vclock]", "rd mr pf io",
                   false);
    expect_movable("--xp 00000000 00:00 0                          [uprobes]", "ex io", false);
    expect_movable("--xp 00000000 00:00 0                          [vsyscall]", "ex", false);
    expect_movable("r--p 00000000 00:00 0                          [something new]", ordinary,
                   false);
    expect_movable("rw-p 00000000 00:00 0 ", "rd wr mr mw me lo ac", false);
    expect_movable("rw-p 00000000 00:00 0 ", "rd wr mr mw me dp", false);
    expect_movable("rw-p 00000000 00:00 0 ", "rd wr mr mw me ss", false);
    expect_movable("rw-p 00000000 00:00 0 ", "rd wr mr mw me ht", false);
    expect_movable("rw-p 00000000 00:00 0 ", "rd wr mr mw me pf", false);
}

static void a_map_is_read_in_order(void **state)
{
    fm_cleanup(fm_memory_map_clear) struct fm_memory_map map = {0};

    (void)state;
    assert_int_equal(parse("1000-3000 rw-p 00000000 00:00 0 \n"
                           "Rss:                   8 kB\n"
                           "VmFlags: rd wr uw ac \n"
                           "3000-4000 r--p 00001000 fe:00 12   /a file\n"
                           "VmFlags: rd mr\n"
                           "3000-5000 r--p 00001000 fe:00 12   /a file\n" /* it grew meanwhile */
                           "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n",
                           &map),
                     0);
    assert_int_equal(map.count, 3);
    assert_true(fm_mapping_has_flag(&map.items[0], "uw"));
    assert_false(fm_mapping_has_flag(&map.items[0], "w"));
    assert_true(fm_mapping_has_flag(&map.items[0], "ac"));
    assert_int_equal(map.items[1].end, 0x5000);
    assert_ptr_equal(fm_memory_map_find(&map, 0x2fff), &map.items[0]);
    assert_ptr_equal(fm_memory_map_find(&map, 0x3000), &map.items[1]);
    assert_ptr_equal(fm_memory_map_find(&map, 0x5000), &map.items[2]);
    assert_null(fm_memory_map_find(&map, UINT64_MAX));
}

static void nonsense_is_refused(void **state)
{
    static const char *const texts[] = {
        "\n",
        "1000\n",
        "1000-\n",
        "1000-0 rw-p 0 00:00 0\n",
        "1000-2000 rw 0 00:00 0\n",
        "Rss: 8 kB\n",
        "1000-2000 rw-p 0 00:00\n",
        "VmFlags: rd\n",
        "1000-2000",
    };
    struct fm_memory_map map = {0};

    (void)state;
    for (size_t i = 0; i < FM_COUNT(texts); i++) {
        if (parse(texts[i], &map) != -FM_E_INVALID)
            fail_msg("'%s'", texts[i]);
    }
    assert_int_equal(parse("", &map), 0);
    assert_int_equal(map.count, 0);
    fm_memory_map_clear(&map);
}

static void flags_are_compared_without_tracking(void **state)
{
    struct fm_mapping a = {.flags = "rd wr mr mw me ac"}, b = {.flags = "rd wr uw mr mw me ac sd"},
                      c = {.flags = "rd wr mr mw me ac hg"}, d = {.flags = "uw"}, e = {.flags = ""};

    (void)state;
    for (struct fm_mapping *m[] = {&a, &b, &c, &d, &e, NULL}, **i = m; *i; i++)
        (*i)->flags_len = strlen((*i)->flags);
    assert_true(fm_mapping_same_flags(&a, &b));
    assert_true(fm_mapping_same_flags(&b, &a));
    assert_false(fm_mapping_same_flags(&a, &c));
    assert_false(fm_mapping_same_flags(&c, &a));
    assert_true(fm_mapping_same_flags(&d, &e));
    assert_false(fm_mapping_same_flags(&a, &e));
}

static void our_own_map_is_understood(void **state)
{
    fm_cleanup(fm_memory_map_clear) struct fm_memory_map maps = {0}, smaps = {0};
    struct fm_error err = {0};
    size_t anonymous = 0;

    (void)state;
    assert_int_equal(fm_memory_map_read(getpid(), &maps, &err), 0);
    assert_int_equal(fm_memory_map_read_flags(getpid(), &smaps, &err), 0);
    for (size_t i = 0; i < smaps.count; i++) {
        assert_non_null(smaps.items[i].flags);
        anonymous += smaps.items[i].anonymous;
    }
    assert_true(anonymous >= 3);
    fm_memory_map_clear(&maps);
    assert_int_equal(fm_memory_map_read(4000000, &maps, &err), -FM_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "process 4000000 has ended"));
}

/* ---- two ways of reading pages ---- */

static void read_both_ways(struct fm_pagemap_reader *scan, struct fm_pagemap_reader *read,
                           uint64_t start, uint64_t end)
{
    struct fm_ranges present[2] = {0}, dirty[2] = {0};
    fm_autoclose int fd = fm_pagemap_open(getpid());

    assert_int_equal(
        fm_pagemap_walk(scan, fd, FM_PAGEMAP_EVERYTHING, start, end, &present[0], &dirty[0]), 0);
    assert_int_equal(
        fm_pagemap_walk(read, fd, FM_PAGEMAP_EVERYTHING, start, end, &present[1], &dirty[1]), 0);
    assert_int_equal(present[0].count, present[1].count);
    assert_memory_equal(present[0].items, present[1].items,
                        present[0].count * sizeof(struct fm_range));
    assert_memory_equal(present[0].items, dirty[0].items,
                        present[0].count * sizeof(struct fm_range));
    assert_int_equal(dirty[0].count, present[0].count);
    for (int i = 0; i < 2; i++) {
        fm_ranges_clear(&present[i]);
        fm_ranges_clear(&dirty[i]);
    }
}

static void scan_and_read_find_the_same_pages(void **state)
{
    size_t pages = 30000; /* more regions than fit one answer */
    char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct fm_pagemap_reader scan, read;
    volatile char sum = 0;

    (void)state;
    madvise(p, pages * PAGE, MADV_NOHUGEPAGE);
    fm_pagemap_reader_open(&scan);
    if (!scan.scans) {
        fm_pagemap_reader_close(&scan);
        print_message("SKIPPED: no PAGEMAP_SCAN here\n");
        skip();
    }
    read = scan;
    read.scans = false;
    read.zero_pfn = fm_pagemap_zero_pfn();
    for (size_t i = 0; i < pages; i++) {
        if (i % 3 == 0)
            p[i * PAGE] = 1;
        else if (i % 7 == 0)
            sum += p[i * PAGE]; /* the zero page */
    }
    assert_int_equal(sum, 0);
    madvise(p + 50 * PAGE, 20 * PAGE, 102 /* MADV_GUARD_INSTALL */);
    mprotect(p + 100 * PAGE, 100 * PAGE, PROT_NONE);
    read_both_ways(&scan, &read, (uintptr_t)p, (uintptr_t)p + pages * PAGE);
    fm_pagemap_reader_close(&scan);
    munmap(p, pages * PAGE);
}

static void many_walkers_find_what_one_finds(void **state)
{
    uint64_t len = 1024 * MIB, rest = 37 * MIB;
    char *p = mmap(NULL, len + rest, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct fm_ranges mapped = {0}, present[2] = {0}, dirty[2] = {0};
    fm_autoclose int fd = fm_pagemap_open(getpid());
    struct fm_page_walkers walkers;
    uint64_t start = (uintptr_t)p;

    (void)state;
    madvise(p, len + rest, MADV_NOHUGEPAGE);
    for (uint64_t at = 0; at < len + rest; at += 16 * MIB)
        memset(p + (at > 0 ? at - 3 * PAGE : 0), 1, (2 + at / MIB % 5) * PAGE);
    fm_ranges_append(&mapped, start, start + len);
    fm_ranges_append(&mapped, start + len + PAGE, start + len + rest);
    fm_page_walkers_open(&walkers);
    assert_int_equal(
        fm_page_walk(&walkers, fd, FM_PAGEMAP_EVERYTHING, &mapped, &present[0], &dirty[0]), 0);
    for (size_t i = 0; i < mapped.count; i++)
        assert_int_equal(fm_pagemap_walk(&walkers.readers[0], fd, FM_PAGEMAP_EVERYTHING,
                                         mapped.items[i].start, mapped.items[i].end, &present[1],
                                         &dirty[1]),
                         0);
    assert_true(present[1].count > 60);
    assert_int_equal(present[0].count, present[1].count);
    assert_memory_equal(present[0].items, present[1].items,
                        present[0].count * sizeof(struct fm_range));
    assert_int_equal(fm_ranges_bytes(&dirty[0]), fm_ranges_bytes(&present[0]));

    /* An error of one is the error of all. */
    fm_ranges_append(&mapped, start + len + 2 * rest + 1, start + len + 2 * rest + 2);
    assert_true(fm_page_walk(&walkers, fd, FM_PAGEMAP_EVERYTHING, &mapped, &present[0], &dirty[0]) <
                0);
    for (int i = 0; i < 2; i++) {
        fm_ranges_clear(&present[i]);
        fm_ranges_clear(&dirty[i]);
    }
    fm_ranges_clear(&mapped);
    fm_page_walkers_close(&walkers);
    munmap(p, len + rest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_behave_like_a_bitmap),
        cmocka_unit_test(neighbours_are_merged),
        cmocka_unit_test(what_criu_fills_lazily_is_movable),
        cmocka_unit_test(a_map_is_read_in_order),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(flags_are_compared_without_tracking),
        cmocka_unit_test(our_own_map_is_understood),
        cmocka_unit_test(scan_and_read_find_the_same_pages),
        cmocka_unit_test(many_walkers_find_what_one_finds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
