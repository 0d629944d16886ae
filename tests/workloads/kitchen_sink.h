/**
 * @file
 * @brief The parts of kitchen_sink: each subject is one kind of process state that verifies itself.
 */
#ifndef KITCHEN_SINK_H
#define KITCHEN_SINK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/** One kind of state. Every hook but name and start may be NULL. */
struct subject {
    const char *name;
    void (*start)(void);
    void (*pulse)(void);         /**< every 10 ms */
    void (*tick)(void);          /**< every 100 ms */
    void (*verify)(void);        /**< complains through sink_fail() */
    uint64_t (*progress)(void);  /**< must grow by itself, or SINK_IDLE when nothing is due */
    void (*corrupt)(void);       /**< breaks the state on purpose: verification must notice */
    void (*describe)(FILE *out); /**< more ` name=value` pairs for the answer to `check` */
};

#define SINK_IDLE UINT64_MAX

struct sink_options {
    const char *dir;     /**< for files */
    uint64_t pages;      /**< per memory region */
    const char *address; /**< to listen on */
    const char *port;    /**< TCP and UDP echo */
    const char *control; /**< port of the line protocol */
};

extern struct sink_options sink_options;

extern const struct subject subject_clock, subject_self, subject_signals;
extern const struct subject subject_unlinked, subject_append, subject_locks;
extern const struct subject subject_memory, subject_threads, subject_eventfd;
extern const struct subject subject_pipeline, subject_checker, subject_zombie;
extern const struct subject subject_timerfd, subject_itimer, subject_posix_timer;
extern const struct subject subject_net, subject_outgoing, subject_udp_out;

/** Records the first failure for good and prints it. Callable from every thread. */
void sink_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** `<dir>/kitchen.<name>`; a static buffer per call site is not needed: the caller frees it. */
char *sink_path(const char *name);

struct watch;
typedef void watch_handler(struct watch *watch, uint32_t events);

/** A file descriptor of the epoll set; owned by the loop until sink_unwatch(). */
struct watch {
    int fd;
    watch_handler *handle;
    void *context;
    bool gone;
    struct watch *next;
};

struct watch *sink_watch(int fd, uint32_t events, watch_handler *handle, void *context);
void sink_watch_events(struct watch *watch, uint32_t events);

/** Closes the descriptor; the watch itself lives until the events at hand are handled. */
void sink_unwatch(struct watch *watch);

/** Control commands of the network part: `connect ADDR PORT N` and `disconnect`. NULL: done. */
const char *net_connect(const char *address, const char *port, uint64_t count);
void net_disconnect(void);

/** Paths of the two locked files, for the child that checks them. */
const char *locks_flock_path(void);
const char *locks_fcntl_path(void);
bool locks_enabled(void);

/** The memory that parent and checker share, under a lock across processes. */
struct memory_shared;
struct memory_shared *memory_shared(void);

/** One step of the checker on it; false when it is damaged. */
bool memory_shared_step(struct memory_shared *shared);

/** One round of the worker thread: verify and change one page of every region. */
void memory_round(uint64_t round);

#endif
