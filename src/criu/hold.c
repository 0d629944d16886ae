/* Preloaded into a CRIU that restores: it starts while the container still runs on its old host, and
 * waits here, with its start-up behind it, until the images are there.
 *
 * The first image that a restore opens is the inventory. FLEXIMIGRATE_HOLD_FD is a socket to the
 * interposer: a byte out says that CRIU waits, a byte in lets it go on, and an end (nobody will let it
 * go on) ends it. */
#undef _FILE_OFFSET_BITS /* which would make one of open and open64 */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "criu/preload.h"

typedef int (*openat_fn)(int, const char *, int, ...);

static int hold_fd = -1;

int openat(int dir, const char *path, int flags, ...);
int openat64(int dir, const char *path, int flags, ...);

/* What CRIU executes is not held. */
__attribute__((constructor)) static void adopt(void)
{
    const char *number = getenv(FM_HOLD_ENVIRONMENT);
    if (number)
        hold_fd = atoi(number);
    if (hold_fd >= 0)
        fcntl(hold_fd, F_SETFD, FD_CLOEXEC);
    unsetenv(FM_HOLD_ENVIRONMENT);
    unsetenv("LD_PRELOAD");
}

static void wait_for_images(void)
{
    int fd = hold_fd;
    char byte = 'h';
    hold_fd = -1;
    ssize_t n = write(fd, &byte, 1);
    while (n == 1 && (n = read(fd, &byte, 1)) < 0 && errno == EINTR)
        n = 1;
    if (n != 1)
        _exit(1);
    close(fd);
}

static int open_any(int dir, const char *path, int flags, mode_t mode)
{
    openat_fn next = (openat_fn)dlsym(RTLD_NEXT, "openat64");
    if (hold_fd >= 0 && strcmp(path, "inventory.img") == 0)
        wait_for_images();
    return next(dir, path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_any(dir, path, flags, mode);
}

int openat64(int dir, const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_any(dir, path, flags, mode);
}
