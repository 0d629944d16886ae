/* The incoming migration whose connection has ended: asks the source what it has decided. */
#include "migration/incoming_internal.h"

#include <poll.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "wire/frame.h"

#define ASK_TIMEOUT_MS 3000
#define ASK_PAUSE_MS 500
#define ASK_PAUSE_LATER_MS 5000 /* it runs: nobody waits for the answer */
#define ATTENTION_AFTER_MS 30000

/* One question to the source; NULL when it cannot be asked. */
static json_t *ask_source(struct fm_incoming *in)
{
    struct fm_components *p = in->parts;
    struct fm_link *link = p->links.ops->open(p->links.ctx, &in->source, 0, ASK_TIMEOUT_MS, NULL);
    if (!link)
        return NULL;
    json_auto_t *body = json_pack("{s:s}", "migration", in->id);
    json_t *answer = p->links.ops->call(link, FM_FRAME_DECISION, body, ASK_TIMEOUT_MS, NULL);
    p->links.ops->close(link);
    return answer;
}

bool fm_incoming_has_questions(const struct fm_incoming *in)
{
    return in->stage >= FM_STAGE_READY && in->stage < FM_STAGE_DONE;
}

static void answered(struct fm_incoming *in)
{
    in->unanswered_ms = 0;
    if (!in->unanswered)
        return;
    in->unanswered = false;
    fm_incoming_enter(in, in->stage, NULL);
}

/* It keeps what it holds, for as long as it takes; but it shows that it does, and others that come
 * need not wait for it. */
static void not_answered(struct fm_incoming *in)
{
    uint64_t now = fm_now_ms();
    if (!in->unanswered_ms)
        in->unanswered_ms = now;
    if (in->unanswered || in->stage >= FM_STAGE_RUNNING ||
        now - in->unanswered_ms < ATTENTION_AFTER_MS)
        return;
    in->unanswered = true;
    fm_log(FM_LOG_ERROR, FM_CONTAINER_MANAGER,
           "Host %s does not say whether %s is to run here. It is held until it does: bring that "
           "host back.",
           in->source.name, in->container->name);
    if (in->in_slot)
        fm_slots_release(in->parts->slots_in);
    in->in_slot = false;
    fm_incoming_enter(in, in->stage, NULL);
}

/* READY may neither run nor discard by itself: it asks until the source has decided. Meanwhile the
 * source may as well come back with a COMMIT or an ABORT of its own. */
bool fm_incoming_ask(struct fm_incoming *in)
{
    json_auto_t *answer = ask_source(in);
    const char *decision = json_string_value(json_object_get(answer, "decision"));
    struct fm_error err = {0};
    pthread_mutex_lock(&in->lock);
    if (answer)
        answered(in);
    else
        not_answered(in);
    if (in->stage == FM_STAGE_READY && fm_streq(decision, "abort"))
        fm_incoming_abort(in, "the source has decided to abort", &err);
    else if ((in->stage == FM_STAGE_READY || in->stage == FM_STAGE_COMMITTED) &&
             fm_streq(decision, "commit"))
        json_decref(fm_incoming_commit(in, &err));
    else if (in->stage == FM_STAGE_RUNNING && json_is_true(json_object_get(answer, "final")))
        fm_incoming_complete(in, &err);
    bool waiting = fm_incoming_has_questions(in);
    pthread_mutex_unlock(&in->lock);
    return waiting;
}

/* False when the daemon is being stopped. */
static bool pause_asking(struct fm_incoming *in)
{
    pthread_mutex_lock(&in->lock);
    uint64_t pause_ms = in->stage < FM_STAGE_RUNNING ? ASK_PAUSE_MS : ASK_PAUSE_LATER_MS;
    uint64_t until = fm_realtime_us() + pause_ms * 1000;
    struct timespec deadline = {.tv_sec = (time_t)(until / 1000000),
                                .tv_nsec = (long)(until % 1000000) * 1000};
    if (!in->closing)
        pthread_cond_timedwait(&in->changed, &in->lock, &deadline);
    bool closing = in->closing;
    pthread_mutex_unlock(&in->lock);
    return !closing;
}

static void *ask_until_decided(void *arg)
{
    struct fm_incoming *in = arg;
    while (fm_incoming_ask(in) && pause_asking(in))
        continue;
    pthread_mutex_lock(&in->lock);
    in->asking = false;
    pthread_cond_broadcast(&in->changed);
    pthread_mutex_unlock(&in->lock);
    return NULL;
}

void fm_incoming_start_asking(struct fm_incoming *in)
{
    pthread_t thread;
    if (in->asking)
        return;
    in->asking = pthread_create(&thread, NULL, ask_until_decided, in) == 0;
    if (in->asking)
        pthread_detach(thread);
}

void fm_incoming_orphaned(struct fm_incoming *in)
{
    pthread_mutex_lock(&in->lock);
    struct fm_error err = {0};
    if (in->stage < FM_STAGE_READY)
        fm_incoming_abort(in, "the source went away", &err);
    else if (fm_incoming_has_questions(in))
        fm_incoming_start_asking(in);
    fm_incoming_memory_orphaned(in);
    pthread_mutex_unlock(&in->lock);
}
