/* Every tunable of a migration, with its default and its limits. */
#ifndef FM_MIGRATION_OPTIONS_H
#define FM_MIGRATION_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"
#include "state/page_stream.h"

#define FM_STRATEGIES(X)                                                                           \
    X(AUTO, "auto")           /* the best that works on both hosts */                              \
    X(COLD, "cold")           /* freeze, copy everything, restore */                               \
    X(PRE_COPY, "pre-copy")   /* memory travels while the container runs */                        \
    X(POST_COPY, "post-copy") /* memory travels while the container runs there already */          \
    X(HYBRID, "hybrid")       /* pre-copy, and what does not fit into the freeze post-copy */

enum fm_strategy {
#define X(name, text) FM_STRATEGY_##name,
    FM_STRATEGIES(X)
#undef X
};
const char *fm_strategy_text(enum fm_strategy strategy);
enum fm_strategy fm_strategy_by_text(const char *name); /* AUTO when unknown or NULL */

#define FM_PRIORITIES(X)                                                                           \
    X(LOW, "low")                                                                                  \
    X(NORMAL, "normal")                                                                            \
    X(HIGH, "high")

enum fm_priority {
#define X(name, text) FM_PRIORITY_##name,
    FM_PRIORITIES(X)
#undef X
};
const char *fm_priority_text(enum fm_priority priority);
/* Leaves *priority alone when the name is unknown or NULL. */
void fm_priority_parse(const char *name, enum fm_priority *priority);

/* What pre-copy does when rounds do not help any more. */
#define FM_ON_NO_CONVERGENCE(X)                                                                    \
    X(DEFAULT, "default") /* hybrid for strategy auto, else freeze */                              \
    X(FREEZE, "freeze")   /* longer than max_downtime_ms */                                        \
    X(HYBRID, "hybrid")                                                                            \
    X(FAIL, "fail")

enum fm_on_no_convergence {
#define X(name, text) FM_ON_NO_CONVERGENCE_##name,
    FM_ON_NO_CONVERGENCE(X)
#undef X
};

/* What a request asks for. JSON form (POST /v1/migrations): an object with the fields' names as
 * keys, all optional but container and destination. */
struct fm_migration_options {
    char container[64];
    char source[64]; /* "" : the host that receives the request */
    char destination[64];
    enum fm_strategy strategy;    /* AUTO */
    enum fm_priority priority;    /* NORMAL */
    uint64_t bandwidth_bytes;     /* per second; 0: no limit */
    uint64_t max_downtime_ms;     /* freeze when it is expected to be shorter; 50 ms */
    uint64_t max_rounds;          /* of pre-copy; 30 */
    uint64_t parallel;            /* connections that carry pages; 2 */
    uint64_t delta_cache_bytes;   /* of pages sent before, on the source; 32 MiB; 0: no deltas */
    enum fm_compression compress; /* AUTO */
    enum fm_on_no_convergence on_no_convergence; /* DEFAULT */
    char new_network[64];                        /* another network than it is in, or "" */
    char new_address[64]; /* another address than it has, or ""; "auto": one that is free. Its TCP
                             connections end then, and DNS follows */
    bool auto_converge;   /* throttle a container that writes faster than pages travel */
    uint64_t timeout_ms;  /* whole migration up to the commit; 300 s */
    uint64_t preparation_timeout_ms;  /* 120 s */
    uint64_t execution_timeout_ms;    /* 60 s: freeze to commit; rolled back after it */
    uint64_t verification_timeout_ms; /* 30 s */
    bool dry_run;                     /* PENDING and PLANNING only */
};

/* Unknown keys, wrong types and values out of range are FM_E_INVALID, naming the key. */
int fm_migration_options_from_json(const json_t *doc, struct fm_migration_options *options,
                                   struct fm_error *err);
json_t *fm_migration_options_to_json(const struct fm_migration_options *options);

#endif
