/* Mount tables as the kernel shows them: /proc/PID/mountinfo, see proc_pid_mountinfo(5). */
#ifndef FM_CONTAINER_MOUNTINFO_H
#define FM_CONTAINER_MOUNTINFO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct fm_mountinfo_entry {
    uint64_t id;
    char *device;  /* "0:52" */
    char *root;    /* of the mount in its file system, "/" for all of it */
    char *target;  /* mount point, as the process sees it */
    char *type;    /* "tmpfs" */
    char *source;  /* "/dev/sda1", or any word */
    char *options; /* of the file system, not of the mount */
};

struct fm_mountinfo {
    struct fm_mountinfo_entry *items;
    size_t count;
};

/* Of a process, 0: of this one. In the order of the file. */
int fm_mountinfo_read(pid_t pid, struct fm_mountinfo *info, struct fm_error *err);
void fm_mountinfo_clear(struct fm_mountinfo *info); /* frees; fine on a zeroed one */

/* Space, tab, newline and backslash are written as \ooo there; in place. */
void fm_mountinfo_unescape(char *text);

#endif
