/* Tracker: processes that do at random everything that one can do with memory, while rounds go on;
 * in the end a mirror made of the rounds' answers holds every page as it is. */
#include "tracked_child.h"

#include <pthread.h>
#include <sys/time.h>

#define REGIONS 24
#define REGION_PAGES 700 /* more than a huge page's */
#define CHILDREN 4

struct region {
    char *at;
    size_t pages;
    bool writable;
};

/* A process that fuzzes itself. */
struct fuzz {
    struct board *board;
    struct region regions[REGIONS];
    uint64_t random, counter;
    int depth, ends[2];
};

static uint64_t next(struct fuzz *f, uint64_t below)
{
    f->random ^= f->random << 13;
    f->random ^= f->random >> 7;
    f->random ^= f->random << 17;
    return f->random % below;
}

static struct region *any(struct fuzz *f)
{
    return &f->regions[next(f, REGIONS)];
}

static void unmap(struct region *r)
{
    if (r->at)
        munmap(r->at, r->pages * PAGE);
    *r = (struct region){0};
}

static void map(struct fuzz *f, struct region *r)
{
    unmap(r);
    r->pages = 1 + next(f, next(f, 16) ? 40 : REGION_PAGES);
    r->at = mmap(NULL, r->pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r->at == MAP_FAILED)
        _exit(9);
    r->writable = true;
    if (next(f, 4) == 0)
        madvise(r->at, r->pages * PAGE, MADV_HUGEPAGE);
}

static void write_pages(struct fuzz *f, struct region *r)
{
    size_t first, count;

    if (!r->at || !r->writable)
        return;
    first = next(f, r->pages);
    count = 1 + next(f, r->pages - first < 64 ? r->pages - first : 64);
    for (size_t i = first; i < first + count; i++)
        *(uint64_t *)(r->at + i * PAGE + next(f, 500) * 8) = ++f->counter;
}

/* The kernel writes for it. */
static void read_into(struct fuzz *f, struct region *r)
{
    uint64_t value = ++f->counter;

    if (r->at && r->writable && write(f->ends[1], &value, sizeof(value)) == sizeof(value) &&
        read(f->ends[0], r->at + next(f, r->pages) * PAGE, sizeof(value)) != sizeof(value))
        _exit(8);
}

static void move(struct fuzz *f, struct region *r)
{
    size_t pages = 1 + next(f, next(f, 16) ? 60 : REGION_PAGES);
    char *to;

    if (!r->at)
        return;
    to = mremap(r->at, r->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);
    if (to == MAP_FAILED) { /* several mappings by now */
        unmap(r);
        return;
    }
    r->at = to;
    r->pages = pages;
}

static void move_onto(struct fuzz *f, struct region *r, struct region *target)
{
    if (!r->at || !target->at || r == target || target->pages < r->pages || !r->writable)
        return;
    if (mremap(r->at, r->pages * PAGE, r->pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
               target->at) == MAP_FAILED) { /* the target may have gone, or be half moved onto */
        unmap(r);
        unmap(target);
        return;
    }
    munmap(target->at + r->pages * PAGE, (target->pages - r->pages) * PAGE);
    r->at = target->at;
    *target = (struct region){0};
    write_pages(f, r);
}

static void advise(struct fuzz *f, struct region *r)
{
    static const int advice[] = {
        MADV_DONTNEED,   MADV_FREE, 20 /* COLD */, 21 /* PAGEOUT */, MADV_HUGEPAGE,
        MADV_NOHUGEPAGE, 25 /* COLLAPSE */};
    size_t first;

    if (!r->at)
        return;
    first = next(f, r->pages);
    madvise(r->at + first * PAGE, (1 + next(f, r->pages - first)) * PAGE,
            advice[next(f, FM_COUNT(advice))]);
}

static void protect(struct fuzz *f, struct region *r)
{
    static const int prots[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
    size_t n = next(f, 3);

    if (r->at && mprotect(r->at, r->pages * PAGE, prots[n]) == 0)
        r->writable = n == 2;
}

static void punch(struct fuzz *f, struct region *r)
{
    size_t half = r->pages / 2;

    if (!r->at || half == 0)
        return;
    munmap(r->at + half * PAGE, (r->pages - half) * PAGE);
    r->pages = half;
    write_pages(f, r);
}

static void lock(struct fuzz *f, struct region *r)
{
    if (r->at && r->pages < 32 && next(f, 2))
        lock_pages(r->at, r->pages * PAGE, true);
    else if (r->at)
        lock_pages(r->at, r->pages * PAGE, false);
}

static int use_stack(struct fuzz *f, int depth)
{
    volatile char frame[4000];

    for (size_t i = 0; i < sizeof(frame); i += 500)
        frame[i] = (char)++f->counter;
    return depth ? use_stack(f, depth - 1) + frame[0] : frame[500];
}

static void use_heap(struct fuzz *f)
{
    char *p = sbrk(0);
    intptr_t len = (intptr_t)(next(f, 64) * PAGE);

    if (next(f, 3) == 0)
        len = -len;
    if ((f->depth & 1) || len >= 0) {
        if (sbrk(len > 0 ? len : 0) != (void *)-1 && len > 0)
            memset(p, (int)++f->counter, (size_t)len);
    }
}

static void run(struct fuzz *f);

static void bear(struct fuzz *f)
{
    if (__atomic_fetch_add(&f->board->flag, 1, __ATOMIC_SEQ_CST) >= CHILDREN) {
        __atomic_fetch_sub(&f->board->flag, 1, __ATOMIC_SEQ_CST);
        return;
    }
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        f->random = f->random * 31 + (uint64_t)getpid();
        f->depth++;
        run(f);
    }
}

static void step(struct fuzz *f)
{
    switch (next(f, 24)) {
    case 0:
        map(f, any(f));
        break;
    case 1:
        unmap(any(f));
        break;
    case 2:
        move(f, any(f));
        break;
    case 3:
        move_onto(f, any(f), any(f));
        break;
    case 4:
        advise(f, any(f));
        break;
    case 5:
        protect(f, any(f));
        break;
    case 6:
        punch(f, any(f));
        break;
    case 7:
        lock(f, any(f));
        break;
    case 8:
        use_stack(f, (int)next(f, 100));
        break;
    case 9:
        use_heap(f);
        break;
    case 10:
        if (next(f, 50) == 0)
            bear(f);
        break;
    case 11:
        if (f->depth > 0 && next(f, 200) == 0) {
            __atomic_fetch_sub(&f->board->flag, 1, __ATOMIC_SEQ_CST);
            _exit(0);
        }
        break;
    case 12:
    case 13:
        read_into(f, any(f));
        break;
    default:
        write_pages(f, any(f));
    }
}

static void run(struct fuzz *f)
{
    if (pipe(f->ends) < 0)
        _exit(7);
    for (;;) {
        step(f);
        if (__atomic_fetch_add(&f->board->value[0], 1, __ATOMIC_SEQ_CST) % 100 == 0)
            pause_us(500);
    }
}

static void fuzz_alone(struct board *b)
{
    struct fuzz f = {.board = b, .random = b->value[1]};

    signal(SIGCHLD, SIG_IGN);
    b->reached = 1;
    run(&f);
}

/* Some rounds, the end, and on from there with a new tracker. */
static void fuzz(enum fm_tracker_kind kind, uint64_t seed, int times)
{
    struct child c;
    size_t rounds = 0;
    uint64_t copied = 0;
    int status = 0;

    struct board *board = new_board();
    board->value[1] = seed;
    child_start_on(&c, board, fuzz_alone, 0);
    await(&c, 1);
    for (int i = 0; i < times; i++) {
        struct fm_tracker *t = open_tracker(kind);
        struct mirror m = {0};

        for (int round = 0; round < 6; round++, rounds++) {
            uint64_t until = c.board->value[0] + 50;

            while (c.board->value[0] < until) {
                if (waitpid(c.pid, &status, WNOHANG) != 0)
                    fail_msg("the child has died: status 0x%x", (unsigned)status);
                pause_us(200);
            }
            round_of(t, c.pid, &m);
        }
        final_of(t, c.pid, &m);
        copied += m.copied;
        mirror_clear(&m);
        fm_tracker_close(t);
    }
    print_message("%zu rounds, %llu steps, %llu pages copied\n", rounds,
                  (unsigned long long)c.board->value[0], (unsigned long long)copied);
    child_end(&c);
}

static void a_mirror_of_fuzzed_processes_is_true(void **state)
{
    const char *seconds = getenv("FM_TEST_FUZZ_SECONDS");
    uint64_t until = fm_now_ms() + (seconds ? strtoull(seconds, NULL, 10) * 1000 : 0);
    uint64_t seed = fm_now_us() | 1;

    (void)state;
    do {
        print_message("seed %llu\n", (unsigned long long)seed);
        fuzz(FM_TRACKER_PAGEMAP_SCAN, seed, 2);
        if (fm_tracker_probe(FM_TRACKER_SOFT_DIRTY, NULL) == 0)
            fuzz(FM_TRACKER_SOFT_DIRTY, seed, 2);
        seed += 2;
    } while (fm_now_ms() < until);
}

static void a_mirror_without_a_tracker_is_true(void **state)
{
    (void)state;
    fuzz(FM_TRACKER_NONE, 88172645463325252u, 1);
}

/* ---- what it costs ---- */

static void touch_much(struct board *b)
{
    size_t len = b->value[1];
    char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (!b->flag)
        madvise(p, len, MADV_NOHUGEPAGE);
    memset(p, 1, len);
    b->reached = 1;
    for (uint64_t i = 0;; i++) {
        p[i * 7919 % (len / PAGE) * PAGE]++;
        if (i % 20 == 0)
            pause_us(1000);
    }
}

static void figures_of(size_t len, bool huge)
{
    struct fm_tracker *t = open_tracker(FM_TRACKER_PAGEMAP_SCAN);
    struct child c;

    struct board *board = new_board();
    board->value[1] = len;
    board->flag = huge;
    child_start_on(&c, board, touch_much, 0);
    await(&c, 1);
    print_message("%zu MiB%s, us:", len / MIB, huge ? " of huge pages" : "");
    for (int i = 0; i < 5; i++) {
        fm_cleanup(fm_memory_scan_clear) struct fm_memory_scan scan = {0};

        round_on(t, c.pid, &scan);
        print_message(" %llu (%llu KiB dirty)", (unsigned long long)scan.walk_us,
                      (unsigned long long)scan.dirty_bytes / 1024);
    }
    struct fm_error err = {0};
    uint64_t since = fm_now_us();
    assert_int_equal(fm_tracker_note_maps(t, &c.pid, 1, &err), 0);
    print_message("; note %llu", (unsigned long long)(fm_now_us() - since));
    struct tree tree = freeze(c.pid);
    for (int i = 0; i < 2; i++) {
        fm_cleanup(fm_memory_scan_clear) struct fm_memory_scan scan = {0};

        scan_tree(t, &tree, true, &scan);
        print_message("; final %llu", (unsigned long long)scan.walk_us);
    }
    since = fm_now_us();
    fm_tracker_close(t);
    print_message("; close %llu\n", (unsigned long long)(fm_now_us() - since));
    child_end(&c);
}

static void sleep_long(struct board *b)
{
    b->reached = 1;
    for (;;)
        pause();
}

static void figures(void **state)
{
    struct child c[50];
    struct tree all = {.count = FM_COUNT(c)};
    struct fm_memory_scan scan = {0};
    struct fm_tracker *t = open_tracker(FM_TRACKER_PAGEMAP_SCAN);

    (void)state;
    figures_of(256 * MIB, false);
    figures_of(256 * MIB, true);
    for (size_t i = 0; i < FM_COUNT(c); i++) {
        child_start(&c[i], sleep_long);
        await(&c[i], 1);
        all.pids[i] = c[i].pid;
    }
    print_message("50 processes, us:");
    for (int i = 0; i < 4; i++) {
        if (i == 3)
            fm_tracker_note_maps(t, all.pids, all.count, NULL);
        scan_tree(t, &all, i == 3, &scan);
        assert_int_equal(scan.count, FM_COUNT(c));
        for (size_t p = 0; p < scan.count; p++)
            assert_true(scan.items[p].tracked);
        print_message(" %s %llu", i == 3 ? "final" : "round", (unsigned long long)scan.walk_us);
        fm_memory_scan_clear(&scan);
    }
    print_message("\n");
    fm_tracker_close(t);
    for (size_t i = 0; i < FM_COUNT(c); i++)
        child_end(&c[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mirror_of_fuzzed_processes_is_true),
        cmocka_unit_test(a_mirror_without_a_tracker_is_true),
        cmocka_unit_test(figures),
    };

    if (fm_tracker_probe(FM_TRACKER_PAGEMAP_SCAN, NULL) < 0) {
        print_message("SKIPPED: no PAGEMAP_SCAN here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
