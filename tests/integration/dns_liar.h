/* A DNS server that misbehaves: it passes requests on to the real one and spoils the answers. */
#ifndef FM_TESTS_DNS_LIAR_H
#define FM_TESTS_DNS_LIAR_H

#include <sys/types.h>

#define LIAR_PORT 5400

enum lie {
    LIE_NONE,
    LIE_SILENCE,       /* takes requests, never answers, asks nobody */
    LIE_LOST_ANSWER,   /* the first request is done, its answer is lost */
    LIE_LATE,          /* answers after 150 ms */
    LIE_GARBAGE,       /* random bytes instead of the answer */
    LIE_FLOOD,         /* and without end */
    LIE_NOISE,         /* garbage, other answers and then the right one */
    LIE_OTHER_ID,      /* the answer to another request */
    LIE_FORGED,        /* a changed address in the signed answer */
    LIE_UNSIGNED,      /* the right answer without its signature */
    LIE_OTHER_KEY,     /* signed anew, with a key of the liar's */
    LIE_REPLAY,        /* the first answer for ever, with the right id */
    LIE_CUT_OFF,       /* says that the answer did not fit; nobody listens by TCP */
    LIE_TCP_SILENCE,   /* the same; by TCP it takes the request and never answers */
    LIE_TCP_CLOSE,     /* … closes the connection */
    LIE_TCP_HALF,      /* … announces 65535 bytes and sends ten */
    LIE_TCP_GARBAGE,   /* … sends random bytes as the answer */
    LIE_REQUEST_SPOILT /* a bit of the request is turned on the way */
};

/* A process of its own, which ends with us. */
pid_t liar_start(enum lie lie);
void liar_stop(pid_t pid);

#endif
