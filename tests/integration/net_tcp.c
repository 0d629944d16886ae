#include "net_tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "net_actors.h"
#include "net_lab.h"

#define CHUNK 65536

static void die(const char *what)
{
    fprintf(stderr, "net_tcp: %s: %s\n", what, strerror(errno));
    exit(1);
}

uint8_t tcp_pattern(uint64_t position)
{
    return (uint8_t)(position * 31 + (position >> 8) * 7 + (position >> 20));
}

static void take(struct tcp_server *s)
{
    static _Thread_local uint8_t data[CHUNK];
    ssize_t got = recv(s->fd, data, sizeof(data), MSG_DONTWAIT);
    if (got <= 0) {
        if (got == 0)
            atomic_store(&s->stop, true);
        return;
    }
    uint64_t position = atomic_load(&s->received);
    for (ssize_t i = 0; s->role == TCP_SINK && i < got; i++)
        s->wrong += data[i] != tcp_pattern(position + (uint64_t)i);
    if (s->role == TCP_ECHO && send(s->fd, data, (size_t)got, MSG_NOSIGNAL) != got)
        die("send");
    atomic_store(&s->last_us, fm_now_us());
    atomic_store(&s->received, position + (uint64_t)got);
}

static void give(struct tcp_server *s)
{
    uint8_t data[8192];
    uint64_t position = atomic_load(&s->received);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = tcp_pattern(position + i);
    ssize_t put = send(s->fd, data, sizeof(data), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put > 0)
        atomic_store(&s->received, position + (uint64_t)put);
}

static void *server_body(void *arg)
{
    struct tcp_server *s = arg;
    while (!atomic_load(&s->stop)) {
        struct pollfd wait = {.fd = s->fd, .events = s->role == TCP_SOURCE ? POLLOUT : POLLIN};
        if (poll(&wait, 1, 1) <= 0) /* the descriptor may change while frozen */
            continue;
        pthread_mutex_lock(&s->frozen);
        if (s->role == TCP_SOURCE)
            give(s);
        else
            take(s);
        pthread_mutex_unlock(&s->frozen);
    }
    return NULL;
}

void tcp_server_listen(struct tcp_server *s, const char *netns, const char *ip, uint16_t port,
                       enum tcp_role role)
{
    *s = (struct tcp_server){.role = role, .fd = -1, .frozen = PTHREAD_MUTEX_INITIALIZER};
    struct sockaddr_storage address;
    socklen_t len = net_address(ip, port, &address);
    int on = 1;
    s->listener = lab_socket(netns, address.ss_family, SOCK_STREAM);
    setsockopt(s->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    int big =
        8 << 20; /* a bulk sender is never stopped by a full window: something is on its way */
    setsockopt(s->listener, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof(big));
    if (bind(s->listener, (struct sockaddr *)&address, len) < 0 || listen(s->listener, 8) < 0)
        die("cannot listen");
}

void tcp_server_accept(struct tcp_server *s)
{
    s->fd = accept(s->listener, NULL, NULL);
    int on = 1;
    if (s->fd < 0 || pthread_create(&s->thread, NULL, server_body, s) != 0)
        die("accept");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

void tcp_server_freeze(struct tcp_server *s)
{
    pthread_mutex_lock(&s->frozen);
}

void tcp_server_thaw(struct tcp_server *s)
{
    pthread_mutex_unlock(&s->frozen);
}

void tcp_server_stop(struct tcp_server *s)
{
    atomic_store(&s->stop, true);
    pthread_join(s->thread, NULL);
    close(s->fd);
    close(s->listener);
}

int tcp_client(const char *netns, const char *ip, uint16_t port)
{
    struct sockaddr_storage address;
    socklen_t len = net_address(ip, port, &address);
    int fd = lab_socket(netns, address.ss_family, SOCK_STREAM);
    int on = 1;
    if (connect(fd, (struct sockaddr *)&address, len) < 0)
        die("cannot connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    struct timeval patience = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    return fd;
}

unsigned tcp_retransmissions(int fd)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);
    getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len);
    return info.tcpi_total_retrans;
}

/* ---- moving a connection ---- */

struct tcp_connection {
    struct sockaddr_storage local, remote;
    socklen_t local_len, remote_len;
    struct tcp_info info;
    struct tcp_repair_window window;
    uint32_t timestamp;
    int mss;
    struct {
        uint32_t seq;
        uint8_t *data;
        int len;
        int unsent; /* its end, that no segment was made of */
    } queues[3];    /* by TCP_RECV_QUEUE, TCP_SEND_QUEUE */
};

static void set(int fd, int name, const void *value, socklen_t len)
{
    if (setsockopt(fd, IPPROTO_TCP, name, value, len) < 0)
        die("setsockopt");
}

static void set_int(int fd, int name, int value)
{
    set(fd, name, &value, sizeof(value));
}

static void get(int fd, int name, void *value, socklen_t len)
{
    if (getsockopt(fd, IPPROTO_TCP, name, value, &len) < 0)
        die("getsockopt");
}

static void save_queue(int fd, struct tcp_connection *c, int queue)
{
    set_int(fd, TCP_REPAIR_QUEUE, queue);
    get(fd, TCP_QUEUE_SEQ, &c->queues[queue].seq, 4);
    int len = 0;
    if (ioctl(fd, queue == TCP_SEND_QUEUE ? SIOCOUTQ : SIOCINQ, &len) < 0)
        die("ioctl");
    if (queue == TCP_SEND_QUEUE && ioctl(fd, SIOCOUTQNSD, &c->queues[queue].unsent) < 0)
        die("ioctl");
    c->queues[queue].data = fm_xmalloc((size_t)len + 1);
    c->queues[queue].len = len;
    if (len && recv(fd, c->queues[queue].data, (size_t)len, MSG_PEEK | MSG_DONTWAIT) != len)
        die("cannot read a queue");
}

static void save(int fd, struct tcp_connection *c)
{
    c->local_len = c->remote_len = sizeof(c->local);
    getsockname(fd, (struct sockaddr *)&c->local, &c->local_len);
    getpeername(fd, (struct sockaddr *)&c->remote, &c->remote_len);
    set_int(fd, TCP_REPAIR, TCP_REPAIR_ON);
    get(fd, TCP_INFO, &c->info, sizeof(c->info));
    get(fd, TCP_MAXSEG, &c->mss, sizeof(c->mss));
    get(fd, TCP_TIMESTAMP, &c->timestamp, sizeof(c->timestamp));
    save_queue(fd, c, TCP_RECV_QUEUE);
    save_queue(fd, c, TCP_SEND_QUEUE);
    get(fd, TCP_REPAIR_WINDOW, &c->window, sizeof(c->window));
}

static void put_bytes(int fd, const uint8_t *data, int len)
{
    for (int done = 0; done < len;) {
        int now = len - done < 4096 ? len - done : 4096;
        ssize_t put = send(fd, data + done, (size_t)now, MSG_DONTWAIT);
        if (put < 0)
            die("cannot fill a queue");
        done += (int)put;
    }
}

/* As CRIU does it: what was sent is put back in repair mode, what was not is simply sent, before
 * anybody resumes. */
static void restore_queue(int fd, struct tcp_connection *c, int queue)
{
    int sent = c->queues[queue].len - c->queues[queue].unsent;
    set_int(fd, TCP_REPAIR_QUEUE, queue);
    put_bytes(fd, c->queues[queue].data, sent);
    if (c->queues[queue].unsent) {
        set_int(fd, TCP_REPAIR, TCP_REPAIR_OFF);
        put_bytes(fd, c->queues[queue].data + sent, c->queues[queue].unsent);
        set_int(fd, TCP_REPAIR, TCP_REPAIR_ON);
    }
    free(c->queues[queue].data);
}

static void restore(int fd, struct tcp_connection *c)
{
    int big = 8 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof(big));
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof(big));
    set_int(fd, TCP_REPAIR, TCP_REPAIR_ON);
    for (int queue = TCP_RECV_QUEUE; queue <= TCP_SEND_QUEUE; queue++) {
        uint32_t seq = c->queues[queue].seq - (uint32_t)c->queues[queue].len;
        set_int(fd, TCP_REPAIR_QUEUE, queue);
        set(fd, TCP_QUEUE_SEQ, &seq, sizeof(seq));
    }
    if (bind(fd, (struct sockaddr *)&c->local, c->local_len) < 0 ||
        connect(fd, (struct sockaddr *)&c->remote, c->remote_len) < 0)
        die("cannot restore a connection");
    struct tcp_repair_opt options[4];
    size_t count = 0;
    if (c->info.tcpi_options & TCPI_OPT_SACK)
        options[count++] = (struct tcp_repair_opt){4, 0};
    if (c->info.tcpi_options & TCPI_OPT_WSCALE)
        options[count++] = (struct tcp_repair_opt){
            3, (uint32_t)(c->info.tcpi_snd_wscale | c->info.tcpi_rcv_wscale << 16)};
    if (c->info.tcpi_options & TCPI_OPT_TIMESTAMPS)
        options[count++] = (struct tcp_repair_opt){8, 0};
    options[count++] = (struct tcp_repair_opt){2, (uint32_t)c->mss};
    set(fd, TCP_REPAIR_OPTIONS, options, (socklen_t)(count * sizeof(options[0])));
    c->timestamp += 2; /* it was read with its lowest bit cleared: never go back */
    set(fd, TCP_TIMESTAMP, &c->timestamp, sizeof(c->timestamp));
    restore_queue(fd, c, TCP_RECV_QUEUE);
    set(fd, TCP_REPAIR_WINDOW, &c->window, sizeof(c->window));
    restore_queue(fd, c, TCP_SEND_QUEUE);
    set_int(fd, TCP_REPAIR, TCP_REPAIR_OFF);
}

void tcp_server_save(struct tcp_server *s)
{
    s->saved = fm_xcalloc(1, sizeof(*s->saved));
    save(s->fd, s->saved);
}

void tcp_server_move(struct tcp_server *s, const char *netns)
{
    if (!s->saved)
        tcp_server_save(s);
    int moved = lab_socket(netns, s->saved->local.ss_family, SOCK_STREAM);
    restore(moved, s->saved);
    close(s->fd); /* in repair mode: silently */
    s->fd = moved;
    free(s->saved);
    s->saved = NULL;
}
