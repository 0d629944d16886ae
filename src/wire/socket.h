/* Sockets with deadlines: connecting, listening, waiting. Private to wire. */
#ifndef FM_WIRE_SOCKET_H
#define FM_WIRE_SOCKET_H

#include <stdint.h>

#include "base/error.h"

/* A deadline on the monotonic clock in ms; timeout 0 gives 0, which is never reached. */
uint64_t fm_deadline_after(uint64_t timeout_ms);

/* Waits for poll(2) events: 0 when there is one, -ETIMEDOUT, -EIO. */
int fm_socket_wait(int fd, short events, uint64_t deadline);

/* A connected, non-blocking socket; FM_E_UNREACHABLE or FM_E_TIMEOUT. */
int fm_socket_connect(const char *host, int port, uint64_t deadline, struct fm_error *err);

/* A listening, non-blocking socket; `address` NULL is any. */
int fm_socket_listen(const char *address, int port, struct fm_error *err);

/* What our connections want: non-blocking, no delay, and to notice within seconds that the other
 * host is gone. What the socket does not support (tests use socket pairs) is left out. */
void fm_socket_tune(int fd);

#endif
