#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

#include "migration/events.h"

static json_t *event_of(int number)
{
    return json_pack("{s:s, s:i}", "type", "progress", "number", number);
}

/* Remembers what it heard. */
struct listener {
    struct fm_events *events;
    int handle;
    int heard;
    int numbers[16];
    struct listener *adds; /* subscribes this one at its first event */
    int publishes;         /* so many events from inside */
    int leaves_at;         /* unsubscribes itself at this event, 0: never */
};

static void hear(const json_t *event, void *ctx)
{
    struct listener *l = ctx;

    l->numbers[l->heard++] = (int)json_integer_value(json_object_get(event, "number"));
    if (l->adds) {
        l->adds->handle = fm_events_subscribe(l->events, hear, l->adds);
        l->adds = NULL;
    }
    if (l->heard == l->leaves_at)
        fm_events_unsubscribe(l->events, l->handle);
    if (l->publishes-- > 0)
        fm_events_publish(l->events, event_of(100 + l->publishes));
}

static void everybody_hears_everything_in_order(void **state)
{
    struct fm_events *events = fm_events_new();
    struct listener a = {.events = events};
    struct listener b = {.events = events};

    (void)state;
    fm_events_publish(events, event_of(0));
    a.handle = fm_events_subscribe(events, hear, &a);
    fm_events_publish(events, event_of(1));
    b.handle = fm_events_subscribe(events, hear, &b);
    fm_events_publish(events, event_of(2));
    fm_events_unsubscribe(events, a.handle);
    fm_events_publish(events, event_of(3));

    assert_true(a.handle >= 0 && b.handle > a.handle);
    assert_int_equal(a.heard, 2);
    assert_int_equal(a.numbers[0], 1);
    assert_int_equal(a.numbers[1], 2);
    assert_int_equal(b.heard, 2);
    assert_int_equal(b.numbers[1], 3);
    assert_int_equal(fm_events_subscribers(events), 1);
    fm_events_unsubscribe(events, 4711);
    fm_events_unsubscribe(events, b.handle);
    assert_int_equal(fm_events_subscribers(events), 0);
    fm_events_free(events);
}

static void subscribers_may_come_and_go_inside_a_call(void **state)
{
    struct fm_events *events = fm_events_new();
    struct listener late = {.events = events};
    struct listener a = {.events = events, .adds = &late, .leaves_at = 2};
    struct listener b = {.events = events};

    (void)state;
    a.handle = fm_events_subscribe(events, hear, &a);
    b.handle = fm_events_subscribe(events, hear, &b);
    for (int i = 1; i <= 3; i++)
        fm_events_publish(events, event_of(i));
    assert_int_equal(a.heard, 2);
    assert_int_equal(b.heard, 3);
    assert_int_equal(late.heard, 2);
    assert_int_equal(late.numbers[0], 2);
    assert_int_equal(fm_events_subscribers(events), 2);
    fm_events_free(events);
}

static void an_event_may_cause_another_and_end_the_subscription(void **state)
{
    struct fm_events *events = fm_events_new();
    struct listener a = {.events = events, .publishes = 1, .leaves_at = 2};
    struct listener b = {.events = events};

    (void)state;
    a.handle = fm_events_subscribe(events, hear, &a);
    b.handle = fm_events_subscribe(events, hear, &b);
    fm_events_publish(events, event_of(1));
    fm_events_publish(events, event_of(2));
    assert_int_equal(a.heard, 2);
    assert_int_equal(a.numbers[1], 100);
    assert_int_equal(b.heard, 3);
    fm_events_free(events);
}

/* A subscriber that is inside its call until the test lets it go. */
struct slow {
    int entered[2], leave[2]; /* pipes */
    atomic_bool inside;
};

static void be_slow(const json_t *event, void *ctx)
{
    struct slow *s = ctx;
    char c = 0;

    (void)event;
    atomic_store(&s->inside, true);
    assert_int_equal(write(s->entered[1], "x", 1), 1);
    assert_int_equal(read(s->leave[0], &c, 1), 1);
    atomic_store(&s->inside, false);
}

struct task {
    struct fm_events *events;
    struct slow *slow;
    int handle;
    bool was_inside; /* when unsubscribe returned */
    int done[2];
};

static void *publish_one(void *arg)
{
    struct task *t = arg;

    fm_events_publish(t->events, event_of(1));
    return NULL;
}

static void *unsubscribe_it(void *arg)
{
    struct task *t = arg;

    fm_events_unsubscribe(t->events, t->handle);
    t->was_inside = atomic_load(&t->slow->inside);
    assert_int_equal(write(t->done[1], "x", 1), 1);
    return NULL;
}

static void unsubscribe_waits_for_a_running_call(void **state)
{
    struct slow slow = {0};
    struct task t = {.events = fm_events_new(), .slow = &slow};
    pthread_t publisher, leaver;
    struct pollfd done;
    char c;

    (void)state;
    assert_int_equal(pipe(slow.entered) | pipe(slow.leave) | pipe(t.done), 0);
    t.handle = fm_events_subscribe(t.events, be_slow, &slow);
    pthread_create(&publisher, NULL, publish_one, &t);
    assert_int_equal(read(slow.entered[0], &c, 1), 1);
    pthread_create(&leaver, NULL, unsubscribe_it, &t);

    /* It is out of the list at once, and yet not back. */
    while (fm_events_subscribers(t.events) > 0)
        sched_yield();
    done = (struct pollfd){.fd = t.done[0], .events = POLLIN};
    assert_int_equal(poll(&done, 1, 20), 0);
    fm_events_publish(t.events, event_of(2));

    assert_int_equal(write(slow.leave[1], "x", 1), 1);
    pthread_join(leaver, NULL);
    pthread_join(publisher, NULL);
    assert_false(t.was_inside);
    fm_events_free(t.events);
    for (int i = 0; i < 2; i++) {
        close(slow.entered[i]);
        close(slow.leave[i]);
        close(t.done[i]);
    }
}

/* Publishers and subscribers at once, for the sanitizers. */
#define ROUNDS 300

static void count_up(const json_t *event, void *ctx)
{
    (void)event;
    atomic_fetch_add((atomic_int *)ctx, 1);
}

static void *publish_many(void *arg)
{
    for (int i = 0; i < ROUNDS; i++)
        fm_events_publish(arg, event_of(i));
    return NULL;
}

static void *come_and_go(void *arg)
{
    for (int i = 0; i < ROUNDS; i++) {
        atomic_int heard = 0; /* on this stack: a late call would be found */
        int handle = fm_events_subscribe(arg, count_up, &heard);

        fm_events_publish(arg, event_of(i));
        fm_events_unsubscribe(arg, handle);
        assert_true(atomic_load(&heard) >= 1);
    }
    return NULL;
}

static void many_threads_at_once(void **state)
{
    struct fm_events *events = fm_events_new();
    atomic_int heard = 0;
    pthread_t threads[4];

    (void)state;
    fm_events_subscribe(events, count_up, &heard);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, i % 2 ? publish_many : come_and_go, events);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(heard, 4 * ROUNDS);
    assert_int_equal(fm_events_subscribers(events), 1);
    fm_events_free(events);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everybody_hears_everything_in_order),
        cmocka_unit_test(subscribers_may_come_and_go_inside_a_call),
        cmocka_unit_test(an_event_may_cause_another_and_end_the_subscription),
        cmocka_unit_test(unsubscribe_waits_for_a_running_call),
        cmocka_unit_test(many_threads_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
