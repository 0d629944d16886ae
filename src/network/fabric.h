/* What the files of this folder share: the open fabric. */
#ifndef FM_NETWORK_FABRIC_H
#define FM_NETWORK_FABRIC_H

#include <pthread.h>
#include <sys/stat.h>

#include "network/address.h"
#include "network/link.h"
#include "network/network.h"

struct fm_hold;
struct fm_staged;

struct fm_fabric {
    char *run_dir;
    char bridge[16];
    char vxlan[16];
    uint32_t vni;
    uint16_t port;
    bool has_vxlan;
    bool has_gateway;
    struct fm_ip underlay;
    struct fm_ip subnet;
    struct fm_ip gateway;
    int mtu; /* of bridge and containers */
    int bridge_index;
    int vxlan_index;
    struct stat netns;    /* identity of the namespace that the fabric is in */
    struct fm_nl fast;    /* switching: short requests only */
    struct fm_nl slow;    /* making and removing, which can wait behind each other */
    pthread_mutex_t make; /* one stage at a time: the clash checks need it */
    int packet_fd;        /* AF_PACKET, for sending */
    pthread_mutex_t lock; /* guards the lists */
    struct fm_hold *holds;
    struct fm_staged *staged; /* outboxes of blocked ports */
};

/* An endpoint in the form that requests want. */
struct fm_port {
    uint8_t mac[6];
    struct fm_ip ip;
    int index; /* of host_if; 0: not looked up or missing */
};
int fm_port_parse(const struct fm_endpoint *ep, struct fm_port *port, struct fm_error *err);
/* As fm_port_parse, and looks host_if up; FM_E_NOT_FOUND when it does not exist. One ioctl. */
int fm_port_find(struct fm_fabric *fabric, const struct fm_endpoint *ep, struct fm_port *port,
                 struct fm_error *err);

/* What the alias of a container's veth says: ours, and whose. */
struct fm_owner {
    char name[64];
    struct fm_ip ip;
    uint8_t mac[6];
};
void fm_owner_format(const struct fm_endpoint *ep, char alias[256]);
bool fm_owner_parse(const char *alias, struct fm_owner *owner);

/* stage.c */
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
/* neighbour.c */
int fm_neighbours_read(const struct fm_endpoint *ep, json_t **list, struct fm_error *err);
int fm_neighbours_write(const struct fm_endpoint *ep, json_t *list, struct fm_error *err);
/* unrepair.c */
int fm_unrepair(const pid_t *pids, size_t count, struct fm_error *err);

#endif
