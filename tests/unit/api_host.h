/* A served API with a fake manager, and certificates of every kind to try on it. */
#ifndef FM_TESTS_API_HOST_H
#define FM_TESTS_API_HOST_H

#include <jansson.h>

#include "api/server.h"
#include "base/error.h"
#include "client/client.h"

struct api_host {
    char dir[64]; /* everything is below it */
    char *socket, *url;
    struct fm_manager *manager;
    struct fm_api_server *server;
};

/* Makes the certificates (host-a, alice the operator, victor the viewer, old the expired operator;
 * mallory the operator of another authority) and starts to serve. Aborts when that fails. */
void api_host_start(struct api_host *host);
void api_host_stop(struct api_host *host);

/* Path of a file below the directory; the caller frees it. */
char *api_host_path(const struct api_host *host, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* A client: `who` NULL uses the socket, else that certificate over TLS. */
struct fm_client *api_host_client(const struct api_host *host, const char *who);
/* One request. */
int api_host_request(const struct api_host *host, const char *who, const char *method,
                     const char *path, const json_t *body, json_t **reply, struct fm_error *err);

/* One request as plain HTTP over TLS, with all freedom to be wrong. */
struct raw_request {
    const char *method, *path, *body;
    size_t body_len;
    const char *who; /* NULL: no client certificate */
    bool tls12;
};
struct raw_reply {
    int curl_code;
    long status;
    char *body, *allow, *type;
};
void api_host_raw(const struct api_host *host, const struct raw_request *request,
                  struct raw_reply *reply);
void raw_reply_free(struct raw_reply *reply);

#endif
