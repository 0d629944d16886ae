/* Crew: threads that wait for work to share with their caller. Where a thread would have to be
 * started, given a stack and memory first, as within a freeze, they are there already. */
#ifndef FM_STATE_CREW_H
#define FM_STATE_CREW_H

#include <stddef.h>

#define FM_CREW_MAX 4u

struct fm_crew;
/* As many members as processors that this process may use, the caller among them; `most` and
 * FM_CREW_MAX at most. Threads that cannot be started are done without. */
struct fm_crew *fm_crew_open(unsigned most);
void fm_crew_close(struct fm_crew *c); /* NULL is fine */
unsigned fm_crew_size(const struct fm_crew *c);

/* job(ctx, index, member) for each index below `count`, lower ones begun first; `member` is below
 * the crew's size, and 0 is the caller. Returns when all are done; a member that comes late finds
 * nothing to do, and is not waited for. One caller at a time. */
typedef void (*fm_crew_job)(void *ctx, size_t index, unsigned member);
void fm_crew_run(struct fm_crew *c, fm_crew_job job, void *ctx, size_t count);

#endif
