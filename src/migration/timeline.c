#include "migration/timeline.h"

#include "base/clock.h"

void fm_timeline_start(struct fm_timeline *t)
{
    fm_timeline_clear(t);
    t->since_us = fm_now_us();
    t->steps = json_array();
}

void fm_timeline_mark_remote(struct fm_timeline *t, const char *step, const json_t *of)
{
    uint64_t now = fm_now_us();
    if (!t->since_us)
        return;
    json_array_append_new(t->steps, json_pack("{s:s, s:f, s:O*}", "step", step, "ms",
                                              (double)(now - t->since_us) / 1000.0, "of", of));
    t->since_us = now;
}

void fm_timeline_mark(struct fm_timeline *t, const char *step)
{
    fm_timeline_mark_remote(t, step, NULL);
}

json_t *fm_timeline_take(struct fm_timeline *t)
{
    json_t *steps = t->steps ? t->steps : json_array();
    *t = (struct fm_timeline){0};
    return steps;
}

void fm_timeline_clear(struct fm_timeline *t)
{
    json_decref(t->steps);
    *t = (struct fm_timeline){0};
}
