#include "criu/selftest.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "criu/preload.h"

#define HIDDEN_BYTES (8u << 20) /* far more than the child has else */

static int fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    return 1;
}

/* Has the memory that was mapped before, and waits for its end. */
static pid_t start_child(void)
{
    pid_t parent = getpid(), pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; null >= 0 && fd < 3; fd++)
        dup2(null, fd);
    close_range(3, ~0u, 0);
    setsid();
    while (getppid() == parent)
        pause();
    _exit(0);
}

static int hide(const char *dir, pid_t pid, const void *memory)
{
    uint64_t start = (uint64_t)(uintptr_t)memory;
    uint64_t range[] = {htole64(start), htole64(start + HIDDEN_BYTES)};
    fm_autofree char *path = fm_strf("%s/%d.hide", dir, (int)pid);
    struct fm_error err = {0};
    return fm_file_write(path, range, sizeof(range), 0600, &err) < 0 ? fail(err.text) : 0;
}

static int dump(const char *criu, const char *dir, pid_t pid)
{
    fm_autofree char *number = fm_strf("%d", (int)pid);
    int status = 0;
    if (!fm_preload(&(struct fm_preload){.dump = true, .filter_dir = dir, .hold_fd = -1}))
        return fail("the page filter is not beside the interposer");
    pid_t child = fork();
    if (child == 0) {
        execl(criu, "criu", "dump", "-t", number, "-D", dir, "-o", "dump.log", "-v1",
              "--leave-running", (char *)NULL);
        _exit(127);
    }
    if (child < 0 || waitpid(child, &status, 0) < 0 || !WIFEXITED(status) ||
        WEXITSTATUS(status) == 127)
        return fail("CRIU cannot be run");
    return WEXITSTATUS(status) == 0 ? 0 : fail("CRIU cannot dump a child with a page filter");
}

/* CRIU numbers the page files from 1; a child has one. */
static int check(const char *dir)
{
    struct stat st;
    fm_autofree char *path = fm_strf("%s/pages-1.img", dir);
    if (stat(path, &st) < 0)
        return fail("CRIU's dump has no pages-1.img");
    return st.st_size < (off_t)HIDDEN_BYTES
               ? 0
               : fail("CRIU does not ask for pages in a way that the page filter knows");
}

int fm_selftest(const char *criu, const char *dir)
{
    void *memory =
        mmap(NULL, HIDDEN_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return fail("out of memory");
    memset(memory, 1, HIDDEN_BYTES);
    pid_t pid = start_child();
    if (pid < 0)
        return fail("cannot fork");
    int rc = hide(dir, pid, memory);
    if (rc == 0)
        rc = dump(criu, dir, pid);
    if (rc == 0)
        rc = check(dir);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return rc;
}
