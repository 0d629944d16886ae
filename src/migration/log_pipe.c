#include "migration/log_pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"

#define SETTLE_MS 200

/* Opens the pipe behind a descriptor of a process for reading without taking anything; -1 when it
 * is none. */
static int open_pipe(pid_t pid, int number)
{
    fm_autofree char *path = fm_strf("/proc/%d/fd/%d", (int)pid, number);
    struct stat st;
    if (stat(path, &st) < 0 || !S_ISFIFO(st.st_mode))
        return -1;
    return open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
}

static bool is_empty(int fd)
{
    int waiting = 0;
    return fd < 0 || ioctl(fd, FIONREAD, &waiting) < 0 || waiting == 0;
}

/* State letter and parent of a process from /proc/PID/stat; the command in parentheses may hold
 * anything. */
static bool read_stat(pid_t pid, char *state, pid_t *parent)
{
    fm_autofree char *path = fm_strf("/proc/%d/stat", (int)pid);
    fm_autofree char *line = fm_file_line(path);
    char *end = line ? strrchr(line, ')') : NULL;
    int ppid = 0;
    if (!end || sscanf(end + 1, " %c %d", state, &ppid) != 2)
        return false;
    *parent = ppid;
    return true;
}

/* True when the reader has taken everything and waits for more: what it took is then written. */
static bool settled(int out, int errors, pid_t shim)
{
    char state;
    pid_t parent;
    return is_empty(out) && is_empty(errors) && (!read_stat(shim, &state, &parent) || state == 'S');
}

void fm_log_pipe_settle(pid_t init_pid)
{
    char state;
    pid_t shim;
    if (init_pid <= 0 || !read_stat(init_pid, &state, &shim) || shim <= 1)
        return;
    fm_autoclose int out = open_pipe(init_pid, 1);
    fm_autoclose int errors = open_pipe(init_pid, 2);
    uint64_t deadline = fm_now_ms() + SETTLE_MS;
    while (!settled(out, errors, shim) && fm_now_ms() < deadline)
        poll(NULL, 0, 1);
}
