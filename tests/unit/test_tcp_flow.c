/* Which of a frozen container's segments continue a flow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "network/tcp_flow.h"

#define FIN 0x01
#define SYN 0x02
#define RST 0x04
#define ACK 0x10

static const uint8_t ours[16] = {10, 88, 0, 5};
static const uint8_t peer[16] = {10, 88, 0, 9};
static const uint8_t other[16] = {10, 88, 0, 10};

struct frame {
    uint8_t bytes[256];
    size_t len;
};

struct segment {
    int version; /* of IP; 0: 4 */
    const uint8_t *from, *to;
    uint16_t port, peer_port; /* of the sender, of the receiver */
    uint32_t seq, ack;
    uint8_t flags;
    size_t data;
};

static void put_u16(uint8_t *at, size_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put_u32(uint8_t *at, uint32_t value)
{
    put_u16(at, value >> 16);
    put_u16(at + 2, value & 0xffff);
}

static struct frame build(const struct segment *s)
{
    struct frame f = {0};
    uint8_t *ip = f.bytes + 14;
    size_t header = s->version == 6 ? 40 : 20, size = s->version == 6 ? 16 : 4;
    if (s->version == 6) {
        put_u16(f.bytes + 12, 0x86dd);
        ip[0] = 0x60;
        put_u16(ip + 4, 20 + s->data);
        ip[6] = 6;
        memcpy(ip + 8, s->from, size);
        memcpy(ip + 24, s->to, size);
    } else {
        put_u16(f.bytes + 12, 0x0800);
        ip[0] = 0x45;
        put_u16(ip + 2, 40 + s->data);
        ip[9] = 6;
        memcpy(ip + 12, s->from, size);
        memcpy(ip + 16, s->to, size);
    }
    uint8_t *tcp = ip + header;
    put_u16(tcp, s->port);
    put_u16(tcp + 2, s->peer_port);
    put_u32(tcp + 4, s->seq);
    put_u32(tcp + 8, s->ack);
    tcp[12] = 0x50;
    tcp[13] = s->flags;
    f.len = 14 + header + 20 + s->data;
    return f;
}

/* What the container sends its peer. */
static struct frame says(uint32_t seq, size_t data)
{
    return build(&(struct segment){.from = ours,
                                   .to = peer,
                                   .port = 80,
                                   .peer_port = 4000,
                                   .seq = seq,
                                   .flags = ACK,
                                   .data = data});
}

static struct frame hears(uint32_t ack, uint8_t flags)
{
    return build(&(struct segment){
        .from = peer, .to = ours, .port = 4000, .peer_port = 80, .ack = ack, .flags = flags});
}

static void sent(struct fm_tcp_flows *flows, struct frame f)
{
    fm_tcp_flows_sent(flows, f.bytes, f.len);
}

static void heard(struct fm_tcp_flows *flows, struct frame f)
{
    fm_tcp_flows_heard(flows, f.bytes, f.len);
}

static enum fm_tcp_step judge(const struct fm_tcp_flows *flows, struct frame f)
{
    return fm_tcp_flows_judge(flows, f.bytes, f.len);
}

static void test_continuation(void **state)
{
    (void)state;
    struct fm_tcp_flows flows = {0};
    assert_int_equal(judge(&flows, says(1000, 100)), FM_TCP_BEGINS);
    sent(&flows, says(1000, 100));
    assert_int_equal(judge(&flows, says(1100, 50)), FM_TCP_CONTINUES);
    assert_int_equal(judge(&flows, says(1100, 0)), FM_TCP_NOTHING);
    assert_int_equal(judge(&flows, says(1000, 100)), FM_TCP_STRAYS); /* once more */
    assert_int_equal(judge(&flows, says(1200, 50)), FM_TCP_STRAYS);  /* a jump */
    sent(&flows, says(1000, 50)); /* an old one changes nothing */
    assert_int_equal(judge(&flows, says(1100, 50)), FM_TCP_CONTINUES);
    sent(&flows, says(1100, 50));
    assert_int_equal(judge(&flows, says(1150, 1)), FM_TCP_CONTINUES);
    assert_int_equal(flows.count, 1);
}

static void test_acknowledged(void **state)
{
    (void)state;
    struct fm_tcp_flows flows = {0};
    heard(&flows, hears(5000, ACK));
    assert_int_equal(judge(&flows, says(5000, 10)), FM_TCP_CONTINUES);
    assert_int_equal(judge(&flows, says(4990, 10)), FM_TCP_STRAYS);
    heard(&flows, hears(4000, ACK)); /* overtaken */
    assert_int_equal(judge(&flows, says(5000, 10)), FM_TCP_CONTINUES);
    heard(&flows, hears(6000, 0)); /* acknowledges nothing */
    heard(&flows, hears(7000, ACK | RST));
    heard(&flows, hears(8000, ACK | SYN));
    assert_int_equal(judge(&flows, says(5000, 10)), FM_TCP_CONTINUES);
}

static void test_round_trip_of_numbers(void **state)
{
    (void)state;
    struct fm_tcp_flows flows = {0};
    sent(&flows, says(UINT32_MAX - 9, 20));
    assert_int_equal(judge(&flows, says(10, 5)), FM_TCP_CONTINUES);
    sent(&flows, says(UINT32_MAX - 50, 20));
    assert_int_equal(judge(&flows, says(10, 5)), FM_TCP_CONTINUES);
}

static void test_end_of_stream(void **state)
{
    (void)state;
    struct fm_tcp_flows flows = {0};
    struct segment fin = {
        .from = ours, .to = peer, .port = 80, .peer_port = 4000, .seq = 1100, .flags = ACK | FIN};
    sent(&flows, says(1000, 100));
    assert_int_equal(judge(&flows, build(&fin)), FM_TCP_CONTINUES);
    sent(&flows, build(&fin));
    assert_int_equal(judge(&flows, build(&fin)), FM_TCP_STRAYS);
}

static void test_flows_are_apart(void **state)
{
    (void)state;
    struct fm_tcp_flows flows = {0};
    struct segment s = {
        .from = ours, .to = peer, .port = 80, .peer_port = 4000, .seq = 1, .flags = ACK, .data = 1};
    sent(&flows, build(&s));
    s.seq = 2;
    assert_int_equal(judge(&flows, build(&s)), FM_TCP_CONTINUES);
    s.peer_port = 4001;
    assert_int_equal(judge(&flows, build(&s)), FM_TCP_BEGINS);
    s.peer_port = 4000;
    s.port = 81;
    assert_int_equal(judge(&flows, build(&s)), FM_TCP_BEGINS);
    s.port = 80;
    s.to = other;
    assert_int_equal(judge(&flows, build(&s)), FM_TCP_BEGINS);
    s.to = peer;
    s.version = 6;
    assert_int_equal(judge(&flows, build(&s)), FM_TCP_BEGINS);
    sent(&flows, build(&s));
    s.seq = 3;
    assert_int_equal(judge(&flows, build(&s)), FM_TCP_CONTINUES);
}

static void test_as_many_as_there_is_room(void **state)
{
    (void)state;
    struct fm_tcp_flows flows = {0};
    struct segment s = {.from = ours, .to = peer, .port = 80, .flags = ACK, .data = 1};
    for (uint16_t i = 0; i < 2 * FM_TCP_FLOWS; i++) {
        s.peer_port = i;
        sent(&flows, build(&s));
    }
    assert_int_equal(flows.count, FM_TCP_FLOWS);
    s.seq = 1;
    assert_int_equal(judge(&flows, build(&s)), FM_TCP_BEGINS);
    s.peer_port = 0;
    assert_int_equal(judge(&flows, build(&s)), FM_TCP_CONTINUES);
}

/* Lengths that lie, and what is no TCP. */
static void test_bad_frames(void **state)
{
    (void)state;
    struct fm_tcp_flows flows = {0};
    struct segment six = {.version = 6,
                          .from = ours,
                          .to = peer,
                          .port = 80,
                          .peer_port = 4000,
                          .flags = ACK,
                          .data = 5};
    const struct frame good[] = {says(1, 5), build(&six)};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(judge(&flows, good[i]), FM_TCP_BEGINS);
        struct frame f = good[i];
        for (f.len = 0; f.len < good[i].len; f.len++) { /* never reads past the end */
            uint8_t exact[256];
            memcpy(exact, f.bytes, f.len);
            assert_int_equal(fm_tcp_flows_judge(&flows, exact, f.len), FM_TCP_NOTHING);
        }
    }
    static const struct {
        size_t frame, at;
        uint8_t value;
    } lies[] = {
        {0, 12, 0x99},      /* type */
        {0, 14, 0x65},      /* version */
        {0, 14, 0x44},      /* header of IP too short */
        {0, 14, 0x4f},      /* and too long */
        {0, 17, 19},        /* total length */
        {0, 16, 0xff},      /* beyond the frame */
        {0, 20, 0x20},      /* a fragment */
        {0, 23, 17},        /* UDP */
        {0, 34 + 12, 0x40}, /* header of TCP too short */
        {0, 34 + 12, 0xf0}, /* and too long */
        {1, 14, 0x40},      /* version */
        {1, 18, 0xff},      /* beyond the frame */
        {1, 20, 44},        /* an extension header */
    };
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        struct frame f = good[lies[i].frame];
        f.bytes[lies[i].at] = lies[i].value;
        assert_int_equal(judge(&flows, f), FM_TCP_NOTHING);
        sent(&flows, f);
        heard(&flows, f);
        assert_int_equal(flows.count, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_continuation),
        cmocka_unit_test(test_acknowledged),
        cmocka_unit_test(test_round_trip_of_numbers),
        cmocka_unit_test(test_end_of_stream),
        cmocka_unit_test(test_flows_are_apart),
        cmocka_unit_test(test_as_many_as_there_is_room),
        cmocka_unit_test(test_bad_frames),
    };
    return cmocka_run_group_tests_name("tcp-flow", tests, NULL, NULL);
}
