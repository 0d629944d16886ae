/* Probes: one question to a service, by TCP or HTTP, and how long its answer takes. Private to the
 * verifier. */
#ifndef FM_NETWORK_PROBE_H
#define FM_NETWORK_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "network/address.h"

struct fm_probe_target {
    const char *what;    /* in errors: "health check" */
    const char *kind;    /* "http", "tcp" */
    const char *text;    /* "http://:8080/healthz", "tcp://:6379", ":6379" */
    const char *address; /* where the text names no host; may be NULL */
};

struct fm_probe {
    bool http;
    char url[512]; /* complete, for HTTP and for people */
    struct fm_ip ip;
    uint16_t port;
    uint64_t timeout_ms;
    /* What the last attempt met. */
    bool healthy;   /* connected, or 2xx or 3xx */
    bool timed_out; /* no answer at all */
    uint64_t took_us;
    char said[160]; /* "answered 200", "Connection refused" */
};

/* FM_E_INVALID when the target is not understood. Only with HTTP the host may be a name. */
int fm_probe_parse(const struct fm_probe_target *target, struct fm_probe *probe,
                   struct fm_error *err);
/* One attempt, inside a network namespace (its path) or in ours (NULL). */
void fm_probe_try(struct fm_probe *probe, const char *netns);

#endif
