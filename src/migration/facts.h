/* Inside of preflight: how facts are collected from /proc. Nothing here changes a process. */
#ifndef FM_MIGRATION_FACTS_H
#define FM_MIGRATION_FACTS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include <jansson.h>

#include "container/container.h"

/* The look at one container. The objects are used as sets of strings. */
struct fm_survey {
    const struct fm_container *container;
    const pid_t *pids;
    size_t count;
    pid_t root;           /* the container's init */
    json_t *obstacles;    /* array, see fm_survey_obstacle */
    json_t *mount_ids;    /* of every mount that the container sees */
    json_t *namespaces;   /* "net:[4026531840]", of all its processes */
    json_t *unix_sockets; /* inode numbers */
    json_t *netlink_sockets;
};

/* Severity of an obstacle. */
#define FM_STOPS "error"
#define FM_MAY_STOP "warning"

/* One thing in the way: {"check","severity","message","cure"}. The same message is recorded once.
 */
void fm_survey_obstacle(struct fm_survey *survey, const char *check, const char *severity,
                        const char *cure, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* facts_process.c: namespaces, tracers, directories and memory mappings of each process. */
void fm_survey_processes(struct fm_survey *survey);
/* facts_descriptors.c: what one process has open. */
void fm_survey_descriptors(struct fm_survey *survey, pid_t pid, const char *who);
/* facts_sockets.c: sockets that are tied to something outside. After the descriptors. */
void fm_survey_sockets(struct fm_survey *survey);

/* ---- helpers on /proc ---- */

/* The target of a symbolic link below /proc/PID; NULL when it cannot be read. The caller frees it.
 */
char *fm_proc_link(pid_t pid, const char *entry);
/* The text after "Name:" in a file such as /proc/PID/status or fdinfo; NULL when missing. The
 * caller frees it. */
char *fm_proc_field(pid_t pid, const char *file, const char *name);
/* The same as a number, `missing` when there is none. Understands "123 kB" (123) and leading zeros
 * as decimal. */
long long fm_proc_number(pid_t pid, const char *file, const char *name, long long missing);
/* "process 4711 (redis-server)"; the caller frees it. */
char *fm_proc_who(pid_t pid);
/* True when both processes exist and share the namespace; pid 0 is this process. */
bool fm_proc_same_namespace(pid_t a, pid_t b, const char *kind);
bool fm_survey_has_pid(const struct fm_survey *survey, pid_t pid);

#endif
