/* A container as FlexiMigrate knows it: the record that the registry keeps and that travels in
 * PREPARE. */
#ifndef FM_CONTAINER_CONTAINER_H
#define FM_CONTAINER_CONTAINER_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"
#include "base/text.h"

#define FM_LABEL_IMMOVABLE "fleximigrate.immovable" /* "true": PLANNING refuses */

struct fm_health {
    char *kind;           /* "http", "tcp", "command"; NULL: no check */
    char *target;         /* "http://:8080/healthz", ":6379", or a command line for /bin/sh -c */
    int attempts;         /* default 3 */
    uint64_t interval_ms; /* default 1000 */
    uint64_t timeout_ms;  /* default 2000 */
};

struct fm_volume {
    char *source; /* directory on the host */
    char *target; /* path in the container */
    bool read_only;
    bool shared; /* on shared storage: not copied */
};

/* A port of every host that leads to one of the container's. */
struct fm_publish {
    uint16_t host_port, port;
    char protocol[4]; /* "tcp", "udp" */
};

struct fm_container {
    char *name;             /* also the runtime's id */
    char *runtime;          /* "runc" */
    bool found;             /* not started by a daemon: found in the runtime's list */
    char *image;            /* name in the image store; NULL for a found container without one */
    struct fm_strv layers;  /* digests, lowest first */
    struct fm_strv command; /* argv */
    struct fm_strv env;     /* NAME=value */
    char *cwd;
    char *user;            /* "uid:gid"; NULL: 0:0 */
    uint64_t memory_bytes; /* limit; 0: none */
    char *network;         /* that its addresses are in; NULL is "default" */
    char *ip;              /* "10.88.0.5/24"; NULL: no network of ours */
    char *ip6;             /* beside it; NULL: none */
    char *mac;
    char *gateway;
    char *gateway6;
    struct fm_strv publish; /* "8080:80/tcp" */
    struct fm_volume *volumes;
    size_t volume_count;
    struct fm_health health;
    struct fm_strv depends; /* "tcp://10.88.0.9:5432,500ms": what it must reach after a move */
    json_t *labels;         /* object of strings */
    json_t *config;         /* the OCI config.json, as it runs; host paths are rewritten per host */
    uint64_t created_us;    /* realtime */
};

void fm_container_free(struct fm_container *c); /* NULL is fine */
static inline void fm_container_freep(struct fm_container **c)
{
    fm_container_free(*c);
}
#define fm_autocontainer __attribute__((cleanup(fm_container_freep)))

/* JSON form: the field names above; health and volumes as objects. `from_json` treats its input as
 * hostile: names, addresses, counts and lengths are checked. */
json_t *fm_container_to_json(const struct fm_container *c);
struct fm_container *fm_container_from_json(const json_t *doc, struct fm_error *err);

/* Parses `--health` ("http://:8080/path", "tcp://:6379", "cmd:redis-cli ping"). */
int fm_health_parse(const char *text, struct fm_health *health, struct fm_error *err);
/* Parses `--volume SRC:DST[:ro][:shared]`. */
int fm_volume_parse(const char *text, struct fm_volume *volume, struct fm_error *err);
/* Parses `--publish HOSTPORT:PORT[/tcp|/udp]`. */
int fm_publish_parse(const char *text, struct fm_publish *publish, struct fm_error *err);
/* "8080:80/tcp"; the caller frees it. */
char *fm_publish_format(const struct fm_publish *publish);
/* Every one in its full form, none twice, 64 at most. FM_E_USAGE. */
int fm_publish_check(struct fm_strv *list, struct fm_error *err);

/* The record of a container that only the runtime knows (made from its bundle, config.json and
 * mounts). Says what cannot be taken over. */
struct fm_container *fm_container_discover(const char *id, const char *bundle, pid_t init_pid,
                                           struct fm_error *err);

#endif
