/* Large files in later passes: only blocks that differ travel, and what arrives is the same file.
 */
#include "tree_world.h"

#include <sys/inotify.h>

#include "state/tree_blocks.h"

#define BLOCK FM_TREE_BLOCK_SIZE
#define MIB (1u << 20)
#define LITTLE 16384u /* of archive: headers, and no content */

static struct fm_tree_blocks *blocks;

static int set_up_blocks(void **state)
{
    blocks = fm_tree_blocks_new(8u * MIB);
    return set_up(state);
}

static int tear_down_blocks(void **state)
{
    fm_tree_blocks_free(blocks);
    return tear_down(state);
}

static int try_pass(struct fixture *f, uint64_t since, bool last)
{
    struct fm_tree_selection selection = {
        .changed_after_us = since, .last = last, .blocks = blocks, .name = "tree"};

    return transfer_selected(f, &selection, UINT64_MAX / 2);
}

static void pass(struct fixture *f, uint64_t since)
{
    if (try_pass(f, since, false) < 0)
        fail_msg("sender: %s; receiver: %s", f->send_error.text, f->receive_error.text);
}

static uint64_t random_state = 88172645463325252ull;

static uint64_t random_below(uint64_t n) /* xorshift64, Marsaglia 2003 */
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % n;
}

static void scribble(const char *path, off_t at, size_t len)
{
    size_t words = len / sizeof(uint64_t) + 1;
    fm_autofree uint64_t *data = fm_xmalloc(words * sizeof(*data));
    fm_autoclose int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

    for (size_t i = 0; i < words; i++)
        data[i] = random_below(UINT64_MAX);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, len, at), (ssize_t)len);
}

static void punch(const char *path, off_t at, off_t len)
{
    fm_autoclose int fd = open(path, O_WRONLY | O_CLOEXEC);

    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len), 0);
}

static ino_t inode(const char *path)
{
    struct stat st;

    assert_int_equal(lstat(path, &st), 0);
    return st.st_ino;
}

static void copy_db(const struct fixture *f, const char *from, const char *to)
{
    fm_autoclose int in_fd = open(in(f->from, from), O_RDONLY | O_CLOEXEC);
    fm_autoclose int out_fd = open(in(f->from, to), O_WRONLY | O_CLOEXEC);

    assert_int_equal(fm_copy_fd(in_fd, out_fd, NULL, NULL), 0);
}

/* "db" of 4 MiB has arrived; what follows is newer. */
static uint64_t start_with_db(struct fixture *f)
{
    scribble(in(f->from, "db"), 0, 4 * MIB);
    pass(f, 0);
    compare_trees(f);
    return now_for_next_pass(f);
}

/* --- what a file may go through --- */

static void write_middle(const char *path)
{
    scribble(path, MIB + 12345, 8192);
}

static void write_across(const char *path)
{
    scribble(path, 3 * BLOCK - 1, 2);
}

static void write_ends(const char *path)
{
    scribble(path, 0, 1);
    scribble(path, 4 * MIB - 1, 1);
}

static void grow(const char *path)
{
    scribble(path, 4 * MIB, BLOCK + 77);
}

static void grow_empty(const char *path)
{
    assert_int_equal(truncate(path, 9 * MIB + BLOCK - 5), 0);
}

static void grow_with_gap(const char *path)
{
    scribble(path, 64 * MIB + 3, 10);
}

static void cut(const char *path)
{
    assert_int_equal(truncate(path, 4 * MIB - BLOCK - 7), 0);
}

static void cut_at_block(const char *path)
{
    assert_int_equal(truncate(path, 2 * MIB), 0);
}

static void cut_and_grow(const char *path)
{
    assert_int_equal(truncate(path, 3 * MIB + 1), 0);
    assert_int_equal(truncate(path, 4 * MIB), 0);
}

static void punch_some(const char *path)
{
    punch(path, BLOCK + 4096, BLOCK);
}

static void touch_only(const char *path)
{
    struct timespec times[2] = {{1000, 1}, {2000, 2}};

    assert_int_equal(chmod(path, 0601), 0);
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void overwrite_same(const char *path)
{
    fm_autofree char *data = NULL;
    size_t len;

    assert_int_equal(fm_file_read(path, 8 * MIB, &data, &len, NULL), 0);
    fm_autoclose int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(fm_write_full(fd, data, len), 0);
}

static void edits_travel_as_patches(void **state)
{
    static const struct {
        const char *name;
        void (*edit)(const char *path);
        uint64_t most; /* blocks */
    } edits[] = {
        {"write in the middle", write_middle, 1},
        {"write across two blocks", write_across, 2},
        {"write at both ends", write_ends, 2},
        {"growth", grow, 2},
        {"growth without content", grow_empty, 0},
        {"growth behind a gap", grow_with_gap, 1},
        {"cut", cut, 1},
        {"cut at the end of a block", cut_at_block, 0},
        {"cut and grown again", cut_and_grow, 8},
        {"hole", punch_some, 2},
        {"metadata", touch_only, 0},
        {"the same once more", overwrite_same, 0},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < FM_COUNT(edits); i++) {
        unlink(in(f->from, "db"));
        uint64_t since = start_with_db(f);
        ino_t there = inode(in(f->to, "db"));
        edits[i].edit(in(f->from, "db"));
        pass(f, since);
        compare_trees(f);
        if (f->sent.patches != 1 || inode(in(f->to, "db")) != there ||
            f->sent.bytes > edits[i].most * BLOCK + LITTLE)
            fail_msg("%s: %lu patches, %lu bytes", edits[i].name, f->sent.patches, f->sent.bytes);
        /* The sums have kept up: another edit, and nothing of the first one again. */
        since = now_for_next_pass(f);
        scribble(in(f->from, "db"), 5, 5);
        pass(f, since);
        compare_trees(f);
        if (f->sent.patches != 1 || f->sent.bytes > BLOCK + LITTLE)
            fail_msg("after %s: %lu bytes", edits[i].name, f->sent.bytes);
    }
}

static void the_last_pass_uses_threads_and_is_the_same(void **state)
{
    struct fixture *f = *state;

    scribble(in(f->from, "db"), 0, 70 * MIB + 3);
    pass(f, 0);
    uint64_t since = now_for_next_pass(f);
    for (unsigned i = 0; i < 40; i++)
        scribble(in(f->from, "db"), (off_t)random_below(70 * MIB), 3);
    assert_int_equal(try_pass(f, since, true), 0);
    compare_trees(f);
    assert_int_equal(f->sent.patches, 1);
    assert_true(f->sent.bytes <= 80 * BLOCK + LITTLE);
}

static void small_files_travel_whole(void **state)
{
    struct fixture *f = *state;

    scribble(in(f->from, "small"), 0, FM_TREE_BLOCKS_FROM - 1);
    uint64_t since = start_with_db(f);
    assert_int_equal(truncate(in(f->from, "db"), 0), 0);
    scribble(in(f->from, "small"), 0, 1);
    pass(f, since);
    compare_trees(f);
    assert_int_equal(f->sent.patches, 0);
    assert_int_equal(fm_tree_blocks_bytes(blocks), 0);
    since = now_for_next_pass(f);
    scribble(in(f->from, "db"), 0, MIB);
    pass(f, since);
    compare_trees(f);
    assert_int_equal(f->sent.patches, 0);
}

/* A file that lost most of its content costs less whole, and keeps its holes. */
static void a_patch_is_never_the_larger_way(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    uint64_t since = start_with_db(f);

    punch(in(f->from, "db"), BLOCK, 4 * MIB - BLOCK);
    pass(f, since);
    compare_trees(f);
    assert_int_equal(f->sent.patches, 0);
    assert_true(f->sent.bytes <= BLOCK + LITTLE);
    assert_int_equal(stat(in(f->to, "db"), &st), 0);
    assert_true(st.st_blocks * 512 <= 2 * BLOCK);
}

/* Sums cover gaps as well, wherever they begin. */
static void gaps_are_known(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < 10; i++)
        scribble(in(f->from, "gaps"), (off_t)i * 5 * BLOCK + i * 20480, 8192);
    assert_int_equal(truncate(in(f->from, "gaps"), 60 * BLOCK + 40960), 0);
    uint64_t since = start_with_db(f);
    touch_only(in(f->from, "gaps"));
    pass(f, since);
    compare_trees(f);
    assert_int_equal(f->sent.patches, 1);
    assert_true(f->sent.bytes <= LITTLE);
}

static void attributes_of_a_patch_are_set_and_removed(void **state)
{
    struct fixture *f = *state;

    scribble(in(f->from, "db"), 0, MIB);
    if (setxattr(in(f->from, "db"), "user.old", "1", 1, 0) < 0)
        skip();
    uint64_t since = start_with_db(f);
    assert_int_equal(removexattr(in(f->from, "db"), "user.old"), 0);
    assert_int_equal(setxattr(in(f->from, "db"), "user.new", "22", 2, 0), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(in(f->from, "db"), 12, 34), 0);
        assert_int_equal(chmod(in(f->from, "db"), 04755), 0);
    }
    pass(f, since);
    compare_trees(f);
    assert_int_equal(f->sent.patches, 1);
    assert_true(f->sent.bytes <= LITTLE);
}

/* --- names --- */

static void a_replaced_file_travels_whole(void **state)
{
    struct fixture *f = *state;
    uint64_t since = start_with_db(f);

    write_file(in(f->from, "new"), "", 0);
    copy_db(f, "db", "new");
    scribble(in(f->from, "new"), 0, 1);
    rename_in(f, "new", "db");
    pass(f, since);
    compare_trees(f);
    assert_int_equal(f->sent.patches, 0);
    since = now_for_next_pass(f);
    scribble(in(f->from, "db"), 0, 1);
    pass(f, since);
    compare_trees(f);
    assert_int_equal(f->sent.patches, 1);
}

static void a_file_that_was_away_travels_whole(void **state)
{
    struct fixture *f = *state;
    uint64_t since = start_with_db(f);

    rename_in(f, "db", "other");
    pass(f, since);
    compare_trees(f);
    assert_int_equal(f->sent.patches, 0);
    since = now_for_next_pass(f);
    rename_in(f, "other", "db");
    scribble(in(f->from, "db"), 0, 1);
    pass(f, since);
    compare_trees(f);
    assert_int_equal(f->sent.patches, 0);
}

static void a_name_that_was_something_else_travels_whole(void **state)
{
    static const char *const names[] = {"dir", "link", "fifo"};
    struct fixture *f = *state;

    make_dir(f, "a");
    make_dir(f, "d");
    scribble(in(f->from, "d/db"), 0, MIB);
    uint64_t since = start_with_db(f);
    for (size_t i = 0; i < FM_COUNT(names); i++) {
        make_dir(f, "dir");
        assert_int_equal(symlink("a", in(f->from, "link")), 0);
        assert_int_equal(mkfifo(in(f->from, "fifo"), 0600), 0);
        rename_in(f, "db", "a/away");
        rename_in(f, "d", "a/d");
        rename_in(f, names[i], "db");
        assert_int_equal(symlink("a/d", in(f->from, "d")), 0);
        pass(f, since);
        compare_trees(f);
        since = now_for_next_pass(f);
        rename_in(f, "db", names[i]);
        rename_in(f, "a/away", "db");
        assert_int_equal(unlink(in(f->from, "d")), 0);
        rename_in(f, "a/d", "d");
        pass(f, since);
        compare_trees(f);
        assert_int_equal(f->sent.patches, 0);
        since = now_for_next_pass(f);
        assert_int_equal(rmdir(in(f->from, "dir")), 0);
        assert_int_equal(unlink(in(f->from, "link")), 0);
        assert_int_equal(unlink(in(f->from, "fifo")), 0);
    }
}

static void files_with_two_names_travel_whole(void **state)
{
    struct fixture *f = *state;
    uint64_t since = start_with_db(f);

    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(link(in(f->from, "db"), in(f->from, "second")), 0);
        scribble(in(f->from, "db"), 7, 7);
        pass(f, since);
        compare_trees(f);
        assert_int_equal(f->sent.patches, 0);
        since = now_for_next_pass(f);
        assert_int_equal(unlink(in(f->from, i == 1 ? "db" : "second")), 0);
        if (i == 1)
            rename_in(f, "second", "db");
        pass(f, since);
        compare_trees(f);
        assert_int_equal(f->sent.patches, 0);
        since = now_for_next_pass(f);
    }
}

static void trees_do_not_share_their_files(void **state)
{
    struct fixture *f = *state;
    uint64_t since = start_with_db(f);

    scribble(in(f->from, "db"), 0, 1);
    struct fm_tree_selection other = {
        .changed_after_us = since, .blocks = blocks, .name = "other tree"};
    assert_int_equal(transfer_selected(f, &other, UINT64_MAX / 2), 0);
    compare_trees(f);
    assert_int_equal(f->sent.patches, 0);
}

/* --- limits --- */

static void what_does_not_fit_travels_whole(void **state)
{
    struct fixture *f = *state;
    const uint64_t most = 2048;

    fm_tree_blocks_free(blocks);
    blocks = fm_tree_blocks_new(most);
    scribble(in(f->from, "a"), 0, 3 * MIB);
    scribble(in(f->from, "b"), 0, 3 * MIB);
    scribble(in(f->from, "c"), 0, 20 * MIB);
    uint64_t since = start_with_db(f);
    assert_true(fm_tree_blocks_bytes(blocks) > 0 && fm_tree_blocks_bytes(blocks) <= most);
    for (unsigned i = 0; i < 4; i++) {
        scribble(in(f->from, i % 2 ? "a" : "b"), 0, 9);
        scribble(in(f->from, "c"), 0, 9);
        scribble(in(f->from, "db"), (off_t)i * 9 * MIB, 9);
        pass(f, since);
        compare_trees(f);
        assert_true(f->sent.bytes > 20 * MIB);
        assert_true(fm_tree_blocks_bytes(blocks) <= most);
        since = now_for_next_pass(f);
    }
    fm_tree_blocks_begin(blocks, "tree", true);
    assert_int_equal(fm_tree_blocks_bytes(blocks), 0);
}

static void after_a_failed_pass_nothing_is_known(void **state)
{
    struct fixture *f = *state;

    scribble(in(f->from, "db"), 0, 4 * MIB);
    struct fm_tree_selection selection = {.blocks = blocks, .name = "tree"};
    assert_int_equal(transfer_selected(f, &selection, 3 * MIB), -FM_E_NO_SPACE);
    fm_tree_blocks_begin(blocks, "tree", false);
    fm_connection_shutdown(f->pair.b);
    struct fm_tree_stats stats;
    assert_true(fm_tree_send_selected(f->pair.a, f->from, &selection, &stats, &f->send_error) < 0);
    assert_int_equal(fm_tree_blocks_bytes(blocks), 0);
}

/* --- files that change during the pass --- */

static void *write_on(void *arg)
{
    const struct fixture *f = arg;
    fm_autoclose int fd = open(in(f->from, "db"), O_RDWR | O_CLOEXEC);
    uint64_t data[512];
    uint64_t seed = 1;

    while (exists(in(f->dir, "disturb"))) {
        for (unsigned i = 0; i < 20; i++) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            for (size_t k = 0; k < FM_COUNT(data); k++)
                data[k] = seed + k;
            (void)!pwrite(fd, data, sizeof(data), (off_t)((seed >> 33) % (12 * MIB)));
        }
        if (seed >> 62 == 0)
            (void)!ftruncate(fd, (off_t)((seed >> 33) % (12 * MIB)));
        if (seed >> 62 == 1)
            (void)!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                             (off_t)((seed >> 33) % (8 * MIB)), MIB);
    }
    return NULL;
}

static void a_torn_file_is_right_after_the_last_pass(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;

    for (unsigned attempt = 0; attempt < 5; attempt++) {
        scribble(in(f->from, "db"), 0, 12 * MIB);
        write_file(in(f->dir, "disturb"), "", 0);
        assert_int_equal(pthread_create(&thread, NULL, write_on, f), 0);
        uint64_t since = 0;
        for (unsigned i = 0; i < 6; i++) {
            uint64_t now = fm_realtime_us();
            pass(f, since);
            since = now;
        }
        assert_int_equal(unlink(in(f->dir, "disturb")), 0);
        pthread_join(thread, NULL);
        assert_int_equal(try_pass(f, since, true), 0);
        compare_trees(f);
    }
}

/* Receives only when the sender has begun to read "db", and that is cut. */
static void *cut_then_receive(void *arg)
{
    struct receive_job *job = arg;
    char event[512];

    fm_autoclose int watch = inotify_init1(IN_CLOEXEC);
    inotify_add_watch(watch, in(job->f->from, "db"), IN_ACCESS);
    write_file(in(job->f->dir, "watching"), "", 0);
    while (read(watch, event, sizeof(event)) < 0)
        ;
    (void)!truncate(in(job->f->from, "db"), MIB);
    return receive(arg);
}

/* What was announced comes, as zeroes: the next pass must not take it for what it had been. */
static void a_file_that_is_cut_meanwhile_is_right_after_the_next_pass(void **state)
{
    struct fixture *f = *state;
    struct receive_job job = {.f = f, .max_bytes = UINT64_MAX / 2};
    const size_t len = 96 * MIB;
    pthread_t thread;

    for (unsigned patch = 0; patch < 2; patch++) {
        unlink(in(f->to, "db"));
        scribble(in(f->from, "db"), 0, len);
        write_file(in(f->from, "saved"), "", 0);
        copy_db(f, "db", "saved");
        rename_in(f, "saved", "../saved");
        pass(f, 0);
        uint64_t since = now_for_next_pass(f);
        scribble(in(f->from, "db"), patch * BLOCK, len - patch * BLOCK);
        struct fm_tree_selection selection = {
            .changed_after_us = since, .blocks = blocks, .name = "tree"};
        assert_int_equal(pthread_create(&thread, NULL, cut_then_receive, &job), 0);
        while (!exists(in(f->dir, "watching")))
            sched_yield();
        assert_int_equal(
            fm_tree_send_selected(f->pair.a, f->from, &selection, &f->sent, &f->send_error), 0);
        pthread_join(thread, NULL);
        assert_int_equal(job.rc, 0);
        assert_int_equal(f->sent.patches, patch);
        assert_int_equal(unlink(in(f->dir, "watching")), 0);
        since = now_for_next_pass(f);
        copy_db(f, "../saved", "db");
        pass(f, since);
        compare_trees(f);
    }
}

/* --- anything, in any order --- */

#define NAMES 12

static void random_name(char name[32])
{
    snprintf(name, 32, "%s%u", random_below(3) ? "f" : "d/f", (unsigned)random_below(NAMES));
}

static void random_edit(struct fixture *f)
{
    char name[32];
    char other[32];
    struct stat st;

    random_name(name);
    random_name(other);
    const char *path = in(f->from, name);
    if (lstat(path, &st) < 0) {
        scribble(path, (off_t)random_below(3) * (off_t)random_below(MIB), 1 + random_below(MIB));
        return;
    }
    off_t at = (off_t)random_below((uint64_t)st.st_size + 1);
    switch (random_below(16)) {
    case 0:
        assert_int_equal(unlink(path), 0);
        break;
    case 1:
        rename(path, in(f->from, other));
        break;
    case 2:
        (void)!link(path, in(f->from, other));
        break;
    case 3:
        assert_int_equal(truncate(path, (off_t)random_below(3 * MIB)), 0);
        break;
    case 4:
        assert_int_equal(truncate(path, at), 0);
        break;
    case 5:
        punch(path, at, 1 + (off_t)random_below(MIB));
        break;
    case 6:
        assert_int_equal(chmod(path, (mode_t)random_below(01000) | 0600), 0);
        break;
    case 7:
        rename(in(f->from, "d"), in(f->from, "e"));
        mkdir(in(f->from, "d"), 0755);
        break;
    case 8:
        assert_int_equal(fm_remove_tree(in(f->from, "d"), NULL), 0);
        if (rename(in(f->from, "e"), in(f->from, "d")) < 0)
            mkdir(in(f->from, "d"), 0755);
        break;
    default:
        scribble(path, at, 1 + random_below(random_below(4) ? 9000 : 2 * BLOCK));
    }
}

static void random_edits_arrive(void **state)
{
    struct fixture *f = *state;
    uint64_t since = 0, patches = 0;

    make_dir(f, "d");
    scribble(in(f->from, "sparse"), 0, 10);
    assert_int_equal(truncate(in(f->from, "sparse"), 12 * MIB), 0);
    for (unsigned round = 0; round < 200; round++) {
        for (uint64_t edits = random_below(8); edits > 0; edits--)
            random_edit(f);
        if (random_below(2))
            scribble(in(f->from, "sparse"), (off_t)random_below(12 * MIB), 100);
        if (random_below(8) == 0)
            punch(in(f->from, "sparse"), (off_t)random_below(12 * MIB), 2 * MIB);
        uint64_t now = fm_realtime_us();
        if (try_pass(f, since, random_below(10) == 0 && round == 199) < 0)
            fail_msg("round %u: sender: %s; receiver: %s", round, f->send_error.text,
                     f->receive_error.text);
        compare_trees(f);
        since = now;
        patches += f->sent.patches;
    }
    assert_true(patches > 200);
}

/* --- hostile peers --- */

static void make_symlink(const struct fixture *f)
{
    assert_int_equal(symlink("../secret", in(f->to, "db")), 0);
}

static void make_directory(const struct fixture *f)
{
    assert_int_equal(mkdir(in(f->to, "db"), 0755), 0);
}

static void make_fifo(const struct fixture *f)
{
    assert_int_equal(mkfifo(in(f->to, "db"), 0600), 0);
}

static void make_hard_link(const struct fixture *f)
{
    assert_int_equal(link(in(f->dir, "secret"), in(f->to, "db")), 0);
}

static void make_shorter(const struct fixture *f)
{
    scribble(in(f->to, "db"), 0, 100);
}

static void make_nothing(const struct fixture *f)
{
    (void)f;
}

/* What the receiver has is not what it was sent: nothing of that is touched. */
static void patches_need_the_file_that_was_sent(void **state)
{
    static void (*const others[])(const struct fixture *f) = {
        make_symlink, make_directory, make_fifo, make_hard_link, make_shorter, make_nothing,
    };
    struct fixture *f = *state;

    scribble(in(f->dir, "secret"), 0, 4 * MIB);
    fm_autofree char *before = NULL;
    fm_autofree char *after = NULL;
    size_t len;
    assert_int_equal(fm_file_read(in(f->dir, "secret"), 8 * MIB, &before, &len, NULL), 0);
    for (size_t i = 0; i < FM_COUNT(others); i++) {
        uint64_t since = start_with_db(f);
        assert_int_equal(unlink(in(f->to, "db")), 0);
        others[i](f);
        scribble(in(f->from, "db"), 0, 1);
        if (try_pass(f, since, false) != -FM_E_PROTOCOL)
            fail_msg("case %zu: %s", i, f->receive_error.text);
        json_decref(fm_connection_expect(f->pair.a, FM_FRAME_TREE_DONE, &f->send_error));
        assert_int_equal(fm_remove_tree(in(f->to, "db"), NULL), 0);
    }
    assert_int_equal(fm_file_read(in(f->dir, "secret"), 8 * MIB, &after, &len, NULL), 0);
    assert_int_equal(len, 4 * MIB);
    assert_memory_equal(before, after, len);
}

/* A record of a pax header: its own length in decimal stands first. */
static void pax_record(char *header, const char *key, const char *value)
{
    size_t n = strlen(key) + strlen(value) + 3;
    size_t digits = n + 1 < 10 ? 1 : n + 2 < 100 ? 2 : 3;

    sprintf(header + strlen(header), "%zu %s=%s\n", n + digits, key, value);
}

static void ustar_header(char block[512], const char *name, char type, const char *target,
                         size_t size)
{
    unsigned sum = 0;

    memset(block, 0, 512);
    snprintf(block, 100, "%s", name);
    memcpy(block + 100, "0000600", 8);
    snprintf(block + 108, 8, "%07o", geteuid());
    snprintf(block + 116, 8, "%07o", getegid());
    snprintf(block + 124, 12, "%011zo", size);
    snprintf(block + 136, 12, "%011o", 0);
    memset(block + 148, ' ', 8);
    block[156] = type;
    snprintf(block + 157, 100, "%s", target);
    memcpy(block + 257,
           "ustar\0"
           "00",
           8);
    for (unsigned i = 0; i < 512; i++)
        sum += (unsigned char)block[i];
    snprintf(block + 148, 8, "%06o", sum);
}

struct forgery {
    const char *name;
    char type;
    const char *target;
    const char *marker; /* in Base64 */
    const char *map;    /* offset and length, in pairs */
};

static void forge(struct fm_stream *stream, const struct forgery *a)
{
    char archive[7 * 512] = "";
    char records[512] = "";

    pax_record(records, "LIBARCHIVE.xattr." FM_TREE_PATCH_KEY, a->marker);
    if (a->map) {
        pax_record(records, "GNU.sparse.size", "4096");
        pax_record(records, "GNU.sparse.numblocks", "1");
        pax_record(records, "GNU.sparse.map", a->map);
    }
    ustar_header(archive, "PaxHeader", 'x', "", strlen(records));
    memcpy(archive + 512, records, strlen(records));
    ustar_header(archive + 1024, a->name, a->type, a->target, a->type == '0' ? 5 : 0);
    size_t len = 1536;
    if (a->type == '0') {
        memcpy(archive + len, "evil\n", 5);
        len += 512;
    }
    fm_stream_send(stream, archive, len + 1024, NULL);
}

static void forged_patches_are_refused(void **state)
{
    static const struct forgery forgeries[] = {
        {"file", '0', "", "", NULL},
        {"file", '0', "", "LTE", NULL},     /* -1 */
        {"file", '0', "", "NDA5N3g", NULL}, /* 4097x */
        {"file", '0', "", "NDA5Nw", NULL},  /* 4097: it has 4096 */
        {"file", '0', "", "NDA5NgA", NULL}, /* 4096 and a NUL */
        {"file", '0', "", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5", NULL},
        {"missing", '0', "", "NDA5Ng", NULL},
        {"../secret", '0', "", "NDA5Ng", NULL},
        {"/tmp/fm-evil", '0', "", "NDA5Ng", NULL},
        {"out/secret", '0', "", "NDA5Ng", NULL}, /* through a symbolic link */
        {"direct", '0', "", "NDA5Ng", NULL},     /* a symbolic link */
        {"linked", '0', "", "NDA5Ng", NULL},     /* a hard link */
        {"pipe", '0', "", "MA", NULL},           /* 0 */
        {"dir", '5', "", "NDA5Ng", NULL},
        {"dir", '0', "", "NDA5Ng", NULL},
        {"file", '5', "", "NDA5Ng", NULL},
        {".", '5', "", "NDA5Ng", NULL},
        {"file", '2', "../secret", "NDA5Ng", NULL},
        {"file", '1', "linked", "NDA5Ng", NULL},
        {"file", '6', "", "NDA5Ng", NULL},
        {"file", '0', "", "NDA5Ng", "4096,5"}, /* beyond its size */
        {"file", '0', "", "NDA5Ng", "4094,5"},
        {"file", '0', "", "NDA5Ng", "9223372036854775800,5"},
    };
    struct fixture *f = *state;
    struct stat st;
    char block[4096];

    memset(block, 's', sizeof(block));
    write_file(in(f->dir, "secret"), block, sizeof(block));
    write_file(in(f->to, "file"), block, sizeof(block));
    assert_int_equal(symlink("..", in(f->to, "out")), 0);
    assert_int_equal(symlink("../secret", in(f->to, "direct")), 0);
    assert_int_equal(link(in(f->dir, "secret"), in(f->to, "linked")), 0);
    assert_int_equal(mkdir(in(f->to, "dir"), 0755), 0);
    assert_int_equal(mkfifo(in(f->to, "pipe"), 0600), 0);
    for (size_t i = 0; i < FM_COUNT(forgeries); i++) {
        struct receive_job job = {.f = f, .max_bytes = MIB};
        struct fm_stream stream;
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, receive, &job), 0);
        for (unsigned k = 0; k < 3; k++) {
            fm_stream_init(&stream, f->pair.a);
            if (k == 1)
                forge(&stream, &forgeries[i]);
            fm_stream_send_end(&stream, NULL);
            fm_stream_clear(&stream);
        }
        pthread_join(thread, NULL);
        if (job.rc != -FM_E_PROTOCOL)
            fail_msg("forgery %zu: %d %s", i, job.rc, f->receive_error.text);
        json_decref(fm_connection_expect(f->pair.a, FM_FRAME_TREE_DONE, &f->send_error));
        assert_int_equal(f->send_error.code, FM_E_PROTOCOL);
        assert_true(same_content(in(f->dir, "secret"), in(f->to, "file")));
    }
    assert_int_equal(stat(in(f->dir, "secret"), &st), 0);
    assert_true(S_ISREG(st.st_mode) && st.st_nlink == 2 && st.st_size == sizeof(block));
    assert_false(exists("/tmp/fm-evil"));
    /* The forger can do it right: these have failed for what is wrong with them. */
    static const struct forgery genuine = {"file", '0', "", "NDA5Ng", "4090,5"};
    struct receive_job job = {.f = f, .max_bytes = MIB};
    struct fm_stream stream;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, receive, &job), 0);
    for (unsigned k = 0; k < 3; k++) {
        fm_stream_init(&stream, f->pair.a);
        if (k == 1)
            forge(&stream, &genuine);
        fm_stream_send_end(&stream, NULL);
        fm_stream_clear(&stream);
    }
    pthread_join(thread, NULL);
    if (job.rc < 0)
        fail_msg("%s", f->receive_error.text);
    memcpy(block + 4090, "evil\n", 5);
    write_file(in(f->dir, "expected"), block, sizeof(block));
    assert_true(same_content(in(f->dir, "expected"), in(f->to, "file")));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up_blocks, tear_down_blocks)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(edits_travel_as_patches),
        TEST(the_last_pass_uses_threads_and_is_the_same),
        TEST(small_files_travel_whole),
        TEST(a_patch_is_never_the_larger_way),
        TEST(gaps_are_known),
        TEST(attributes_of_a_patch_are_set_and_removed),
        TEST(a_replaced_file_travels_whole),
        TEST(a_file_that_was_away_travels_whole),
        TEST(a_name_that_was_something_else_travels_whole),
        TEST(files_with_two_names_travel_whole),
        TEST(trees_do_not_share_their_files),
        TEST(what_does_not_fit_travels_whole),
        TEST(after_a_failed_pass_nothing_is_known),
        TEST(a_torn_file_is_right_after_the_last_pass),
        TEST(a_file_that_is_cut_meanwhile_is_right_after_the_next_pass),
        TEST(random_edits_arrive),
        TEST(patches_need_the_file_that_was_sent),
        TEST(forged_patches_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
