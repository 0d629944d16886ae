/* Preloaded into a CRIU that restores. Two things shorten the time in which the container stands
 * still, and one makes sure that nobody's death shows it pages of zeroes.
 *
 * Holding. CRIU starts while the container still runs on its old host, and waits with its start-up
 * behind it until the images are there. The first image that it opens is the inventory.
 * FLEXIMIGRATE_HOLD_FD is a socket to the interposer: a byte out says that CRIU waits, a byte in
 * lets it go on, and an end (nobody will let it go on) ends it.
 *
 * Tidying up later. CRIU builds the container's mounts in a yard below /tmp/.criu.mntns.XXXXXX in a
 * mount namespace of its own, and takes both down when the tasks are complete but do not run yet:
 * three grace periods of the kernel, 3 to 10 ms. The namespace goes with CRIU itself a moment
 * later, and the empty directory then.
 *
 * Keeping. Each task of a restore with lazy pages sends its userfaultfd to the pager. The
 * container's init makes a deposit for all of them (base/deposit.h) and sends that along. */
#undef _FILE_OFFSET_BITS /* which would make one of openat and openat64 */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "criu/preload.h"
#include "base/deposit.h"

#define YARD "/tmp/.criu.mntns."
#define LAZY_SOCKET "lazy-pages.socket" /* as CRIU names it */

typedef int (*openat_fn)(int, const char *, int, ...);
typedef int (*setns_fn)(int, int);
typedef int (*umount2_fn)(const char *, int);
typedef int (*rmdir_fn)(const char *);
typedef int (*close_fn)(int);
typedef ssize_t (*sendmsg_fn)(int, const struct msghdr *, int);

static int hold_fd = -1;
/* Of the process that was let go; the tasks that it forks do everything themselves. */
static pid_t main_pid;
static int entered_fd = -1; /* mount namespace that it has entered last */
static int yard_fd = -1;    /* the one with the yard */
static char yard[PATH_MAX];

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

static bool is_main(void)
{
    return main_pid != 0 && getpid() == main_pid;
}

/* ---- Holding ---- */

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
    main_pid = getpid();
}

static int open_any(int dir, const char *path, int flags, mode_t mode)
{
    openat_fn next = (openat_fn)dlsym(RTLD_NEXT, "openat64");
    if (hold_fd >= 0 && strcmp(path, "inventory.img") == 0)
        wait_for_images();
    return next(dir, path, flags, mode);
}

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name) */
int openat(int dir, const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_any(dir, path, flags, mode);
}

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name) */
int openat64(int dir, const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_any(dir, path, flags, mode);
}

/* ---- Tidying up later ---- */

int setns(int fd, int type)
{
    setns_fn next = (setns_fn)dlsym(RTLD_NEXT, "setns");
    int rc = next(fd, type);
    if (rc == 0 && type == CLONE_NEWNS)
        entered_fd = fd;
    return rc;
}

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name) */
int umount2(const char *path, int flags)
{
    umount2_fn next = (umount2_fn)dlsym(RTLD_NEXT, "umount2");
    if (flags != MNT_DETACH || strncmp(path, YARD, strlen(YARD)) != 0 || !is_main() ||
        strlen(path) >= sizeof(yard) || entered_fd < 0)
        return next(path, flags);
    memcpy(yard, path, strlen(path) + 1);
    yard_fd = entered_fd;
    return 0;
}

int rmdir(const char *path)
{
    rmdir_fn next = (rmdir_fn)dlsym(RTLD_NEXT, "rmdir");
    return *yard && strcmp(path, yard) == 0 && is_main() ? 0 : next(path);
}

int close(int fd)
{
    static close_fn next;
    if (fd >= 0 && fd == yard_fd && is_main()) {
        yard_fd = -1;
        return 0;
    }
    if (!next)
        next = (close_fn)dlsym(RTLD_NEXT, "close");
    return next(fd);
}

/* ---- Keeping ---- */

static bool leads_to_pager(int socket)
{
    struct sockaddr_un address = {0};
    socklen_t len = sizeof(address);
    const char *slash;

    if (getpeername(socket, (struct sockaddr *)&address, &len) < 0 || address.sun_family != AF_UNIX)
        return false;
    address.sun_path[sizeof(address.sun_path) - 1] = '\0';
    slash = strrchr(address.sun_path, '/');
    return slash && strcmp(slash + 1, LAZY_SOCKET) == 0;
}

static bool has_one_descriptor(const struct msghdr *message)
{
    const struct cmsghdr *c = CMSG_FIRSTHDR(message);

    return c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
           c->cmsg_len == CMSG_LEN(sizeof(int));
}

/* The message with a second descriptor. */
static ssize_t send_with(sendmsg_fn next, int socket, const struct msghdr *message, int flags,
                         int deposit)
{
    union {
        char space[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr align;
    } control = {.align = {.cmsg_len = CMSG_LEN(2 * sizeof(int)),
                           .cmsg_level = SOL_SOCKET,
                           .cmsg_type = SCM_RIGHTS}};
    struct msghdr longer = *message;
    int fds[2] = {-1, deposit};

    memcpy(&fds[0], CMSG_DATA(CMSG_FIRSTHDR(message)), sizeof(int));
    memcpy(CMSG_DATA(&control.align), fds, sizeof(fds));
    longer.msg_control = control.space;
    longer.msg_controllen = sizeof(control.space);
    return next(socket, &longer, flags);
}

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name) */
ssize_t sendmsg(int socket, const struct msghdr *message, int flags)
{
    sendmsg_fn next = (sendmsg_fn)dlsym(RTLD_NEXT, "sendmsg");
    int deposit = -1;
    ssize_t n = -1;

    if (getpid() == 1 && has_one_descriptor(message) && leads_to_pager(socket))
        deposit = fm_deposit_make();
    if (deposit >= 0)
        n = send_with(next, socket, message, flags, deposit);
    if (n >= 0)
        return n; /* it stays open */
    if (deposit >= 0)
        close(deposit);
    return next(socket, message, flags); /* fewer deaths are survived then */
}

/* Back in its own mount namespace, where nothing is mounted there. */
__attribute__((destructor)) static void tidy_up(void)
{
    rmdir_fn next = (rmdir_fn)dlsym(RTLD_NEXT, "rmdir");
    if (*yard && is_main())
        next(yard);
}
