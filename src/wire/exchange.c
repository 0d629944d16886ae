/* JSON over frames: requests, answers, and errors that cross the wire. */
#include "wire/connection.h"

#include <string.h>

#include "base/cleanup.h"

int fm_connection_send_json(struct fm_connection *c, enum fm_frame_type type, const json_t *doc,
                            struct fm_error *err)
{
    fm_autofree char *text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;

    if (doc && (!text || !json_is_object(doc)))
        return fm_error_set(err, FM_E_INVALID, "a %s frame must carry a JSON object",
                            fm_frame_type_name(type));
    return fm_connection_send(c, type, text ? text : "{}", text ? strlen(text) : 2, err);
}

json_t *fm_frame_json(const struct fm_frame *frame, struct fm_error *err)
{
    json_error_t where;
    json_t *doc =
        json_loadb((const char *)frame->payload, frame->length, JSON_REJECT_DUPLICATES, &where);

    if (json_is_object(doc))
        return doc;
    fm_error_set(err, FM_E_PROTOCOL, "a %s frame carries no JSON object: %s",
                 fm_frame_type_name(frame->type), doc ? "it is another value" : where.text);
    json_decref(doc);
    return NULL;
}

int fm_connection_send_error(struct fm_connection *c, enum fm_frame_type type,
                             const struct fm_error *what, struct fm_error *err)
{
    json_auto_t *doc = json_object();
    json_t *message = json_string(what->text);

    json_object_set_new(doc, "code", json_string(fm_code_name(what->code)));
    json_object_set_new(doc, "message", message ? message : json_string(fm_code_text(what->code)));
    return fm_connection_send_json(c, type, doc, err);
}

static bool carries_error(enum fm_frame_type type)
{
    return type == FM_FRAME_ERROR || type == FM_FRAME_REFUSED || type == FM_FRAME_FAILED;
}

/* The peer's error becomes ours; one that claims success is still a failure. */
static void take_error(const struct fm_frame *frame, const json_t *doc, struct fm_error *err)
{
    const char *name = json_string_value(json_object_get(doc, "code"));
    const char *message = json_string_value(json_object_get(doc, "message"));
    enum fm_code code = fm_code_by_name(name);

    if (code == FM_E_OK)
        code = FM_E_FAILED;
    if (!name && frame->type == FM_FRAME_REFUSED)
        code = FM_E_REFUSED;
    fm_error_set(err, code, "%s", message && *message ? message : fm_code_text(code));
}

json_t *fm_connection_expect(struct fm_connection *c, enum fm_frame_type type, struct fm_error *err)
{
    struct fm_frame frame;
    json_t *doc;

    if (fm_connection_recv(c, &frame, err) < 0)
        return NULL;
    if (frame.type != type && !carries_error(frame.type)) {
        fm_error_set(err, FM_E_PROTOCOL, "%s sent %s where %s was expected",
                     fm_connection_peer(c)->name, fm_frame_type_name(frame.type),
                     fm_frame_type_name(type));
        return NULL;
    }
    doc = fm_frame_json(&frame, err);
    if (!doc || frame.type == type)
        return doc;
    take_error(&frame, doc, err);
    json_decref(doc);
    return NULL;
}
