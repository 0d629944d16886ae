#include "state/tree_xattr.h"

#include <stdio.h>

#include "base/cleanup.h"
#include "base/text.h"

bool fm_tree_xattr_travels(const char *name)
{
    static const char *const of_this_host[] = {
        "trusted.overlay.origin",
        "trusted.overlay.upper",
        "trusted.overlay.nlink",
        "trusted.overlay.uuid",
    };

    for (size_t i = 0; i < FM_COUNT(of_this_host); i++) {
        if (fm_streq(name, of_this_host[i]))
            return false;
    }
    return fm_starts_with(name, "user.") || fm_starts_with(name, "trusted.overlay.") ||
           fm_streq(name, "security.capability") || fm_streq(name, "system.posix_acl_access") ||
           fm_streq(name, "system.posix_acl_default");
}

struct fm_fd_path fm_fd_path(int fd)
{
    struct fm_fd_path path;

    snprintf(path.text, sizeof(path.text), "/proc/self/fd/%d", fd);
    return path;
}
