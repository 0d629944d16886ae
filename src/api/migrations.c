/* Handlers: migrations, and the preflight check of one. */
#include "api/handlers.h"

#include "base/cleanup.h"
#include "base/text.h"

int fm_api_migration_list(const struct fm_api_request *request, struct fm_api_reply *reply,
                          struct fm_error *err)
{
    return fm_api_reply_json(reply, MHD_HTTP_OK,
                             fm_manager_migration_list(request->context->manager, err), err);
}

int fm_api_migration_start(const struct fm_api_request *request, struct fm_api_reply *reply,
                           struct fm_error *err)
{
    json_t *doc = fm_manager_migrate(request->context->manager, request->body, err);
    const char *id = json_string_value(json_object_get(doc, "id"));
    fm_autofree char *location = id ? fm_strf("/v1/migrations/%s", id) : NULL;
    int ret = fm_api_reply_json(reply, MHD_HTTP_ACCEPTED, doc, err);

    if (ret == 0 && location)
        MHD_add_response_header(reply->response, MHD_HTTP_HEADER_LOCATION, location);
    return ret;
}

int fm_api_migration_show(const struct fm_api_request *request, struct fm_api_reply *reply,
                          struct fm_error *err)
{
    return fm_api_reply_json(
        reply, MHD_HTTP_OK,
        fm_manager_migration_show(request->context->manager, request->argument, err), err);
}

int fm_api_migration_cancel(const struct fm_api_request *request, struct fm_api_reply *reply,
                            struct fm_error *err)
{
    struct fm_manager *manager = request->context->manager;
    int ret = fm_manager_migration_cancel(manager, request->argument, err);

    if (ret < 0)
        return ret;
    return fm_api_reply_json(reply, MHD_HTTP_ACCEPTED,
                             fm_manager_migration_show(manager, request->argument, err), err);
}

int fm_api_container_check(const struct fm_api_request *request, struct fm_api_reply *reply,
                           struct fm_error *err)
{
    const char *to = fm_api_query(request, "to");

    if (!to || to[0] == '\0')
        return fm_error_set(err, FM_E_INVALID, "the parameter 'to' must name the destination");
    return fm_api_reply_json(
        reply, MHD_HTTP_OK, fm_manager_check(request->context->manager, request->argument, to, err),
        err);
}
