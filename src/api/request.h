/* One HTTP request on its way through a handler, and the answer that it gets. */
#ifndef FM_API_REQUEST_H
#define FM_API_REQUEST_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>
#include <microhttpd.h>

#include "base/error.h"
#include "migration/manager.h"
#include "wire/tls.h"

struct fm_event_hub;

/* What every handler needs of the server. */
struct fm_api_context {
    const char *host;
    struct fm_manager *manager;
    struct fm_event_hub *events;
    int stop_fd; /* readable once the server stops: long answers end */
};

struct fm_api_request {
    const struct fm_api_context *context;
    struct MHD_Connection *connection;
    const char *argument; /* what {name} or {id} stands for; NULL when the route has none */
    const json_t *body;   /* NULL when there is none */
    struct fm_tls_peer peer;
};

struct fm_api_reply {
    unsigned status;
    struct MHD_Response *response;
    bool lasting; /* may be silent for any time: the idle limit does not apply */
};

/* Fills in *reply and returns 0, or sets *err, which is answered as a problem document. */
typedef int (*fm_api_handler)(const struct fm_api_request *request, struct fm_api_reply *reply,
                              struct fm_error *err);

/* The value of a query parameter ("" when it is given without one), NULL when absent. */
const char *fm_api_query(const struct fm_api_request *request, const char *key);
/* True when the parameter is given as 1, true or without a value. */
bool fm_api_query_flag(const struct fm_api_request *request, const char *key);

/* Answers a document, which is taken over. A NULL document means that *err is set. */
int fm_api_reply_json(struct fm_api_reply *reply, unsigned status, json_t *doc,
                      struct fm_error *err);
/* Answers 204. */
int fm_api_reply_empty(struct fm_api_reply *reply);
/* Answers an RFC 9457 problem document. `status` 0 takes the one that suits the code. */
void fm_api_reply_problem(struct fm_api_reply *reply, unsigned status, const struct fm_error *err);
/* The HTTP status of an error code. */
unsigned fm_api_status(enum fm_code code);

#endif
