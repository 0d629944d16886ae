/* Modes whose memory is an object of its own: shared, in files, or written by the kernel and by
 * others. */
#include "memcheck.h"
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGES 256
#define STEP_US 5000

/* What several processes change in turns. The versions lie in shared memory as well. */
struct common {
    pthread_mutex_t lock;
    uint64_t writes;
    uint32_t version[PAGES];
};

static struct common *common_new(void)
{
    struct common *common =
        mmap(NULL, sizeof(*common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t attributes;

    mc_must(common != MAP_FAILED, "mmap");
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&common->lock, &attributes);
    return common;
}

/* A step of one process on the common region, which it may have mapped at an address of its own. */
static void common_step(struct common *common, unsigned char *base, uint64_t key, uint64_t *next)
{
    struct mc_region region = {.base = base,
                               .pages = PAGES,
                               .key = key,
                               .version = common->version,
                               .writes = common->writes,
                               .next = *next};

    pthread_mutex_lock(&common->lock);
    region.writes = common->writes;
    mc_region_dirty(&region, 1);
    if (mc_region_verify(&region, PAGES / 64))
        mc_round();
    common->writes = region.writes;
    *next = region.next;
    pthread_mutex_unlock(&common->lock);
}

static void common_fill(struct common *common, unsigned char *base, uint64_t key)
{
    struct mc_region region = {
        .base = base, .pages = PAGES, .key = key, .version = common->version};

    for (uint64_t page = 0; page < PAGES; page++)
        mc_region_fill(&region, page);
    common->writes = region.writes;
}

/* ---- shared anonymous memory ----------------------------------------------------------------- */

#define SHARED_KEY 0x5300000000000000

struct shared {
    struct common *common;
    unsigned char *base;
};

static void shared_main(void *argument)
{
    const struct shared *shared = argument;
    uint64_t next = 0;

    mc_worker("shared");
    for (;;) {
        common_step(shared->common, shared->base, SHARED_KEY, &next);
        mc_reap();
        mc_pause(STEP_US);
    }
}

void mc_mode_shared(void *argument)
{
    struct shared shared = {.common = common_new()};

    (void)argument;
    shared.base =
        mmap(NULL, PAGES * mc_page_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    mc_must(shared.base != MAP_FAILED, "mmap");
    common_fill(shared.common, shared.base, SHARED_KEY);
    mc_spawn(shared_main, &shared);
    shared_main(&shared);
}

/* ---- memfd: mapped by two, read by descriptor beyond that, and a private mapping of it ------- */

#define MEMFD_KEY 0x4d00000000000000
#define UNMAPPED_KEY 0x4e00000000000000
#define UNMAPPED 32

struct memfd {
    struct common *common;
    int fd;
};

static unsigned char *map_fd(int fd, int flags)
{
    unsigned char *base = mmap(NULL, PAGES * mc_page_size, PROT_READ | PROT_WRITE, flags, fd, 0);

    mc_must(base != MAP_FAILED, "mmap of a file");
    return base;
}

/* The pages behind the mapped ones of a file: only its descriptor reaches them. */
static void unmapped_write(int fd, uint64_t key, uint64_t page, uint64_t version)
{
    off_t offset = (off_t)((PAGES + page) * mc_page_size);
    uint64_t *block = aligned_alloc(mc_page_size, mc_page_size);

    mc_block_fill(block, mc_page_size, key + page, version);
    mc_must(pwrite(fd, block, mc_page_size, offset) == (ssize_t)mc_page_size, "pwrite");
    free(block);
}

static void unmapped_check(int fd, uint64_t key, uint64_t page, uint64_t version)
{
    off_t offset = (off_t)((PAGES + page) * mc_page_size);
    uint64_t *block = aligned_alloc(mc_page_size, mc_page_size);

    mc_must(pread(fd, block, mc_page_size, offset) == (ssize_t)mc_page_size, "pread");
    mc_block_check(block, mc_page_size, key + page, version);
    free(block);
}

static void memfd_other(void *argument)
{
    const struct memfd *memfd = argument;
    unsigned char *base = map_fd(memfd->fd, MAP_SHARED);
    uint64_t next = 0;

    mc_worker("memfd");
    close(memfd->fd);
    for (;;) {
        common_step(memfd->common, base, MEMFD_KEY, &next);
        mc_pause(STEP_US);
    }
}

void mc_mode_memfd(void *argument)
{
    struct memfd memfd = {.common = common_new(), .fd = memfd_create("memcheck", MFD_CLOEXEC)};
    unsigned char *base;
    uint64_t next = 0;

    (void)argument;
    mc_worker("memfd");
    mc_must(memfd.fd >= 0 && ftruncate(memfd.fd, (PAGES + UNMAPPED) * (off_t)mc_page_size) == 0,
            "memfd_create");
    base = map_fd(memfd.fd, MAP_SHARED);
    common_fill(memfd.common, base, MEMFD_KEY);
    for (uint64_t page = 0; page < UNMAPPED; page++)
        unmapped_write(memfd.fd, UNMAPPED_KEY, page, 1);
    mc_spawn(memfd_other, &memfd);
    for (uint64_t i = 0;; i++) {
        uint64_t page = i % UNMAPPED, version = i / UNMAPPED + 1;

        common_step(memfd.common, base, MEMFD_KEY, &next);
        unmapped_check(memfd.fd, UNMAPPED_KEY, page, version);
        unmapped_write(memfd.fd, UNMAPPED_KEY, page, version + 1);
        mc_reap();
        mc_pause(STEP_US);
    }
}

/* ---- System V shared memory ------------------------------------------------------------------ */

#define SYSV_KEY 0x5600000000000000

struct sysv {
    struct common *common, *alone;
    unsigned char *base;
};

static void sysv_other(void *argument)
{
    const struct sysv *sysv = argument;
    uint64_t next = 0;

    mc_worker("sysv");
    for (;;) {
        common_step(sysv->common, sysv->base, SYSV_KEY, &next);
        mc_pause(STEP_US);
    }
}

static int segment_new(void)
{
    int id = shmget(IPC_PRIVATE, PAGES * mc_page_size, IPC_CREAT | 0600);

    if (id < 0)
        mc_skip("shmget: %m");
    return id;
}

static unsigned char *attach(int id)
{
    unsigned char *base = shmat(id, NULL, 0);

    mc_must(base != (void *)-1, "shmat");
    return base;
}

/* One segment is always attached by two, the other one mostly by nobody. */
void mc_mode_sysv(void *argument)
{
    struct sysv sysv = {.common = common_new(), .alone = common_new()};
    uint64_t next = 0, next_alone = 0;
    int detached;
    unsigned char *base;

    (void)argument;
    mc_worker("sysv");
    sysv.base = attach(segment_new());
    common_fill(sysv.common, sysv.base, SYSV_KEY);
    detached = segment_new();
    base = attach(detached);
    common_fill(sysv.alone, base, SYSV_KEY + PAGES);
    shmdt(base);
    mc_spawn(sysv_other, &sysv);
    for (uint64_t i = 0;; i++) {
        common_step(sysv.common, sysv.base, SYSV_KEY, &next);
        if (i % 64 == 0) {
            base = attach(detached);
            for (int steps = 0; steps < 64; steps++)
                common_step(sysv.alone, base, SYSV_KEY + PAGES, &next_alone);
            shmdt(base);
        }
        mc_reap();
        mc_pause(STEP_US);
    }
}

/* ---- mapped files ---------------------------------------------------------------------------- */

#define FILE_KEY 0x4600000000000000
#define COW_KEY 0x4300000000000000

static int file_new(const char *directory, const char *name, uint64_t pages)
{
    char path[256];
    int fd;

    snprintf(path, sizeof(path), "%s/memcheck-%s-%d", directory, name, (int)getpid());
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    mc_must(fd >= 0 && ftruncate(fd, (off_t)(pages * mc_page_size)) == 0, path);
    if (strcmp(name, "unlinked") == 0)
        unlink(path);
    return fd;
}

/* The file behind shows what was written through the mapping. */
static void file_check(const struct mc_region *region, int fd)
{
    uint64_t *block = aligned_alloc(mc_page_size, mc_page_size);
    uint64_t page = mc_random_below(region->pages);

    mc_must(pread(fd, block, mc_page_size, (off_t)(page * mc_page_size)) == (ssize_t)mc_page_size,
            "pread");
    mc_block_check(block, mc_page_size, mc_region_key(region, page), region->version[page]);
    free(block);
}

/* A private mapping of a file with content, of which every other page gets changed. */
struct cow_file {
    int fd;
    unsigned char *base;
    uint32_t *version;
};

static struct cow_file cow_file_new(int fd)
{
    struct cow_file file = {.fd = fd, .version = mc_map(PAGES * sizeof(uint32_t))};
    unsigned char *writable = map_fd(fd, MAP_SHARED);

    for (uint64_t page = 0; page < PAGES; page++) {
        mc_block_fill(writable + page * mc_page_size, mc_page_size, COW_KEY + page, 1);
        file.version[page] = 1;
    }
    munmap(writable, PAGES * mc_page_size);
    file.base = map_fd(fd, MAP_PRIVATE);
    return file;
}

static void cow_file_step(struct cow_file *file)
{
    uint64_t page = mc_random_below(PAGES), key = COW_KEY + page;
    unsigned char *at = file->base + page * mc_page_size;
    uint64_t *block = aligned_alloc(mc_page_size, mc_page_size);

    mc_block_check(at, mc_page_size, key, file->version[page]);
    if (page % 2)
        mc_block_fill(at, mc_page_size, key, ++file->version[page]);
    mc_must(pread(file->fd, block, mc_page_size, (off_t)(page * mc_page_size)) ==
                (ssize_t)mc_page_size,
            "pread");
    mc_block_check(block, mc_page_size, key, 1);
    free(block);
}

static _Noreturn void files_run(const char *mode, const char *directory)
{
    struct mc_region shared, unlinked;
    struct cow_file cow;
    int shared_fd, unlinked_fd;

    mc_worker(mode);
    shared_fd = file_new(directory, "shared", PAGES + UNMAPPED);
    unlinked_fd = file_new(directory, "unlinked", PAGES);
    shared = mc_region_adopt(map_fd(shared_fd, MAP_SHARED), PAGES, FILE_KEY);
    unlinked = mc_region_adopt(map_fd(unlinked_fd, MAP_SHARED), PAGES, FILE_KEY + PAGES);
    cow = cow_file_new(file_new(directory, "private", PAGES));
    for (uint64_t page = 0; page < UNMAPPED; page++)
        unmapped_write(shared_fd, FILE_KEY, page, 1);
    for (uint64_t i = 0;; i++) {
        mc_region_dirty(&shared, 1);
        mc_region_dirty(&unlinked, 1);
        file_check(&shared, shared_fd);
        file_check(&unlinked, unlinked_fd);
        for (int k = 0; k < 4; k++)
            cow_file_step(&cow);
        unmapped_check(shared_fd, FILE_KEY, i % UNMAPPED, i / UNMAPPED + 1);
        unmapped_write(shared_fd, FILE_KEY, i % UNMAPPED, i / UNMAPPED + 2);
        mc_region_verify(&unlinked, PAGES / 64);
        if (mc_region_verify(&shared, PAGES / 64))
            mc_round();
        mc_pause(STEP_US);
    }
}

void mc_mode_files(void *argument)
{
    (void)argument;
    files_run("files", mc_options.directory);
}

void mc_mode_tmpfs(void *argument)
{
    (void)argument;
    files_run("tmpfs", "/dev/shm");
}

/* ---- kernel: memory that somebody else writes ------------------------------------------------ */

/* A page's next content comes by read() from a pipe, by recv() from a socket, from a file, or from
 * another process; the check sends it back the same way. */
struct kernel {
    struct mc_region region;
    int pipe[2], sockets[2], file;
    uint64_t *block;
};

static void by_pipe(struct kernel *k, void *page)
{
    mc_must(write(k->pipe[1], k->block, mc_page_size) == (ssize_t)mc_page_size, "write to a pipe");
    mc_must(read(k->pipe[0], page, mc_page_size) == (ssize_t)mc_page_size, "read from a pipe");
}

static void by_socket(struct kernel *k, void *page)
{
    mc_must(send(k->sockets[0], k->block, mc_page_size, 0) == (ssize_t)mc_page_size, "send");
    mc_must(recv(k->sockets[1], page, mc_page_size, MSG_WAITALL) == (ssize_t)mc_page_size, "recv");
}

static void by_file(struct kernel *k, void *page)
{
    mc_must(pwrite(k->file, k->block, mc_page_size, 0) == (ssize_t)mc_page_size, "pwrite");
    mc_must(pread(k->file, page, mc_page_size, 0) == (ssize_t)mc_page_size, "pread");
}

static void by_process(struct kernel *k, void *page)
{
    struct iovec from = {.iov_base = k->block, .iov_len = mc_page_size};
    struct iovec to = {.iov_base = page, .iov_len = mc_page_size};

    /* To itself, but by the system call that others use. */
    mc_must(process_vm_writev(getpid(), &from, 1, &to, 1, 0) == (ssize_t)mc_page_size,
            "process_vm_writev");
}

static void kernel_step(struct kernel *k)
{
    static void (*const ways[])(struct kernel *, void *) = {by_pipe, by_socket, by_file,
                                                            by_process};
    struct mc_region *region = &k->region;
    uint64_t page = mc_random_below(region->pages), key = mc_region_key(region, page);
    unsigned char *at = region->base + page * mc_page_size;

    /* Read by the kernel first: in a page that is not there yet, its fault is the first one. */
    mc_must(write(k->pipe[1], at, mc_page_size) == (ssize_t)mc_page_size, "write to a pipe");
    mc_must(read(k->pipe[0], k->block, mc_page_size) == (ssize_t)mc_page_size, "read from a pipe");
    mc_block_check(k->block, mc_page_size, key, region->version[page]);

    region->writes++;
    mc_block_fill(k->block, mc_page_size, key, ++region->version[page]);
    ways[mc_random_below(sizeof(ways) / sizeof(*ways))](k, at);
}

void mc_mode_kernel(void *argument)
{
    struct kernel k = {0};

    (void)argument;
    mc_worker("kernel");
    k.region = mc_region_new(PAGES * 4);
    k.block = mc_map(mc_page_size);
    k.file = file_new(mc_options.directory, "kernel", 1);
    mc_must(pipe2(k.pipe, O_CLOEXEC) == 0, "pipe2");
    mc_must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, k.sockets) == 0, "socketpair");
    for (;;) {
        for (int i = 0; i < 4; i++)
            kernel_step(&k);
        if (mc_region_verify(&k.region, 16))
            mc_round();
        mc_pause(STEP_US);
    }
}
