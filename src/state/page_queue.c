#include "state/page_queue.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"

struct fm_page_job {
    uint64_t barrier;
    pid_t pid, inner_pid;
    bool frozen;
    struct fm_ranges ranges;
    size_t at; /* the first range that is not finished; its start moves on */
    struct fm_page_job *next;
};

static struct fm_page_job *append(struct fm_page_queue *q)
{
    struct fm_page_job *job = fm_xcalloc(1, sizeof(*job));

    if (q->last)
        q->last->next = job;
    else
        q->first = job;
    q->last = job;
    return job;
}

static void drop_first(struct fm_page_queue *q)
{
    struct fm_page_job *job = q->first;

    q->first = job->next;
    if (!q->first)
        q->last = NULL;
    q->range_count -= job->ranges.count - job->at;
    fm_ranges_clear(&job->ranges);
    free(job);
}

void fm_page_queue_clear(struct fm_page_queue *q)
{
    while (q->first)
        drop_first(q);
    q->bytes = 0;
}

void fm_page_queue_add(struct fm_page_queue *q, pid_t pid, pid_t inner_pid, bool frozen,
                       struct fm_ranges *ranges)
{
    struct fm_page_job *job = append(q);

    job->pid = pid;
    job->inner_pid = inner_pid;
    job->frozen = frozen;
    job->ranges = *ranges;
    q->range_count += ranges->count;
    q->bytes += fm_ranges_bytes(ranges);
    *ranges = (struct fm_ranges){0};
}

void fm_page_queue_add_barrier(struct fm_page_queue *q, uint64_t barrier)
{
    append(q)->barrier = barrier;
}

static void list_pages(struct fm_page_list *list, uint64_t start, uint64_t end)
{
    uint64_t page = fm_page_size();

    for (; start < end; start += page)
        list->addresses[list->count++] = start;
}

static void begin_work(const struct fm_page_job *job, struct fm_page_work *work)
{
    work->barrier = job->barrier;
    work->inner_pid = job->inner_pid;
    work->frozen = job->frozen;
    work->list.pid = job->pid;
    work->list.count = 0;
}

bool fm_page_queue_take(struct fm_page_queue *q, size_t max_pages, struct fm_page_work *work)
{
    uint64_t page = fm_page_size();
    struct fm_page_job *job;

    while ((job = q->first) && !job->barrier && job->at == job->ranges.count)
        drop_first(q); /* others have taken the rest of it */
    if (!job)
        return false;
    begin_work(job, work);
    while (job->at < job->ranges.count && work->list.count < max_pages) {
        struct fm_range *range = &job->ranges.items[job->at];
        uint64_t room = (max_pages - work->list.count) * page;
        uint64_t end = range->end - range->start < room ? range->end : range->start + room;

        list_pages(&work->list, range->start, end);
        q->bytes -= end - range->start;
        range->start = end;
        if (end == range->end) {
            job->at++;
            q->range_count--;
        }
    }
    if (job->at == job->ranges.count)
        drop_first(q);
    return true;
}

/* The range of a job that holds the address and is not finished; NULL: none. */
static struct fm_range *range_with(struct fm_page_job *job, uint64_t address)
{
    const struct fm_ranges rest = {job->ranges.items + job->at, job->ranges.count - job->at, 0};
    size_t i = fm_ranges_find(&rest, address);

    return i < rest.count && rest.items[i].start <= address ? &rest.items[i] : NULL;
}

/* Takes [start, end) out of a range; what is left may be two, one or none. */
static void cut(struct fm_page_queue *q, struct fm_page_job *job, size_t index, uint64_t start,
                uint64_t end)
{
    struct fm_ranges *r = &job->ranges;
    struct fm_range *range = &r->items[index];
    size_t behind = r->count - index - 1;

    q->bytes -= end - start;
    if (range->start < start && end < range->end) {
        if (r->count == r->capacity) {
            r->capacity = r->capacity * 2 + 1;
            r->items = fm_xrealloc(r->items, r->capacity * sizeof(*r->items));
            range = &r->items[index];
        }
        memmove(range + 2, range + 1, behind * sizeof(*range));
        range[1] = (struct fm_range){end, range->end};
        range->end = start;
        r->count++;
        q->range_count++;
    } else if (range->start < start) {
        range->end = start;
    } else if (end < range->end) {
        range->start = end;
    } else {
        memmove(range, range + 1, behind * sizeof(*range));
        r->count--;
        q->range_count--;
    }
}

bool fm_page_queue_take_near(struct fm_page_queue *q, pid_t inner_pid, uint64_t address,
                             uint64_t block, struct fm_page_work *work)
{
    for (struct fm_page_job *job = q->first; job; job = job->next) {
        struct fm_range *range;
        uint64_t start = address & ~(block - 1), end = start + block;

        if (job->barrier || job->inner_pid != inner_pid || !(range = range_with(job, address)))
            continue;
        start = start > range->start ? start : range->start;
        end = end < range->end ? end : range->end;
        begin_work(job, work);
        list_pages(&work->list, start, end);
        cut(q, job, (size_t)(range - job->ranges.items), start, end);
        return true;
    }
    return false;
}
