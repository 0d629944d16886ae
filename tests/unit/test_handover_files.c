/* Passes over the files before the freeze: how many, and what each of them covers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "migration/handover_files.h"
#include "migration/migration.h"

#define MIB (1u << 20)

/* What the destination sees of one pass over the only volume. */
struct seen {
    uint64_t since_us;
    uint64_t begun_us; /* no later than this */
    const void *blocks;
};

static struct {
    uint64_t bytes[8]; /* of the volume, by passes */
    unsigned fail_at;
    bool cancel;
    struct seen seen[8];
    unsigned passes;
    struct fm_migration *migration;
} fake;

static int send_tree(struct fm_link *link, const char *migration, const char *name, const char *dir,
                     const struct fm_tree_selection *selection, uint64_t *bytes,
                     struct fm_error *err)
{
    (void)link;
    (void)migration;
    (void)dir;
    assert_string_equal(selection->name, name);
    if (!fm_streq(name, "volume:0"))
        return 0;
    assert_true(fake.passes < 8);
    fake.seen[fake.passes] =
        (struct seen){selection->changed_after_us, fm_realtime_us(), selection->blocks};
    *bytes += fake.bytes[fake.passes++];
    atomic_store(&fake.migration->cancelled, fake.cancel);
    if (fake.passes == fake.fail_at)
        return fm_error_set(err, FM_E_CLOSED, "cut");
    return 0;
}

static int processes(void *ctx, const char *id, pid_t **pids, size_t *count, struct fm_error *err)
{
    (void)ctx;
    (void)id;
    (void)pids;
    (void)err;
    *count = 0;
    return 0;
}

static int sync_files(const uint64_t bytes[8], uint64_t since_us, struct fm_error *err)
{
    static const struct fm_link_ops link_ops = {.send_tree = send_tree};
    static const struct fm_runtime_ops runtime_ops = {.processes = processes};
    char base[] = "/nonexistent";
    struct fm_volume volume = {.source = base, .target = base};
    struct fm_container container = {.name = base, .volumes = &volume, .volume_count = 1};
    struct fm_components parts = {.links.ops = &link_ops,
                                  .runtime.ops = &runtime_ops,
                                  .bundles = {.state_dir = base, .cgroup_parent = base}};
    struct fm_migration m = {.parts = &parts, .container = &container, .dir = base};

    fake.migration = &m;
    fake.passes = 0;
    memcpy(fake.bytes, bytes, sizeof(fake.bytes));
    m.upper_since_us = since_us;
    m.blocks = fm_tree_blocks_new(0);
    int rc = fm_handover_sync_files(&m, err);
    for (unsigned i = 0; i < fake.passes; i++)
        assert_ptr_equal(fake.seen[i].blocks, m.blocks);
    /* The next one goes on where the last one began. */
    assert_true(m.upper_since_us <= fake.seen[fake.passes - 1].begun_us);
    assert_true(m.upper_since_us > fake.seen[fake.passes - 1].since_us);
    assert_int_equal(m.stats.file_passes, fake.passes);
    fm_tree_blocks_free(m.blocks);
    return rc;
}

static void passes_go_on_while_they_help(void **state)
{
    static const struct {
        uint64_t bytes[8];
        unsigned passes;
    } cases[] = {
        {{0}, 1},
        {{4 * MIB}, 1},
        {{4 * MIB + 1}, 2},
        {{900 * (uint64_t)MIB, 90 * MIB, 9 * MIB, MIB}, 4},
        {{90 * MIB, 90 * MIB}, 2},
        {{90 * MIB, 91 * MIB}, 2},
        {{99 * MIB, 98 * MIB, 97 * MIB, 96 * MIB, 95 * MIB, 94 * MIB}, 5},
    };
    struct fm_error err = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t since = fm_realtime_us() - 1000;
        assert_int_equal(sync_files(cases[i].bytes, since, &err), 0);
        assert_int_equal(fake.passes, cases[i].passes);
        assert_int_equal(fake.seen[0].since_us, since);
        for (unsigned k = 1; k < fake.passes; k++) {
            assert_true(fake.seen[k].since_us <= fake.seen[k - 1].begun_us);
            assert_true(fake.seen[k].since_us > fake.seen[k - 1].since_us);
        }
    }
}

static void a_pass_that_fails_is_the_last(void **state)
{
    static const uint64_t bytes[8] = {90 * MIB, 80 * MIB, 70 * MIB, MIB};
    struct fm_error err = {0};

    (void)state;
    fake.fail_at = 2;
    assert_int_equal(sync_files(bytes, 1, &err), -FM_E_CLOSED);
    assert_int_equal(fake.passes, 2);
    fake.fail_at = 0;
    fake.cancel = true;
    assert_int_equal(sync_files(bytes, 1, &err), -FM_E_CANCELLED);
    assert_int_equal(fake.passes, 1);
    fake.cancel = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_go_on_while_they_help),
        cmocka_unit_test(a_pass_that_fails_is_the_last),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
