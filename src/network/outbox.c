#include "network/outbox.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "network/frame_queue.h"

#define BUFFER_BYTES (8 << 20)

int fm_outbox_open(struct fm_error *err)
{
    fm_autoclose int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fm_error_errno(err, errno, "cannot open a packet socket");
    int size = BUFFER_BYTES;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
    int on = 1;
    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on));
    /* A veth carries frames above the MTU with unfinished checksums: the header says what is left
     * to do. */
    if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) < 0)
        return fm_error_errno(err, errno, "cannot set up a packet socket");
    return FM_MOVE_FD(fd);
}

int fm_outbox_collect(int outbox, int port, struct fm_error *err)
{
    struct sockaddr_ll from = {
        .sll_family = AF_PACKET,
        .sll_protocol = htons(ETH_P_ALL),
        .sll_ifindex = port,
    };
    if (bind(outbox, (const struct sockaddr *)&from, sizeof(from)) < 0)
        return fm_error_errno(err, errno, "cannot listen to the container's interface");
    return 0;
}

void fm_outbox_stop(int outbox)
{
    struct sock_filter nothing[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
    struct sock_fprog program = {.len = FM_COUNT(nothing), .filter = nothing};
    setsockopt(outbox, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}

ssize_t fm_outbox_next(int outbox, const uint8_t mac[6], uint8_t buffer[FM_OUTBOX_FRAME_MAX])
{
    const uint8_t *frame = buffer + FM_OUTBOX_HEADER;
    for (;;) {
        struct sockaddr_ll from;
        socklen_t len = sizeof(from);
        ssize_t got =
            recvfrom(outbox, buffer, FM_OUTBOX_FRAME_MAX, 0, (struct sockaddr *)&from, &len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return got;
        bool whole = got >= (ssize_t)(FM_OUTBOX_HEADER + ETH_HLEN);
        if (whole && from.sll_pkttype != PACKET_OUTGOING && memcmp(frame + 6, mac, 6) == 0)
            return got;
    }
}

static bool is_for_many(const uint8_t *buffer)
{
    return buffer[FM_OUTBOX_HEADER] & 1;
}

bool fm_outbox_put(int outbox, int interface, const uint8_t *buffer, size_t len)
{
    const uint8_t *frame = buffer + FM_OUTBOX_HEADER;
    struct sockaddr_ll to = {
        .sll_family = AF_PACKET,
        .sll_protocol = htons((uint16_t)(frame[12] << 8 | frame[13])),
        .sll_ifindex = interface,
        .sll_halen = 6,
    };
    ssize_t sent;
    do
        sent = sendto(outbox, buffer, len, 0, (struct sockaddr *)&to, sizeof(to));
    while (sent < 0 && errno == EINTR);
    return sent >= 0;
}

void fm_outbox_send(int outbox, int bridge, const uint8_t mac[6])
{
    fm_autofree uint8_t *buffer = fm_xmalloc(FM_OUTBOX_FRAME_MAX);
    ssize_t len;
    while ((len = fm_outbox_next(outbox, mac, buffer)) >= 0)
        fm_outbox_put(outbox, bridge, buffer, (size_t)len);
}

struct rest {
    int outbox, bridge;
    struct fm_frame_queue frames;
};

static void *finish_body(void *arg)
{
    struct rest *rest = arg;
    struct fm_frame *frame;
    while ((frame = fm_frame_queue_take(&rest->frames))) {
        fm_outbox_put(rest->outbox, rest->bridge, frame->bytes, frame->len);
        free(frame);
    }
    close(rest->outbox);
    free(rest);
    return NULL;
}

void fm_outbox_finish(int outbox, int bridge, const uint8_t mac[6])
{
    fm_autofree uint8_t *buffer = fm_xmalloc(FM_OUTBOX_FRAME_MAX);
    struct rest *rest = fm_xcalloc(1, sizeof(*rest));
    *rest = (struct rest){.outbox = outbox, .bridge = bridge};
    ssize_t len;
    while ((len = fm_outbox_next(outbox, mac, buffer)) >= 0) {
        if (is_for_many(buffer))
            fm_frame_queue_put(&rest->frames, buffer, (size_t)len);
        else
            fm_outbox_put(outbox, bridge, buffer, (size_t)len);
    }
    pthread_t thread;
    if (pthread_create(&thread, NULL, finish_body, rest) == 0)
        pthread_detach(thread);
    else
        finish_body(rest);
}

static void *close_body(void *arg)
{
    close((int)(intptr_t)arg);
    return NULL;
}

void fm_outbox_close_later(int outbox)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, close_body, (void *)(intptr_t)outbox) == 0)
        pthread_detach(thread);
    else
        close(outbox);
}
