/* Journal: what was about to be done, written before it was done. Recovery reads nothing else.
 *
 * One SQLite database per host (WAL). A migration has a row on both of its hosts, told apart by its
 * role. */
#ifndef FM_MIGRATION_JOURNAL_H
#define FM_MIGRATION_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"
#include "migration/fsm.h"

#define FM_ROLE_SOURCE "source"
#define FM_ROLE_DESTINATION "destination"

/* Every step that makes or changes something on a host, in the order of a migration. Each is also a
 * fault point `step.<text>`, passed right after the step was written and before it is acted on. */
#define FM_STEPS(X)                                                                                \
    /* source */                                                                                   \
    X(LEASE, "lease")       /* another address, for its destination */                             \
    X(PREPARE, "prepare")   /* the destination was asked to prepare */                             \
    X(HOLD, "hold")         /* TAP of the packet hold */                                           \
    X(FOLLOW, "follow")     /* DNS, SDN, load balancers: what they were before */                  \
    X(ROUNDS, "rounds")     /* memory travels while the container runs */                          \
    X(THROTTLE, "throttle") /* the container's processor time is cut */                            \
    X(DUMP, "dump")         /* images directory, runtime's checkpoint process */                   \
    X(ARM, "arm")           /* the destination was asked to start its restore */                   \
    X(FREEZE, "freeze")     /* tasks seized, packets diverted, cgroup frozen */                    \
    X(DUMPED, "dumped")     /* images complete, original frozen */                                 \
    X(DECIDE, "decide")     /* the destination is READY; the decision record comes next */         \
    X(COMMIT, "commit")     /* decision stands: never runs here again */                           \
    X(SWITCH, "switch")     /* destination runs: packets go there */                               \
    X(DESTROY, "destroy")   /* the original is killed */                                           \
    X(CLEAN_UP, "clean-up") /* everything of the container leaves this host */                     \
    X(RELAY, "relay")       /* what others still send here goes there; beyond COMPLETED */         \
    X(RETURN, "return")     /* after the commit: the destination was asked to bring it back */     \
    /* destination */                                                                              \
    X(RESERVE, "reserve") /* memory and disk; how much changes, see READY */                       \
    X(STAGE_NETWORK, "stage-network")                                                              \
    X(STAGE_LAYER, "stage-layer")                                                                  \
    X(STAGE_BUNDLE, "stage-bundle") /* directories, overlay mount */                               \
    X(STAGE_VOLUME, "stage-volume")                                                                \
    X(STAGE_PAGES, "stage-pages") /* page store */                                                 \
    X(PAGER, "pager")             /* process that fills the memory from it */                      \
    X(RESTORE, "restore")         /* runtime's restore process, held */                            \
    X(READY, "ready")             /* may neither run nor discard on its own; memory, disk: what    \
                                     is promised to it */                                          \
    X(RUN, "run")                 /* COMMIT received: runs, whatever happens */                    \
    X(RELEASE, "release")         /* the held restore is let go */                                 \
    X(REGISTER, "register")       /* in this host's registry */                                    \
    X(DISCARD, "discard")         /* everything staged is removed */

enum fm_step {
#define X(name, text) FM_STEP_##name,
    FM_STEPS(X)
#undef X
};
const char *fm_step_text(enum fm_step step);

struct fm_journal;

/* ":memory:" for tests. Refuses a database of a newer schema. Thread-safe. */
struct fm_journal *fm_journal_open(const char *path, struct fm_error *err);
void fm_journal_close(struct fm_journal *j); /* NULL is fine */

/* A new migration with its document (a JSON object, stored as given). */
int fm_journal_create(struct fm_journal *j, const char *id, const char *role, const json_t *doc,
                      struct fm_error *err);
/* Replaces the document; `final` takes the migration out of fm_journal_unfinished. */
int fm_journal_update(struct fm_journal *j, const char *id, const json_t *doc, bool final,
                      struct fm_error *err);

struct fm_transition {
    enum fm_state from, to;
    bool final;
    const char *component;
    const char *message;
    double duration_ms; /* of the state that ends */
};
int fm_journal_transition(struct fm_journal *j, const char *id, const struct fm_transition *t,
                          struct fm_error *err);

/* Writes a step with its detail (an object or NULL; borrowed) and then passes its fault point. The
 * same step may be written again: the newest detail counts. */
int fm_journal_step(struct fm_journal *j, const char *id, enum fm_step step, const json_t *detail,
                    struct fm_error *err);
/* Replaces the newest detail of a step that stands; passes no fault point. */
int fm_journal_amend(struct fm_journal *j, const char *id, enum fm_step step, const json_t *detail,
                     struct fm_error *err);
/* The step was undone (or belongs to nobody any more). */
int fm_journal_undone(struct fm_journal *j, const char *id, enum fm_step step,
                      struct fm_error *err);
/* True when the step was written and not undone; *detail (may be NULL) gets a new reference or
 * NULL. */
bool fm_journal_has(struct fm_journal *j, const char *id, enum fm_step step, json_t **detail);

/* The newest document of a migration that takes back the one of this id, on this side; new
 * reference, NULL when there is none. */
json_t *fm_journal_return_of(struct fm_journal *j, const char *id, const char *role);

/* The document with "transitions" and "steps" added; new reference, NULL with FM_E_NOT_FOUND. */
json_t *fm_journal_load(struct fm_journal *j, const char *id, struct fm_error *err);
/* True when no later migration, on either side, names the same container; its own way back does not
 * count. */
bool fm_journal_is_latest(struct fm_journal *j, const char *id, const char *container);
/* [{"id","detail"}] of all migrations in which this step stands, oldest first; new reference. */
json_t *fm_journal_standing(struct fm_journal *j, enum fm_step step);
/* Ids of migrations away from here that are over and have followers left to be told, oldest first:
 * of one container (NULL: any), and whose next try is due at `now_us` (UINT64_MAX: all). New
 * reference. */
json_t *fm_journal_left(struct fm_journal *j, const char *container, uint64_t now_us);
/* A later migration away from here has told the follower of this container's move. */
bool fm_journal_told_later(struct fm_journal *j, const char *id, const char *container,
                           const char *follower);
/* The container has come here later, and not as a way back. */
bool fm_journal_came_later(struct fm_journal *j, const char *id, const char *container);
/* Documents, newest first, at most `limit`; new reference. */
json_t *fm_journal_list(struct fm_journal *j, size_t limit, struct fm_error *err);
/* [{"id","role"}] of migrations that are not final, oldest first; new reference. */
json_t *fm_journal_unfinished(struct fm_journal *j, struct fm_error *err);

#endif
