#include "state/page_stream.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/fault.h"
#include "base/text.h"
#include "state/page_codec.h"
#include "state/page_delta.h"

/* What receiving needs for each connection: one thread uses it at a time. */
struct source {
    const struct fm_connection *connection;
    pthread_mutex_t lock; /* of sending: one at a time */
    struct fm_page_decoder *decoder;
    uint8_t *pages; /* what deltas become; FM_PAGE_BATCH_BODY_MAX, made when first needed */
    struct source *next;
};

struct fm_page_receiver {
    struct fm_page_store *store;
    fm_pages_arrived arrived;
    void *ctx;
    pthread_mutex_t lock; /* of the list */
    struct source *sources;
};

struct fm_page_receiver *fm_page_receiver_open(struct fm_page_store *store,
                                               fm_pages_arrived arrived, void *ctx)
{
    struct fm_page_receiver *r = fm_xcalloc(1, sizeof(*r));

    r->store = store;
    r->arrived = arrived;
    r->ctx = ctx;
    pthread_mutex_init(&r->lock, NULL);
    return r;
}

void fm_page_receiver_close(struct fm_page_receiver *r)
{
    if (!r)
        return;
    while (r->sources) {
        struct source *s = r->sources;

        r->sources = s->next;
        fm_page_decoder_free(s->decoder);
        pthread_mutex_destroy(&s->lock);
        free(s->pages);
        free(s);
    }
    pthread_mutex_destroy(&r->lock);
    free(r);
}

static struct source *source_of(struct fm_page_receiver *r, const struct fm_connection *c)
{
    struct source *s;

    pthread_mutex_lock(&r->lock);
    for (s = r->sources; s && s->connection != c;)
        s = s->next;
    if (!s) {
        s = fm_xcalloc(1, sizeof(*s));
        s->connection = c;
        pthread_mutex_init(&s->lock, NULL);
        s->decoder = fm_page_decoder_new();
        s->next = r->sources;
        r->sources = s;
    }
    pthread_mutex_unlock(&r->lock);
    return s;
}

/* ---- Pages ---- */

/* Makes the pages that the batch has as deltas. They can be written once all of it is fine. */
static int apply_deltas(struct fm_page_receiver *r, struct source *s,
                        const struct fm_page_batch *batch, struct fm_error *err)
{
    size_t page = fm_page_size(), used = 0;
    const uint8_t *content = batch->body;

    for (size_t i = 0; i < batch->count; content += batch->runs[i++].bytes) {
        const struct fm_page_run *run = &batch->runs[i];

        if (run->kind != FM_PAGE_DELTA)
            continue;
        if (!s->pages)
            s->pages = fm_xmalloc(FM_PAGE_BATCH_BODY_MAX);
        if (fm_page_store_read(r->store, batch->inner_pid, run->address, s->pages + used, page,
                               err) < 0 ||
            fm_page_delta_apply(s->pages + used, page, content, run->bytes, err) < 0)
            return fm_error_result(err);
        used += page;
    }
    return 0;
}

static int store_run(struct fm_page_receiver *r, pid_t inner_pid, const struct fm_page_run *run,
                     const uint8_t *pages, struct fm_error *err)
{
    uint64_t size = run->pages * fm_page_size();
    int ret = run->kind == FM_PAGE_ZERO
                  ? fm_page_store_zero(r->store, inner_pid, run->address, run->address + size, err)
                  : fm_page_store_write(r->store, inner_pid, run->address, pages, size, err);

    if (ret == 0 && r->arrived)
        r->arrived(r->ctx, inner_pid, run->address, run->address + size);
    return ret;
}

static int store_pages(struct fm_page_receiver *r, const struct source *s,
                       const struct fm_page_batch *batch, struct fm_error *err)
{
    const uint8_t *content = batch->body, *made = s->pages;

    for (size_t i = 0; i < batch->count; content += batch->runs[i++].bytes) {
        const struct fm_page_run *run = &batch->runs[i];
        bool delta = run->kind == FM_PAGE_DELTA;

        if (store_run(r, batch->inner_pid, run, delta ? made : content, err) < 0)
            return fm_error_result(err);
        made += delta ? fm_page_size() : 0;
    }
    return 0;
}

static int receive_pages(struct fm_page_receiver *r, struct source *s, const struct fm_frame *frame,
                         struct fm_error *err)
{
    struct fm_page_batch batch;

    if (fm_fault("pages.store"))
        return fm_error_set(err, FM_E_NO_SPACE, "no room for the container's pages");
    if (fm_page_batch_decode(s->decoder, frame->payload, frame->length, &batch, err) < 0 ||
        apply_deltas(r, s, &batch, err) < 0 || store_pages(r, s, &batch, err) < 0)
        return fm_error_result(err);
    return 0;
}

/* ---- Answers and wishes ---- */

static int send_json(struct source *s, struct fm_connection *c, enum fm_frame_type type,
                     const json_t *doc, struct fm_error *err)
{
    int ret;

    pthread_mutex_lock(&s->lock);
    ret = fm_connection_send_json(c, type, doc, err);
    pthread_mutex_unlock(&s->lock);
    return ret;
}

static int answer_sync(struct fm_page_receiver *r, struct fm_connection *c,
                       const struct fm_frame *frame, struct fm_error *err)
{
    json_auto_t *doc = fm_frame_json(frame, err);
    json_auto_t *reply = NULL;
    const json_t *sequence = json_object_get(doc, "sequence");

    if (!doc)
        return fm_error_result(err);
    if (!json_is_integer(sequence))
        return fm_error_set(err, FM_E_PROTOCOL, "PAGES_SYNC has no sequence number");
    reply = json_pack("{s:I,s:I}", "sequence", json_integer_value(sequence), "bytes",
                      (json_int_t)fm_page_store_bytes(r->store));
    return send_json(source_of(r, c), c, FM_FRAME_PAGES_SYNCED, reply, err);
}

int fm_page_receiver_want(struct fm_page_receiver *r, struct fm_connection *c, pid_t inner_pid,
                          uint64_t address, struct fm_error *err)
{
    json_auto_t *doc =
        json_pack("{s:i,s:I}", "pid", (int)inner_pid, "address", (json_int_t)address);

    return send_json(source_of(r, c), c, FM_FRAME_PAGES_WANT, doc, err);
}

int fm_page_receive(struct fm_page_receiver *r, struct fm_connection *c,
                    const struct fm_frame *frame, struct fm_error *err)
{
    switch (frame->type) {
    case FM_FRAME_PAGES:
        return receive_pages(r, source_of(r, c), frame, err);
    case FM_FRAME_PAGES_SYNC:
        return answer_sync(r, c, frame, err);
    default:
        return fm_error_set(err, FM_E_PROTOCOL, "%s where pages were expected",
                            fm_frame_type_name((uint16_t)frame->type));
    }
}
