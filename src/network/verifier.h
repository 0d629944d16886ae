/* Verifier: is the container healthy where it is now, does it reach what it depends on, and do
 * others reach it? */
#ifndef FM_NETWORK_VERIFIER_H
#define FM_NETWORK_VERIFIER_H

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#define FM_VERIFY_REPORT 256 /* bytes */

struct fm_health_check {
    const char *kind;    /* "http", "tcp" */
    const char *target;  /* "http://:8080/healthz", "tcp://:6379" or ":6379"; the host part defaults
                            to `address` */
    const char *address; /* the container's, without prefix; with netns of the container "127.0.0.1"
                            works too */
    const char *netns;   /* run inside this namespace (path), or NULL: from the host */
    int attempts;
    uint64_t interval_ms;
    uint64_t timeout_ms; /* of an attempt */
    uint64_t limit_ms;   /* of all attempts together; 0: none */
};

/* 0 healthy; FM_E_FAILED "health check http://… answered 503 in 1.2 ms (3 attempts)". `report` (may
 * be NULL, FM_VERIFY_REPORT bytes) gets the last answer and its latency. HTTP by libcurl, 2xx and
 * 3xx are healthy. */
int fm_verify_health(const struct fm_health_check *check, char *report, struct fm_error *err);

/* A service that the container needs. */
struct fm_dependency {
    char kind[8];            /* "tcp", "http" (https as well) */
    char target[512];        /* "tcp://10.88.0.9:5432", "http://10.88.0.9/ready": by address */
    uint64_t max_latency_ms; /* until it is connected, or has answered with 2xx or 3xx */
    int attempts;
    uint64_t interval_ms;
};

/* "tcp://10.88.0.9:5432,500ms"; the latency is 1 s when it is left out, attempts are 3, 1 s apart.
 * FM_E_USAGE says what is wrong. */
int fm_dependency_parse(const char *text, struct fm_dependency *dependency, struct fm_error *err);

/* Asks from inside `netns` (NULL: from the host); one attempt in time is enough. FM_E_FAILED
 * "dependency tcp://10.88.0.9:5432 answers in 812 ms, allowed 500 ms (3 attempts)". limit_ms as in
 * a health check; report as above. */
int fm_verify_dependency(const struct fm_dependency *dependency, const char *netns,
                         uint64_t limit_ms, char *report, struct fm_error *err);

/* How somebody else sees an address. */
struct fm_reach {
    const char *address;   /* with or without prefix */
    const char *netns;     /* whose point of view (path); NULL: this host's */
    uint16_t port;         /* TCP connect; 0: ARP or neighbour discovery by … */
    const char *interface; /* … this one, such as the bridge of the network */
    const char *mac;       /* that it must have; NULL: whichever */
    int attempts;          /* 0: 3, at once one after the other */
    uint64_t timeout_ms;   /* of an attempt; 0: 1 s */
};

struct fm_reach_answer {
    char mac[18]; /* "": TCP does not tell */
    uint64_t latency_us;
    int attempts; /* made */
};

/* 0: it answers. FM_E_UNREACHABLE "address 10.88.0.5 does not answer ARP on fmbr0 (3 attempts of
 * 1000 ms)", FM_E_FAILED when another one answers, FM_E_REFUSED: the interface is down. */
int fm_verify_reachable(const struct fm_reach *reach, struct fm_reach_answer *answer,
                        struct fm_error *err);

#endif
