/* What a move means for the switches: which of them change their port, in which order, and what was
 * there before. It is what the journal keeps between the steps. Pure but for reserving. */
#ifndef FM_NETWORK_SDN_PLAN_H
#define FM_NETWORK_SDN_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/text.h"
#include "network/follower.h"
#include "network/sdn.h"
#include "network/sdn_flow.h"
#include "network/topology.h"

/* Our flow of a container stands at `priority`; a prepared one waits right below it, where the
 * first one hides it. */
#define FM_SDN_PREPARED(plan) ((uint16_t)((plan)->priority - 1))

struct fm_sdn_change {
    char name[64];
    struct fm_topology_switch target; /* target.name is `name` */
    uint32_t old_port, new_port;
    unsigned old_rank, new_rank; /* switches away from the source, the destination */
    json_t *settled, *prepared;  /* our flows as they were read; NULL: none */
};

/* A switch on the way of the migration's own traffic, which has a queue or a meter for it. */
struct fm_sdn_lane {
    char name[64];
    struct fm_topology_switch target;
    uint32_t port;
    int64_t queue, meter; /* < 0: none */
};

struct fm_sdn_plan {
    uint8_t table;
    uint16_t priority;
    uint64_t cookie;
    json_t *match; /* of the container */
    struct fm_sdn_change *changes;
    size_t count;
    uint64_t reserve_bps; /* 0: none */
    json_t *lane_match;   /* of the migration's traffic */
    struct fm_sdn_lane *lanes;
    size_t lane_count;
};

/* The configuration, checked. */
struct fm_sdn_settings {
    struct fm_topology *topology;
    struct fm_topology_switch *switches;
    size_t switch_count;
    struct fm_sdn_port *ports;
    size_t port_count;
    struct fm_strv networks;
    enum fm_path_order order;
    uint8_t table;
    uint16_t priority;
    uint64_t cookie, reserve_bps;
    int64_t queue, meter;
};
int fm_sdn_settings_take(const struct fm_sdn_config *config, struct fm_sdn_settings *settings,
                         struct fm_error *err);
void fm_sdn_settings_clear(struct fm_sdn_settings *settings);

/* Without changes and reservation: the move does not concern the switches. The flows that were
 * there, and whether the lanes' switches have queue and meter, is
 * yet to be filled in. */
int fm_sdn_plan_make(const struct fm_sdn_settings *settings, const struct fm_move *move,
                     struct fm_sdn_plan *plan, struct fm_error *err);
json_t *fm_sdn_plan_save(const struct fm_sdn_plan *plan); /* new reference */
int fm_sdn_plan_load(const json_t *saved, struct fm_sdn_plan *plan, struct fm_error *err);
void fm_sdn_plan_clear(struct fm_sdn_plan *plan);

#endif
