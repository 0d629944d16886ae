#include "state/process_status.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"

/* The text behind "\nNAME:\t"; NULL: no such line. */
static const char *value_of(const char *text, const char *name)
{
    const char *line = strstr(text, name);

    return line ? line + strlen(name) : NULL;
}

/* "NSpid:\t1234\t1": from the reader's namespace to the innermost. */
static pid_t last_number(const char *list)
{
    pid_t last = 0;
    char *end;

    for (;; list = end) {
        long number = strtol(list, &end, 10);

        if (end == list)
            return last;
        last = (pid_t)number;
        if (*end != '\t')
            return last;
    }
}

static int read_text(pid_t pid, const char *file, char *text, size_t size, struct fm_error *err)
{
    char path[32];
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
    fm_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -errno : fm_read_full(fd, text, size - 1);
    if (n == -ENOENT || n == -ESRCH)
        return fm_error_set(err, FM_E_NOT_FOUND, "process %d has ended", (int)pid);
    if (n < 0)
        return fm_error_errno(err, (int)-n, "cannot read '%s'", path);
    text[n] = '\0';
    return 0;
}

int fm_process_status_read(pid_t pid, struct fm_process_status *status, struct fm_error *err)
{
    char text[8192];
    const char *value;
    int rc = read_text(pid, "status", text, sizeof(text), err);

    if (rc < 0)
        return rc;
    *status = (struct fm_process_status){.inner_pid = pid};
    if ((value = value_of(text, "\nNSpid:")))
        status->inner_pid = last_number(value);
    status->has_memory = value_of(text, "\nVmSize:") != NULL;
    if ((value = value_of(text, "\nTgid:")))
        status->is_thread = strtol(value, NULL, 10) != pid;
    if ((value = value_of(text, "\nThreads:")))
        status->threads = (unsigned)strtoul(value, NULL, 10);
    if ((value = value_of(text, "\nVmLck:")))
        status->locked_bytes = strtoull(value, NULL, 10) * 1024;
    return 0;
}

int fm_process_status_start(pid_t pid, uint64_t *start_time, struct fm_error *err)
{
    char text[1024];
    const char *rest;
    int rc = read_text(pid, "stat", text, sizeof(text), err);

    if (rc < 0)
        return rc;
    /* Field 22; the name in field 2 may hold anything. */
    rest = strrchr(text, ')');
    for (int field = 2; rest && field < 22; field++)
        rest = strchr(rest + 1, ' ');
    *start_time = rest ? strtoull(rest, NULL, 10) : 0;
    return *start_time ? 0 : fm_error_set(err, FM_E_IO, "'/proc/%d/stat' makes no sense", (int)pid);
}
