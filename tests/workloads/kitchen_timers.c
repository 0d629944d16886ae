/* Clocks and timers: they go on, at their pace, and none fires in the past. */
#include "kitchen_sink.h"
#include "workload.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define TIMERFD_MS 50
#define ITIMER_MS 70
#define POSIX_MS 60
#define POSIX_SIGNAL (SIGRTMIN + 1)
#define FAR_S 3600

struct periodic {
    const char *name;
    uint64_t interval_us;
    uint64_t start_us;
    _Atomic uint64_t count;
};

static struct periodic timerfd = {.name = "timerfd", .interval_us = TIMERFD_MS * 1000};
static struct periodic itimer = {.name = "itimer", .interval_us = ITIMER_MS * 1000};
static struct periodic posix_timer = {.name = "posix_timer", .interval_us = POSIX_MS * 1000};

static struct itimerspec every_ms(long ms)
{
    return (struct itimerspec){.it_interval.tv_nsec = ms * 1000000,
                               .it_value.tv_nsec = ms * 1000000};
}

/* More expirations than time has passed: it fired for a time that was not there. */
static void verify_pace(const struct periodic *timer)
{
    uint64_t count = timer->count;
    uint64_t elapsed = wl_now_us() - timer->start_us;

    if (count > elapsed / timer->interval_us + 2)
        sink_fail("%s: fired %" PRIu64 " times in %" PRIu64 " us", timer->name, count, elapsed);
}

/* A one-shot an hour away: still armed, and no time is left over or gone too fast. */
static void verify_far(const char *name, const struct itimerspec *left, uint64_t start_us)
{
    int64_t elapsed_s = (int64_t)(wl_now_us() - start_us) / 1000000;
    int64_t left_s = left->it_value.tv_sec;

    if (elapsed_s < FAR_S - 5 && (left_s > FAR_S || left_s < FAR_S - elapsed_s - 5))
        sink_fail("%s: the far one-shot has %" PRId64 " s left after %" PRId64 " s", name, left_s,
                  elapsed_s);
}

/* ---- clocks --------------------------------------------------------------------------------- */

static struct timespec last_seen[2];

static void clock_tick(void)
{
    static const clockid_t clocks[2] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME};

    for (int i = 0; i < 2; i++) {
        struct timespec now;

        clock_gettime(clocks[i], &now);
        if (now.tv_sec < last_seen[i].tv_sec ||
            (now.tv_sec == last_seen[i].tv_sec && now.tv_nsec < last_seen[i].tv_nsec))
            sink_fail("clock: %s went back", i ? "CLOCK_BOOTTIME" : "CLOCK_MONOTONIC");
        last_seen[i] = now;
    }
}

static void clock_corrupt(void)
{
    last_seen[0].tv_sec += FAR_S;
}

const struct subject subject_clock = {
    .name = "clock", .start = clock_tick, .tick = clock_tick, .corrupt = clock_corrupt};

/* ---- timerfd -------------------------------------------------------------------------------- */

static int timerfd_far;
static struct watch *timerfd_watch;

static void timerfd_fired(struct watch *watch, uint32_t events)
{
    uint64_t expirations;

    (void)events;
    if (read(watch->fd, &expirations, sizeof(expirations)) > 0)
        timerfd.count += expirations;
}

static void timerfd_start(void)
{
    struct itimerspec period = every_ms(TIMERFD_MS);
    struct itimerspec far = {.it_value.tv_sec = FAR_S};
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

    timerfd_far = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    timerfd.start_us = wl_now_us();
    if (fd < 0 || timerfd_far < 0 || timerfd_settime(fd, 0, &period, NULL) ||
        timerfd_settime(timerfd_far, 0, &far, NULL))
        wl_die("timerfd: %s", strerror(errno));
    timerfd_watch = sink_watch(fd, EPOLLIN, timerfd_fired, NULL);
}

static void timerfd_verify(void)
{
    struct itimerspec left;

    verify_pace(&timerfd);
    if (timerfd_gettime(timerfd_far, &left))
        sink_fail("timerfd: %s", strerror(errno));
    verify_far("timerfd", &left, timerfd.start_us);
}

static uint64_t timerfd_progress(void)
{
    return timerfd.count;
}

static void timerfd_corrupt(void)
{
    struct itimerspec stopped = {0};

    timerfd_settime(timerfd_watch->fd, 0, &stopped, NULL);
}

const struct subject subject_timerfd = {.name = "timerfd",
                                        .start = timerfd_start,
                                        .verify = timerfd_verify,
                                        .progress = timerfd_progress,
                                        .corrupt = timerfd_corrupt};

/* ---- setitimer, through a signal handler ---------------------------------------------------- */

static void itimer_fired(int number)
{
    (void)number;
    itimer.count++;
}

static void itimer_start(void)
{
    struct sigaction action = {.sa_handler = itimer_fired, .sa_flags = SA_RESTART};
    struct itimerval period = {.it_interval.tv_usec = ITIMER_MS * 1000,
                               .it_value.tv_usec = ITIMER_MS * 1000};

    itimer.start_us = wl_now_us();
    if (sigaction(SIGALRM, &action, NULL) || setitimer(ITIMER_REAL, &period, NULL))
        wl_die("setitimer: %s", strerror(errno));
}

static void itimer_verify(void)
{
    verify_pace(&itimer);
}

static uint64_t itimer_progress(void)
{
    return itimer.count;
}

static void itimer_corrupt(void)
{
    itimer.count += 1000000;
}

const struct subject subject_itimer = {.name = "itimer",
                                       .start = itimer_start,
                                       .verify = itimer_verify,
                                       .progress = itimer_progress,
                                       .corrupt = itimer_corrupt};

/* ---- POSIX timer, through a signalfd -------------------------------------------------------- */

static timer_t posix_near, posix_far;

static void posix_fired(struct watch *watch, uint32_t events)
{
    struct signalfd_siginfo info;

    (void)events;
    while (read(watch->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        posix_timer.count += 1 + info.ssi_overrun;
}

static void posix_start(void)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = POSIX_SIGNAL};
    struct itimerspec period = every_ms(POSIX_MS);
    struct itimerspec far = {.it_value.tv_sec = FAR_S};
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, POSIX_SIGNAL);
    sigprocmask(SIG_BLOCK, &set, NULL);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    posix_timer.start_us = wl_now_us();
    if (fd < 0 || timer_create(CLOCK_MONOTONIC, &event, &posix_near) ||
        timer_create(CLOCK_MONOTONIC, &event, &posix_far) ||
        timer_settime(posix_near, 0, &period, NULL) || timer_settime(posix_far, 0, &far, NULL))
        wl_die("timer_create: %s", strerror(errno));
    sink_watch(fd, EPOLLIN, posix_fired, NULL);
}

static void posix_verify(void)
{
    struct itimerspec left;

    verify_pace(&posix_timer);
    if (timer_gettime(posix_far, &left))
        sink_fail("posix_timer: %s", strerror(errno));
    verify_far("posix_timer", &left, posix_timer.start_us);
}

static uint64_t posix_progress(void)
{
    return posix_timer.count;
}

static void posix_corrupt(void)
{
    struct itimerspec stopped = {0};

    timer_settime(posix_far, 0, &stopped, NULL);
}

const struct subject subject_posix_timer = {.name = "posix_timer",
                                            .start = posix_start,
                                            .verify = posix_verify,
                                            .progress = posix_progress,
                                            .corrupt = posix_corrupt};
