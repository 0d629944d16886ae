#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "container/cpu_limit.h"
#include "scratch.h"

/* Ordinary files in place of a cgroup's. */
static struct fm_cgroup cgroup_with(const char *first, const char *a, const char *second,
                                    const char *b)
{
    struct fm_cgroup cg = {0};
    struct fm_error err = {0};

    fm_strv_add(&cg.dirs, scratch);
    assert_int_equal(fm_file_write(at(first), a, strlen(a), 0600, &err), 0);
    if (second)
        assert_int_equal(fm_file_write(at(second), b, strlen(b), 0600, &err), 0);
    return cg;
}

static void assert_line(const char *name, const char *text)
{
    fm_autofree char *line = fm_file_line(at(name));

    assert_string_equal(line, text);
}

static void v1_is_read_and_written(void **state)
{
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup cg =
        cgroup_with("cpu.cfs_quota_us", "-1\n", "cpu.cfs_period_us", "100000\n");
    struct fm_cpu_limit limit;
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_cpu_limit_read(&cg, &limit, &err), 0);
    assert_int_equal(limit.quota_us, -1);
    assert_int_equal(limit.period_us, 100000);
    limit.quota_us = 5000;
    assert_int_equal(fm_cpu_limit_write(&cg, &limit, &err), 0);
    assert_line("cpu.cfs_quota_us", "5000");
    unlink(at("cpu.cfs_quota_us"));
}

static void use_is_part_of_the_limit(void **state)
{
    struct fm_cpu_limit before = {.quota_us = -1, .period_us = 100000, .used_us = 1000000};
    struct fm_cpu_limit now = {.quota_us = -1, .period_us = 100000, .used_us = 1500000};

    (void)state;
    /* Half a second of two: a quarter of a processor, whatever the host has. */
    assert_int_equal(fm_cpu_limit_used(&before, &now, 2000000).quota_us, 25001);
    now.quota_us = 10000;
    assert_int_equal(fm_cpu_limit_used(&before, &now, 2000000).quota_us, 10000);
    before.used_us = 0; /* not known */
    now.quota_us = -1;
    assert_int_equal(fm_cpu_limit_used(&before, &now, 2000000).quota_us, -1);
}

static void use_is_read(void **state)
{
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup v1 =
        cgroup_with("cpu.cfs_quota_us", "-1\n", "cpu.cfs_period_us", "100000\n");
    struct fm_cpu_limit limit;
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_cpu_limit_read(&v1, &limit, &err), 0);
    assert_int_equal(limit.used_us, 0);
    assert_int_equal(fm_file_write(at("cpuacct.usage"), "7000000\n", 8, 0600, &err), 0);
    assert_int_equal(fm_cpu_limit_read(&v1, &limit, &err), 0);
    assert_int_equal(limit.used_us, 7000);
    assert_int_equal(fm_file_write(at("cpu.stat"), "usage_usec 123\nuser_usec 1\n", 27, 0600, &err),
                     0);
    assert_int_equal(fm_cpu_limit_read(&v1, &limit, &err), 0);
    assert_int_equal(limit.used_us, 123);
    unlink(at("cpu.stat"));
    unlink(at("cpuacct.usage"));
    unlink(at("cpu.cfs_quota_us"));
}

static void v2_is_read_and_written(void **state)
{
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup cg =
        cgroup_with("cpu.max", "max 100000\n", NULL, NULL);
    struct fm_cpu_limit limit;
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_cpu_limit_read(&cg, &limit, &err), 0);
    assert_int_equal(limit.quota_us, -1);
    limit.quota_us = 20000;
    assert_int_equal(fm_cpu_limit_write(&cg, &limit, &err), 0);
    assert_int_equal(fm_cpu_limit_read(&cg, &limit, &err), 0);
    assert_int_equal(limit.quota_us, 20000);
    unlink(at("cpu.max"));
}

static void a_cgroup_without_the_controller_says_so(void **state)
{
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup cg = {0};
    struct fm_cpu_limit limit;
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_cpu_limit_read(&cg, &limit, &err), -FM_E_REFUSED);
}

static void a_cut_is_a_part_of_what_there_was(void **state)
{
    struct fm_cpu_limit none = {.quota_us = -1, .period_us = 100000};
    struct fm_cpu_limit half = {.quota_us = 50000, .period_us = 100000};

    (void)state;
    assert_int_equal(fm_cpu_limit_cut(&none, 20, 2).quota_us, 160000);
    assert_int_equal(fm_cpu_limit_cut(&half, 50, 2).quota_us, 25000);
    assert_int_equal(fm_cpu_limit_cut(&half, 99, 2).quota_us, 1000); /* the kernel takes no less */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(v1_is_read_and_written),
        cmocka_unit_test(v2_is_read_and_written),
        cmocka_unit_test(use_is_read),
        cmocka_unit_test(use_is_part_of_the_limit),
        cmocka_unit_test(a_cgroup_without_the_controller_says_so),
        cmocka_unit_test(a_cut_is_a_part_of_what_there_was),
    };

    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
