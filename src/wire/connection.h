/* Connections between daemons: mutual TLS 1.3 over TCP that carries checked frames. */
#ifndef FM_WIRE_CONNECTION_H
#define FM_WIRE_CONNECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"
#include "wire/frame.h"
#include "wire/tls.h"

struct fm_connection; /* one at a time may send, one at a time may receive */

/* Connects and shakes hands within timeout_ms; the peer must present the name `expect_name` (NULL:
 * any node). Returns once the peer has accepted our certificate too (a greeting of 4 bytes that the
 * server sends before its first frame). FM_E_UNREACHABLE, FM_E_TIMEOUT, FM_E_AUTH, FM_E_PROTOCOL.
 */
struct fm_connection *fm_connection_open(const struct fm_tls_identity *identity, const char *host,
                                         int port, const char *expect_name, uint64_t timeout_ms,
                                         struct fm_error *err);
/* Takes over an accepted socket (also on failure) and shakes hands as the server. */
struct fm_connection *fm_connection_accept(const struct fm_tls_identity *identity, int fd,
                                           uint64_t timeout_ms, struct fm_error *err);
void fm_connection_close(struct fm_connection *c); /* NULL is fine */
/* Wakes whoever is blocked on it, with FM_E_CLOSED; callable from any thread. */
void fm_connection_shutdown(struct fm_connection *c);

/* Before closing after a failure: discards what the peer still sends, until it closes or timeout_ms
 * have passed. Otherwise the kernel answers it with a reset, and the peer never reads the error
 * that was sent to it. */
void fm_connection_drain(struct fm_connection *c, uint64_t timeout_ms);

const struct fm_tls_peer *fm_connection_peer(const struct fm_connection *c);
/* Bytes of TLS payload sent and received so far (frames with their headers). */
uint64_t fm_connection_sent(const struct fm_connection *c);
uint64_t fm_connection_received(const struct fm_connection *c);

/* How long a receive waits for a frame to begin and to end, and a send for the peer to take more,
 * in ms; 0: for ever. Default 30 s. A receive that timed out before a frame began may be repeated;
 * after any other error the connection is of no use in that direction. */
void fm_connection_set_timeout(struct fm_connection *c, uint64_t timeout_ms);
/* Bytes per second that sends are held to; 0: no limit. */
void fm_connection_set_rate(struct fm_connection *c, uint64_t bytes_per_second);
/* Bytes that the kernel takes of us before the network has room for them: few, and what is urgent
 * does not wait behind them. A hint (TCP_NOTSENT_LOWAT). */
void fm_connection_set_backlog(struct fm_connection *c, uint32_t bytes);

/* Fault points: wire.send, wire.recv (the connection is lost), wire.corrupt, wire.corrupt-data and
 * wire.corrupt-pages (the checksum of any frame, or of a DATA or PAGES frame, is wrong). */
int fm_connection_send(struct fm_connection *c, enum fm_frame_type type, const void *payload,
                       size_t len, struct fm_error *err);
/* Encodes and sends; `doc` stays the caller's; NULL sends {}. */
int fm_connection_send_json(struct fm_connection *c, enum fm_frame_type type, const json_t *doc,
                            struct fm_error *err);

/* One received, verified frame. `payload` has a NUL after `length` bytes and belongs to the
 * connection until the next receive. */
struct fm_frame {
    enum fm_frame_type type;
    uint32_t length;
    const uint8_t *payload;
};
/* FM_E_CLOSED at a clean end, FM_E_CHECKSUM, FM_E_PROTOCOL, FM_E_TIMEOUT. */
int fm_connection_recv(struct fm_connection *c, struct fm_frame *frame, struct fm_error *err);
/* Receives a frame that must be of `type` and carry a JSON object, which the caller decrefs. An
 * ERROR, REFUSED or FAILED frame in its place becomes an error with the peer's code and message. */
json_t *fm_connection_expect(struct fm_connection *c, enum fm_frame_type type,
                             struct fm_error *err);
/* The JSON object of a frame, or NULL with FM_E_PROTOCOL. */
json_t *fm_frame_json(const struct fm_frame *frame, struct fm_error *err);
/* Sends err as a frame of this type (ERROR, REFUSED, FAILED): {"code":"NOT_FOUND","message":"…"}.
 */
int fm_connection_send_error(struct fm_connection *c, enum fm_frame_type type,
                             const struct fm_error *what, struct fm_error *err);

/* Listens on TCP address:port and gives every connection after accept (before the handshake) to
 * `serve` in a detached-by-us thread; `serve` owns the descriptor. */
struct fm_listener;
struct fm_listener *fm_listener_start(const char *address, int port,
                                      void (*serve)(int fd, void *ctx), void *ctx,
                                      struct fm_error *err);
/* Stops accepting, waits for the running `serve` calls to return (shut their connections first). */
void fm_listener_stop(struct fm_listener *l); /* NULL is fine */
/* The port it listens on: of use when it was started with port 0. */
int fm_listener_port(const struct fm_listener *l);

#endif
