/* Every tunable of a migration, with its default and its limits. */
#ifndef FM_MIGRATION_OPTIONS_H
#define FM_MIGRATION_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"

#define FM_STRATEGIES(X)                                                                           \
    X(AUTO, "auto")                                                                                \
    X(COLD, "cold")

enum fm_strategy {
#define X(name, text) FM_STRATEGY_##name,
    FM_STRATEGIES(X)
#undef X
};
const char *fm_strategy_text(enum fm_strategy strategy);

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

/* What a request asks for. JSON form (POST /v1/migrations):
 * {"container","destination","source"?,"strategy"?,"priority"?,
 * "bandwidth_bytes"?,"timeout_ms"?,"preparation_timeout_ms"?,"execution_timeout_ms"?,"verification_timeout_ms"?,"dry_run"?}.
 */
struct fm_migration_options {
    char container[64];
    char source[64]; /* "" : the host that receives the request */
    char destination[64];
    enum fm_strategy strategy;       /* AUTO */
    enum fm_priority priority;       /* NORMAL */
    uint64_t bandwidth_bytes;        /* per second; 0: no limit */
    uint64_t timeout_ms;             /* whole migration up to the commit; 300 s */
    uint64_t preparation_timeout_ms; /* 120 s */
    uint64_t
        execution_timeout_ms; /* 60 s: freeze to commit; the container is rolled back after it */
    uint64_t verification_timeout_ms; /* 30 s */
    bool dry_run;                     /* PENDING and PLANNING only */
};

/* Unknown keys, wrong types and values out of range are FM_E_INVALID, naming the key. */
int fm_migration_options_from_json(const json_t *doc, struct fm_migration_options *options,
                                   struct fm_error *err);
json_t *fm_migration_options_to_json(const struct fm_migration_options *options);

#endif
