/* libfleximigrate: the daemon's HTTP API from C, over its unix socket or over mutual TLS 1.3. */
#ifndef FM_CLIENT_CLIENT_H
#define FM_CLIENT_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"

#define FM_CLIENT_SOCKET "/run/fleximigrate/fleximigrated.sock"
#define FM_CLIENT_PORT 7440

struct fm_client_options {
    const char *host; /* "https://host-b:7440", "host-b:7440" or "host-b"; NULL: the unix socket */
    const char *socket;          /* NULL: FM_CLIENT_SOCKET; not used with `host` */
    const char *ca, *cert, *key; /* PEM files; needed with `host` */
};

/* One connection to one daemon. Not thread-safe, but for fm_client_interrupt. */
struct fm_client;

/* Checks the options; connects at the first request. */
struct fm_client *fm_client_open(const struct fm_client_options *options, struct fm_error *err);
void fm_client_close(struct fm_client *client); /* NULL is fine */

/* Sends `body` (may be NULL) and waits for the answer. *reply (may be NULL) is a new reference, or
 * NULL when the answer has no document. A problem document becomes an error with the daemon's code
 * and text; a daemon that does not answer is FM_E_UNREACHABLE. */
int fm_client_request(struct fm_client *client, const char *method, const char *path,
                      const json_t *body, json_t **reply, struct fm_error *err);

/* Receives a piece of an answer; non-zero ends the transfer. */
typedef int (*fm_client_data_fn)(const char *data, size_t len, void *ctx);
/* GETs what is not a document, such as a log that is followed. */
int fm_client_stream(struct fm_client *client, const char *path, fm_client_data_fn fn, void *ctx,
                     struct fm_error *err);

/* Receives one server-sent event; non-zero ends the subscription. `type` is "open" with no event as
 * soon as the daemon has subscribed us (nothing that happens from then on is missed), then each
 * event's type. */
typedef int (*fm_client_event_fn)(const char *type, const json_t *event, void *ctx);
/* Calls fn for each event until it asks to stop, fm_client_interrupt is called (both return 0), the
 * daemon drops us as too slow, or the connection ends (both FM_E_CLOSED). */
int fm_client_events(struct fm_client *client, const char *path, fm_client_event_fn fn, void *ctx,
                     struct fm_error *err);
/* From another thread: ends the running transfer and all later ones at once. */
void fm_client_interrupt(struct fm_client *client);

/* Percent-encodes one segment of a path; the caller frees it. */
char *fm_client_escape(const char *segment);

#endif
