#include "container/mounts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "container/mountinfo.h"

int fm_unmount_below(const char *dir, struct fm_error *err)
{
    fm_autofree char *real = realpath(dir, NULL);
    fm_cleanup(fm_mountinfo_clear) struct fm_mountinfo info = {0};

    if (!real)
        return 0;
    fm_autofree char *prefix = fm_strf("%s/", real);
    int rc = fm_mountinfo_read(0, &info, err);
    for (size_t i = info.count; rc == 0 && i-- > 0;) {
        const char *target = info.items[i].target;
        if (fm_starts_with(target, prefix) && umount2(target, UMOUNT_NOFOLLOW | MNT_DETACH) < 0 &&
            errno != EINVAL && errno != ENOENT)
            return fm_error_errno(err, errno, "cannot unmount '%s'", target);
    }
    return rc;
}
