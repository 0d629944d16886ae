#include "migration/allocator.h"

#include <pthread.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/text.h"

/* ---- slots ---- */

struct waiter {
    struct waiter *next;
    enum fm_priority priority;
};

struct fm_slots {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct waiter *queue; /* best claim first */
    size_t limit, used, waiting;
};

struct fm_slots *fm_slots_new(unsigned int limit)
{
    struct fm_slots *slots = fm_xcalloc(1, sizeof(*slots));

    pthread_mutex_init(&slots->lock, NULL);
    pthread_cond_init(&slots->changed, NULL);
    slots->limit = limit ? limit : FM_SLOTS_DEFAULT;
    return slots;
}

void fm_slots_free(struct fm_slots *slots)
{
    if (!slots)
        return;
    pthread_cond_destroy(&slots->changed);
    pthread_mutex_destroy(&slots->lock);
    free(slots);
}

static void enqueue(struct fm_slots *slots, struct waiter *waiter)
{
    struct waiter **at = &slots->queue;

    while (*at && (*at)->priority >= waiter->priority)
        at = &(*at)->next;
    waiter->next = *at;
    *at = waiter;
    slots->waiting++;
}

static void dequeue(struct fm_slots *slots, struct waiter *waiter)
{
    struct waiter **at = &slots->queue;

    while (*at != waiter)
        at = &(*at)->next;
    *at = waiter->next;
    slots->waiting--;
}

/* Returns false when the deadline has passed. */
static bool wait_for_change(struct fm_slots *slots, uint64_t deadline_ms)
{
    struct timespec until = {
        .tv_sec = (time_t)(deadline_ms / 1000),
        .tv_nsec = (long)(deadline_ms % 1000) * 1000000,
    };

    if (deadline_ms == 0)
        return pthread_cond_wait(&slots->changed, &slots->lock) == 0;
    return pthread_cond_clockwait(&slots->changed, &slots->lock, CLOCK_MONOTONIC, &until) == 0;
}

/* With the lock held. */
static int wait_for_turn(struct fm_slots *slots, const struct waiter *waiter,
                         const struct fm_slots_wait *wait, struct fm_error *err)
{
    bool in_time = true;

    for (;;) {
        if (wait->cancelled && wait->cancelled(wait->ctx))
            return fm_error_set(err, FM_E_CANCELLED, "cancelled while it waited for its turn");
        if (slots->queue == waiter && slots->used < slots->limit)
            return 0;
        if (!in_time)
            return fm_error_set(err, FM_E_TIMEOUT,
                                "waited too long for its turn: %zu migrations run, which is the "
                                "limit; raise max_concurrent or the timeout",
                                slots->used);
        in_time = wait_for_change(slots, wait->deadline_ms);
    }
}

int fm_slots_acquire(struct fm_slots *slots, enum fm_priority priority,
                     const struct fm_slots_wait *wait, struct fm_error *err)
{
    static const struct fm_slots_wait for_ever = {0};
    struct waiter waiter = {.priority = priority};
    int rc;

    pthread_mutex_lock(&slots->lock);
    enqueue(slots, &waiter);
    rc = wait_for_turn(slots, &waiter, wait ? wait : &for_ever, err);
    dequeue(slots, &waiter);
    if (rc == 0)
        slots->used++;
    /* The next in the queue may have a slot too, or a place further in front. */
    pthread_cond_broadcast(&slots->changed);
    pthread_mutex_unlock(&slots->lock);
    return rc;
}

int fm_slots_try(struct fm_slots *slots, struct fm_error *err)
{
    int rc = 0;

    pthread_mutex_lock(&slots->lock);
    if (slots->used < slots->limit)
        slots->used++;
    else
        rc = fm_error_set(err, FM_E_REFUSED,
                          "%zu migrations come in already, which is the limit; try again later or "
                          "raise max_concurrent",
                          slots->used);
    pthread_mutex_unlock(&slots->lock);
    return rc;
}

void fm_slots_force(struct fm_slots *slots)
{
    pthread_mutex_lock(&slots->lock);
    slots->used++;
    pthread_mutex_unlock(&slots->lock);
}

void fm_slots_release(struct fm_slots *slots)
{
    pthread_mutex_lock(&slots->lock);
    slots->used--;
    pthread_cond_broadcast(&slots->changed);
    pthread_mutex_unlock(&slots->lock);
}

void fm_slots_wake(struct fm_slots *slots)
{
    pthread_mutex_lock(&slots->lock);
    pthread_cond_broadcast(&slots->changed);
    pthread_mutex_unlock(&slots->lock);
}

size_t fm_slots_used(struct fm_slots *slots)
{
    size_t used;

    pthread_mutex_lock(&slots->lock);
    used = slots->used;
    pthread_mutex_unlock(&slots->lock);
    return used;
}

size_t fm_slots_waiting(struct fm_slots *slots)
{
    size_t waiting;

    pthread_mutex_lock(&slots->lock);
    waiting = slots->waiting;
    pthread_mutex_unlock(&slots->lock);
    return waiting;
}

/* ---- reservations ---- */

struct reservation {
    struct reservation *next;
    char *id;
    uint64_t memory, disk; /* with margin */
};

struct fm_reservations {
    pthread_mutex_t lock;
    char *host;
    uint64_t memory_reserve;
    struct reservation *first;
};

struct fm_reservations *fm_reservations_new(const char *host, uint64_t memory_reserve)
{
    struct fm_reservations *r = fm_xcalloc(1, sizeof(*r));

    pthread_mutex_init(&r->lock, NULL);
    r->host = fm_xstrdup(host);
    r->memory_reserve = memory_reserve;
    return r;
}

static void reservation_free(struct reservation *reservation)
{
    free(reservation->id);
    free(reservation);
}

void fm_reservations_free(struct fm_reservations *r)
{
    if (!r)
        return;
    while (r->first) {
        struct reservation *next = r->first->next;

        reservation_free(r->first);
        r->first = next;
    }
    pthread_mutex_destroy(&r->lock);
    free(r->host);
    free(r);
}

/* Where the one of this id hangs, or the end. */
static struct reservation **find(struct fm_reservations *r, const char *id)
{
    struct reservation **at = &r->first;

    while (*at && !fm_streq((*at)->id, id))
        at = &(*at)->next;
    return at;
}

static void forget(struct fm_reservations *r, const char *id)
{
    struct reservation **at = find(r, id);

    if (*at) {
        struct reservation *found = *at;

        *at = found->next;
        reservation_free(found);
    }
}

static void promise(struct fm_reservations *r, const char *id, uint64_t memory, uint64_t disk)
{
    struct reservation *made = fm_xcalloc(1, sizeof(*made));

    forget(r, id);
    *made = (struct reservation){
        .next = r->first, .id = fm_xstrdup(id), .memory = memory, .disk = disk};
    r->first = made;
}

/* What is promised to all but `id`. */
static struct fm_reserved promised(const struct fm_reservations *r, const char *id)
{
    struct fm_reserved total = {0};

    for (const struct reservation *at = r->first; at; at = at->next) {
        if (fm_streq(at->id, id))
            continue;
        total.count++;
        total.memory += at->memory;
        total.disk += at->disk;
    }
    return total;
}

static uint64_t minus(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* " beside 1.0 GiB promised to 2 incoming containers", "" when there are none; the caller frees it.
 */
static char *beside(uint64_t promised_bytes, size_t count, const char *whose)
{
    char size[32];

    if (count == 0)
        return fm_xstrdup("");
    return fm_strf(" beside %s promised to %zu %sincoming container%s",
                   fm_format_size(promised_bytes, size, sizeof(size)), count, whose,
                   count == 1 ? "" : "s");
}

/* One kind of resource of one request. */
struct demand {
    const char *what;  /* "memory" */
    uint64_t need;     /* without margin */
    uint64_t measured; /* free on the host */
    uint64_t kept;     /* never promised */
    uint64_t promised; /* to others */
    size_t promised_count;
};

static int check_fits(const struct fm_reservations *r, const struct fm_reserve_request *request,
                      const struct demand *demand, struct fm_error *err)
{
    uint64_t usable = minus(minus(demand->measured, demand->kept), demand->promised);
    fm_autofree char *others = beside(demand->promised, demand->promised_count, "");
    char usable_text[32], total_text[32], need_text[32];

    if (fm_with_margin(demand->need) <= usable)
        return 0;
    return fm_error_set(
        err, FM_E_REFUSED,
        "%s has %s free %s%s, '%s' needs %s (%s + %d %%); free %s there or choose another host",
        r->host, fm_format_size(usable, usable_text, sizeof(usable_text)), demand->what, others,
        request->container,
        fm_format_size(fm_with_margin(demand->need), total_text, sizeof(total_text)),
        fm_format_size(demand->need, need_text, sizeof(need_text)), FM_RESERVE_MARGIN_PERCENT,
        demand->what);
}

static int check_demands(const struct fm_reservations *r, const struct fm_reserve_request *request,
                         struct fm_error *err)
{
    struct fm_reserved others = promised(r, request->id);
    struct demand memory = {
        .what = "memory",
        .need = request->memory,
        .measured = request->memory_available,
        .kept = r->memory_reserve,
        .promised = others.memory,
        .promised_count = others.count,
    };
    struct demand disk = {
        .what = "disk",
        .need = request->disk,
        .measured = request->disk_free,
        .promised = others.disk,
        .promised_count = others.count,
    };
    int rc = check_fits(r, request, &memory, err);

    return rc < 0 ? rc : check_fits(r, request, &disk, err);
}

int fm_reserve(struct fm_reservations *r, const struct fm_reserve_request *request,
               struct fm_error *err)
{
    int rc;

    pthread_mutex_lock(&r->lock);
    rc = check_demands(r, request, err);
    if (rc == 0)
        promise(r, request->id, fm_with_margin(request->memory), fm_with_margin(request->disk));
    pthread_mutex_unlock(&r->lock);
    return rc;
}

static int cannot_grow(const struct fm_reservations *r, const struct fm_reserve_request *request,
                       const struct reservation *own, uint64_t usable, struct fm_error *err)
{
    struct fm_reserved taken = promised(r, request->id);
    fm_autofree char *others = beside(taken.memory, taken.count, "other ");
    char need[32], has[32], more[32], kept[32];

    return fm_error_set(
        err, FM_E_NO_SPACE,
        "'%s' has grown to %s of memory on its way, and %s has no room for that: %s is promised "
        "to it, %s more is free%s (limits.memory_reserve keeps %s); free memory there or choose "
        "another host",
        request->container, fm_format_size(request->memory, need, sizeof(need)), r->host,
        fm_format_size(own->memory, has, sizeof(has)), fm_format_size(usable, more, sizeof(more)),
        others, fm_format_size(r->memory_reserve, kept, sizeof(kept)));
}

/* With the lock held. */
static int grow(const struct fm_reservations *r, const struct fm_reserve_request *request,
                struct reservation *own, struct fm_error *err)
{
    uint64_t part = own->memory / FM_RESERVE_STEP_PART;
    uint64_t step = part > FM_RESERVE_STEP ? part : FM_RESERVE_STEP;
    uint64_t more = minus(request->memory, own->memory);
    uint64_t usable =
        minus(minus(request->memory_available, r->memory_reserve), promised(r, NULL).memory);

    if (more > usable)
        return cannot_grow(r, request, own, usable, err);
    if (more > 0 && more < step)
        more = step < usable ? step : usable;
    own->memory += more;
    return 0;
}

int fm_reserve_grow(struct fm_reservations *r, const struct fm_reserve_request *request,
                    uint64_t *promised_to_it, struct fm_error *err)
{
    struct reservation *own;
    int rc;

    pthread_mutex_lock(&r->lock);
    own = *find(r, request->id);
    rc = own ? grow(r, request, own, err)
             : fm_error_set(err, FM_E_CANCELLED, "nothing is promised to '%s' on %s any more",
                            request->container, r->host);
    if (rc == 0)
        *promised_to_it = own->memory;
    pthread_mutex_unlock(&r->lock);
    return rc;
}

void fm_reserve_force(struct fm_reservations *r, const char *id, uint64_t memory, uint64_t disk)
{
    pthread_mutex_lock(&r->lock);
    promise(r, id, memory, disk);
    pthread_mutex_unlock(&r->lock);
}

void fm_reserve_release(struct fm_reservations *r, const char *id)
{
    pthread_mutex_lock(&r->lock);
    forget(r, id);
    pthread_mutex_unlock(&r->lock);
}

struct fm_reserved fm_reserved_total(struct fm_reservations *r)
{
    struct fm_reserved total;

    pthread_mutex_lock(&r->lock);
    total = promised(r, NULL);
    pthread_mutex_unlock(&r->lock);
    return total;
}

struct fm_reserved fm_reserved_for(struct fm_reservations *r, const char *id)
{
    struct fm_reserved own = {0};
    const struct reservation *found;

    pthread_mutex_lock(&r->lock);
    found = *find(r, id);
    if (found)
        own = (struct fm_reserved){.count = 1, .memory = found->memory, .disk = found->disk};
    pthread_mutex_unlock(&r->lock);
    return own;
}
