/* Session: the daemon's end of one CRIU run that goes through the interposer.
 *
 * The runtime starts the interposer as `criu`; the interposer finds the socket beside the images
 * directory
 * (<images>/../criu.sock) and reports every step as one JSON datagram over SOCK_SEQPACKET. CRIU
 * stands still until the daemon has answered. */
#ifndef FM_CRIU_SESSION_H
#define FM_CRIU_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#define FM_CRIU_SOCKET "criu.sock"

/* What the interposer reports. Events but RESULT wait for fm_session_answer. */
#define FM_SESSION_EVENTS(X)                                                                       \
    X(REQUEST, "request") /* the runtime asks for a dump or a restore; CRIU is not started yet */  \
    X(HELD, "held")       /* CRIU has started and waits for the images */                          \
    X(PRE_DUMP, "pre-dump")                                                                        \
    X(NETWORK_LOCK, "network-lock") /* all tasks are seized */                                     \
    X(NETWORK_UNLOCK, "network-unlock")                                                            \
    X(QUERY_EXT_FILES, "query-ext-files")                                                          \
    X(POST_DUMP, "post-dump") /* images complete; a refusal lets the tasks run on */               \
    X(PRE_RESTORE, "pre-restore")                                                                  \
    X(SETUP_NAMESPACES, "setup-namespaces")                                                        \
    X(POST_SETUP_NAMESPACES, "post-setup-namespaces")                                              \
    X(POST_RESTORE, "post-restore") /* the last point at which a refusal undoes the restore */     \
    X(PRE_RESUME, "pre-resume")     /* TCP repair is off; tasks run when this is answered */       \
    X(POST_RESUME, "post-resume")                                                                  \
    X(OTHER, "other")                                                                              \
    X(RESULT, "result") /* CRIU is done */

enum fm_session_event_type {
#define X(name, text) FM_SESSION_##name,
    FM_SESSION_EVENTS(X)
#undef X
};
const char *fm_session_event_text(enum fm_session_event_type type);

struct fm_session_event {
    enum fm_session_event_type type;
    bool dump;         /* REQUEST: dump, else restore */
    pid_t pid;         /* REQUEST: the task to dump; RESULT of a restore: the restored init */
    bool success;      /* RESULT */
    char message[256]; /* RESULT: CRIU's own words when it failed; may be empty */
};

/* A mount that CRIU leaves to us. */
struct fm_session_mount {
    const char *target; /* dump: mount point in the container; restore: its name in the images */
    const char *source; /* dump: its name in the images; restore: a path on this host */
};

/* Changes to CRIU's request, given with the answer to REQUEST. Zero fields change nothing. */
struct fm_session_request {
    const char *root; /* restore: root directory in place of the runtime's */
    int log_level;    /* 1 errors … 4 debug */
    bool skip_network_lock;
    bool ignore_cgroups; /* do not dump or restore cgroups: the real CRIU sits in the container's */
    uint32_t ghost_limit; /* largest unlinked file that goes into the images, bytes */
    /* Dump: directory of the page filter (page_filter.c): before NETWORK_LOCK is answered it gets
     * <host pid>.hide and perhaps <host pid>.smaps. NULL: all memory goes into the images. */
    const char *filter_dir;
    /* Restore: memory that is not in the images comes by <work dir>/lazy-pages.socket, at which
     * somebody listens. */
    bool lazy_pages;
    bool tcp_close;      /* restore: established connections come back closed */
    bool skip_in_flight; /* dump: connections that nobody has accepted are lost, and no error */
    /* Restore: the images are not there yet; HELD follows, and is answered when they are. */
    bool hold;
    const enum fm_session_event_type *events; /* only these are reported, and RESULT; NULL: all */
    size_t event_count;
    bool runtime_hooks; /* restore: the runtime runs hooks, which CRIU has to wait for */
    const struct fm_session_mount *mounts;
    size_t mount_count;
};

struct fm_session;

/* Listens at <dir>/criu.sock. */
struct fm_session *fm_session_listen(const char *dir, struct fm_error *err);
void fm_session_close(
    struct fm_session *s); /* a CRIU that still waits takes it as a refusal; NULL is fine */

/* Waits for the next event. `ended_fd` (or -1) is readable when the runtime has ended without
 * (further) events: FM_E_CLOSED. timeout_ms 0 waits for ever. FM_E_CLOSED as well when the
 * interposer went away. */
int fm_session_next(struct fm_session *s, int ended_fd, uint64_t timeout_ms,
                    struct fm_session_event *event, struct fm_error *err);
/* Answers the event that fm_session_next returned last. `request` only with REQUEST, else NULL. */
int fm_session_answer(struct fm_session *s, bool go, const struct fm_session_request *request,
                      struct fm_error *err);

#endif
