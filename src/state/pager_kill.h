/* The last resort: tasks that nobody can fill any more must not go on with zeroes. */
#ifndef FM_STATE_PAGER_KILL_H
#define FM_STATE_PAGER_KILL_H

#include "state/pager_state.h"

/* Kills the tasks of a state, and what they have started since. */
void fm_pager_kill_tasks(struct fm_pager_maps *maps);

#endif
