/* Server-sent events: one subscription at the manager, a bounded queue for each client. */
#ifndef FM_API_EVENTS_H
#define FM_API_EVENTS_H

#include "api/request.h"

/* Events that may wait for one client; one that lags behind further is dropped. */
#define FM_EVENT_QUEUE_LIMIT 1024

struct fm_event_hub;

/* `stop_fd` as in fm_api_context. */
struct fm_event_hub *fm_event_hub_open(struct fm_manager *manager, int stop_fd,
                                       struct fm_error *err);
/* Call it when no client is left. NULL is fine. */
void fm_event_hub_close(struct fm_event_hub *hub);

/* A response that sends each event from now on; NULL filters mean all. `connection_fd` tells when
 * the client has gone. */
struct MHD_Response *fm_event_hub_response(struct fm_event_hub *hub, int connection_fd,
                                           const char *migration, const char *container);

#endif
