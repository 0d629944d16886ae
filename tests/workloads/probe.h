/**
 * @file
 * @brief The two ends of probe: what they say to each other beside numbered frames.
 */
#ifndef PROBE_H
#define PROBE_H

#include "workload.h"

/** Of datagrams that are only counted: those above it are not. */
#define PROBE_MAX_COUNTED 1000000u

/** What who counts says of the datagrams, over TCP; then for each up to the highest number when it
 * came (epoch microseconds, 0: never). */
struct probe_count {
    uint64_t numbers; /**< highest one + 1 */
    uint64_t duplicates;
    uint64_t corrupt;
};

/** Echoes TCP and UDP frames, and answers `GET /BYTES` with what slowdownload verifies. */
int probe_serve(const struct sockaddr_storage *at);

/** Receives datagrams and is silent, until somebody connects. */
int probe_sink(const struct sockaddr_storage *at);

#endif
