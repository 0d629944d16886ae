/*
 * Rare things that a process may have, each in a process of its own that verifies it: a line "ok N"
 * when all have done so N times. A first argument names the ones to run, separated by commas; some
 * cannot be moved at all.
 */
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BYTES ((size_t)64 << 10)
#define WORDS (BYTES / sizeof(uint64_t))
#define MAX_CASES 32
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#ifndef SYS_mseal
#define SYS_mseal 462
#endif

static _Atomic uint64_t *checks; /* of each case */
static const char *name;
static size_t own;

static _Noreturn void fail(const char *what)
{
    printf("FAIL %s: %s (%s)\n", name, what, strerror(errno));
    fflush(stdout);
    _exit(WL_EXIT_BAD);
}

static void must(bool holds, const char *what)
{
    if (!holds)
        fail(what);
}

static _Noreturn void skip(const char *why)
{
    printf("SKIPPED %s: %s (%s)\n", name, why, strerror(errno));
    fflush(stdout);
    checks[own] = UINT64_MAX;
    _exit(0);
}

/* ---- content --------------------------------------------------------------------------------- */

static uint64_t *memory;
static uint64_t version;

static uint64_t word(uint64_t i, uint64_t of_version)
{
    return wl_mix(of_version * WORDS + i) | 1;
}

static void fill(uint64_t *at, uint64_t of_version)
{
    for (size_t i = 0; i < WORDS; i++)
        at[i] = word(i, of_version);
}

static void check(const uint64_t *at, size_t words, uint64_t of_version)
{
    for (size_t i = 0; i < words; i++)
        must(at[i] == word(i, of_version), "memory differs");
}

static void check_and_change(void)
{
    check(memory, WORDS, version);
    fill(memory, ++version);
}

static void use(void *mapped)
{
    must(mapped != MAP_FAILED, "mmap");
    memory = mapped;
    fill(memory, version);
}

static void *map(size_t bytes, int access, int flags, int fd)
{
    return mmap(NULL, bytes, access, flags, fd, 0);
}

/* ---- the cases: a start, and what must hold ever after --------------------------------------- */

static void segment_start(void)
{
    int id = shmget(IPC_PRIVATE, BYTES, IPC_CREAT | 0600);

    use(shmat(id, NULL, 0));
    shmctl(id, IPC_RMID, NULL);
}

static int sealed_fd(void)
{
    int fd = memfd_create("oddities", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    must(fd >= 0 && ftruncate(fd, BYTES) == 0, "memfd_create");
    return fd;
}

/* Nobody may write to the file any more; a private mapping of it may be. */
static void sealed_start(void)
{
    int fd = sealed_fd();
    void *writable = map(BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd);

    use(writable);
    munmap(writable, BYTES);
    must(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW) == 0, "F_ADD_SEALS");
    memory = map(BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
}

static void future_start(void)
{
    int fd = sealed_fd();

    use(map(BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd));
    must(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0, "F_ADD_SEALS");
}

static void growing_start(void)
{
    use(map(BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1));
}

static void droppable_start(void)
{
    memory = map(BYTES, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1);
    if (memory == MAP_FAILED)
        skip("MAP_DROPPABLE");
    fill(memory, version);
}

static void droppable_check(void)
{
    for (size_t i = 0; i < WORDS; i++)
        must(memory[i] == 0 || memory[i] == word(i, version), "memory differs");
    fill(memory, ++version);
}

static void zero_private_start(void)
{
    use(map(BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, open("/dev/zero", O_RDWR | O_CLOEXEC)));
}

static void zero_shared_start(void)
{
    use(map(BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, open("/dev/zero", O_RDWR | O_CLOEXEC)));
}

static void wiped_start(void)
{
    use(map(BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1));
    madvise(memory, BYTES, MADV_WIPEONFORK);
}

static void wiped_check(void)
{
    int status;
    pid_t pid;

    check_and_change();
    pid = fork();
    if (pid == 0)
        _exit(memory[7] != 0);
    must(waitpid(pid, &status, 0) == pid && status == 0, "WIPEONFORK was forgotten");
}

static void executable_start(void)
{
    use(map(BYTES, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1));
}

static int semaphore, messages;

static void ipc_start(void)
{
    struct {
        long type;
        char text[8];
    } message = {1, "message"};

    semaphore = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
    messages = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
    must(semctl(semaphore, 0, SETVAL, 42) == 0, "semctl");
    for (int i = 0; i < 2; i++)
        must(msgsnd(messages, &message, sizeof(message.text), 0) == 0, "msgsnd");
}

static void ipc_check(void)
{
    struct msqid_ds queue;

    must(semctl(semaphore, 0, GETVAL) == 42, "the semaphore's value");
    must(msgctl(messages, IPC_STAT, &queue) == 0 && queue.msg_qnum == 2, "the messages");
}

/* Content here and there in a terabyte that is otherwise never touched. */
#define SPARSE ((size_t)1 << 40)
#define ISLANDS 64

static unsigned char *sparse;

static uint64_t *island(size_t i)
{
    return (uint64_t *)(void *)(sparse + i * (SPARSE / ISLANDS));
}

static void sparse_start(void)
{
    sparse = map(SPARSE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    if (sparse == MAP_FAILED)
        skip("a terabyte");
    for (size_t i = 0; i < ISLANDS; i++)
        fill(island(i), i);
}

static void sparse_check(void)
{
    for (size_t i = 0; i < ISLANDS; i++)
        check(island(i), WORDS, i);
    must(sparse[SPARSE / ISLANDS / 2 + version++ % 4096] == 0, "a page that was never written");
}

/* Mappings that cannot merge: every other page is readable. */
#define MAPPINGS ((size_t)4000)

static size_t page_size;

static uint64_t *page_of(size_t i)
{
    return (uint64_t *)(void *)(sparse + 2 * i * page_size);
}

static void mappings_start(void)
{
    sparse = map(2 * MAPPINGS * page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    for (size_t i = 0; i < MAPPINGS; i++) {
        must(mprotect(page_of(i), page_size, PROT_READ | PROT_WRITE) == 0, "mprotect");
        page_of(i)[0] = word(0, i);
    }
}

static void mappings_check(void)
{
    for (size_t i = 0; i < MAPPINGS; i++)
        must(page_of(i)[0] == word(0, i), "a small mapping differs");
}

static void zombie_start(void)
{
    if (fork() == 0)
        _exit(3);
}

static void zombie_check(void)
{
    int status;

    if (version++ < 40)
        return;
    must(wait(&status) > 0 && WEXITSTATUS(status) == 3, "the zombie's exit status");
    zombie_start();
    version = 0;
}

static pid_t stopped;

static void stopped_start(void)
{
    use(map(BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1));
    stopped = fork();
    if (stopped == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
            raise(SIGSTOP);
            check(memory, WORDS, 0);
        }
    }
}

static void stopped_check(void)
{
    int status;

    must(waitpid(stopped, &status, WUNTRACED | WNOHANG) >= 0, "waitpid");
    if (version++ % 20 == 19)
        must(kill(stopped, SIGCONT) == 0, "SIGCONT");
}

static int file_new(const char *path, size_t bytes)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    must(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0, path);
    return fd;
}

static void unlinked_start(void)
{
    int fd = file_new("/tmp/unlinked", 128 * BYTES);

    unlink("/tmp/unlinked");
    use(map(128 * BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd));
}

/* All behind the first page of the file is out of reach, and yet mapped. */
static void truncated_start(void)
{
    int fd = file_new("/tmp/truncated", BYTES);

    use(map(BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd));
    must(ftruncate(fd, (off_t)page_size) == 0, "ftruncate");
}

static void truncated_check(void)
{
    check(memory, page_size / sizeof(uint64_t), version);
}

/* ---- what does not move, or not as it is ----------------------------------------------------- */

static void mseal_start(void)
{
    use(map(BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1));
    if (syscall(SYS_mseal, memory, BYTES, 0) != 0)
        skip("mseal");
}

static void queue_start(void)
{
    struct mq_attr attributes = {.mq_maxmsg = 4, .mq_msgsize = 64};
    mqd_t queue = mq_open("/oddities", O_CREAT | O_RDWR, 0600, &attributes);

    must(queue >= 0 && mq_send(queue, "x", 1, 0) == 0, "mq_open");
    mq_close(queue);
}

static void *outlive(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void leader_start(void)
{
    pthread_t thread;

    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pthread_create(&thread, NULL, outlive, NULL);
        pthread_exit(NULL);
    }
}

static void nothing(void)
{
}

static const struct oddity {
    const char *name;
    void (*start)(void);
    void (*check)(void);
    bool moves;
} oddities[] = {
    {"segment", segment_start, check_and_change, true}, /* System V, removed but attached */
    {"sealed", sealed_start, check_and_change, true},
    {"future", future_start, check_and_change, true},
    {"growing", growing_start, check_and_change, true},
    {"droppable", droppable_start, droppable_check, true},
    {"zero-private", zero_private_start, check_and_change, true},
    {"zero-shared", zero_shared_start, check_and_change, true},
    {"wiped", wiped_start, wiped_check, true},
    {"executable", executable_start, check_and_change, true},
    {"ipc", ipc_start, ipc_check, true},
    {"sparse", sparse_start, sparse_check, true},
    {"mappings", mappings_start, mappings_check, true},
    {"zombie", zombie_start, zombie_check, true},
    {"stopped", stopped_start, stopped_check, true},
    {"unlinked", unlinked_start, check_and_change, true},
    {"truncated", truncated_start, truncated_check, true},
    {"mseal", mseal_start, check_and_change, false},
    {"queue", queue_start, nothing, false},
    {"leader", leader_start, nothing, false},
};
#define COUNT (sizeof(oddities) / sizeof(*oddities))

/* ---- main ------------------------------------------------------------------------------------ */

static void doze(void)
{
    const struct timespec time = {.tv_nsec = 20000000};

    nanosleep(&time, NULL);
}

static void run(size_t i)
{
    if (fork() != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    own = i;
    name = oddities[i].name;
    oddities[i].start();
    for (;;) {
        oddities[i].check();
        checks[i]++;
        doze();
    }
}

/* "a,b,c" holds the name. */
static bool is_named(const char *list, const char *one)
{
    const char *at = list ? strstr(list, one) : NULL;
    const size_t length = strlen(one);

    return at && (at == list || at[-1] == ',') && (at[length] == '\0' || at[length] == ',');
}

static uint64_t least_checks(const bool *chosen)
{
    uint64_t least = UINT64_MAX;

    for (size_t i = 0; i < COUNT; i++) {
        if (chosen[i] && checks[i] < least)
            least = checks[i];
    }
    return least;
}

int main(int argc, char **argv)
{
    bool chosen[COUNT];
    uint64_t said = 0, now;
    int status;

    page_size = (size_t)sysconf(_SC_PAGESIZE);
    checks =
        map(MAX_CASES * sizeof(*checks), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    setvbuf(stdout, NULL, _IOLBF, 4096);
    for (size_t i = 0; i < COUNT; i++) {
        chosen[i] = argc > 1 ? is_named(argv[1], oddities[i].name) : oddities[i].moves;
        if (chosen[i])
            run(i);
    }
    for (;;) {
        while (waitpid(-1, &status, WNOHANG) > 0) {
            if (status)
                return WL_EXIT_BAD;
        }
        now = least_checks(chosen);
        if (now != said && now != UINT64_MAX)
            printf("ok %llu\n", (unsigned long long)now);
        said = now;
        for (int i = 0; i < 5; i++)
            doze();
    }
}
