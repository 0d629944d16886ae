/* A migration on its source: the request, where it stands, and what is told about it. */
#ifndef FM_MIGRATION_MIGRATION_H
#define FM_MIGRATION_MIGRATION_H

#include <pthread.h>
#include <stdatomic.h>

#include "container/container.h"
#include "container/tree_print.h"
#include "migration/components.h"
#include "migration/fsm.h"
#include "migration/options.h"
#include "migration/stats.h"
#include "migration/timeline.h"

struct fm_migration {
    struct fm_components *parts; /* not owned */
    char id[16];
    char return_of[16]; /* the migration whose rollback this is, or "" */
    struct fm_migration_options options;
    struct fm_fsm fsm;
    struct fm_migration_stats stats;
    struct fm_error reason;       /* why it failed */
    bool needs_attention;         /* beside `left` */
    json_t *left;                 /* followers that are to be told yet, when it is over
                                     (following.h); NULL: none */
    atomic_bool cancelled;        /* asked for from another thread; honoured before the decision */
    atomic_bool expired;          /* a phase took longer than the request allows; as cancelled */
    _Atomic uint64_t deadline_ms; /* of the phase, monotonic; 0: none */
    uint64_t last_deadline_ms;    /* of all phases up to the commit */
    atomic_bool stopping;         /* the daemon goes down: as cancelled, and an endless wait ends */
    uint64_t state_since_us;

    /* The handover's working set; each is NULL or invalid until its step. */
    char *dir;                          /* <migrations_dir>/<id> */
    struct fm_tmpfs_mounts tmpfs;       /* the container's own, attached below `dir` */
    struct fm_tree_print *tmpfs_prints; /* of each, just before its last pass while it ran */
    struct fm_container *container;
    pid_t init_pid; /* of the original */
    json_t *needs;  /* facts of the container from PLANNING */
    struct fm_endpoint endpoint;
    bool has_endpoint;
    struct fm_container
        *arrival; /* as it is on the destination when its address changes, or NULL */
    struct fm_endpoint arrival_endpoint;
    struct fm_host destination;
    pthread_mutex_t link_lock; /* guards `link` against shutdown from cancel */
    struct fm_link *link;
    void *hold;
    json_t *untold; /* names of hosts that did not confirm the new place; NULL: not asked */
    struct fm_dump *dump;
    enum fm_strategy strategy;       /* chosen in PLANNING; never AUTO from there on */
    char strategy_reason[256];       /* why this one */
    struct fm_memory_source *memory; /* guarded by link_lock, as the link */
    bool filled;                     /* all memory is in place there */
    bool leave_pages;                /* what is dirty in the freeze is fetched after it */
    struct fm_cpu_limit cpu_limit;   /* before it was throttled */
    bool frozen;                     /* tasks seized: the client's clock ticks */
    bool committed;                  /* the decision stands */
    bool destroyed;                  /* the original is gone, by this daemon */
    bool in_slot;
    uint64_t frozen_us;        /* monotonic */
    struct fm_timeline freeze; /* its steps so far */
    uint64_t started_us;
    uint64_t log_sent, upper_since_us;
    struct fm_tree_print upper_print; /* of the writable layer, before its last pass */
    struct fm_tree_blocks *blocks;    /* what the destination has of large files */
    struct fm_strv mapped_files;      /* shared and writable, of all passes; relative to the root */
};

/* A new migration, journalled in state NONE. Takes nothing over; NULL on failure. */
struct fm_migration *fm_migration_new(struct fm_components *parts,
                                      const struct fm_migration_options *options,
                                      const char *return_of, struct fm_error *err);
/* One that the journal knows, for recovery. */
struct fm_migration *fm_migration_load(struct fm_components *parts, const char *id,
                                       struct fm_error *err);
void fm_migration_free(struct fm_migration *m);

/* Moves to a state: written to the journal first, then logged and published. `component` tells who
 * reports. */
int fm_migration_to(struct fm_migration *m, enum fm_state state, bool final, const char *component,
                    const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* Writes the document (state, reason, stats, attention) to the journal. */
int fm_migration_save(struct fm_migration *m, struct fm_error *err);
/* Journal step of this migration. */
int fm_migration_step(struct fm_migration *m, enum fm_step step, json_t *detail_to_steal,
                      struct fm_error *err);
/* The document of manager.h without transitions and steps; new reference. */
json_t *fm_migration_to_json(const struct fm_migration *m);
/* FM_E_CANCELLED when it was cancelled and may still be. */
int fm_migration_check_cancelled(const struct fm_migration *m, struct fm_error *err);
void fm_migration_cancel(struct fm_migration *m, bool stopping);
/* The phase that begins now may take so long, and not longer than what is left of the whole
 * migration's time. 0: as long as it takes. */
void fm_migration_set_deadline(struct fm_migration *m, uint64_t phase_ms);
/* Ends a migration whose deadline has passed, like a cancel; called now and then from another
 * thread. */
void fm_migration_expire(struct fm_migration *m);
/* It waits for a host that does not answer: says so in the journal, and takes up nobody's turn
 * until it goes on. Either may be repeated. */
void fm_migration_stand_aside(struct fm_migration *m);
void fm_migration_go_on(struct fm_migration *m);
/* From a document: over, but for followers that did not hear it. */
bool fm_migration_is_settled(const json_t *doc);
/* Publishes how far the memory is, and keeps it for `migration show`. */
void fm_migration_memory_progress(struct fm_migration *m, const char *phase);
/* Publishes a progress event. */
void fm_migration_progress(struct fm_migration *m, const char *phase, int percent, uint64_t bytes);

#endif
