#include "state/direct_io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "state/thread_stop.h"

bool fm_direct_io_is_asynchronous(const struct fm_memory_map *map)
{
    static const char name[] = "/[aio]";

    for (size_t i = 0; i < map->count; i++) {
        if (memmem(map->items[i].line, map->items[i].line_len, name, sizeof(name) - 1))
            return true;
    }
    return false;
}

/* "flags:\t0140002", in octal. In doubt, yes. */
static bool is_direct(pid_t pid, const char *number)
{
    char path[64];
    fm_autofree char *text = NULL;
    struct fm_error err = {0};
    const char *flags;

    snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.16s", (int)pid, number);
    if (fm_file_read(path, 1u << 20, &text, NULL, &err) < 0)
        return err.code != FM_E_NOT_FOUND;
    flags = strstr(text, "flags:");
    return !flags || (strtoul(flags + strlen("flags:"), NULL, 8) & O_DIRECT);
}

static bool has_direct_files(pid_t pid)
{
    char path[32];

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    fm_autoclosedir DIR *dir = opendir(path);
    if (!dir)
        return errno != ENOENT;
    for (struct dirent *e; (e = readdir(dir));) {
        struct stat st;

        if (e->d_name[0] != '.' && fstatat(dirfd(dir), e->d_name, &st, 0) == 0 &&
            (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) && is_direct(pid, e->d_name))
            return true;
    }
    return false;
}

static int do_nothing(void *ctx, struct fm_error *err)
{
    (void)ctx;
    (void)err;
    return 0;
}

/* A thread does not stop within a direct read: when all have stopped, all reads have ended. */
int fm_direct_io_settle(pid_t pid, struct fm_error *err)
{
    return has_direct_files(pid) ? fm_process_while_stopped(pid, do_nothing, NULL, err) : 0;
}
