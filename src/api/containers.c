/* Handlers: containers. Their logs are in logs.c. */
#include "api/handlers.h"

#include <string.h>

#define STOP_TIMEOUT_MS 10000
#define STOP_TIMEOUT_MAX_MS 3600000

int fm_api_container_list(const struct fm_api_request *request, struct fm_api_reply *reply,
                          struct fm_error *err)
{
    return fm_api_reply_json(reply, MHD_HTTP_OK,
                             fm_manager_container_list(request->context->manager, err), err);
}

int fm_api_container_run(const struct fm_api_request *request, struct fm_api_reply *reply,
                         struct fm_error *err)
{
    return fm_api_reply_json(
        reply, MHD_HTTP_CREATED,
        fm_manager_container_run(request->context->manager, request->body, err), err);
}

int fm_api_container_show(const struct fm_api_request *request, struct fm_api_reply *reply,
                          struct fm_error *err)
{
    return fm_api_reply_json(
        reply, MHD_HTTP_OK,
        fm_manager_container_show(request->context->manager, request->argument, err), err);
}

int fm_api_container_remove(const struct fm_api_request *request, struct fm_api_reply *reply,
                            struct fm_error *err)
{
    int ret = fm_manager_container_remove(request->context->manager, request->argument,
                                          fm_api_query_flag(request, "force"), err);

    return ret < 0 ? ret : fm_api_reply_empty(reply);
}

int fm_api_container_exec(const struct fm_api_request *request, struct fm_api_reply *reply,
                          struct fm_error *err)
{
    return fm_api_reply_json(
        reply, MHD_HTTP_OK,
        fm_manager_container_exec(request->context->manager, request->argument, request->body, err),
        err);
}

static int stop_timeout(const json_t *body, uint64_t *timeout_ms, struct fm_error *err)
{
    const json_t *value;
    const char *key;

    *timeout_ms = STOP_TIMEOUT_MS;
    json_object_foreach((json_t *)(uintptr_t)body, key, value)
    {
        if (strcmp(key, "timeout_ms") != 0)
            return fm_error_set(err, FM_E_INVALID, "unknown key '%s'", key);
        if (!json_is_integer(value) || json_integer_value(value) < 0 ||
            json_integer_value(value) > STOP_TIMEOUT_MAX_MS)
            return fm_error_set(err, FM_E_INVALID,
                                "timeout_ms is not a number of milliseconds within 0..%d",
                                STOP_TIMEOUT_MAX_MS);
        *timeout_ms = (uint64_t)json_integer_value(value);
    }
    return 0;
}

int fm_api_container_stop(const struct fm_api_request *request, struct fm_api_reply *reply,
                          struct fm_error *err)
{
    uint64_t timeout_ms;
    int ret = stop_timeout(request->body, &timeout_ms, err);

    if (ret == 0)
        ret = fm_manager_container_stop(request->context->manager, request->argument, timeout_ms,
                                        err);
    return ret < 0 ? ret : fm_api_reply_empty(reply);
}
