/* Link: the source's conversation with the destination of one migration. */
#ifndef FM_MIGRATION_LINK_H
#define FM_MIGRATION_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"
#include "state/tree_stream.h"
#include "wire/connection.h"

/* Another host as the registry knows it. */
struct fm_host {
    char name[64];
    char address[64]; /* underlay */
    int wire_port, api_port;
    bool cordoned;
};
int fm_host_from_json(const json_t *doc, struct fm_host *host, struct fm_error *err);
json_t *fm_host_to_json(const struct fm_host *host);

struct fm_link; /* one connection */

struct fm_link_ops {
    /* FM_E_UNREACHABLE, FM_E_AUTH, FM_E_TIMEOUT. `rate`: bytes per second, 0: no limit. */
    struct fm_link *(*open)(void *ctx, const struct fm_host *host, uint64_t rate,
                            uint64_t timeout_ms, struct fm_error *err);
    void (*close)(struct fm_link *link); /* NULL is fine */
    /* Wakes a blocked call; from any thread. */
    void (*shutdown)(struct fm_link *link);
    uint64_t (*bytes)(const struct fm_link *link); /* both directions */

    /* Sends one control frame and waits for its answer (a new reference). A refusal or failure of
     * the other side becomes `err` with its code. */
    json_t *(*call)(struct fm_link *link, int frame_type, const json_t *body, uint64_t timeout_ms,
                    struct fm_error *err);
    /* The same in two halves, for what can be done here while the other side works. */
    int (*ask)(struct fm_link *link, int frame_type, const json_t *body, struct fm_error *err);
    json_t *(*answer)(struct fm_link *link, int frame_type, uint64_t timeout_ms,
                      struct fm_error *err);
    /* Sends a file tree, or what changed in it, under a name ("layer:<digest>", "upper",
     * "volume:N"). */
    int (*send_tree)(struct fm_link *link, const char *migration, const char *name, const char *dir,
                     const struct fm_tree_selection *selection, uint64_t *bytes,
                     struct fm_error *err);
    /* Sends a file from `offset` to its end under a name ("log"); *size gets the end. */
    int (*send_file)(struct fm_link *link, const char *migration, const char *name,
                     const char *path, uint64_t offset, uint64_t *size, struct fm_error *err);
    /* Image files: begin sends what is there while the dump goes on, finish sends the rest and
     * returns the manifest, abort stops. */
    int (*images_begin)(struct fm_link *link, const char *dir, struct fm_error *err);
    json_t *(*images_finish)(struct fm_link *link, uint64_t *bytes, uint64_t *early,
                             struct fm_error *err);
    void (*images_abort)(struct fm_link *link);
};

struct fm_links {
    const struct fm_link_ops *ops;
    void *ctx;
};

/* The real one, over wire/. `identity` is a struct fm_tls_identity and must outlive it; `self` is
 * this host's name. */
struct fm_link_wire {
    const void *identity;
    const char *self;
};
/* A connection to another host's daemon that has exchanged greetings. */
struct fm_connection *fm_link_wire_connect(const struct fm_link_wire *wire,
                                           const struct fm_host *host, uint64_t timeout_ms,
                                           struct fm_error *err);
void fm_links_wire_open(struct fm_link_wire *wire, struct fm_links *links);

#endif
