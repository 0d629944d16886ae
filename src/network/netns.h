/* Network namespaces that outlive processes: bind mounts, and code that runs inside one. */
#ifndef FM_NETWORK_NETNS_H
#define FM_NETWORK_NETNS_H

#include <stdbool.h>
#include <sys/stat.h>

#include "base/error.h"

/* Makes a namespace (loopback up) and pins it at `path`; one that is there already is taken over.
 */
int fm_netns_create(const char *path, struct fm_error *err);
/* Unpins it; it lives on while processes are in it. Missing is fine. */
int fm_netns_remove(const char *path, struct fm_error *err);
/* True when `path` pins a network namespace. */
bool fm_netns_exists(const char *path);
/* Identity of the namespace at `path` (also "/proc/PID/ns/net"); two are the same when device and
 * inode are. */
int fm_netns_identity(const char *path, struct stat *identity, struct fm_error *err);

/* Runs `run` in the namespace, on a thread of its own: what it opens stays in there, the caller
 * never leaves its own. Returns what `run` returns. */
typedef int (*fm_netns_fn)(void *ctx, struct fm_error *err);
int fm_netns_run(const char *path, fm_netns_fn run, void *ctx, struct fm_error *err);

#endif
