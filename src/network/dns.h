/* DNS manager: a container's names follow its address. For moves that change it; a move that keeps
 * the address does not concern the DNS. */
#ifndef FM_NETWORK_DNS_H
#define FM_NETWORK_DNS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "network/follower.h"

#define FM_DNS_PORT 53
#define FM_DNS_ALGORITHM "hmac-sha256"
#define FM_DNS_TIMEOUT_MS 5000
#define FM_DNS_RETRIES 2
#define FM_DNS_LOW_TTL 5

/* A container whose name is not <container>.<zone>. */
struct fm_dns_name {
    const char *container;
    const char *name; /* "www.example.org", or "www" for one in the zone */
};

/* Strings are copied. */
struct fm_dns_config {
    const char *server;               /* address of the zones' primary server */
    uint16_t port;                    /* 0: 53 */
    const char *zone;                 /* "example.org" */
    const char *const *reverse_zones; /* NULL-terminated: "0.10.in-addr.arpa"; NULL: no PTR */
    const char *key_name;             /* of the TSIG key, as the server knows it */
    const char *algorithm;            /* "hmac-sha256", "hmac-sha512"; NULL: the first */
    const char *secret;               /* base64; exactly one of the two */
    const char *secret_file;          /* holds it in its first line; not readable by others */
    uint64_t timeout_ms;              /* of a whole step; 0: FM_DNS_TIMEOUT_MS */
    unsigned retries;                 /* of a datagram, within that time */
    uint32_t low_ttl;                 /* seconds, during a move; 0: FM_DNS_LOW_TTL */
    const struct fm_dns_name *names;
    size_t name_count;
};

/* Checks the configuration and asks no server. FM_E_INVALID names the key of the configuration that
 * is wrong. Steps may run in several threads at a time. */
int fm_dns_open(const struct fm_dns_config *config, struct fm_follower *follower,
                struct fm_error *err);
void fm_dns_close(struct fm_follower *follower);

/* Asks the server for each zone, with the key: for a check at start. */
int fm_dns_check(const struct fm_follower *follower, struct fm_error *err);

#endif
