/* Handlers: networks. */
#include "api/handlers.h"

int fm_api_network_list(const struct fm_api_request *request, struct fm_api_reply *reply,
                        struct fm_error *err)
{
    return fm_api_reply_json(reply, MHD_HTTP_OK,
                             fm_manager_network_list(request->context->manager, err), err);
}

int fm_api_network_create(const struct fm_api_request *request, struct fm_api_reply *reply,
                          struct fm_error *err)
{
    return fm_api_reply_json(
        reply, MHD_HTTP_CREATED,
        fm_manager_network_create(request->context->manager, request->body, err), err);
}

int fm_api_network_show(const struct fm_api_request *request, struct fm_api_reply *reply,
                        struct fm_error *err)
{
    return fm_api_reply_json(
        reply, MHD_HTTP_OK,
        fm_manager_network_show(request->context->manager, request->argument, err), err);
}

int fm_api_network_remove(const struct fm_api_request *request, struct fm_api_reply *reply,
                          struct fm_error *err)
{
    int ret = fm_manager_network_remove(request->context->manager, request->argument, err);

    return ret < 0 ? ret : fm_api_reply_empty(reply);
}

int fm_api_network_verify(const struct fm_api_request *request, struct fm_api_reply *reply,
                          struct fm_error *err)
{
    return fm_api_reply_json(reply, MHD_HTTP_OK,
                             fm_manager_network_verify(request->context->manager, err), err);
}

int fm_api_network_repair(const struct fm_api_request *request, struct fm_api_reply *reply,
                          struct fm_error *err)
{
    return fm_api_reply_json(reply, MHD_HTTP_OK,
                             fm_manager_network_repair(request->context->manager, err), err);
}
