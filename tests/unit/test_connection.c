#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "wire_hosts.h"

static void peers_know_each_other(void **state)
{
    struct ends e = join();

    (void)state;
    assert_string_equal(fm_connection_peer(e.client)->name, "b");
    assert_string_equal(fm_connection_peer(e.server)->name, "a");
    assert_string_equal(fm_connection_peer(e.server)->role, FM_ROLE_NODE);
    part(&e);
}

static void frames_arrive_in_order_both_ways(void **state)
{
    struct ends e = join();
    json_auto_t *hello = json_pack("{s:s}", "name", "web");
    json_auto_t *got = NULL;
    json_auto_t *empty = NULL;
    struct fm_frame frame;
    uint64_t before = fm_connection_sent(e.client);

    (void)state;
    assert_int_equal(fm_connection_send_json(e.client, FM_FRAME_HELLO, hello, NULL), 0);
    assert_int_equal(fm_connection_send(e.client, FM_FRAME_DATA, "bytes", 5, NULL), 0);
    assert_int_equal(fm_connection_send(e.client, FM_FRAME_DATA, NULL, 0, NULL), 0);
    assert_int_equal(fm_connection_send_json(e.server, FM_FRAME_PONG, NULL, NULL), 0);

    got = fm_connection_expect(e.server, FM_FRAME_HELLO, NULL);
    assert_true(json_equal(got, hello));
    assert_int_equal(fm_connection_recv(e.server, &frame, NULL), 0);
    assert_int_equal(frame.type, FM_FRAME_DATA);
    assert_int_equal(frame.length, 5);
    assert_string_equal((const char *)frame.payload, "bytes");
    assert_int_equal(fm_connection_recv(e.server, &frame, NULL), 0);
    assert_int_equal(frame.length, 0);
    assert_int_equal(frame.payload[0], 0);
    empty = fm_connection_expect(e.client, FM_FRAME_PONG, NULL);
    assert_int_equal(json_object_size(empty), 0);
    assert_int_equal(fm_connection_sent(e.client) - before,
                     3 * 40 + strlen("{\"name\":\"web\"}") + 5);
    assert_int_equal(fm_connection_received(e.server), fm_connection_sent(e.client));
    part(&e);
}

/* Sizes around the records' and buffers' edges. */
static const size_t sizes[] = {1,     16343,  16344,  16345,  16384,   65536,
                               65537, 131072, 262144, 300001, 1 << 20, FM_FRAME_MAX_PAYLOAD};

static uint8_t *pattern(size_t len)
{
    uint8_t *bytes = fm_xmalloc(len);
    uint32_t x = (uint32_t)len;

    for (size_t i = 0; i < len; i++) {
        x = x * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(x >> 24);
    }
    return bytes;
}

static void *send_sizes(void *arg)
{
    for (size_t i = 0; i < FM_COUNT(sizes); i++) {
        fm_autofree uint8_t *bytes = pattern(sizes[i]);

        if (fm_connection_send(arg, FM_FRAME_DATA, bytes, sizes[i], NULL) < 0)
            return NULL;
    }
    return arg;
}

static void recv_sizes(struct fm_connection *c)
{
    for (size_t i = 0; i < FM_COUNT(sizes); i++) {
        fm_autofree uint8_t *bytes = pattern(sizes[i]);
        struct fm_frame frame;
        struct fm_error err = {0};

        if (fm_connection_recv(c, &frame, &err) < 0)
            fail_msg("%s", err.text);
        assert_int_equal(frame.length, sizes[i]);
        assert_memory_equal(frame.payload, bytes, sizes[i]);
    }
}

static void *recv_sizes_in_thread(void *arg)
{
    recv_sizes(arg);
    return arg;
}

static void all_sizes_cross_both_ways_at_once(void **state)
{
    struct ends e = join();
    pthread_t threads[3];
    void *result;

    (void)state;
    assert_int_equal(pthread_create(&threads[0], NULL, send_sizes, e.client), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, send_sizes, e.server), 0);
    assert_int_equal(pthread_create(&threads[2], NULL, recv_sizes_in_thread, e.client), 0);
    recv_sizes(e.server);
    for (size_t i = 0; i < FM_COUNT(threads); i++) {
        pthread_join(threads[i], &result);
        assert_non_null(result);
    }
    part(&e);
}

static void closing_is_seen(void **state)
{
    struct ends e = join();
    struct fm_frame frame;
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_connection_send(e.client, FM_FRAME_PING, "{}", 2, NULL), 0);
    fm_connection_close(FM_MOVE(e.client));
    assert_int_equal(fm_connection_recv(e.server, &frame, &err), 0);
    assert_int_equal(fm_connection_recv(e.server, &frame, &err), -FM_E_CLOSED);
    assert_string_equal(err.text, "a closed the connection");
    assert_int_equal(fm_connection_recv(e.server, &frame, &err), -FM_E_CLOSED);
    part(&e);
    fm_connection_close(NULL);
}

static void *recv_one(void *arg)
{
    struct fm_error *err = fm_xcalloc(1, sizeof(*err));
    struct fm_frame frame;

    fm_connection_set_timeout(arg, 0);
    fm_connection_recv(arg, &frame, err);
    return err;
}

static void shutdown_wakes_a_receiver(void **state)
{
    struct ends e = join();
    pthread_t thread;
    void *result;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, recv_one, e.server), 0);
    fm_connection_shutdown(e.server);
    pthread_join(thread, &result);
    assert_int_equal(((struct fm_error *)result)->code, FM_E_CLOSED);
    free(result);
    part(&e);
}

static void errors_cross_the_wire(void **state)
{
    struct ends e = join();
    struct fm_error what = {0}, err = {0};

    (void)state;
    fm_error_set(&what, FM_E_NO_SPACE, "/var has 3 MiB free, 64 MiB are needed");
    assert_int_equal(fm_connection_send_error(e.server, FM_FRAME_REFUSED, &what, NULL), 0);
    assert_null(fm_connection_expect(e.client, FM_FRAME_PREPARED, &err));
    assert_int_equal(err.code, FM_E_NO_SPACE);
    assert_string_equal(err.text, what.text);

    /* An error is one, whatever it claims to be. */
    assert_int_equal(fm_connection_send(e.server, FM_FRAME_FAILED, "{\"code\":\"OK\"}", 13, NULL),
                     0);
    assert_null(fm_connection_expect(e.client, FM_FRAME_READY, &err));
    assert_int_equal(err.code, FM_E_FAILED);
    assert_int_equal(fm_connection_send_json(e.server, FM_FRAME_REFUSED, NULL, NULL), 0);
    assert_null(fm_connection_expect(e.client, FM_FRAME_PREPARED, &err));
    assert_int_equal(err.code, FM_E_REFUSED);

    assert_int_equal(fm_connection_send_json(e.server, FM_FRAME_PONG, NULL, NULL), 0);
    assert_null(fm_connection_expect(e.client, FM_FRAME_PREPARED, &err));
    assert_int_equal(err.code, FM_E_PROTOCOL);
    assert_string_equal(err.text, "b sent PONG where PREPARED was expected");
    part(&e);
}

static void sends_are_held_to_the_rate(void **state)
{
    struct ends e = join();
    fm_autofree uint8_t *bytes = pattern(64 << 10);
    uint64_t begin = fm_now_us();

    (void)state;
    fm_connection_set_rate(e.client, 1 << 20); /* 64 KiB last 62.5 ms */
    for (int i = 0; i < 4; i++)
        assert_int_equal(fm_connection_send(e.client, FM_FRAME_DATA, bytes, 64 << 10, NULL), 0);
    assert_true(fm_now_us() - begin >= 3 * 62500 - 10000);
    fm_connection_set_rate(e.client, 0);
    part(&e);
}

static void damage_on_the_way_is_found(void **state)
{
    struct ends e = join();
    struct fm_error err = {0};
    struct fm_frame frame;

    (void)state;
    fm_fault_arm("wire.corrupt-data=fail:2");
    assert_int_equal(fm_connection_send(e.client, FM_FRAME_DATA, "one", 3, NULL), 0);
    assert_int_equal(fm_connection_send(e.client, FM_FRAME_PING, "{}", 2, NULL), 0);
    assert_int_equal(fm_connection_send(e.client, FM_FRAME_DATA, "two", 3, NULL), 0);
    fm_fault_arm(NULL);
    assert_int_equal(fm_connection_recv(e.server, &frame, &err), 0);
    assert_int_equal(fm_connection_recv(e.server, &frame, &err), 0);
    assert_int_equal(fm_connection_recv(e.server, &frame, &err), -FM_E_CHECKSUM);
    assert_string_equal(err.text, "a DATA frame from a arrived damaged (checksum mismatch)");
    /* The other direction is whole: the sender can be told. */
    assert_int_equal(fm_connection_send_error(e.server, FM_FRAME_FAILED, &err, NULL), 0);
    assert_null(fm_connection_expect(e.client, FM_FRAME_READY, &err));
    assert_int_equal(err.code, FM_E_CHECKSUM);
    part(&e);
}

static void injected_losses_are_reported(void **state)
{
    struct ends e = join();
    struct fm_error err = {0};
    struct fm_frame frame;

    (void)state;
    fm_fault_arm("wire.send=fail,wire.recv=fail");
    assert_int_equal(fm_connection_send(e.client, FM_FRAME_PING, "{}", 2, &err), -FM_E_CLOSED);
    assert_int_equal(fm_connection_recv(e.client, &frame, &err), -FM_E_CLOSED);
    fm_fault_arm(NULL);
    assert_int_equal(fm_connection_send(e.client, FM_FRAME_PING, "{}", 2, &err), -FM_E_CLOSED);
    part(&e);
}

static void waiting_has_an_end(void **state)
{
    fm_autofree uint8_t *bytes = pattern(FM_FRAME_MAX_PAYLOAD);
    struct ends e = join();
    struct fm_error err = {0};
    struct fm_frame frame;
    int ret = 0;

    (void)state;
    fm_connection_set_timeout(e.server, 30);
    assert_int_equal(fm_connection_recv(e.server, &frame, &err), -FM_E_TIMEOUT);
    assert_string_equal(err.text, "a did not answer in time");
    /* Nothing had begun: the connection is as good as before. */
    assert_int_equal(fm_connection_send(e.client, FM_FRAME_PING, "{}", 2, NULL), 0);
    assert_int_equal(fm_connection_recv(e.server, &frame, &err), 0);

    /* A peer that does not read stops the sender, not for ever. */
    fm_connection_set_timeout(e.client, 30);
    for (int i = 0; i < 64 && ret == 0; i++)
        ret = fm_connection_send(e.client, FM_FRAME_DATA, bytes, FM_FRAME_MAX_PAYLOAD, &err);
    assert_int_equal(ret, -FM_E_TIMEOUT);
    assert_int_equal(fm_connection_send(e.client, FM_FRAME_PING, "{}", 2, &err), -FM_E_TIMEOUT);
    assert_int_equal(
        fm_connection_send(e.server, FM_FRAME_DATA, bytes, FM_FRAME_MAX_PAYLOAD + 1, &err),
        -FM_E_INVALID);
    part(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(peers_know_each_other),
        cmocka_unit_test(frames_arrive_in_order_both_ways),
        cmocka_unit_test(all_sizes_cross_both_ways_at_once),
        cmocka_unit_test(closing_is_seen),
        cmocka_unit_test(shutdown_wakes_a_receiver),
        cmocka_unit_test(errors_cross_the_wire),
        cmocka_unit_test(sends_are_held_to_the_rate),
        cmocka_unit_test(damage_on_the_way_is_found),
        cmocka_unit_test(injected_losses_are_reported),
        cmocka_unit_test(waiting_has_an_end),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
