/* What the files of this folder share: the open fabric, and its networks. */
#ifndef FM_NETWORK_FABRIC_H
#define FM_NETWORK_FABRIC_H

#include <pthread.h>
#include <sys/stat.h>

#include "network/address.h"
#include "network/fdb.h"
#include "network/link.h"
#include "network/network.h"

#define FM_IPV6_MTU_MIN 1280

struct fm_hold;
struct fm_resident;
struct fm_staged;

/* A network on this host. It does not change while it is in the list: who defines it anew puts
 * another one in its place. The old ones are kept until the fabric is closed, since a hold or a
 * request may still look at them. */
struct fm_net {
    struct fm_net *next;
    struct fm_network_spec spec;
    bool configured; /* the one of the configuration, which also names the devices */
    struct fm_ip subnets[2];
    struct fm_ip gateways[2]; /* in the subnet of the same place; family 0: none */
    char bridge[16];          /* of ours, or the user's; "": none */
    char vxlan[16];           /* "": none */
    int mtu;                  /* of bridge and containers */
    int bridge_index;
    int vxlan_index;  /* 0: none */
    int parent_index; /* macvlan only */
};

struct fm_fabric {
    char *run_dir;
    uint16_t port; /* of VXLAN */
    bool has_underlay;
    struct fm_ip underlay;
    struct stat netns;    /* identity of the namespace that the fabric is in */
    struct fm_nl fast;    /* switching: short requests only */
    struct fm_nl slow;    /* making and removing, which can wait behind each other */
    pthread_mutex_t make; /* one change at a time: the clash checks need it */
    int packet_fd;        /* AF_PACKET, for sending */
    struct fm_ip *peers;  /* guarded by `make` */
    size_t peer_count;
    struct fm_resident *residents; /* guarded by `make`; who is on this host */
    bool macvlans_read;            /* those in it: only when they matter */
    pthread_mutex_t net_lock;      /* guards the two lists of networks; held for a few loads only */
    struct fm_net *nets;           /* who holds `make` may read without it */
    struct fm_net *former;
    pthread_mutex_t lock; /* guards the two lists below */
    struct fm_hold *holds;
    struct fm_staged *staged;   /* outboxes of blocked ports */
    pthread_mutex_t relay_lock; /* guards those that have left and are sent after (relay.h) */
    struct fm_relay *relays;
    size_t relay_count;
};

/* An endpoint in the form that requests want. */
struct fm_port {
    const struct fm_net *net;
    uint8_t mac[6];
    struct fm_ip ips[2]; /* the second one with family 0: none */
    int index;           /* of host_if; 0: not looked up, missing, or a macvlan */
};
/* Addresses only. */
int fm_port_parse(const struct fm_endpoint *ep, struct fm_port *port, struct fm_error *err);
/* As fm_port_parse, with the network; FM_E_NOT_FOUND: it is not defined here. */
int fm_port_of_network(struct fm_fabric *fabric, const struct fm_endpoint *ep, struct fm_port *port,
                       struct fm_error *err);
/* And looks host_if up; FM_E_NOT_FOUND when it does not exist. One ioctl. */
int fm_port_find(struct fm_fabric *fabric, const struct fm_endpoint *ep, struct fm_port *port,
                 struct fm_error *err);

/* What the alias of a container's veth, or of its macvlan, says: ours, and whose. */
struct fm_owner {
    char name[64];
    char network[32]; /* "": an alias of a version that knew only one */
    struct fm_ip ips[2];
    uint8_t mac[6];
};
void fm_owner_format(const struct fm_endpoint *ep, char alias[256]);
bool fm_owner_parse(const char *alias, struct fm_owner *owner);
/* True when the owner is in this network. `master`: of the interface with the alias. */
bool fm_owner_in(const struct fm_owner *owner, const struct fm_net *net, int master);

/* FM_E_EXISTS when this neighbour of another name has the endpoint's address or MAC, or one of its
 * name has others. */
int fm_owner_clashes(const struct fm_owner *owner, const struct fm_endpoint *ep,
                     const struct fm_port *port, struct fm_error *err);

/* owner.c: the containers of ours that have an interface on this host. Who holds `make` may call
 * these; read comes first, once. */
int fm_residents_read(struct fm_fabric *fabric, struct fm_error *err);
void fm_residents_put(struct fm_fabric *fabric, const struct fm_endpoint *ep,
                      const struct fm_port *port);
void fm_residents_remove(struct fm_fabric *fabric, const char *name);
void fm_residents_free(struct fm_fabric *fabric);
/* FM_E_EXISTS when one of them has the endpoint's name, address or MAC: on its bridge, or for a
 * macvlan on any. The endpoint's own host_if is not judged here. */
int fm_residents_check(struct fm_fabric *fabric, const struct fm_endpoint *ep,
                       const struct fm_port *port, struct fm_error *err);

/* stage.c */
/* Addresses and default routes of both families for the interface in the container's namespace. */
int fm_endpoint_put_addresses(struct fm_nl_batch *batch, int index, const struct fm_endpoint *ep,
                              const struct fm_port *port, struct fm_error *err);
/* Afterwards: until others can find them. */
int fm_endpoint_wait_heard(struct fm_nl *nl, int index, const struct fm_port *port,
                           struct fm_error *err);
int fm_endpoint_stage(struct fm_fabric *fabric, const struct fm_endpoint *ep, bool active,
                      struct fm_error *err);
int fm_endpoint_unstage(struct fm_fabric *fabric, const struct fm_endpoint *ep,
                        struct fm_error *err);
/* fabric.c: the outbox of a port that is staged and blocked. start begins anew when there is one;
 * take hands it to the caller
 * (-1: none), drop closes it. */
int fm_outbox_start(struct fm_fabric *fabric, int port, struct fm_error *err);
int fm_outbox_take(struct fm_fabric *fabric, int port);
void fm_outbox_drop(struct fm_fabric *fabric, int port);
/* network.c */
extern const struct fm_network_ops fm_fabric_ops;
int fm_endpoint_activate(struct fm_fabric *fabric, const struct fm_endpoint *ep,
                         struct fm_error *err);
/* inspect.c */
int fm_endpoint_inspect(struct fm_fabric *fabric, pid_t pid, struct fm_endpoint *ep, bool *found,
                        bool *host, struct fm_error *err);
/* describe.c */
json_t *fm_fabric_describe(struct fm_fabric *fabric, struct fm_error *err);
/* neighbour.c */
int fm_neighbours_read(const struct fm_endpoint *ep, json_t **list, struct fm_error *err);
int fm_neighbours_write(const struct fm_endpoint *ep, json_t *list, struct fm_error *err);
/* unrepair.c */
int fm_unrepair(const pid_t *pids, size_t count, struct fm_error *err);

#endif
