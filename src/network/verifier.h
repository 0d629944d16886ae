/* Verifier: is the container healthy where it is now? */
#ifndef FM_NETWORK_VERIFIER_H
#define FM_NETWORK_VERIFIER_H

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct fm_health_check {
    const char *kind;    /* "http", "tcp" */
    const char *target;  /* "http://:8080/healthz", "tcp://:6379" or ":6379"; the host part defaults
                            to `address` */
    const char *address; /* the container's, without prefix; with netns of the container "127.0.0.1"
                            works too */
    const char *netns;   /* run inside this namespace (path), or NULL: from the host */
    int attempts;
    uint64_t interval_ms;
    uint64_t timeout_ms;
};

/* 0 healthy; FM_E_FAILED "health check http://… answered 503 (3 attempts)". `report` (may be NULL,
 * 256 bytes) gets the last answer and its latency. HTTP by libcurl, 2xx and 3xx are healthy. */
int fm_verify_health(const struct fm_health_check *check, char *report, struct fm_error *err);

#endif
