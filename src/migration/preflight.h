/* Preflight: would this container live on that host? Facts are collected on both sides, then
 * compared; nothing is touched. */
#ifndef FM_MIGRATION_PREFLIGHT_H
#define FM_MIGRATION_PREFLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"
#include "container/container.h"
#include "container/runtime.h"

/* What a host is:
 * {"arch","kernel","cpu":{"flags":[],"xsave_bytes","model"},"criu":{"version","check":"ok"|"<message>"},
 * "runtime":{"name","version"},"lsm":[],"cgroup":"v1"|"v2"|"hybrid","memory_bytes","memory_available","disk_free","time_ns":bool,…}.
 * `criu check` and versions take tens of ms: cached in the process after the first call. `criu` is
 * the real program. */
json_t *fm_facts_host(const char *criu, const char *runtime_program, const char *state_dir,
                      struct fm_error *err);

/* Memory that is available on this host now, as in the facts but quick; bytes, 0: cannot be told.
 */
uint64_t fm_facts_memory_available(void);

/* What a running container needs: {"memory_bytes" (resident), "disk_bytes" (writable layer +
 * volumes), "layer_bytes" (those that the destination has not; set once it has said so),
 * "lsm_profile","mounts":[{"source","target","type"}],
 * "devices":[],"obstacles":[{"check","message","cure"}],…}. Obstacles are things that CRIU cannot
 * dump, found by looking at /proc of each process: io_uring descriptors, nested pid namespaces,
 * files outside the mount namespace (stdio to a host's file or terminal), perf events, bpf,
 * userfaultfd, device mappings, AF_NETLINK/AF_PACKET/XDP/SCTP sockets, ptrace'd by somebody, host
 * network / host pid namespace, non-external tty, deleted cwd …; network namespace of the runtime's
 * own with more than loopback. */
json_t *fm_facts_container(const struct fm_container *container, const pid_t *pids, size_t count,
                           struct fm_error *err);

/* Compares. `destination_state` is what the destination says of itself in this matter:
 * {"container_exists":bool,"address_in_use":bool,"cordoned":bool,
 * "missing_sources":["/srv/data"],"missing_devices":[],"missing_layers":["sha256:…"]}. Returns
 * {"ok":bool,"findings":[{"check","ok":bool,"severity":"error"|"warning","message","cure"}]}; every
 * check that was made appears, also the passed ones. `ok` is false when an error finding is. */
json_t *fm_preflight_compare(const struct fm_container *container, const json_t *needs,
                             const json_t *source, const json_t *destination,
                             const json_t *destination_state);
/* The first failed finding as an error: FM_E_REFUSED "message; cure". 0 when ok. */
int fm_preflight_verdict(const json_t *result, struct fm_error *err);

/* On the destination: makes `destination_state` for a container (mount sources and devices looked
 * up here). */
json_t *fm_preflight_destination_state(const struct fm_container *container, const json_t *needs,
                                       bool container_exists, bool address_in_use, bool cordoned);

#endif
