/* A laboratory of hosts: network namespaces joined by an underlay bridge, each with a process that
 * drives a fabric. */
#ifndef FM_TESTS_NET_LAB_H
#define FM_TESTS_NET_LAB_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "network/network.h"

struct lab_host {
    int number;
    pid_t pid;      /* the "daemon" */
    int control;    /* socket to it */
    int netns_fd;   /* keeps the namespace when the daemon dies */
    char netns[64]; /* path of the namespace */
    char address[32];
};

enum lab_op {
    LAB_OPEN,
    LAB_CLOSE,
    LAB_ENDPOINT,
    LAB_STAGE,
    LAB_UNSTAGE,
    LAB_ACTIVATE,
    LAB_DEACTIVATE,
    LAB_SET_REMOTE,
    LAB_PEER,
    LAB_HOLD_PREPARE,
    LAB_HOLD_ENGAGE,
    LAB_HOLD_RELEASE,
    LAB_HOLD_FORWARD,
    LAB_HOLD_END,
    LAB_INSPECT,
    LAB_DEFINE,
    LAB_UNDEFINE,
    LAB_DESCRIBE,
    LAB_NEIGHBOURS,
    LAB_SET_NEIGHBOURS,
};

struct lab_request {
    enum lab_op op;
    char name[64];    /* container; LAB_OPEN: suffix of the device names */
    char ip[64];      /* container; LAB_OPEN: subnet */
    char host[64];    /* other host's address; "" is NULL; LAB_OPEN: gateway */
    bool flag;        /* active, present, teardown */
    uint32_t number;  /* LAB_OPEN: VNI; LAB_HOLD_PREPARE: max_frames; LAB_INSPECT: pid */
    char network[64]; /* "" is the default one */
    char ip6[64];
    struct fm_network_spec spec; /* LAB_DEFINE */
    char json[4096];             /* LAB_SET_NEIGHBOURS */
};

struct lab_reply {
    int rc;
    uint64_t us; /* what the call took */
    bool found, host;
    struct fm_endpoint ep;
    struct fm_hold_counters counters;
    char text[1024];
    char json[16384]; /* LAB_DESCRIBE, LAB_NEIGHBOURS */
};

/* Private network and mount namespaces for this process, with the underlay bridge. */
void lab_init(void);
/* Directory of a host's run files; the namespaces of containers are in there. */
const char *lab_run_dir(const struct lab_host *host);
void lab_host_start(struct lab_host *host, int number);
void lab_host_kill(struct lab_host *host);    /* kill -9 of the daemon; the namespace stays */
void lab_host_restart(struct lab_host *host); /* a new daemon in the same namespace */
void lab_host_stop(struct lab_host *host);
struct lab_reply lab_try(struct lab_host *host, struct lab_request request);
/* As lab_try, and the test fails when the call does. */
struct lab_reply lab_call(struct lab_host *host, struct lab_request request);

/* Shell command in a namespace; the caller frees its output. The test fails when it does. */
char *lab_sh(const char *netns, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A socket that lives in a namespace. */
int lab_socket(const char *netns, int domain, int type);
void lab_sleep_ms(unsigned ms);

#endif
