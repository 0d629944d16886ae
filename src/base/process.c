#include "base/subprocess.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"

/* Fields 3 (state) and 22 (start time) of /proc/PID/stat; the name in field 2 may hold anything. */
static uint64_t read_stat(pid_t pid, char *state)
{
    char path[64];
    fm_autofree char *line = NULL;
    uint64_t start_time = 0;
    const char *rest;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    line = fm_file_line(path);
    rest = line ? strrchr(line, ')') : NULL;
    if (!rest || sscanf(rest,
                        ") %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
                        "%*s %" SCNu64,
                        state, &start_time) != 2)
        return 0;
    return start_time;
}

uint64_t fm_process_start_time(pid_t pid)
{
    char state;

    return read_stat(pid, &state);
}

bool fm_process_is(pid_t pid, uint64_t start_time)
{
    char state = 'X';

    return pid > 0 && start_time > 0 && read_stat(pid, &state) == start_time && state != 'Z' &&
           state != 'X';
}

pid_t fm_process_of_pidfd(int pidfd)
{
    fm_autofree char *path = fm_strf("/proc/self/fdinfo/%d", pidfd);
    fm_autofclose FILE *f = fopen(path, "re");
    char line[128];
    int pid = 0;

    while (f && pid == 0 && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "Pid: %d", &pid) != 1)
            pid = 0;
    }
    return pid > 0 ? pid : 0;
}
