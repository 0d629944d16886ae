/* Tracker: what CRIU is shown of a process's mappings, and that it is true. */
#include "tracked_child.h"

#include "base/fault.h"
#include "scratch.h"
#include "state/memory_map.h"
#include "state/tracker_backend.h"

#define STACK_PAGES 64

static struct {
    char *pages;
    size_t len;
    volatile int *step, *done;
    bool ends;
    pid_t pid;
    char *stack;
} peer;

static void pass_by_dump(char *p, size_t len)
{
    syscall(SYS_madvise, p, len, MADV_DONTDUMP);
}

static int advise(void *arg)
{
    (void)arg;
    while (*peer.step < 1)
        pause_us(100);
    pass_by_dump(peer.pages, peer.len);
    *peer.done = 1;
    while (!peer.ends)
        pause();
    return 0;
}

/* A thread, or another process with the same memory. Its stack shall not show. */
static void start_peer(int flags)
{
    peer.pid = clone(advise, peer.stack + STACK_PAGES * PAGE, CLONE_VM | flags, NULL);
}

static void await_peer(void)
{
    while (!*peer.done)
        pause_us(100);
}

/* A child between tiny and small. */
static bool is_small;

/* Steps through changes; value[0] is a mapping of 16 pages. */
static void change(struct board *b)
{
    size_t len = 16 * PAGE;
    char *wide = mmap(NULL, 3 * len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *p = wide + len;

    mprotect(p, len, PROT_READ | PROT_WRITE);
    memset(p, 1, len);
    b->value[0] = (uintptr_t)p;
    peer.pages = p;
    peer.len = len;
    peer.step = &b->step;
    peer.done = (volatile int *)&b->value[1];
    peer.ends = b->flag == 'Q';
    peer.stack = map_filled(STACK_PAGES, 0);
    if (is_small)
        map_filled(2 * FM_TRACKER_TINY_BYTES / PAGE, 1);
    if (strchr("PpQ", b->flag))
        start_peer(SIGCHLD);
    reach(b, 1);
    switch (b->flag) {
    case 'm': /* leaves no trace in maps */
        madvise(p, len, MADV_DONTDUMP);
        break;
    case 'l':
        lock_pages(p, 4 * PAGE, true);
        break;
    case 'L': /* shows in the locked amount only */
        lock_pages(p, len, true);
        break;
    case 'g': /* grows at both ends */
        mprotect(p - PAGE, PAGE, PROT_READ | PROT_WRITE);
        mprotect(p + len, 2 * PAGE, PROT_READ | PROT_WRITE);
        p[-1] = 1;
        break;
    case 's': /* splits, with flags of its own */
        madvise(p + 4 * PAGE, 4 * PAGE, MADV_DONTDUMP);
        break;
    case 'n': /* a new one */
        p = mmap(NULL, len, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        madvise(p, len, MADV_DONTFORK);
        break;
    case 'G': /* guard regions */
        madvise(p + 4 * PAGE, PAGE, 102);
        break;
    case 'u':
        munmap(p, len / 2);
        break;
    case 'c': /* of content only */
        madvise(p, len, MADV_DONTNEED);
        break;
    case 'T':
        start_peer(CLONE_THREAD | CLONE_SIGHAND);
        await_peer();
        break;
    case 'P':
    case 'p':
        await_peer();
        break;
    case 'Q':
        waitpid(peer.pid, NULL, 0);
        break;
    case 'F': /* has flags of its own */
        if (fork() == 0) {
            be_a_child();
            pass_by_dump(p, len);
            *peer.done = 1;
            for (;;)
                pause();
        }
        await_peer();
        break;
    default:
        break;
    }
    reach(b, 2);
    for (;;)
        pause();
}

struct shown {
    struct fm_memory_map map; /* that CRIU reads */
    uint64_t *hidden;
    size_t hidden_len;
    bool known;  /* that the flags are those of the freeze, without a walk */
    bool copied; /* from before the freeze */
    int verified;
    struct fm_error err;
};

static void shown_clear(struct shown *s)
{
    fm_memory_map_clear(&s->map);
    free(s->hidden);
}

static void read_shown(pid_t pid, struct shown *s)
{
    fm_autofree char *maps = fm_strf("%s/%d.smaps", scratch, (int)pid);
    fm_autofree char *hide = fm_strf("%s/%d.hide", scratch, (int)pid);
    char *text, *data;
    size_t len;

    assert_int_equal(fm_file_read(maps, 1 << 24, &text, &len, NULL), 0);
    assert_int_equal(fm_memory_map_parse(text, len, &s->map, NULL), 0);
    assert_int_equal(fm_file_read(hide, 1 << 24, &data, &s->hidden_len, NULL), 0);
    s->hidden = (uint64_t *)(void *)data;
}

static void expect_hidden(const struct shown *s, const struct fm_ranges *mapped)
{
    assert_int_equal(s->hidden_len, mapped->count * 2 * sizeof(uint64_t));
    for (size_t i = 0; i < mapped->count; i++) {
        assert_int_equal(le64toh(s->hidden[2 * i]), mapped->items[i].start);
        assert_int_equal(le64toh(s->hidden[2 * i + 1]), mapped->items[i].end);
    }
}

/* A change between the copy and the freeze. */
static struct child c;
static bool watched; /* calls are counted */

static void need_watch(void)
{
    struct fm_error err = {0};
    struct fm_flag_watch *w = fm_flag_watch_open(&err);

    fm_flag_watch_close(w);
    if (!w) {
        print_message("SKIPPED: %s\n", err.text);
        skip();
    }
}

static void note_tree(struct fm_tracker *t, struct shown *s)
{
    struct tree tree = tree_of(c.pid);

    if (c.board->flag == 'p') /* as if it had just been made */
        tree.count = 1;
    fm_fault_arm(watched ? NULL : "flag-watch.open=fail");
    assert_int_equal(fm_tracker_note_maps(t, tree.pids, tree.count, &s->err), 0);
    fm_fault_arm(NULL);
}

static void show(enum fm_tracker_kind kind, int change_kind, bool note, struct shown *s)
{
    fm_cleanup(fm_memory_scan_clear) struct fm_memory_scan scan = {0};
    struct board *board = new_board();
    const struct fm_tracked *p;
    struct fm_tracker *t;
    struct mirror m = {0};

    *s = (struct shown){0};
    if (watched)
        need_watch();
    t = open_tracker(kind);
    if (is_small)
        fm_tracker_set_small(t, FM_TRACKER_SMALL_BYTES);
    board->flag = change_kind;
    child_start_on(&c, board, change, 0);
    await(&c, 1);
    if (kind != FM_TRACKER_NONE && change_kind != 'p')
        round_of(t, c.pid, &m);
    if (note)
        note_tree(t, s);
    proceed(&c, 1);
    struct tree tree = freeze(c.pid);
    scan_tree(t, &tree, true, &scan);
    check_order(&scan);
    assert_int_equal(fm_tracker_write_filter(t, &scan, scratch, &s->err), 0);
    p = fm_tracker_find(t, c.pid);
    s->known = p->shown_flags_hold;
    s->copied = p->noted.count > 0 && p->shown.items[0].flags >= p->noted.text &&
                p->shown.items[0].flags < p->noted.text + p->noted.len;
    s->verified = fm_tracker_verify_maps(t, &scan, &s->err);
    read_shown(c.pid, s);
    expect_hidden(s, &answer_of(&scan, c.pid)->mapped);
    mirror_clear(&m);
    fm_tracker_close(t);
}

static void expect_true(const struct shown *s)
{
    fm_cleanup(fm_memory_map_clear) struct fm_memory_map now = {0};

    if (s->verified < 0)
        fail_msg("%s", s->err.text);
    assert_int_equal(fm_memory_map_read_flags(c.pid, &now, NULL), 0);
    assert_int_equal(now.count, s->map.count);
    for (size_t i = 0; i < now.count; i++) {
        assert_true(fm_mapping_same_line(&now.items[i], &s->map.items[i]));
        assert_true(fm_mapping_same_flags(&now.items[i], &s->map.items[i]));
    }
}

static void shown_maps_are_true_after(int change_kind, bool note)
{
    static const enum fm_tracker_kind kinds[] = {FM_TRACKER_PAGEMAP_SCAN, FM_TRACKER_NONE};
    struct shown s;

    for (size_t i = 0; i < FM_COUNT(kinds); i++) {
        show(kinds[i], change_kind, note, &s);
        expect_true(&s);
        shown_clear(&s);
        child_end(&c);
    }
}

static void what_is_shown_is_true(void **state)
{
    (void)state;
    shown_maps_are_true_after('-', true);
    shown_maps_are_true_after('-', false);
    shown_maps_are_true_after('l', true);
    shown_maps_are_true_after('L', true);
    shown_maps_are_true_after('g', true);
    shown_maps_are_true_after('s', true);
    shown_maps_are_true_after('n', true);
    shown_maps_are_true_after('u', true);
    shown_maps_are_true_after('c', true);
    shown_maps_are_true_after('F', true);
}

/* Without a second walk, but where it is needed. */
static void expect_known(int change_kind, bool note, bool known)
{
    struct shown s;

    show(FM_TRACKER_PAGEMAP_SCAN, change_kind, note, &s);
    assert_int_equal(s.known, known);
    expect_true(&s);
    shown_clear(&s);
    child_end(&c);
}

static void pages_are_walked_once(void **state)
{
    (void)state;
    expect_known('-', true, watched);
    expect_known('-', false, true); /* read in the freeze */
    expect_known('l', true, true);
    expect_known('u', true, true);
    if (access("/sys/kernel/tracing/events/syscalls/sys_enter_madvise", F_OK) == 0)
        expect_known('c', true, watched);
}

/* Of a small process the copy is shown only when nothing has changed. */
static void expect_small(int change_kind, bool copied)
{
    struct shown s;

    is_small = true;
    show(FM_TRACKER_PAGEMAP_SCAN, change_kind, true, &s);
    assert_int_equal(s.copied, copied);
    assert_true(s.known);
    expect_true(&s);
    shown_clear(&s);
    child_end(&c);
    is_small = false;
}

static void small_processes_are_read_again_when_in_doubt(void **state)
{
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* its shadow makes every process a large one */
#endif
    expect_small('-', watched);
    expect_small('u', false);
    expect_small('m', false);
    expect_small('s', false);
    expect_small('l', false);
    expect_small('T', false);
    expect_small('Q', false);
}

static void locked_memory_is_not_hidden(void **state)
{
    struct shown s;

    (void)state;
    show(FM_TRACKER_PAGEMAP_SCAN, 'l', true, &s);
    for (size_t i = 0; i < s.hidden_len / 16; i++)
        assert_true(s.hidden[2 * i + 1] <= c.board->value[0] ||
                    s.hidden[2 * i] >= c.board->value[0] + 4 * PAGE);
    shown_clear(&s);
    child_end(&c);
}

static void expect_found(enum fm_tracker_kind kind, int change_kind)
{
    struct shown s;

    show(kind, change_kind, true, &s);
    assert_int_equal(s.verified, -FM_E_FAILED);
    assert_non_null(strstr(s.err.text, "changed its flags (madvise, mlock) from "));
    shown_clear(&s);
    child_end(&c);
}

/* The copy was shown, and the flags have changed since without a trace. */
static void flags_that_changed_unseen_are_found(void **state)
{
    struct shown s;

    (void)state;
    expect_found(FM_TRACKER_PAGEMAP_SCAN, 'm');
    expect_found(FM_TRACKER_PAGEMAP_SCAN, 'T');
    expect_found(FM_TRACKER_PAGEMAP_SCAN, 'P');
    expect_found(FM_TRACKER_PAGEMAP_SCAN, 'p');
    expect_found(FM_TRACKER_NONE, 'p');
    expect_found(FM_TRACKER_PAGEMAP_SCAN, 'Q');
    show(FM_TRACKER_PAGEMAP_SCAN, 'm', false, &s);
    expect_true(&s);
    shown_clear(&s);
    child_end(&c);
}

/* Seen in the freeze, they are scanned for; made after the copy, they are found. */
static void guard_regions_are_scanned_for(void **state)
{
    struct shown s;

    (void)state;
    if (!fm_tracker_kernel_tells_guards()) {
        print_message("the flag of guard regions needs Linux 6.18\n");
        skip();
    }
    show(FM_TRACKER_PAGEMAP_SCAN, 'G', false, &s);
    fm_autofree char *path = fm_strf("%s/%d.unguarded", scratch, (int)c.pid);
    char *data;
    size_t len;
    assert_int_equal(s.verified, 0);
    assert_int_equal(fm_file_read(path, 1 << 20, &data, &len, NULL), 0);
    fm_autofree uint64_t *pairs = (uint64_t *)(void *)data;
    uint64_t guard = c.board->value[0] + 4 * PAGE;
    assert_true(len >= 32 && le64toh(pairs[len / 8 - 1]) == UINT64_MAX);
    for (size_t i = 0; i < len / 16; i++)
        assert_false(le64toh(pairs[2 * i]) <= guard && guard < le64toh(pairs[2 * i + 1]));
    shown_clear(&s);
    child_end(&c);
    show(FM_TRACKER_PAGEMAP_SCAN, 'G', true, &s);
    assert_int_equal(s.verified, -FM_E_FAILED);
    shown_clear(&s);
    child_end(&c);
}

static void an_unknown_process_cannot_be_shown(void **state)
{
    struct fm_tracker *t = open_tracker(FM_TRACKER_NONE);
    struct fm_process_memory p = {.pid = getpid()};
    struct fm_memory_scan scan = {.items = &p, .count = 1};
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_tracker_write_filter(t, &scan, scratch, &err), -FM_E_NOT_FOUND);
    assert_int_equal(fm_tracker_verify_maps(t, &scan, &err), -FM_E_NOT_FOUND);
    fm_tracker_close(t);
}

static int use_watch(void **state)
{
    (void)state;
    watched = true;
    return 0;
}

static int use_walk(void **state)
{
    (void)state;
    watched = false;
    return 0;
}

/* Where calls can be counted, and where not. */
#define WATCHED(test) cmocka_unit_test_setup(test, use_watch)
#define WALKED(test)                                                                               \
    {                                                                                              \
#test " (not watched)", test, use_walk, NULL, NULL                                         \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        WATCHED(what_is_shown_is_true),
        WALKED(what_is_shown_is_true),
        WATCHED(pages_are_walked_once),
        WALKED(pages_are_walked_once),
        WATCHED(small_processes_are_read_again_when_in_doubt),
        WALKED(small_processes_are_read_again_when_in_doubt),
        WATCHED(locked_memory_is_not_hidden),
        WALKED(locked_memory_is_not_hidden),
        WATCHED(flags_that_changed_unseen_are_found),
        WALKED(flags_that_changed_unseen_are_found),
        WATCHED(guard_regions_are_scanned_for),
        WALKED(guard_regions_are_scanned_for),
        cmocka_unit_test(an_unknown_process_cannot_be_shown),
    };

    if (fm_tracker_probe(FM_TRACKER_PAGEMAP_SCAN, NULL) < 0) {
        print_message("SKIPPED: no PAGEMAP_SCAN here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
