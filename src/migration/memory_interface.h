/* Memory interface: the state engine as the handover sees it. On the source: rounds while the
 * container runs, the last pages in the freeze, post-copy after it. On the destination: the page
 * store and the pager. Real implementation: tracker, page stream, page store and pager of state/;
 * the tests bring a fake. */
#ifndef FM_MIGRATION_MEMORY_INTERFACE_H
#define FM_MIGRATION_MEMORY_INTERFACE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include "base/error.h"
#include "migration/link.h"
#include "state/page_stream.h"
#include "state/pager.h"

struct fm_memory_source; /* the memory of one container on its way */
struct fm_memory_sink;   /* where it arrives */

struct fm_memory_plan {
    const char *migration;
    const char *dir; /* the migration's */
    const struct fm_host *destination;
    bool track; /* false: post-copy, all of it stays here until the container runs there */
    unsigned streams;
    struct fm_page_sender_options pages;
    uint64_t timeout_ms; /* of the connections' handshakes */
};

/* What one pass found and sent. */
struct fm_memory_round {
    uint64_t present_bytes, dirty_bytes;
    uint64_t interval_us; /* since the scan before: what dirty_bytes were written in; 0: first */
    uint64_t scan_us, send_us;
    unsigned processes, untracked;
};

/* While a pass waits for the network; a negative return ends it. */
typedef int (*fm_memory_tick)(void *arg, struct fm_error *err);

struct fm_memory_ops {
    /* {"tracker","tracker_reason","pager","pager_reason","skeleton","skeleton_reason"}: what works
     * on this host, found out once; new reference. */
    json_t *(*facts)(void *ctx);

    /* --- source --- */
    int (*open)(void *ctx, const struct fm_memory_plan *plan, struct fm_memory_source **source,
                struct fm_error *err);
    /* Sends what these processes (all of the container's) have written since the round before; the
     * first time everything. Returns when it lies in the destination's store. */
    int (*round)(struct fm_memory_source *s, const pid_t *pids, size_t count, fm_memory_tick tick,
                 void *arg, struct fm_memory_round *round, struct fm_error *err);
    /* Just before the freeze: what can be read beforehand of what CRIU would read slowly. */
    int (*prepare_freeze)(struct fm_memory_source *s, const pid_t *pids, size_t count,
                          struct fm_error *err);
    /* All tasks are seized: finds the last pages, writes the page filter's files to *filter_dir
     * (owned by the source) and begins to send; `leave`: the pages stay here and are fetched when
     * the container runs there. */
    int (*freeze)(struct fm_memory_source *s, const pid_t *pids, size_t count, bool leave,
                  struct fm_memory_round *round, struct fm_error *err);
    const char *(*filter_dir)(const struct fm_memory_source *s);
    /* The last pages have arrived; *index is the path of the memory index that the destination
     * needs. */
    int (*finish)(struct fm_memory_source *s, uint64_t timeout_ms, const char **index,
                  struct fm_error *err);
    /* Nothing was dumped from what had been read beforehand and was out of date: begun after the
     * dump, and ended before the decision. */
    void (*verify_begin)(struct fm_memory_source *s);
    int (*verify_end)(struct fm_memory_source *s, struct fm_error *err);
    /* The container runs there: what still watches the original's system calls ends. Takes a while
     * (RCU). */
    void (*unwatch)(struct fm_memory_source *s);
    /* Sends what was left, what is waited for first. Returns at once. */
    int (*serve)(struct fm_memory_source *s, struct fm_error *err);
    /* The same after the connections were lost or the daemon was restarted: a source that knows
     * only what the index says. */
    int (*recall)(void *ctx, const struct fm_memory_plan *plan, struct fm_memory_source **source,
                  struct fm_error *err);
    void (*stats)(struct fm_memory_source *s, struct fm_page_stats *stats);
    void (*interrupt)(struct fm_memory_source *s); /* wakes a blocked pass; from any thread */
    void (*close)(struct fm_memory_source *s);     /* NULL is fine */

    /* --- destination --- */
    /* `scattered`: it runs before its memory has come, and pages come as it wants them. */
    int (*sink_open)(void *ctx, const char *migration, bool scattered,
                     const struct fm_page_room *room, struct fm_memory_sink **sink,
                     struct fm_error *err);
    /* One page stream: attach counts it in (quick), stream serves it to its end and counts it out,
     * in the connection's thread. sink_close waits for it. */
    int (*sink_attach)(struct fm_memory_sink *s, struct fm_connection *c, struct fm_error *err);
    int (*sink_stream)(struct fm_memory_sink *s, struct fm_connection *c, struct fm_error *err);
    /* Starts the pager: CRIU's tasks connect in `work_dir`. Again after sink_stop. */
    int (*sink_pager)(struct fm_memory_sink *s, const char *work_dir, struct fm_error *err);
    /* All pages that come before the container runs are in the store, and for the others there is
     * room. */
    int (*sink_settle)(struct fm_memory_sink *s, const char *index, struct fm_error *err);
    /* The tasks are restored and wait for their resume: their memory may be filled. */
    void (*sink_restored)(struct fm_memory_sink *s);
    /* Waits for a change at most so long. FM_E_FAILED: the pager cannot go on. FM_E_CLOSED: the
     * source is gone and pages are missing. */
    int (*sink_wait)(struct fm_memory_sink *s, uint64_t timeout_ms, struct fm_pager_status *status,
                     struct fm_error *err);
    /* The source is connected: what is missing can be fetched. */
    bool (*sink_served)(struct fm_memory_sink *s);
    /* Ends the pager: its tasks are dead or were never made; the store stays. */
    void (*sink_stop)(struct fm_memory_sink *s);
    /* `remove`: the store too. Without, a later daemon finds both. NULL is fine. */
    void (*sink_close)(struct fm_memory_sink *s, bool remove);
    /* What an earlier daemon left: FM_E_NOT_FOUND when nothing is there (all pages in place). */
    int (*sink_find)(void *ctx, const char *migration, const char *work_dir,
                     struct fm_memory_sink **sink, struct fm_error *err);
};

struct fm_memory {
    const struct fm_memory_ops *ops; /* NULL: strategy cold only */
    void *ctx;
};

/* The real one. Strings are copied by none: they must outlive it. */
struct fm_memory_config {
    const struct fm_link_wire *wire;
    const char *pages_dir; /* tmpfs: one page store each */
    const char *interposer_dir;
    const char *pager; /* program */
};
struct fm_memory_engine;
int fm_memory_open(const struct fm_memory_config *config, struct fm_memory *memory,
                   struct fm_error *err);
void fm_memory_close(struct fm_memory *memory);

#endif
