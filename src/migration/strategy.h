/* Strategy: how a container's memory travels. Until the decision engine chooses, a rule does. */
#ifndef FM_MIGRATION_STRATEGY_H
#define FM_MIGRATION_STRATEGY_H

#include <jansson.h>

#include "migration/options.h"

/* From what the request asks for and what works on both hosts (their state engines' facts,
 * memory_interface.h; NULL: none): that strategy, or the next best one. AUTO becomes pre-copy,
 * which turns to hybrid when it does not converge. `reason` says why it is not what was asked for,
 * or "". */
enum fm_strategy fm_strategy_choose(enum fm_strategy asked, const json_t *here, const json_t *there,
                                    char *reason, size_t len);

#endif
