/* What a step asks of many switches at once: their flows, and changes of flows of ours. A switch
 * that fails is left out of all that follows, and its error kept. */
#ifndef FM_NETWORK_SDN_BATCH_H
#define FM_NETWORK_SDN_BATCH_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "base/error.h"
#include "network/sdn_flow.h"
#include "network/sdn_rest.h"

struct fm_sdn_batch {
    struct fm_sdn_session *session;
    const struct fm_topology_switch **targets;
    struct fm_error *errors; /* of each */
    json_t **flows;          /* of each: what was listed last; NULL: nothing yet */
    size_t count;
    struct fm_sdn_request *requests; /* that wait for _send */
    size_t request_count;
};

/* For at most `room` switches. The session becomes its own. */
void fm_sdn_batch_open(struct fm_sdn_batch *batch, struct fm_sdn_session *session, size_t room);
void fm_sdn_batch_close(struct fm_sdn_batch *batch);
/* Its index; that of before when it is in there already. The target must outlive the batch. */
size_t fm_sdn_batch_add(struct fm_sdn_batch *batch, const struct fm_topology_switch *target);

/* The first switch's error, and how many more there are; 0 without any. */
int fm_sdn_batch_result(const struct fm_sdn_batch *batch, struct fm_error *err);
/* Keeps an error of switch `index`, unless it has one already. */
void fm_sdn_batch_fail(struct fm_sdn_batch *batch, size_t index, const struct fm_error *err);

/* Lists the flows of each switch which contain one of these matches (a list). */
int fm_sdn_batch_list(struct fm_sdn_batch *batch, const json_t *matches, struct fm_error *err);

/* Puts a change of this flow on the list of what is to be sent. */
void fm_sdn_batch_edit(struct fm_sdn_batch *batch, size_t index, enum fm_sdn_verb verb,
                       const json_t *flow);
/* Sends what is on the list, and waits until it is done. */
int fm_sdn_batch_send(struct fm_sdn_batch *batch, struct fm_error *err);

#endif
