/* Timeline: where the milliseconds of a freeze go, step after step. */
#ifndef FM_MIGRATION_TIMELINE_H
#define FM_MIGRATION_TIMELINE_H

#include <stdint.h>

#include <jansson.h>

struct fm_timeline {
    uint64_t since_us; /* end of the last step, monotonic; 0: not started */
    json_t *steps;     /* [{"step","ms","of"?}]; "of" are the steps of the other host within it */
};

void fm_timeline_start(struct fm_timeline *t);
/* A step ends here. Nothing when it was not started. */
void fm_timeline_mark(struct fm_timeline *t, const char *step);
/* The same for one that the other host has spent: its own timeline (borrowed, may be NULL). */
void fm_timeline_mark_remote(struct fm_timeline *t, const char *step, const json_t *of);
/* The steps, a new reference; the timeline is empty afterwards. */
json_t *fm_timeline_take(struct fm_timeline *t);
void fm_timeline_clear(struct fm_timeline *t);

#endif
