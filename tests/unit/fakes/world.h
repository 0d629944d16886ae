/* World: two hosts in memory, for tests of what stands between them.
 *
 * The migration core runs unchanged on fakes of everything that it touches: runtime, network, CRIU,
 * files, link; journal and registry are real (SQLite in memory). Every call of a fake passes a
 * numbered gate. A test lets the call of one number fail, or a daemon die there: a dead daemon's
 * calls have no effect any more and fail, so that its code runs out and gives its memory back. What
 * is broken at any instant (two copies that run, a copy older than what clients have seen) is
 * remembered in `violation`. All in one thread. */
#ifndef FM_TESTS_WORLD_H
#define FM_TESTS_WORLD_H

#include "migration/coordinator.h"
#include "migration/incoming.h"
#include "migration/peer.h"

#define WORLD_LAYER "sha256:abababababababababababababababababababababababababababababababab"
#define WORLD_COPIES 4
#define WORLD_ADDRESS "10.88.0.4" /* of the first container */
#define WORLD_JOBS 8
#define WORLD_ASKERS 8
#define WORLD_NOTICES 2
#define WORLD_NETS 8
#define WORLD_ENTRIES 64
#define WORLD_CALLS_MAX 4000

enum injection {
    INJECT_NOTHING,
    FAIL_BEFORE,  /* the call fails and has no effect */
    FAIL_AFTER,   /* … although it had its effect */
    CRASH_BEFORE, /* the caller's daemon dies */
    CRASH_AFTER,
    CRASH_OTHER, /* the other host's daemon dies */
    CRASH_BOTH,
    CANCEL, /* somebody cancels the migration */
    INJECTIONS
};
const char *injection_text(enum injection injection);

/* A container as one host's runtime knows it. */
struct copy {
    char name[64];
    bool exists;          /* in the runtime's list */
    bool alive;           /* has tasks, and these are … */
    bool seized;          /* … stopped by a dump */
    bool frozen;          /* … in a frozen cgroup */
    bool held;            /* … restored, and before their first instruction */
    bool doomed;          /* a commit was decided here: it must not run again */
    bool ran;             /* at the last look */
    unsigned int version; /* of its memory */
};

struct hold;
struct port {
    char name[64]; /* of the container */
    bool staged, active;
    char ip[64], network[32];
    struct hold *hold;
};

/* A dump or a restore: processes that outlive their daemon for a while. */
struct job {
    char name[64], dir[256];
    bool used, is_dump;
};

struct images {
    char dir[256]; /* of the migration */
    bool complete;
    unsigned int version;
};

/* Where memory arrives on its own. It outlives its daemon. */
struct store {
    char id[16]; /* of the migration; "" none */
    unsigned int version;
    unsigned int served_by; /* incarnation of the source's daemon */
    bool missing;           /* it is still on the source */
    bool settled, pager;
};

/* A network of the kernel's beside the default one. */
struct net {
    char name[32]; /* "" none */
    struct fm_network_spec spec;
};

/* A static entry: where frames for a MAC go. */
struct entry {
    char network[32], mac[18], host[64]; /* mac "": none */
};

struct host {
    const char *name, *address;
    char state_dir[128], migrations_dir[160];
    struct fm_components parts;
    struct fm_store store; /* the real one behind the gate */
    struct fm_incoming_table *incoming;
    struct fm_peer_service peers;
    bool up;
    bool restartable;         /* died, and somebody starts it again when the others wait */
    unsigned int incarnation; /* of its daemon */
    unsigned int depth;       /* of its code on the stack */
    struct copy copies[WORLD_COPIES];
    struct port ports[WORLD_COPIES];
    struct job jobs[WORLD_JOBS];
    struct images images[WORLD_JOBS];
    struct store stores[WORLD_JOBS];
    struct fm_incoming *askers[WORLD_ASKERS];
    bool has_layer, bundle_mounted;
    struct net nets[WORLD_NETS];
    struct entry entries[WORLD_ENTRIES];
    struct fm_publication published[WORLD_ENTRIES];
    size_t published_count;
    char own_address[64]; /* of host_address, the newest */
    bool away;            /* the other host does not hear it, and it hears nobody */
};

/* What somebody outside says of where "redis" is. */
struct notice {
    const char *name;
    char at[64]; /* a host's name */
    char ip[64]; /* its address, without prefix */
    bool prepared;
    bool deaf_to_end, deaf_to_all; /* its server does not answer `finish` and `undo`, or nothing */
    unsigned int told;             /* of an end */
};

struct world {
    struct host hosts[2];
    struct notice notices[WORLD_NOTICES];
    unsigned int calls, inject_at;
    const char *inject_what; /* instead of a number: the first call of this name */
    enum injection injection;
    const char *broken_on_b;   /* this call fails on host b as long as it is set */
    const char *strategy;      /* of all migrations; NULL: cold, and nothing else works */
    uint64_t memory_available; /* on every host; 0: plenty */
    /* What world_migrate asks for besides; NULL: that it stays as it is. */
    const char *new_address, *new_network;
    bool linger; /* what a dead daemon had started waits to be ended, instead of ending by itself */
    /* What the container does at the health check. */
    bool unhealthy, dies;
    bool stale_allowed;                          /* an old checkpoint is all there is */
    unsigned int latest[WORLD_COPIES];           /* version that clients have seen, by container */
    char hit[128];                               /* the call of number inject_at */
    char violation[256];                         /* what was broken first; "" nothing */
    struct fm_migration *running;                /* on the source, for CANCEL */
    struct fm_migration *migrations[WORLD_JOBS]; /* all that are under way */
    void (*at_call)(const char *what);           /* a test's own look */
    uint64_t skipped_ms;                         /* of waiting that did not take place */
    uint64_t down_until_ms;                      /* of it: before that no daemon is started again */
    unsigned int idle;
};
extern struct world world;
#define HOST_A (&world.hosts[0])
#define HOST_B (&world.hosts[1])
struct host *other_host(const struct host *h);

/* Both daemons up; `name` runs on host a with layer, WORLD_ADDRESS, and a health check. */
void world_open(const char *name);
void world_close(void);
/* How containers travel from here on; NULL: cold. */
void world_set_strategy(const char *strategy);
/* One more container on a host, as world_open makes them. */
void world_add_container(struct host *h, const char *name);

/* --- daemons --- */
/* Runs fn on a host: its fakes know whose calls they see. */
struct on_host {
    struct host *host, *before;
    unsigned int incarnation, incarnation_before;
};
struct on_host world_enter_host(struct host *h);
void world_leave_host(struct on_host *entered);
struct host *world_host(void); /* whose code runs */
void world_crash(struct host *h);
/* Starts a dead daemon again, with recovery as in manager.c; returns when that has ended. */
void world_start(struct host *h);
/* An orderly end, then a start. */
void world_restart(struct host *h);
/* Starts what is dead and lets everybody who waits have their way. */
void world_settle(void);
bool world_idle(uint64_t ms); /* somebody waits */
void world_ask(struct fm_incoming *in);

/* A migration from `from` to the other host, to its end. Its id goes to `id` (16 bytes). */
int world_migrate(struct host *from, const char *name, char *id, struct fm_error *err);

/* --- gates --- */
struct passage {
    const char *what;
    struct host *host;
    bool fail_after, crash_after;
};
/* False: the call is to fail with world_fail and to have no effect. */
bool world_enter(struct passage *p, const char *what);
/* What the call returns. */
int world_leave(struct passage *p, int rc, struct fm_error *err);
int world_fail(const struct passage *p, struct fm_error *err);
/* True when the code on the stack belongs to a daemon that is dead. */
bool world_is_dead(void);
/* Looks whether everything is as it must be at every instant. */
void world_check(void);
void world_broken(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* --- the parts --- */
extern const struct fm_runtime_ops fake_runtime_ops;
extern const struct fm_network_ops fake_network_ops;
extern const struct fm_follower fake_followers[WORLD_NOTICES];
extern const struct fm_state_ops fake_state_ops;
extern const struct fm_memory_ops fake_memory_ops;
/* The pages that come need so many bytes, as the page store would say it. */
int fake_sink_needs(struct fm_memory_sink *s, uint64_t bytes, struct fm_error *err);
extern const struct fm_store_ops fake_store_ops;
extern const struct fm_link_ops fake_link_ops;
json_t *fake_facts(void *ctx, struct fm_error *err);

struct copy *copy_of(struct host *h, const char *name); /* makes an entry */
bool copy_runs(const struct copy *c);
struct net *net_of(struct host *h, const char *name);                       /* NULL: none */
const char *entry_of(struct host *h, const char *network, const char *mac); /* "" none */
struct port *port_of(struct host *h, const char *name);
/* Images below a directory; NULL when there are none. `make`: an entry. */
struct images *images_at(struct host *h, const char *dir, bool make);
void images_forget(struct host *h, const char *dir);
/* Of a migration; NULL when there is none. */
struct store *store_of(struct host *h, const char *id);
void job_add(struct host *h, bool is_dump, const char *name, const char *dir);
void job_forget(struct host *h, const char *name, bool is_dump);
/* Ends jobs below a directory (NULL: all) as CRIU does when nobody answers it. */
void jobs_end(struct host *h, const char *dir);

/* --- looks at the end --- */
/* Both hosts exchange what they know of networks, until there is nothing to tell. */
void world_exchange(void);
/* The live lease of a container as a host knows it, new reference; NULL. */
json_t *world_lease(struct host *h, const char *name);
/* NULL when exactly one copy runs, on `where` (NULL: either), with its port, and the other host has
 * nothing of it, and both journals are final; else what is wrong. `id`: of the migration. */
const char *world_wrong(const char *name, const char *id, const struct host *where);
struct host *world_where(const char *name); /* that runs it; NULL */
/* "PENDING>PLANNING>…" of a migration, FAILED and ROLLBACK included. The caller frees it. */
char *world_path(struct host *h, const char *id);
/* Its document; NULL when the host knows nothing of it. */
json_t *world_document(struct host *h, const char *id);
const char *world_field(json_t *doc, const char *key);

#endif
