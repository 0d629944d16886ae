/* A Migration Manager in memory: answers at once, moves nothing. What happens follows from names:
 * container "redis" moves; "slow" stays in EXECUTION until it is cancelled; "immovable" is refused;
 * destination "host-b" is good, "host-broken" fails in EXECUTION, "host-off" cannot be reached. */
#ifndef FM_TESTS_FAKE_MANAGER_H
#define FM_TESTS_FAKE_MANAGER_H

#include "migration/manager.h"

void fake_manager_set_ready(struct fm_manager *m, bool ready);
/* Publishes an event to every subscriber. */
void fake_manager_emit(struct fm_manager *m, const json_t *event);

#endif
