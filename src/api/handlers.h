/* The handlers behind the routes; each one is described in docs/openapi.yaml. */
#ifndef FM_API_HANDLERS_H
#define FM_API_HANDLERS_H

#include "api/request.h"

#define FM_API_HANDLERS(X)                                                                         \
    X(health)                                                                                      \
    X(ready)                                                                                       \
    X(events)                                                                                      \
    X(host_list)                                                                                   \
    X(host_add)                                                                                    \
    X(host_show)                                                                                   \
    X(host_remove)                                                                                 \
    X(host_cordon)                                                                                 \
    X(host_uncordon)                                                                               \
    X(network_list)                                                                                \
    X(network_create)                                                                              \
    X(network_show)                                                                                \
    X(network_remove)                                                                              \
    X(network_verify)                                                                              \
    X(network_repair)                                                                              \
    X(container_list)                                                                              \
    X(container_run)                                                                               \
    X(container_show)                                                                              \
    X(container_remove)                                                                            \
    X(container_logs)                                                                              \
    X(container_exec)                                                                              \
    X(container_stop)                                                                              \
    X(container_check)                                                                             \
    X(migration_list)                                                                              \
    X(migration_start)                                                                             \
    X(migration_show)                                                                              \
    X(migration_cancel)

#define X(name)                                                                                    \
    int fm_api_##name(const struct fm_api_request *request, struct fm_api_reply *reply,            \
                      struct fm_error *err);
FM_API_HANDLERS(X)
#undef X

#endif
