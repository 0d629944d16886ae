#include "network/tcp_flow.h"

#include <linux/if_ether.h>
#include <string.h>

#define TCP 6
#define FLAG_FIN 0x01
#define FLAG_SYN 0x02
#define FLAG_RST 0x04
#define FLAG_ACK 0x10

struct segment {
    struct fm_tcp_flow flow; /* that it is in, without `next` */
    uint32_t seq, ack;
    uint32_t len; /* of its part of the sequence */
    uint8_t flags;
};

/* ---- frames: every byte may be somebody else's ---- */

static uint16_t get_u16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)get_u16(at) << 16 | get_u16(at + 2);
}

static bool parse_tcp(const uint8_t *tcp, size_t len, bool sent, struct segment *s)
{
    if (len < 20)
        return false;
    size_t header = (size_t)(tcp[12] >> 4) * 4;
    if (header < 20 || header > len)
        return false;
    s->flow.port = get_u16(tcp + (sent ? 0 : 2));
    s->flow.peer_port = get_u16(tcp + (sent ? 2 : 0));
    s->seq = get_u32(tcp + 4);
    s->ack = get_u32(tcp + 8);
    s->flags = tcp[13];
    s->len = (uint32_t)(len - header) + (s->flags & FLAG_FIN ? 1 : 0);
    return !(s->flags & (FLAG_SYN | FLAG_RST));
}

static bool parse_ip4(const uint8_t *ip, size_t len, bool sent, struct segment *s)
{
    if (len < 20 || ip[0] >> 4 != 4 || ip[9] != TCP)
        return false;
    size_t header = (size_t)(ip[0] & 15) * 4, total = get_u16(ip + 2);
    bool fragment = get_u16(ip + 6) & 0x3fff;
    if (header < 20 || total < header || total > len || fragment)
        return false;
    s->flow.family = 4;
    memcpy(s->flow.peer, ip + (sent ? 16 : 12), 4);
    return parse_tcp(ip + header, total - header, sent, s);
}

static bool parse_ip6(const uint8_t *ip, size_t len, bool sent, struct segment *s)
{
    if (len < 40 || ip[0] >> 4 != 6 || ip[6] != TCP)
        return false;
    size_t payload = get_u16(ip + 4);
    if (payload > len - 40)
        return false;
    if (payload == 0) /* a jumbogram that was not cut yet */
        payload = len - 40;
    s->flow.family = 6;
    memcpy(s->flow.peer, ip + (sent ? 24 : 8), 16);
    return parse_tcp(ip + 40, payload, sent, s);
}

static bool parse(const uint8_t *frame, size_t len, bool sent, struct segment *s)
{
    *s = (struct segment){0};
    if (len < ETH_HLEN)
        return false;
    unsigned type = get_u16(frame + 12);
    const uint8_t *ip = frame + ETH_HLEN;
    return (type == ETH_P_IP && parse_ip4(ip, len - ETH_HLEN, sent, s)) ||
           (type == ETH_P_IPV6 && parse_ip6(ip, len - ETH_HLEN, sent, s));
}

/* ---- flows ---- */

static bool same_flow(const struct fm_tcp_flow *a, const struct fm_tcp_flow *b)
{
    return a->port == b->port && a->peer_port == b->peer_port && a->family == b->family &&
           memcmp(a->peer, b->peer, sizeof(a->peer)) == 0;
}

static size_t find(const struct fm_tcp_flows *flows, const struct fm_tcp_flow *wanted)
{
    size_t i = 0;
    while (i < flows->count && !same_flow(&flows->flows[i], wanted))
        i++;
    return i;
}

/* Sequence numbers go round: the later one is less than half a round ahead. */
static void advance(struct fm_tcp_flows *flows, const struct fm_tcp_flow *of, uint32_t next)
{
    size_t i = find(flows, of);
    if (i == FM_TCP_FLOWS)
        return;
    if (i == flows->count) {
        flows->flows[flows->count++] = *of;
        flows->flows[i].next = next;
    } else if ((int32_t)(next - flows->flows[i].next) > 0) {
        flows->flows[i].next = next;
    }
}

void fm_tcp_flows_sent(struct fm_tcp_flows *flows, const uint8_t *frame, size_t len)
{
    struct segment s;
    if (parse(frame, len, true, &s) && s.len > 0)
        advance(flows, &s.flow, s.seq + s.len);
}

void fm_tcp_flows_heard(struct fm_tcp_flows *flows, const uint8_t *frame, size_t len)
{
    struct segment s;
    if (parse(frame, len, false, &s) && (s.flags & FLAG_ACK))
        advance(flows, &s.flow, s.ack);
}

enum fm_tcp_step fm_tcp_flows_judge(const struct fm_tcp_flows *flows, const uint8_t *frame,
                                    size_t len)
{
    struct segment s;
    if (!parse(frame, len, true, &s) || s.len == 0)
        return FM_TCP_NOTHING;
    size_t i = find(flows, &s.flow);
    if (i == flows->count)
        return FM_TCP_BEGINS;
    return flows->flows[i].next == s.seq ? FM_TCP_CONTINUES : FM_TCP_STRAYS;
}
