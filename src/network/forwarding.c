#include "network/forwarding.h"

#include <dirent.h>
#include <errno.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"

#define CONF6 "/proc/sys/net/ipv6/conf"

/* Per-interface settings only: "all" counts for nothing here. */
static int keep_router_advertisements(struct fm_error *err)
{
    fm_autoclosedir DIR *dir = opendir(CONF6);
    if (!dir)
        return fm_error_errno(err, errno, "cannot open %s", CONF6);
    const struct dirent *entry;
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.' || fm_streq(entry->d_name, "all"))
            continue;
        fm_autofree char *path = fm_strf(CONF6 "/%s/accept_ra", entry->d_name);
        fm_autofree char *now = fm_file_line(path);
        if (!fm_streq(now, "1"))
            continue;
        int rc = fm_file_poke(path, "2", err);
        if (rc < 0 && fm_file_exists(path)) /* interfaces come and go */
            return rc;
    }
    return 0;
}

int fm_forwarding_enable(int family, struct fm_error *err)
{
    const char *path =
        family == AF_INET6 ? CONF6 "/all/forwarding" : "/proc/sys/net/ipv4/ip_forward";
    fm_autofree char *now = fm_file_line(path);
    if (now && !fm_streq(now, "0"))
        return 0;
    int rc = family == AF_INET6 ? keep_router_advertisements(err) : 0;
    if (rc == 0)
        rc = fm_file_poke(path, "1", err);
    if (rc < 0)
        return fm_error_prefix(err, "cannot turn on forwarding, which published ports need");
    fm_info(FM_NETWORK_MANAGER, "Forwarding of %s was turned on for published ports (%s).",
            family == AF_INET6 ? "IPv6" : "IPv4", path);
    return 0;
}
