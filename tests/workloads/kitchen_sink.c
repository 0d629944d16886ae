/*
 * A container's main process that holds one of everything a migration must carry, verifies all of
 * it all the time, and says so: `tick N` on stdout, `check` on a control port.
 */
#include "kitchen_sink.h"
#include "workload.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define PULSE_US 10000
#define PULSES_PER_TICK 10
#define CHECK_TICKS 50
#define VERIFY_TICKS 5

struct sink_options sink_options = {
    .dir = "/tmp", .pages = 256, .address = "0.0.0.0", .port = "7000", .control = "7001"};

/* Locks and memory come before the fork of the tree, and the tree before the threads. */
static const struct subject *const subjects[] = {
    &subject_clock,   &subject_self,    &subject_signals,     &subject_unlinked, &subject_append,
    &subject_locks,   &subject_memory,  &subject_pipeline,    &subject_checker,  &subject_zombie,
    &subject_timerfd, &subject_itimer,  &subject_posix_timer, &subject_net,      &subject_outgoing,
    &subject_udp_out, &subject_threads, &subject_eventfd,
};
#define SUBJECTS (sizeof(subjects) / sizeof(subjects[0]))

struct control {
    struct watch *watch;
    size_t length;
    char line[256];
    int check_ticks; /* left; 0: no check under way */
    uint64_t before[SUBJECTS];
    struct control *next;
};

static bool enabled[SUBJECTS];
static int epoll_fd;
static struct watch *watches, *graveyard;
static struct control *controls;
static uint64_t ticks;
static bool quitting;
static pthread_mutex_t failure_lock = PTHREAD_MUTEX_INITIALIZER;
static char failure[256];

void sink_fail(const char *format, ...)
{
    va_list args;

    pthread_mutex_lock(&failure_lock);
    if (!failure[0]) {
        va_start(args, format);
        vsnprintf(failure, sizeof(failure), format, args);
        va_end(args);
        fprintf(stderr, "FAIL %s\n", failure);
    }
    pthread_mutex_unlock(&failure_lock);
}

char *sink_path(const char *name)
{
    char *path;

    if (asprintf(&path, "%s/kitchen.%s", sink_options.dir, name) < 0)
        wl_die("out of memory");
    return path;
}

/* ---- the epoll set -------------------------------------------------------------------------- */

struct watch *sink_watch(int fd, uint32_t events, watch_handler *handle, void *context)
{
    struct watch *watch = wl_alloc(1, sizeof(*watch));
    struct epoll_event event = {.events = events, .data.ptr = watch};

    *watch = (struct watch){.fd = fd, .handle = handle, .context = context, .next = watches};
    watches = watch;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event))
        wl_die("epoll_ctl: %s", strerror(errno));
    return watch;
}

void sink_watch_events(struct watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};

    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, watch->fd, &event);
}

void sink_unwatch(struct watch *watch)
{
    for (struct watch **at = &watches; *at; at = &(*at)->next) {
        if (*at == watch) {
            *at = watch->next;
            break;
        }
    }
    close(watch->fd);
    watch->gone = true;
    watch->next = graveyard;
    graveyard = watch;
}

static void bury(void)
{
    while (graveyard) {
        struct watch *watch = graveyard;

        graveyard = watch->next;
        free(watch);
    }
}

/* ---- checks --------------------------------------------------------------------------------- */

static void verify_all(void)
{
    for (size_t i = 0; i < SUBJECTS; i++) {
        if (enabled[i] && subjects[i]->verify)
            subjects[i]->verify();
    }
}

static uint64_t progress(size_t i)
{
    return enabled[i] && subjects[i]->progress ? subjects[i]->progress() : SINK_IDLE;
}

static void reply(struct control *control, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void reply(struct control *control, const char *format, ...)
{
    char line[1024];
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(line, sizeof(line) - 1, format, args);
    va_end(args);
    if (length > (int)sizeof(line) - 2)
        length = sizeof(line) - 2;
    line[length++] = '\n';
    if (write(control->watch->fd, line, (size_t)length) < 0)
        perror("control");
}

static void reply_state(struct control *control)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out;

    if (failure[0]) {
        reply(control, "FAIL %s", failure);
        return;
    }
    out = open_memstream(&text, &size);
    if (!out)
        wl_die("out of memory");
    fprintf(out, "ok tick=%" PRIu64, ticks);
    for (size_t i = 0; i < SUBJECTS; i++) {
        uint64_t value = progress(i);

        if (value != SINK_IDLE)
            fprintf(out, " %s=%" PRIu64, subjects[i]->name, value);
        if (enabled[i] && subjects[i]->describe)
            subjects[i]->describe(out);
    }
    fclose(out);
    reply(control, "%s", text);
    free(text);
}

static void check_begin(struct control *control)
{
    control->check_ticks = CHECK_TICKS;
    for (size_t i = 0; i < SUBJECTS; i++)
        control->before[i] = progress(i);
}

/* A check ends when all that should move has moved since it was asked for, or time is up. Time
 * is counted in our own ticks, so being frozen does not count. */
static void check_continue(struct control *control)
{
    char stalled[128] = "";

    for (size_t i = 0; i < SUBJECTS; i++) {
        uint64_t now = progress(i);
        size_t length = strlen(stalled);

        if (now != SINK_IDLE && control->before[i] != SINK_IDLE && now <= control->before[i])
            snprintf(stalled + length, sizeof(stalled) - length, " %s", subjects[i]->name);
    }
    control->check_ticks--;
    if (stalled[0] && control->check_ticks > 0 && !failure[0])
        return;
    control->check_ticks = 0;
    if (stalled[0])
        sink_fail("no progress:%s", stalled);
    verify_all();
    reply_state(control);
}

/* ---- the control port ----------------------------------------------------------------------- */

static void corrupt(struct control *control, const char *name)
{
    for (size_t i = 0; i < SUBJECTS; i++) {
        if (strcmp(subjects[i]->name, name) == 0 && enabled[i] && subjects[i]->corrupt) {
            subjects[i]->corrupt();
            reply(control, "ok");
            return;
        }
    }
    reply(control, "error cannot corrupt '%s'", name);
}

static void command(struct control *control, char *line)
{
    char *words[4] = {"", "", "", ""};
    char *rest = line;
    const char *problem;

    for (int i = 0; i < 4 && rest; i++)
        words[i] = strsep(&rest, " \r");
    if (strcmp(words[0], "check") == 0) {
        check_begin(control);
    } else if (strcmp(words[0], "status") == 0) {
        reply_state(control);
    } else if (strcmp(words[0], "connect") == 0) {
        problem = net_connect(words[1], words[2], strtoull(words[3], NULL, 10));
        reply(control, problem ? "error %s" : "ok", problem);
    } else if (strcmp(words[0], "disconnect") == 0) {
        net_disconnect();
        reply(control, "ok");
    } else if (strcmp(words[0], "corrupt") == 0) {
        corrupt(control, words[1]);
    } else if (strcmp(words[0], "quit") == 0) {
        quitting = true;
        reply(control, "ok");
    } else {
        reply(control, "error commands: check status connect disconnect corrupt quit");
    }
}

static void control_close(struct control *control)
{
    for (struct control **at = &controls; *at; at = &(*at)->next) {
        if (*at == control) {
            *at = control->next;
            break;
        }
    }
    sink_unwatch(control->watch);
    free(control);
}

static void control_read(struct watch *watch, uint32_t events)
{
    struct control *control = watch->context;
    ssize_t got = read(watch->fd, control->line + control->length,
                       sizeof(control->line) - 1 - control->length);
    char *end;

    (void)events;
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        control_close(control);
        return;
    }
    control->length += (size_t)got;
    control->line[control->length] = '\0';
    while ((end = strchr(control->line, '\n'))) {
        *end = '\0';
        command(control, control->line);
        control->length -= (size_t)(end + 1 - control->line);
        memmove(control->line, end + 1, control->length + 1);
    }
}

static void control_accept(struct watch *watch, uint32_t events)
{
    int fd = wl_tcp_accept(watch->fd);
    struct control *control;

    (void)events;
    if (fd < 0)
        return;
    control = wl_alloc(1, sizeof(*control));
    control->watch = sink_watch(fd, EPOLLIN, control_read, control);
    control->next = controls;
    controls = control;
}

/* ---- the loop ------------------------------------------------------------------------------- */

static void tick(void)
{
    char line[32];
    int length;

    ticks++;
    length = snprintf(line, sizeof(line), "tick %" PRIu64 "\n", ticks);
    if (write(STDOUT_FILENO, line, (size_t)length) < 0 && errno != EAGAIN)
        sink_fail("stdout: %s", strerror(errno));
    for (size_t i = 0; i < SUBJECTS; i++) {
        if (enabled[i] && subjects[i]->tick)
            subjects[i]->tick();
    }
    if (ticks % VERIFY_TICKS == 0)
        verify_all();
    for (struct control *at = controls, *next; at; at = next) {
        next = at->next;
        if (at->check_ticks)
            check_continue(at);
    }
}

static void on_stop(struct watch *watch, uint32_t events)
{
    (void)watch;
    (void)events;
    quitting = true;
}

/* By the loop's own clock and not by a timer of the kernel: a timer that a migration has lost must
 * be reported, and so must not be what the report depends on. */
static void pulse(uint64_t *next_us)
{
    static uint64_t pulses;
    uint64_t now = wl_now_us();

    if (now < *next_us)
        return;
    *next_us = now + PULSE_US;
    for (size_t i = 0; i < SUBJECTS; i++) {
        if (enabled[i] && subjects[i]->pulse)
            subjects[i]->pulse();
    }
    if (++pulses % PULSES_PER_TICK == 0)
        tick();
}

static void run(void)
{
    struct epoll_event events[64];
    uint64_t next_us = wl_now_us() + PULSE_US;

    while (!quitting) {
        uint64_t now = wl_now_us();
        int wait_ms = now < next_us ? (int)((next_us - now) / 1000) + 1 : 0;
        int count = epoll_wait(epoll_fd, events, 64, wait_ms);

        if (count < 0 && errno != EINTR)
            wl_die("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < count; i++) {
            struct watch *watch = events[i].data.ptr;

            if (!watch->gone)
                watch->handle(watch, events[i].events);
        }
        bury();
        pulse(&next_us);
        bury();
    }
}

static void open_control(void)
{
    struct sockaddr_storage at = wl_address(sink_options.address, sink_options.control);

    sink_watch(wl_tcp_listen(&at), EPOLLIN, control_accept, NULL);
}

static void usage(void)
{
    fputs("usage: kitchen_sink [options]\n"
          "  --dir DIR        for files (default /tmp)\n"
          "  --pages N        per memory region (default 256)\n"
          "  --address ADDR   to listen on (default 0.0.0.0)\n"
          "  --port P         TCP and UDP echo of frames (default 7000)\n"
          "  --control P      line protocol (default 7001): check, status, connect ADDR PORT N,\n"
          "                   disconnect, corrupt NAME, quit\n"
          "  --without NAMES  comma-separated subjects to leave out:",
          stderr);
    for (size_t i = 0; i < SUBJECTS; i++)
        fprintf(stderr, " %s", subjects[i]->name);
    fputc('\n', stderr);
    exit(WL_EXIT_USAGE);
}

static void leave_out(char *names)
{
    char *name;

    while ((name = strsep(&names, ","))) {
        size_t i = 0;

        while (i < SUBJECTS && strcmp(subjects[i]->name, name) != 0)
            i++;
        if (i == SUBJECTS)
            wl_die("--without: no subject '%s'", name);
        enabled[i] = false;
    }
}

static void parse_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"dir", required_argument, NULL, 'd'},
        {"pages", required_argument, NULL, 'n'},
        {"address", required_argument, NULL, 'a'},
        {"port", required_argument, NULL, 'p'},
        {"control", required_argument, NULL, 'c'},
        {"without", required_argument, NULL, 'w'},
        {NULL, 0, NULL, 0},
    };
    int c;

    for (size_t i = 0; i < SUBJECTS; i++)
        enabled[i] = true;
    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        if (c == 'd')
            sink_options.dir = optarg;
        else if (c == 'n')
            sink_options.pages = wl_number("--pages", optarg);
        else if (c == 'a')
            sink_options.address = optarg;
        else if (c == 'p')
            sink_options.port = optarg;
        else if (c == 'c')
            sink_options.control = optarg;
        else if (c == 'w')
            leave_out(optarg);
        else
            usage();
    }
    if (optind != argc || sink_options.pages < 2)
        usage();
}

bool locks_enabled(void)
{
    for (size_t i = 0; i < SUBJECTS; i++) {
        if (subjects[i] == &subject_locks)
            return enabled[i];
    }
    return false;
}

int main(int argc, char **argv)
{
    int stop_fd = wl_stop_signals();

    parse_options(argc, argv);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    sink_watch(stop_fd, EPOLLIN, on_stop, NULL);
    for (size_t i = 0; i < SUBJECTS; i++) {
        if (enabled[i])
            subjects[i]->start();
    }
    open_control();
    fprintf(stderr, "ready\n");
    run();
    return failure[0] ? WL_EXIT_BAD : WL_EXIT_OK;
}
