#include "container/mounts.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "base/cleanup.h"
#include "base/text.h"

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static void unescape(char *s)
{
    char *out = s;

    while (*s) {
        unsigned code;

        if (*s == '\\' && sscanf(s + 1, "%3o", &code) == 1) {
            *out++ = (char)code;
            s += 4;
        } else {
            *out++ = *s++;
        }
    }
    *out = '\0';
}

static void list_mounts(FILE *mounts, const char *dir, struct fm_strv *found)
{
    fm_autofree char *prefix = fm_strf("%s/", dir);
    fm_autofree char *line = NULL;
    size_t size = 0;

    while (getline(&line, &size, mounts) > 0) {
        char point[PATH_MAX];

        if (sscanf(line, "%*s %*s %*s %*s %4095s", point) != 1)
            continue;
        unescape(point);
        if (fm_starts_with(point, prefix))
            fm_strv_add(found, point);
    }
}

int fm_unmount_below(const char *dir, struct fm_error *err)
{
    fm_autofree char *real = realpath(dir, NULL);
    fm_cleanup(fm_strv_free) struct fm_strv found = {0};

    if (!real)
        return 0;
    fm_autofclose FILE *mounts = fopen("/proc/self/mountinfo", "re");
    if (!mounts)
        return fm_error_errno(err, errno, "cannot read /proc/self/mountinfo");
    list_mounts(mounts, real, &found);
    for (size_t i = found.count; i-- > 0;) {
        if (umount2(found.items[i], UMOUNT_NOFOLLOW | MNT_DETACH) < 0 && errno != EINVAL &&
            errno != ENOENT)
            return fm_error_errno(err, errno, "cannot unmount '%s'", found.items[i]);
    }
    return 0;
}
