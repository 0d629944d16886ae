/* The scene of most network tests: a server's container on host A with a place on B, its client on
 * C. */
#ifndef FM_TESTS_NET_SCENE_H
#define FM_TESTS_NET_SCENE_H

#include "net_lab.h"

#define SERVER_IP "10.88.0.5"
#define CLIENT_IP "10.88.0.9"
#define SERVER .name = "server", .ip = SERVER_IP
#define CLIENT .name = "client", .ip = CLIENT_IP

/* CALL(host_a, LAB_STAGE, SERVER, .flag = true): the test fails when the call does; TRY looks at
 * the reply. */
#define CALL(where, what, ...) lab_call(&(where), (struct lab_request){.op = (what), ##__VA_ARGS__})
#define TRY(where, what, ...) lab_try(&(where), (struct lab_request){.op = (what), ##__VA_ARGS__})

extern struct lab_host host_a, host_b, host_c;

struct scene {
    char a[128], b[128], client[128]; /* network namespaces */
};

void open_fabric(struct lab_host *host);
void join_peers(struct lab_host *host, const struct lab_host *const others[], size_t count);
/* Tells a host where the container with this address is. */
void set_remote(struct lab_host *host, const char *ip, const char *where);
/* Three hosts; C is a fabric member too, or (learning) somebody's plain bridge and VXLAN. */
void start_hosts(bool learning);
void stop_hosts(void);
struct scene stage_all(bool learning);
/* The test fails when `once` is not in time three times running. This machine may be busy: one late
 * answer is its scheduler's, three are ours. What must never happen is asserted in `once`. */
#define ASSERT_IN_TIME(once) assert_true((once) || (once) || (once))
/* Commit of the hold on A to B. */
struct lab_reply forward_to_b(void);

#endif
