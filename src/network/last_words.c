#include "network/last_words.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "network/outbox.h"

#define UNSAID_BYTES (1u << 20)
/* Later than paced segments in a local network, sooner than delayed acknowledgements (40 ms). */
#define EARLY_MS 10

int fm_last_words_open(struct fm_last_words *words, const struct fm_last_words_place *place,
                       struct fm_error *err)
{
    *words = (struct fm_last_words)FM_LAST_WORDS_NONE;
    words->place = *place;
    words->outbox = fm_outbox_open(err);
    if (words->outbox < 0)
        return words->outbox;
    words->late_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    return words->late_fd < 0 ? fm_error_errno(err, errno, "cannot make a timer") : 0;
}

void fm_last_words_close(struct fm_last_words *words)
{
    struct fm_frame *frame;
    while ((frame = fm_frame_queue_take(&words->unsaid)))
        free(frame);
    if (words->outbox >= 0)
        close(words->outbox);
    if (words->late_fd >= 0)
        close(words->late_fd);
    words->outbox = words->late_fd = -1;
}

/* Whether the checkpoint counts it as sent. Of what may have gone out, TCP does not mind to hear it
 * again. */
static bool is_true(enum fm_tcp_step step, enum fm_last_words_time time)
{
    switch (time) {
    case FM_WORDS_AMBIGUOUS:
        return step == FM_TCP_BEGINS || step == FM_TCP_CONTINUES;
    case FM_WORDS_EARLY:
        return step != FM_TCP_STRAYS;
    default:
        return step == FM_TCP_CONTINUES;
    }
}

static void keep(struct fm_last_words *words, const uint8_t *bytes, size_t len)
{
    if (words->time != FM_WORDS_AMBIGUOUS && words->unsaid.bytes + len <= UNSAID_BYTES)
        fm_frame_queue_put(&words->unsaid, bytes, len);
}

/* `from`: the sender's MAC on the wire; NULL: the container's, which is here. */
static void say(struct fm_last_words *words, const uint8_t *from)
{
    fm_autofree uint8_t *buffer = fm_xmalloc(FM_OUTBOX_FRAME_MAX);
    uint8_t *frame = buffer + FM_OUTBOX_HEADER;
    ssize_t got;
    while ((got = fm_outbox_next(words->outbox, words->place.mac, buffer)) >= 0) {
        size_t len = (size_t)got - FM_OUTBOX_HEADER;
        bool for_many = frame[0] & 1;
        if ((from && for_many) ||
            !is_true(fm_tcp_flows_judge(&words->flows, frame, len), words->time)) {
            keep(words, buffer, (size_t)got);
            continue;
        }
        fm_tcp_flows_sent(&words->flows, frame, len);
        if (from)
            memcpy(frame + 6, from, 6);
        fm_outbox_put(words->outbox, words->place.bridge, buffer, (size_t)got);
    }
}

int fm_last_words_begin(struct fm_last_words *words, struct fm_error *err)
{
    words->time = FM_WORDS_AMBIGUOUS;
    return fm_outbox_collect(words->outbox, words->place.port, err);
}

int fm_last_words_port_is_shut(struct fm_last_words *words, struct fm_error *err)
{
    say(words, NULL);
    words->time = FM_WORDS_EARLY;
    struct itimerspec soon = {.it_value.tv_nsec = EARLY_MS * 1000000L};
    return timerfd_settime(words->late_fd, 0, &soon, NULL) < 0
               ? fm_error_errno(err, errno, "cannot set a timer")
               : 0;
}

void fm_last_words_heard(struct fm_last_words *words, const uint8_t *frame, size_t len)
{
    fm_tcp_flows_heard(&words->flows, frame, len);
}

void fm_last_words_say(struct fm_last_words *words)
{
    say(words, NULL);
}

void fm_last_words_late(struct fm_last_words *words)
{
    words->time = FM_WORDS_LATE;
}

void fm_last_words_stop(struct fm_last_words *words)
{
    fm_outbox_stop(words->outbox);
}

void fm_last_words_finish(struct fm_last_words *words)
{
    say(words, words->place.bridge_mac);
}

void fm_last_words_say_all(struct fm_last_words *words)
{
    struct fm_frame *frame;
    while ((frame = fm_frame_queue_take(&words->unsaid))) {
        fm_outbox_put(words->outbox, words->place.bridge, frame->bytes, frame->len);
        free(frame);
    }
    fm_outbox_send(words->outbox, words->place.bridge, words->place.mac);
}
