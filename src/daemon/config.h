/* The daemon's configuration: fleximigrate.yaml and the files of conf.d beside it. */
#ifndef FM_DAEMON_CONFIG_H
#define FM_DAEMON_CONFIG_H

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"

#define FM_CONFIG_PATH "/etc/fleximigrate/fleximigrate.yaml"

/* Every key is explained in etc/fleximigrate.yaml. Strings are never NULL. */
struct fm_config {
    char *host;      /* this host's name; default: what gethostname(2) says */
    char *advertise; /* underlay address that other hosts reach; "": a host on its own */
    char *state_dir;
    char *run_dir;
    struct {
        char *api_address;
        uint32_t api_port; /* 0: no TCP listener */
        char *wire_address;
        uint32_t wire_port;
    } listen;
    struct {
        char *ca, *cert, *key;
    } pki;
    struct {
        enum fm_log_level level;
        enum fm_log_format format;
        char *file; /* "": stderr */
    } log;
    struct {
        uint32_t max_concurrent;
        uint64_t memory_reserve; /* bytes */
    } limits;
    struct {
        char *runc, *runc_root, *cgroup_parent, *criu, *interposer_dir, *shim, *pager;
    } container;
    struct {
        char *bridge, *vxlan, *subnet, *gateway, *followers;
        uint32_t relay_minutes;
        uint32_t vni, port, mtu;
        struct fm_strv peers;
    } network;
    struct {
        uid_t *uids;
        size_t uid_count;
    } api;
};

/* Reads `path` (NULL: FM_CONFIG_PATH, which may be missing) and then the .yaml files of conf.d
 * beside it in lexical order; later files win key by key, a list replaces the list. Errors are
 * FM_E_INVALID and start with FILE:LINE:COLUMN. */
int fm_config_load(const char *path, struct fm_config *config, struct fm_error *err);
void fm_config_free(struct fm_config *config);

#endif
