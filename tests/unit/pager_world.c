#include "pager_world.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/deposit.h"
#include "base/file.h"
#include "base/text.h"
#include "state/pager_protocol.h"
#include "state/pager_state.h"

#define TIMEOUT_MS 30000

uint64_t world_now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* ---- Content ---- */

enum page_kind world_kind(uint64_t number)
{
    if (number % 61 == 7)
        return PAGE_HOLE;
    /* Also long gaps, so that a task has several areas. */
    if (number % 53 == 11 || (number % 4096) > 3000)
        return PAGE_ABSENT;
    return PAGE_DATA;
}

static uint64_t word_of(int32_t inner_pid, uint64_t number, size_t i)
{
    return ((uint64_t)inner_pid << 40 ^ number << 10 ^ i) * 0x9e3779b97f4a7c15ull | 1;
}

void world_fill_page(void *page, int32_t inner_pid, uint64_t number)
{
    uint64_t *words = page;

    for (size_t i = 0; i < fm_pager_page() / 8; i++)
        words[i] = word_of(inner_pid, number, i);
}

bool world_page_is_zero(const void *page)
{
    const uint64_t *words = page;
    uint64_t sum = 0;

    for (size_t i = 0; i < fm_pager_page() / 8; i++)
        sum |= words[i];
    return sum == 0;
}

bool world_page_is(const void *page, int32_t inner_pid, uint64_t number)
{
    const uint64_t *words = page;

    if (world_kind(number) != PAGE_DATA)
        return world_page_is_zero(page);
    for (size_t i = 0; i < fm_pager_page() / 8; i++) {
        if (words[i] != word_of(inner_pid, number, i))
            return false;
    }
    return true;
}

int world_check_all(int32_t inner_pid, const unsigned char *memory, uint64_t pages)
{
    for (uint64_t i = 0; i < pages; i++) {
        if (!world_page_is(memory + i * fm_pager_page(), inner_pid, i)) {
            fprintf(stderr, "page %" PRIu64 " of %d is wrong\n", i, inner_pid);
            return 1;
        }
    }
    return 0;
}

/* ---- Store ---- */

static void put_range(FILE *f, uint64_t first, uint64_t end)
{
    uint64_t pair[2] = {htole64(WORLD_BASE + first * fm_pager_page()),
                        htole64(WORLD_BASE + end * fm_pager_page())};

    assert_int_equal(fwrite(pair, sizeof(pair), 1, f), 1);
}

static FILE *open_list(struct world *w, int32_t inner_pid, const char *suffix)
{
    fm_autofree char *path = fm_strf("%s/%d.%s", w->store, inner_pid, suffix);
    FILE *f = fopen(path, "we");

    assert_non_null(f);
    return f;
}

void world_list(struct world *w, int32_t inner_pid, const char *kind, uint64_t first, uint64_t end)
{
    FILE *f = open_list(w, inner_pid, kind);

    put_range(f, first, end);
    assert_int_equal(fclose(f), 0);
}

static int open_pages(struct world *w, int32_t inner_pid)
{
    fm_autofree char *path = fm_strf("%s/%d.pages", w->store, inner_pid);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    return fd;
}

static void write_page(int fd, int32_t inner_pid, uint64_t number)
{
    unsigned char page[65536];

    world_fill_page(page, inner_pid, number);
    assert_int_equal(
        pwrite(fd, page, fm_pager_page(), (off_t)(WORLD_BASE + number * fm_pager_page())),
        fm_pager_page());
}

void world_store(struct world *w, int32_t inner_pid, uint64_t pages, uint64_t missing_every)
{
    FILE *present = open_list(w, inner_pid, "present");
    FILE *missing = missing_every ? open_list(w, inner_pid, "missing") : NULL;
    int fd = open_pages(w, inner_pid);
    uint64_t start = 0;

    for (uint64_t i = 0; i < pages; i++) {
        enum page_kind kind = world_kind(i);
        bool absent = kind == PAGE_ABSENT;

        if (missing && kind == PAGE_DATA && i % missing_every == 0)
            put_range(missing, i, i + 1);
        else if (kind != PAGE_HOLE) /* what is absent has content as well: it was discarded */
            write_page(fd, inner_pid, i);
        if (absent && start < i)
            put_range(present, start, i);
        if (absent)
            start = i + 1;
    }
    if (start < pages)
        put_range(present, start, pages);
    fclose(present);
    if (missing)
        fclose(missing);
    close(fd);
}

void world_store_page(struct world *w, int32_t inner_pid, uint64_t number)
{
    int fd = open_pages(w, inner_pid);

    write_page(fd, inner_pid, number);
    close(fd);
}

/* ---- The world ---- */

void world_make(struct world *w)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";

    *w = (struct world){.lazy = -1};
    snprintf(w->dir, sizeof(w->dir), "%s/fm-pager.XXXXXX", base);
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->store, sizeof(w->store), "%s/store", w->dir);
    snprintf(w->control, sizeof(w->control), "%s/pager.sock", w->dir);
    snprintf(w->log, sizeof(w->log), "%s/pager.log", w->dir);
    assert_return_code(mkdir(w->store, 0700), errno);
    w->spec = (struct fm_pager_spec){
        .program = getenv("FM_PAGER") ? getenv("FM_PAGER") : PAGER_PROGRAM,
        .store_dir = w->store,
        .work_dir = w->dir,
        .control = w->control,
        .log = w->log,
    };
}

void world_remove(struct world *w)
{
    char *text = NULL;
    size_t len;

    for (int i = 0; i < w->task_count; i++) {
        struct world_task *t = &w->tasks[i];

        fm_cleanup_close(&t->go);
        fm_cleanup_close(&t->report);
        kill(-t->pid, SIGKILL); /* with what it has forked */
        waitpid(t->pid, NULL, 0);
    }
    fm_cleanup_close(&w->lazy);
    fm_pager_end(w->pager);
    if (getenv("FM_PAGER_LOG") && fm_file_read(w->log, 1 << 20, &text, &len, NULL) == 0)
        fprintf(stderr, "%s", text);
    free(text);
    fm_remove_tree(w->dir, NULL);
}

void world_start(struct world *w)
{
    struct fm_error err = {0};

    w->pager = fm_pager_start(&w->spec, &err);
    if (!w->pager)
        fail_msg("%s", err.text);
}

/* ---- CRIU ---- */

void world_connect(struct world *w)
{
    fm_autofree char *path = fm_strf("%s/" FM_PAGER_LAZY_SOCKET, w->dir);

    w->lazy = fm_pager_connect(path, SOCK_STREAM);
    assert_true(w->lazy >= 0);
}

void world_number(struct world *w, int32_t number)
{
    assert_int_equal(send(w->lazy, &number, sizeof(number), MSG_NOSIGNAL), sizeof(number));
}

/* `deposit` is -1 but for the init. */
static void send_descriptor(int socket, int fd, int deposit)
{
    const int fds[2] = {fd, deposit};
    const size_t bytes = (deposit >= 0 ? 2 : 1) * sizeof(int);
    union {
        char space[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr align;
    } control = {
        .align = {.cmsg_len = CMSG_LEN(bytes), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    char byte = '*';
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    struct msghdr header = {.msg_iov = &iov,
                            .msg_iovlen = 1,
                            .msg_control = control.space,
                            .msg_controllen = CMSG_SPACE(bytes)};

    memcpy(CMSG_DATA(&control.align), fds, bytes);
    if (sendmsg(socket, &header, MSG_NOSIGNAL) < 0)
        _exit(101);
}

static int register_memory(void *memory, uint64_t bytes)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = {
        .api = UFFD_API,
        .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP |
                    UFFD_FEATURE_EVENT_REMOVE,
    };
    struct uffdio_register range = {.range = {.start = (uintptr_t)memory, .len = bytes},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};

    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &range) < 0)
        _exit(102);
    return fd;
}

/* The daemon's descriptors are no task's. */
static void keep_only(int a, int b, int c, int d)
{
    for (int fd = 3; fd < 256; fd++) {
        if (fd != a && fd != b && fd != c && fd != d)
            close(fd);
    }
}

static void be_task(struct world *w, int32_t inner_pid, uint64_t pages, task_body body,
                    uintptr_t argument, int go, int report)
{
    void *memory = mmap((void *)WORLD_BASE, pages * fm_pager_page(), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    char byte = '+';
    int fd;

    setpgid(0, 0);
    keep_only(w->lazy, go, report, (int)argument);
    if (memory == MAP_FAILED)
        _exit(103);
    fd = register_memory(memory, pages * fm_pager_page());
    if (send(w->lazy, &inner_pid, sizeof(inner_pid), MSG_NOSIGNAL) < 0)
        _exit(104);
    send_descriptor(w->lazy, fd, w->task_count == 1 && !w->keeps_nothing ? fm_deposit_make() : -1);
    close(fd);
    close(w->lazy);
    if (write(report, &byte, 1) != 1 || read(go, &byte, 1) != 1)
        _exit(105);
    byte = body(inner_pid, memory, pages, argument) == 0 ? '+' : '-';
    if (write(report, &byte, 1) != 1)
        _exit(106);
    _exit(read(go, &byte, 1) == 0 ? 0 : 107); /* its memory stays for as long as the test wants */
}

int world_deposit_of(const struct world_task *t)
{
    fm_autofree char *path = fm_strf("/proc/%d/fd", (int)t->pid);
    fm_autoclosedir DIR *dir = opendir(path);
    const struct dirent *entry;
    char target[64];

    while (dir && (entry = readdir(dir))) {
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

        target[n > 0 ? n : 0] = '\0';
        if (strncmp(target, "socket:", 7) == 0)
            return atoi(entry->d_name);
    }
    return -1;
}

static char read_report(struct world_task *t)
{
    struct pollfd p = {.fd = t->report, .events = POLLIN};
    char byte = '?';

    if (poll(&p, 1, TIMEOUT_MS) <= 0 || read(t->report, &byte, 1) != 1)
        return '?';
    return byte;
}

void world_task(struct world *w, int32_t inner_pid, uint64_t pages, task_body body,
                uintptr_t argument)
{
    struct world_task *t = &w->tasks[w->task_count++];
    int go[2], report[2];

    assert_return_code(pipe2(go, O_CLOEXEC), errno);
    assert_return_code(pipe2(report, O_CLOEXEC), errno);
    *t = (struct world_task){.go = go[1], .report = report[0], .pages = pages};
    t->pid = fork();
    if (t->pid == 0) {
        close(go[1]);
        close(report[0]);
        be_task(w, inner_pid, pages, body, argument, go[0], report[1]);
    }
    close(go[0]);
    close(report[1]);
    assert_int_equal(read_report(t), '+');
}

void world_resume(struct world *w)
{
    world_number(w, 0x52535446);
    fm_cleanup_close(&w->lazy);
    w->lazy = -1;
    for (int i = 0; i < w->task_count; i++)
        assert_int_equal(write(w->tasks[i].go, "g", 1), 1);
}

void world_results(struct world *w)
{
    for (int i = 0; i < w->task_count; i++)
        assert_int_equal(read_report(&w->tasks[i]), '+');
}

struct fm_pager_status world_wait_done(struct world *w)
{
    struct fm_pager_status status = {0};
    struct fm_error err = {0};
    uint64_t deadline = world_now_us() + TIMEOUT_MS * 1000ull;

    while (!status.done) {
        if (fm_pager_wait(w->pager, 1000, &status, &err) < 0)
            fail_msg("%s", err.text);
        if (world_now_us() > deadline)
            fail_msg("not done: %" PRIu64 " of %" PRIu64, status.filled_bytes, status.total_bytes);
    }
    return status;
}

/* ---- The source of a post-copy ---- */

static void send_page(struct world_source *s, uint64_t number)
{
    uint64_t address = WORLD_BASE + number * fm_pager_page();

    world_store_page(s->world, s->inner_pid, number);
    fm_pager_arrived(s->world->pager, s->inner_pid, address, address + fm_pager_page());
}

void world_on_want(void *source, pid_t inner_pid, uint64_t address)
{
    struct world_source *s = source;
    uint64_t number = (address - WORLD_BASE) / fm_pager_page();

    assert_int_equal(inner_pid, s->inner_pid);
    assert_int_equal(number % s->every, 0);
    s->wanted++;
    send_page(s, number);
}

void *world_send_all(void *source)
{
    struct world_source *s = source;

    for (uint64_t i = s->pages; i-- > 0;) {
        if (i % s->every != 0 || world_kind(i) != PAGE_DATA)
            continue;
        send_page(s, i);
        if (i % 64 == 0)
            usleep(s->pause_us);
    }
    return NULL;
}

void world_results_wanting(struct world *w)
{
    uint64_t deadline = world_now_us() + TIMEOUT_MS * 1000ull;
    struct fm_pager_status status;
    struct fm_error err = {0};

    for (int i = 0; i < w->task_count;) {
        struct pollfd p = {.fd = w->tasks[i].report, .events = POLLIN};

        if (poll(&p, 1, 0) > 0)
            assert_int_equal(read_report(&w->tasks[i++]), '+');
        else if (fm_pager_wait(w->pager, 5, &status, &err) < 0)
            fail_msg("%s", err.text);
        assert_true(world_now_us() < deadline);
    }
}

/* ---- The pager's processes ---- */

pid_t world_pager_pid(struct world *w, const char *name)
{
    DIR *proc = opendir("/proc");
    const struct dirent *entry;
    pid_t found = 0;

    while (!found && (entry = readdir(proc))) {
        fm_autofree char *comm = NULL;
        fm_autofree char *line = NULL;
        char path[300];
        size_t len = 0;

        if (atoi(entry->d_name) <= 0)
            continue;
        snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
        comm = fm_file_line(path);
        snprintf(path, sizeof(path), "/proc/%s/cmdline", entry->d_name);
        if (!fm_streq(comm, name) || fm_file_read(path, 65536, &line, &len, NULL) < 0)
            continue;
        if (memmem(line, len, w->dir, strlen(w->dir)))
            found = atoi(entry->d_name);
    }
    closedir(proc);
    return found;
}
