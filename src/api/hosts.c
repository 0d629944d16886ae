/* Handlers: hosts, and this host's own health. */
#include "api/handlers.h"

int fm_api_health(const struct fm_api_request *request, struct fm_api_reply *reply,
                  struct fm_error *err)
{
    return fm_api_reply_json(reply, MHD_HTTP_OK,
                             json_pack("{s:s, s:s, s:s}", "status", "ok", "host",
                                       request->context->host, "version", FM_VERSION),
                             err);
}

int fm_api_ready(const struct fm_api_request *request, struct fm_api_reply *reply,
                 struct fm_error *err)
{
    bool ready = fm_manager_ready(request->context->manager);

    return fm_api_reply_json(reply, ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE,
                             json_pack("{s:s}", "status", ready ? "ready" : "recovering"), err);
}

int fm_api_host_list(const struct fm_api_request *request, struct fm_api_reply *reply,
                     struct fm_error *err)
{
    return fm_api_reply_json(reply, MHD_HTTP_OK,
                             fm_manager_host_list(request->context->manager, err), err);
}

int fm_api_host_add(const struct fm_api_request *request, struct fm_api_reply *reply,
                    struct fm_error *err)
{
    return fm_api_reply_json(reply, MHD_HTTP_CREATED,
                             fm_manager_host_add(request->context->manager, request->body, err),
                             err);
}

int fm_api_host_show(const struct fm_api_request *request, struct fm_api_reply *reply,
                     struct fm_error *err)
{
    return fm_api_reply_json(
        reply, MHD_HTTP_OK, fm_manager_host_show(request->context->manager, request->argument, err),
        err);
}

int fm_api_host_remove(const struct fm_api_request *request, struct fm_api_reply *reply,
                       struct fm_error *err)
{
    int ret = fm_manager_host_remove(request->context->manager, request->argument, err);

    return ret < 0 ? ret : fm_api_reply_empty(reply);
}

int fm_api_host_cordon(const struct fm_api_request *request, struct fm_api_reply *reply,
                       struct fm_error *err)
{
    int ret = fm_manager_host_cordon(request->context->manager, request->argument, true, err);

    return ret < 0 ? ret : fm_api_reply_empty(reply);
}

int fm_api_host_uncordon(const struct fm_api_request *request, struct fm_api_reply *reply,
                         struct fm_error *err)
{
    int ret = fm_manager_host_cordon(request->context->manager, request->argument, false, err);

    return ret < 0 ? ret : fm_api_reply_empty(reply);
}
