#include "wire/transport.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/text.h"

#define OUT_SIZE (64u << 10)
#define IN_SIZE (256u << 10)

int fm_transport_flush(struct fm_transport *t)
{
    while (t->out_begin < t->out_end) {
        ssize_t n = send(t->fd, t->out + t->out_begin, t->out_end - t->out_begin,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        t->out_begin += (size_t)n;
    }
    t->out_begin = t->out_end = 0;
    return 0;
}

/* Appends as much as there is room for, and makes room when there is none. */
static ssize_t gather(struct fm_transport *t, const giovec_t *iov, int count)
{
    size_t taken = 0;

    for (int i = 0; i < count; i++) {
        const uint8_t *data = iov[i].iov_base;
        size_t left = iov[i].iov_len;

        while (left > 0) {
            size_t room = OUT_SIZE - t->out_end;
            size_t n = left < room ? left : room;
            int ret;

            memcpy(t->out + t->out_end, data, n);
            t->out_end += n;
            data += n;
            left -= n;
            taken += n;
            if (t->out_end < OUT_SIZE)
                continue;
            ret = fm_transport_flush(t);
            if (ret == -EAGAIN)
                return (ssize_t)taken;
            if (ret < 0) {
                errno = -ret;
                return -1;
            }
        }
    }
    return (ssize_t)taken;
}

static ssize_t push(gnutls_transport_ptr_t ptr, const giovec_t *iov, int count)
{
    struct fm_transport *t = ptr;
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)iov,
                             .msg_iovlen = (size_t)count};

    if (t->out_end == OUT_SIZE) { /* full since the socket was */
        int ret = fm_transport_flush(t);

        if (ret < 0) {
            errno = -ret;
            return -1;
        }
    }
    if (t->hold || t->out_end > 0) /* in order */
        return gather(t, iov, count);
    return sendmsg(t->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static ssize_t pull(gnutls_transport_ptr_t ptr, void *buf, size_t len)
{
    struct fm_transport *t = ptr;
    size_t n;

    if (t->in_begin == t->in_end) {
        ssize_t got = recv(t->fd, t->in, IN_SIZE, MSG_DONTWAIT);

        if (got <= 0)
            return got;
        t->in_begin = 0;
        t->in_end = (size_t)got;
    }
    n = t->in_end - t->in_begin;
    n = n < len ? n : len;
    memcpy(buf, t->in + t->in_begin, n);
    t->in_begin += n;
    return (ssize_t)n;
}

/* GnuTLS asks before it would block; nobody here lets it. */
static int pull_ready(gnutls_transport_ptr_t ptr, unsigned int ms)
{
    (void)ptr;
    (void)ms;
    return 1;
}

void fm_transport_attach(struct fm_transport *t, gnutls_session_t session, int fd)
{
    *t = (struct fm_transport){.fd = fd, .out = fm_xmalloc(OUT_SIZE), .in = fm_xmalloc(IN_SIZE)};
    gnutls_transport_set_ptr(session, t);
    gnutls_transport_set_vec_push_function(session, push);
    gnutls_transport_set_pull_function(session, pull);
    gnutls_transport_set_pull_timeout_function(session, pull_ready);
}

void fm_transport_clear(struct fm_transport *t)
{
    free(t->out);
    free(t->in);
    *t = (struct fm_transport){.fd = -1};
}
