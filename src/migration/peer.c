#include "migration/peer.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/networks.h"
#include "migration/replica.h"
#include "migration/witness.h"

#define PROTOCOL_VERSION 1
/* Between two frames of a migration lie a queue of layers or a slow dump, not more. */
#define IDLE_TIMEOUT_MS 600000
/* How long a peer may go on sending after it was told that its stream failed. */
#define DRAIN_MS 10000
/* How often it is looked after a source that is needed. */
#define WATCH_MS 100

static json_t *done(int rc)
{
    return rc < 0 ? NULL : json_object();
}

static json_t *decision_of(struct fm_components *p, const char *id, struct fm_error *err)
{
    bool decided = false, commit = false;
    if (!id) {
        fm_error_set(err, FM_E_PROTOCOL, "DECISION without a migration");
        return NULL;
    }
    if (p->store.ops->decision(p->store.ctx, id, &decided, &commit, err) < 0)
        return NULL;
    /* A migration that nobody here knows can only have been forgotten after an abort. */
    struct fm_error unknown = {0};
    json_auto_t *known = fm_journal_load(p->journal, id, &unknown);
    bool final = json_is_true(json_object_get(known, "final"));
    const char *text = decided                                   ? (commit ? "commit" : "abort")
                       : final || unknown.code == FM_E_NOT_FOUND ? "abort"
                                                                 : "undecided";
    return json_pack("{s:s, s:b}", "decision", text, "final", (int)fm_migration_is_settled(known));
}

/* A lease that has moved comes along with the way to where it is now. */
static json_t *set_remote(struct fm_components *p, const json_t *body, struct fm_error *err)
{
    const json_t *lease = json_object_get(body, "lease");
    struct fm_error e = {0};
    const char *mac = json_string_value(json_object_get(body, "mac"));
    const char *host = json_string_value(json_object_get(body, "host"));
    const char *network = json_string_value(json_object_get(body, "network"));
    if (!mac || !host || !network) {
        fm_error_set(err, FM_E_PROTOCOL, "FABRIC without network, mac or host");
        return NULL;
    }
    int rc = fm_streq(host, p->advertise)
                 ? 0
                 : p->network.ops->set_remote(p->network.ctx, network, mac, host, err);
    if (p->networks && lease && fm_replica_learn(p, FM_KIND_LEASE, lease, NULL, &e) < 0)
        fm_warn(FM_NETWORK_MANAGER, "A lease that has moved: %s.", e.text);
    return done(rc);
}

static json_t *fabric(struct fm_conversation *v, const json_t *body, struct fm_error *err)
{
    struct fm_components *p = v->service->parts;
    const char *op = json_string_value(json_object_get(body, "op"));
    if (!op || fm_streq(op, "set"))
        return set_remote(p, body, err);
    if (fm_streq(op, "reach"))
        return fm_witness_answer(p, body, err);
    return fm_networks_answer(p, v->peer, op, body, err);
}

static json_t *verify(struct fm_incoming *in, const json_t *body, struct fm_error *err)
{
    json_t *report = NULL;
    json_int_t limit = json_integer_value(json_object_get(body, "limit_ms"));
    in->verify_until_ms = limit > 0 ? fm_now_ms() + (uint64_t)limit : 0;
    return fm_incoming_verify(in, &report, err) < 0 ? NULL : report;
}

/* The whole way back takes as long as a migration: the lock is free meanwhile, since it comes over
 * the same incoming table. */
static json_t *give_back(const struct fm_peer_service *s, struct fm_incoming *in, bool look,
                         struct fm_error *err)
{
    bool gone = false;
    pthread_mutex_lock(&in->lock);
    int rc = fm_incoming_give_back(in, &gone, err);
    pthread_mutex_unlock(&in->lock);
    if (look)
        return done(rc);
    json_auto_t *request = fm_incoming_way_back(in);
    if (rc == 0 && !gone)
        rc = s->give_back(s->ctx, request, in->id, err);
    if (rc < 0)
        return NULL;
    pthread_mutex_lock(&in->lock);
    fm_incoming_complete(in, err);
    pthread_mutex_unlock(&in->lock);
    return json_object();
}

static json_t *frozen(struct fm_incoming *in, const json_t *body, struct fm_error *err)
{
    if (fm_incoming_frozen(in, body, err) < 0)
        return NULL;
    return json_pack("{s:o}", "steps", fm_timeline_take(&in->freeze));
}

static json_t *fill(struct fm_conversation *v, struct fm_incoming *in, struct fm_error *err)
{
    uint64_t missing = 0;
    json_t *answer = fm_incoming_fill(in, &missing, err);
    v->brought = in;
    return answer;
}

/* An abort does not wait for a restore, which may itself wait for pages that never come. */
static void take_turn(struct fm_incoming *in, enum fm_frame_type type)
{
    if (pthread_mutex_trylock(&in->lock) == 0)
        return;
    if (type == FM_FRAME_ABORT)
        fm_incoming_interrupt(in);
    pthread_mutex_lock(&in->lock);
}

/* Requests about an incoming migration that is there already. */
static json_t *on_incoming(struct fm_conversation *v, enum fm_frame_type type, const json_t *body,
                           struct fm_error *err)
{
    const char *id = json_string_value(json_object_get(body, "migration"));
    struct fm_incoming *in = fm_incoming_recall(v->service->incoming, id, err);
    if (!in)
        return type == FM_FRAME_ABORT ? json_object() : NULL;
    if (!fm_streq(v->peer, in->source.name)) {
        fm_error_set(err, FM_E_AUTH, "migration %s belongs to host '%s'", in->id, in->source.name);
        return NULL;
    }
    if (type == FM_FRAME_RETURN)
        return give_back(v->service, in, json_is_true(json_object_get(body, "look")), err);
    json_t *answer = NULL;
    take_turn(in, type);
    switch (type) {
    case FM_FRAME_TREE: {
        const char *name = json_string_value(json_object_get(body, "name"));
        answer = done(fm_incoming_tree(in, v->c, name ? name : "", err));
        break;
    }
    case FM_FRAME_ARM:
        answer = done(fm_incoming_arm(in, body, err));
        break;
    case FM_FRAME_PAGES_OPEN:
        answer = done(fm_incoming_memory_attach(in, v->c, err));
        v->pages = answer ? in : NULL;
        break;
    case FM_FRAME_FROZEN:
        answer = frozen(in, body, err);
        break;
    case FM_FRAME_COMMIT:
        answer = fm_incoming_commit(in, err);
        break;
    case FM_FRAME_ABORT:
        answer = done(fm_incoming_abort(in, "the source aborted", err));
        break;
    case FM_FRAME_VERIFY:
        answer = verify(in, body, err);
        break;
    case FM_FRAME_FILL:
        answer = fill(v, in, err);
        break;
    case FM_FRAME_COMPLETE:
        answer = done(fm_incoming_complete(in, err));
        break;
    default:
        fm_error_set(err, FM_E_PROTOCOL, "unexpected frame %s", fm_frame_type_name(type));
    }
    pthread_mutex_unlock(&in->lock);
    return answer;
}

json_t *fm_peer_answer(struct fm_conversation *v, enum fm_frame_type type, const json_t *body,
                       struct fm_error *err)
{
    const struct fm_peer_service *s = v->service;
    switch (type) {
    case FM_FRAME_PING:
        return s->self(s->ctx);
    case FM_FRAME_DECISION:
        return decision_of(s->parts, json_string_value(json_object_get(body, "migration")), err);
    case FM_FRAME_FABRIC:
        return fabric(v, body, err);
    case FM_FRAME_CHECK:
        return fm_incoming_check(s->incoming, body, err);
    case FM_FRAME_PREPARE:
        return fm_incoming_prepare(s->incoming, v->peer, body, &v->brought, err);
    default:
        return on_incoming(v, type, body, err);
    }
}

static enum fm_frame_type answer_to(enum fm_frame_type request)
{
    switch (request) {
    case FM_FRAME_HELLO:
        return FM_FRAME_HELLO;
    case FM_FRAME_PING:
        return FM_FRAME_PONG;
    case FM_FRAME_FABRIC:
        return FM_FRAME_FABRIC_DONE;
    case FM_FRAME_PREPARE:
    case FM_FRAME_TREE:
    case FM_FRAME_ARM:
    case FM_FRAME_ABORT:
    case FM_FRAME_VERIFY:
    case FM_FRAME_COMPLETE:
    case FM_FRAME_RETURN:
    case FM_FRAME_DECISION:
    case FM_FRAME_CHECK:
    case FM_FRAME_PAGES_OPEN:
    case FM_FRAME_FILL:
        return (enum fm_frame_type)(request + 1);
    case FM_FRAME_FROZEN:
        return FM_FRAME_READY;
    case FM_FRAME_COMMIT:
        return FM_FRAME_RUNNING;
    default:
        return FM_FRAME_ERROR;
    }
}

/* Images are streamed without an answer: what is wrong with them ends the connection. */
static int take_image(struct fm_conversation *v, const struct fm_frame *frame, struct fm_error *err)
{
    if (!v->brought)
        return fm_error_set(err, FM_E_PROTOCOL, "images without PREPARE");
    pthread_mutex_lock(&v->brought->lock);
    int rc = fm_incoming_image(v->brought, v->c, frame, err);
    pthread_mutex_unlock(&v->brought->lock);
    return rc;
}

/* Serves one frame; negative when the connection is to end. A refused request leaves it usable
 * unless a stream was open. */
static int serve_frame(struct fm_conversation *v, const struct fm_frame *frame)
{
    struct fm_error err = {0};
    enum fm_frame_type type = frame->type;
    if (type == FM_FRAME_IMAGE && take_image(v, frame, &err) == 0)
        return 0;
    json_auto_t *body = err.code ? NULL : fm_frame_json(frame, &err);
    json_auto_t *answer = body ? fm_peer_answer(v, type, body, &err) : NULL;
    if (answer)
        return fm_connection_send_json(v->c, answer_to(type), answer, &err);
    fm_warn(FM_MIGRATION_MANAGER, "%s from %s failed: %s.", fm_frame_type_name(type), v->peer,
            err.text);
    int rc = fm_connection_send_error(v->c, FM_FRAME_FAILED, &err, &(struct fm_error){0});
    return type == FM_FRAME_IMAGE || type == FM_FRAME_TREE ? -1 : rc;
}

static int greet(struct fm_connection *c, struct fm_components *p, struct fm_error *err)
{
    json_auto_t *hello = fm_connection_expect(c, FM_FRAME_HELLO, err);
    if (!hello)
        return -1;
    json_int_t version = json_integer_value(json_object_get(hello, "version"));
    if (version != PROTOCOL_VERSION) {
        fm_error_set(err, FM_E_PROTOCOL, "protocol version %lld, this host speaks %d",
                     (long long)version, PROTOCOL_VERSION);
        fm_connection_send_error(c, FM_FRAME_ERROR, err, NULL);
        return -1;
    }
    json_auto_t *answer = json_pack("{s:i, s:s}", "version", PROTOCOL_VERSION, "host", p->host);
    return fm_connection_send_json(c, FM_FRAME_HELLO, answer, err);
}

/* From PAGES_OPEN on. What is wrong with a page ends the whole migration: its source hears it here,
 * or by the end of the connection. */
static void serve_pages(struct fm_conversation *v)
{
    const struct fm_memory_ops *ops = v->service->parts->memory.ops;
    struct fm_error err = {0};
    int rc = ops->sink_stream(v->pages->sink, v->c, &err);
    fm_incoming_pages_ended(v->pages);
    if (rc == 0)
        return;
    fm_warn(FM_STATE_SYNCHRONIZER, "Page stream from %s: %s.", v->peer, err.text);
    fm_connection_send_error(v->c, FM_FRAME_FAILED, &err, &(struct fm_error){0});
    fm_connection_drain(v->c, DRAIN_MS);
}

/* While pages are missing the source is missed sooner than its connection. */
static int next_frame(struct fm_conversation *v, struct fm_frame *frame, struct fm_error *err)
{
    for (bool needed = v->brought && fm_incoming_heard(v->brought, v->c);;) {
        uint64_t since = fm_now_ms();
        fm_connection_set_timeout(v->c, needed ? WATCH_MS : IDLE_TIMEOUT_MS);
        int rc = fm_connection_recv(v->c, frame, err);
        /* One that ends in the middle of a frame does not wait again. */
        if (!needed || rc != -FM_E_TIMEOUT || fm_now_ms() - since < WATCH_MS)
            return rc;
        *err = (struct fm_error){0};
        fm_incoming_unheard(v->brought);
    }
}

void fm_peer_serve(const struct fm_peer_service *service, struct fm_connection *c)
{
    struct fm_conversation v = {.service = service, .peer = fm_connection_peer(c)->name, .c = c};
    struct fm_error err = {0};
    if (greet(c, service->parts, &err) < 0) {
        fm_warn(FM_MIGRATION_MANAGER, "A host's greeting failed: %s.", err.text);
        return;
    }
    fm_networks_heard(service->parts, v.peer);
    struct fm_frame frame;
    int rc;
    for (;;) {
        rc = next_frame(&v, &frame, &err);
        if (rc < 0 || serve_frame(&v, &frame) < 0)
            break;
        if (v.pages) {
            serve_pages(&v);
            return;
        }
    }
    if (rc < 0 && err.code != FM_E_CLOSED) {
        fm_warn(FM_MIGRATION_MANAGER, "Connection from %s: %s.", fm_connection_peer(c)->name,
                err.text);
        fm_connection_send_error(c, FM_FRAME_FAILED, &err, &(struct fm_error){0});
    }
    if (rc == 0 || err.code != FM_E_CLOSED)
        fm_connection_drain(c, DRAIN_MS);
    if (v.brought)
        fm_incoming_hung_up(v.brought, c);
}
