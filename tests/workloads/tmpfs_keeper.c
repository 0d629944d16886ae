/* Keeps one of everything in a directory on a tmpfs, and looks at all of it again and again. Each
 * round is one line: "ok DIR N", or what is wrong. Options for what a file system cannot do, or
 * CRIU not for it:
 *   --no-dev    device nodes
 *   --no-watch  inotify watches (overlayfs)
 *   --no-size   the size stays the same (not a tmpfs)
 *   --no-pipe   what is in a FIFO (CRIU tells FIFOs apart by their inode numbers alone, so only one
 * has content)
 *   --no-ns     times of files are kept only to the second (a mount that is left to CRIU and its
 * tar) */
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#define MAP_PAGES 16
#define PAGE 4096
#define OFFSET 777
#define PAUSE_US 20000

static struct {
    uint64_t *map, round;
    int unlinked, fifo, watch, listener, locked;
    struct statfs fs;
    bool devices, watches, size, pipe, ns;
} keep;

static int make(const char *name, int flags)
{
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | flags, 0644);
    if (fd < 0)
        wl_die("%s: %s", name, strerror(errno));
    return fd;
}

static void need(bool good, const char *what)
{
    if (!good)
        wl_die("%s: %s", what, strerror(errno));
}

static struct sockaddr_un socket_name(void)
{
    return (struct sockaddr_un){.sun_family = AF_UNIX, .sun_path = "socket"};
}

static void start_files(void)
{
    int fd = make("map", 0);
    need(ftruncate(fd, MAP_PAGES * PAGE) == 0, "ftruncate");
    keep.map = mmap(NULL, MAP_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    need(keep.map != MAP_FAILED, "mmap");
    close(fd);
    fd = make("silent", 0);
    need(ftruncate(fd, PAGE) == 0, "ftruncate");
    close(fd);
    keep.unlinked = make("unlinked", 0);
    need(write(keep.unlinked, "not forgotten", 13) == 13 && unlink("unlinked") == 0, "unlinked");
    lseek(keep.unlinked, OFFSET, SEEK_SET);
    keep.locked = make("locked", 0);
    need(flock(keep.locked, LOCK_EX | LOCK_NB) == 0, "flock");
    need(link("locked", "locked.too") == 0, "link");
    fd = make("dated", 0);
    struct timespec times[2] = {{1234, 5678}, {123456789, 987654321}};
    need(fchown(fd, 12, 34) == 0 && fchmod(fd, 02640) == 0 && futimens(fd, times) == 0, "dated");
    close(fd);
    need(mkdir("deep", 0701) == 0 && mkdir("deep/deeper", 01777) == 0, "mkdir");
}

static void start_others(void)
{
    struct sockaddr_un name = socket_name();
    need(symlink("/no/such/file", "link") == 0, "symlink");
    need(mkfifo("fifo", 0600) == 0, "mkfifo");
    keep.fifo = open("fifo", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    need(keep.fifo >= 0, "fifo");
    need(!keep.pipe || write(keep.fifo, "in the pipe", 11) == 11, "fifo");
    need(!keep.devices || mknod("zero", S_IFCHR | 0600, makedev(1, 5)) == 0, "mknod");
    keep.watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    need(!keep.watches || inotify_add_watch(keep.watch, "deep/deeper", IN_CREATE) >= 0, "inotify");
    keep.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(bind(keep.listener, (struct sockaddr *)&name, sizeof(name)) == 0 &&
             listen(keep.listener, 5) == 0,
         "socket");
    need(statfs(".", &keep.fs) == 0, "statfs");
}

/* ---- each round: what the last one wrote is there, then something new is written ---- */

static const char *check_maps(void)
{
    uint64_t value[2] = {0};
    for (size_t i = 0; i < MAP_PAGES; i++)
        if (keep.map[i * PAGE / sizeof(*keep.map)] != keep.round + i)
            return "the mapped file differs";
    int fd = open("map", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || pread(fd, value, 8, 3 * PAGE) != 8 || value[0] != keep.round + 3)
        return "file and mapping differ";
    close(fd);
    for (size_t i = 0; i < MAP_PAGES; i++)
        keep.map[i * PAGE / sizeof(*keep.map)]++;

    /* Stores of which neither times nor open files tell afterwards. */
    fd = open("silent", O_RDWR | O_CLOEXEC);
    if (fd < 0 || pread(fd, value, 8, 0) != 8 || value[0] != keep.round)
        return "the file that was mapped for a moment differs";
    uint64_t *silent = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (silent == MAP_FAILED)
        return "mmap";
    ++*silent;
    munmap(silent, PAGE);
    return NULL;
}

static const char *check_files(void)
{
    char text[32] = "", name[32];
    struct stat st, other;
    if (pread(keep.unlinked, text, sizeof(text), 0) != 13 || strcmp(text, "not forgotten") != 0 ||
        lseek(keep.unlinked, 0, SEEK_CUR) != OFFSET || fstat(keep.unlinked, &st) || st.st_nlink)
        return "the unlinked file differs";
    int fd = open("locked.too", O_RDWR | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
        return "the lock is lost";
    close(fd);
    if (stat("locked", &st) || stat("locked.too", &other) || st.st_ino != other.st_ino)
        return "the hard link is lost";
    if (stat("dated", &st) || st.st_mtim.tv_sec != 123456789 ||
        (keep.ns && st.st_mtim.tv_nsec != 987654321) || st.st_uid != 12 || st.st_gid != 34 ||
        st.st_mode != (S_IFREG | 02640))
        return "times, owner or mode differ";
    if (stat("deep", &st) || (st.st_mode & 07777) != 0701)
        return "a directory's mode differs";
    snprintf(name, sizeof(name), "n.%lu", (unsigned long)keep.round);
    if (keep.round > 0 && unlink(name) < 0)
        return "a new file is lost";
    snprintf(name, sizeof(name), "n.%lu", (unsigned long)keep.round - 1);
    if (keep.round > 1 && access(name, F_OK) == 0)
        return "a removed file is back";
    snprintf(name, sizeof(name), "n.%lu", (unsigned long)keep.round + 1);
    close(make(name, O_EXCL));
    return NULL;
}

static bool watch_tells(void)
{
    char events[512];
    close(make("deep/deeper/new", 0));
    return unlink("deep/deeper/new") == 0 && read(keep.watch, events, sizeof(events)) > 0;
}

static const char *check_others(void)
{
    char text[512] = "";
    struct sockaddr_un name = socket_name();
    struct statfs fs;
    struct stat st;
    if (readlink("link", text, sizeof(text)) != 13 || strncmp(text, "/no/such/file", 13) != 0)
        return "the symbolic link differs";
    if (stat("fifo", &st) || !S_ISFIFO(st.st_mode) ||
        (keep.pipe && (read(keep.fifo, text, 64) != 11 || strncmp(text, "in the pipe", 11) != 0 ||
                       write(keep.fifo, "in the pipe", 11) != 11)))
        return "the fifo differs";
    if (keep.devices && (stat("zero", &st) || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 5)))
        return "the device differs";
    if (keep.watches && !watch_tells() && !watch_tells()) /* CRIU drops events that were not read */
        return "the watch is lost";
    int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(client, (struct sockaddr *)&name, sizeof(name)) < 0)
        return "the socket does not answer";
    int server = accept4(keep.listener, NULL, NULL, SOCK_CLOEXEC);
    close(server);
    close(client);
    if (!keep.size)
        return NULL;
    if (statfs(".", &fs) < 0 || fs.f_type != keep.fs.f_type || fs.f_blocks != keep.fs.f_blocks ||
        fs.f_files != keep.fs.f_files)
        return "the file system has another size";
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        wl_die("usage: tmpfs_keeper DIR [OPTION…]");
    keep.devices = keep.watches = keep.size = keep.pipe = keep.ns = true;
    for (int i = 2; i < argc; i++) {
        keep.devices = keep.devices && strcmp(argv[i], "--no-dev") != 0;
        keep.watches = keep.watches && strcmp(argv[i], "--no-watch") != 0;
        keep.size = keep.size && strcmp(argv[i], "--no-size") != 0;
        keep.pipe = keep.pipe && strcmp(argv[i], "--no-pipe") != 0;
        keep.ns = keep.ns && strcmp(argv[i], "--no-ns") != 0;
    }
    umask(0);
    need((mkdir(argv[1], 0755) == 0 || errno == EEXIST) && chdir(argv[1]) == 0, argv[1]);
    start_files();
    start_others();
    for (size_t i = 0; i < MAP_PAGES; i++)
        keep.map[i * PAGE / sizeof(*keep.map)] = i;
    for (;; keep.round++) {
        const char *wrong = check_maps();
        if (!wrong)
            wrong = check_files();
        if (!wrong)
            wrong = check_others();
        if (wrong)
            printf("FAIL %s in round %lu of %s: %s\n", wrong, (unsigned long)keep.round, argv[1],
                   strerror(errno));
        else
            printf("ok %s %lu\n", argv[1], (unsigned long)keep.round);
        fflush(stdout);
        if (wrong)
            return 1;
        usleep(PAUSE_US);
    }
}
