/* Real DNS servers, private to the test: BIND and Knot with the same zones on the loopback device
 * of a network namespace of our own. */
#ifndef FM_TESTS_DNS_WORLD_H
#define FM_TESTS_DNS_WORLD_H

#include <stdint.h>
#include <sys/types.h>

#include "network/dns.h"

#define WORLD_DIR "/mnt/dns" /* on a tmpfs that ends with the test */
#define WORLD_PORT 5300
#define WORLD_KEY "mover"
#define WORLD_SECRET "bm90IGEgc2VjcmV0OiBpdCBpcyBpbiB0aGUgc291cmNl"
#define WORLD_KEY512 "mover512"
#define WORLD_SECRET512 "YSBzZWNvbmQga2V5LCBmb3IgaG1hYy1zaGE1MTIgb25seSwgYWxzbyBwdWJsaWM="
#define WORLD_GUEST "guest" /* a key that may query but not update */
#define WORLD_GUEST_SECRET "bWF5IHJlYWQgYnV0IG5vdCB3cml0ZSwgb2YgY291cnNl"

enum world_kind { WORLD_BIND, WORLD_KNOT };

struct world {
    enum world_kind kind;
    pid_t pid;
};

/* Private network and mount namespaces for this process. */
void world_init(void);
/* A fresh server with the zones as they are at first; waits until it answers. Ends with us. */
void world_start(struct world *w, enum world_kind kind);
void world_stop(struct world *w);

/* The follower's configuration for it. */
struct fm_dns_config world_config(void);

/* What dig says: "300 10.0.0.5\n", a line per record, sorted; "": nothing. The caller frees it. */
char *world_dig(const char *name, const char *type);
/* Every record of every zone but the SOA, sorted; the caller frees it. */
char *world_dump(void);
/* Somebody else's change: lines for nsupdate after the zone, "update add …". */
void world_nsupdate(const char *zone, const char *lines);

#endif
