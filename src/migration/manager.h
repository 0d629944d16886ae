/* Migration Manager: all that the API of one host offers. Owns the components and the migrations'
 * threads. */
#ifndef FM_MIGRATION_MANAGER_H
#define FM_MIGRATION_MANAGER_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"

/* From the configuration file; strings stay the caller's and live as long as the manager. */
struct fm_manager_config {
    const char *host; /* this host's name = common name of its certificate */
    const char *state_dir, *run_dir;
    const char *pki_ca, *pki_cert, *pki_key;
    const char *wire_address; /* listen address, "" or "0.0.0.0": all */
    int wire_port;            /* 7441 */
    int api_port;             /* 7440, told to other hosts */
    const char *advertise;    /* underlay address that other hosts reach */
    int max_concurrent;       /* migrations at a time, out and in each; 3 */
    uint64_t memory_reserve;  /* bytes never given to incoming containers */
    /* container */
    const char *runc, *runc_root, *interposer_dir, *shim, *pager, *cgroup_parent, *criu;
    /* network */
    const char *bridge, *vxlan, *subnet, *gateway;
    uint32_t vni;
    uint16_t vxlan_port;
    int mtu;
    const char *const *fabric_peers;     /* underlay addresses of fabric members without a daemon;
                                            NULL-terminated or NULL */
    uint64_t relay_limit_us;             /* 0: no relays (relay.h) */
    const struct fm_follower *followers; /* borrowed until the manager is closed */
    size_t follower_count;
};

struct fm_manager;

/* Opens stores, fabric, runtime, listener; then recovers: finishes or undoes every migration that
 * the journal knows. */
struct fm_manager *fm_manager_open(const struct fm_manager_config *config, struct fm_error *err);
/* Stops taking requests; running migrations before their commit are rolled back, others are left to
 * recovery at the next start. */
void fm_manager_close(struct fm_manager *m);

/* Documents below are new references. On NULL/negative, err->code tells 404 (NOT_FOUND), 409
 * (EXISTS, REFUSED), 400 (INVALID, USAGE), …  */

/* --- migrations --- */
/* Body as options.h. Returns the migration's document (it runs in the background; queued by
 * priority when the limit is reached). */
json_t *fm_manager_migrate(struct fm_manager *m, const json_t *request, struct fm_error *err);
/* Preflight alone:
 * {"ok":bool,"findings":[{"check","ok","severity":"error"|"warning","message","cure"}]}. */
json_t *fm_manager_check(struct fm_manager *m, const char *container, const char *destination,
                         struct fm_error *err);
/* Migration document:
 * {"id","container","source","destination","strategy","priority","state","final":bool,"result":"running|completed|failed",
 *  "failed_in","reason":{"code","message"},"needs_attention":bool,"created","updated",
 *  "options":{…},"transitions":[{"from","to","at","final","component","message","duration_ms"}],"steps":[…],"stats":{…}}.
 */
json_t *fm_manager_migration_list(
    struct fm_manager *m,
    struct fm_error *err); /* array, newest first, without transitions/steps */
json_t *fm_manager_migration_show(struct fm_manager *m, const char *id, struct fm_error *err);
int fm_manager_migration_cancel(struct fm_manager *m, const char *id, struct fm_error *err);

/* --- containers --- */
/* Body:
 * {"name","image","command":[],"env":[],"cwd","user","network","ip","ip6","mac","publish":["8080:80/tcp"],"memory_bytes","volumes":["SRC:DST[:ro][:shared]"],"health":"…"|{…},
 *  "depends":["URL,TIME"],"labels":{}}. `image` is a path on this host (directory, OCI layout, tar)
 * or the name of an imported image. Returns the container's document:
 * {"name","runtime","found":bool,"state","pid","image","network","ip","ip6","mac","publish":[],"command":[],"labels":{},"created","host","migration"?}.
 */
json_t *fm_manager_container_run(struct fm_manager *m, const json_t *request, struct fm_error *err);
json_t *fm_manager_container_list(struct fm_manager *m, struct fm_error *err);
json_t *fm_manager_container_show(struct fm_manager *m, const char *name, struct fm_error *err);
/* Path of the log file; the caller frees it. */
char *fm_manager_container_log(struct fm_manager *m, const char *name, struct fm_error *err);
/* Body {"command":[]}; answers {"exit_code","stdout","stderr"} (each at most 1 MiB). */
json_t *fm_manager_container_exec(struct fm_manager *m, const char *name, const json_t *request,
                                  struct fm_error *err);
/* SIGTERM, after timeout_ms SIGKILL; the record stays. */
int fm_manager_container_stop(struct fm_manager *m, const char *name, uint64_t timeout_ms,
                              struct fm_error *err);
/* Removes a stopped one (running: only with force). */
int fm_manager_container_remove(struct fm_manager *m, const char *name, bool force,
                                struct fm_error *err);

/* --- hosts --- */
/* {"name","address","api_port","wire_port","cordoned":bool,"self":bool,"status":"online|offline|unknown","last_seen"}.
 */
json_t *fm_manager_host_list(struct fm_manager *m, struct fm_error *err);
json_t *fm_manager_host_show(
    struct fm_manager *m, const char *name,
    struct fm_error *
        err); /* asks it: adds
                 "kernel","criu","runtime","cpus","memory_bytes","memory_available","arch","features":{…}
               */
/* Body {"name","address","wire_port"?,"api_port"?}; connects once to see that it is who it says
 * (warning field when it does not answer). */
json_t *fm_manager_host_add(struct fm_manager *m, const json_t *request, struct fm_error *err);
int fm_manager_host_remove(struct fm_manager *m, const char *name, struct fm_error *err);
int fm_manager_host_cordon(struct fm_manager *m, const char *name, bool cordoned,
                           struct fm_error *err);

/* --- networks --- */
/* {"name","mode","subnet","gateway","subnet6","gateway6","vni","mtu","parent","containers":n};
 * texts are "" and numbers 0 when there is none. */
json_t *fm_manager_network_list(struct fm_manager *m, struct fm_error *err);
/* With
 * "leases":[{"network","ip","ip6","mac","owner","host","publish":[],"updated_us","updated_by"}].
 */
json_t *fm_manager_network_show(struct fm_manager *m, const char *name, struct fm_error *err);
/* Body: the fields of the list, name and subnet at least. "warnings" is what did not work on other
 * hosts. */
json_t *fm_manager_network_create(struct fm_manager *m, const json_t *request,
                                  struct fm_error *err);
int fm_manager_network_remove(struct fm_manager *m, const char *name, struct fm_error *err);
/* {"ok":bool,"differences":["…"],"checked":["registry","kernel"]} */
json_t *fm_manager_network_verify(struct fm_manager *m, struct fm_error *err);
/* {"ok":bool,"applied":n,"problems":["…"]} */
json_t *fm_manager_network_repair(struct fm_manager *m, struct fm_error *err);

/* --- events --- */
/* Calls fn (from the migrations' threads, must be quick) for each event until unsubscribed:
 * {"type":"transition"|"progress"|"container","at",…}; transition:
 * {"migration","container","source","destination","from","to","final","component","message"};
 * progress:
 * {"migration","phase","percent","bytes","round","remaining","dirty_rate","throughput","expected_downtime_ms"}.
 * `event` is borrowed.
 */
typedef void (*fm_event_fn)(const json_t *event, void *ctx);
int fm_manager_subscribe(struct fm_manager *m, fm_event_fn fn,
                         void *ctx); /* returns a handle ≥ 0 */
void fm_manager_unsubscribe(
    struct fm_manager *m, int handle); /* after it returns fn is not running and not called again */

/* True when recovery has finished and requests are taken (readyz). */
bool fm_manager_ready(struct fm_manager *m);
/* Counts for systemd's STATUS= line. */
int fm_manager_running(struct fm_manager *m);

#endif
