#include "state/flag_watch.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/text.h"
#include "state/pagemap.h"

#define FILES_MAX 2048u
#define PASSES_MAX 50u

/* Since Linux 6.6 and 6.10; the same on every architecture. */
#ifndef __NR_map_shadow_stack
#define __NR_map_shadow_stack 453
#endif
#ifndef __NR_mseal
#define __NR_mseal 462
#endif

/* Those that change flags, those after which a mapping may be another one that looks the same, and
 * those after which somebody else may do either. */
static const int changing_calls[] = {
    __NR_madvise,
    __NR_process_madvise,
    __NR_mlock,
    __NR_mlock2,
    __NR_munlock,
    __NR_mlockall,
    __NR_munlockall,
    __NR_mseal,
    __NR_prctl, /* PR_SET_MEMORY_MERGE */
    __NR_mmap,
    __NR_mremap,
    __NR_remap_file_pages,
    __NR_brk,
    __NR_shmat,
    __NR_map_shadow_stack,
    __NR_io_uring_enter, /* IORING_OP_MADVISE */
    __NR_clone,
    __NR_clone3,
#ifdef __NR_vfork
    __NR_vfork,
#endif
#ifdef __NR_arch_prctl
    __NR_arch_prctl, /* shadow stack */
#endif
#ifdef __aarch64__ /* PROT_BTI, PROT_MTE */
    __NR_mprotect,
    __NR_pkey_mprotect,
#endif
};

/* From man-pages' madvise(2): about content only. */
static const int content_advice[] = {
    3 /* WILLNEED */,       4 /* DONTNEED */,        8 /* FREE */,
    9 /* REMOVE */,         20 /* COLD */,           21 /* PAGEOUT */,
    22 /* POPULATE_READ */, 23 /* POPULATE_WRITE */, 24 /* DONTNEED_LOCKED */,
    25 /* COLLAPSE */,
};

/* Calls that returned, and among them, as they began, those that are harmless. */
struct counted_thread {
    int calls, harmless; /* events; one group, so that they begin at once. harmless: -1 */
};

struct watched_process {
    pid_t pid;
    int memory; /* pagemap, of the memory that it had when it was added */
    struct counted_thread *threads;
    size_t count;
};

struct fm_flag_watch {
    int exit_id, madvise_id; /* tracepoints; the second may be -1 */
    char *changing, *harmless;
    size_t files_left; /* descriptors that it may still use */
    struct watched_process *items;
    size_t count;
};

/* ---- tracepoints ---- */

/* A mount of our own, which nobody sees: tracefs need not be mounted where we are. */
static int mount_tracefs(void)
{
    fm_autoclose int fs = fsopen("tracefs", FSOPEN_CLOEXEC);

    if (fs < 0 || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -1;
    return fsmount(fs, FSMOUNT_CLOEXEC, 0);
}

static int tracepoint_id(int tracefs, const char *name)
{
    fm_autofree char *path = fm_strf("events/%s/id", name);
    fm_autoclose int fd = openat(tracefs, path, O_RDONLY | O_CLOEXEC);
    char text[16] = "";

    return fd >= 0 && fm_read_full(fd, text, sizeof(text) - 1) > 0 ? (int)strtol(text, NULL, 10)
                                                                   : -1;
}

/* "id==28||id==149..." */
static char *filter_of(const char *field, const int *values, size_t count)
{
    char *filter = fm_strf("%s==%d", field, values[0]);

    for (size_t i = 1; i < count; i++) {
        fm_autofree char *rest = filter;

        filter = fm_strf("%s||%s==%d", rest, field, values[i]);
    }
    return filter;
}

/* Other parts of the process need descriptors, too. */
static size_t files_allowed(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 0;
    return limit.rlim_cur / 2 < FILES_MAX ? limit.rlim_cur / 2 : FILES_MAX;
}

struct fm_flag_watch *fm_flag_watch_open(struct fm_error *err)
{
    fm_autoclose int tracefs = fm_fault("flag-watch.open") ? -1 : mount_tracefs();
    int exit_id = tracefs < 0 ? -1 : tracepoint_id(tracefs, "raw_syscalls/sys_exit");
    struct fm_flag_watch *w;

    if (exit_id < 0) {
        fm_error_set(err, FM_E_REFUSED, "the kernel's tracefs does not have raw_syscalls/sys_exit");
        return NULL;
    }
    w = fm_xcalloc(1, sizeof(*w));
    w->exit_id = exit_id;
    w->madvise_id = tracepoint_id(tracefs, "syscalls/sys_enter_madvise");
    w->changing = filter_of("id", changing_calls, FM_COUNT(changing_calls));
    w->harmless = filter_of("behavior", content_advice, FM_COUNT(content_advice));
    w->files_left = files_allowed();
    return w;
}

/* ---- events ---- */

/* Belongs to the group of `leader`, or leads one (-1) which is off. Negative: an errno. */
static int open_event(int tracepoint, const char *filter, pid_t tid, int leader)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_TRACEPOINT,
        .size = sizeof(attr),
        .config = (unsigned)tracepoint,
        .read_format = PERF_FORMAT_GROUP,
        .disabled = leader < 0,
    };
    fm_autoclose int fd =
        (int)syscall(SYS_perf_event_open, &attr, tid, -1, leader, PERF_FLAG_FD_CLOEXEC);

    if (fd < 0 || ioctl(fd, PERF_EVENT_IOC_SET_FILTER, filter) < 0)
        return -errno;
    return FM_MOVE_FD(fd);
}

static void close_thread(struct counted_thread *t)
{
    if (t->harmless >= 0)
        close(t->harmless);
    if (t->calls >= 0)
        close(t->calls);
}

static int open_thread(const struct fm_flag_watch *w, pid_t tid, struct counted_thread *t)
{
    *t = (struct counted_thread){.calls = open_event(w->exit_id, w->changing, tid, -1),
                                 .harmless = -1};
    if (t->calls < 0)
        return t->calls;
    if (w->madvise_id >= 0) {
        t->harmless = open_event(w->madvise_id, w->harmless, tid, t->calls);
        if (t->harmless < 0)
            return t->harmless;
    }
    return ioctl(t->calls, PERF_EVENT_IOC_ENABLE, 0) < 0 ? -errno : 0;
}

/* One that has ended cannot do any more harm. */
static int watch_thread(struct fm_flag_watch *w, struct watched_process *p, pid_t tid)
{
    struct counted_thread t;
    int rc;

    if (w->files_left < 2)
        return -EMFILE;
    rc = open_thread(w, tid, &t);
    if (rc < 0) {
        close_thread(&t);
        return rc == -ESRCH ? 0 : rc;
    }
    w->files_left -= 2;
    p->threads = fm_xrealloc(p->threads, (p->count + 1) * sizeof(*p->threads));
    p->threads[p->count++] = t;
    return 0;
}

/* ---- threads ---- */

struct thread_list {
    pid_t *tids;
    size_t count;
};

static void thread_list_clear(struct thread_list *l)
{
    free(l->tids);
    *l = (struct thread_list){0};
}

static bool thread_list_has(const struct thread_list *l, pid_t tid)
{
    for (size_t i = 0; i < l->count; i++) {
        if (l->tids[i] == tid)
            return true;
    }
    return false;
}

static bool thread_list_equals(const struct thread_list *a, const struct thread_list *b)
{
    return a->count == b->count && memcmp(a->tids, b->tids, a->count * sizeof(*a->tids)) == 0;
}

static int thread_list_read(pid_t pid, struct thread_list *l)
{
    fm_autofree char *path = fm_strf("/proc/%d/task", (int)pid);
    fm_autoclosedir DIR *dir = opendir(path);

    if (!dir)
        return -errno;
    for (struct dirent *e; (e = readdir(dir));) {
        pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);

        if (tid <= 0)
            continue;
        l->tids = fm_xrealloc(l->tids, (l->count + 1) * sizeof(*l->tids));
        l->tids[l->count++] = tid;
    }
    return l->count > 0 ? 0 : -ESRCH;
}

/* A reading skips threads when one that it has passed ends. So the list must be the same three
 * times: with the third it is known that none ended during the second, and all that were there then
 * had been watched before. Those that they make count. */
static int watch_threads(struct fm_flag_watch *w, struct watched_process *p)
{
    fm_cleanup(thread_list_clear) struct thread_list before = {0};
    unsigned repeated = 0;

    for (unsigned pass = 0; pass < PASSES_MAX && repeated < 2; pass++) {
        struct thread_list now = {0};
        int rc = thread_list_read(p->pid, &now);

        repeated = thread_list_equals(&now, &before) ? repeated + 1 : 0;
        for (size_t i = 0; i < now.count && rc == 0 && repeated == 0; i++)
            rc = thread_list_has(&before, now.tids[i]) ? 0 : watch_thread(w, p, now.tids[i]);
        thread_list_clear(&before);
        before = now;
        if (rc < 0)
            return rc;
    }
    return repeated < 2 ? -EAGAIN : 0;
}

/* ---- processes ---- */

/* Programs of the other word size, or of x32, number their calls differently. */
static bool has_our_numbers(pid_t pid)
{
    fm_autofree char *path = fm_strf("/proc/%d/exe", (int)pid);
    fm_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
    unsigned char head[EI_CLASS + 1];

    return fd >= 0 && fm_read_full(fd, head, sizeof(head)) == sizeof(head) &&
           head[EI_CLASS] == (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32);
}

static void close_process(struct fm_flag_watch *w, struct watched_process *p)
{
    for (size_t i = 0; i < p->count; i++)
        close_thread(&p->threads[i]);
    w->files_left += 2 * p->count;
    free(p->threads);
    close(p->memory);
}

int fm_flag_watch_add(struct fm_flag_watch *w, pid_t pid, struct fm_error *err)
{
    struct watched_process p = {.pid = pid, .memory = fm_pagemap_open(pid)};
    int rc = p.memory < 0 ? p.memory : 0;

    if (rc == 0)
        rc = has_our_numbers(pid) ? watch_threads(w, &p) : -ENOEXEC;
    if (rc == 0) {
        w->items = fm_xrealloc(w->items, (w->count + 1) * sizeof(*w->items));
        w->items[w->count++] = p;
        return 0;
    }
    if (p.memory >= 0)
        close_process(w, &p);
    return fm_error_set(err, FM_E_REFUSED, "the calls of process %d cannot be counted: %s",
                        (int)pid, strerror(-rc));
}

bool fm_flag_watch_is_quiet(const struct fm_flag_watch *w, pid_t pid)
{
    const struct watched_process *p = NULL;
    uint64_t entry, calls = 0, harmless = 0;

    for (size_t i = 0; w && i < w->count; i++) {
        if (w->items[i].pid == pid)
            p = &w->items[i];
    }
    if (!p || pread(p->memory, &entry, sizeof(entry), 0) != sizeof(entry))
        return false;
    for (size_t i = 0; i < p->count; i++) {
        struct {
            uint64_t count, values[2];
        } group = {0};
        ssize_t n = read(p->threads[i].calls, &group, sizeof(group));

        if (n < 0 || group.count != (p->threads[i].harmless < 0 ? 1 : 2))
            return false;
        calls += group.values[0];
        harmless += group.values[1];
    }
    return calls == harmless;
}

void fm_flag_watch_close(struct fm_flag_watch *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->count; i++)
        close_process(w, &w->items[i]);
    free(w->items);
    free(w->changing);
    free(w->harmless);
    free(w);
}
