/* Processes for the tests of the tracker, and a mirror of their memory which is kept as a migration
 * keeps it: what a round calls dirty is copied, and in the end nothing may differ. */
#ifndef FM_TEST_TRACKED_CHILD_H
#define FM_TEST_TRACKED_CHILD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "state/tracker.h"

#define PAGE fm_page_size()
#define MIB ((size_t)1 << 20)
#define PROCESSES 256
#define DEADLINE_MS 20000

/* ---- a child ---- */

/* Shared between the test and its children. */
struct board {
    volatile int step;    /* that the test has called */
    volatile int reached; /* by the child */
    volatile int flag;
    volatile uint64_t value[16];
};

struct child {
    pid_t pid;
    struct board *board;
};

typedef void (*child_main)(struct board *board);

static inline void pause_us(long us)
{
    struct timespec t = {.tv_nsec = us * 1000};

    nanosleep(&t, NULL);
}

static inline struct board *new_board(void)
{
    struct board *b =
        mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(b != MAP_FAILED);
    return b;
}

/* What every child does first: cmocka's handlers are not for it. */
static inline void be_a_child(void)
{
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS, SIGTRAP};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (size_t i = 0; i < FM_COUNT(crashes); i++)
        signal(crashes[i], SIG_DFL);
}

/* Starts one on a board that is filled already. */
static inline void child_start_on(struct child *c, struct board *board, child_main run,
                                  unsigned long namespaces)
{
    c->board = board;
    c->pid = (pid_t)syscall(SYS_clone, namespaces | SIGCHLD, 0, 0, 0, 0);
    assert_true(c->pid >= 0);
    if (c->pid == 0) {
        be_a_child();
        run(c->board);
        _exit(0);
    }
}

static inline void child_start(struct child *c, child_main run)
{
    child_start_on(c, new_board(), run, 0);
}

/* In the child: memory with content. */
static inline char *map_filled(size_t pages, int fill)
{
    char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memset(p, fill, pages * PAGE);
    return p;
}

/* In the child: says that it got so far, and waits until the test wants more. */
static inline void reach(struct board *b, int step)
{
    b->reached = step;
    while (b->step < step)
        pause_us(100);
}

static inline void await(const struct child *c, int step)
{
    uint64_t deadline = fm_now_ms() + DEADLINE_MS;

    while (c->board->reached < step) {
        if (fm_now_ms() > deadline || waitpid(c->pid, NULL, WNOHANG) != 0)
            fail_msg("child did not reach step %d", step);
        pause_us(100);
    }
}

/* Lets it go on from the step it has reached, to the next one. */
static inline void proceed(const struct child *c, int step)
{
    await(c, step);
    c->board->step = step;
    await(c, step + 1);
}

/* ---- a tree of processes ---- */

struct tree {
    pid_t pids[PROCESSES];
    size_t count;
};

static inline void add_children(struct tree *t, pid_t pid)
{
    fm_autofree char *dir_path = fm_strf("/proc/%d/task", (int)pid);
    fm_autoclosedir DIR *dir = opendir(dir_path);

    for (struct dirent *e; dir && (e = readdir(dir));) {
        fm_autofree char *path = fm_strf("%s/%s/children", dir_path, e->d_name);
        fm_autofree char *text = NULL;
        char *save = NULL;

        if (e->d_name[0] == '.' || fm_file_read(path, 1 << 20, &text, NULL, NULL) < 0)
            continue;
        for (char *w = strtok_r(text, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
            assert_true(t->count < PROCESSES);
            t->pids[t->count++] = (pid_t)atoi(w);
            add_children(t, (pid_t)atoi(w));
        }
    }
}

static inline struct tree tree_of(pid_t root)
{
    struct tree t = {.pids = {root}, .count = 1};

    add_children(&t, root);
    return t;
}

static inline char thread_state(pid_t pid, pid_t tid)
{
    fm_autofree char *path = fm_strf("/proc/%d/task/%d/stat", (int)pid, (int)tid);
    fm_autofree char *line = fm_file_line(path);
    const char *rest = line ? strrchr(line, ')') : NULL;

    return rest ? rest[2] : 'X';
}

/* Sanitizers take mlock away. */
static inline void lock_pages(void *p, size_t len, bool lock)
{
    syscall(lock ? SYS_mlock : SYS_munlock, p, len);
}

static inline bool stands_still(pid_t pid)
{
    fm_autofree char *path = fm_strf("/proc/%d/task", (int)pid);
    fm_autoclosedir DIR *dir = opendir(path);

    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (e->d_name[0] != '.' && !strchr("TZX", thread_state(pid, atoi(e->d_name))))
            return false;
    }
    return true;
}

/* Stops all of them, also those that are forked meanwhile. */
static inline struct tree freeze(pid_t root)
{
    uint64_t deadline = fm_now_ms() + DEADLINE_MS;
    struct tree t = {0}, again;

    do {
        t = tree_of(root);
        for (size_t i = 0; i < t.count; i++)
            kill(t.pids[i], SIGSTOP);
        for (size_t i = 0; i < t.count; i++) {
            while (!stands_still(t.pids[i])) {
                if (fm_now_ms() > deadline)
                    fail_msg("process %d does not stop", (int)t.pids[i]);
                pause_us(100);
            }
        }
        again = tree_of(root);
    } while (again.count != t.count);
    return t;
}

static inline void thaw(const struct tree *t)
{
    for (size_t i = 0; i < t->count; i++)
        kill(t->pids[i], SIGCONT);
}

static inline void child_end(struct child *c)
{
    struct tree t = tree_of(c->pid);

    for (size_t i = t.count; i-- > 0;)
        kill(t.pids[i], SIGKILL);
    waitpid(c->pid, NULL, 0);
    munmap(c->board, sizeof(*c->board));
}

/* ---- the mirror ---- */

struct mirror {
    struct {
        pid_t pid;
        int file; /* offset = address */
    } items[PROCESSES * 4];
    size_t count;
    uint64_t copied;
};

static inline int mirror_of(struct mirror *m, pid_t pid)
{
    for (size_t i = 0; i < m->count; i++) {
        if (m->items[i].pid == pid)
            return m->items[i].file;
    }
    assert_true(m->count < FM_COUNT(m->items));
    m->items[m->count].pid = pid;
    return m->items[m->count++].file = memfd_create("mirror", MFD_CLOEXEC);
}

static inline void mirror_clear(struct mirror *m)
{
    for (size_t i = 0; i < m->count; i++)
        close(m->items[i].file);
    *m = (struct mirror){0};
}

/* /proc/PID/mem also reads what the process itself may not. */
static inline bool read_at(int mem, uint64_t address, char *data, size_t len)
{
    return pread(mem, data, len, (off_t)address) == (ssize_t)len;
}

static inline int open_mem(pid_t pid)
{
    fm_autofree char *path = fm_strf("/proc/%d/mem", (int)pid);

    return open(path, O_RDONLY | O_CLOEXEC);
}

/* While they run, pages may have gone. */
static inline void mirror_copy_range(struct mirror *m, const struct fm_process_memory *p, int mem,
                                     struct fm_range range, bool frozen)
{
    static char buffer[1 << 18];
    int file = mirror_of(m, p->pid);

    while (range.start < range.end) {
        size_t len =
            range.end - range.start < sizeof(buffer) ? range.end - range.start : sizeof(buffer);

        if (!read_at(mem, range.start, buffer, len)) {
            len = PAGE;
            if (!read_at(mem, range.start, buffer, len)) {
                if (frozen)
                    fail_msg("page 0x%lx of %d cannot be read", (unsigned long)range.start,
                             (int)p->pid);
                range.start += len;
                continue;
            }
        }
        assert_int_equal(pwrite(file, buffer, len, (off_t)range.start), len);
        m->copied += len / PAGE;
        range.start += len;
    }
}

/* Copies what is dirty, as the page sender does. */
static inline void mirror_copy(struct mirror *m, const struct fm_memory_scan *scan, bool frozen)
{
    for (size_t i = 0; i < scan->count; i++) {
        const struct fm_process_memory *p = &scan->items[i];
        fm_autoclose int mem = open_mem(p->pid);

        for (size_t r = 0; r < p->dirty.count; r++)
            mirror_copy_range(m, p, mem, p->dirty.items[r], frozen);
    }
}

/* Guard pages and their like cannot be read, and need not. */
static inline void check_span(const struct fm_process_memory *p, int mem, int file,
                              struct fm_range span, bool present)
{
    static char now[1 << 18], mirrored[1 << 18];

    /* Of reserved address space, samples. */
    uint64_t gap = !present && span.end - span.start > 256 * MIB
                       ? (span.end - span.start) / 1024 / PAGE * PAGE
                       : 0;

    while (span.start < span.end) {
        size_t len = span.end - span.start < sizeof(now) ? span.end - span.start : sizeof(now);

        if (gap)
            len = PAGE;
        if (!read_at(mem, span.start, now, len))
            len = read_at(mem, span.start, now, PAGE) ? PAGE : 0;
        memset(mirrored, 0, len);
        if (present)
            assert_true(pread(file, mirrored, len, (off_t)span.start) >= 0);
        for (size_t at = 0; at < len; at += PAGE) {
            if (memcmp(now + at, mirrored + at, PAGE) != 0)
                fail_msg("page 0x%lx of process %d %s", (unsigned long)(span.start + at),
                         (int)p->pid,
                         present ? "was written, but is not called dirty"
                                 : "has content, but is not called present");
        }
        span.start += gap ? gap : len ? len : PAGE;
    }
}

/* Everything that is moved: what a restore from the mirror would hold. */
static inline void mirror_check(struct mirror *m, const struct fm_memory_scan *scan)
{
    for (size_t i = 0; i < scan->count; i++) {
        const struct fm_process_memory *p = &scan->items[i];
        fm_autoclose int mem = open_mem(p->pid);
        int file = mirror_of(m, p->pid);
        struct fm_ranges absent = {0};

        for (size_t r = 0; r < p->mapped.count; r++)
            fm_ranges_append(&absent, p->mapped.items[r].start, p->mapped.items[r].end);
        for (size_t r = 0; r < p->present.count; r++) {
            fm_ranges_subtract(&absent, p->present.items[r].start, p->present.items[r].end);
            check_span(p, mem, file, p->present.items[r], true);
        }
        for (size_t r = 0; r < absent.count; r++)
            check_span(p, mem, file, absent.items[r], false);
        fm_ranges_clear(&absent);
    }
}

/* ---- rounds ---- */

static inline struct fm_tracker *open_tracker(enum fm_tracker_kind kind)
{
    struct fm_error err = {0};
    struct fm_tracker *t = fm_tracker_open(kind, &err);

    if (t)
        fm_tracker_set_small(t, 0);

    if (!t)
        fail_msg("%s", err.text);
    return t;
}

static inline void scan_tree(struct fm_tracker *t, const struct tree *tree, bool final,
                             struct fm_memory_scan *scan)
{
    struct fm_error err = {0};
    int rc = final ? fm_tracker_final(t, tree->pids, tree->count, scan, &err)
                   : fm_tracker_round(t, tree->pids, tree->count, scan, &err);

    if (rc < 0)
        fail_msg("%s", err.text);
}

static inline bool is_within(const struct fm_ranges *inner, const struct fm_ranges *outer)
{
    for (size_t i = 0; i < inner->count; i++) {
        size_t o = fm_ranges_find(outer, inner->items[i].start);

        if (o == outer->count || outer->items[o].start > inner->items[i].start ||
            outer->items[o].end < inner->items[i].end)
            return false;
    }
    return true;
}

static inline void check_order(const struct fm_memory_scan *scan)
{
    uint64_t present = 0, dirty = 0;

    for (size_t i = 0; i < scan->count; i++) {
        const struct fm_process_memory *p = &scan->items[i];

        assert_true(is_within(&p->dirty, &p->present));
        assert_true(is_within(&p->present, &p->mapped));
        present += fm_ranges_bytes(&p->present);
        dirty += fm_ranges_bytes(&p->dirty);
    }
    assert_int_equal(present, scan->present_bytes);
    assert_int_equal(dirty, scan->dirty_bytes);
}

static inline void round_of(struct fm_tracker *t, pid_t root, struct mirror *m)
{
    fm_cleanup(fm_memory_scan_clear) struct fm_memory_scan scan = {0};
    struct tree tree = tree_of(root);

    scan_tree(t, &tree, false, &scan);
    check_order(&scan);
    mirror_copy(m, &scan, false);
}

/* The last round, and the proof. */
static inline void final_of(struct fm_tracker *t, pid_t root, struct mirror *m)
{
    fm_cleanup(fm_memory_scan_clear) struct fm_memory_scan scan = {0};
    struct tree tree = freeze(root);

    scan_tree(t, &tree, true, &scan);
    check_order(&scan);
    mirror_copy(m, &scan, true);
    mirror_check(m, &scan);
    thaw(&tree);
}

/* One process's answer in a round. */
static inline struct fm_process_memory *answer_of(struct fm_memory_scan *scan, pid_t pid)
{
    for (size_t i = 0; i < scan->count; i++) {
        if (scan->items[i].pid == pid)
            return &scan->items[i];
    }
    return NULL;
}

static inline void round_on(struct fm_tracker *t, pid_t pid, struct fm_memory_scan *scan)
{
    struct tree one = {.pids = {pid}, .count = 1};

    fm_memory_scan_clear(scan);
    scan_tree(t, &one, false, scan);
    assert_int_equal(scan->count, 1);
}

/* Freezes and checks at `end`, with a round at each step before. */
static inline void follow(enum fm_tracker_kind kind, child_main run, int end)
{
    struct fm_tracker *t = open_tracker(kind);
    struct mirror m = {0};
    struct child c;

    child_start(&c, run);
    for (int step = 1; step < end; step++) {
        await(&c, step);
        round_of(t, c.pid, &m);
        proceed(&c, step);
    }
    await(&c, end);
    final_of(t, c.pid, &m);
    mirror_clear(&m);
    fm_tracker_close(t);
    child_end(&c);
}

#endif
