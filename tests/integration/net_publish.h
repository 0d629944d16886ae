/* The scene of published ports: a server's container on host A, three hosts with addresses of their
 * own in its network, and a client that is only outside, where the hosts are. */
#ifndef FM_TESTS_NET_PUBLISH_H
#define FM_TESTS_NET_PUBLISH_H

#include "net_scene.h"
#include "network/firewall.h"
#include "network/netns.h"

/* The same scene in IPv4 and in IPv6. */
struct publish_family {
    const char *name, *subnet, *gateway;
    const char *server, *neighbour; /* containers */
    const char *own, *outside;      /* of a host in the network and outside; its number follows */
};
extern const struct publish_family publish_ipv4, publish_ipv6;

struct publish_scene {
    const struct publish_family *family;
    char a[128];                 /* the server's namespace */
    struct lab_host client;      /* in no overlay network */
    char outside[5][FM_IP_TEXT]; /* by the number of the host, 1 to 3; 4 is the client */
};

/* All of it, with nothing published yet. */
void publish_scene_start(struct publish_scene *s, const struct publish_family *family);
void publish_scene_stop(struct publish_scene *s);

/* Whether the hosts' packet filters also see what their bridges carry, as is the default where the
 * kernel can do that. */
void publish_bridge_netfilter(bool on);
/* Runs in the namespace of a host; the test fails when it does. */
void publish_run(const struct lab_host *host, fm_netns_fn run, void *ctx);
/* "8080:80/udp" of the server. */
struct fm_publication publish_server(const struct publish_scene *s, const char *text);
/* Makes these the published ports of a host; of all three. */
void publish_on(const struct publish_scene *s, const struct lab_host *host,
                const struct fm_publication *list, size_t count);
void publish_everywhere(const struct publish_scene *s, const struct fm_publication *list,
                        size_t count);

/* Who listens in the container, and how it goes along; netns is the place on the other host. */
struct publish_actor {
    void (*freeze)(void *ctx);
    void (*save)(void *ctx); /* what the checkpoint reads of its kernel; NULL: nothing */
    void (*take_along)(void *ctx, const char *netns);
    void (*thaw)(void *ctx);
    void *ctx;
};
/* Moves the server from one host to another as a migration does at its end, after `stand_ms` of
 * freeze, and tells the third one. Returns how long the server stood in all, in us. */
uint64_t publish_move(const struct publish_scene *s, struct lab_host *from, struct lab_host *to,
                      const struct publish_actor *actor, unsigned stand_ms);

#endif
