/* Incoming: a migration on its destination, from PREPARE to COMPLETE or to nothing left.
 *
 * Its stage only moves forward. Until READY it may be discarded at any time; READY may neither run
 * nor discard on its own; after COMMITTED it runs, again from the images if need be. */
#ifndef FM_MIGRATION_INCOMING_H
#define FM_MIGRATION_INCOMING_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "container/container.h"
#include "migration/components.h"
#include "migration/link.h"
#include "migration/timeline.h"
#include "state/restore.h"
#include "wire/connection.h"

#define FM_STAGES(X)                                                                               \
    X(PREPARING, "preparing")                                                                      \
    X(ARMED, "armed")                                                                              \
    X(READY, "ready")                                                                              \
    X(COMMITTED, "committed")                                                                      \
    X(RUNNING, "running")                                                                          \
    X(DONE, "done") /* the source has let go: an ordinary container of this host */                \
    X(DISCARDED, "discarded")

enum fm_stage {
#define X(name, text) FM_STAGE_##name,
    FM_STAGES(X)
#undef X
};
const char *fm_stage_text(enum fm_stage stage);

struct fm_incoming {
    struct fm_components *parts;
    char id[32];
    char return_of[32]; /* the migration of ours that this one takes back, or "" */
    struct fm_host source;
    json_t *left; /* its addresses on the source when they are others (readdress.h), or NULL */
    struct fm_container *container;
    struct fm_endpoint endpoint;
    bool has_endpoint;
    bool in_slot;
    struct fm_bundle bundle;
    char *dir;
    struct fm_tmpfs_mounts tmpfs; /* below `dir` */

    pthread_mutex_t lock; /* one call at a time */
    enum fm_stage stage;
    struct fm_restore_receiver *receiver;
    struct fm_restore *restore; /* held */
    bool lazy;                  /* its memory comes by page streams, not in the images */
    char strategy[16];
    struct fm_memory_sink *sink; /* until all of its memory is in place */
    bool source_lost;            /* while pages were missing */
    const void *heard_from;      /* the connection that the source spoke on last, and when */
    uint64_t heard_ms;
    uint64_t missing_seen; /* bytes, at the last look at a quiet source */
    atomic_uint page_streams;
    struct fm_timeline freeze; /* steps since FROZEN, then since COMMIT */
    bool root_changed;         /* files came after the overlay was mounted */
    uint64_t log_bytes;
    uint64_t max_bytes; /* of one stream: what the disk has, less a reserve */
    uint64_t created_us;
    bool registered;          /* runs, and registry and journal know it */
    bool unclean;             /* something of it could not be removed */
    bool asking;              /* a thread asks the source for its decision */
    uint64_t unanswered_ms;   /* since when it gets no answer, monotonic; 0: it does */
    bool unanswered;          /* for so long that somebody should see it */
    bool closing;             /* it is to end */
    pthread_cond_t changed;   /* of the two above */
    uint64_t verify_until_ms; /* when the source stops to wait for VERIFY; 0: it does not say */
    struct fm_incoming *next; /* the table's */
};

/* All incoming migrations of a host. */
struct fm_incoming_table;
struct fm_incoming_table *fm_incoming_table_new(struct fm_components *parts);
void fm_incoming_table_free(
    struct fm_incoming_table *t); /* lets held restores go down; the journal remembers */
/* NULL with FM_E_NOT_FOUND. Belongs to the table. */
struct fm_incoming *fm_incoming_find(struct fm_incoming_table *t, const char *id,
                                     struct fm_error *err);
/* As above, also one that only the journal knows. */
struct fm_incoming *fm_incoming_recall(struct fm_incoming_table *t, const char *id,
                                       struct fm_error *err);
/* True while a container of this name is on its way here and does not run yet. */
bool fm_incoming_is_coming(struct fm_incoming_table *t, const char *name);
/* True while the memory of a running container of this name is not all in place. */
bool fm_incoming_is_filling(struct fm_incoming_table *t, const char *name);
/* Adds the layers of all that is coming. */
void fm_incoming_layers(struct fm_incoming_table *t, struct fm_strv *layers);
size_t fm_incoming_active(struct fm_incoming_table *t);

/* Each is one request of the source (migration.md). The answer is a new reference, NULL with err.
 */
json_t *fm_incoming_check(struct fm_incoming_table *t, const json_t *body, struct fm_error *err);
/* Waits for a slot, by the request's priority. */
json_t *fm_incoming_prepare(struct fm_incoming_table *t, const char *peer, const json_t *body,
                            struct fm_incoming **out, struct fm_error *err);
int fm_incoming_tree(struct fm_incoming *in, struct fm_connection *c, const char *name,
                     struct fm_error *err);
int fm_incoming_image(struct fm_incoming *in, struct fm_connection *c, const struct fm_frame *frame,
                      struct fm_error *err);
int fm_incoming_arm(struct fm_incoming *in, const json_t *body, struct fm_error *err);
/* Body {"manifest","neighbours"}: everything has been sent. 0: READY. */
int fm_incoming_frozen(struct fm_incoming *in, const json_t *body, struct fm_error *err);
/* Counts in a connection that will carry pages only, which its thread then serves by the memory
 * interface's sink_stream. */
int fm_incoming_memory_attach(struct fm_incoming *in, struct fm_connection *c,
                              struct fm_error *err);
/* How far its memory is in place, {"done","total","filled","missing","faults","fault_us_max"};
 * waits a moment for a change. */
json_t *fm_incoming_fill(struct fm_incoming *in, uint64_t *missing, struct fm_error *err);
/* FM_E_ROLLED_BACK: it cannot run here and everything is discarded, for good. */
json_t *fm_incoming_commit(struct fm_incoming *in, struct fm_error *err);
int fm_incoming_verify(struct fm_incoming *in, json_t **report, struct fm_error *err);
int fm_incoming_complete(struct fm_incoming *in, struct fm_error *err);
/* Before the commit: removes everything. FM_E_REFUSED after it. */
int fm_incoming_abort(struct fm_incoming *in, const char *why, struct fm_error *err);
/* After the commit, when it is to leave again: 0 when it is alive (migrate it back) or *gone (it
 * was migrated back already), FM_E_ROLLED_BACK when it was dead and is now discarded. */
/* The request of the migration that takes it back to its source, and to the address that it had
 * there; new reference. */
json_t *fm_incoming_way_back(const struct fm_incoming *in);
int fm_incoming_give_back(struct fm_incoming *in, bool *gone, struct fm_error *err);

/* The source has spoken on this connection. True when pages are missing: it must not fall silent.
 */
bool fm_incoming_heard(struct fm_incoming *in, const void *from);
/* This connection has ended; orphaned, unless the source speaks on another one by now. */
void fm_incoming_hung_up(struct fm_incoming *in, const void *from);
/* It has said nothing for a moment: when that was too long, it is lost. */
void fm_incoming_unheard(struct fm_incoming *in);
/* Ends a restore that is under way. Without the lock, which that holds. */
void fm_incoming_interrupt(struct fm_incoming *in);
/* The last connection with its pages has ended: a restore does not wait for those that it lacks. */
void fm_incoming_pages_ended(struct fm_incoming *in);
/* The connection that brought it ended: discards before READY; in READY asks the source for its
 * decision until it has one, afterwards whether it has let go. */
void fm_incoming_orphaned(struct fm_incoming *in);
/* From the journal, at start-up: what migration.md says for each stage. */
int fm_incoming_recover(struct fm_incoming_table *t, const char *id, struct fm_error *err);

#endif
