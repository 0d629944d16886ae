#include "api/request.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

const char *fm_api_query(const struct fm_api_request *request, const char *key)
{
    const char *value = NULL;
    size_t len = 0;

    if (MHD_lookup_connection_value_n(request->connection, MHD_GET_ARGUMENT_KIND, key, strlen(key),
                                      &value, &len) != MHD_YES)
        return NULL;
    return value ? value : "";
}

bool fm_api_query_flag(const struct fm_api_request *request, const char *key)
{
    const char *value = fm_api_query(request, key);

    return value && (value[0] == '\0' || fm_streq(value, "1") || fm_streq(value, "true"));
}

static struct MHD_Response *text_response(const char *text, const char *type)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(
        strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);

    if (!response)
        abort();
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    return response;
}

int fm_api_reply_json(struct fm_api_reply *reply, unsigned status, json_t *doc,
                      struct fm_error *err)
{
    json_auto_t *owned = doc;
    fm_autofree char *text = NULL;

    if (!owned)
        return err && err->code != FM_E_OK
                   ? -(int)err->code
                   : fm_error_set(err, FM_E_FAILED, "the manager gave no answer and no reason");
    text = json_dumps(owned, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!text)
        return fm_error_set(err, FM_E_FAILED, "the answer cannot be written as JSON");
    reply->status = status;
    reply->response = text_response(text, "application/json");
    return 0;
}

int fm_api_reply_empty(struct fm_api_reply *reply)
{
    reply->status = MHD_HTTP_NO_CONTENT;
    reply->response = text_response("", "application/json");
    return 0;
}

unsigned fm_api_status(enum fm_code code)
{
    switch (code) {
    case FM_E_USAGE:
    case FM_E_INVALID:
        return MHD_HTTP_BAD_REQUEST;
    case FM_E_AUTH:
        return MHD_HTTP_FORBIDDEN;
    case FM_E_NOT_FOUND:
        return MHD_HTTP_NOT_FOUND;
    case FM_E_EXISTS:
    case FM_E_REFUSED:
    case FM_E_CANCELLED:
    case FM_E_ROLLED_BACK:
        return MHD_HTTP_CONFLICT;
    case FM_E_UNREACHABLE:
        return MHD_HTTP_BAD_GATEWAY;
    case FM_E_TIMEOUT:
        return MHD_HTTP_GATEWAY_TIMEOUT;
    case FM_E_NO_SPACE:
        return MHD_HTTP_INSUFFICIENT_STORAGE;
    default:
        return MHD_HTTP_INTERNAL_SERVER_ERROR;
    }
}

void fm_api_reply_problem(struct fm_api_reply *reply, unsigned status, const struct fm_error *err)
{
    fm_autofree char *type = fm_strf("urn:fleximigrate:problem:%s", fm_code_name(err->code));
    fm_autofree char *text = NULL;
    json_auto_t *doc = NULL;

    for (char *c = type; *c; c++)
        *c = (char)(*c == '_' ? '-' : tolower((unsigned char)*c));
    if (status == 0)
        status = fm_api_status(err->code);
    doc = json_pack("{s:s, s:s, s:i, s:s%, s:s}", "type", type, "title", fm_code_text(err->code),
                    "status", (int)status, "detail", err->text, strlen(err->text), "code",
                    fm_code_name(err->code));
    if (!doc) /* text that is not UTF-8 */
        doc = json_pack("{s:s, s:s, s:i, s:s, s:s}", "type", type, "title", fm_code_text(err->code),
                        "status", (int)status, "detail", fm_code_text(err->code), "code",
                        fm_code_name(err->code));
    text = json_dumps(doc, JSON_COMPACT);
    reply->status = status;
    reply->response = text_response(text, "application/problem+json");
}
