/* A process that does nothing: threads in system calls that wait, and must wait as long as they
 * were asked to. */
#include "memcheck.h"
#include "workload.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Each waits this long, and returns what the call did: the kernel restarts all of these by itself
 * when a process is only stopped, so that no program expects an interruption. */
static int wait_nanosleep(uint64_t us)
{
    const struct timespec time = {.tv_sec = (time_t)(us / 1000000),
                                  .tv_nsec = (long)(us % 1000000) * 1000};

    return nanosleep(&time, NULL);
}

static int wait_absolute(uint64_t us)
{
    uint64_t until = wl_now_us() + us;
    const struct timespec time = {.tv_sec = (time_t)(until / 1000000),
                                  .tv_nsec = (long)(until % 1000000) * 1000};
    int result = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);

    errno = result;
    return result ? -1 : 0;
}

static int wait_poll(uint64_t us)
{
    return poll(NULL, 0, (int)(us / 1000));
}

static int wait_select(uint64_t us)
{
    struct timeval time = {.tv_sec = (time_t)(us / 1000000),
                           .tv_usec = (suseconds_t)(us % 1000000)};

    return select(0, NULL, NULL, NULL, &time);
}

static int wait_futex(uint64_t us)
{
    static uint32_t word;
    const struct timespec time = {.tv_sec = (time_t)(us / 1000000),
                                  .tv_nsec = (long)(us % 1000000) * 1000};
    long result = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0);

    return result < 0 && errno == ETIMEDOUT ? 0 : -1;
}

static int wait_condition(uint64_t us)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_condattr_t attributes;
    pthread_cond_t never;
    struct timespec until;

    /* The wall clock goes on while a process stands still. */
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&never, &attributes);
    clock_gettime(CLOCK_MONOTONIC, &until);
    us += (uint64_t)until.tv_nsec / 1000;
    until.tv_sec += (time_t)(us / 1000000);
    until.tv_nsec = (long)(us % 1000000) * 1000;
    pthread_mutex_lock(&lock);
    errno = pthread_cond_timedwait(&never, &lock, &until);
    pthread_mutex_unlock(&lock);
    return errno == ETIMEDOUT ? 0 : -1;
}

/* signal(7): this one may be interrupted when a process is stopped and goes on. */
static int wait_epoll(uint64_t us)
{
    int fd = epoll_create1(EPOLL_CLOEXEC), result;
    struct epoll_event event;
    uint64_t end = wl_now_us() + us;

    do {
        uint64_t now = wl_now_us();
        result = epoll_wait(fd, &event, 1, now < end ? (int)((end - now) / 1000) + 1 : 0);
    } while (result < 0 && errno == EINTR);
    close(fd);
    return result;
}

static const struct wait {
    const char *name;
    int (*wait)(uint64_t us);
    uint64_t us;
} waits[] = {
    {"nanosleep", wait_nanosleep, 900000},
    {"nanosleep of a day", wait_nanosleep, 86400000000},
    {"clock_nanosleep until a time", wait_absolute, 1100000},
    {"poll", wait_poll, 700000},
    {"select", wait_select, 800000},
    {"futex", wait_futex, 600000},
    {"pthread_cond_timedwait", wait_condition, 1000000},
    {"epoll_wait", wait_epoll, 1300000},
};

static void *waiter(void *argument)
{
    const struct wait *wait = argument;

    if (wait->us < 10000000)
        mc_worker("idle");
    for (;;) {
        uint64_t before = wl_now_us(), took;
        int result = wait->wait(wait->us);

        took = wl_now_us() - before;
        if (result != 0)
            mc_fail("%s answers %d, %s, after %" PRIu64 " of %" PRIu64 " us", wait->name, result,
                    strerror(errno), took, wait->us);
        if (took + 2000 < wait->us)
            mc_fail("%s took %" PRIu64 " instead of %" PRIu64 " us", wait->name, took, wait->us);
        mc_round();
    }
    return NULL;
}

/* A blocking read that is only ever answered by another thread. */
static void *reader(void *argument)
{
    const int fd = *(int *)argument;
    char byte;

    mc_worker("idle");
    for (;;) {
        mc_must(read(fd, &byte, 1) == 1, "read of a pipe");
        mc_round();
    }
    return NULL;
}

void mc_mode_idle(void *argument)
{
    static int ends[2];
    struct mc_region region;
    pthread_t thread;

    (void)argument;
    mc_worker("idle");
    region = mc_region_new(((uint64_t)4 << 20) / mc_page_size);
    mc_must(pipe(ends) == 0, "pipe");
    for (size_t i = 0; i < sizeof(waits) / sizeof(*waits); i++) {
        if (pthread_create(&thread, NULL, waiter, (void *)(uintptr_t)&waits[i]))
            mc_fail("pthread_create");
    }
    if (pthread_create(&thread, NULL, reader, ends))
        mc_fail("pthread_create");
    for (;;) {
        mc_region_check_all(&region);
        mc_count(region.pages);
        mc_round();
        mc_must(write(ends[1], "x", 1) == 1, "write to a pipe");
        mc_pause(1500000);
    }
}
