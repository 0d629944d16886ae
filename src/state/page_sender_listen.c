#include "state/page_sender.h"

static int take_error(const struct fm_frame *frame, struct fm_error *err)
{
    json_auto_t *doc = fm_frame_json(frame, err);
    const char *code = json_string_value(json_object_get(doc, "code"));
    const char *message = json_string_value(json_object_get(doc, "message"));

    if (!doc)
        return fm_error_result(err);
    return fm_error_set(err, code ? fm_code_by_name(code) : FM_E_FAILED, "%s",
                        message ? message : "the destination failed without a reason");
}

static int take_synced(struct fm_page_lane *lane, const struct fm_frame *frame,
                       struct fm_error *err)
{
    struct fm_page_sender *s = lane->sender;
    json_auto_t *doc = fm_frame_json(frame, err);
    json_int_t sequence = json_integer_value(json_object_get(doc, "sequence"));
    bool fine;

    if (!doc)
        return fm_error_result(err);
    pthread_mutex_lock(&s->lock);
    fine = sequence > 0 && (uint64_t)sequence > lane->synced && (uint64_t)sequence <= s->barrier;
    if (fine) {
        lane->synced = (uint64_t)sequence;
        if (!lane->queue.first && lane->synced == s->barrier)
            fm_page_sender_active(lane, false);
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return fine ? 0 : fm_error_set(err, FM_E_PROTOCOL, "PAGES_SYNCED of a barrier never sent");
}

/* Those that are not queued yet wait until they are. */
static int take_want(struct fm_page_lane *lane, const struct fm_frame *frame, struct fm_error *err)
{
    struct fm_page_sender *s = lane->sender;
    json_auto_t *doc = fm_frame_json(frame, err);
    const json_t *pid = json_object_get(doc, "pid");
    const json_t *address = json_object_get(doc, "address");
    struct fm_page_wanted wanted;

    if (!doc)
        return fm_error_result(err);
    if (!json_is_integer(pid) || !json_is_integer(address))
        return fm_error_set(err, FM_E_PROTOCOL, "PAGES_WANT names no page");
    wanted = (struct fm_page_wanted){(pid_t)json_integer_value(pid),
                                     (uint64_t)json_integer_value(address) & ~(fm_page_size() - 1)};
    pthread_mutex_lock(&s->lock);
    fm_page_sender_hurry(s, wanted);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static int hear(struct fm_page_lane *lane, struct fm_error *err)
{
    struct fm_frame frame;
    int ret = fm_connection_recv(lane->connection, &frame, err);

    if (ret == -FM_E_TIMEOUT) /* a quiet peer; one that is gone ends the connection */
        return 0;
    if (ret < 0)
        return ret;
    switch (frame.type) {
    case FM_FRAME_PAGES_SYNCED:
        return take_synced(lane, &frame, err);
    case FM_FRAME_PAGES_WANT:
        return take_want(lane, &frame, err);
    case FM_FRAME_ERROR:
    case FM_FRAME_FAILED:
        return take_error(&frame, err);
    default:
        return fm_error_set(err, FM_E_PROTOCOL, "%s on a connection for pages",
                            fm_frame_type_name((uint16_t)frame.type));
    }
}

void *fm_page_lane_listen(void *arg)
{
    struct fm_page_lane *lane = arg;
    struct fm_page_sender *s = lane->sender;
    struct fm_error err = {0};

    while (hear(lane, &err) == 0)
        continue;
    pthread_mutex_lock(&s->lock);
    fm_page_sender_fail(s, &err);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}
