#include "migration/events.h"

#include <pthread.h>
#include <stdbool.h>

#include "base/text.h"

struct subscriber {
    struct subscriber *next;
    int handle;
    fm_events_fn fn;
    void *ctx;
    unsigned int calls; /* running now */
    bool gone;
    bool left_itself; /* the last of its calls to return frees it */
};

struct fm_events {
    pthread_mutex_t lock;
    pthread_cond_t returned;
    struct subscriber *first; /* by handle */
    int next_handle;
};

/* The calls that this thread is inside of, innermost first: a subscriber may unsubscribe itself. */
struct call {
    const struct subscriber *subscriber;
    const struct call *outer;
};
static _Thread_local const struct call *current_call;

static unsigned int calls_of_this_thread(const struct subscriber *s)
{
    unsigned int count = 0;

    for (const struct call *call = current_call; call; call = call->outer)
        count += call->subscriber == s;
    return count;
}

struct fm_events *fm_events_new(void)
{
    struct fm_events *events = fm_xcalloc(1, sizeof(*events));

    pthread_mutex_init(&events->lock, NULL);
    pthread_cond_init(&events->returned, NULL);
    return events;
}

void fm_events_free(struct fm_events *events)
{
    if (!events)
        return;
    while (events->first) {
        struct subscriber *s = events->first;

        events->first = s->next;
        free(s);
    }
    pthread_cond_destroy(&events->returned);
    pthread_mutex_destroy(&events->lock);
    free(events);
}

int fm_events_subscribe(struct fm_events *events, fm_events_fn fn, void *ctx)
{
    struct subscriber *s = fm_xcalloc(1, sizeof(*s));
    struct subscriber **end;
    int handle;

    pthread_mutex_lock(&events->lock);
    handle = events->next_handle++;
    *s = (struct subscriber){.handle = handle, .fn = fn, .ctx = ctx};
    for (end = &events->first; *end; end = &(*end)->next)
        ;
    *end = s;
    pthread_mutex_unlock(&events->lock);
    return handle;
}

/* The first living one whose handle is at least `handle`. */
static struct subscriber *find_from(struct fm_events *events, int handle)
{
    struct subscriber *s = events->first;

    while (s && (s->gone || s->handle < handle))
        s = s->next;
    return s;
}

static void release(struct fm_events *events, struct subscriber *s)
{
    struct subscriber **at = &events->first;

    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    free(s);
}

void fm_events_unsubscribe(struct fm_events *events, int handle)
{
    struct subscriber *s;
    unsigned int own;

    pthread_mutex_lock(&events->lock);
    s = find_from(events, handle);
    if (s && s->handle == handle) {
        own = calls_of_this_thread(s);
        s->gone = true;
        while (s->calls > own)
            pthread_cond_wait(&events->returned, &events->lock);
        if (own == 0)
            release(events, s);
        else
            s->left_itself = true;
    }
    pthread_mutex_unlock(&events->lock);
}

static void deliver(struct fm_events *events, struct subscriber *s, const json_t *event)
{
    struct call call = {.subscriber = s, .outer = current_call};

    s->calls++;
    pthread_mutex_unlock(&events->lock);
    current_call = &call;
    s->fn(event, s->ctx);
    current_call = call.outer;
    pthread_mutex_lock(&events->lock);
    if (--s->calls == 0 && s->left_itself)
        release(events, s);
    pthread_cond_broadcast(&events->returned);
}

void fm_events_publish(struct fm_events *events, json_t *event)
{
    struct subscriber *s;
    int end;

    pthread_mutex_lock(&events->lock);
    end = events->next_handle;
    s = find_from(events, 0);
    while (s && s->handle < end) {
        int next = s->handle + 1;

        deliver(events, s, event);
        s = find_from(events, next);
    }
    pthread_mutex_unlock(&events->lock);
    json_decref(event);
}

size_t fm_events_subscribers(struct fm_events *events)
{
    size_t count = 0;

    pthread_mutex_lock(&events->lock);
    for (const struct subscriber *s = events->first; s; s = s->next)
        count += !s->gone;
    pthread_mutex_unlock(&events->lock);
    return count;
}
