#include "network/capture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "network/macvlan.h"
#include "network/outbox.h"
#include "network/redirector.h"

struct fm_capture {
    struct fm_fabric *fabric;
    struct fm_port port;
    struct fm_macvlan_switch inside;
    uint8_t parent_mac[6];
    int helper; /* index of a macvlan of ours: what it sends reaches the container */
    int inbox;
};

/* ---- frames ---- */

/* To the container's MAC, or ARP or a neighbour solicitation to everybody. */
static int filter_inbox(int inbox, const uint8_t mac[6], struct fm_error *err)
{
    uint32_t high =
        (uint32_t)mac[0] << 24 | (uint32_t)mac[1] << 16 | (uint32_t)mac[2] << 8 | (uint32_t)mac[3];
    uint32_t low = (uint32_t)mac[4] << 8 | mac[5];
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, high, 0, 2),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, low, 9, 0),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 1, 0, 8),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_ARP, 5, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IPV6, 0, 5),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 20),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 58, 0, 3),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 54),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 135, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog program = {.len = FM_COUNT(code), .filter = code};
    if (setsockopt(inbox, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0)
        return fm_error_errno(err, errno, "cannot choose the container's packets");
    return 0;
}

/* Gives the frames to an interface (0: to nobody), in order. `from` replaces the sender's MAC: on
 * the wire, a switch would take ours for the sender's place. */
static void drain(struct fm_capture *capture, int interface, const uint8_t *from,
                  struct fm_hold_counters *counters, uint64_t *delivered)
{
    fm_autofree uint8_t *data = fm_xmalloc(FM_OUTBOX_FRAME_MAX);
    uint8_t *frame = data + FM_OUTBOX_HEADER;
    for (;;) {
        ssize_t got = recv(capture->inbox, data, FM_OUTBOX_FRAME_MAX, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < (ssize_t)(FM_OUTBOX_HEADER + ETH_HLEN))
            break;
        size_t len = (size_t)got - FM_OUTBOX_HEADER;
        if (fm_hold_classify(frame, len, &capture->port) == FM_HOLD_NOT_OURS)
            continue;
        counters->held++;
        counters->held_bytes += len;
        memcpy(frame, capture->port.mac, 6); /* a broadcast question too: the others heard it */
        if (from)
            memcpy(frame + 6, from, 6);
        if (interface && fm_outbox_put(capture->inbox, interface, data, (size_t)got))
            ++*delivered;
        else
            counters->dropped++;
    }
    struct tpacket_stats stats = {0};
    socklen_t size = sizeof(stats);
    if (getsockopt(capture->inbox, SOL_PACKET, PACKET_STATISTICS, &stats, &size) == 0)
        counters->dropped += stats.tp_drops;
}

/* ---- prepare ---- */

static int make_helper(struct fm_capture *capture, const struct fm_link *parent,
                       struct fm_error *err)
{
    struct fm_fabric *fabric = capture->fabric;
    char name[16];
    snprintf(name, sizeof(name), FM_HOLD_PREFIX "%08x",
             (unsigned)capture->port.mac[5] << 24 ^ (unsigned)capture->port.mac[4] << 16 ^
                 (unsigned)capture->inside.index);
    struct fm_link link;
    struct fm_nl_batch batch = {0};
    struct fm_macvlan macvlan = {
        .name = name, .parent = parent->index, .netns = -1, .mtu = parent->mtu};
    fm_link_put_macvlan(&batch, &macvlan);
    int rc = fm_nl_run(&fabric->slow, &batch, err);
    if (rc == 0)
        rc = fm_link_by_name(&fabric->slow, name, &link, err);
    if (rc < 0)
        return rc;
    capture->helper = link.index;
    fm_link_put_quiet(&batch, link.index);
    fm_link_put_up(&batch, link.index);
    return fm_nl_run(&fabric->slow, &batch, err);
}

int fm_capture_open(struct fm_fabric *fabric, const struct fm_endpoint *ep,
                    const struct fm_port *port, const struct fm_hold_limits *limits,
                    struct fm_capture **out, struct fm_error *err)
{
    struct fm_capture *capture = fm_xcalloc(1, sizeof(*capture));
    *capture =
        (struct fm_capture){.fabric = fabric, .port = *port, .inside.packet_fd = -1, .inbox = -1};
    struct fm_link parent;
    int rc = fm_link_by_index(&fabric->slow, port->net->parent_index, &parent, err);
    if (rc == 0)
        rc = fm_macvlan_switch_open(ep, &capture->inside, err);
    if (rc == 0)
        rc = capture->inbox = fm_outbox_open(err);
    if (rc >= 0)
        rc = filter_inbox(capture->inbox, port->mac, err);
    if (rc == 0)
        rc = make_helper(capture, &parent, err);
    if (rc < 0) {
        fm_capture_close(capture, NULL);
        return rc;
    }
    memcpy(capture->parent_mac, parent.mac, 6);
    int bytes = limits->max_bytes > INT_MAX / 2 ? INT_MAX / 2 : (int)limits->max_bytes;
    setsockopt(capture->inbox, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
    int off = 0;
    setsockopt(capture->inbox, SOL_PACKET, PACKET_IGNORE_OUTGOING, &off, sizeof(off));
    *out = capture;
    return 0;
}

/* ---- the switches ---- */

int fm_capture_engage(struct fm_capture *capture, struct fm_error *err)
{
    int rc = fm_outbox_collect(capture->inbox, capture->port.net->parent_index, err);
    return rc < 0 ? rc : fm_macvlan_switch_set(&capture->inside, false, err);
}

int fm_capture_release(struct fm_capture *capture, struct fm_hold_counters *counters,
                       struct fm_error *err)
{
    int rc = fm_macvlan_switch_set(&capture->inside, true, err);
    fm_outbox_stop(capture->inbox);
    drain(capture, rc < 0 ? 0 : capture->helper, NULL, counters, &counters->released);
    return rc;
}

void fm_capture_forward(struct fm_capture *capture, struct fm_hold_counters *counters)
{
    fm_outbox_stop(capture->inbox);
    drain(capture, capture->port.net->parent_index, capture->parent_mac, counters,
          &counters->forwarded);
}

bool fm_capture_uses(const struct fm_capture *capture, int index)
{
    return capture && capture->helper == index;
}

void fm_capture_close(struct fm_capture *capture, struct fm_hold_counters *counters)
{
    if (!capture)
        return;
    struct fm_hold_counters ignored = {0};
    if (capture->inbox >= 0) {
        fm_outbox_stop(capture->inbox);
        drain(capture, 0, NULL, counters ? counters : &ignored, &ignored.released);
        close(capture->inbox);
    }
    struct fm_nl_batch batch = {0};
    struct fm_error err = {0};
    if (capture->helper) {
        fm_link_put_delete(&batch, capture->helper);
        fm_nl_run(&capture->fabric->slow, &batch, &err);
    }
    fm_macvlan_switch_close(&capture->inside);
    free(capture);
}
