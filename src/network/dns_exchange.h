/* One signed message to a DNS server and its verified answer (RFC 1035, RFC 8945). */
#ifndef FM_NETWORK_DNS_EXCHANGE_H
#define FM_NETWORK_DNS_EXCHANGE_H

#include <stdint.h>
#include <sys/socket.h>

#include <ldns/ldns.h>

#include "base/cancel.h"
#include "base/error.h"
#include "network/dns_name.h"

struct fm_dns_server {
    struct sockaddr_storage address;
    socklen_t address_len;
    char text[96];                   /* "192.0.2.53 port 53" */
    char key_name[FM_DNS_NAME_TEXT]; /* of the TSIG key */
    char algorithm[32];              /* "hmac-sha256." */
    char *secret;                    /* base64 */
    uint64_t timeout_ms;             /* of one exchange, all repetitions */
    unsigned retries;                /* of a datagram without an answer, in that time */
    struct fm_cancel cancel;         /* of the step that asks */
};

/* Signs the request and sends it: by UDP, by TCP when it is large or its answer was cut off. Gives
 * up at `deadline_ms` (of fm_now_ms) too. *reply is freed by the caller; it is the answer to this
 * request, signed with our key, with any response code. Datagrams that are not are ignored and told
 * about when nothing better comes.
 *   FM_E_TIMEOUT, FM_E_UNREACHABLE: no answer; FM_E_PROTOCOL: not a valid one;
 *   FM_E_AUTH: the server does not take our key, or did not sign with it.
 * An error that a server reports without a signature is an error by the name of its code. */
int fm_dns_exchange(const struct fm_dns_server *server, ldns_pkt *request, uint64_t deadline_ms,
                    ldns_pkt **reply, struct fm_error *err);

/* What a response code to such a request means, and what to do: "it does not allow updates … ".
 * Returns the negative code. */
int fm_dns_rcode_error(const struct fm_dns_server *server, ldns_pkt_opcode opcode,
                       ldns_pkt_rcode rcode, struct fm_error *err);
/* Puts "DNS server 192.0.2.53 port 53, zone example.org: " in front; returns the negative code. */
int fm_dns_blame(const struct fm_dns_server *server, const char *zone, struct fm_error *err);

static inline void fm_cleanup_ldns_pkt(ldns_pkt **pkt)
{
    ldns_pkt_free(*pkt);
}
#define fm_autopkt fm_cleanup(fm_cleanup_ldns_pkt)

#endif
