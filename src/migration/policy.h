/* Policy Enforcer: may this container leave, and may that host take it? */
#ifndef FM_MIGRATION_POLICY_H
#define FM_MIGRATION_POLICY_H

#include <stdbool.h>

#include "base/error.h"
#include "container/container.h"

/* What a decision is about; borrowed. */
struct fm_policy_request {
    const struct fm_container *container;
    const char *source;
    const char *destination;
    bool destination_cordoned;
};

/* 0 when the move is allowed; else FM_E_REFUSED with a line that names the rule and its cure. Rules
 * are asked in order and the first that denies wins. */
int fm_policy_decide(const struct fm_policy_request *request, struct fm_error *err);

#endif
