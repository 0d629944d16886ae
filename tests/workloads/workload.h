/**
 * @file
 * @brief What the test workloads share: clocks, options, TCP helpers, numbered frames, gap records.
 *
 * Standalone on purpose: the programs are linked statically, run in an empty root file system and
 * judge the migration from outside, so they use nothing of what they judge.
 */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <netinet/in.h>

/** Exit codes of every workload. */
enum { WL_EXIT_OK = 0, WL_EXIT_BAD = 1, WL_EXIT_USAGE = 2 };

/** Prints "<program>: <message>" and exits with WL_EXIT_USAGE. */
_Noreturn void wl_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** Microseconds of CLOCK_MONOTONIC. */
uint64_t wl_now_us(void);

/** Microseconds since the epoch (CLOCK_REALTIME). */
uint64_t wl_wall_us(void);

/** A 64-bit mixing function (the finaliser of SplitMix64): the source of every test pattern. */
uint64_t wl_mix(uint64_t value);

/** A non-negative number; suffixes k, m, g are powers of 1024. Dies naming @p what when malformed.
 */
uint64_t wl_number(const char *what, const char *text);

/** calloc that dies when memory is out. */
void *wl_alloc(size_t count, size_t size) __attribute__((returns_nonnull));

/** A signalfd for SIGTERM and SIGINT, which are blocked; SIGPIPE is ignored. */
int wl_stop_signals(void);

/** Writes an empty file, the sign to a test that the work is under way. NULL: nothing is done. */
void wl_ready(const char *path);

/** An IPv4 or IPv6 address and port; dies when malformed. */
struct sockaddr_storage wl_address(const char *address, const char *port);

/** Connects with TCP_NODELAY, non-blocking; retries until @p wait_ms have passed. -1 with errno. */
int wl_tcp_connect(const struct sockaddr_storage *to, uint64_t wait_ms);

/** Listens (non-blocking; "::" for IPv4 as well); dies when it cannot. */
int wl_tcp_listen(const struct sockaddr_storage *at);

/** Accepts one connection, non-blocking, TCP_NODELAY. -1 when there is none. */
int wl_tcp_accept(int listener);

/** A bound, non-blocking UDP socket; dies when it cannot. */
int wl_udp_bind(const struct sockaddr_storage *at);

/** A connected, non-blocking UDP socket; dies when it cannot. */
int wl_udp_connect(const struct sockaddr_storage *to);

/* ---- numbered frames ------------------------------------------------------------------------ */

/** What the sender of a connection's first frame asks of the receiver. */
enum wl_mode {
    WL_ECHO = 'e',      /**< echo every frame */
    WL_PEER_HALF = 'p', /**< the sender will close its direction; then frames flow back to it */
    WL_SELF_HALF = 's', /**< the receiver closes its direction at once and goes on reading */
};

/** One message: 64 bytes that name their connection and their number. */
struct wl_frame {
    uint32_t magic;
    uint32_t mode;    /**< enum wl_mode */
    uint64_t id;      /**< the connection, chosen by the sender */
    uint64_t seq;     /**< 0, 1, 2, … within the connection */
    uint64_t sent_us; /**< epoch microseconds when it was sent first */
    uint64_t body[4]; /**< follows from id and seq */
};

struct wl_frame wl_frame_make(enum wl_mode mode, uint64_t id, uint64_t seq);

/** Whether it is intact: magic and body. */
bool wl_frame_intact(const struct wl_frame *frame);

/** A non-blocking TCP connection that carries frames; starts zeroed but for fd. */
struct wl_stream {
    int fd;
    size_t in_length;
    size_t out_length;
    unsigned char in[sizeof(struct wl_frame)];
    unsigned char out[64 * 1024];
};

/** Results of wl_stream_next beside a negative errno. */
enum { WL_STREAM_EMPTY = 0, WL_STREAM_FRAME = 1, WL_STREAM_EOF = 2 };

/** The next whole frame, if there is one. */
int wl_stream_next(struct wl_stream *stream, struct wl_frame *frame);

/** Sends or queues a frame; -ENOBUFS when the queue is full, or the error of the connection. */
int wl_stream_send(struct wl_stream *stream, const struct wl_frame *frame);

/** Sends what is queued as far as the socket takes it; 0 or a negative errno. */
int wl_stream_flush(struct wl_stream *stream);

/** Whether one more frame fits the queue. */
bool wl_stream_has_room(const struct wl_stream *stream);

/* ---- downloads ------------------------------------------------------------------------------ */

/** The eight bytes at @p word * 8 of every file that slowdownload fetches. */
uint64_t wl_body_word(uint64_t word);

/* ---- silences ------------------------------------------------------------------------------- */

struct wl_gap {
    uint64_t at_us; /**< epoch microseconds of its start */
    uint64_t length_us;
};

/** The silences of one connection. */
struct wl_gaps {
    uint64_t threshold_us; /**< only longer ones are listed and summed up */
    uint64_t max_us;
    uint64_t max_at_us; /**< epoch microseconds at which the longest one began */
    uint64_t stall_us;  /**< sum of the listed ones */
    size_t count;
    struct wl_gap *list;
};

/** Records a silence between two wl_now_us() times. */
void wl_gaps_note(struct wl_gaps *gaps, uint64_t from_us, uint64_t until_us);

/** Prints `"max_gap_ms":…,"max_gap_at_ms":…,"stall_ms":…,"gaps":[…]`. */
void wl_gaps_print(FILE *out, const struct wl_gaps *gaps);

#endif
