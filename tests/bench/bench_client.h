/**
 * @file
 * @brief The client of the benchmark: what the loop, the commands and the protocols share.
 */
#ifndef BENCH_CLIENT_H
#define BENCH_CLIENT_H

#include "../workloads/workload.h"

#define BENCH_DEPTH 1024 /* the most requests in flight, while filling and reading back */
#define BENCH_VALUE 1024
#define BENCH_REQUEST_MAX (BENCH_VALUE + 128)

enum bench_kind { BENCH_WRITE, BENCH_READ_BACK, BENCH_CHECK };

struct bench_request {
    enum bench_kind kind;
    uint64_t key;
    uint32_t version;
    uint64_t sent_us;
};

/** What a reply says of its request. */
enum bench_verdict { BENCH_GOOD, BENCH_ERROR, BENCH_LOST };

struct bench_protocol {
    /** Writes the request to @p out (BENCH_REQUEST_MAX bytes); returns its length. */
    size_t (*encode)(const struct bench_request *request, unsigned char *out);
    /** Bytes of the first whole reply in the buffer, 0 when it is not whole yet. @p newest is the
     * last version that was sent of the key: a write without a reply may have happened. */
    size_t (*judge)(const struct bench_request *request, uint32_t newest, const unsigned char *in,
                    size_t length, enum bench_verdict *verdict);
};

extern const struct bench_protocol bench_redis;
/** Frames that bench_memory echoes. */
extern const struct bench_protocol bench_ping;

#endif
