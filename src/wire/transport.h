/* The bytes below TLS: records are read and written in batches, since one system call per 16 KiB
 * record costs as much as its cipher. Private to wire. */
#ifndef FM_WIRE_TRANSPORT_H
#define FM_WIRE_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <gnutls/gnutls.h>

/* Used under the connection's lock, like the session itself. */
struct fm_transport {
    int fd;    /* not owned */
    bool hold; /* gather what is sent until the next flush */
    uint8_t *out;
    size_t out_begin, out_end;
    uint8_t *in;
    size_t in_begin, in_end;
};

void fm_transport_attach(struct fm_transport *t, gnutls_session_t session, int fd);
void fm_transport_clear(struct fm_transport *t);

/* Sends what is gathered. 0: all is out. -EAGAIN: the socket is full; other errors as errno. */
int fm_transport_flush(struct fm_transport *t);

#endif
