/* Last words: what the kernel of a frozen container still says, in an outbox (outbox.h).
 *
 * Until the checkpoint gets to the sockets, paced segments follow that count as sent: they go on.
 * The rest is true only if the container stays: on the new host it would speak of a past that is
 * over, with TCP timestamps ahead of the new ones (which peers then reject). The caller serialises
 * the calls. */
#ifndef FM_NETWORK_LAST_WORDS_H
#define FM_NETWORK_LAST_WORDS_H

#include "base/error.h"
#include "network/frame_queue.h"
#include "network/tcp_flow.h"

struct fm_last_words_place {
    int port, bridge; /* indices of interfaces: the container's, and where its frames go out */
    uint8_t mac[6], bridge_mac[6];
};

struct fm_last_words {
    struct fm_last_words_place place;
    int outbox;
    int late_fd; /* readable when fm_last_words_late is to be called */
    enum fm_last_words_time {
        FM_WORDS_AMBIGUOUS, /* the port may have been open still */
        FM_WORDS_EARLY,
        FM_WORDS_LATE,
    } time;
    struct fm_tcp_flows flows;    /* of the container, as far as they were seen in the hold */
    struct fm_frame_queue unsaid; /* of no use, unless the container stays */
};

/* One that is closed: what close may be called with. */
#define FM_LAST_WORDS_NONE                                                                         \
    {                                                                                              \
        .outbox = -1, .late_fd = -1                                                                \
    }
int fm_last_words_open(struct fm_last_words *words, const struct fm_last_words_place *place,
                       struct fm_error *err);
void fm_last_words_close(struct fm_last_words *words);
/* Around the closing of the port, so that there is no moment in between. */
int fm_last_words_begin(struct fm_last_words *words, struct fm_error *err);
int fm_last_words_port_is_shut(struct fm_last_words *words, struct fm_error *err);
/* A frame for the container came in. */
void fm_last_words_heard(struct fm_last_words *words, const uint8_t *frame, size_t len);
/* Sends what was collected, and is true wherever the container goes on. To be called when `outbox`
 * is readable. */
void fm_last_words_say(struct fm_last_words *words);
/* From now on only what continues a flow can be from before the checkpoint. */
void fm_last_words_late(struct fm_last_words *words);
/* Collects no more. */
void fm_last_words_stop(struct fm_last_words *words);
/* The container goes on elsewhere: the last of it, under the bridge's MAC, or switches would learn
 * the old place again. */
void fm_last_words_finish(struct fm_last_words *words);
/* It stays: all of it was true. */
void fm_last_words_say_all(struct fm_last_words *words);

#endif
