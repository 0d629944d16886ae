#include "state/page_recent.h"

#include <stdlib.h>

#include "base/cleanup.h"
#include "base/text.h"

void fm_page_recent_note(struct fm_page_recent *r, uint64_t start, uint64_t end)
{
    r->runs[r->noted++ % FM_PAGE_RECENT_RUNS] = (struct fm_range){start, end};
}

static int by_start(const void *a, const void *b)
{
    uint64_t first = ((const struct fm_range *)a)->start,
             second = ((const struct fm_range *)b)->start;

    return first < second ? -1 : first > second;
}

/* The newest runs, each as long as there is room for it. Returns how many. */
static size_t newest(const struct fm_page_recent *r, uint64_t max_bytes, struct fm_range *runs)
{
    size_t count = 0;

    for (size_t age = 1; age <= r->noted && age <= FM_PAGE_RECENT_RUNS && max_bytes > 0; age++) {
        struct fm_range run = r->runs[(r->noted - age) % FM_PAGE_RECENT_RUNS];

        if (run.end - run.start > max_bytes)
            run.end = run.start + max_bytes;
        max_bytes -= run.end - run.start;
        runs[count++] = run;
    }
    return count;
}

void fm_page_recent_ranges(const struct fm_page_recent *r, uint64_t max_bytes,
                           struct fm_ranges *ranges)
{
    fm_autofree struct fm_range *runs = fm_xcalloc(FM_PAGE_RECENT_RUNS, sizeof(*runs));
    size_t count = newest(r, max_bytes, runs);
    uint64_t end = 0;

    qsort(runs, count, sizeof(*runs), by_start);
    for (size_t i = 0; i < count; i++) { /* a page may have come more than once */
        fm_ranges_append(ranges, runs[i].start > end ? runs[i].start : end, runs[i].end);
        end = runs[i].end > end ? runs[i].end : end;
    }
}
