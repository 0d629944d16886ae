/* What the steps of the SDN follower have in common. For sdn.c, sdn_read.c and sdn_undo.c only. */
#ifndef FM_NETWORK_SDN_STEP_H
#define FM_NETWORK_SDN_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "network/sdn_batch.h"
#include "network/sdn_plan.h"
#include "network/sdn_rest.h"

struct fm_sdn {
    struct fm_sdn_settings settings;
    struct fm_sdn_rest *rest;
};

/* One step: its plan, and its requests. The changes' switches come first in the batch, in their
 * order. */
struct fm_sdn_step {
    struct fm_sdn *sdn;
    const struct fm_move *move;
    struct fm_sdn_plan plan;
    struct fm_sdn_batch batch;
    struct fm_error stays; /* what somebody else has changed, and undo left alone */
};

/* Starts the batch of a plan that is there. */
void fm_sdn_step_open(struct fm_sdn_step *step, bool patient);
/* The plan as well, from the journal. */
int fm_sdn_step_load(struct fm_sdn_step *step, struct fm_sdn *sdn, const struct fm_move *move,
                     const json_t *before, bool patient, struct fm_error *err);
void fm_sdn_step_close(struct fm_sdn_step *step);

/* The places of our flows: the one in effect, the one that waits below it, and that of the
 * migration's own traffic. */
struct fm_sdn_key fm_sdn_settled_key(const struct fm_sdn_plan *plan);
struct fm_sdn_key fm_sdn_prepared_key(const struct fm_sdn_plan *plan);
struct fm_sdn_key fm_sdn_lane_key(const struct fm_sdn_plan *plan);
bool fm_sdn_leads_to(const json_t *flow, uint32_t port);
/* A list with the container's match; new reference. */
json_t *fm_sdn_container_match(const struct fm_sdn_plan *plan);

/* Asks for a flow of ours at `key` with these actions (which it takes over), or for its end. */
void fm_sdn_step_edit(struct fm_sdn_step *step, size_t index, enum fm_sdn_verb verb,
                      struct fm_sdn_key key, json_t *actions);
void fm_sdn_step_edit_lanes(struct fm_sdn_step *step, enum fm_sdn_verb verb);
/* Gives the migration's own bandwidth back; its flows stay when another migration on the same way
 * needs them. */
void fm_sdn_step_release_lanes(struct fm_sdn_step *step);

/* Lists the container's flows and judges them. Without barriers what was sent may take a moment to
 * show: then until the judge is content or the time is over. */
int fm_sdn_step_look(struct fm_sdn_step *step,
                     int (*judge)(struct fm_sdn_step *step, struct fm_error *err),
                     struct fm_error *err);
/* FM_E_REFUSED when switch `index` has flows of others that would hide ours, or whose place ours
 * need. */
int fm_sdn_check_foreign(const struct fm_sdn_step *step, size_t index, struct fm_error *err);
int fm_sdn_fail_foreign(const struct fm_sdn_step *step, size_t index, const json_t *flow,
                        struct fm_error *err);
int fm_sdn_fail_missing(const struct fm_sdn_step *step, size_t index, const char *what,
                        struct fm_error *err);

/* Two of the follower's functions (follower.h). */
int fm_sdn_read(void *ctx, const struct fm_move *move, json_t **before, struct fm_error *err);
int fm_sdn_undo(void *ctx, const struct fm_move *move, const json_t *before, struct fm_error *err);

#endif
