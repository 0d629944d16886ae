/* The scene of one host with two networks, each with both families: two containers in `one`, one in
 * `two`, and a neighbour outside. */
#ifndef FM_TESTS_NET_ISOLATED_H
#define FM_TESTS_NET_ISOLATED_H

#include "net_lab.h"
#include "network/firewall.h"
#include "network/host_port.h"
#include "network/netns.h"

#define WEB "10.91.0.5"
#define WEB6 "fd00:91::5"
#define OTHER "10.91.0.6"
#define FAR "10.92.0.5"
#define FAR6 "fd00:92::5"
#define HOST "192.0.2.1" /* and .77 */
#define HOST6 "2001:db8::1"
#define OUTSIDE "192.0.2.2"
#define OUTSIDE6 "2001:db8::2"
#define PATIENCE_MS 300

extern struct lab_host host, outside;
/* Namespaces of the containers: web and other in network `one`, far in `two`. */
extern const char *const web, *const other, *const far;

/* Set-up and tear-down of a cmocka test. */
int isolated_start(void **state);
int isolated_stop(void **state);

/* What is done on the host, in its namespace. */
struct job {
    const struct fm_publication *list;
    size_t count;
    json_t *described;
    bool whole;
    const char *network, *bridge, *address, *address6; /* of a host port */
    struct fm_host_port_state state;
    char mac[FM_MAC_TEXT];
};
int isolated_try(fm_netns_fn run, struct job *job, struct fm_error *err);
/* As isolated_try, and the test fails when it does. */
void isolated_run(fm_netns_fn run, struct job *job);
/* Jobs. */
int job_apply(void *ctx, struct fm_error *err);    /* list, count */
int job_describe(void *ctx, struct fm_error *err); /* described, whole */
int job_remove(void *ctx, struct fm_error *err);
int job_make_port(void *ctx, struct fm_error *err); /* network, bridge, addresses; mac */
int job_read_port(void *ctx, struct fm_error *err); /* network; state */
int job_remove_port(void *ctx, struct fm_error *err);

/* Makes these the published ports. */
void publish(const struct fm_publication *list, size_t count);
/* Shell command on the host. */
void sh(const char *command);
int listen_at(const char *netns, const char *ip, uint16_t port);
/* A connection, or negative errno; -ETIMEDOUT when nobody answers. */
int reach(const char *netns, const char *ip, uint16_t port);
bool reaches(const char *netns, const char *ip, uint16_t port);
/* Who the server believes its latest client to be. */
void accept_from(int listener, const char *ip);
struct fm_ip parse_ip(const char *text);

#endif
