#include "state/tree_stream.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

/* A line of /proc/PID/maps, see proc(5): addresses, permissions, offset, device, inode, path. */
static const char *shared_writable_path(char *line)
{
    char perms[5] = "";
    int path_at = 0;

    if (sscanf(line, "%*s %4s %*s %*s %*s %n", perms, &path_at) != 1 || path_at == 0)
        return NULL;
    if (perms[1] != 'w' || perms[3] != 's')
        return NULL;
    line[strcspn(line, "\n")] = '\0';
    char *path = line + path_at;
    if (fm_ends_with(path, " (deleted)")) /* is in no tree */
        return NULL;
    return path[0] == '/' && path[1] != '\0' ? path + 1 : NULL;
}

int fm_tree_mapped_files(pid_t pid, struct fm_strv *paths, struct fm_error *err)
{
    char name[32];
    fm_autofree char *line = NULL;
    size_t capacity = 0;

    snprintf(name, sizeof(name), "/proc/%d/maps", (int)pid);
    fm_autofclose FILE *f = fopen(name, "re");
    if (!f)
        return fm_error_errno(err, errno, "cannot read %s", name);
    while (getline(&line, &capacity, f) >= 0) {
        const char *path = shared_writable_path(line);
        if (path)
            fm_strv_add(paths, path);
    }
    if (ferror(f))
        return fm_error_errno(err, errno, "cannot read %s", name);
    return 0;
}
