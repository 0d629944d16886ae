/* Solicitations: "who has this address?", asked on a segment by somebody who has no address there,
 * so that nobody's neighbour table changes. */
#ifndef FM_NETWORK_SOLICIT_H
#define FM_NETWORK_SOLICIT_H

#include <stdbool.h>

#include "network/address.h"

#define FM_SOLICITATION_MAX 96

/* Builds an ARP probe (RFC 5227, section 2.1.1) or a neighbour solicitation from the unspecified
 * address (RFC 4861, section 4.3), whose answer goes to all nodes; returns the frame's length. */
size_t fm_solicitation_build(const struct fm_ip *ip, const uint8_t from[6],
                             uint8_t frame[FM_SOLICITATION_MAX]);
/* Whether a frame is the answer, and whose MAC it names. */
bool fm_solicitation_answer(const uint8_t *frame, size_t len, const struct fm_ip *ip,
                            const uint8_t from[6], uint8_t mac[6]);

struct fm_solicitation {
    const char *interface; /* of the calling thread's namespace */
    struct fm_ip ip;
    uint64_t timeout_ms;
    uint8_t mac[6];   /* of who has answered */
    uint64_t took_us; /* from the question to the answer */
};

/* Asks once and waits: FM_E_UNREACHABLE when nobody has answered, FM_E_NOT_FOUND: no such
 * interface, FM_E_REFUSED: it is down, and nobody has heard the question. */
int fm_solicit(struct fm_solicitation *s, struct fm_error *err);

#endif
