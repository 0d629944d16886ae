/* Registry and decision records behind one table of functions: SQLite now, etcd with many managers.
 */
#ifndef FM_CLUSTER_STORE_H
#define FM_CLUSTER_STORE_H

#include <stdbool.h>

#include <jansson.h>

#include "base/error.h"

/* Kinds of documents: "host", "container". Keys are names. */
struct fm_store_ops {
    int (*put)(void *ctx, const char *kind, const char *key, const json_t *doc,
               struct fm_error *err);
    /* New reference or NULL with FM_E_NOT_FOUND. */
    json_t *(*get)(void *ctx, const char *kind, const char *key, struct fm_error *err);
    /* Array of documents ordered by key; new reference. */
    json_t *(*list)(void *ctx, const char *kind, struct fm_error *err);
    int (*remove)(void *ctx, const char *kind, const char *key,
                  struct fm_error *err); /* missing: NOT_FOUND */
    /* The decision of a migration, written once and for all and durably (fsync) before it returns:
     * the first of commit/abort wins; *commit tells which one stands. */
    int (*decide)(void *ctx, const char *migration, bool want_commit, bool *commit,
                  struct fm_error *err);
    /* *decided false when there is no record. */
    int (*decision)(void *ctx, const char *migration, bool *decided, bool *commit,
                    struct fm_error *err);
};

struct fm_store {
    const struct fm_store_ops *ops;
    void *ctx;
};

/* path ":memory:" for tests. Thread-safe. WAL; refuses a database of a newer schema. */
int fm_store_sqlite_open(const char *path, struct fm_store *store, struct fm_error *err);
void fm_store_sqlite_close(struct fm_store *store);

#endif
