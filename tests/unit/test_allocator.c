#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "base/clock.h"
#include "migration/allocator.h"

#define GIB (UINT64_C(1) << 30)

/* ---- slots ---- */

struct migration {
    struct fm_slots *slots;
    enum fm_priority priority;
    struct fm_slots_wait wait;
    atomic_bool cancel;
    pthread_t thread;
    struct fm_error err;
    int rc;
    int number;        /* given by the test */
    struct order *log; /* NULL: none */
};

/* Who got a slot, in which order. */
struct order {
    atomic_int count;
    int numbers[8];
};

static bool wants_cancel(void *ctx)
{
    return atomic_load(&((struct migration *)ctx)->cancel);
}

static void *run_migration(void *arg)
{
    struct migration *m = arg;

    m->rc = fm_slots_acquire(m->slots, m->priority, &m->wait, &m->err);
    if (m->rc == 0) {
        if (m->log)
            m->log->numbers[atomic_fetch_add(&m->log->count, 1)] = m->number;
        fm_slots_release(m->slots);
    }
    return NULL;
}

/* Returns when it is in the queue behind those that were started before. */
static void start_waiting(struct migration *m, size_t waiting)
{
    uint64_t deadline = fm_now_ms() + 10000;

    m->wait.cancelled = wants_cancel;
    m->wait.ctx = m;
    assert_int_equal(pthread_create(&m->thread, NULL, run_migration, m), 0);
    while (fm_slots_waiting(m->slots) != waiting) {
        assert_true(fm_now_ms() < deadline);
        sched_yield();
    }
}

static void the_queue_is_served_by_priority_then_arrival(void **state)
{
    static const enum fm_priority priorities[] = {FM_PRIORITY_LOW, FM_PRIORITY_NORMAL,
                                                  FM_PRIORITY_HIGH, FM_PRIORITY_NORMAL,
                                                  FM_PRIORITY_HIGH};
    static const int expected[] = {2, 4, 1, 3, 0};
    struct fm_slots *slots = fm_slots_new(1);
    struct migration m[5] = {0};
    struct order order = {0};
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_slots_acquire(slots, FM_PRIORITY_LOW, NULL, &err), 0);
    for (int i = 0; i < 5; i++) {
        m[i].slots = slots;
        m[i].priority = priorities[i];
        m[i].number = i;
        m[i].log = &order;
        start_waiting(&m[i], (size_t)i + 1);
    }
    assert_int_equal(order.count, 0);
    fm_slots_release(slots);
    for (int i = 0; i < 5; i++)
        pthread_join(m[i].thread, NULL);
    assert_int_equal(order.count, 5);
    assert_memory_equal(order.numbers, expected, sizeof(expected));
    assert_int_equal(fm_slots_used(slots), 0);
    fm_slots_free(slots);
}

static void no_more_than_the_limit_run(void **state)
{
    struct fm_slots *slots = fm_slots_new(0);
    struct migration fourth = {.slots = slots, .priority = FM_PRIORITY_HIGH};
    struct fm_error err = {0};

    (void)state;
    for (int i = 0; i < FM_SLOTS_DEFAULT; i++)
        assert_int_equal(fm_slots_acquire(slots, FM_PRIORITY_LOW, NULL, &err), 0);
    start_waiting(&fourth, 1);
    assert_int_equal(fm_slots_try(slots, &err), -FM_E_REFUSED);
    assert_non_null(strstr(err.text, "3 migrations"));
    assert_int_equal(fm_slots_used(slots), 3);

    fm_slots_release(slots);
    pthread_join(fourth.thread, NULL);
    assert_int_equal(fourth.rc, 0);
    assert_int_equal(fm_slots_used(slots), 2);
    assert_int_equal(fm_slots_try(slots, &err), 0);
    fm_slots_force(slots);
    assert_int_equal(fm_slots_used(slots), 4);
    for (int i = 0; i < 4; i++)
        fm_slots_release(slots);
    fm_slots_free(slots);
}

static void a_cancelled_waiter_leaves_and_the_next_moves_up(void **state)
{
    struct fm_slots *slots = fm_slots_new(1);
    struct migration first = {.slots = slots, .priority = FM_PRIORITY_HIGH};
    struct migration second = {.slots = slots, .priority = FM_PRIORITY_LOW};
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_slots_acquire(slots, FM_PRIORITY_LOW, NULL, &err), 0);
    start_waiting(&first, 1);
    start_waiting(&second, 2);

    atomic_store(&first.cancel, true);
    fm_slots_wake(slots);
    pthread_join(first.thread, NULL);
    assert_int_equal(first.rc, -FM_E_CANCELLED);
    assert_int_equal(fm_slots_waiting(slots), 1);
    assert_int_equal(fm_slots_used(slots), 1);

    fm_slots_release(slots);
    pthread_join(second.thread, NULL);
    assert_int_equal(second.rc, 0);
    fm_slots_free(slots);
}

static void a_deadline_ends_the_wait(void **state)
{
    struct fm_slots *slots = fm_slots_new(1);
    struct fm_slots_wait wait = {.deadline_ms = fm_now_ms() + 1};
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_slots_acquire(slots, FM_PRIORITY_LOW, &wait, &err), 0);
    assert_int_equal(fm_slots_acquire(slots, FM_PRIORITY_HIGH, &wait, &err), -FM_E_TIMEOUT);
    assert_non_null(strstr(err.text, "max_concurrent"));
    assert_int_equal(fm_slots_waiting(slots), 0);
    fm_slots_release(slots);
    assert_int_equal(fm_slots_acquire(slots, FM_PRIORITY_LOW, &wait, &err), 0);
    fm_slots_release(slots);
    fm_slots_free(slots);
}

/* ---- reservations ---- */

static struct fm_reserve_request request(const char *id, uint64_t memory, uint64_t disk)
{
    return (struct fm_reserve_request){
        .id = id,
        .container = "redis",
        .memory = memory,
        .disk = disk,
        .memory_available = 10 * GIB,
        .disk_free = 100 * GIB,
    };
}

static void what_is_promised_is_not_promised_again(void **state)
{
    struct fm_reservations *r = fm_reservations_new("host-b", 0);
    struct fm_reserve_request first = request("a", 6 * GIB, GIB);
    struct fm_reserve_request second = request("b", 4 * GIB, GIB);
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_reserve(r, &first, &err), 0);
    assert_int_equal(fm_reserve(r, &second, &err), -FM_E_REFUSED);
    assert_string_equal(err.text,
                        "host-b has 3.7 GiB free memory beside 6.3 GiB promised to 1 incoming "
                        "container, 'redis' needs 4.2 GiB (4.0 GiB + 5 %); free memory there or "
                        "choose another host");
    assert_int_equal(fm_reserved_total(r).count, 1);
    assert_int_equal(fm_reserved_total(r).memory, fm_with_margin(6 * GIB));

    fm_reserve_release(r, "a");
    assert_int_equal(fm_reserve(r, &second, &err), 0);
    fm_reservations_free(r);
}

static void a_second_request_of_the_same_migration_replaces_the_first(void **state)
{
    struct fm_reservations *r = fm_reservations_new("host-b", 0);
    struct fm_reserve_request first = request("a", 6 * GIB, GIB);
    struct fm_reserve_request larger = request("a", 8 * GIB, 2 * GIB);
    struct fm_reserve_request too_large = request("a", 11 * GIB, 2 * GIB);
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_reserve(r, &first, &err), 0);
    assert_int_equal(fm_reserve(r, &larger, &err), 0);
    assert_int_equal(fm_reserve(r, &too_large, &err), -FM_E_REFUSED);
    assert_int_equal(fm_reserved_total(r).count, 1);
    assert_int_equal(fm_reserved_total(r).disk, fm_with_margin(2 * GIB));
    fm_reserve_release(r, "a");
    fm_reserve_release(r, "a");
    assert_int_equal(fm_reserved_total(r).count, 0);
    fm_reservations_free(r);
}

static void disk_and_the_host_s_own_share_count_too(void **state)
{
    struct fm_reservations *r = fm_reservations_new("host-b", 8 * GIB);
    struct fm_reserve_request disk = request("a", GIB, 99 * GIB);
    struct fm_reserve_request memory = request("a", 3 * GIB, GIB);
    struct fm_reserve_request fits = request("a", GIB, GIB);
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_reserve(r, &disk, &err), -FM_E_REFUSED);
    assert_non_null(strstr(err.text, "100.0 GiB free disk, 'redis' needs 103.9 GiB"));
    assert_int_equal(fm_reserve(r, &memory, &err), -FM_E_REFUSED);
    assert_non_null(strstr(err.text, "host-b has 2.0 GiB free memory, 'redis' needs 3.1 GiB"));
    assert_int_equal(fm_reserve(r, &fits, &err), 0);
    fm_reservations_free(r);
}

static void a_peer_s_absurd_number_does_not_wrap_around(void **state)
{
    struct fm_reservations *r = fm_reservations_new("host-b", 0);
    struct fm_reserve_request absurd = request("a", UINT64_MAX, 0);
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_reserve(r, &absurd, &err), -FM_E_REFUSED);
    absurd = request("a", 0, UINT64_MAX - 10);
    assert_int_equal(fm_reserve(r, &absurd, &err), -FM_E_REFUSED);
    fm_reservations_free(r);
}

#define MIB (1ull << 20)

/* What `id` is promised after it has asked for `memory` in all, with `available` free; 0: refused.
 */
static uint64_t grown(struct fm_reservations *r, const char *id, uint64_t memory,
                      uint64_t available, struct fm_error *err)
{
    struct fm_reserve_request more = request(id, memory, 0);
    uint64_t promised = 0;

    more.memory_available = available;
    return fm_reserve_grow(r, &more, &promised, err) == 0 ? promised : 0;
}

static void a_promise_grows_in_steps(void **state)
{
    struct fm_reservations *r = fm_reservations_new("host-b", 0);
    struct fm_reserve_request small = request("a", 100 * MIB, GIB);
    const uint64_t first = fm_with_margin(100 * MIB);
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_reserve(r, &small, &err), 0);
    assert_int_equal(grown(r, "a", first - 1, 0, &err), first); /* it has that */
    assert_int_equal(grown(r, "a", first + 1, 10 * GIB, &err), first + FM_RESERVE_STEP);
    assert_int_equal(grown(r, "a", 4 * GIB, 10 * GIB, &err), 4 * GIB); /* all that it needs */
    assert_int_equal(grown(r, "a", 4 * GIB + 1, 10 * GIB, &err),
                     4 * GIB + 4 * GIB / FM_RESERVE_STEP_PART);
    assert_int_equal(fm_reserved_total(r).count, 1);
    assert_int_equal(fm_reserved_for(r, "a").memory, 4 * GIB + 4 * GIB / FM_RESERVE_STEP_PART);
    assert_int_equal(fm_reserved_for(r, "a").disk, fm_with_margin(GIB));
    fm_reserve_release(r, "a");
    assert_int_equal(fm_reserved_total(r).memory, 0);
    assert_int_equal(fm_reserved_for(r, "a").count, 0);
    assert_int_equal(grown(r, "a", GIB, 10 * GIB, &err), 0);
    assert_int_equal(err.code, FM_E_CANCELLED);
    assert_int_equal(fm_reserved_total(r).count, 0);
    fm_reservations_free(r);
}

static void a_promise_does_not_grow_into_what_is_not_free(void **state)
{
    struct fm_reservations *r = fm_reservations_new("host-b", GIB);
    struct fm_error err = {0};

    (void)state;
    fm_reserve_force(r, "a", 2 * GIB, 0);
    fm_reserve_force(r, "b", 3 * GIB, 0);
    /* 1 GiB is kept, and 5 GiB are for those that lie in page stores yet. */
    assert_int_equal(grown(r, "a", 3 * GIB + 1, 7 * GIB, &err), 0);
    assert_int_equal(err.code, FM_E_NO_SPACE);
    assert_string_equal(err.text,
                        "'redis' has grown to 3.0 GiB of memory on its way, and host-b has no room "
                        "for that: 2.0 GiB is promised to it, 1.0 GiB more is free beside 3.0 GiB "
                        "promised to 1 other incoming container (limits.memory_reserve keeps 1.0 "
                        "GiB); free memory there or choose another host");
    assert_int_equal(fm_reserved_for(r, "a").memory, 2 * GIB); /* nothing was taken */
    assert_int_equal(grown(r, "a", 2 * GIB + 1, 6 * GIB + MIB, &err),
                     2 * GIB + MIB); /* all of it */
    assert_int_equal(grown(r, "b", 3 * GIB + 1, 6 * GIB + MIB, &err), 0);
    fm_reserve_release(r, "a");
    assert_int_equal(grown(r, "b", 6 * GIB, 10 * GIB, &err), 6 * GIB);
    assert_int_equal(grown(r, "b", UINT64_MAX, 10 * GIB, &err), 0);
    fm_reservations_free(r);
}

static struct fm_reservations *shared;

/* Grows its promise bit by bit until it is refused. */
static void *grow_on(void *id)
{
    uint64_t memory = 0;

    while ((memory = grown(shared, id, memory + MIB, 4 * GIB, NULL)))
        continue;
    return NULL;
}

static void two_that_grow_at_once_get_no_more_than_there_is(void **state)
{
    pthread_t threads[2];
    char *const ids[2] = {"a", "b"};

    (void)state;
    shared = fm_reservations_new("host-b", GIB);
    for (int i = 0; i < 2; i++) {
        fm_reserve_force(shared, ids[i], 0, 0);
        assert_int_equal(pthread_create(&threads[i], NULL, grow_on, ids[i]), 0);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_true(fm_reserved_total(shared).memory <= 3 * GIB);
    assert_true(fm_reserved_total(shared).memory > 3 * GIB - 2 * MIB);
    fm_reservations_free(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_queue_is_served_by_priority_then_arrival),
        cmocka_unit_test(no_more_than_the_limit_run),
        cmocka_unit_test(a_cancelled_waiter_leaves_and_the_next_moves_up),
        cmocka_unit_test(a_deadline_ends_the_wait),
        cmocka_unit_test(what_is_promised_is_not_promised_again),
        cmocka_unit_test(a_second_request_of_the_same_migration_replaces_the_first),
        cmocka_unit_test(disk_and_the_host_s_own_share_count_too),
        cmocka_unit_test(a_peer_s_absurd_number_does_not_wrap_around),
        cmocka_unit_test(a_promise_grows_in_steps),
        cmocka_unit_test(a_promise_does_not_grow_into_what_is_not_free),
        cmocka_unit_test(two_that_grow_at_once_get_no_more_than_there_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
